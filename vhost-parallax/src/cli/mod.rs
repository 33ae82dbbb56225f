//! `parallax`, the administrator's command: one verb per file.
//!
//! A verb turns its arguments into requests to the daemon and the answers into text, or JSON with
//! `--json`. `format` and `check` work on a store directly; the daemon must not have it open. Nothing is
//! destroyed without `--yes` or a yes typed at a terminal.
//!
//! Exit codes: 0 done, 1 failed, 2 usage; `check` as `qemu-img check`.

mod attach;
mod check;
mod checkpoint;
mod client;
mod clone;
mod collect;
mod create;
mod detach;
mod format;
mod latency;
mod list;
mod parse;
mod resize;
mod rm;
mod rollback;
mod session;
mod show;
mod snapshot;
mod status;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod tree;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::control::api::error::ErrorBody;
use crate::control::api::run_dir::RUN_DIR_ENV;

pub use session::{Session, Terminal};

/// The exit code of a failure.
const FAILED: u8 = 1;
/// The exit code of a command line that makes no sense.
const USAGE: u8 = 2;

/// Virtual disk images on one shared store: create, attach, snapshot, clone, roll back.
#[derive(Parser)]
#[command(name = "parallax", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Example:\n  parallax create web 20G && parallax attach web\n\n\
    Snapshots are named VDI@NUMBER or VDI@LABEL. 'parallax VERB --help' shows an example of each verb.")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args)]
struct Global {
    /// Print JSON; errors too
    #[arg(long, global = true)]
    json: bool,
    /// Run directory of the daemon [default: /run/parallax, or $XDG_RUNTIME_DIR/parallax when not root]
    #[arg(long, global = true, value_name = "DIR", env = RUN_DIR_ENV, hide_env_values = true)]
    run_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    Format(format::Format),
    Check(check::Check),
    Create(create::Create),
    Ls(list::List),
    Show(show::Show),
    Rm(rm::Remove),
    Resize(resize::Resize),
    Clone(clone::CloneVdi),
    Rollback(rollback::Rollback),
    Attach(attach::Attach),
    Detach(detach::Detach),
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    Tree(tree::Forest),
    Status(status::ShowStatus),
    Latency(latency::Latency),
    Collect(collect::Collect),
    Checkpoint(checkpoint::Checkpoint),
}

impl Verb {
    fn run(self, session: &mut Session) -> Result<u8, ErrorBody> {
        match self {
            Verb::Format(verb) => verb.run(session)?,
            Verb::Check(verb) => return verb.run(session),
            Verb::Create(verb) => verb.run(session)?,
            Verb::Ls(verb) => verb.run(session)?,
            Verb::Show(verb) => verb.run(session)?,
            Verb::Rm(verb) => verb.run(session)?,
            Verb::Resize(verb) => verb.run(session)?,
            Verb::Clone(verb) => verb.run(session)?,
            Verb::Rollback(verb) => verb.run(session)?,
            Verb::Attach(verb) => verb.run(session)?,
            Verb::Detach(verb) => verb.run(session)?,
            Verb::Snapshot(verb) => verb.run(session)?,
            Verb::Tree(verb) => verb.run(session)?,
            Verb::Status(verb) => verb.run(session)?,
            Verb::Latency(verb) => verb.run(session)?,
            Verb::Collect(verb) => verb.run(session)?,
            Verb::Checkpoint(verb) => verb.run(session)?,
        }
        Ok(0)
    }
}

/// Run the command line `args` (the program's name first) and return its exit code.
pub fn run(args: Vec<OsString>, terminal: Terminal) -> u8 {
    let json = args.iter().any(|arg| arg == "--json");
    match Cli::try_parse_from(args) {
        Ok(cli) => {
            let mut session = Session::new(terminal, cli.global.json, cli.global.run_dir);
            match cli.verb.run(&mut session) {
                Ok(code) => code,
                Err(error) => {
                    session.report(&error);
                    FAILED
                }
            }
        }
        Err(e) => usage(&e, json, terminal),
    }
}

const USAGE_HINT: &str = "'parallax --help' and 'parallax VERB --help' show the usage";

/// What clap has to say: help and version are no errors.
fn usage(e: &clap::Error, json: bool, mut terminal: Terminal) -> u8 {
    let mut text = e.render().to_string();
    if !e.use_stderr() {
        let _closed_pipe = write!(terminal.out, "{text}");
        return 0;
    }
    if !text.contains("\nhint:") {
        text = text.replace("For more information, try '--help'.", &format!("hint: {USAGE_HINT}"));
    }
    if json {
        let message = text.trim_start_matches("error: ").lines().take_while(|l| !l.is_empty());
        let message = message.collect::<Vec<_>>().join(" ");
        Session::new(terminal, true, None).report(&ErrorBody::bad_request(message, USAGE_HINT));
    } else {
        let _closed_pipe = write!(terminal.err, "{text}");
    }
    USAGE
}
