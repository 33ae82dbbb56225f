//! Just enough Rust: words and punctuation with their lines, comments and literals left out, and which
//! tokens are test code.

/// A word (identifier, keyword or number) or one punctuation character.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Identifier, keyword or number.
    Word(String),
    /// Any other character.
    Punct(char),
}

/// A token, the line it stands on (from 1), and whether it is inside an item under `cfg(test)`.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Line, from 1.
    pub line: usize,
    /// Part of test code.
    pub test: bool,
}

impl Token {
    /// True for this word.
    #[must_use]
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(w) if w == word)
    }
    /// True for this character.
    #[must_use]
    pub fn is(&self, c: char) -> bool {
        self.kind == Kind::Punct(c)
    }
    /// The word, if it is one.
    #[must_use]
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(w) => Some(w),
            Kind::Punct(_) => None,
        }
    }
}

/// The tokens of a source text.
#[must_use]
pub fn lex(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: text, line: 1, tokens: Vec::new() };
    while lexer.step() {}
    let mut tokens = lexer.tokens;
    mark_tests(&mut tokens);
    tokens
}

/// Index just past the bracket that closes the one at `open`.
#[must_use]
pub fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Punct('{' | '(' | '[') => depth += 1,
            Kind::Punct('}' | ')' | ']') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn advance(&mut self, bytes: usize) {
        let (gone, rest) = self.rest.split_at(bytes);
        self.line += gone.matches('\n').count();
        self.rest = rest;
    }

    fn push(&mut self, kind: Kind, bytes: usize) {
        self.tokens.push(Token { kind, line: self.line, test: false });
        self.advance(bytes);
    }

    fn step(&mut self) -> bool {
        let Some(c) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.advance(comment_bytes(self.rest));
        } else if let Some(bytes) = string_bytes(self.rest) {
            self.advance(bytes);
        } else if c == '\'' {
            self.advance(char_or_lifetime_bytes(self.rest));
        } else if c.is_alphanumeric() || c == '_' {
            let bytes = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
            self.push(Kind::Word(self.rest[..bytes].to_string()), bytes);
        } else if c.is_whitespace() {
            self.advance(c.len_utf8());
        } else {
            self.push(Kind::Punct(c), c.len_utf8());
        }
        true
    }
}

fn comment_bytes(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of the string literal (plain, raw, byte, C) that `text` starts with.
fn string_bytes(text: &str) -> Option<usize> {
    let prefix = text.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).filter(|n| *n <= 2)?;
    let after = &text[prefix..];
    if text[..prefix].contains('r') {
        let hashes = after.len() - after.trim_start_matches('#').len();
        after[hashes..].starts_with('"').then_some(())?;
        let end = format!("\"{}", "#".repeat(hashes));
        let body = prefix + hashes + 1;
        return Some(text[body..].find(&end).map_or(text.len(), |n| body + n + end.len()));
    }
    after.starts_with('"').then_some(())?;
    let mut escaped = false;
    for (i, c) in after.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix + i + 1),
            _ => {}
        }
    }
    Some(text.len())
}

fn char_or_lifetime_bytes(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(text.len(), |(i, _)| i + 3)
        }
        Some((_, c)) if text[1 + c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
        _ => 1,
    }
}

/// Mark every item that follows an attribute `cfg(test)` (or `cfg(all(test, ...))`).
fn mark_tests(tokens: &mut [Token]) {
    let mut i = 0;
    while i < tokens.len() {
        if !(tokens[i].is('#') && tokens.get(i + 1).is_some_and(|t| t.is('['))) {
            i += 1;
            continue;
        }
        let end = closing(tokens, i + 1);
        let attribute = &tokens[i + 2..end];
        let has = |word: &str| attribute.iter().any(|t| t.is_word(word));
        if attribute.first().is_some_and(|t| t.is_word("cfg")) && has("test") && !has("not") {
            let item = item_end(tokens, end);
            tokens[i..item].iter_mut().for_each(|t| t.test = true);
        }
        i = end;
    }
}

/// Index just past the item that starts at `at`: its body or its semicolon.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].kind {
            Kind::Punct(';') => return at + 1,
            Kind::Punct('{') => return closing(tokens, at),
            Kind::Punct('(' | '[') => at = closing(tokens, at),
            _ => at += 1,
        }
    }
    at
}
