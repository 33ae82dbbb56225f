//! The largest files and functions, printed so that growing one is a choice someone made.

use super::File;
use super::lexer::{Token, closing, lex};

/// A file or function and its lines outside tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Size {
    /// Lines outside tests.
    pub lines: usize,
    /// Path, and for functions ":line name".
    pub name: String,
}

/// Lines that hold production code, per file, largest first.
#[must_use]
pub fn files(files: &[File]) -> Vec<Size> {
    let sizes = production(files).map(|file| {
        let tests: usize = test_spans(&lex(&file.text)).iter().map(|(from, to)| to - from + 1).sum();
        Size { lines: file.text.lines().count() - tests, name: file.path.clone() }
    });
    largest_first(sizes.collect())
}

/// Lines of each function outside tests, from `fn` to its closing brace, largest first.
#[must_use]
pub fn functions(files: &[File]) -> Vec<Size> {
    let mut sizes = Vec::new();
    for file in production(files) {
        let tokens = lex(&file.text);
        for (i, token) in tokens.iter().enumerate().filter(|(_, t)| t.is_word("fn") && !t.test) {
            let Some(name) = tokens.get(i + 1).and_then(Token::word) else { continue };
            let Some(body) = body(&tokens, i) else { continue };
            let last = &tokens[closing(&tokens, body) - 1];
            let name = format!("{}:{} {name}", file.path, token.line);
            sizes.push(Size { lines: last.line - token.line + 1, name });
        }
    }
    largest_first(sizes)
}

fn production(files: &[File]) -> impl Iterator<Item = &File> {
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    files.iter().filter(move |f| f.path.contains("/src/") && f.path.ends_with(".rs") && !is_test(&f.path))
}

/// The `{` of the function whose `fn` is at `at`, if it has a body.
fn body(tokens: &[Token], at: usize) -> Option<usize> {
    let mut i = at;
    while i < tokens.len() {
        match () {
            () if tokens[i].is(';') => return None,
            () if tokens[i].is('{') => return Some(i),
            () if tokens[i].is('(') || tokens[i].is('[') => i = closing(tokens, i),
            () => i += 1,
        }
    }
    None
}

fn test_spans(tokens: &[Token]) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let mut open = false;
    for token in tokens {
        match (token.test, spans.last_mut()) {
            (true, Some(span)) if open => span.1 = token.line,
            (true, _) => spans.push((token.line, token.line)),
            (false, _) => {}
        }
        open = token.test;
    }
    spans
}

fn largest_first(mut sizes: Vec<Size>) -> Vec<Size> {
    sizes.sort_by(|a, b| b.lines.cmp(&a.lines).then_with(|| a.name.cmp(&b.name)));
    sizes
}
