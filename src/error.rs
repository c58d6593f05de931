//! One error type, whose [`Fault`] says how to *react*, not where it came from.
//!
//! Drivers' errors are translated once, at the edge of each kind. What reacts to a fault is decided in one place,
//! `engine::policy`; everybody else passes errors on with `?`. A message starts with what was attempted, names stream,
//! lane, partition and position where they help, ends with what to do when a person must act, and never holds a key's
//! value, a password or a connection string.

use std::fmt;
use std::time::Duration;

/// Result with driftless' own [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How to react to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The other side did not answer or said "not now": the same thing may be tried again.
    Transient,
    /// As [`Fault::Transient`], and the other side asked for a pause of this length.
    Throttled(Duration),
    /// What was staged in an open transaction is gone with its connection: the lane re-reads from its checkpoint.
    StageLost,
    /// Somebody else owns the stream: stop at once, exit code 3.
    Fenced,
    /// The source no longer has what follows our position, or the position belongs to another lineage: a gap.
    PositionLost,
    /// The sink refuses this very change (too large, constraint): stop and say which.
    Rejected,
    /// Data from outside is not what its format says, or our own records contradict each other: stop.
    Corrupt,
    /// Configuration, permission or state that a person must change: exit code 2.
    Config,
    /// A stop was asked for; not a failure.
    Stopped,
    /// One of our own invariants does not hold: stop rather than write something wrong.
    Bug,
}

/// An error: how to react, what was attempted, and the cause if another library reported one. One word wide.
pub struct Error(Box<Inner>);

struct Inner {
    fault: Fault,
    what: String,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error that calls for the given reaction. `what` is one lowercase sentence without a full stop.
    pub fn new(fault: Fault, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { fault, what: what.into(), cause: None }))
    }

    /// Shorthand for [`Fault::Transient`].
    pub fn transient(what: impl Into<String>) -> Self {
        Self::new(Fault::Transient, what)
    }

    /// Shorthand for [`Fault::Fenced`].
    pub fn fenced(what: impl Into<String>) -> Self {
        Self::new(Fault::Fenced, what)
    }

    /// Shorthand for [`Fault::PositionLost`].
    pub fn position_lost(what: impl Into<String>) -> Self {
        Self::new(Fault::PositionLost, what)
    }

    /// Shorthand for [`Fault::Rejected`].
    pub fn rejected(what: impl Into<String>) -> Self {
        Self::new(Fault::Rejected, what)
    }

    /// Shorthand for [`Fault::Corrupt`].
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::new(Fault::Corrupt, what)
    }

    /// Shorthand for [`Fault::Config`].
    pub fn config(what: impl Into<String>) -> Self {
        Self::new(Fault::Config, what)
    }

    /// Shorthand for [`Fault::Bug`].
    pub fn bug(what: impl Into<String>) -> Self {
        Self::new(Fault::Bug, what)
    }

    /// Shorthand for [`Fault::Stopped`].
    pub fn stopped() -> Self {
        Self::new(Fault::Stopped, "stopped on request")
    }

    /// Adds the library error behind this one. Its text is shown to the user, so it must not hold a secret.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Puts what was being attempted before the message.
    #[must_use]
    pub fn during(mut self, attempt: impl fmt::Display) -> Self {
        self.0.what = format!("{attempt}: {}", self.0.what);
        self
    }

    /// How to react.
    pub fn fault(&self) -> Fault {
        self.0.fault
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        let mut cause = self.0.cause.as_deref().map(|c| c as &dyn std::error::Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.fault)
    }
}

impl std::error::Error for Error {}
