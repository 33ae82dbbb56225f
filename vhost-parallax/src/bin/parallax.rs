//! `parallax`: the administrator's command.

use std::process::ExitCode;

use vhost_parallax::cli::{Terminal, run};

fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os().collect(), Terminal::of_process()))
}
