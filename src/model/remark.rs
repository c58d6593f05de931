//! What a kind says about a place before anything is started.

/// How bad a remark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know.
    Note,
    /// It works today, and will hurt.
    Warning,
    /// It does not work.
    Error,
}

/// Something that was found at a source, a sink or a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// How bad it is.
    pub level: Level,
    /// What was found, in one sentence.
    pub what: String,
    /// What mends it; empty if nothing can be said.
    pub mend: String,
}

impl Remark {
    /// Of this level.
    pub fn new(level: Level, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level, what: what.into(), mend: mend.into() }
    }
}
