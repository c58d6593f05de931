//! Claiming a lane, looking at a stream, and forgetting it: one transaction each, over what was read before.
//!
//! Invariant: whatever a claim decides on is compared in the transaction that it makes: the record of the stream, which each
//! claim writes; the number of the lane, where it must have stood still; and, when the lanes are divided anew, the numbers of
//! all lanes. So of two claims that race the second one decides again, and no commit slips in between.

use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbTxnOpResponse};
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp, TxnResponse};

use super::connect::Cluster;
use super::fault::fault;
use super::layout::Keys;
use super::ledger::{self, Known, Lane, LaneNames, Names, SLOTS, Stream};
use crate::error::{Error, Result};
use crate::model::{Claim, Layout, StreamId, StreamRecord};

/// LIMIT: how often somebody else may be faster before the caller is to pause; claims are rare.
const TRIES: u32 = 16;

/// What a claim has brought.
pub struct Taken {
    pub names: LaneNames,
    pub lane: Lane,
}

/// Reads everything about a stream as it is at one moment.
pub async fn read(cluster: &Cluster, stream: &StreamId) -> Result<Option<Known>> {
    let attempt = format!("read the record of stream {stream}");
    let names = Names::new(stream);
    let answer = cluster
        .ask(&attempt, |mut live| {
            let lanes = TxnOp::get(names.lanes(), Some(GetOptions::new().with_prefix()));
            let gets = vec![TxnOp::get(names.stream(), None), TxnOp::get(names.base(), None), lanes];
            async move { live.kv.txn(Txn::new().and_then(gets)).await }
        })
        .await?;
    let mut found = ranges(answer).into_iter();
    let mut next = || found.next().unwrap_or_default();
    let (record, base, lanes) = (next().pop(), next().pop(), next());
    names.read(record, base, lanes).map_err(|error| error.during(&attempt))
}

/// See [`crate::sink::Sink::claim`].
pub async fn claim(cluster: &Cluster, claim: &Claim) -> Result<Taken> {
    let attempt = format!("claim lane {} of stream {}", claim.lane, claim.stream);
    if claim.lane >= claim.scope.lanes {
        return Err(Error::bug(format!("{attempt}: the stream has only {} lanes", claim.scope.lanes)));
    }
    for _ in 0..TRIES {
        let known = read(cluster, &claim.stream).await?;
        if known.is_none() && !claim.foreign {
            refuse_neighbours(cluster, claim, &attempt).await?;
        }
        let step = Step::of(claim, known.as_ref(), &cluster.options().prefix, &attempt)?;
        let txn = step.txn(claim, known.as_ref())?;
        let answer = cluster.once(&attempt, |mut live| async move { live.kv.txn(txn).await }).await?;
        let answer = answer.map_err(|error| fault(&attempt, &error))?;
        if answer.succeeded() {
            let rows = ranges(answer).pop().unwrap_or_default();
            let lane = Lane::read(&step.names, &rows).map_err(|error| error.during(&attempt))?;
            return Ok(Taken { names: step.names, lane });
        }
    }
    Err(Error::transient(format!("{attempt}: others claim and commit all the time")))
}

/// What a claim will do.
struct Step {
    stream: Stream,
    names: LaneNames,
    epoch: u64,
    /// The lane as it is there.
    lane: Option<Lane>,
    divided: bool,
}

impl Step {
    fn of(claim: &Claim, known: Option<&Known>, prefix: &str, attempt: &str) -> Result<Self> {
        let names = Names::new(&claim.stream);
        let seen = claim.seen.unwrap_or(0);
        let Some(known) = known else {
            if seen != 0 {
                return Err(Error::fenced(format!("{attempt}: its record has gone since it was looked at")));
            }
            let stream = Stream {
                format: StreamRecord::FORMAT,
                owner: claim.owner.0.clone(),
                layout: claim.scope.layout.clone(),
                extent: claim.scope.extent.clone(),
                lanes: claim.scope.lanes,
                foreign: claim.foreign,
                prefix: prefix.to_owned(),
                division: 0,
                floor: 0,
            };
            return Ok(Self { stream, names: names.lane(0, claim.lane), epoch: 1, lane: None, divided: false });
        };
        if known.stream.layout != claim.scope.layout {
            return Err(Error::config(format!(
                "{attempt}: the stream was begun as {}, not as {}; give this pipeline another name or another destination",
                known.stream.layout, claim.scope.layout
            )));
        }
        let mut lane = known.lanes.get(&claim.lane).cloned();
        match &lane {
            Some(lane) if lane.epoch != seen => {
                return Err(Error::fenced(format!("{attempt}: somebody else claimed it since it was looked at")));
            }
            Some(lane) => claim.refuse_if_moved(lane.number)?,
            // Whoever divided the stream had to have seen the newest epoch of the lane that it claimed first.
            None if known.stream.division == 0 && seen != 0 => {
                return Err(Error::fenced(format!("{attempt}: its record has gone since it was looked at")));
            }
            None => {}
        }
        let divided = known.stream.lanes != claim.scope.lanes;
        let mut stream = known.stream.clone();
        stream.owner.clone_from(&claim.owner.0);
        stream.extent.clone_from(&claim.scope.extent);
        stream.foreign |= claim.foreign;
        if divided {
            stream.floor = known.lanes.values().map(|lane| lane.epoch).fold(stream.floor, u64::max);
            stream.division += 1;
            stream.lanes = claim.scope.lanes;
            lane = None;
        }
        let epoch = lane.as_ref().map_or(stream.floor, |lane| lane.epoch) + 1;
        let names = names.lane(stream.division, claim.lane);
        Ok(Self { stream, names, epoch, lane, divided })
    }

    fn txn(&self, claim: &Claim, known: Option<&Known>) -> Result<Txn> {
        let names = Names::new(&claim.stream);
        let mut compares = vec![match known {
            None => Compare::version(names.stream(), CompareOp::Equal, 0),
            Some(known) => Compare::mod_revision(names.stream(), CompareOp::Equal, known.revision),
        }];
        let mut ops = vec![TxnOp::put(names.stream(), ledger::json(&self.stream)?, None)];
        let still = |names: &LaneNames, lane: &Lane| {
            Compare::value(names.number(), CompareOp::Equal, ledger::text(lane.number))
        };
        if let Some(lane) = self.lane.as_ref().filter(|_| claim.still.is_some()) {
            compares.push(still(&self.names, lane));
        }
        let mut base = known.map(|known| known.base.clone()).unwrap_or_default();
        if let Some(known) = known.filter(|_| self.divided) {
            for (number, lane) in &known.lanes {
                compares.push(still(&names.lane(known.stream.division, *number), lane));
            }
            base = known.frontier();
            ops.push(TxnOp::put(names.base(), ledger::whole(&base)?, None));
            let old = under_division(&names, known.stream.division);
            ops.push(TxnOp::delete(old, Some(DeleteOptions::new().with_prefix())));
        }
        ops.push(TxnOp::put(self.names.epoch(), ledger::text(self.epoch), None));
        if self.lane.is_none() {
            ops.push(TxnOp::put(self.names.number(), ledger::text(0), None));
            for slot in 0..SLOTS {
                if let Some(value) = ledger::slot(&base, slot)? {
                    ops.push(TxnOp::put(self.names.at(slot), value, None));
                }
            }
        }
        ops.push(TxnOp::get(self.names.all(), Some(GetOptions::new().with_prefix())));
        Ok(Txn::new().when(compares).and_then(ops))
    }
}

fn under_division(names: &Names, division: u64) -> Vec<u8> {
    [&names.lanes()[..], format!("{division}/").as_bytes()].concat()
}

/// Fails if another stream writes keys that this one would write too.
async fn refuse_neighbours(cluster: &Cluster, claim: &Claim, attempt: &str) -> Result<()> {
    let answer = cluster
        .ask(
            attempt,
            |mut live| async move { live.kv.get(ledger::streams(), Some(GetOptions::new().with_prefix())).await },
        )
        .await?;
    let (options, ours) = (cluster.options(), Names::new(&claim.stream).stream());
    let here = span(options.layout, &options.prefix);
    for row in answer.0.kvs.iter().filter(|row| row.key != ours) {
        let other = ledger::read_stream(&row.value).map_err(|error| error.during(attempt))?;
        let layout = if other.layout.starts_with("raw ") { Layout::Raw } else { Layout::Teleport };
        let there = span(layout, &other.prefix);
        let before = |end: &[u8], first: &[u8]| end != b"\0" && end <= first;
        if before(&here.1, &there.0) || before(&there.1, &here.0) {
            continue;
        }
        let name = row.key.strip_prefix(&ledger::streams()[..]).unwrap_or_default();
        return Err(Error::config(format!(
            "{attempt}: the keys under {:?} belong to stream {}; give this pipeline that name, or another prefix",
            options.prefix,
            String::from_utf8_lossy(name)
        )));
    }
    Ok(())
}

/// The first stored key of a prefix, and what all of them end before.
fn span(layout: Layout, prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let keys = Keys::new(layout, prefix.as_bytes());
    (keys.first(b""), keys.end(b""))
}

/// See [`crate::sink::Sink::beat`].
pub async fn beat(cluster: &Cluster, stream: &StreamId, lane: u16, epoch: u64) -> Result<()> {
    let attempt = format!("show that lane {lane} of stream {stream} is at work");
    let Some(known) = read(cluster, stream).await? else { return Ok(()) };
    let Some(found) = known.lanes.get(&lane).filter(|lane| lane.epoch == epoch) else { return Ok(()) };
    let names = Names::new(stream).lane(known.stream.division, lane);
    let count = found.record().beat + 1;
    let txn = Txn::new()
        .when([Compare::value(names.epoch(), CompareOp::Equal, ledger::text(epoch))])
        .and_then([TxnOp::put(names.beat(), format!("{epoch} {count}"), None)]);
    let answer = cluster.once(&attempt, |mut live| async move { live.kv.txn(txn).await }).await?;
    answer.map(drop).map_err(|error| fault(&attempt, &error))
}

/// See [`crate::sink::Sink::forget`].
pub async fn forget(cluster: &Cluster, stream: &StreamId, seen: &StreamRecord) -> Result<()> {
    let attempt = format!("forget stream {stream}");
    let names = Names::new(stream);
    for _ in 0..TRIES {
        let Some(known) = read(cluster, stream).await? else { return Ok(()) };
        seen.refuse_if_claimed(stream, &known.record())?;
        let lanes = TxnOp::delete(names.lanes(), Some(DeleteOptions::new().with_prefix()));
        let txn = Txn::new()
            .when([Compare::mod_revision(names.stream(), CompareOp::Equal, known.revision)])
            .and_then([TxnOp::delete(names.stream(), None), TxnOp::delete(names.base(), None), lanes]);
        let answer = cluster.once(&attempt, |mut live| async move { live.kv.txn(txn).await }).await?;
        if answer.map_err(|error| fault(&attempt, &error))?.succeeded() {
            return Ok(());
        }
    }
    Err(Error::transient(format!("{attempt}: others claim it all the time")))
}

/// The rows that each of a transaction's questions found.
pub(super) fn ranges(answer: TxnResponse) -> Vec<Vec<PbKeyValue>> {
    let range = |part: PbTxnOpResponse| match part {
        PbTxnOpResponse::ResponseRange(PbRangeResponse { kvs, .. }) => Some(kvs),
        _ => None,
    };
    answer.0.responses.into_iter().filter_map(|part| part.response.and_then(range)).collect()
}
