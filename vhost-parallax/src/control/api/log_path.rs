//! Where the log of a store is when nobody says: known to `format`, `check` and the daemon alike.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::{ErrorBody, Result};

/// `/var/lib/parallax/STORE-UUID.log` for root, below `$XDG_STATE_HOME` (else `~/.local/state`) for others.
///
/// # Errors
/// `bad_request` where the user has no home.
pub fn default_log_path(
    store_uuid: &str,
    env: impl Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Result<PathBuf> {
    let file = format!("{store_uuid}.log");
    if is_root {
        return Ok(PathBuf::from("/var/lib/parallax").join(file));
    }
    let named = |key: &str| env(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = named("XDG_STATE_HOME").or_else(|| named("HOME").map(|home| home.join(".local/state")));
    match state {
        Some(state) => Ok(state.join("parallax").join(file)),
        None => Err(ErrorBody::bad_request(
            "no place for the log: neither XDG_STATE_HOME nor HOME is set",
            "give --log PATH",
        )),
    }
}

/// The log of shard `shard`, where that of the first one is at `first`: each has its own, PATH.1 and so on.
#[must_use]
pub fn shard_log_path(first: &Path, shard: u16) -> PathBuf {
    match shard {
        0 => first.to_owned(),
        n => {
            let mut path = first.as_os_str().to_owned();
            path.push(format!(".{n}"));
            path.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_log_beside_the_first_ones() {
        let path = |shard| shard_log_path(Path::new("/s/u.log"), shard).to_str().unwrap().to_owned();
        assert_eq!([path(0), path(1), path(12)], ["/s/u.log", "/s/u.log.1", "/s/u.log.12"]);
    }

    #[test]
    fn root_has_one_place_and_others_their_state_directory() {
        let path = |env: &[(&str, &str)], is_root| {
            let get = |key: &str| env.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v));
            default_log_path("u", get, is_root).map(|p| p.to_str().unwrap().to_owned())
        };
        let env = [("HOME", "/h"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(path(&env, true).unwrap(), "/var/lib/parallax/u.log");
        assert_eq!(path(&env, false).unwrap(), "/s/parallax/u.log");
        assert_eq!(path(&env[..1], false).unwrap(), "/h/.local/state/parallax/u.log");
        assert!(path(&[], false).unwrap_err().hint.contains("--log"));
    }
}
