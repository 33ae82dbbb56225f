//! Documents name only paths that exist.
//!
//! A path is a link's target, or a word in backticks that has a `/` or a known extension. Left out:
//! absolute paths and URLs, placeholders in capitals (`NNN-title.md`), wildcards, and build products.

use super::File;

const EXTENSIONS: [&str; 9] = [".md", ".rs", ".toml", ".sh", ".txt", ".csv", ".yml", ".lock", ".svg"];

/// Every path in `documents` that `exists` denies. A path may be relative to the repository, to the
/// document's folder, or to one of `bases`.
#[must_use]
pub fn violations(documents: &[File], bases: &[&str], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for document in documents {
        let folder = document.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut fenced = false;
        for (number, line) in document.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                continue;
            }
            if fenced {
                continue;
            }
            for path in paths(line) {
                let bases = ["", folder].into_iter().chain(bases.iter().copied());
                let mut places = bases.map(|base| normal(&format!("{base}/{path}")));
                if !places.any(|place| exists(&place)) {
                    found.push(format!("{}:{}: {path} does not exist", document.path, number + 1));
                }
            }
        }
    }
    found
}

fn paths(line: &str) -> Vec<String> {
    let code = line.split('`').skip(1).step_by(2).filter(|word| is_path(word));
    let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let links = links.map(|l| l.split('#').next().expect("split gives a part")).filter(|l| is_relative(l));
    code.chain(links).map(str::to_string).collect()
}

fn is_path(word: &str) -> bool {
    let shaped = word.contains('/') || EXTENSIONS.iter().any(|e| word.ends_with(e));
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let placeholder = |part: &str| {
        let stem = part.split(['.', '-']).next().unwrap_or_default();
        stem.len() > 1 && stem.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    };
    // `mod.rs` and `tests.rs` are kinds of files, not paths.
    let is_kind = word.ends_with(".rs") && !word.contains('/');
    let is_document = word.ends_with(".md") && !word.contains('/') && !word.contains('-');
    shaped && plain && !is_kind && is_relative(word) && (is_document || !word.split('/').any(placeholder))
}

fn is_relative(path: &str) -> bool {
    let outside = path.starts_with(['/', '~', '.']) && !path.starts_with("./") && !path.starts_with("../");
    !path.is_empty() && !outside && !path.contains("://") && !path.starts_with("target/")
}

/// `a/./b/../c` -> `a/c`, without a leading slash.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}
