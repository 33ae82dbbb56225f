//! Columns for people: as wide as their widest cell, two spaces between, no trailing spaces.

use std::fmt::Write;

/// Render rows below a header. Columns named in `right` are aligned to the right.
#[must_use]
pub fn render<const N: usize>(header: [&str; N], right: &[usize], rows: &[[String; N]]) -> String {
    let width =
        |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([header[i].len()]).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    let header = header.map(str::to_owned);
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let gap = if i == 0 { "" } else { "  " };
            let wide = widths[i];
            let written = if right.contains(&i) {
                write!(line, "{gap}{cell:>wide$}")
            } else {
                write!(line, "{gap}{cell:<wide$}")
            };
            written.expect("a string takes everything");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Lines of `name  value`, names padded to one width.
#[must_use]
pub fn facts(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in rows {
        let line = format!("{name:<width$}  {value}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `1 snapshot`, `2 snapshots`.
#[must_use]
pub fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}
