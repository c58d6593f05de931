//! Claiming a lane, looking at a stream, and forgetting it.
//!
//! Invariant: whatever a claim decides on is compared in the transaction that it makes: how often the record of the stream
//! was written, which each claim does once more; the epoch of the lane, and its number where it must have stood still; and,
//! when the lanes are divided anew, epoch and number of all lanes. So of two claims that race the second one decides again,
//! and no commit slips in between.

use aws_sdk_dynamodb::types::TransactWriteItem;
use tokio::time::sleep;

use super::change::Change;
use super::connect::{Access, passes};
use super::create;
use super::describe::describe;
use super::fault::{Cause, cause, fault};
use super::ledger::{self, Known, Lane, SLOTS, Slots, Stream, n};
use super::look::{exact, lane, read, refuse_neighbours};
use super::pace::jitter;
use super::shape::Shape;
use super::txn::{self, incomplete};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Claim, Layout, StreamId, StreamRecord};

/// LIMIT: how often somebody else may be faster before the caller is to pause; claims are rare.
const TRIES: u32 = 30;

/// What a claim has brought.
pub struct Taken {
    /// The division that the lane belongs to.
    pub division: String,
    pub lane: Lane,
    pub base: Slots,
}

/// See [`crate::sink::Sink::claim`].
pub async fn claim(access: &Access, claim: &Claim) -> Result<Taken> {
    let attempt = format!("claim lane {} of stream {}", claim.lane, claim.stream);
    if claim.lane >= claim.scope.lanes {
        return Err(Error::bug(format!("{attempt}: the stream has only {} lanes", claim.scope.lanes)));
    }
    let options = access.options();
    create::own(access).await.map_err(|error| error.during(&attempt))?;
    if options.layout == Layout::Teleport {
        let found = describe(access, &options.table).await?;
        match &found {
            Some(found) => super::store::is_teleport(&options.table, found)?,
            None => create::data(access, &Shape::teleport(options.units)).await?,
        }
    }
    for tried in 0..TRIES {
        let mut known = read(access, &claim.stream).await?;
        if known.is_none() && !claim.foreign {
            refuse_neighbours(access, claim, &attempt).await?;
        }
        let mut step = Step::of(claim, known.as_ref(), &options.table, &attempt)?;
        if let (true, Some(known)) = (step.divided, &mut known) {
            exact(access, claim, known, &attempt).await?;
            step.base = known.record().frontier();
        }
        if write(access, &attempt, step.actions(access, claim, known.as_ref())?).await? {
            let (lane, base) = lane(access, &claim.stream, &step.stream.division, claim.lane, &attempt).await?;
            let lane = lane.filter(|lane| lane.epoch == step.epoch);
            let lane = lane.ok_or_else(|| Error::fenced(format!("{attempt}: somebody else has claimed it since")))?;
            clean(access, &claim.stream, known.as_ref(), step.divided).await;
            return Ok(Taken { division: step.stream.division, lane, base });
        }
        sleep(jitter(std::time::Duration::from_millis(10 + 10 * u64::from(tried)))).await;
    }
    Err(Error::transient(format!("{attempt}: others claim and commit all the time")))
}

/// What a claim will do.
struct Step {
    stream: Stream,
    epoch: u64,
    /// The lane as it is there.
    lane: Option<Lane>,
    divided: bool,
    /// What all lanes of the division before had passed.
    base: Checkpoint,
}

impl Step {
    fn of(claim: &Claim, known: Option<&Known>, table: &str, attempt: &str) -> Result<Self> {
        let seen = claim.seen.unwrap_or(0);
        let gone = || Err(Error::fenced(format!("{attempt}: its record has gone since it was looked at")));
        let division = || uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let base = Checkpoint::default();
        let Some(known) = known else {
            if seen != 0 {
                return gone();
            }
            let stream = Stream {
                format: StreamRecord::FORMAT,
                owner: claim.owner.0.clone(),
                layout: claim.scope.layout.clone(),
                extent: claim.scope.extent.clone(),
                lanes: claim.scope.lanes,
                foreign: claim.foreign,
                table: table.to_owned(),
                division: division(),
                floor: 0,
                version: 1,
            };
            return Ok(Self { stream, epoch: 1, lane: None, divided: false, base });
        };
        if known.stream.layout != claim.scope.layout {
            return Err(Error::config(format!(
                "{attempt}: the stream was begun as {}, not as {}; give this pipeline another name or another destination",
                known.stream.layout, claim.scope.layout
            )));
        }
        if known.stream.table != table {
            return Err(Error::config(format!(
                "{attempt}: the stream was begun in table {}, not in {table}; give this pipeline another name",
                known.stream.table
            )));
        }
        let mut lane = known.lanes.get(&claim.lane).cloned();
        match &lane {
            Some(lane) if lane.epoch != seen => {
                return Err(Error::fenced(format!("{attempt}: somebody else claimed it since it was looked at")));
            }
            Some(lane) => claim.refuse_if_moved(lane.number)?,
            // Whoever divided the stream had to have seen the newest epoch of the lane that it claimed first.
            None if known.stream.floor == 0 && seen != 0 => return gone(),
            None => {}
        }
        let divided = known.stream.lanes != claim.scope.lanes;
        let mut stream = known.stream.clone();
        stream.owner.clone_from(&claim.owner.0);
        stream.extent.clone_from(&claim.scope.extent);
        stream.foreign |= claim.foreign;
        stream.version += 1;
        if divided {
            stream.floor = known.lanes.values().map(|lane| lane.epoch).fold(stream.floor, u64::max);
            stream.division = division();
            stream.lanes = claim.scope.lanes;
            lane = None;
        }
        let epoch = lane.as_ref().map_or(stream.floor, |lane| lane.epoch) + 1;
        Ok(Self { stream, epoch, lane, divided, base })
    }

    fn actions(&self, access: &Access, claim: &Claim, known: Option<&Known>) -> Result<Vec<TransactWriteItem>> {
        let (ours, stream) = (&access.options().checkpoints, claim.stream.as_str());
        let mut record = Change::of(ledger::key(stream, ledger::ONE));
        for (name, value) in self.stream.item(stream) {
            if name != ledger::STREAM && name != ledger::RECORD {
                record.set(&name, value);
            }
        }
        match known {
            None => record.absent(),
            Some(known) => record.same("Version", n(known.stream.version)),
        }
        let mut actions = vec![record.action(ours)?];
        let mut lane = Change::of(ledger::key(stream, &ledger::lane(&self.stream.division, claim.lane)));
        lane.set("Epoch", n(self.epoch));
        match &self.lane {
            None => {
                lane.set("Number", n(0));
                lane.absent();
            }
            Some(found) => {
                lane.same("Epoch", n(found.epoch));
                if claim.still.is_some() {
                    lane.same("Number", n(found.number));
                }
            }
        }
        actions.push(lane.action(ours)?);
        if let Some(known) = known.filter(|_| self.divided) {
            for (number, lane) in &known.lanes {
                actions.push(gone(ours, stream, &known.stream.division, *number, lane, true)?);
            }
            for slot in 0..SLOTS {
                let inside = ledger::slot(&self.base, slot);
                if !inside.is_empty() {
                    let record = ledger::base(&self.stream.division, slot);
                    actions.push(txn::put(ours, ledger::positions(stream, &record, &inside))?);
                }
            }
        }
        Ok(actions)
    }
}

/// A lane's item goes, if it is as it was read.
fn gone(table: &str, stream: &str, division: &str, number: u16, lane: &Lane, still: bool) -> Result<TransactWriteItem> {
    let condition = if still { "#epoch = :epoch AND #number = :number" } else { "#epoch = :epoch" };
    let mut delete = aws_sdk_dynamodb::types::Delete::builder()
        .table_name(table)
        .set_key(Some(ledger::key(stream, &ledger::lane(division, number))))
        .condition_expression(condition)
        .expression_attribute_names("#epoch", "Epoch")
        .expression_attribute_values(":epoch", n(lane.epoch));
    if still {
        delete = delete
            .expression_attribute_names("#number", "Number")
            .expression_attribute_values(":number", n(lane.number));
    }
    Ok(TransactWriteItem::builder().delete(delete.build().map_err(|_| incomplete())?).build())
}

/// Makes a transaction; false if somebody else was faster. One whose answer is lost is decided on again: what it compares
/// tells whether it landed.
async fn write(access: &Access, attempt: &str, actions: Vec<TransactWriteItem>) -> Result<bool> {
    let client = access.client().await?;
    let answer = client.transact_write_items().set_transact_items(Some(actions)).send().await;
    match answer {
        Ok(_) => Ok(true),
        Err(error) if matches!(cause(&error), Cause::Canceled) => {
            let reasons = match error.as_service_error() {
                Some(error) if error.is_transaction_canceled_exception() => reasons(error),
                _ => Vec::new(),
            };
            match reasons.into_iter().find(|cause| !matches!(cause, Cause::Otherwise) && !passes(*cause)) {
                Some(cause) => Err(super::fault::of_cause(attempt, cause)),
                None => Ok(false),
            }
        }
        Err(error) if matches!(cause(&error), Cause::Throttled | Cause::Conflict) => Ok(false),
        Err(error) => Err(fault(attempt, &error)),
    }
}

/// Why a transaction was given up, without the actions that had no part in it.
fn reasons(error: &aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError) -> Vec<Cause> {
    use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError as E;
    let E::TransactionCanceledException(canceled) = error else { return Vec::new() };
    let told = |reason: &aws_sdk_dynamodb::types::CancellationReason| {
        let code = reason.code().filter(|code| *code != "None")?;
        Some(super::fault::of_code(code, reason.message().unwrap_or_default()))
    };
    canceled.cancellation_reasons().iter().filter_map(told).collect()
}

/// Removes what divisions that are over have left. Their names never come again, so nobody can need it; nor does it matter
/// whether it succeeds.
async fn clean(access: &Access, stream: &StreamId, known: Option<&Known>, divided: bool) {
    let Some(known) = known else { return };
    let mut records = known.leftovers.clone();
    if divided {
        records.extend(records_of(known));
    }
    remove(access, stream, &records).await.unwrap_or_default();
}

fn records_of(known: &Known) -> Vec<String> {
    let division = &known.stream.division;
    let mut records: Vec<_> = (0..SLOTS).map(|slot| ledger::base(division, slot)).collect();
    for (number, lane) in &known.lanes {
        records.push(ledger::beat(division, *number));
        records.extend(lane.slots.keys().map(|slot| ledger::at(division, *number, *slot)));
    }
    records
}

async fn remove(access: &Access, stream: &StreamId, records: &[String]) -> Result<()> {
    for record in records {
        let key = ledger::key(stream.as_str(), record);
        access
            .ask("remove what is over", |client| {
                let table = &access.options().checkpoints;
                let question = client.delete_item().table_name(table).set_key(Some(key.clone()));
                async move { question.send().await }
            })
            .await?;
    }
    Ok(())
}

/// See [`crate::sink::Sink::beat`].
pub async fn beat(access: &Access, stream: &StreamId, number: u16, epoch: u64) -> Result<()> {
    let attempt = format!("show that lane {number} of stream {stream} is at work");
    let Some(known) = read(access, stream).await? else { return Ok(()) };
    if known.lanes.get(&number).is_none_or(|lane| lane.epoch != epoch) {
        return Ok(());
    }
    let table = &access.options().checkpoints;
    let key = ledger::key(stream.as_str(), &ledger::beat(&known.stream.division, number));
    let client = access.client().await?;
    let answer = client
        .update_item()
        .table_name(table)
        .set_key(Some(key))
        .update_expression("SET #epoch = :epoch ADD #count :one")
        // What an older epoch says late must not be taken for the newer one's.
        .condition_expression("attribute_not_exists(#epoch) OR #epoch <= :epoch")
        .expression_attribute_names("#epoch", "Epoch")
        .expression_attribute_names("#count", "Count")
        .expression_attribute_values(":epoch", n(epoch))
        .expression_attribute_values(":one", n(1))
        .send()
        .await;
    match answer {
        Ok(_) => Ok(()),
        Err(error) if cause(&error) == Cause::Otherwise => Ok(()),
        Err(error) => Err(fault(&attempt, &error)),
    }
}

/// See [`crate::sink::Sink::forget`].
pub async fn forget(access: &Access, stream: &StreamId, seen: &StreamRecord) -> Result<()> {
    let attempt = format!("forget stream {stream}");
    let table = &access.options().checkpoints;
    for _ in 0..TRIES {
        let Some(known) = read(access, stream).await? else { return Ok(()) };
        seen.refuse_if_claimed(stream, &known.record())?;
        let record = aws_sdk_dynamodb::types::Delete::builder()
            .table_name(table)
            .set_key(Some(ledger::key(stream.as_str(), ledger::ONE)))
            .condition_expression("#version = :version")
            .expression_attribute_names("#version", "Version")
            .expression_attribute_values(":version", n(known.stream.version))
            .build()
            .map_err(|_| incomplete())?;
        let mut actions = vec![TransactWriteItem::builder().delete(record).build()];
        for (number, lane) in &known.lanes {
            actions.push(gone(table, stream.as_str(), &known.stream.division, *number, lane, false)?);
        }
        if write(access, &attempt, actions).await? {
            let mut rest = known.leftovers.clone();
            rest.extend(records_of(&known));
            return remove(access, stream, &rest).await;
        }
        sleep(jitter(std::time::Duration::from_millis(20))).await;
    }
    Err(Error::transient(format!("{attempt}: others claim it all the time")))
}
