//! Groups by name or number, out of the text of `/etc/group`.

/// The number and name of the group `text` (a name or a number) among `groups`. A number that has no
/// name is its own name.
#[must_use]
pub fn find(groups: &str, text: &str) -> Option<(u32, String)> {
    let mut rows = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((fields.nth(1)?.parse::<u32>().ok()?, name))
    });
    match text.parse::<u32>() {
        Ok(gid) => {
            let name = rows.find(|(g, _)| *g == gid).map_or_else(|| gid.to_string(), |(_, n)| n.to_owned());
            Some((gid, name))
        }
        Err(_) => rows.find(|(_, name)| *name == text).map(|(gid, name)| (gid, name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name_and_number() {
        let text = "root:x:0:\nbroken\nkvm:x:104:qemu,web\n";
        assert_eq!(find(text, "kvm"), Some((104, "kvm".into())));
        assert_eq!(find(text, "104"), Some((104, "kvm".into())));
        assert_eq!(find(text, "4711"), Some((4711, "4711".into())));
        assert_eq!(find(text, "parallax"), None);
        assert_eq!(find(text, ""), None);
    }
}
