//! Groups by name or number, from `/etc/group`.

use crate::control::api::error::{Code, ErrorBody, Result};

/// The number and name of the group `text`: a name in `/etc/group`, or a number.
///
/// # Errors
/// `not_found` where the name is not there.
pub fn lookup(text: &str) -> Result<(u32, String)> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    find(&groups, text).ok_or_else(|| {
        ErrorBody::new(
            Code::NotFound,
            format!("there is no group '{}' in /etc/group", text.escape_debug()),
            "make it with 'groupadd', or give the number of a group kept elsewhere",
        )
    })
}

fn find(groups: &str, text: &str) -> Option<(u32, String)> {
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
