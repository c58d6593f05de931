//! The program around the library: what the user typed, what is shown, how it ends.
//!
//! `ops` return values and print nothing; this module shows them. Only `print.rs` writes results to stdout; logs,
//! progress and errors go to stderr.

pub mod args;
pub mod exit;

use clap::Parser as _;

use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::telemetry::{self, Format};
use args::{Cli, Command, LogFormat, Target};
pub use exit::Exit;

/// Runs the program: parses the command line, does what it says, reports, and gives the exit code.
pub fn main() -> Exit {
    let Cli { command, output } = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are results, everything else is a usage error; clap prints each where it belongs.
        Err(error) => {
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    exit::install_panic_hook(output.json);
    keep_memory_private();
    let format = if output.log_format == LogFormat::Json { Format::Json } else { Format::Text };
    telemetry::start_logs(
        output.verbose,
        format,
        std::io::IsTerminal::is_terminal(&std::io::stderr()),
        std::io::stderr,
    );
    match run(&command) {
        Ok(exit) => exit,
        Err(error) => exit::report(&error, output.json),
    }
}

/// A core dump, or another process of the same user, must not get at the keys that pass through our memory.
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps could not be switched off; they would hold keys and values");
    }
}

fn run(command: &Command) -> Result<Exit> {
    let target = match command {
        Command::Clone(follow) | Command::Run(follow) => &follow.target,
        Command::Verify(verify) => &verify.target,
        Command::Status(status) => &status.target,
        Command::Check(check) | Command::DropSlot(check) => &check.target,
        Command::Demo(_) => return Err(Error::config("demo: not part of this build")),
    };
    let _config = load(target)?;
    Err(Error::config("not part of this build"))
}

/// Reads the configuration and keeps the pipelines that were asked for.
fn load(target: &Target) -> Result<Config> {
    let mut config = config::load(&target.config)?;
    for note in &config.notes {
        tracing::info!("{note}");
    }
    for name in &target.pipelines {
        if !config.pipelines.iter().any(|pipeline| pipeline.name == *name) {
            let known: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
            return Err(Error::config(format!("no pipeline is called {name:?}; there are: {}", known.join(", "))));
        }
    }
    if !target.pipelines.is_empty() {
        config.pipelines.retain(|pipeline| target.pipelines.contains(&pipeline.name));
    }
    Ok(config)
}
