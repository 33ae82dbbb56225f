//! The one arrow: every module may import only what its row in `ARCHITECTURE.md` names, plus rank 0.
//!
//! A table belongs to the crate that the line before it names: "Crate `vdi-core`:". Its columns: rank,
//! module (a path inside the crate, `a::b`), owns, may import, must never. "May import" is a list of modules
//! (`tree`, or narrower, `tree::walk`), other crates (`vdi_core::engine`), "rank N", or "all above".
//! Rank 0 of `vdi-core` is free to all.
//! Test code is not held to the table.

use super::File;
use super::lexer::{Kind, Token, closing, lex};

/// One crate's table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Folder name of the crate.
    pub krate: String,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    module: Vec<String>,
    rank: u32,
    may: Vec<Allow>,
}

#[derive(Clone, Debug)]
enum Allow {
    Path(Vec<String>),
    Rank(u32),
    AllAbove,
}

/// A path a file mentions: absolute segments, the first one `crate` or the name of another crate.
struct Mention {
    path: Vec<String>,
    line: usize,
}

/// Crates whose use the tables rule; others (libraries) are Cargo's business.
const OURS: [&str; 3] = ["vdi_core", "vhost_parallax", "qemu_harness"];

/// The import tables in the text of `ARCHITECTURE.md`.
///
/// # Panics
/// When a table is malformed: the document is ours.
#[must_use]
pub fn tables(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Crate `") {
            let krate = rest.split('`').next().expect("split gives at least one part").to_string();
            tables.push(Table { krate, rows: Vec::new() });
            inside = true;
        } else if line.starts_with('#') {
            inside = false;
        } else if inside && line.starts_with('|') {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let Ok(rank) = cells[0].parse() else { continue };
            assert!(cells.len() == 5, "a row has five cells: {line}");
            let row = Row { rank, module: segments(cells[1]), may: allows(cells[3]) };
            assert!(!cells[4].is_empty() || rank == 0, "what must {} never do?", cells[1]);
            tables.last_mut().expect("a table has begun").rows.push(row);
        }
    }
    tables
}

fn segments(cell: &str) -> Vec<String> {
    let path = cell.trim_matches('`').trim_end_matches('/');
    path.split("::").map(|s| s.replace('-', "_")).collect()
}

fn allows(cell: &str) -> Vec<Allow> {
    let parts = cell.split(',').map(str::trim).filter(|p| !p.is_empty() && *p != "-");
    parts
        .map(|part| match part.strip_prefix("rank ") {
            Some(rank) => Allow::Rank(rank.parse().unwrap_or_else(|e| panic!("rank of {part:?}: {e}"))),
            None if part == "all above" => Allow::AllAbove,
            None => Allow::Path(segments(part)),
        })
        .collect()
}

/// Everything in `files` that the table forbids.
#[must_use]
pub fn violations(table: &Table, files: &[File]) -> Vec<String> {
    let prefix = format!("{}/src/", table.krate);
    let mut found = Vec::new();
    let files: Vec<&File> =
        files.iter().filter(|f| f.path.starts_with(&prefix) && f.path.ends_with(".rs")).collect();
    let tests = test_modules(&files, &prefix);
    for file in files {
        let module = module_of(&file.path[prefix.len()..]);
        if tests.iter().any(|t| module.starts_with(t)) || table.is_parent(&module) {
            continue;
        }
        let Some(at) = table.row(&module) else {
            found.push(format!("{}: `{}` has no row in ARCHITECTURE.md", file.path, module.join("::")));
            continue;
        };
        for mention in mentions(&lex(&file.text), &module, &table.krate.replace('-', "_")) {
            if !table.allowed(&table.rows[at], &mention.path) {
                let (from, to) = (table.rows[at].module.join("::"), mention.path.join("::"));
                found.push(format!("{}:{}: {from} must not import {to}", file.path, mention.line));
            }
        }
    }
    found
}

/// Rows that no file in `files` has: the document promises a room that is not there.
#[must_use]
pub fn missing(table: &Table, files: &[File]) -> Vec<String> {
    let prefix = format!("{}/src/", table.krate);
    let inside = files.iter().filter_map(|f| f.path.strip_prefix(&prefix));
    let modules: Vec<Vec<String>> = inside.filter(|p| p.ends_with(".rs")).map(module_of).collect();
    let empty = table.rows.iter().filter(|r| !modules.iter().any(|m| m.starts_with(&r.module)));
    empty.map(|r| format!("ARCHITECTURE.md: {} has no `{}`", table.krate, r.module.join("::"))).collect()
}

impl Table {
    /// The row of the deepest module that holds `path`.
    fn row(&self, path: &[String]) -> Option<usize> {
        let rows = self.rows.iter().enumerate().filter(|(_, r)| path.starts_with(&r.module));
        rows.max_by_key(|(_, r)| r.module.len()).map(|(i, _)| i)
    }

    /// A file that only holds modules with rows: `lib.rs`, or `a/mod.rs` where rows are `a::b`.
    fn is_parent(&self, module: &[String]) -> bool {
        self.row(module).is_none() && self.rows.iter().any(|r| r.module.starts_with(module))
    }

    fn allowed(&self, from: &Row, path: &[String]) -> bool {
        let named = |p: &[String]| from.may.iter().any(|a| matches!(a, Allow::Path(m) if p.starts_with(m)));
        if path[0] != "crate" {
            return named(path) || is_rank_0_of_the_engine(path);
        }
        let path = &path[1..];
        // The crate root re-exports the error type, and only that.
        let Some(first) = path.first() else { return true };
        if first.starts_with(char::is_uppercase) {
            return true;
        }
        let Some(to) = self.row(path) else { return false };
        let to = &self.rows[to];
        let by_rank = |a: &Allow| match a {
            Allow::Rank(rank) => to.rank == *rank,
            Allow::AllAbove => to.rank < from.rank,
            Allow::Path(_) => false,
        };
        to.module == from.module || to.rank == 0 || named(path) || from.may.iter().any(by_rank)
    }
}

/// Units, limits and the error type of `vdi-core`, which every crate of ours may know.
fn is_rank_0_of_the_engine(path: &[String]) -> bool {
    let part = path.get(1).map_or("", String::as_str);
    path[0] == "vdi_core"
        && (part.starts_with(char::is_uppercase) || ["units", "limits", "error"].contains(&part))
}

/// `store/mod.rs` -> `store`; `store/claim.rs` -> `store::claim`; `lib.rs` -> nothing.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(|s| s.replace('-', "_")).collect() }
}

/// Modules in files of their own that are declared under `cfg(test)`.
fn test_modules(files: &[&File], prefix: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for file in files {
        let tokens = lex(&file.text);
        for words in tokens.windows(3).filter(|w| w[0].test && w[0].is_word("mod") && w[2].is(';')) {
            let mut module = module_of(&file.path[prefix.len()..]);
            module.extend(words[1].word().map(str::to_string));
            found.push(module);
        }
    }
    found
}

/// Every path of our own crates that production code mentions, made absolute.
fn mentions(tokens: &[Token], module: &[String], krate: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    let inner = inner_modules(tokens);
    for (i, token) in tokens.iter().enumerate() {
        let continues = i >= 2 && tokens[i - 1].is(':') && tokens[i - 2].is(':');
        if token.test || continues || !colons(tokens, i + 1) {
            continue;
        }
        let Some(word) = token.word() else { continue };
        let line = token.line;
        let mut paths = Vec::new();
        let mut prefix = vec!["crate".to_string()];
        let mut next = i + 3;
        if word == "super" {
            prefix.extend(module.iter().cloned());
            prefix.extend(inner.iter().filter(|m| m.tokens.contains(&i)).map(|m| m.name.clone()));
            prefix.truncate(prefix.len().saturating_sub(1).max(1));
            while tokens.get(next).is_some_and(|t| t.is_word("super")) && colons(tokens, next + 1) {
                prefix.truncate(prefix.len().saturating_sub(1).max(1));
                next += 3;
            }
        } else if OURS.contains(&word) && word != krate {
            prefix = vec![word.to_string()];
        } else if word != "crate" && word != krate {
            continue;
        }
        paths_from(tokens, next, &prefix, &mut paths);
        found.extend(paths.into_iter().map(|path| Mention { path, line }));
    }
    found
}

struct Inner {
    name: String,
    tokens: std::ops::Range<usize>,
}

fn inner_modules(tokens: &[Token]) -> Vec<Inner> {
    let starts = (0..tokens.len()).filter(|i| tokens[*i].is_word("mod"));
    let bodies = starts.filter(|i| tokens.get(i + 2).is_some_and(|t| t.is('{')));
    let inner = bodies.filter_map(|i| {
        let name = tokens[i + 1].word()?.to_string();
        Some(Inner { name, tokens: i + 2..closing(tokens, i + 2) })
    });
    inner.collect()
}

fn colons(tokens: &[Token], at: usize) -> bool {
    tokens.get(at).is_some_and(|t| t.is(':')) && tokens.get(at + 1).is_some_and(|t| t.is(':'))
}

/// Paths of the use tree (or plain path) at `at`; returns the index just past it.
fn paths_from(tokens: &[Token], at: usize, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    match tokens.get(at).map(|t| &t.kind) {
        Some(Kind::Word(word)) => {
            let mut path = prefix.to_vec();
            if word != "self" {
                path.push(word.clone());
            }
            if colons(tokens, at + 1) {
                return paths_from(tokens, at + 3, &path, out);
            }
            out.push(path);
            at + 1
        }
        Some(Kind::Punct('{')) => {
            let end = closing(tokens, at);
            let mut next = at + 1;
            while next + 1 < end {
                let after = paths_from(tokens, next, prefix, out);
                // Past "as name" and the comma.
                next = (after..end - 1).find(|i| tokens[*i].is(',')).map_or(end, |i| i + 1);
            }
            end
        }
        _ => {
            out.push(prefix.to_vec());
            at + 1
        }
    }
}
