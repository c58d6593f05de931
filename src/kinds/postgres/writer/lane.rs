//! The protocol of one lane: which commit lands, and what a failure means.
//!
//! Invariants: a commit is one transaction that first sets the lane's number from `n - 1` to `n` under this epoch, so of
//! two twins one changes nothing; after a lost connection nothing is sent before the old backend is gone and the record
//! was read back. What was staged is in no other place than the open transaction.

use std::sync::Arc;

use super::apply::Way;
use super::arrays::{Parameter, Shelf};
use super::bindings::Bindings;
use super::destination::Destination;
use super::feed::Sender;
use super::fence;
use super::pipeline::{Pipeline, Step, Trouble};
use super::session::Session;
use super::sort::Sorted;
use super::sql;
use crate::error::{Error, Fault, Result};
use crate::kinds::postgres::conn::translate;
use crate::model::{Changes, Commit, Standing};

/// Whether a transaction is open with staged changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Staged {
    Nothing,
    Open,
    /// It went with its connection, or nobody knows whether its commit landed.
    Lost,
}

/// One lane under one epoch.
pub struct Lane {
    /// The destination.
    pub destination: Arc<Destination>,
    /// Stream.
    pub stream: String,
    /// Lane.
    pub lane: i32,
    /// Epoch.
    pub epoch: i64,
    /// Rows that the stream did not write may be in the destination's tables.
    pub foreign: bool,
    state: State,
}

struct State {
    session: Option<Session>,
    bindings: Bindings,
    generation: u64,
    shelf: Shelf,
    number: u64,
    /// The highest number that was to be committed here.
    given: u64,
    staged: Staged,
}

/// What is sent around the changes of a transaction.
#[derive(Clone, Copy)]
enum Frame<'a> {
    /// A commit with nothing staged.
    Whole(&'a Commit),
    /// A piece of a transaction that stays open.
    Piece,
}

/// Statements of a transaction, all sent.
pub struct Sent {
    pipeline: Pipeline,
    applied: Result<(), Trouble>,
    tried: Vec<u32>,
    /// See [`Sender::confused`].
    pub confused: bool,
}

impl Sent {
    /// Whether the end of the transaction was sent too, so that it does not stay open whatever the server thinks of it.
    pub fn is_whole(&self) -> bool {
        self.applied.is_ok()
    }

    /// Waits for the answers. The tables for which COPY was tried come with the trouble.
    pub async fn answer(mut self) -> Result<(), (Trouble, Vec<u32>)> {
        // What failed first counts, and that may be a statement before the one that noticed.
        match self.pipeline.drain().await.and(self.applied) {
            Ok(()) => Ok(()),
            // The session's answers cannot be told apart any more, so it ends, whatever the trouble was.
            Err(trouble) if self.confused && !matches!(trouble, Trouble::Lost(_)) => {
                Err((Trouble::Lost(trouble.into_error().during("start a copy")), self.tried))
            }
            Err(trouble) => Err((trouble, self.tried)),
        }
    }
}

impl Lane {
    /// A lane that was claimed by this session and stands at `number`.
    #[allow(clippy::too_many_arguments)] // What a claim gives, each needed.
    pub fn new(
        destination: Arc<Destination>,
        stream: String,
        lane: i32,
        epoch: i64,
        foreign: bool,
        session: Session,
        number: u64,
    ) -> Self {
        let state = State {
            session: Some(session),
            bindings: Bindings::default(),
            generation: destination.generation(),
            shelf: Shelf::default(),
            number,
            given: number,
            staged: Staged::Nothing,
        };
        Self { destination, stream, lane, epoch, foreign, state }
    }

    /// See [`crate::sink::Writer::commit`].
    pub async fn commit(&mut self, commit: &Commit) -> Result<()> {
        let number = commit.number;
        self.state.given = self.state.given.max(number);
        self.ready().await?;
        // What was staged is lost only for a commit that has not landed, so the standing comes first.
        match self.standing(number) {
            Ok(Standing::Landed) => {
                self.state.staged = Staged::Nothing;
                return Ok(());
            }
            _ if self.state.staged == Staged::Lost => return Err(self.stage_lost()),
            other => drop(other?),
        }
        match self.state.staged {
            Staged::Open => self.finish(commit, number).await,
            _ => self.whole(commit, number).await,
        }
    }

    fn standing(&self, number: u64) -> Result<Standing> {
        let standing = Standing::of(self.state.number, number, self.state.given);
        standing.map_err(|error| error.during(format!("write to lane {} of stream {}", self.lane, self.stream)))
    }

    /// See [`crate::sink::Writer::stage`].
    pub async fn stage(&mut self, changes: &Changes) -> Result<()> {
        self.ready().await?;
        if self.state.staged == Staged::Lost {
            return Err(self.stage_lost());
        }
        if self.state.staged == Staged::Nothing {
            self.open_stage().await?;
        }
        self.piece(changes).await
    }

    /// Makes sure of a session that may work for the lane.
    async fn ready(&mut self) -> Result<()> {
        let state = &mut self.state;
        if state.session.as_ref().is_none_or(Session::is_closed) {
            if state.staged == Staged::Open {
                state.staged = Staged::Lost;
            }
            state.session = None;
            let session = Session::open(&self.destination).await?;
            state.number = fence::rejoin(&session.client, &self.stream, self.lane, self.epoch).await?;
            state.bindings = Bindings::default();
            state.session = Some(session);
        }
        let generation = self.destination.generation();
        if state.generation != generation {
            state.generation = generation;
            state.bindings = Bindings::default();
            if let Some(session) = &mut state.session {
                session.forget_statements();
            }
        }
        Ok(())
    }

    fn stage_lost(&mut self) -> Error {
        self.state.staged = Staged::Nothing;
        Error::new(
            Fault::StageLost,
            format!("lane {} of stream {}: the open transaction was lost with its connection", self.lane, self.stream),
        )
    }

    async fn whole(&mut self, commit: &Commit, number: u64) -> Result<()> {
        let mut way = Way::Direct;
        loop {
            let trouble = match self.attempt(&commit.changes, Frame::Whole(commit), way).await {
                Ok(()) => {
                    self.state.number = number;
                    return Ok(());
                }
                Err((trouble, tried)) => match (trouble, self.next(way, tried)) {
                    (Trouble::Conflict(_), Some(next)) => {
                        way = next;
                        self.command("rollback").await?;
                        continue;
                    }
                    (trouble, _) => trouble,
                },
            };
            if matches!(trouble, Trouble::Lost(_)) {
                self.state.session = None;
            } else {
                self.command("rollback").await?;
            }
            return if matches!(trouble, Trouble::Stale) {
                self.explain(number).await
            } else {
                Err(trouble.into_error())
            };
        }
    }

    async fn open_stage(&mut self) -> Result<()> {
        let parameters = self.identity();
        let mut sender = self.sender()?;
        let begin = sender.session.start_batch("begin").await;
        sender.pipeline.push(Step::Frame, begin);
        let opened = match sender.execute(sql::OWNED, parameters, Step::Advance).await {
            Ok(()) => sender.pipeline.drain().await,
            Err(trouble) => Err(trouble),
        };
        match opened {
            Ok(()) => self.state.staged = Staged::Open,
            Err(Trouble::Stale) => return Err(fence::fenced(&self.stream, self.lane)),
            Err(trouble) => {
                self.state.session = None;
                return Err(trouble.into_error());
            }
        }
        Ok(())
    }

    /// Applies changes within the open transaction.
    async fn piece(&mut self, changes: &Changes) -> Result<()> {
        let mut way = Way::Direct;
        loop {
            let trouble = match self.attempt(changes, Frame::Piece, way).await {
                Ok(()) => return Ok(()),
                Err((trouble, tried)) => match (trouble, self.next(way, tried)) {
                    (Trouble::Conflict(_), Some(next)) => {
                        way = next;
                        if let Err(error) = self.command("rollback to driftless").await {
                            self.state.session = None;
                            tracing::debug!(%error, "the open transaction is lost");
                            return Err(self.stage_lost());
                        }
                        continue;
                    }
                    (trouble, _) => trouble.into_error(),
                },
            };
            // Whatever else went wrong, the transaction is of no use any more.
            self.state.session = None;
            self.state.staged = Staged::Nothing;
            return Err(if trouble.fault() == Fault::Transient { self.stage_lost().because(trouble) } else { trouble });
        }
    }

    /// Commits the open transaction.
    async fn finish(&mut self, commit: &Commit, number: u64) -> Result<()> {
        if !commit.changes.is_empty() {
            self.piece(&commit.changes).await?;
        }
        let parameters = self.advance(commit)?;
        let mut sender = self.sender()?;
        let ended = match sender.execute(sql::ADVANCE, parameters, Step::Advance).await {
            Ok(()) => {
                let end = sender.session.start_batch("commit").await;
                sender.pipeline.push(Step::Frame, end);
                sender.pipeline.drain().await
            }
            Err(trouble) => Err(trouble),
        };
        match ended {
            Ok(()) => {
                self.state.number = number;
                self.state.staged = Staged::Nothing;
                Ok(())
            }
            Err(Trouble::Stale) => {
                self.state.staged = Staged::Nothing;
                self.command("rollback").await?;
                self.explain(number).await
            }
            Err(trouble) => {
                // Nobody knows whether it landed until the record is read back.
                self.state.session = None;
                self.state.staged = Staged::Lost;
                self.ready().await.map_err(|error| error.during(trouble.into_error()))?;
                match self.standing(number)? {
                    Standing::Landed => {
                        self.state.staged = Staged::Nothing;
                        Ok(())
                    }
                    Standing::Next => Err(self.stage_lost()),
                }
            }
        }
    }

    /// Sends changes once, in one way, and waits for the answers. The tables for which COPY was tried in vain come with the
    /// trouble.
    async fn attempt(&mut self, changes: &Changes, frame: Frame<'_>, way: Way) -> Result<(), (Trouble, Vec<u32>)> {
        let sent = self.send(changes, frame, way).await.map_err(|error| (Trouble::from(error), Vec::new()))?;
        let confused = sent.confused;
        let result = sent.answer().await;
        if confused && matches!(result, Err((Trouble::Lost(_), _))) {
            self.state.session = None;
        }
        result
    }

    /// Sends changes once, in one way.
    async fn send(&mut self, changes: &Changes, frame: Frame<'_>, way: Way) -> Result<Sent> {
        let (before, after) = match frame {
            Frame::Whole(_) => ("begin", "commit"),
            Frame::Piece => ("savepoint driftless", "release driftless"),
        };
        let advance = match frame {
            Frame::Whole(commit) => Some(self.advance(commit)?),
            Frame::Piece => None,
        };
        let copying = matches!(frame, Frame::Whole(commit) if copies_only(commit));
        let layout = self.destination.layout;
        let mut sender = self.sender()?;
        let mut sorted = Box::pin(Sorted::new(changes, sender.session, layout, sender.bindings)).await?;
        let begin = sender.session.start_batch(before).await;
        sender.pipeline.push(Step::Frame, begin);
        let mut applied = match advance {
            Some(parameters) => sender.execute(sql::ADVANCE, parameters, Step::Advance).await,
            None => Ok(()),
        };
        if applied.is_ok() {
            applied = Box::pin(sender.apply(&mut sorted, way, copying)).await;
        }
        if applied.is_ok() {
            let end = sender.session.start_batch(after).await;
            sender.pipeline.push(Step::Frame, end);
        }
        let Sender { pipeline, tried, confused, .. } = sender;
        Ok(Sent { pipeline, applied, tried, confused })
    }

    /// Sends a commit behind `before` others that are not answered yet; `None` where it must wait until they are. If one
    /// of those does not land, this one changes nothing: its number does not follow the record's.
    ///
    /// # Errors
    /// As [`Lane::commit`]. The transaction that was begun may still be open.
    pub async fn send_behind(&mut self, commit: &Commit, before: usize) -> Result<Option<Sent>> {
        if before == 0 {
            self.ready().await?;
        }
        let follows = u64::try_from(before).is_ok_and(|before| {
            self.state.number.checked_add(before).and_then(|last| last.checked_add(1)) == Some(commit.number)
        });
        let usable = self.state.session.as_ref().is_some_and(|session| !session.is_closed());
        let known = self.state.generation == self.destination.generation();
        if !(follows && usable && known && self.state.staged == Staged::Nothing) {
            return Ok(None);
        }
        self.state.given = self.state.given.max(commit.number);
        self.send(&commit.changes, Frame::Whole(commit), Way::Direct).await.map(Some)
    }

    /// A commit that was sent by [`Lane::send_behind`] has landed.
    pub fn landed(&mut self, commit: &Commit) {
        self.state.number = commit.number;
    }

    /// A commit that was sent by [`Lane::send_behind`] has not landed, and what was sent after it neither; everything is
    /// answered. The session is as if nothing had been begun, or gone.
    pub async fn stumbled(&mut self, confused: bool) {
        if confused {
            self.state.session = None;
        }
        if let Err(error) = self.command("rollback").await {
            tracing::debug!(%error, "the session ended with the commit");
        }
    }

    /// The next way to try after a unique constraint stood in the way.
    fn next(&mut self, way: Way, tried: Vec<u32>) -> Option<Way> {
        let direct = !tried.is_empty();
        tried.into_iter().for_each(|target| self.state.bindings.collided(target));
        match way {
            Way::Direct if direct => Some(Way::Upsert),
            Way::Direct | Way::Upsert => Some(Way::Replace),
            // Rows of somebody else are not ours to remove.
            Way::Replace if !self.foreign => {
                tracing::warn!(stream = %self.stream, "rows of the destination hold unique values of incoming rows: they go");
                Some(Way::Evict)
            }
            Way::Replace | Way::Evict => None,
        }
    }

    fn sender(&mut self) -> Result<Sender<'_>> {
        let state = &mut self.state;
        let session = state.session.as_mut().ok_or_else(|| Error::transient("write to the destination: no session"))?;
        let sender = Sender {
            session,
            bindings: &mut state.bindings,
            pipeline: Pipeline::default(),
            shelf: state.shelf.clone(),
            tried: Vec::new(),
            confused: false,
        };
        Ok(sender)
    }

    async fn command(&mut self, text: &str) -> Result<()> {
        let Some(session) = &self.state.session else { return Ok(()) };
        let done = session.client.batch_execute(text).await;
        done.map_err(|error| {
            self.state.session = None;
            translate(&error, "write to the destination")
        })
    }

    fn identity(&self) -> Vec<Parameter> {
        let shelf = &self.state.shelf;
        vec![
            Parameter::raw(self.stream.as_bytes(), shelf),
            Parameter::raw(&self.lane.to_be_bytes(), shelf),
            Parameter::raw(&self.epoch.to_be_bytes(), shelf),
        ]
    }

    fn advance(&self, commit: &Commit) -> Result<Vec<Parameter>> {
        let shelf = &self.state.shelf;
        let mut parameters = self.identity();
        parameters.push(Parameter::raw(&commit.number.to_be_bytes(), shelf));
        parameters.push(Parameter::texts(commit.forget.iter().map(|partition| partition.as_str()), shelf)?);
        let positions: Vec<String> = commit.upto.iter().map(|(_, position)| position.to_string()).collect();
        parameters.push(Parameter::texts(commit.upto.iter().map(|(partition, _)| partition.as_str()), shelf)?);
        parameters.push(Parameter::texts(positions.iter().map(String::as_str), shelf)?);
        Ok(parameters)
    }

    /// Why the lane's record did not stand at the number before.
    async fn explain(&mut self, number: u64) -> Result<()> {
        let Some(session) = &self.state.session else { return Err(fence::fenced(&self.stream, self.lane)) };
        let text = "select number from driftless.lane where stream = $1 and lane = $2 and epoch = $3 and open";
        let found = session.client.query_opt(text, &[&self.stream, &self.lane, &self.epoch]).await;
        let row = found.map_err(|error| translate(&error, "read the lane's record"))?;
        self.state.number = fence::number(&row.ok_or_else(|| fence::fenced(&self.stream, self.lane))?)?;
        match self.standing(number)? {
            Standing::Landed => Ok(()),
            Standing::Next => Err(Error::bug(format!(
                "commit {number} of lane {} of stream {}: its record stood elsewhere, and now where it should",
                self.lane, self.stream
            ))),
        }
    }
}

/// Whether a commit holds nothing but pages of a first copy.
fn copies_only(commit: &Commit) -> bool {
    !commit.upto.is_empty() && commit.upto.iter().all(|(partition, _)| partition.as_str().starts_with("!snapshot/"))
}
