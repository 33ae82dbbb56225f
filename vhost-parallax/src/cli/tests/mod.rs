//! What people see: a golden transcript, the questions, the exit codes, the help.

mod local;

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::Write;
use std::rc::Rc;

use clap::{CommandFactory, Parser};

use super::{Cli, Terminal, run};
use crate::control::server::access::Access;
use crate::control::server::{Deadlines, Server, ServerConfig, map_responder};

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

struct Ran {
    code: u8,
    out: String,
    err: String,
}

struct Fixture {
    dir: tempfile::TempDir,
    _server: Server,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (commands, _data_thread) = map_responder::start();
        let socket = dir.path().join("control.sock");
        let config =
            ServerConfig { socket, access: Access::of_process(None), deadlines: Deadlines::default() };
        Fixture { _server: Server::start(config, commands).unwrap(), dir }
    }
    fn at_terminal(&self, line: &str, answers: Option<&str>) -> Ran {
        run_at(self.dir.path(), line, answers)
    }
    fn run(&self, line: &str) -> Ran {
        self.at_terminal(line, None)
    }
    fn must(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "{line}: {}", ran.err);
        ran.out
    }
}

/// Run a command line; `answers` is what a person at the terminal types.
fn run_at(run_dir: &std::path::Path, line: &str, answers: Option<&str>) -> Ran {
    let (out, err) = (Shared::default(), Shared::default());
    let answers = answers.map(|text| {
        Box::new(std::io::Cursor::new(text.to_owned().into_bytes())) as Box<dyn std::io::BufRead>
    });
    let terminal =
        Terminal { out: Box::new(out.clone()), err: Box::new(err.clone()), answers, unicode: true };
    let mut args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    args.extend([OsString::from("--run-dir"), run_dir.into()]);
    let code = run(args, terminal);
    Ran { code, out: out.text(), err: err.text() }
}

/// The transcript names the commands; this runs them and writes it again.
#[test]
fn people_see_what_the_golden_transcript_shows() {
    let golden = include_str!("../golden.txt");
    let f = Fixture::new();
    let mut seen = String::new();
    for command in golden.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let ran = f.run(command);
        seen.push_str(&format!("$ {command}\n{}{}", ran.out, ran.err));
        if ran.code != 0 {
            seen.push_str(&format!("[exit {}]\n", ran.code));
        }
        seen.push('\n');
    }
    if std::env::var_os("PARALLAX_WRITE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/golden.txt"), &seen).unwrap();
    }
    assert!(seen == golden, "PARALLAX_WRITE_GOLDEN=1 writes the new transcript; review it\n{seen}");
}

#[test]
fn json_is_what_the_api_answers() {
    let f = Fixture::new();
    let json = |line: &str| -> serde_json::Value { serde_json::from_str(&f.must(line)).unwrap() };
    assert_eq!(json("parallax create web 20G --json")["size_bytes"], 20_u64 << 30);
    assert_eq!(json("parallax --json snapshot create web")["epoch"], 1);
    assert_eq!(json("parallax ls --json")["vdis"][0]["name"], "web");
    assert_eq!(json("parallax show web --json")["snapshots"], 1);
    assert_eq!(json("parallax tree --json")["nodes"][0]["name"], "web");
    assert_eq!(json("parallax status --json")["vdis"]["total"], 1);
    assert_eq!(json("parallax rm web -r -n --json")["dry_run"], true);
    assert_eq!(json("parallax latency on --json")["enabled"], true);
    assert_eq!(json("parallax latency off --json")["layers"][0]["layer"], "write");
    assert_eq!(json("parallax collect -n --json")["dry_run"], true);
    assert_eq!(json("parallax checkpoint --json"), serde_json::json!({}));
    assert_eq!(json("parallax rm web -r --yes --json")["snapshots"], 1);

    let ran = f.run("parallax show web --json");
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, ran.out.as_str(), &error["code"]), (1, "", &"not_found".into()));
    let ran = f.run("parallax create web 20X --json");
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &error["code"]), (2, &"bad_request".into()));
}

#[test]
fn nothing_is_destroyed_without_a_yes() {
    let f = Fixture::new();
    f.must("parallax create web 1G");
    f.must("parallax snapshot create web");
    for line in [
        "parallax rm -r web",
        "parallax rollback web@1",
        "parallax snapshot rm web@1",
        "parallax resize web 512M --force",
    ] {
        let before = f.must("parallax show web --json");
        let ran = f.run(line);
        assert_eq!(ran.code, 1, "{line}");
        assert!(ran.err.contains("no terminal") && ran.err.contains("--yes"), "{line}: {}", ran.err);
        for answer in ["", "\n", "n\n", "yesterday\n", "never\n"] {
            let ran = f.at_terminal(line, Some(answer));
            assert_eq!(ran.code, 1, "{line} {answer:?}");
            assert!(ran.err.contains("? ") && ran.err.contains("[y/N]"), "{line}: {}", ran.err);
            assert!(ran.err.contains("nothing was changed"), "{line}: {}", ran.err);
        }
        assert_eq!(f.must("parallax show web --json"), before, "{line}");
        f.must(&format!("{line} -n"));
    }
    assert_eq!(f.at_terminal("parallax rollback web@1", Some("y\n")).code, 0);
    assert_eq!(f.at_terminal("parallax snapshot rm web@2", Some("YES\n")).code, 0);
    f.must("parallax resize web 512M --force --yes");
    f.must("parallax rm -r web --yes");
}

#[test]
fn without_a_daemon_the_error_names_the_socket() {
    let f = Fixture::new();
    let ran = f.run("parallax ls --run-dir /nonexistent");
    assert_eq!(ran.code, 2, "the same option twice is a usage error");
    let ran = run_at(std::path::Path::new("/nonexistent"), "parallax ls", None);
    assert_eq!(ran.code, 1);
    let expected = "error: no daemon answers at /nonexistent/control.sock";
    assert!(ran.err.starts_with(expected), "{}", ran.err);
}

#[test]
fn a_run_directory_too_deep_for_a_socket_is_a_clear_error() {
    let ran = run_at(std::path::Path::new(&format!("/{}", "d".repeat(120))), "parallax ls", None);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the system allows 107"), "{}", ran.err);
}

/// Every verb, also those below `snapshot`, with its words.
fn verbs(command: &clap::Command, words: &str, out: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands() {
        let words = format!("{words} {}", sub.get_name());
        if sub.has_subcommands() {
            verbs(sub, &words, out);
        }
        out.push((words, sub.clone()));
    }
}

#[test]
fn every_help_has_an_example_that_parses() {
    let mut all = Vec::new();
    verbs(&Cli::command(), "parallax", &mut all);
    assert!(all.len() >= 18);
    for (words, command) in all {
        assert!(command.get_about().is_some(), "{words} says nothing of itself");
        let help = command.get_after_help().unwrap_or_else(|| panic!("{words} has no example")).to_string();
        let example = help.strip_prefix("Example:\n  ").unwrap_or_else(|| panic!("{words}: {help}"));
        assert!(example.starts_with(&words), "{words} shows another verb's example: {example}");
        for line in example.lines() {
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {}", parsed.err().unwrap());
        }
        for arg in command.get_arguments().filter(|a| !a.is_global_set()) {
            assert!(arg.get_help().is_some(), "{words}: {} is not explained", arg.get_id());
        }
    }
    Cli::command().debug_assert();
}
