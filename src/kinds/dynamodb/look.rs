//! Reading what is remembered of streams.
//!
//! A plain read, however consistent, may be told of one item of a commit and not yet of another. So whoever goes on from a
//! lane's positions reads them in one transaction with its number, once no commit under an older epoch can land any more.

use aws_sdk_dynamodb::types::{Get, TransactGetItem};
use tokio::time::sleep;

use super::body::Attributes;
use super::connect::Access;
use super::fault::{Cause, cause, fault};
use super::ledger::{self, Known, Lane, SLOTS, Slots, Stream, s};
use super::pace::jitter;
use super::txn::incomplete;
use crate::error::{Error, Result};
use crate::model::{Claim, StreamId};

/// LIMIT: how often a lane is looked at that a commit is at work on.
const TRIES: u32 = 30;

/// Reads everything about a stream, as far as it is there.
pub async fn read(access: &Access, stream: &StreamId) -> Result<Option<Known>> {
    let attempt = format!("read the record of stream {stream}");
    let (mut items, mut start) = (Vec::new(), None::<Attributes>);
    loop {
        let answer = access
            .try_ask(&attempt, |client| {
                let question = client
                    .query()
                    .table_name(&access.options().checkpoints)
                    .consistent_read(true)
                    .key_condition_expression("#stream = :stream")
                    .expression_attribute_names("#stream", ledger::STREAM)
                    .expression_attribute_values(":stream", s(stream.as_str()))
                    .set_exclusive_start_key(start.clone());
                async move { question.send().await }
            })
            .await?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if cause(&error) == Cause::Missing => return Ok(None),
            Err(error) => return Err(fault(&attempt, &error)),
        };
        items.extend(answer.items.unwrap_or_default());
        start = answer.last_evaluated_key;
        if start.is_none() {
            return Known::read(&items).map_err(|error| error.during(&attempt));
        }
    }
}

/// One lane with its positions, and the positions of all lanes before the last division, as they were at one moment.
pub async fn lane(
    access: &Access,
    stream: &StreamId,
    division: &str,
    number: u16,
    attempt: &str,
) -> Result<(Option<Lane>, Slots)> {
    let mut records = vec![ledger::lane(division, number), ledger::beat(division, number)];
    records.extend((0..SLOTS).map(|slot| ledger::at(division, number, slot)));
    records.extend((0..SLOTS).map(|slot| ledger::base(division, slot)));
    let get = |record: &String| {
        let get = Get::builder().table_name(&access.options().checkpoints);
        let get = get.set_key(Some(ledger::key(stream.as_str(), record))).build().map_err(|_| incomplete())?;
        Ok(TransactGetItem::builder().get(get).build())
    };
    let gets = records.iter().map(get).collect::<Result<Vec<_>>>()?;
    let mut tries = TRIES;
    let answer = loop {
        let answer = access
            .try_ask(attempt, |client| {
                let question = client.transact_get_items().set_transact_items(Some(gets.clone()));
                async move { question.send().await }
            })
            .await?;
        match answer {
            Ok(answer) => break answer,
            // A commit is at work on one of them.
            Err(error) if tries > 0 && cause(&error) == Cause::Canceled => {
                tries -= 1;
                sleep(jitter(std::time::Duration::from_millis(10))).await;
            }
            Err(error) => return Err(fault(attempt, &error)),
        }
    };
    let mut items = answer.responses.unwrap_or_default().into_iter().map(|part| part.item);
    let (found, beat) = (items.next().flatten(), items.next().flatten());
    let mut slots = |_: ()| -> Result<Slots> {
        let mut all = Slots::new();
        for slot in 0..SLOTS {
            if let Some(item) = items.next().flatten() {
                all.insert(slot, ledger::read_positions(&item)?);
            }
        }
        Ok(all)
    };
    let (at, base) = (slots(())?, slots(())?);
    let Some(found) = found else { return Ok((None, base)) };
    let mut lane = Lane { slots: at, ..Lane::read(&found)? };
    lane.beat = beat.map(|beat| Lane::read_beat(&beat)).transpose()?.unwrap_or_default();
    Ok((Some(lane), base))
}

/// Reads every lane of a stream again, each as it was at one moment.
pub async fn exact(access: &Access, claim: &Claim, known: &mut Known, attempt: &str) -> Result<()> {
    let division = known.stream.division.clone();
    for (number, held) in &mut known.lanes {
        let (found, base) = lane(access, &claim.stream, &division, *number, attempt).await?;
        // One that is gone is compared as it was, which fails, so that all is decided on again.
        if let Some(found) = found {
            *held = found;
        }
        known.base = base;
    }
    Ok(())
}

/// Fails if another stream writes to the table that this one would write to.
pub async fn refuse_neighbours(access: &Access, claim: &Claim, attempt: &str) -> Result<()> {
    let mut start = None::<Attributes>;
    loop {
        let answer = access
            .ask(attempt, |client| {
                let question = client
                    .scan()
                    .table_name(&access.options().checkpoints)
                    .consistent_read(true)
                    .filter_expression("#record = :one")
                    .expression_attribute_names("#record", ledger::RECORD)
                    .expression_attribute_values(":one", s(ledger::ONE))
                    .set_exclusive_start_key(start.clone());
                async move { question.send().await }
            })
            .await?;
        for item in answer.items() {
            let name = item.get(ledger::STREAM).and_then(|name| name.as_s().ok()).map_or("", String::as_str);
            if name != claim.stream.as_str() && Stream::read(item)?.table == access.table() {
                return Err(Error::config(format!(
                    "{attempt}: table {} belongs to stream {name}; give this pipeline that name, or another table",
                    access.table()
                )));
            }
        }
        start = answer.last_evaluated_key;
        if start.is_none() {
            return Ok(());
        }
    }
}
