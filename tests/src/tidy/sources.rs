//! Rules on source files one by one: where `unsafe` may stand, names that say nothing, switched-off
//! tests, globs, and files no module names.

use super::File;
use super::lexer::{Token, lex};

/// The only files that may hold `unsafe`; the workspace denies it elsewhere. Each is about memory the compiler cannot
/// see: kernel-owned buffers, guest memory, descriptors received over a socket, or the one system call
/// (`F_OFD_SETLK`) that our system call crate does not wrap.
pub const UNSAFE: [&str; 8] = [
    "vdi-core/src/buffer/arena.rs",
    "vdi-core/src/buffer/mod.rs",
    "vdi-core/src/device/lock.rs",
    "vdi-core/src/device/uring.rs",
    "vhost-parallax/src/shard/staging.rs",
    "vhost-parallax/src/vhost/guest_memory.rs",
    "qemu-harness/src/process.rs",
    "benches/src/disk.rs",
];

/// A file or folder with such a name collects what belongs elsewhere.
const BANNED_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "manager", "misc", "types"];

/// Findings of all rules of this module.
#[must_use]
pub fn violations(files: &[File], unsafe_allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|f| f.path.ends_with(".rs")) {
        found.extend(banned_name(&file.path));
        let tokens = lex(&file.text);
        if !unsafe_allowed.contains(&file.path.as_str()) {
            found.extend(words(&file.path, &tokens, "unsafe", "unsafe outside the files that may hold it"));
        }
        found.extend(after_hash(&file.path, &tokens, "ignore", "an ignored test proves nothing"));
        found.extend(globs(&file.path, &tokens));
    }
    found.extend(orphans(files));
    found
}

fn banned_name(path: &str) -> Option<String> {
    let parts = path.split('/').map(|part| part.trim_end_matches(".rs"));
    let banned = parts.into_iter().find(|part| BANNED_NAMES.contains(part))?;
    Some(format!("{path}: `{banned}` names nothing; name the file after what it holds"))
}

fn words(path: &str, tokens: &[Token], word: &str, why: &str) -> Vec<String> {
    let hits = tokens.iter().filter(|t| t.is_word(word));
    hits.map(|t| format!("{path}:{}: {why}", t.line)).collect()
}

/// The attribute `#[word...]`.
fn after_hash(path: &str, tokens: &[Token], word: &str, why: &str) -> Vec<String> {
    let hits = tokens.windows(3).filter(|w| w[0].is('#') && w[1].is('[') && w[2].is_word(word));
    hits.map(|w| format!("{path}:{}: {why}", w[0].line)).collect()
}

/// `use super::*` outside tests, and `pub use ...::*` anywhere.
fn globs(path: &str, tokens: &[Token]) -> Vec<String> {
    let mut found = Vec::new();
    for (i, token) in tokens.iter().enumerate().filter(|(_, t)| t.is_word("use")) {
        let end = (i..tokens.len()).find(|j| tokens[*j].is(';')).unwrap_or(tokens.len());
        let glob = (i + 1..end).any(|j| tokens[j].is('*') && tokens[j - 1].is(':'));
        let public = i > 0 && (tokens[i - 1].is_word("pub") || tokens[i - 1].is(')'));
        let of_super = tokens.get(i + 1).is_some_and(|t| t.is_word("super"));
        let in_test = token.test || path.contains("/tests") || path.ends_with("tests.rs");
        if glob && public {
            found.push(format!("{path}:{}: a re-export glob hides where names come from", token.line));
        } else if glob && of_super && !in_test {
            found.push(format!("{path}:{}: `use super::*` outside tests", token.line));
        }
    }
    found
}

/// A file under `src/` that its parent does not declare is not compiled, so not checked.
fn orphans(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let Some((krate, inner)) = file.path.split_once("/src/") else { continue };
        let Some(inner) = inner.strip_suffix(".rs") else { continue };
        let inner = inner.strip_suffix("/mod").unwrap_or(inner);
        if inner == "lib" || inner == "main" || inner.starts_with("bin/") {
            continue;
        }
        let (folder, name) = inner.rsplit_once('/').map_or((None, inner), |(f, n)| (Some(f), n));
        let parents = match folder {
            None => vec![format!("{krate}/src/lib.rs"), format!("{krate}/src/main.rs")],
            Some(f) => vec![format!("{krate}/src/{f}/mod.rs"), format!("{krate}/src/{f}.rs")],
        };
        let declares = |text: &str| lex(text).windows(2).any(|w| w[0].is_word("mod") && w[1].is_word(name));
        if !files.iter().any(|f| parents.contains(&f.path) && declares(&f.text)) {
            found.push(format!("{}: no `mod {name}` declares it", file.path));
        }
    }
    found
}
