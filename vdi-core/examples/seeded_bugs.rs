//! `make seeded-bugs [BUG=name] [WORLDS=…] [SEED=…]`: runs worlds with each deliberate bug until one breaks a promise, and
//! prints a table of how many it took. Ends with 1 when a bug was not found in WORLDS worlds.
//!
//! Each bug runs in a process of its own: some break the engine so badly that a panic meets another.

use std::process::{Command, ExitCode};

use vdi_core::sabotage::Bug;
use vdi_core::sim::{Series, run_series};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    match std::env::var("ONE_BUG") {
        Ok(name) => one(&name),
        Err(_) => all(),
    }
}

/// Says on stdout which world found the bug, and how.
fn one(name: &str) -> ExitCode {
    let Some(bug) = Bug::named(name) else {
        eprintln!("there is no bug '{name}'");
        return ExitCode::from(2);
    };
    let seed = number("SEED", 1);
    let series = Series {
        seed,
        from: 0,
        worlds: number("WORLDS", 20_000),
        cycles: u64::MAX,
        jobs: 1,
        failures: 1,
        bug: Some(bug),
    };
    let progress = run_series(series, |_| {});
    let Some(failure) = progress.failures.first() else { return ExitCode::from(1) };
    println!("{}\t{}\t{}", progress.worlds, failure.seed, failure.what.replace('\n', " "));
    ExitCode::SUCCESS
}

fn all() -> ExitCode {
    let only = std::env::var("BUG").ok().filter(|name| !name.is_empty());
    let bugs: Vec<Bug> =
        Bug::ALL.into_iter().filter(|b| only.as_deref().is_none_or(|o| o == b.name_and_effect().0)).collect();
    println!("| bug | what it does | found in world | seed | by |\n|---|---|---|---|---|");
    let mut missed = 0;
    for bug in bugs {
        let (name, effect) = bug.name_and_effect();
        let program = std::env::current_exe().expect("this program has a path");
        let child = Command::new(program).env("ONE_BUG", name).output().expect("this program starts");
        let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        let mut words = out.trim_end().splitn(3, '\t');
        let row = match (child.status.code(), words.next(), words.next(), words.next()) {
            (Some(0), Some(worlds), Some(seed), Some(what)) => format!("{worlds} | {seed} | {}", by(what)),
            (Some(1), ..) => {
                missed += 1;
                "not found | - | -".to_owned()
            }
            // A panic met another: the hook has said in which world.
            _ => {
                let seed = err.rsplit("SEED=").next().and_then(|rest| rest.split(':').next()).unwrap_or("?");
                format!("{seed} | {seed} | two panics at once")
            }
        };
        println!("| `{name}` | {effect} | {row} |");
    }
    ExitCode::from(u8::from(missed > 0))
}

/// Which check found it, in a few words.
fn by(what: &str) -> String {
    let kinds = [
        ("panic: ", "assertion of the engine"),
        ("check after a collection", "checker: leak after a collection"),
        ("check after", "checker"),
        ("recovery holds", "recovery holds a disk"),
        ("open:", "recovery fails"),
        ("is torn", "model: torn block"),
        ("WRONG DATA", "model: garbage"),
        ("lost or undone", "model: lost or undone write"),
        ("not of this history", "model: foreign data"),
        ("certain is", "model: settled block changed"),
        ("stuck", "nothing moves"),
        ("NoSpace", "refused for want of space"),
        ("snapshot", "model: snapshot list"),
    ];
    let kind = kinds.iter().find(|(sign, _)| what.contains(sign)).map_or("other", |(_, kind)| kind);
    let words: String = what.chars().filter(|c| *c != '|').take(90).collect();
    format!("{kind}: {}", words.split_whitespace().collect::<Vec<_>>().join(" "))
}
