//! Our records in schema `driftless`: what they look like, and reading them.
//!
//! | table | one row per | holds |
//! |---|---|---|
//! | `stream` | stream | owner, scope, format of the records |
//! | `lane` | lane | epoch, number of the last commit, the backend that may have a commit under way |
//! | `position` | lane and partition | how far the data reaches, in the one text form of positions |
//! | `made_table` | table that we made | whether its keys and indexes are built |
//! | `beat` | lane and epoch | signs of life of the owner while nothing lands, see [`super::beat`] |
//!
//! A lane with `open` false belongs to nobody: the number of lanes has changed and it was not claimed since.

use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::writer::session::get;
use crate::model::{Checkpoint, LaneRecord, Owner, PartitionId, Scope, StreamId, StreamRecord};

/// Makes what is missing. Rows of `lane` and `position` are rewritten by every commit, so their pages have room for that.
pub const CREATE: &str = "\
    create schema if not exists driftless; \
    create table if not exists driftless.stream (name text primary key, format int not null, owner text not null, \
        layout text not null, extent text not null, lanes int not null, foreign_data boolean not null, \
        refreshed timestamptz not null default now()); \
    create table if not exists driftless.lane (stream text not null, lane int not null, epoch bigint not null default 0, \
        number bigint not null default 0, open boolean not null default false, backend_pid int, backend_start timestamptz, \
        refreshed timestamptz not null default now(), primary key (stream, lane)) with (fillfactor = 20); \
    create table if not exists driftless.position (stream text not null, lane int not null, partition text not null, \
        position text not null, primary key (stream, lane, partition)) with (fillfactor = 50); \
    create table if not exists driftless.made_table (name text primary key, settled boolean not null); \
    create table if not exists driftless.beat (stream text not null, lane int not null, epoch bigint not null, \
        beat bigint not null default 0, primary key (stream, lane, epoch)) with (fillfactor = 20)";

const PRESENT: &str = "\
    select to_regclass('driftless.stream') is not null and to_regclass('driftless.lane') is not null \
    and to_regclass('driftless.position') is not null and to_regclass('driftless.made_table') is not null, \
    to_regclass('driftless.beat') is not null";

/// Which of our tables are there.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// Those without which nothing is known of a stream.
    records: bool,
    /// The signs of life, which a claim adds to records of an earlier shape.
    beats: bool,
}

impl Present {
    /// Whether nothing is left to be made.
    pub fn complete(self) -> bool {
        self.records && self.beats
    }
}

/// Which of our tables are there.
///
/// # Errors
/// As the connection's.
pub async fn present(client: &Client) -> Result<Present> {
    let row = client.query_one(PRESENT, &[]).await;
    let row = row.map_err(|error| translate(&error, "look for driftless' records in the destination"))?;
    Ok(Present { records: get(&row, 0)?, beats: get(&row, 1)? })
}

/// What the sink remembers of a stream.
///
/// # Errors
/// Config for records of a format that this program does not know; Corrupt for records that contradict themselves.
pub async fn inspect(client: &Client, stream: &StreamId) -> Result<Option<StreamRecord>> {
    let broken = |error| translate(&error, format!("read the records of stream {stream}"));
    let present = present(client).await?;
    if !present.records {
        return Ok(None);
    }
    client.batch_execute("begin isolation level repeatable read read only").await.map_err(broken)?;
    let mut record = read(client, stream).await?;
    if let Some(record) = record.as_mut().filter(|_| present.beats) {
        let name = stream.as_str();
        let text = "select lane, epoch, beat from driftless.beat where stream = $1";
        for row in client.query(text, &[&name]).await.map_err(broken)? {
            let (lane, epoch): (i32, i64) = (get(&row, 0)?, get(&row, 1)?);
            let lane = usize::try_from(lane).ok().and_then(|lane| record.lanes.get_mut(lane));
            if let Some(lane) = lane.filter(|lane| i64::try_from(lane.epoch) == Ok(epoch)) {
                lane.beat = whole(get(&row, 2)?)?;
            }
        }
    }
    client.batch_execute("commit").await.map_err(broken)?;
    Ok(record)
}

/// As [`inspect`], inside the caller's transaction, and without signs of life.
pub async fn read(client: &Client, stream: &StreamId) -> Result<Option<StreamRecord>> {
    let broken = |error| translate(&error, format!("read the records of stream {stream}"));
    let name = stream.as_str();
    let text = "select format, owner, layout, extent, lanes, foreign_data from driftless.stream where name = $1";
    let Some(row) = client.query_opt(text, &[&name]).await.map_err(broken)? else { return Ok(None) };
    let (format, lanes): (i32, i32) = (get(&row, 0)?, get(&row, 4)?);
    if u32::try_from(format).ok() != Some(StreamRecord::FORMAT) {
        return Err(Error::config(format!(
            "read the records of stream {stream}: they have format {format}, this program knows format {}: use the \
             release that wrote them, or a newer one",
            StreamRecord::FORMAT
        )));
    }
    let count = u16::try_from(lanes)
        .ok()
        .filter(|&count| count > 0)
        .ok_or_else(|| Error::corrupt(format!("read the records of stream {stream}: they name {lanes} lanes")))?;
    let scope = Scope { layout: get(&row, 2)?, extent: get(&row, 3)?, lanes: count };
    let mut record = StreamRecord {
        format: StreamRecord::FORMAT,
        owner: Owner(get(&row, 1)?),
        scope,
        foreign: get(&row, 5)?,
        lanes: vec![LaneRecord::default(); usize::from(count)],
    };
    let text = "select lane, epoch, number from driftless.lane where stream = $1 and lane < $2";
    for row in client.query(text, &[&name, &lanes]).await.map_err(broken)? {
        let lane = lane_of(&mut record, get(&row, 0)?)?;
        lane.epoch = whole(get(&row, 1)?)?;
        lane.number = whole(get(&row, 2)?)?;
    }
    let text = "select lane, partition, position from driftless.position where stream = $1 and lane < $2";
    for row in client.query(text, &[&name, &lanes]).await.map_err(broken)? {
        let (partition, position): (String, String) = (get(&row, 1)?, get(&row, 2)?);
        lane_of(&mut record, get(&row, 0)?)?.checkpoint.advance(&PartitionId::new(partition), &position.parse()?);
    }
    Ok(Some(record))
}

fn lane_of(record: &mut StreamRecord, lane: i32) -> Result<&mut LaneRecord> {
    let index = usize::try_from(lane).ok();
    index
        .and_then(|index| record.lanes.get_mut(index))
        .ok_or_else(|| Error::corrupt(format!("read a stream's records: there is a lane {lane}")))
}

/// A number that is kept as `bigint` and never below 0.
pub fn whole(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::corrupt(format!("read a stream's records: a number is {number}")))
}

/// Replaces the positions of lanes `0..lanes` by one checkpoint, inside the caller's transaction.
pub async fn reset_positions(client: &Client, stream: &StreamId, lanes: u16, to: &Checkpoint) -> Result<()> {
    let broken = |error| translate(&error, format!("write the records of stream {stream}"));
    let name = stream.as_str();
    client.execute("delete from driftless.position where stream = $1", &[&name]).await.map_err(broken)?;
    let partitions: Vec<&str> = to.iter().map(|(partition, _)| partition.as_str()).collect();
    let positions: Vec<String> = to.iter().map(|(_, position)| position.to_string()).collect();
    let text = "insert into driftless.position (stream, lane, partition, position) \
        select $1, l, p, q from generate_series(0, $2::int - 1) l, unnest($3::text[], $4::text[]) as u(p, q)";
    client.execute(text, &[&name, &i32::from(lanes), &partitions, &positions]).await.map_err(broken)?;
    Ok(())
}
