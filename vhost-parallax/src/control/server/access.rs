//! Who may use the control socket: root, the daemon's own user, and the members of the control group.
//!
//! The file's mode keeps others from connecting; this check catches what a mode cannot (an inherited
//! descriptor, a socket someone made wider).

use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::group;

/// The number and name of the group `text`: a name in `/etc/group`, or a number.
///
/// # Errors
/// `not_found` where the name is not there.
pub fn lookup_group(text: &str) -> Result<(u32, String)> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    group::find(&groups, text).ok_or_else(|| {
        ErrorBody::new(
            Code::NotFound,
            format!("there is no group '{}' in /etc/group", text.escape_debug()),
            "make it with 'groupadd', or give the number of a group kept elsewhere",
        )
    })
}

/// Users and the group that may ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    uids: Vec<u32>,
    group: Option<(u32, String)>,
}

impl Access {
    /// Root, the user of this process, and members of `group` (number and name), if given.
    #[must_use]
    pub fn of_process(group: Option<(u32, String)>) -> Access {
        Access::new(&[0, rustix::process::geteuid().as_raw()], group)
    }
    /// Exactly these users and the members of `group`.
    #[must_use]
    pub fn new(uids: &[u32], group: Option<(u32, String)>) -> Access {
        Access { uids: uids.to_vec(), group }
    }
    /// The group of the socket, where there is one.
    #[must_use]
    pub fn gid(&self) -> Option<u32> {
        self.group.as_ref().map(|(gid, _)| *gid)
    }
    /// The file mode that goes with it.
    #[must_use]
    pub fn socket_mode(&self) -> u32 {
        if self.group.is_some() { 0o660 } else { 0o600 }
    }
    /// Why this peer may not; `None` when it may.
    #[must_use]
    pub fn refuses(&self, uid: u32, gid: u32, pid: Option<i32>) -> Option<ErrorBody> {
        if self.uids.contains(&uid) {
            return None;
        }
        if let Some(wanted) = self.gid()
            && (gid == wanted || pid.is_some_and(|pid| supplementary_groups(pid).contains(&wanted)))
        {
            return None;
        }
        let hint = match &self.group {
            Some((_, name)) => format!(
                "run as root, or join the group '{name}' ('usermod -aG {name} USER', then log in again)"
            ),
            None => "run as root or as the user the daemon runs as; \
                     'vhost-parallax --control-group GROUP' lets a group in"
                .to_owned(),
        };
        let message = format!("user {uid} may not use the control socket of this daemon");
        Some(ErrorBody::new(Code::Denied, message, hint))
    }
}

/// The kernel tells the peer's primary group only; the others are in /proc. A process that ended
/// meanwhile has none.
fn supplementary_groups(pid: i32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_users_and_group_members_may_ask() {
        let access = Access::new(&[0, 1000], Some((77, "parallax".into())));
        assert_eq!(access.refuses(0, 0, None), None);
        assert_eq!(access.refuses(1000, 1000, None), None);
        assert_eq!(access.refuses(1001, 77, None), None);
        let e = access.refuses(1001, 1001, None).unwrap();
        assert_eq!(e.code, Code::Denied);
        assert!(e.hint.contains("'parallax'"), "the hint names the group: {}", e.hint);
    }

    #[test]
    fn supplementary_groups_count() {
        let pid = rustix::process::getpid().as_raw_pid();
        for gid in supplementary_groups(pid) {
            let access = Access::new(&[], Some((gid, "g".into())));
            assert_eq!(access.refuses(4_000_000, 4_000_000, Some(pid)), None);
        }
        assert!(supplementary_groups(i32::MAX).is_empty());
    }

    #[test]
    fn the_socket_is_private_unless_there_is_a_group() {
        assert_eq!(Access::of_process(None).socket_mode(), 0o600);
        assert_eq!(Access::of_process(Some((1, "daemon".into()))).socket_mode(), 0o660);
    }
}
