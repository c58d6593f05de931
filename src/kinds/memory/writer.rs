//! A connection to a memory sink: staged changes, and commits on their way in the order in which they were sent.
//!
//! A commit is on its way from the moment it is sent; it lands when any future of its connection is polled and its turn
//! has come. A connection that breaks takes everything with it that was staged or not yet answered; the next call makes
//! another one, under the same epoch. What was sent on a connection whose owner died may still land: nobody takes it back.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::{Error, Fault, Result};
use crate::kinds::memory::MemorySink;
use crate::kinds::memory::faults::{Call, Outcome, Site};
use crate::kinds::memory::sink::State;
use crate::model::{Batch, Changes, Claim, Commit, LaneRecord, PartitionId, Position, Steps, StreamId};
use crate::sink::Writer;
use crate::source::Fut;

/// A commit on its way.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) stream: StreamId,
    pub(super) lane: u16,
    pub(super) epoch: u64,
    pub(super) commit: Arc<Commit>,
    pub(super) staged: Vec<Arc<Changes>>,
    /// It was sent again without what had been staged for it.
    pub(super) lacks_stage: bool,
    /// The highest number that its writer had been given when it was sent.
    pub(super) given: u64,
    ticket: u64,
    call: Call,
}

impl Sent {
    /// The same commit with bytes of its own. A sink must not hold on to the engine's batches longer than until its answer,
    /// or the source would wait for their credit.
    fn owned(self) -> Self {
        let (number, changes) = (self.commit.number, owned(&self.commit.changes));
        let (forget, upto) = (self.commit.forget.clone(), self.commit.upto.clone());
        Self { commit: Arc::new(Commit { number, changes, forget, upto }), ..self }
    }
}

/// A copy that holds no batch of the engine's pool.
fn owned(changes: &Changes) -> Changes {
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("!owned"), Position::Start, Steps::Ordinal);
    for row in changes.iter() {
        let table = batch.table(row.table);
        batch.push_moved(row.op, row.fresh, table, row.key, row.body, row.from, row.at);
    }
    let batch = Arc::new(batch);
    let mut copy = Changes::default();
    let held = copy.hold(&batch);
    for index in 0..batch.len() {
        copy.pick(held, u32::try_from(index).expect("a batch holds fewer than 2^32 changes"));
    }
    copy
}

/// One connection.
#[derive(Default)]
pub(super) struct Connection {
    lost: bool,
    staged: Vec<Arc<Changes>>,
    sent: VecDeque<Sent>,
    tickets: u64,
    answers: Vec<(u64, Result<()>)>,
}

impl State {
    /// Breaks a connection.
    pub(super) fn lose(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.lost = true;
        connection.staged.clear();
        for sent in connection.sent.drain(..) {
            connection.answers.push((sent.ticket, Err(Error::transient("commit to a memory sink: no answer came"))));
        }
        self.doors.changed();
    }

    /// Lets commits of a connection land whose time has come.
    fn pump(&mut self, id: u64, cx: &Context<'_>) {
        while let Some(sent) = self.connections.get_mut(&id).and_then(|c| c.sent.front_mut()) {
            if sent.call.poll(&mut self.doors, cx).is_pending() {
                return;
            }
            let sent = sent.clone();
            match sent.call.outcome {
                Outcome::Reject => self.lose(id),
                Outcome::Late => {
                    self.limbo.push(sent.owned());
                    self.lose(id);
                }
                Outcome::AnswerLost => {
                    let behind = self.connections.get(&id).map(|c| c.sent.clone()).unwrap_or_default();
                    let fine = |sent: &Sent| !matches!(sent.call.outcome, Outcome::Reject | Outcome::Late);
                    // The first one that fails keeps the others from landing too, since each needs its predecessor.
                    behind.iter().take_while(|sent| fine(sent)).all(|sent| self.land(sent, false).is_ok());
                    self.lose(id);
                }
                Outcome::Go | Outcome::Slow(_) | Outcome::Hold => {
                    let answer = self.land(&sent, false);
                    let failed = answer.is_err();
                    let connection = self.connections.get_mut(&id).expect("the connection was found above");
                    connection.sent.pop_front();
                    connection.answers.push((sent.ticket, answer));
                    if failed {
                        self.lose(id);
                    }
                    self.doors.changed();
                }
            }
        }
    }
}

/// One lane's way into a memory sink.
pub(super) struct MemoryWriter {
    sink: MemorySink,
    stream: StreamId,
    lane: u16,
    epoch: u64,
    connection: u64,
    /// Something was staged that no commit has taken along yet.
    staged: bool,
    /// The last commit that took staged changes along.
    with_stage: Option<u64>,
    /// The highest number that was to be committed here.
    given: u64,
}

impl MemoryWriter {
    pub(super) fn new(sink: MemorySink, claim: &Claim, taken: &LaneRecord) -> Self {
        let connection = sink.lock().connect();
        let (stream, lane) = (claim.stream.clone(), claim.lane);
        let (epoch, given) = (taken.epoch, taken.number);
        Self { sink, stream, lane, epoch, connection, staged: false, with_stage: None, given }
    }

    /// Makes sure that there is a connection; an error if what was staged went with the last one.
    fn reconnect(&mut self) -> Result<()> {
        let mut state = self.sink.lock();
        if state.connections.get(&self.connection).is_some_and(|connection| !connection.lost) {
            return Ok(());
        }
        self.connection = state.connect();
        if std::mem::take(&mut self.staged) {
            return Err(Error::new(
                Fault::StageLost,
                "write to a memory sink: what was staged went with its connection",
            ));
        }
        Ok(())
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        // What is on its way stays on its way, and may land at any later time or never.
        let mut state = self.sink.lock();
        let sent = state.connections.remove(&self.connection).map(|connection| connection.sent);
        let landing = sent.into_iter().flatten().filter(|sent| sent.call.outcome != Outcome::Reject);
        state.limbo.extend(landing.map(Sent::owned));
    }
}

impl Writer for MemoryWriter {
    fn stage<'a>(&'a mut self, changes: &'a Arc<Changes>) -> Fut<'a, ()> {
        Box::pin(async move {
            let mut call = self.sink.lock().doors.knock(Site::Stage);
            poll_fn(|cx| call.poll(&mut self.sink.lock().doors, cx)).await;
            if !matches!(call.outcome, Outcome::Go | Outcome::Slow(_) | Outcome::Hold) {
                self.sink.lock().lose(self.connection);
            }
            self.reconnect()?;
            call.refused("stage changes in a memory sink")?;
            self.staged = true;
            let mut state = self.sink.lock();
            let connection = state.connections.get_mut(&self.connection).expect("reconnect made it");
            connection.staged.push(Arc::new(owned(changes)));
            Ok(())
        })
    }

    fn commit(&mut self, commit: Arc<Commit>) -> Fut<'static, ()> {
        if let Err(error) = self.reconnect() {
            return Box::pin(async { Err(error) });
        }
        let (sink, id, number) = (self.sink.clone(), self.connection, commit.number);
        let mut state = sink.lock();
        let call = state.doors.knock(Site::Commit);
        let connection = state.connections.get_mut(&id).expect("reconnect made it");
        connection.tickets += 1;
        let ticket = connection.tickets;
        let staged = std::mem::take(&mut connection.staged);
        let lacks_stage = !self.staged && self.with_stage == Some(number);
        if std::mem::take(&mut self.staged) {
            self.with_stage = Some(number);
        }
        self.given = self.given.max(number);
        let (stream, lane, epoch, given) = (self.stream.clone(), self.lane, self.epoch, self.given);
        connection.sent.push_back(Sent { stream, lane, epoch, commit, staged, lacks_stage, given, ticket, call });
        drop(state);
        Box::pin(poll_fn(move |cx| {
            let mut state = sink.lock();
            state.pump(id, cx);
            let Some(connection) = state.connections.get_mut(&id) else {
                return Poll::Ready(Err(Error::transient("commit to a memory sink: its writer is gone")));
            };
            let answers = &mut connection.answers;
            if let Some(index) = answers.iter().position(|(answered, _)| *answered == ticket) {
                return Poll::Ready(answers.swap_remove(index).1);
            }
            state.doors.wait(cx);
            Poll::Pending
        }))
    }
}
