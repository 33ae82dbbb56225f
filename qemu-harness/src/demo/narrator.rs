//! The voice of the demo.

use std::time::Instant;

/// Prints steps with the time since the start.
pub(super) struct Narrator {
    started: Instant,
    steps: u32,
}

impl Narrator {
    pub(super) fn new() -> Narrator {
        Narrator { started: Instant::now(), steps: 0 }
    }
    pub(super) fn title(&self, text: &str) {
        println!("\n{text}\n{}", "=".repeat(text.len()));
    }
    pub(super) fn step(&mut self, text: &str) {
        self.steps += 1;
        println!("\n[{:5.1} s] {}. {text}", self.started.elapsed().as_secs_f64(), self.steps);
    }
    pub(super) fn say(&self, text: &str) {
        println!("          {text}");
    }
    pub(super) fn command(&self, text: &str) {
        println!("          $ {text}");
    }
    pub(super) fn output(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("          | {line}");
        }
    }
    /// Output of which only the first and last lines fit, `shown` in all.
    pub(super) fn shortened(&self, text: &str, shown: usize) {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        if lines.len() <= shown {
            return self.output(text);
        }
        let (head, tail) = (shown / 2, shown - shown / 2);
        self.output(&lines[..head].join("\n"));
        println!("          | ... {} more lines ...", lines.len() - shown);
        self.output(&lines[lines.len() - tail..].join("\n"));
    }
    pub(super) fn done(&self) {
        println!("\n[{:5.1} s] Done: nothing lost, nothing leaked.\n", self.started.elapsed().as_secs_f64());
    }
}
