//! The records of a frame's payload, field by field, and the only file that names `bincode`.
//!
//! ```text
//! records  = record+
//! record   = kind: u8, then
//!   0 run       run                                     changes of a tail: a batch or a piece of one
//!   1 page      snapshot: u64  run                      items of a scan
//!   2 standing  places  latest: i64  last: u64  count: u32  snapshot*count
//!   3 gap       at: i64  why: text  places              what follows does not join on to these
//!   4 forgot    places                                  ended partitions that nobody asks for any more
//!   5 began     snapshot: u64  at: i64  places          the head when a scan began
//!   6 ended     snapshot: u64  at: i64  whole: bool  places   and when it ended
//!   7 released  places                                  what the source was told to forget
//! run      = partition: text  steps: u8 (0 ordinal, 1 key, 2 cursor)  base: position  tables marks rows: u32
//!            table*tables mark*marks row*rows
//! table    = number: u32  name: text  shape: bytes      numbered from 0 within a segment, before its first use
//! mark     = changes: u32  upto: position
//! row      = op: u8 (0 put, 1 patch, 2 delete, 3 clear)  fresh: bool  table: u32  at: i64  key body: bytes
//!            extra: option of bytes                     the older key, or with steps = 2 the cursor
//! places   = count: u32  (partition: text  position)*count
//! position = form: u8 (0 start, 1 at, 2 end)  at: bytes  ordinal: u64
//! snapshot = id began: u64  began_at: i64  ended: u64  ended_at: i64      sequences and times; ended 0: not yet
//! text, bytes = u64 length and the bytes; bool = u8; option = u8 0, or 1 and the value; little endian, fixed width
//! ```
//!
//! The first record of each segment is a `standing`: how far each partition is, the latest commit time so far, the number of
//! the last snapshot, and the snapshots there are. So the newest segment alone tells how far the journal
//! reaches, and the first frames of all segments are the index by position and by time.
//!
//! Nothing is allocated by a number that the bytes merely claim, and no input is a panic. Pure.

use bincode::config::{Configuration, Fixint, LittleEndian, NoLimit};
use bincode::{BorrowDecode, Encode};

use crate::error::{Error, Result};
use crate::model::{Checkpoint, Micros, PartitionId, Position};

/// Fixed width, little endian: golden bytes in the tests pin it. Slices are borrowed and checked against the input's end, so
/// that no limit on allocations is needed.
const CONFIG: Configuration<LittleEndian, Fixint, NoLimit> = bincode::config::legacy();
/// LIMIT: so that counting on from an ordinal never overflows.
const ORDINAL_MAX: u64 = 1 << 62;

/// The first byte of a record.
pub(super) mod kind {
    pub(in super::super) const RUN: u8 = 0;
    pub(in super::super) const PAGE: u8 = 1;
    pub(in super::super) const STANDING: u8 = 2;
    pub(in super::super) const GAP: u8 = 3;
    pub(in super::super) const FORGOT: u8 = 4;
    pub(in super::super) const BEGAN: u8 = 5;
    pub(in super::super) const ENDED: u8 = 6;
    pub(in super::super) const RELEASED: u8 = 7;
}

/// What a run begins with.
#[derive(Encode, BorrowDecode)]
pub(super) struct Head<'a> {
    pub(super) partition: &'a str,
    pub(super) steps: u8,
    pub(super) base: Place<'a>,
    pub(super) tables: u32,
    pub(super) marks: u32,
    pub(super) rows: u32,
}

/// A table that the segment did not name before.
#[derive(Encode, BorrowDecode)]
pub(super) struct Definition<'a> {
    pub(super) number: u32,
    pub(super) name: &'a str,
    pub(super) shape: &'a [u8],
}

/// A mark of a batch.
#[derive(Encode, BorrowDecode)]
pub(super) struct Stop<'a> {
    pub(super) changes: u32,
    pub(super) upto: Place<'a>,
}

/// A change.
#[derive(Encode, BorrowDecode)]
pub(super) struct Line<'a> {
    pub(super) op: u8,
    pub(super) fresh: bool,
    pub(super) table: u32,
    pub(super) at: Micros,
    pub(super) key: &'a [u8],
    pub(super) body: &'a [u8],
    pub(super) extra: Option<&'a [u8]>,
}

/// A position.
#[derive(Encode, BorrowDecode)]
pub(super) struct Place<'a> {
    form: u8,
    at: &'a [u8],
    ordinal: u64,
}

impl<'a> Place<'a> {
    pub(super) fn of(position: &'a Position) -> Self {
        match position {
            Position::Start => Self { form: 0, at: &[], ordinal: 0 },
            Position::At { at, ordinal } => Self { form: 1, at, ordinal: *ordinal },
            Position::End => Self { form: 2, at: &[], ordinal: 0 },
        }
    }

    pub(super) fn position(&self) -> Result<Position> {
        match (self.form, self.ordinal) {
            (0, 0) if self.at.is_empty() => Ok(Position::Start),
            (1, 0..ORDINAL_MAX) => Ok(Position::At { at: self.at.into(), ordinal: self.ordinal }),
            (2, 0) if self.at.is_empty() => Ok(Position::End),
            _ => Err(broken("a position has a form that this version does not know")),
        }
    }
}

/// A snapshot that the journal holds from its first page to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Snapshot {
    /// Its number.
    pub id: u64,
    /// The frame with which it begins.
    pub began: u64,
    /// When that was, by the writer's clock.
    pub began_at: Micros,
    /// The frame with which it ends. What is restored from it is right from there on, not before.
    pub ended: u64,
    /// When that was.
    pub ended_at: Micros,
}

/// Says that the bytes are no records of ours.
pub(super) fn broken(what: &str) -> Error {
    Error::corrupt(format!("read records of the journal: {what}"))
}

/// Appends a value.
pub(super) fn put(out: &mut Vec<u8>, value: impl Encode) {
    bincode::encode_into_std_write(value, out, CONFIG)
        .expect("a vector takes all bytes, and no value of ours is unencodable");
}

/// Takes a value off the front.
pub(super) fn take<'a, T: BorrowDecode<'a, ()>>(bytes: &mut &'a [u8]) -> Result<T> {
    // The library's own error could quote what it read.
    let (value, used) = bincode::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|_| broken("they end early or hold no record here"))?;
    *bytes = bytes.get(used..).ok_or_else(|| broken("they end early"))?;
    Ok(value)
}

/// Appends places.
pub(super) fn put_places(out: &mut Vec<u8>, places: &Checkpoint) {
    put(out, places.len() as u32);
    for (partition, position) in places.iter() {
        put(out, (partition.as_str(), Place::of(position)));
    }
}

/// Takes places off the front.
pub(super) fn take_places(bytes: &mut &[u8]) -> Result<Checkpoint> {
    let count: u32 = take(bytes)?;
    let mut places = Checkpoint::default();
    for _ in 0..count {
        let (partition, place): (&str, Place<'_>) = take(bytes)?;
        let partition = PartitionId::new(partition);
        if places.names(&partition) {
            return Err(broken("a partition is named twice"));
        }
        places.advance(&partition, &place.position()?);
    }
    Ok(places)
}
