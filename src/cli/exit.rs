//! How the process ends: the exit code of an error, and the one line that says why.
//!
//! Nothing here shows more than an [`Error`]'s own sentence. A panic is one of our own invariants failing: the whole
//! process stops, with the place and, where it is a constant of the program, the invariant, because a formatted message
//! could hold data.

use std::io::Write as _;
use std::panic::PanicHookInfo;

use crate::error::{Error, Fault};

/// Exit codes. Stable: scripts depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Usage or configuration.
    Usage = 2,
    /// Another process owns the stream.
    Fenced = 3,
    /// The two sides differ.
    Different = 4,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.fault() {
            Fault::Stopped => Self::Done,
            Fault::Config => Self::Usage,
            Fault::Fenced => Self::Fenced,
            Fault::Transient
            | Fault::Throttled(_)
            | Fault::StageLost
            | Fault::PositionLost
            | Fault::Rejected
            | Fault::Corrupt
            | Fault::Bug => Self::Failed,
        }
    }
}

/// Writes the last line about an error to stderr and gives the exit code.
pub fn report(error: &Error, json: bool) -> Exit {
    let exit = Exit::from(error);
    if exit == Exit::Done {
        return exit;
    }
    say(&error.to_string(), exit, json);
    exit
}

fn say(sentence: &str, exit: Exit, json: bool) {
    // Line breaks of a server's message must not turn one error into several lines.
    let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = if json {
        serde_json::json!({ "event": "error", "exit": exit as u8, "message": sentence }).to_string()
    } else {
        format!("driftless: {sentence}")
    };
    // A closed stderr leaves the exit code, which is all that can still be said.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Makes a panic anywhere end the process with exit code 1 and one line, without the payload unless it is a constant.
pub fn install_panic_hook(json: bool) {
    std::panic::set_hook(Box::new(move |info| {
        say(&describe(info), Exit::Failed, json);
        std::process::exit(i32::from(Exit::Failed as u8));
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(|| "an unknown place".into(), |at| format!("{}:{}", at.file(), at.line()));
    let invariant = info.payload().downcast_ref::<&'static str>().map_or(String::new(), |text| format!(" ({text})"));
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "stopped at {place}, where an invariant of driftless {version} does not hold{invariant}; nothing wrong was written, please report this line"
    )
}
