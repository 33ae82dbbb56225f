//! Sizes as people write them ("20G", as `qemu-img`) and as they read them ("20 GiB"). JSON has bytes.

use vdi_core::limits::VDI_BYTES_MAX;
use vdi_core::units::SECTOR_BYTES;

use super::error::{Code, ErrorBody, Result};

const HINT: &str =
    "write a number with an optional suffix K, M, G, T, P or E (powers of 1024), for example 20G or 1.5T";
const UNITS: [(&str, u32); 7] = [("", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50), ("E", 60)];

/// Bytes meant by `text`: a decimal number, perhaps with a fraction, and a suffix as in `qemu-img`
/// (`20G`, `1.5T`, `512M`, `20GiB`); bytes without a suffix.
///
/// # Errors
/// `bad_request` that shows the text, `too_large` where it does not fit 64 bits.
pub fn parse(text: &str) -> Result<u64> {
    let text = text.trim();
    let bad = |why: &str| ErrorBody::bad_request(format!("size '{}' {why}", text.escape_debug()), HINT);
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    if text.starts_with('-') {
        return Err(bad("is negative"));
    }
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(bad("does not start with a number"));
    }
    let unit = suffix.trim_start().to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
    let Some(&(_, shift)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(bad(&format!("has the unknown suffix '{}'", suffix.escape_debug())));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') {
        return Err(bad("has two points"));
    }
    let too_large = || ErrorBody::new(Code::TooLarge, format!("size '{text}' does not fit 64 bits"), HINT);
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let whole = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
    let part = fraction_bytes(fraction, shift).ok_or_else(|| bad("is not a whole number of bytes"))?;
    whole.checked_add(part).ok_or_else(too_large)
}

/// `0.fraction << shift`, exactly, or `None` when that is not a whole number.
fn fraction_bytes(fraction: &str, shift: u32) -> Option<u64> {
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Some(0);
    }
    // 18 digits times 2^60 fit 128 bits; more digits never name whole bytes of a useful size.
    if fraction.len() > 18 {
        return None;
    }
    let numerator = fraction.parse::<u128>().ok()? << shift;
    let denominator = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    // As qemu-img, a fraction of a unit is rounded down to bytes; a fraction of a byte is an error.
    (shift > 0).then(|| numerator / denominator).and_then(|bytes| u64::try_from(bytes).ok())
}

/// Check the size of a VDI, bytes.
///
/// # Errors
/// `bad_request` for zero or a part of a sector, `too_large` above 4 PiB.
pub fn check_vdi_bytes(bytes: u64) -> Result<u64> {
    if bytes == 0 {
        let hint = "give the size the guest shall see, for example 20G; space is taken only as it is written";
        return Err(ErrorBody::bad_request("the size of a VDI cannot be zero", hint));
    }
    // The limit first: what follows computes with the size.
    if bytes > VDI_BYTES_MAX {
        let message = format!("{} is larger than the largest VDI, {}", human(bytes), human(VDI_BYTES_MAX));
        return Err(ErrorBody::new(
            Code::TooLarge,
            message,
            format!("take at most {}", human(VDI_BYTES_MAX)),
        ));
    }
    if !bytes.is_multiple_of(SECTOR_BYTES) {
        let down = bytes - bytes % SECTOR_BYTES;
        let message = format!("{bytes} bytes is not a whole number of {SECTOR_BYTES}-byte sectors");
        let hint = format!("take a multiple of {SECTOR_BYTES}, for example {}", down + SECTOR_BYTES);
        return Err(ErrorBody::bad_request(message, hint));
    }
    Ok(bytes)
}

/// `bytes` for people: three digits and a binary unit ("20 GiB", "1.5 MiB", "17 B").
#[must_use]
pub fn human(bytes: u64) -> String {
    let (name, shift) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0).copied().unwrap_or(("", 0));
    if shift == 0 {
        return format!("{bytes} B");
    }
    let value = bytes as f64 / (1u64 << shift) as f64;
    let digits = match () {
        () if value < 9.995 => format!("{value:.2}"),
        () if value < 99.95 => format!("{value:.1}"),
        () => return format!("{value:.0} {name}iB"),
    };
    format!("{} {name}iB", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_qemu_img_reads_them() {
        for (text, bytes) in [
            ("20G", 20 << 30),
            ("20g", 20 << 30),
            ("20GiB", 20 << 30),
            ("20 GB", 20 << 30),
            ("512", 512),
            ("512B", 512),
            ("1.5T", 3 << 39),
            ("0.5K", 512),
            ("1.000", 1),
            ("4P", 4 << 50),
            ("0", 0),
            (" 1M ", 1 << 20),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn a_bad_size_says_what_is_wrong_with_it() {
        for (text, code, says) in [
            ("", Code::BadRequest, "does not start with a number"),
            ("G", Code::BadRequest, "does not start with a number"),
            ("-1G", Code::BadRequest, "is negative"),
            ("20X", Code::BadRequest, "unknown suffix 'X'"),
            ("20G G", Code::BadRequest, "unknown suffix"),
            ("1.2.3G", Code::BadRequest, "two points"),
            ("1.5", Code::BadRequest, "whole number of bytes"),
            ("16E", Code::TooLarge, "does not fit"),
            ("99999999999999999999", Code::TooLarge, "does not fit"),
        ] {
            let e = parse(text).unwrap_err();
            assert_eq!(e.code, code, "{text}");
            assert!(e.message.contains(says), "{text}: {}", e.message);
        }
    }

    #[test]
    fn a_vdi_is_whole_sectors_between_one_and_four_pebibytes() {
        assert_eq!(check_vdi_bytes(0).unwrap_err().code, Code::BadRequest);
        assert_eq!(check_vdi_bytes(513).unwrap_err().code, Code::BadRequest);
        assert_eq!(check_vdi_bytes(VDI_BYTES_MAX + 512).unwrap_err().code, Code::TooLarge);
        assert_eq!(check_vdi_bytes(u64::MAX).unwrap_err().code, Code::TooLarge);
        assert_eq!(check_vdi_bytes(512).unwrap(), 512);
        assert_eq!(check_vdi_bytes(VDI_BYTES_MAX).unwrap(), VDI_BYTES_MAX);
    }

    #[test]
    fn bytes_read_back_as_a_short_number_with_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (17, "17 B"),
            (20 << 30, "20 GiB"),
            (3 << 19, "1.5 MiB"),
            (1025, "1 KiB"),
            ((99 << 20) + 512_000, "99.5 MiB"),
            (1023 * 1024 + 1, "1023 KiB"),
            (4 << 50, "4 PiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
