//! `vhost-parallax`: the daemon.

use std::process::ExitCode;

use clap::Parser;
use vhost_parallax::config::{Place, Typed};
use vhost_parallax::daemon;

/// Aligned blocks come and go with every request; the C library's allocator took a quarter of the daemon's CPU time
/// under random writes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let level = match std::env::var("PARALLAX_LOG").as_deref() {
        Ok("debug") => tracing::Level::DEBUG,
        Ok("warn") => tracing::Level::WARN,
        _ => tracing::Level::INFO,
    };
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_ansi(colours)
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let place = Place {
        env: &|key| std::env::var_os(key),
        is_root: rustix::process::geteuid().is_root(),
        groups: &groups,
    };
    let (exit, outcome) = match Typed::parse().meaning(&place) {
        Ok(config) => (1, daemon::run(&config)),
        Err(e) => (2, Err(e)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}\nhint: {}", e.message, e.hint);
            ExitCode::from(exit)
        }
    }
}
