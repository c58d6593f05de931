//! Statements of one transaction that are under way, and what their first failure means.

use tokio_postgres::error::{Severity, SqlState};

use super::session::{Pending, answer};
use crate::error::{Error, Fault};
use crate::kinds::postgres::conn::translate;

/// What a statement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// BEGIN, SAVEPOINT and their like.
    Frame,
    /// The lane's compare-and-set.
    Advance,
    /// Filling columns of rows that must be there.
    Patch,
    /// Everything else that writes rows.
    Data,
}

/// Why a transaction did not happen.
#[derive(Debug)]
pub enum Trouble {
    /// The lane's record does not stand where the commit needs it.
    Stale,
    /// A row that was to be patched is not there.
    Hole,
    /// A unique or exclusion constraint stands in the way of the order in which rows were written.
    Conflict(Error),
    /// The session is of no use any more.
    Lost(Error),
    /// Anything else.
    Other(Error),
}

impl Trouble {
    /// What an error of the driver means for a statement.
    pub fn of(error: &tokio_postgres::Error, step: Step) -> Self {
        let Some(db) = error.as_db_error() else { return Self::Lost(translate(error, "write to the destination")) };
        let translated = || translate(error, "write to the destination");
        if matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
            return Self::Lost(Error::transient("write to the destination: the server ended the session"));
        }
        match (db.code(), step) {
            (&SqlState::DIVISION_BY_ZERO, Step::Advance) => Self::Stale,
            (&SqlState::DIVISION_BY_ZERO, Step::Patch) => Self::Hole,
            (&SqlState::UNIQUE_VIOLATION | &SqlState::EXCLUSION_VIOLATION, _) => Self::Conflict(translated()),
            _ => Self::Other(translated()),
        }
    }

    /// The error for the engine, where nothing else can be tried.
    pub fn into_error(self) -> Error {
        match self {
            Self::Stale => Error::bug("write to the destination: the lane's record was not looked at"),
            Self::Hole => Error::corrupt(
                "write to the destination: a row whose change is partial is not there, though both sides were equal: \
                 somebody else wrote to the destination; `driftless verify --repair` heals it",
            ),
            Self::Conflict(error) | Self::Lost(error) | Self::Other(error) => error,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if error.fault() == Fault::Transient { Self::Lost(error) } else { Self::Other(error) }
    }
}

/// Statements that were started and not yet answered, in order.
#[derive(Default)]
pub struct Pipeline {
    pending: Vec<(Step, Pending)>,
}

impl Pipeline {
    /// Adds a statement that was started.
    pub fn push(&mut self, step: Step, pending: Pending) {
        self.pending.push((step, pending));
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// The first failure in the order in which they were started; the later ones only repeat that the transaction is
    /// aborted.
    pub async fn drain(&mut self) -> Result<(), Trouble> {
        let mut first = Ok(());
        for (step, pending) in self.pending.drain(..) {
            if let Err(error) = answer(pending).await
                && first.is_ok()
            {
                first = Err(Trouble::of(&error, step));
            }
        }
        first
    }

    /// What made this statement fail: an earlier one that was still under way, or itself.
    pub async fn blame(&mut self, error: &tokio_postgres::Error, step: Step) -> Trouble {
        match self.drain().await {
            Err(first) => first,
            Ok(()) => Trouble::of(error, step),
        }
    }
}
