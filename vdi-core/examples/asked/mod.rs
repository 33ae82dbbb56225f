//! What the environment asks for.

use vdi_core::sabotage::Bug;

/// The number in variable `name`, or `default`; ends the program when it is none.
pub fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|e| {
            eprintln!("{name}={text}: {e}");
            std::process::exit(2);
        }),
        _ => default,
    }
}

/// The bug named in variable `name`, if any; ends the program when there is no such bug.
pub fn bug(name: &str) -> Option<Bug> {
    let asked = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let bug = Bug::named(&asked);
    if bug.is_none() {
        eprintln!("there is no bug '{asked}'");
        std::process::exit(2);
    }
    bug
}
