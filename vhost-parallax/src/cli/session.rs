//! One run of the command: where it prints, whom it asks, and the daemon it talks to.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::client::Client;
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::run_dir::RunDir;

/// The streams of the command.
pub struct Terminal {
    /// Results.
    pub out: Box<dyn Write>,
    /// Errors and questions.
    pub err: Box<dyn Write>,
    /// Where a person answers; `None` when there is none.
    pub answers: Option<Box<dyn BufRead>>,
    /// Whether the person's terminal shows box-drawing characters.
    pub unicode: bool,
}

impl Terminal {
    /// The streams of this process.
    #[must_use]
    pub fn of_process() -> Terminal {
        let stdin = std::io::stdin();
        let answers = (stdin.is_terminal() && std::io::stderr().is_terminal())
            .then(|| Box::new(stdin.lock()) as Box<dyn BufRead>);
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|key| std::env::var(key).ok().filter(|value| !value.is_empty()));
        let unicode = locale.is_some_and(|l| {
            let l = l.to_ascii_lowercase();
            l.contains("utf-8") || l.contains("utf8")
        });
        Terminal { out: Box::new(std::io::stdout()), err: Box::new(std::io::stderr()), answers, unicode }
    }
}

/// One run of the command.
pub struct Session {
    terminal: Terminal,
    json: bool,
    run_dir: Option<PathBuf>,
}

impl Session {
    /// A run that prints to `terminal`, as JSON or text, and finds the daemon in `run_dir` or the
    /// default place.
    #[must_use]
    pub fn new(terminal: Terminal, json: bool, run_dir: Option<PathBuf>) -> Session {
        Session { terminal, json, run_dir }
    }
    /// The daemon.
    ///
    /// # Errors
    /// Where the run directory is unknown or its socket path too long.
    pub fn daemon(&self) -> Result<Client> {
        let dir = RunDir::of_process(self.run_dir.clone())?;
        Client::new(dir.control_socket()?)
    }
    /// Whether box-drawing characters may be printed.
    #[must_use]
    pub fn unicode(&self) -> bool {
        self.terminal.unicode
    }
    /// Print a result: `value` with `--json`, else `text`.
    ///
    /// # Errors
    /// Where standard output cannot be written.
    pub fn show(&mut self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(value).expect("results are strings and numbers") + "\n"
        } else {
            text()
        };
        let out = &mut self.terminal.out;
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(ErrorBody::new(
                Code::Io,
                format!("writing to standard output: {e}"),
                "what was asked has been done; only its report is lost",
            )),
            _ => Ok(()),
        }
    }
    /// Go on only with `--yes` (`yes`) or a yes from a person to `question`.
    ///
    /// # Errors
    /// Where the person says no, or there is none to ask.
    pub fn confirm(&mut self, question: &str, yes: bool) -> Result<()> {
        if yes {
            return Ok(());
        }
        let Some(answers) = &mut self.terminal.answers else {
            return Err(ErrorBody::bad_request(
                format!("not done without a yes, and there is no terminal to ask at: {question}"),
                "add --yes, or look first with --dry-run",
            ));
        };
        let _terminal_gone =
            write!(self.terminal.err, "{question} [y/N] ").and_then(|()| self.terminal.err.flush());
        let mut line = String::new();
        let read = answers.read_line(&mut line);
        if read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(ErrorBody::new(
            Code::Denied,
            "nothing was changed: the answer was not yes",
            "answer y, or use --yes",
        ))
    }
    /// Report a failure.
    pub fn report(&mut self, error: &ErrorBody) {
        let text = if self.json {
            serde_json::to_string_pretty(error).expect("an error is strings") + "\n"
        } else {
            format!("error: {}\nhint: {}\n", error.message, error.hint)
        };
        let _nobody_reads = self.terminal.err.write_all(text.as_bytes());
    }
}
