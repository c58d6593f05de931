//! `dynamodb-simulator`: from the command line to a listening service, until a signal comes.

use serde_json::{Map, Value as Json};

use crate::cli::args::Simulator;
use crate::cli::exit::Exit;
use crate::cli::print::Printer;
use crate::cli::signals;
use crate::error::{Error, Result};
use crate::simulator::dynamodb::{Options, Pace, Server};

/// Serves until it is told to stop.
pub(super) async fn run(wanted: &Simulator, printer: Printer) -> Result<Exit> {
    let start = wanted.start.and_then(|start| u64::try_from(start.as_millisecond()).ok());
    let server = Server::bind(wanted.listen, options(wanted)?, Pace { start, speed: wanted.speed }).await?;
    let stop = signals::listen()?;
    if let Some(address) = server.address() {
        printer.listening(address)?;
    }
    server.serve(stop).await;
    Ok(Exit::Done)
}

/// The flags, and over them what `--options` says.
fn options(wanted: &Simulator) -> Result<Options> {
    let flags = Options {
        seed: wanted.seed,
        shards: wanted.shards,
        rotate_every_seconds: wanted.rotate_every.as_secs(),
        split_permille: wanted.split_permille,
        ..Options::default()
    };
    let Some(text) = &wanted.options else { return Ok(flags) };
    let wrong = |error: serde_json::Error| Error::config(format!("read --options: {error}"));
    let changes: Map<String, Json> = serde_json::from_str(text).map_err(wrong)?;
    let mut all = serde_json::to_value(&flags).expect("options are plain data");
    for (name, value) in changes {
        all[name] = value;
    }
    serde_json::from_value(all).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser as _;

    fn parsed(words: &[&str]) -> Simulator {
        let words = ["driftless", "dynamodb-simulator"].iter().chain(words);
        let Command::DynamodbSimulator(wanted) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        wanted
    }

    #[test]
    fn flags_and_options_make_a_service() {
        let wanted =
            parsed(&["--speed", "60x", "--rotate-every", "5m", "--options", r#"{"faults":{"throttle":7},"shards":4}"#]);
        let options = options(&wanted).unwrap();
        assert_eq!(
            (wanted.speed, options.rotate_every_seconds, options.shards, options.faults.throttle),
            (60, 300, 4, 7)
        );
    }

    #[test]
    fn an_option_that_does_not_exist_is_a_mistake() {
        let error = options(&parsed(&["--options", r#"{"thottle":7}"#])).unwrap_err();
        assert!(error.to_string().contains("thottle"), "{error}");
    }
}
