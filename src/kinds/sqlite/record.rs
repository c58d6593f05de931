//! What the sink remembers of a stream, in the same file as the data: one row per lane in `driftless_lane`, one per lane and
//! partition in `driftless_checkpoint`. Everything here runs inside the caller's transaction.
//!
//! A commit is compare-and-set on its lane's row (epoch and number); a claim raises the epoch. When the number of lanes
//! changes, every lane starts from what all of them had passed, and *all* epochs rise in that one step, so that no writer
//! of the old division can land beside the new one; lanes that are no longer there keep their row for the same reason.

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::fault;
use crate::error::{Error, Result};
use crate::model::{
    Checkpoint, Claim, LaneRecord, Owner, PartitionId, Position, Scope, Standing, StreamId, StreamRecord,
};

/// How a compare-and-set on a lane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// The lane's number was raised: go on.
    Now,
    /// The commit has landed before, under this very epoch: nothing to do.
    Before,
}

struct Lane {
    owner: String,
    scope: Scope,
    foreign: bool,
    epoch: u64,
    number: u64,
}

/// The record of a stream, if there is one.
pub fn inspect(connection: &Connection, stream: &StreamId) -> Result<Option<StreamRecord>> {
    let attempt = format!("read the record of stream {stream}");
    let failed = |error| fault(&attempt, error);
    let first: Option<u16> = connection
        .query_row("select min(lane) from driftless_lane where stream = ?1", [stream.as_str()], |row| row.get(0))
        .map_err(failed)?;
    let Some(first) = first else { return Ok(None) };
    let Some(head) = lane(connection, stream, first)? else { return Ok(None) };
    let mut lanes = Vec::new();
    for number in 0..head.scope.lanes {
        lanes.push(match lane(connection, stream, number)? {
            None => LaneRecord::default(),
            Some(found) => LaneRecord {
                epoch: found.epoch,
                number: found.number,
                beat: 0,
                checkpoint: checkpoint(connection, stream, number)?,
            },
        });
    }
    Ok(Some(StreamRecord {
        format: StreamRecord::FORMAT,
        owner: Owner(head.owner),
        scope: head.scope,
        foreign: head.foreign,
        lanes,
    }))
}

/// Takes one lane: refuses what must be refused, raises the epoch, gives the record.
pub fn claim(connection: &Connection, claim: &Claim) -> Result<LaneRecord> {
    let attempt = format!("claim lane {} of stream {}", claim.lane, claim.stream);
    let failed = |error| fault(&attempt, error);
    if claim.lane >= claim.scope.lanes {
        return Err(Error::bug(format!("{attempt}: the stream has only {} lanes", claim.scope.lanes)));
    }
    let stream = claim.stream.as_str();
    let other: Option<String> = connection
        .query_row("select stream from driftless_lane where stream <> ?1 limit 1", [stream], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    if let (Some(other), false) = (other, claim.foreign) {
        return Err(Error::config(format!(
            "{attempt}: the destination belongs to stream {other}; give this pipeline that name, or another destination"
        )));
    }
    let found = lane(connection, &claim.stream, claim.lane)?;
    if let Some(found) = &found {
        refuse(&attempt, claim, found)?;
        if !found.owner.is_empty() {
            claim.refuse_if_moved(found.number)?;
        }
    } else if claim.seen.unwrap_or(0) != 0 {
        return Err(Error::fenced(format!("{attempt}: its record has gone since it was looked at")));
    }
    let lanes: Option<u16> = connection
        .query_row("select max(lanes) from driftless_lane where stream = ?1", [stream], |row| row.get(0))
        .map_err(failed)?;
    if lanes.is_some_and(|lanes| lanes != claim.scope.lanes) {
        divide(connection, claim).map_err(|error| error.during(&attempt))?;
    }
    connection
        .execute(
            "insert into driftless_lane (stream, lane, format, owner, layout, extent, lanes, is_foreign, epoch, number) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, 0) \
             on conflict do update set epoch = epoch + 1, owner = excluded.owner, extent = excluded.extent, \
             format = excluded.format, is_foreign = max(is_foreign, excluded.is_foreign)",
            params![
                stream,
                claim.lane,
                StreamRecord::FORMAT,
                claim.owner.0,
                claim.scope.layout,
                claim.scope.extent,
                claim.scope.lanes,
                claim.foreign
            ],
        )
        .map_err(failed)?;
    let taken = lane(connection, &claim.stream, claim.lane)?;
    let taken = taken.ok_or_else(|| Error::bug(format!("{attempt}: the row just written is not there")))?;
    let checkpoint = checkpoint(connection, &claim.stream, claim.lane)?;
    Ok(LaneRecord { epoch: taken.epoch, number: taken.number, beat: 0, checkpoint })
}

fn refuse(attempt: &str, claim: &Claim, found: &Lane) -> Result<()> {
    if found.scope.layout != claim.scope.layout {
        return Err(Error::config(format!(
            "{attempt}: the stream was begun as {}, not as {}; give this pipeline another name or another destination",
            found.scope.layout, claim.scope.layout
        )));
    }
    // A lane without an owner was set up by the claim that changed the number of lanes; whoever made that claim had to
    // have seen the newest epoch of its lane.
    let unclaimed = found.owner.is_empty();
    if !unclaimed && claim.seen.unwrap_or(0) != found.epoch {
        return Err(Error::fenced(format!("{attempt}: somebody else claimed it since it was looked at")));
    }
    Ok(())
}

/// Gives every lane of the new division what all lanes of the old one had passed, and fences all of them.
fn divide(connection: &Connection, claim: &Claim) -> Result<()> {
    let failed = |error| fault("divide a stream into another number of lanes", error);
    let stream = claim.stream.as_str();
    let old: u16 = connection
        .query_row("select max(lanes) from driftless_lane where stream = ?1", [stream], |row| row.get(0))
        .map_err(failed)?;
    let passed: Vec<Checkpoint> =
        (0..old).map(|lane| checkpoint(connection, &claim.stream, lane)).collect::<Result<_>>()?;
    let passed = Checkpoint::meet(&passed);
    connection
        .execute(
            "update driftless_lane set epoch = epoch + 1, owner = '', lanes = ?2 where stream = ?1",
            params![stream, claim.scope.lanes],
        )
        .map_err(failed)?;
    connection.execute("delete from driftless_checkpoint where stream = ?1", [stream]).map_err(failed)?;
    let scope = &claim.scope;
    for lane in 0..claim.scope.lanes {
        connection
            .execute(
                "insert into driftless_lane (stream, lane, format, owner, layout, extent, lanes, is_foreign, epoch, number) \
                 values (?1, ?2, ?3, '', ?4, ?5, ?6, ?7, 0, 0) on conflict do nothing",
                params![stream, lane, StreamRecord::FORMAT, scope.layout, scope.extent, scope.lanes, claim.foreign],
            )
            .map_err(failed)?;
        for (partition, position) in passed.iter() {
            move_to(connection, &claim.stream, lane, partition, position)?;
        }
    }
    Ok(())
}

/// Raises a lane's number from `number - 1` under this epoch.
/// `given`: the highest number that the writer was given.
pub fn land(
    connection: &Connection,
    stream: &StreamId,
    lane: u16,
    epoch: u64,
    number: u64,
    given: u64,
) -> Result<Landing> {
    let attempt = format!("commit {number} on lane {lane} of stream {stream}");
    let before = number.checked_sub(1).ok_or_else(|| Error::bug(format!("{attempt}: commits are counted from 1")))?;
    let raised = connection
        .prepare_cached(
            "update driftless_lane set number = ?4 where stream = ?1 and lane = ?2 and epoch = ?3 and number = ?5",
        )
        .and_then(|mut statement| {
            statement.execute(params![stream.as_str(), lane, signed(epoch), signed(number), signed(before)])
        })
        .map_err(|error| fault(&attempt, error))?;
    if raised == 1 {
        return Ok(Landing::Now);
    }
    match self::lane(connection, stream, lane)? {
        Some(found) if found.epoch == epoch => {
            match Standing::of(found.number, number, given).map_err(|error| error.during(&attempt))? {
                Standing::Landed => Ok(Landing::Before),
                Standing::Next => Err(Error::bug(format!("{attempt}: its lane's row was not raised"))),
            }
        }
        _ => Err(superseded(&attempt)),
    }
}

/// Fails as fenced if the lane no longer has this epoch.
pub fn still_ours(connection: &Connection, stream: &StreamId, lane: u16, epoch: u64) -> Result<()> {
    match self::lane(connection, stream, lane)? {
        Some(found) if found.epoch == epoch => Ok(()),
        _ => Err(superseded(&format!("write to lane {lane} of stream {stream}"))),
    }
}

fn superseded(attempt: &str) -> Error {
    Error::fenced(format!("{attempt}: another process has claimed the lane"))
}

/// Writes one position.
pub fn move_to(
    connection: &Connection,
    stream: &StreamId,
    lane: u16,
    partition: &PartitionId,
    position: &Position,
) -> Result<()> {
    connection
        .prepare_cached(
            "insert into driftless_checkpoint (stream, lane, partition, position) values (?1, ?2, ?3, ?4) \
             on conflict do update set position = excluded.position",
        )
        .and_then(|mut statement| {
            statement.execute(params![stream.as_str(), lane, partition.as_str(), position.to_string()])
        })
        .map_err(|error| fault("write a checkpoint", error))?;
    Ok(())
}

/// Drops one partition's record.
pub fn forget(connection: &Connection, stream: &StreamId, lane: u16, partition: &PartitionId) -> Result<()> {
    connection
        .prepare_cached("delete from driftless_checkpoint where stream = ?1 and lane = ?2 and partition = ?3")
        .and_then(|mut statement| statement.execute(params![stream.as_str(), lane, partition.as_str()]))
        .map_err(|error| fault("forget a partition", error))?;
    Ok(())
}

fn lane(connection: &Connection, stream: &StreamId, lane: u16) -> Result<Option<Lane>> {
    let attempt = format!("read the record of lane {lane} of stream {stream}");
    let found = connection
        .prepare_cached(
            "select owner, layout, extent, lanes, is_foreign, epoch, number, format from driftless_lane \
             where stream = ?1 and lane = ?2",
        )
        .and_then(|mut statement| {
            statement
                .query_row(params![stream.as_str(), lane], |row| {
                    let scope = Scope { layout: row.get(1)?, extent: row.get(2)?, lanes: row.get(3)? };
                    let (epoch, number): (i64, i64) = (row.get(5)?, row.get(6)?);
                    let (epoch, number) = (epoch.cast_unsigned(), number.cast_unsigned());
                    let lane = Lane { owner: row.get(0)?, scope, foreign: row.get(4)?, epoch, number };
                    Ok((lane, row.get::<_, u32>(7)?))
                })
                .optional()
        })
        .map_err(|error| fault(&attempt, error))?;
    match found {
        Some((_, format)) if format > StreamRecord::FORMAT => Err(Error::config(format!(
            "{attempt}: it was written by a newer driftless (format {format}); use that version"
        ))),
        found => Ok(found.map(|(lane, _)| lane)),
    }
}

fn checkpoint(connection: &Connection, stream: &StreamId, lane: u16) -> Result<Checkpoint> {
    let attempt = format!("read the checkpoint of lane {lane} of stream {stream}");
    let failed = |error| fault(&attempt, error);
    let mut statement = connection
        .prepare_cached("select partition, position from driftless_checkpoint where stream = ?1 and lane = ?2")
        .map_err(failed)?;
    let mut rows = statement.query(params![stream.as_str(), lane]).map_err(failed)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let (partition, position): (String, String) = (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
        all.push((PartitionId::new(partition), position.parse::<Position>().map_err(|error| error.during(&attempt))?));
    }
    Ok(all.into_iter().collect())
}

fn signed(number: u64) -> i64 {
    number.cast_signed()
}
