//! `make seeded-bugs [BUG=name] [WORLDS=…] [SEED=…]`: runs random worlds, and then the exhaustive slice, with each deliberate
//! bug until a promise is broken, and prints a table of how much that took. Ends with 1 when a bug was found by neither and is none of those that a
//! test of the engine finds, with every run of the tests.
//!
//! Each search runs in a process of its own: some bugs break the engine so badly that a panic meets another.

mod asked;

use std::process::{Command, ExitCode};

use asked::{bug, number};
use vdi_core::sabotage::Bug;
use vdi_core::sim::exhaustive::{Plan, Run, run};
use vdi_core::sim::{Series, run_series};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Names the bug to search for in worlds, in the environment of a process that does only that.
const WORLDS: &str = "WORLDS_WITH";
/// The same in sequences.
const SEQUENCES: &str = "SEQUENCES_WITH";

fn main() -> ExitCode {
    match (bug(WORLDS), bug(SEQUENCES)) {
        (Some(bug), _) => worlds(bug),
        (_, Some(bug)) => sequences(bug),
        _ => all(),
    }
}

/// Says on stdout in which world the bug was found, after how many crash-and-recover cycles of worlds before, and how.
fn worlds(bug: Bug) -> ExitCode {
    let series = Series {
        seed: number("SEED", 1),
        from: 0,
        worlds: number("WORLDS", 20_000),
        cycles: u64::MAX,
        jobs: 1,
        failures: 1,
        bug: Some(bug),
    };
    let progress = run_series(series, |_| {});
    let Some(failure) = progress.failures.first() else { return ExitCode::from(1) };
    let place = format!("{} | {}", failure.seed, progress.report.cycles);
    println!("{place}\t{}", failure.what.replace('\n', " "));
    ExitCode::SUCCESS
}

/// Says on stdout in which sequence of the slice the bug was found, and how.
fn sequences(bug: Bug) -> ExitCode {
    let wanted = Run { from: 0, count: u64::MAX, jobs: 1, failures: 1, bug: Some(bug) };
    let progress = run(&Plan::slice(), wanted, |_| {});
    let Some(broken) = progress.broken.first() else { return ExitCode::from(1) };
    println!("{}\t{}", broken.number, broken.what.replace('\n', " "));
    ExitCode::SUCCESS
}

fn all() -> ExitCode {
    let only = bug("BUG");
    println!(
        "| bug | what it does | found in world | cycles before | by | found in sequence | by | found by the test |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let mut missed = 0;
    for bug in Bug::ALL.into_iter().filter(|b| only.is_none_or(|o| o == *b)) {
        let (name, effect) = bug.name_and_effect();
        let (world, sequence) = (search(WORLDS, name), search(SEQUENCES, name));
        let test = bug.test();
        missed += u64::from(world.is_none() && sequence.is_none() && test.is_none());
        let world = world.unwrap_or_else(|| "not found | - | -".to_owned());
        let sequence = sequence.unwrap_or_else(|| "not found | -".to_owned());
        let test = test.map_or(String::new(), |test| format!("`{test}`"));
        println!("| `{name}` | {effect} | {world} | {sequence} | {test} |");
    }
    ExitCode::from(u8::from(missed > 0))
}

/// Search for the bug `name` in a process of its own: where it was found, and by what.
fn search(how: &str, name: &str) -> Option<String> {
    let program = std::env::current_exe().expect("this program has a path");
    let child = Command::new(program).env(how, name).output().expect("this program starts");
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    match (child.status.code(), out.trim_end().split_once('\t')) {
        (Some(0), Some((place, what))) => Some(format!("{place} | {}", by(what))),
        (Some(1), _) => None,
        // A panic ended the process: the hook has said where.
        _ => {
            let place = ["SEED=", "in sequence "].iter().find_map(|sign| err.rsplit_once(sign));
            let place = place.and_then(|(_, rest)| rest.split([':', ',']).next()).unwrap_or("?");
            let panic =
                err.lines().find(|l| !l.contains("panicked at") && !l.starts_with("in ")).unwrap_or("?");
            // It did not live to say how many cycles.
            let cycles = if how == WORLDS { " | ?" } else { "" };
            Some(format!("{place}{cycles} | {}", by(&format!("panic: {panic}"))))
        }
    }
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
