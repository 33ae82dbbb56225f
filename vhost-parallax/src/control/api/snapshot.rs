//! Snapshots: how they are shown, asked for and named (`VDI@N` or `VDI@LABEL`).

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vdi_core::units::Epoch;

use super::error::{Code, ErrorBody, Result};
use super::name::{Label, VdiName};

/// One snapshot of a VDI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"epoch": 17, "label": "before-upgrade", "time_unix_ms": 1_795_181_400_000_u64,
    "size_bytes": 21_474_836_480_u64, "pending": false}))]
pub struct SnapshotInfo {
    /// Its number: unique in its VDI, ascending with time, never reused.
    pub epoch: u64,
    /// Its label, where it has one; unique in its VDI.
    pub label: Option<String>,
    /// When it was taken by the host's clock, milliseconds since 1970 (UTC).
    pub time_unix_ms: u64,
    /// The size of the VDI when it was taken, bytes.
    pub size_bytes: u64,
    /// Still in the host's log and not yet in the store: it survives a crash, not the loss of the log.
    pub pending: bool,
}

/// The snapshots of one VDI, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// The snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// Take a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"label": "before-upgrade"}))]
pub struct SnapshotRequest {
    /// A label; without one the snapshot has its number only.
    #[serde(default)]
    pub label: Option<String>,
}

/// Give a snapshot a label, another label, or none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"label": "golden"}))]
pub struct LabelRequest {
    /// The new label; an empty one takes the label away.
    pub label: String,
}

impl LabelRequest {
    /// The label meant: `None` takes it away.
    ///
    /// # Errors
    /// `bad_request` where the label breaks a rule.
    pub fn meaning(&self) -> Result<Option<Label>> {
        if self.label.is_empty() { Ok(None) } else { Label::parse(&self.label).map(Some) }
    }
}

/// Which snapshot of a VDI is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotSelector {
    /// By number.
    Epoch(u64),
    /// By label.
    Label(Label),
}

impl SnapshotSelector {
    /// Read `17` or `before-upgrade`.
    ///
    /// # Errors
    /// `bad_request` for text that is neither a number nor a label.
    pub fn parse(text: &str) -> Result<SnapshotSelector> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Label::parse(text).map(SnapshotSelector::Label);
        }
        match text.parse() {
            Ok(epoch) if epoch <= Epoch::MAX.0 => Ok(SnapshotSelector::Epoch(epoch)),
            _ => Err(ErrorBody::bad_request(
                format!("snapshot number {text} is larger than any snapshot's"),
                "'parallax snapshot ls VDI' lists the snapshots of a VDI",
            )),
        }
    }

    /// The epoch of the snapshot meant, out of the snapshots of `vdi`.
    ///
    /// # Errors
    /// `not_found` where none of them matches.
    pub fn resolve(&self, vdi: &VdiName, snapshots: &[SnapshotInfo]) -> Result<Epoch> {
        let found = snapshots.iter().find(|s| match self {
            SnapshotSelector::Epoch(epoch) => s.epoch == *epoch,
            SnapshotSelector::Label(label) => s.label.as_deref() == Some(label.as_str()),
        });
        found.map(|s| Epoch(s.epoch)).ok_or_else(|| {
            ErrorBody::new(
                Code::NotFound,
                format!("VDI '{vdi}' has no snapshot '{self}'"),
                format!("'parallax snapshot ls {vdi}' lists its snapshots"),
            )
        })
    }
}

impl fmt::Display for SnapshotSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotSelector::Epoch(epoch) => write!(f, "{epoch}"),
            SnapshotSelector::Label(label) => write!(f, "{label}"),
        }
    }
}

/// A snapshot named in full: `web@17` or `web@before-upgrade`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRef {
    /// The VDI.
    pub vdi: VdiName,
    /// Which of its snapshots.
    pub snapshot: SnapshotSelector,
}

impl SnapshotRef {
    /// Read `VDI@N` or `VDI@LABEL`.
    ///
    /// # Errors
    /// `bad_request` where there is no `@`, or one of the two sides is not valid.
    pub fn parse(text: &str) -> Result<SnapshotRef> {
        let Some((vdi, snapshot)) = text.split_once('@') else {
            return Err(ErrorBody::bad_request(
                format!("'{}' names no snapshot", text.escape_debug()),
                "write VDI@NUMBER or VDI@LABEL, for example web@17 or web@before-upgrade",
            ));
        };
        Ok(SnapshotRef { vdi: VdiName::parse(vdi)?, snapshot: SnapshotSelector::parse(snapshot)? })
    }
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.vdi, self.snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(epoch: u64, label: Option<&str>) -> SnapshotInfo {
        let label = label.map(str::to_owned);
        SnapshotInfo { epoch, label, time_unix_ms: 0, size_bytes: 512, pending: false }
    }

    #[test]
    fn digits_are_a_number_and_everything_else_is_a_label() {
        assert_eq!(SnapshotSelector::parse("17").unwrap(), SnapshotSelector::Epoch(17));
        assert_eq!(SnapshotSelector::parse("v17").unwrap().to_string(), "v17");
        for bad in ["", "1 7", "-1", "1099511627776", "99999999999999999999999"] {
            assert_eq!(SnapshotSelector::parse(bad).unwrap_err().code, Code::BadRequest, "{bad}");
        }
    }

    #[test]
    fn a_selector_finds_its_snapshot_or_says_how_to_list_them() {
        let vdi = VdiName::parse("web").unwrap();
        let all = [info(3, None), info(7, Some("golden"))];
        let find = |text: &str| SnapshotSelector::parse(text).unwrap().resolve(&vdi, &all);
        assert_eq!(find("3").unwrap(), Epoch(3));
        assert_eq!(find("golden").unwrap(), Epoch(7));
        let e = find("4").unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (Code::NotFound, "VDI 'web' has no snapshot '4'"));
    }

    #[test]
    fn a_snapshot_in_full_needs_both_sides() {
        assert_eq!(SnapshotRef::parse("web@golden").unwrap().to_string(), "web@golden");
        for bad in ["web", "@3", "web@", "web@a@b", ""] {
            assert_eq!(SnapshotRef::parse(bad).unwrap_err().code, Code::BadRequest, "{bad}");
        }
    }
}
