//! Names of VDIs and labels of snapshots: parsed once, valid ever after.

use std::fmt;

use vdi_core::limits::{LABEL_BYTES_MAX, NAME_BYTES_MAX};

use super::error::{ErrorBody, Result};

/// A valid VDI name: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VdiName(String);

const NAME_HINT: &str = "use 1 to 63 letters, digits, '.', '_' and '-', starting with a letter or digit";

impl VdiName {
    /// Check a name typed by a user.
    ///
    /// # Errors
    /// `bad_request` that says which rule the name breaks.
    pub fn parse(name: &str) -> Result<VdiName> {
        check(name, "VDI name", NAME_BYTES_MAX, |c| matches!(c, '.' | '_' | '-'), NAME_HINT)?;
        Ok(VdiName(name.to_owned()))
    }
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VdiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A valid snapshot label: as a name, also ':' and '+', and at least one letter, so that it is never
/// taken for a number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Label(String);

const LABEL_HINT: &str = "use 1 to 63 letters, digits, '.', '_', '-', ':' and '+', starting with a letter or digit, \
                          with a letter somewhere, for example 'before-upgrade'";

impl Label {
    /// Check a label typed by a user.
    ///
    /// # Errors
    /// `bad_request` that says which rule the label breaks.
    pub fn parse(label: &str) -> Result<Label> {
        check(label, "label", LABEL_BYTES_MAX, |c| matches!(c, '.' | '_' | '-' | ':' | '+'), LABEL_HINT)?;
        if !label.contains(|c: char| c.is_ascii_alphabetic()) {
            let message = format!("label '{label}' has no letter and could be taken for a snapshot number");
            return Err(ErrorBody::bad_request(message, LABEL_HINT));
        }
        Ok(Label(label.to_owned()))
    }
    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str, what: &str, bytes_max: usize, extra: fn(char) -> bool, hint: &str) -> Result<()> {
    let fail = |message: String| Err(ErrorBody::bad_request(message, hint));
    let Some(first) = text.chars().next() else {
        return fail(format!("the {what} is empty"));
    };
    if text.len() > bytes_max {
        return fail(format!("the {what} is {} bytes long; at most {bytes_max} are allowed", text.len()));
    }
    if !first.is_ascii_alphanumeric() {
        return fail(format!("{what} '{}' starts with '{}'", text.escape_debug(), first.escape_debug()));
    }
    match text.chars().find(|&c| !c.is_ascii_alphanumeric() && !extra(c)) {
        None => Ok(()),
        Some(bad) => fail(format!("{what} '{}' contains '{}'", text.escape_debug(), bad.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_published_pattern() {
        for good in ["web", "0", "a.b_c-D", &"x".repeat(63)] {
            assert_eq!(VdiName::parse(good).unwrap().as_str(), good);
        }
        for (bad, says) in [
            ("", "empty"),
            (".web", "starts with '.'"),
            ("-web", "starts with '-'"),
            ("a/b", "contains '/'"),
            ("a b", "contains ' '"),
            ("web@3", "contains '@'"),
            ("Ünï", "starts with"),
            ("a\n", "contains '\\n'"),
            (&"x".repeat(64), "64 bytes long"),
        ] {
            let e = VdiName::parse(bad).unwrap_err();
            assert!(e.message.contains(says), "{bad}: {}", e.message);
            assert!(!e.hint.is_empty());
        }
    }

    #[test]
    fn a_label_is_never_a_number() {
        for good in ["before-upgrade", "2026-11-20T13:40", "1a", "daily+1"] {
            assert!(Label::parse(good).is_ok(), "{good}");
        }
        for bad in ["17", "2026-11-20", "", "a@b", "é"] {
            assert!(Label::parse(bad).is_err(), "{bad}");
        }
    }
}
