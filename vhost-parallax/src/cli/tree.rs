//! `parallax tree`: the forest of VDIs and snapshots, clones below the snapshot they hang on.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use super::{Session, time};
use crate::control::api::error::Result;
use crate::control::api::size::human;
use crate::control::api::{SnapshotInfo, Tree, TreeNode};

/// Draw the VDIs, their snapshots, and which clone hangs on which snapshot
#[derive(Args)]
#[command(after_help = "Example:\n  parallax tree --ascii")]
pub struct Forest {
    /// Draw with ASCII characters, also where the locale is UTF-8
    #[arg(long)]
    ascii: bool,
}

impl Forest {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let tree: Tree = session.daemon()?.get("/tree")?;
        let pen = if session.unicode() && !self.ascii { &BOX } else { &ASCII };
        session.show(&tree, || draw(&tree, pen))
    }
}

struct Pen {
    branch: &'static str,
    last: &'static str,
    pass: &'static str,
}

const BOX: Pen = Pen { branch: "├─ ", last: "└─ ", pass: "│  " };
const ASCII: Pen = Pen { branch: "|- ", last: "`- ", pass: "|  " };

/// What a line stands for.
enum Item<'a> {
    Vdi(&'a TreeNode),
    Snapshot(&'a TreeNode, &'a SnapshotInfo),
}

/// The clones of each (VDI id, epoch), by name.
type Clones<'a> = BTreeMap<(&'a str, u64), Vec<&'a TreeNode>>;

fn draw(tree: &Tree, pen: &Pen) -> String {
    if tree.nodes.is_empty() {
        return "no VDIs; 'parallax create NAME SIZE' makes one\n".to_owned();
    }
    let ids: BTreeSet<&str> = tree.nodes.iter().map(|n| n.id.as_str()).collect();
    let mut clones = Clones::new();
    let mut roots = Vec::new();
    for node in &tree.nodes {
        match &node.origin {
            Some(o) if ids.contains(o.id.as_str()) => {
                clones.entry((o.id.as_str(), o.epoch)).or_default().push(node);
            }
            _ => roots.push(node),
        }
    }
    let mut out = String::new();
    for root in roots {
        draw_root(root, &clones, pen, &mut out);
    }
    out
}

/// Depth first with a stack of its own: a thousand generations of clones are legal.
fn draw_root<'a>(root: &'a TreeNode, clones: &Clones<'a>, pen: &Pen, out: &mut String) {
    let mut stack = vec![(String::new(), "", Item::Vdi(root))];
    while let Some((prefix, connector, item)) = stack.pop() {
        out.push_str(&prefix);
        out.push_str(connector);
        out.push_str(&line(&item, connector.is_empty()));
        out.push('\n');
        let below = match connector {
            "" => prefix,
            c if c == pen.last => prefix + "   ",
            _ => prefix + pen.pass,
        };
        let children = children(&item, clones);
        let last = children.len().saturating_sub(1);
        for (i, child) in children.into_iter().enumerate().rev() {
            stack.push((below.clone(), if i == last { pen.last } else { pen.branch }, child));
        }
    }
}

fn children<'a>(item: &Item<'a>, clones: &Clones<'a>) -> Vec<Item<'a>> {
    let of = |id: &'a str, epoch| clones.get(&(id, epoch)).into_iter().flatten().map(|c| Item::Vdi(c));
    match item {
        Item::Snapshot(vdi, snapshot) => of(&vdi.id, snapshot.epoch).collect(),
        Item::Vdi(vdi) => {
            // Clones of snapshots that are gone hang on the VDI itself.
            let kept: BTreeSet<u64> = vdi.snapshots.iter().map(|s| s.epoch).collect();
            let all = clones.range((vdi.id.as_str(), 0)..=(vdi.id.as_str(), u64::MAX));
            let orphans = all.filter(|((_, epoch), _)| !kept.contains(epoch)).flat_map(|(_, c)| c.iter());
            let snapshots = vdi.snapshots.iter().map(|s| Item::Snapshot(vdi, s));
            orphans.map(|c| Item::Vdi(c)).chain(snapshots).collect()
        }
    }
}

fn line(item: &Item<'_>, is_root: bool) -> String {
    match item {
        Item::Vdi(vdi) => {
            let mut text = format!("{}  {}", vdi.name, human(vdi.size_bytes));
            if vdi.attached {
                text.push_str("  attached");
            }
            if let Some(origin) = vdi.origin.as_ref().filter(|_| is_root) {
                let name = origin.vdi.as_deref().unwrap_or("a deleted VDI");
                text.push_str(&format!("  (clone of {name}, snapshot {})", origin.epoch));
            }
            text
        }
        Item::Snapshot(_, snapshot) => {
            let mut text = format!("@{}", snapshot.epoch);
            if let Some(label) = &snapshot.label {
                text.push_str(&format!(" {label}"));
            }
            text.push_str(&format!("  {}", time::utc(snapshot.time_unix_ms)));
            if snapshot.pending {
                text.push_str("  pending");
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::Origin;

    fn node(name: &str, origin: Option<(&str, u64)>, epochs: &[u64]) -> TreeNode {
        let snapshot = |&epoch| SnapshotInfo {
            epoch,
            label: (epoch == 2).then(|| "golden".to_owned()),
            time_unix_ms: epoch * 60_000,
            size_bytes: 1 << 30,
            pending: epoch == 9,
        };
        TreeNode {
            name: name.into(),
            id: format!("id-{name}"),
            size_bytes: 1 << 30,
            attached: name == "web",
            origin: origin.map(|(vdi, epoch)| {
                let known = vdi != "gone";
                Origin { id: format!("id-{vdi}"), vdi: known.then(|| vdi.to_owned()), epoch }
            }),
            snapshots: epochs.iter().map(snapshot).collect(),
        }
    }

    #[test]
    fn clones_hang_on_their_snapshots_and_orphans_on_what_is_left() {
        let nodes = vec![
            node("a", Some(("web", 2)), &[5, 9]),
            node("b", Some(("a", 5)), &[]),
            node("c", Some(("web", 2)), &[]),
            node("lost", Some(("gone", 7)), &[]),
            node("orphan", Some(("web", 1)), &[]),
            node("web", None, &[2, 3]),
        ];
        let tree = Tree { nodes };
        assert_eq!(
            draw(&tree, &BOX),
            "\
lost  1 GiB  (clone of a deleted VDI, snapshot 7)
web  1 GiB  attached
├─ orphan  1 GiB
├─ @2 golden  1970-01-01 00:02:00
│  ├─ a  1 GiB
│  │  ├─ @5  1970-01-01 00:05:00
│  │  │  └─ b  1 GiB
│  │  └─ @9  1970-01-01 00:09:00  pending
│  └─ c  1 GiB
└─ @3  1970-01-01 00:03:00
"
        );
        assert!(draw(&tree, &ASCII).is_ascii());
        assert_eq!(draw(&tree, &ASCII).lines().count(), draw(&tree, &BOX).lines().count());
    }

    #[test]
    fn a_long_line_of_clones_is_drawn_without_recursion() {
        let mut nodes = vec![node("v0", None, &[1])];
        for i in 1..2000 {
            let parent = format!("v{}", i - 1);
            nodes.push(node(&format!("v{i}"), Some((&parent, 1)), &[1]));
        }
        assert_eq!(draw(&Tree { nodes }, &ASCII).lines().count(), 4000);
    }
}
