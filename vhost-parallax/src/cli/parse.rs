//! Arguments become meanings where clap reads them, so that a wrong one is a usage error.

use vdi_core::limits::{EXTENT_BITS_MAX, EXTENT_BITS_MIN, LOG_BYTES_MIN};
use vdi_core::units::BLOCK_BYTES;

use crate::control::api::error::Result;
use crate::control::api::{Label, SnapshotRef, VdiName, size};

fn explained<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|e| format!("{}\nhint: {}", e.message, e.hint))
}

/// A VDI name.
pub fn vdi(text: &str) -> std::result::Result<VdiName, String> {
    explained(VdiName::parse(text))
}

/// A snapshot label.
pub fn label(text: &str) -> std::result::Result<Label, String> {
    explained(Label::parse(text))
}

/// `VDI@NUMBER` or `VDI@LABEL`.
pub fn snapshot(text: &str) -> std::result::Result<SnapshotRef, String> {
    explained(SnapshotRef::parse(text))
}

/// The size of a VDI, bytes.
pub fn vdi_size(text: &str) -> std::result::Result<u64, String> {
    explained(size::parse(text).and_then(size::check_vdi_bytes))
}

/// The size of a store, bytes.
pub fn bytes(text: &str) -> std::result::Result<u64, String> {
    explained(size::parse(text))
}

/// The size of a log, bytes.
pub fn log_size(text: &str) -> std::result::Result<u64, String> {
    match bytes(text)? {
        bytes if bytes < LOG_BYTES_MIN => {
            Err(format!("a log of {text} is too small\nhint: take at least {}", size::human(LOG_BYTES_MIN)))
        }
        bytes if !bytes.is_multiple_of(BLOCK_BYTES) => {
            Err(format!("a log of {text} is not a whole number of blocks\nhint: take a multiple of 4K"))
        }
        bytes => Ok(bytes),
    }
}

/// The size of an extent: log2 of its blocks.
pub fn extent_bits(text: &str) -> std::result::Result<u32, String> {
    let bytes = bytes(text)?;
    let (least, most) = (BLOCK_BYTES << EXTENT_BITS_MIN, BLOCK_BYTES << EXTENT_BITS_MAX);
    if bytes.is_power_of_two() && (least..=most).contains(&bytes) {
        return Ok((bytes / BLOCK_BYTES).ilog2());
    }
    let (least, most) = (size::human(least), size::human(most));
    Err(format!("extents of {text} are not possible\nhint: take a power of two between {least} and {most}"))
}

/// The source of a clone: a VDI, or one of its snapshots.
#[derive(Clone, Debug)]
pub enum Source {
    /// The present state.
    Vdi(VdiName),
    /// A snapshot.
    Snapshot(SnapshotRef),
}

/// `VDI`, `VDI@NUMBER` or `VDI@LABEL`.
pub fn source(text: &str) -> std::result::Result<Source, String> {
    if text.contains('@') { snapshot(text).map(Source::Snapshot) } else { vdi(text).map(Source::Vdi) }
}
