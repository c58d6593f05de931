//! One lane's writes: each commit is one transaction that compares the lane's epoch and number, and raises the number.
//!
//! A commit lands only on the number before its own, under the epoch that this writer claimed, in the division that the claim
//! was of. So a late twin changes nothing. There is no other way in which data is written: the first copy goes this way too,
//! because what a process that was stopped has sent without a condition would land whenever it wakes up. Commits of a lane
//! touch the same item, so one is on its way at a time; lanes do not share any.
//!
//! A transaction is sent again, as it was and under its own token, while the service is busy with the same items, is away or
//! asks for a pause. What this does not do: decide whether a commit that was not answered is made again. Whoever waits does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{CancellationReason, ConditionCheck, TransactWriteItem};
use tokio::time::sleep;

use super::change::Change;
use super::claim::Taken;
use super::connect::{Access, passes};
use super::fault::{Cause, cause, fault, of_cause, of_code};
use super::layout::Keys;
use super::ledger::{self, Lane, n};
use super::pace::jitter;
use super::txn::{self, Folded, incomplete};
use crate::error::{Error, Result};
use crate::model::{Changes, Checkpoint, Claim, Commit, Micros, Standing};
use crate::sink::Writer;
use crate::source::Fut;

/// LIMIT: how often a transaction is sent again, some fifteen seconds in all; then the caller decides. Its token is good for
/// ten minutes.
const TRIES: u32 = 12;
/// The first pause between two tries.
const FIRST: Duration = Duration::from_millis(16);
/// LIMIT: the longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(2);
/// LIMIT: checkpoints that are remembered for commits that are made again.
const REMEMBERED: usize = 4;
/// LIMIT: items that go in one transaction of a clear, beside what it compares.
const CLEARED: usize = 99;

/// The handle of a lane.
pub struct DynamoWriter {
    desk: Arc<Desk>,
    /// The checkpoint after each of the last commits.
    after: VecDeque<(u64, Checkpoint)>,
}

/// What a commit on its way needs.
struct Desk {
    access: Access,
    stream: String,
    attempt: String,
    /// The record of the lane.
    lane: String,
    /// What the records of its positions begin with.
    division: String,
    number: u16,
    epoch: u64,
    /// The highest number that was to be committed here.
    given: AtomicU64,
}

/// Slots with what is in them from now on; `None` for a commit that others have landed on.
type Places = Option<Vec<(usize, Checkpoint)>>;

/// What a transaction came to.
enum Sent {
    Landed,
    /// The lane stood otherwise; `None`: it is gone.
    Refused(Option<Lane>),
}

impl DynamoWriter {
    /// Of a lane that was just claimed.
    pub fn new(access: &Access, claim: &Claim, taken: &Taken) -> Self {
        let desk = Desk {
            access: access.clone(),
            stream: claim.stream.as_str().to_owned(),
            attempt: format!("commit on lane {} of stream {}", claim.lane, claim.stream),
            lane: ledger::lane(&taken.division, claim.lane),
            division: taken.division.clone(),
            number: claim.lane,
            epoch: taken.lane.epoch,
            given: AtomicU64::new(taken.lane.number),
        };
        let after = VecDeque::from([(taken.lane.number, taken.lane.checkpoint(&taken.base))]);
        Self { desk: Arc::new(desk), after }
    }

    /// What a commit makes of the lane's positions.
    fn places(&mut self, commit: &Commit) -> Places {
        let at = self.after.iter().position(|(number, _)| number + 1 == commit.number)?;
        self.after.truncate(at + 1);
        let mut checkpoint = self.after.back()?.1.clone();
        checkpoint.retain(|partition| !commit.forget.contains(partition));
        checkpoint.merge(&commit.upto);
        let moved = commit.upto.iter().map(|(partition, _)| partition);
        let slots = ledger::slots(commit.forget.iter().chain(moved));
        let places = slots.into_iter().map(|slot| (slot, ledger::slot(&checkpoint, slot))).collect();
        self.after.push_back((commit.number, checkpoint));
        while self.after.len() > REMEMBERED {
            self.after.pop_front();
        }
        Some(places)
    }
}

impl Writer for DynamoWriter {
    fn stage<'a>(&'a mut self, _: &'a Arc<Changes>) -> Fut<'a, ()> {
        Box::pin(async { Err(Error::bug("stage changes: a transaction of DynamoDB cannot be left open")) })
    }

    fn commit(&mut self, commit: Arc<Commit>) -> Fut<'static, ()> {
        // ORDERING: Relaxed; whoever reads it was handed what was sent, which came later.
        self.desk.given.fetch_max(commit.number, Ordering::Relaxed);
        let (places, desk) = (self.places(&commit), Arc::clone(&self.desk));
        Box::pin(async move {
            let landed = desk.land(&commit, places).await;
            landed.map_err(|error| error.during(format!("commit {}", commit.number)))
        })
    }
}

impl Desk {
    /// Brings a commit to its end.
    async fn land(&self, commit: &Commit, places: Places) -> Result<()> {
        let sent = match places {
            Some(places) => self.send(commit, &places).await?,
            None => Sent::Refused(self.look().await?),
        };
        let lane = match sent {
            Sent::Landed => return Ok(()),
            Sent::Refused(lane) => lane.filter(|lane| lane.epoch == self.epoch),
        };
        let Some(lane) = lane else {
            return Err(Error::fenced(format!("{}: another process has claimed the lane", self.attempt)));
        };
        // ORDERING: Relaxed, see `commit`.
        match Standing::of(lane.number, commit.number, self.given.load(Ordering::Relaxed))? {
            Standing::Landed => Ok(()),
            Standing::Next => Err(Error::bug(format!("{}: the lane stood where it should, and refused", self.attempt))),
        }
    }

    async fn send(&self, commit: &Commit, places: &[(usize, Checkpoint)]) -> Result<Sent> {
        let layout = self.access.options().layout;
        let folded = Folded::of(&commit.changes, layout, wall()?)?;
        let before = commit.number.checked_sub(1).ok_or_else(|| Error::bug("commits are counted from 1"))?;
        if let Some(keys) = &folded.clears
            && let refused @ Sent::Refused(_) = self.clear(keys, before).await?
        {
            return Ok(refused);
        }
        let ours = &self.access.options().checkpoints;
        let mut lane = Change::of(ledger::key(&self.stream, &self.lane));
        lane.set("Number", n(commit.number));
        lane.same("Number", n(before));
        lane.same("Epoch", n(self.epoch));
        let mut actions = vec![lane.action(ours)?];
        for (slot, inside) in places {
            let record = ledger::at(&self.division, self.number, *slot);
            actions.push(txn::put(ours, ledger::positions(&self.stream, &record, inside))?);
        }
        let head = actions.len();
        folded.actions(self.access.table(), &mut actions)?;
        let name = |index: usize| {
            let item = index.checked_sub(head).and_then(|index| folded.items.get(index));
            item.map_or("of our own", |(name, _)| name.as_str()).to_owned()
        };
        self.transact(actions, &name).await
    }

    /// Removes every item, in steps of their own: no transaction holds them all. Each compares where the lane stands.
    async fn clear(&self, keys: &Keys, before: u64) -> Result<Sent> {
        tracing::warn!(stream = self.stream, "everything is cleared, in steps that are visible one by one");
        loop {
            let found = self.some_keys(keys).await?;
            if found.is_empty() {
                return Ok(Sent::Landed);
            }
            let check = ConditionCheck::builder()
                .table_name(&self.access.options().checkpoints)
                .set_key(Some(ledger::key(&self.stream, &self.lane)))
                .condition_expression("#number = :before AND #epoch = :epoch")
                .expression_attribute_names("#epoch", "Epoch")
                .expression_attribute_names("#number", "Number")
                .expression_attribute_values(":before", n(before))
                .expression_attribute_values(":epoch", n(self.epoch))
                .return_values_on_condition_check_failure(
                    aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure::AllOld,
                )
                .build()
                .map_err(|_| incomplete())?;
            let mut actions = vec![TransactWriteItem::builder().condition_check(check).build()];
            for key in found {
                actions.push(txn::delete(self.access.table(), key)?);
            }
            if let refused @ Sent::Refused(_) = self.transact(actions, &|_| "that goes".to_owned()).await? {
                return Ok(refused);
            }
        }
    }

    async fn some_keys(&self, keys: &Keys) -> Result<Vec<super::body::Attributes>> {
        let names: Vec<String> = keys.names().into_iter().map(str::to_owned).collect();
        let limit = i32::try_from(CLEARED).unwrap_or(1);
        let mut start = None;
        loop {
            let answer = self
                .access
                .ask("look at what is to be cleared", |client| {
                    let mut question = client.scan().table_name(self.access.table()).consistent_read(true).limit(limit);
                    for (index, name) in names.iter().enumerate() {
                        question = question.expression_attribute_names(format!("#k{index}"), name);
                    }
                    let names: Vec<_> = (0..names.len()).map(|index| format!("#k{index}")).collect();
                    let question =
                        question.projection_expression(names.join(", ")).set_exclusive_start_key(start.clone());
                    async move { question.send().await }
                })
                .await?;
            let mut found = answer.items.unwrap_or_default();
            // What is not of the layout is somebody else's.
            found.retain(|item| matches!(keys.key(item), Ok(Some(_))));
            start = answer.last_evaluated_key;
            if !found.is_empty() || start.is_none() {
                return Ok(found);
            }
        }
    }

    /// Makes one transaction whose first action compares where the lane stands.
    async fn transact(&self, actions: Vec<TransactWriteItem>, name: &(dyn Fn(usize) -> String + Sync)) -> Result<Sent> {
        let client = self.access.client().await?;
        let token = uuid::Uuid::new_v4().to_string();
        let mut pause = FIRST;
        for left in (0..TRIES).rev() {
            self.access.writes().turn().await;
            let request = client.transact_write_items().client_request_token(&token);
            let Err(error) = request.set_transact_items(Some(actions.clone())).send().await else {
                self.access.writes().took(0.0);
                return Ok(Sent::Landed);
            };
            let found = match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => {
                    match self.judge(canceled.cancellation_reasons(), name).await? {
                        Judged::Refused(lane) => return Ok(Sent::Refused(lane)),
                        Judged::Later(cause) => cause,
                    }
                }
                _ => cause(&error),
            };
            if found == Cause::Throttled {
                self.access.writes().refused();
            }
            if !passes(found) && found != Cause::Canceled {
                return Err(fault(&self.attempt, &error));
            }
            if left == 0 {
                return Err(of_cause(&self.attempt, found));
            }
            sleep(jitter(pause)).await;
            pause = (pause * 2).min(LONGEST);
        }
        Err(Error::bug(format!("{}: no try was made", self.attempt)))
    }

    /// Why a transaction was given up.
    async fn judge(&self, reasons: &[CancellationReason], name: &(dyn Fn(usize) -> String + Sync)) -> Result<Judged> {
        let mut later = Cause::Canceled;
        for (index, reason) in reasons.iter().enumerate() {
            let code = reason.code().unwrap_or("None");
            let cause = of_code(code, reason.message().unwrap_or_default());
            match cause {
                _ if code == "None" => {}
                Cause::Otherwise if index == 0 => {
                    return Ok(Judged::Refused(match reason.item() {
                        Some(item) => Some(Lane::read(item)?),
                        None => self.look().await?,
                    }));
                }
                Cause::TooLarge => {
                    let told = of_cause(&self.attempt, cause);
                    return Err(told.during(format!("write the item {}", name(index))));
                }
                cause if passes(cause) => later = cause,
                cause => return Err(of_cause(&self.attempt, cause).during(format!("write the item {}", name(index)))),
            }
        }
        Ok(Judged::Later(later))
    }

    /// Where the lane stands; `None` if it is gone.
    async fn look(&self) -> Result<Option<Lane>> {
        let answer = self
            .access
            .ask(&self.attempt, |client| {
                let question = client
                    .get_item()
                    .table_name(&self.access.options().checkpoints)
                    .set_key(Some(ledger::key(&self.stream, &self.lane)))
                    .consistent_read(true);
                async move { question.send().await }
            })
            .await?;
        answer.item.as_ref().map(Lane::read).transpose()
    }
}

/// What a transaction's reasons come to.
enum Judged {
    Refused(Option<Lane>),
    Later(Cause),
}

fn wall() -> Result<Micros> {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let micros = since.ok().and_then(|since| Micros::try_from(since.as_micros()).ok());
    micros.ok_or_else(|| Error::config("read the clock: it stands before 1970; set it"))
}
