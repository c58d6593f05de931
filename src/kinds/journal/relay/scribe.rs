//! Writes what was read into the journal, on a thread of its own, because it waits for disks.
//!
//! Everything that waits is written with one fsync. While a group is on its way to the disk the next one is made, where there
//! is something to make it of; a change that comes alone wakes nobody. A full disk only makes it wait: what it was given stays with it, the ring
//! drops nothing, the source's credits run out, and so reading pauses. Any other failure of the disk ends it, and with it
//! the capture. Pages of a snapshot come the same way, one at a time, and share the fsync of the changes around them, so
//! that a snapshot costs a change no wait of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};
use metrics::gauge;
use tokio::sync::oneshot;

use super::hub::Hub;
use super::press::Press;
use crate::error::{Error, Fault, Result};
use crate::kinds::journal::{Cursor, Disk, Held, Holder, Retained, Retention, Writer};
use crate::model::{Batch, Checkpoint, Micros, Op};
use crate::telemetry::names;

/// LIMIT: how often a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// LIMIT: how often it is written down what sinks need. Frames of so long are kept for nothing, and read again for nothing
/// after a restart.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// LIMIT: part of `max_bytes` that a snapshot leaves to the changes that come while it is taken.
const SPARE: u64 = 8;
/// LIMIT: bytes of pages after which it is looked again; little beside the smallest `max_bytes`.
const ROOM_EVERY: u64 = 4 << 20;

/// LIMIT: bytes of batches that take the disk longer than it takes to wake who writes them, so that it is worth being there
/// for the next ones meanwhile.
const MANY: usize = 256 << 10;

/// What is to be written.
pub(super) enum Order {
    /// A batch of the tail, with its number.
    Batch(u64, Arc<Batch>),
    /// A step of a snapshot. The answer comes once it is durable: the snapshot's number.
    Step(Step, Answer),
}

/// Who waits for a step.
pub(super) type Answer = oneshot::Sender<Result<u64>>;

/// A step of a snapshot.
pub(super) enum Step {
    /// It begins with this head, and will take about so many bytes.
    Begin(Checkpoint, u64),
    /// A page of the snapshot with this number.
    Page(u64, Batch),
    /// It ends with this head; whole, or given up.
    End(u64, Checkpoint, bool),
}

/// What shares one fsync.
#[derive(Default)]
pub(super) struct Round {
    /// The number of its last batch, or of the last one before it.
    last: u64,
    /// The frame that it ends with, and where partitions are there.
    sequence: u64,
    reached: Checkpoint,
    /// The last places in it at which no transaction was open.
    closed: Checkpoint,
    /// Who waits for a step of it.
    answers: Vec<(Result<u64>, Answer)>,
    bytes: usize,
    any: bool,
}

/// One thread that writes until its orders end or the disk fails.
pub(super) struct Scribe {
    pub(super) name: String,
    pub(super) hub: Arc<Hub>,
    pub(super) writer: Writer,
    /// Who writes what is under way, while the round is filled that comes next.
    pub(super) press: Press,
    pub(super) under_way: Option<Round>,
    pub(super) round: Round,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) orders: Receiver<Order>,
    /// Where the writer goes when the orders have ended, for the next capture.
    pub(super) done: Sender<Result<Writer>>,
    pub(super) retention: Retention,
    pub(super) now: fn() -> Micros,
    /// When it was tidied last.
    pub(super) tidied: Instant,
    /// Who was said to keep more than the limits allow.
    pub(super) told: Vec<Held>,
    /// Bytes of pages since it was looked whether there is room for them.
    pub(super) unseen: u64,
}

fn who(held: &Held) -> String {
    match &held.by {
        Holder::Reader(name) => format!("stream {name}"),
        Holder::Snapshot(number) => format!("snapshot {number}"),
    }
}

/// Nothing, where the disk is full.
fn pass_full<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.fault() == Fault::Transient => Ok(None),
        result => result.map(Some),
    }
}

impl Scribe {
    /// Starts the thread.
    pub(super) fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            let done = self.done.clone();
            let hub = Arc::clone(&self.hub);
            let result = self.run();
            if let Err(error) = &result {
                hub.fail(error);
            }
            // Nobody waits for it when the process ends.
            drop(done.send(result));
        })
    }

    fn run(mut self) -> Result<Writer> {
        self.show();
        // LIMIT: bytes of batches after which a group is begun although more is there: an fsync costs little beside them, and
        // as much can be made while they are written.
        let group = self.writer.waiting_bytes() / 2;
        loop {
            if self.tidied.elapsed() >= TIDY_EVERY {
                self.tidy()?;
            }
            select! {
                recv(self.orders) -> order => match order {
                    Ok(order) => self.take_in(order)?,
                    Err(_) => {
                        self.flush()?;
                        self.settle_all();
                        return Ok(self.writer);
                    }
                },
                recv(self.press.went()) -> said => {
                    let ended = self.press.ended(said);
                    self.went(ended)?;
                }
                default(TIDY_EVERY.saturating_sub(self.tidied.elapsed())) => {}
            }
            let more = !self.orders.is_empty();
            if !self.round.any || self.press.is_busy() || (more && self.round.bytes < group) {
                continue;
            }
            let many = self.round.bytes >= MANY;
            self.begin();
            if more || many {
                self.press.begin();
            } else {
                let ended = self.writer.put().map(drop);
                self.went(ended)?;
            }
        }
    }

    /// Takes an order into the round.
    fn take_in(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Batch(number, batch) => {
                self.append(&batch)?;
                self.round.last = number;
                self.round.bytes += batch.bytes();
                if !batch.marks().is_empty() {
                    self.round.closed.advance(&batch.partition, batch.upto());
                }
            }
            Order::Step(step, answer) => {
                let done = self.step(&step)?;
                self.round.answers.push((done, answer));
            }
        }
        self.round.any = true;
        Ok(())
    }

    /// The round is full: it is what is under way now.
    fn begin(&mut self) {
        let mut round = std::mem::take(&mut self.round);
        self.round.last = round.last;
        (round.sequence, round.reached) = (self.writer.take(), self.writer.reached());
        self.under_way = Some(round);
    }

    /// What was under way has come to its end, or waits for room.
    fn went(&mut self, ended: Result<()>) -> Result<()> {
        match ended {
            Ok(()) => self.hub.paused(None),
            Err(error) => self.wait_for_room(error)?,
        }
        if let Some(round) = self.under_way.take() {
            self.settle(round);
        }
        Ok(())
    }

    /// A round is durable.
    fn settle(&self, round: Round) {
        assert!(
            self.writer.durable() >= round.sequence,
            "a round is settled once an fsync has said that it is durable"
        );
        self.hub.settle(round.last, round.sequence, &round.reached, &round.closed);
        for (done, answer) in round.answers {
            // Whoever asked may have gone, as the capture did.
            drop(answer.send(done));
        }
    }

    /// Everything that was taken in is durable.
    fn settle_all(&mut self) {
        if self.round.any {
            self.begin();
        }
        if let Some(round) = self.under_way.take() {
            self.settle(round);
        }
    }

    /// Writes down what each sink still needs, and removes what nobody does. A disk that is full is no reason to stop.
    fn tidy(&mut self) -> Result<()> {
        let now = (self.now)();
        self.tidied = Instant::now();
        for (name, sequence) in self.hub.needs() {
            let known = Cursor::of(&*self.disk, &name)?;
            if known.is_none_or(|known| known.sequence < sequence) {
                pass_full(Cursor { name, sequence, moved: now, outrun: false }.write(&*self.disk))?;
            }
        }
        let Some(done) = pass_full(self.writer.retain(&self.retention, now))? else { return Ok(()) };
        self.tell(&done);
        gauge!(names::JOURNAL_BYTES, "journal" => self.name.clone()).set(done.bytes as f64);
        if self.hub.snapshot().is_some_and(|snapshot| snapshot.began < done.oldest) {
            self.hub.set_snapshot(None);
        }
        self.show();
        Ok(())
    }

    /// Says who keeps what should go, once for each, and who was not waited for.
    fn tell(&mut self, done: &Retained) {
        for held in done.held.iter().filter(|held| self.told.iter().all(|told| told.by != held.by)) {
            tracing::warn!(by = %who(held), bytes = done.bytes, "the journal keeps more than it should, because it is needed");
        }
        self.told.clone_from(&done.held);
        for outrun in &done.outrun {
            match &outrun.by {
                Holder::Reader(_) => tracing::error!(
                    by = %who(outrun),
                    "the journal is at max_bytes and lets go of what is still needed: a gap, healed by difference"
                ),
                Holder::Snapshot(_) => tracing::error!(
                    by = %who(outrun),
                    "the journal is at max_bytes and lets go of a snapshot: not every instant within `retain` can be \
                     restored any more"
                ),
            }
        }
    }

    /// Shows when the last whole snapshot ended.
    fn show(&self) {
        let ended = self.hub.snapshot().map_or(f64::NAN, |snapshot| snapshot.ended_at as f64 / 1e6);
        gauge!(names::JOURNAL_SNAPSHOT, "journal" => self.name.clone()).set(ended);
    }

    /// Takes a step of a snapshot; when as much waits as may, makes that durable first. The inner error is for whoever asked,
    /// the outer one ends the journal.
    fn step(&mut self, step: &Step) -> Result<Result<u64>> {
        let done = match self.try_step(step) {
            Err(error) if error.fault() == Fault::Transient => {
                self.flush()?;
                self.try_step(step)
            }
            done => done,
        };
        Ok(done)
    }

    fn try_step(&mut self, step: &Step) -> Result<u64> {
        let now = (self.now)();
        match step {
            Step::Begin(head, bytes) => {
                self.room(*bytes)?;
                self.writer.begin_snapshot(head, now)
            }
            Step::Page(snapshot, batch) => {
                self.unseen += batch.bytes() as u64;
                if self.unseen >= ROOM_EVERY {
                    self.room(0)?;
                    self.unseen = 0;
                }
                self.writer.append_page(*snapshot, batch, now).map(|_| *snapshot)
            }
            Step::End(snapshot, head, whole) => {
                self.writer.end_snapshot(*snapshot, head, *whole, now)?;
                if *whole {
                    self.hub.set_snapshot(self.writer.snapshots().last().copied());
                    self.show();
                }
                Ok(*snapshot)
            }
        }
    }

    /// Whether a snapshot may take so many bytes more: it costs no sink what it needs, nor the snapshot before it.
    fn room(&self, bytes: u64) -> Result<()> {
        let limit = self.retention.bytes;
        if self.writer.room(&self.retention)?.saturating_sub(limit / SPARE) > bytes {
            return Ok(());
        }
        Err(Error::config(format!(
            "the journal may take {} MiB, and what is needed of it leaves no room for a snapshot; set a larger `max_bytes`",
            limit >> 20
        )))
    }

    /// Takes a batch; when as much waits as may, makes that durable first.
    fn append(&mut self, batch: &Batch) -> Result<()> {
        if !self.hub.has_moved() && batch.rows().any(|row| row.op == Op::Patch && row.from.is_some()) {
            self.hub.moved();
        }
        if !self.hub.has_cleared() && batch.rows().any(|row| row.op == Op::Clear) {
            self.hub.cleared();
        }
        loop {
            match self.writer.append(batch, (self.now)()) {
                Err(error) if error.fault() == Fault::Transient => self.flush_some()?,
                result => return result.map(drop),
            }
        }
    }

    /// Makes durable what is under way, or else everything.
    fn flush_some(&mut self) -> Result<()> {
        if !self.press.is_busy() {
            return self.flush();
        }
        let ended = self.press.wait();
        self.went(ended)
    }

    /// Makes everything durable, however long a full disk takes.
    fn flush(&mut self) -> Result<()> {
        let ended = self.press.wait();
        self.went(ended)?;
        match self.writer.commit() {
            Ok(_) => {
                self.hub.paused(None);
                Ok(())
            }
            Err(error) => self.wait_for_room(error),
        }
    }

    /// Nothing could be written, for this reason: where the disk is full, tries until everything is durable.
    fn wait_for_room(&mut self, mut error: Error) -> Result<()> {
        while error.fault() == Fault::Transient {
            self.hub.paused(Some(&error));
            if self.hub.is_deserted() {
                return Err(error);
            }
            // A sink that gets on meanwhile may be all that it takes to make room.
            self.tidy()?;
            std::thread::sleep(FULL_PAUSE);
            match self.writer.commit() {
                Ok(_) => {
                    self.hub.paused(None);
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
        Err(error)
    }
}
