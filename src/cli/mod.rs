//! The program around the library: what the user typed, what is shown, how it ends.
//!
//! `ops` return values and print nothing; this module shows them. Only `print.rs` writes results to stdout; logs,
//! progress and errors go to stderr.

pub mod args;
pub mod exit;
pub mod http;
#[cfg(feature = "journal")]
mod journal;
#[cfg(feature = "journal")]
mod past;
pub mod print;
pub mod progress;
#[cfg(feature = "sqlite")]
mod show;
pub mod signals;
#[cfg(feature = "dynamodb")]
mod simulator;
mod work;

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Parser as _;

use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::outcome::Severity;
use crate::telemetry::{self, Format};
use args::{Cli, Command, LogFormat, Output, Target};
pub use exit::Exit;
use print::Printer;

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
    start_logs(output);
    keep_memory_private();
    let done = runtime().and_then(|runtime| runtime.block_on(run(&command, Printer::new(output.json))));
    match done {
        Ok(exit) => exit,
        Err(error) => exit::report(&error, output.json),
    }
}

fn start_logs(output: Output) {
    let format = if output.log_format == LogFormat::Json { Format::Json } else { Format::Text };
    telemetry::start_logs(output.verbose, format, std::io::stderr().is_terminal(), || progress::Stderr);
}

/// A core dump, or another process of the same user, must not get at the keys that pass through our memory.
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps could not be switched off; they would hold keys and values");
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("driftless").build();
    runtime.map_err(|error| Error::transient("start the runtime").because(error))
}

async fn run(command: &Command, printer: Printer) -> Result<Exit> {
    match command {
        Command::Status(status) => watch(&load(&status.target)?, status.watch, printer).await,
        Command::Check(check) if check.print_iam => {
            for policy in ops::check::policies(&load(&check.target)?)? {
                printer.policy(&policy)?;
            }
            Ok(Exit::Done)
        }
        Command::Check(check) => {
            let findings = ops::check::check(&load(&check.target)?).await;
            printer.findings(&findings)?;
            let wrong = findings.iter().any(|finding| finding.severity == Severity::Error);
            Ok(if wrong { Exit::Failed } else { Exit::Done })
        }
        Command::DropSlot(check) => {
            for dropped in ops::drop_slot::drop_slot(&load(&check.target)?).await? {
                printer.dropped(&dropped)?;
            }
            Ok(Exit::Done)
        }
        Command::Capture(options) => {
            ops::capture::capture(&load(&options.target)?, &signals::listen()?).await.map(|()| Exit::Done)
        }
        Command::Run(options) => work::run(load(&options.target)?, options, printer).await,
        Command::Clone(options) => work::clone(load(&options.target)?, options, printer).await,
        #[cfg(feature = "journal")]
        Command::Replay(options) => past::replay(load(&options.target)?, options, printer).await,
        #[cfg(feature = "journal")]
        Command::Restore(options) => past::restore(load(&options.target)?, options, printer).await,
        #[cfg(not(feature = "journal"))]
        Command::Replay(_) | Command::Restore(_) => {
            Err(Error::config("go back in time: this build of driftless was made without journals"))
        }
        Command::Verify(options) => work::compare(load(&options.target)?, options, printer).await,
        #[cfg(feature = "journal")]
        Command::Journal(what) => journal::run(what, printer),
        #[cfg(not(feature = "journal"))]
        Command::Journal(_) => Err(Error::config("journal: this build of driftless was made without journals")),
        #[cfg(feature = "sqlite")]
        Command::Demo(options) => show::run(options, printer).await,
        #[cfg(not(feature = "sqlite"))]
        Command::Demo(_) => Err(Error::config("demo: this build of driftless was made without sqlite, which it shows")),
        #[cfg(feature = "dynamodb")]
        Command::DynamodbSimulator(options) => simulator::run(options, printer).await,
        #[cfg(not(feature = "dynamodb"))]
        Command::DynamodbSimulator(_) => {
            Err(Error::config("simulate DynamoDB: this build of driftless was made without dynamodb"))
        }
    }
}

/// Shows what every pipeline is doing, once or until stopped.
async fn watch(config: &Config, again: bool, printer: Printer) -> Result<Exit> {
    printer.status(&ops::status::status(config).await?, again)?;
    if !again {
        return Ok(Exit::Done);
    }
    let mut stop = signals::listen()?;
    loop {
        let pause = tokio::time::timeout(Duration::from_secs(1), stop.wait_for(|stop| *stop));
        if pause.await.is_ok() {
            return Ok(Exit::Done);
        }
        printer.status(&ops::status::status(config).await?, true)?;
    }
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
