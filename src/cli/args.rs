//! What the user typed: clap types only, no decisions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config;

/// What `--help` says at its end.
const EXAMPLES: &str = "\
Examples:
  driftless check  -c clone.yaml            what would go wrong, before it does
  driftless clone  -c clone.yaml            one complete copy, then out
  driftless run    -c clone.yaml            copy, then follow every change until stopped
  driftless status -c clone.yaml --watch    how far the replica is
  driftless verify -c clone.yaml --repair   prove that both sides are equal, and make them so
  driftless restore -c back.yaml --at 2026-04-01T12:10:30Z   the state before a mistake, into an empty destination

A configuration of `teleport backend clone` works as it is:
  src: { type: sqlite, path: /var/lib/teleport/backend }
  dst: { type: postgresql, conn_string: \"postgresql://teleport@db-2/teleport?sslmode=verify-full\" }

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 fenced by another process, 4 different.";

/// Keeps a second copy of a Teleport cluster's backend, or of any PostgreSQL tables, and never lets it drift.
#[derive(Debug, Parser)]
#[command(name = "driftless", version, after_help = EXAMPLES, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to say it.
    #[command(flatten)]
    pub output: Output,
}

/// Options of every command about what is shown.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Write results to stdout as JSON, one object per line; logs stay on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on stderr; -vv says everything
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Form of the log lines on stderr, text if not given
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true, value_name = "text|json")]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    pub log_format: LogFormat,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Which configuration, and which part of it.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Configuration file; Teleport's clone.yaml works as it is
    #[arg(short, long, value_name = "FILE", env = "DRIFTLESS_CONFIG")]
    pub config: PathBuf,
    /// Only the pipeline of this name; may be given several times
    #[arg(short, long = "pipeline", value_name = "NAME")]
    pub pipelines: Vec<String>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy everything once, remove what the source no longer has, then end
    #[command(after_help = "\
Resumes where an earlier clone was interrupted. Refuses a destination that holds data of somebody else, unless the \
configuration says `force: true`. Needs no replication slot, publication or `wal_level = logical` at the source.\n\n\
With --json the last line is {\"event\":\"done\",\"items\":…,\"bytes\":…,\"seconds\":…,…}.")]
    Clone(Follow),
    /// Copy if needed, then follow every change until stopped
    #[command(after_help = "\
SIGTERM or Ctrl-C brings what is in flight to the destination and ends with 0; a second one ends at once, and the next \
start resumes. While another process owns the stream, this one stands by and takes over when the other is gone for ten \
seconds. /metrics, /livez, /readyz and /status.json are served at `listen` (127.0.0.1:9464).")]
    Run(Follow),
    /// Read every source into its journal until stopped, and touch no destination
    #[command(after_help = "\
The source may forget what the journal has. Goes on where the journal ends; what was missed in between is noted there. A \
`run` of the same configuration and `capture` exclude each other.")]
    Capture(Check),
    /// Bring a piece of the past, out of the journal, into the destination
    #[command(after_help = "\
Goes through the configured filters, and asks the configured source nothing. --from is where it begins: behind what was \
committed up to a time (2026-04-01T12:10:30Z), or behind a position as `status` and `journal show` write it. The destination \
must hold the state at --from, as `restore --at` makes it. One that was interrupted goes on when it is run again; when it \
is done, nothing at the destination reminds of it.\n\n\
With --json the last line is {\"event\":\"done\",\"name\":…,\"changes\":…,\"first\":…,\"last\":…,…}.")]
    Replay(Replay),
    /// Bring an empty destination to the state at an instant, out of the journal
    #[command(after_help = "\
From the newest snapshot of the journal before the instant (`journal.snapshot_every`) and the changes after it: exact to the \
commit, the state before the first transaction that was committed later. Goes through the configured filters, and asks the \
configured source nothing. One that was interrupted goes on when it is run again; when it is done, nothing at the \
destination reminds of it.\n\n\
With --json the last line is {\"event\":\"done\",\"name\":…,\"at\":…,\"items\":…,\"changes\":…,\"last\":…,…}.")]
    Restore(Restore),
    /// Compare both sides, also while they change; exit code 4 if they differ
    #[command(after_help = "\
Beside a running `run` the differences are judged against the changes that are still on their way, and --repair asks that \
process to mend them. Without one, the sides are judged as they are.")]
    Verify(Verify),
    /// Show how far each pipeline is
    Status(Status),
    /// Find what would go wrong, and the statement that mends it
    #[command(after_help = "Changes nothing anywhere. Exit code 0 if nothing is wrong, 1 otherwise.")]
    Check(Look),
    /// Remove the replication slot and publication of a pipeline from its PostgreSQL source
    #[command(after_help = "\
For a pipeline that is given up: the server stops keeping WAL for it. A later `run` of the same pipeline finds a gap and \
copies again. Refused while the slot is in use.")]
    DropSlot(Check),
    /// Show what was captured of a source: the journal's segments and readers, its changes, whether all of it is sound
    #[command(
        subcommand,
        after_help = "\
Works beside a running `run`, and changes nothing. Pipelines that share a journal show it once."
    )]
    Journal(Journal),
    /// Show a live replica at work: a writer, a kill -9, a resume and a verify, without any server
    Demo(Demo),
    /// Serve a simulated DynamoDB with DynamoDB Streams, for tests of anything that speaks to them
    #[command(after_help = "\
Speaks the service's own protocol, keeps everything in memory, and misbehaves as asked: shards end and split, records come late \
or are trimmed, calls are throttled or lost. Virtual time is moved by POST /_simulator/advance, or runs at --speed. The rules, each \
with its source, and the simulator's own calls: docs/dynamodb-simulator.md.\n\n\
With --json the first line is {\"event\":\"listening\",\"address\":…}.")]
    DynamodbSimulator(Simulator),
}

/// Options of `clone` and `run`.
#[derive(Clone, Debug, Args)]
pub struct Follow {
    /// Which configuration.
    #[command(flatten)]
    pub target: Target,
    /// Take the stream from its present owner at once instead of standing by
    #[arg(long)]
    pub takeover: bool,
}

/// Options of `replay`.
#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// Which configuration.
    #[command(flatten)]
    pub target: Target,
    /// Begin behind what was committed up to this time, or behind this position
    #[arg(long, value_name = "TIME|POSITION")]
    pub from: String,
    /// End with what was committed up to this time, or with this position; where the journal ends now if not given
    #[arg(long, value_name = "TIME|POSITION")]
    pub until: Option<String>,
    /// How fast, by the times of the commits: 1x as it happened, 10x, max (if not given)
    #[arg(long, value_name = "1x|10x|max")]
    pub speed: Option<String>,
    /// Only say what would reach the destination, by class or table; touches no destination
    #[arg(long, conflicts_with_all = ["speed", "force"])]
    pub dry_run: bool,
    /// Write also to a destination that holds another cluster's authorities, or that follows the source
    #[arg(long)]
    pub force: bool,
}

/// Options of `restore`.
#[derive(Clone, Debug, Args)]
pub struct Restore {
    /// Which configuration.
    #[command(flatten)]
    pub target: Target,
    /// The instant, or a position
    #[arg(long, value_name = "TIME|POSITION")]
    pub at: String,
    /// Write over a destination that is not empty; what only it has stays there
    #[arg(long)]
    pub force: bool,
}

/// Options of `verify`.
#[derive(Clone, Debug, Args)]
pub struct Verify {
    /// Which configuration.
    #[command(flatten)]
    pub target: Target,
    /// Make the destination equal to the source where they differ
    #[arg(long)]
    pub repair: bool,
    /// Name at most this many differing keys
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub show: usize,
    /// Take the stream from its present owner for the repair
    #[arg(long, requires = "repair")]
    pub takeover: bool,
}

/// Options of `status`.
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// Which configuration.
    #[command(flatten)]
    pub target: Target,
    /// Show it again every second until stopped
    #[arg(short, long)]
    pub watch: bool,
}

/// Options of `check`.
#[derive(Clone, Debug, Args)]
pub struct Look {
    /// Which configuration.
    #[command(flatten)]
    pub target: Target,
    /// Print the least that policies of AWS must allow, for each side that is a DynamoDB table, and ask nobody
    #[arg(long)]
    pub print_iam: bool,
}

/// Options of `capture` and `drop-slot`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Which configuration.
    #[command(flatten)]
    pub target: Target,
}

/// The verbs of `journal`.
#[derive(Clone, Debug, Subcommand)]
pub enum Journal {
    /// List segments, readers and snapshots
    Ls(Check),
    /// Print changes as JSON lines, keys and values hidden unless asked for
    #[command(after_help = "\
A time is written 2026-04-01T12:10:30Z. A position is written as `status` and this command write it (@…, or partition@… \
where the journal has several). --from gives what was committed at the time or later, or what follows the position; \
--until what was committed up to the time, or what the position has.")]
    Show(Show),
    /// Read all of it and check every frame; exit code 4 if it is damaged
    Verify(Check),
}

/// Options of `journal show`.
#[derive(Clone, Debug, Args)]
pub struct Show {
    /// Which configuration.
    #[command(flatten)]
    pub target: Target,
    /// Begin at this time, or behind this position
    #[arg(long, value_name = "TIME|POSITION")]
    pub from: Option<String>,
    /// End with this time or position
    #[arg(long, value_name = "TIME|POSITION")]
    pub until: Option<String>,
    /// Print at most this many lines
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Show whole keys, and bodies: a cluster's private keys are among them
    #[arg(long)]
    pub values: bool,
}

/// Options of `demo`.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Keep the demo's files here instead of removing them
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// Options of `dynamodb-simulator`.
#[derive(Clone, Debug, Args)]
pub struct Simulator {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub listen: std::net::SocketAddr,
    /// Where all chance comes from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How fast virtual time goes: 1x, 60x, …; 0x stands still but for /_simulator/advance
    #[arg(long, value_name = "FACTOR", default_value = "1x", value_parser = factor)]
    pub speed: u32,
    /// When virtual time begins, as 2026-04-01T12:00:00Z; now if not given
    #[arg(long, value_name = "TIME")]
    pub start: Option<jiff::Timestamp>,
    /// Open shards that a stream begins with
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub shards: u32,
    /// How long a shard stays open: 4h, 90s, …; 0s for ever
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = config::duration)]
    pub rotate_every: Duration,
    /// How many of a thousand shards are split when they end
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub split_permille: u32,
    /// Further options, as JSON: those of /_simulator/options
    #[arg(long, value_name = "JSON")]
    pub options: Option<String>,
}

/// `60x` or `60`.
fn factor(text: &str) -> Result<u32, String> {
    text.strip_suffix('x').unwrap_or(text).parse().map_err(|_| "a whole factor such as 1x, 60x or 0x".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
