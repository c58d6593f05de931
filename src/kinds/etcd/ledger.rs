//! What we remember of a stream in a cluster that it is written to: keys and values under [`layout::OURS`]. Pure.
//!
//! | key | value |
//! |---|---|
//! | `stream/<name>` | JSON: owner, scope, and which division into lanes is the present one |
//! | `base/<name>` | JSON: what all lanes of the division before had passed |
//! | `lane/<name>/<division>/<lane>/epoch` | the lane's epoch |
//! | `…/number` | number of the last commit that landed |
//! | `…/beat` | an epoch and a count |
//! | `…/at/<slot>` | JSON: partition → position |
//!
//! A commit compares epoch and number and raises the number, so commits of one lane land in the order of their numbers,
//! whatever order they arrive in. A claim raises the epoch alone, so it never waits for an owner who commits all the time.
//! Another number of lanes is another division: all keys of the one before go in the same step, and with them whatever a
//! late commit could compare itself with. Positions lie in a fixed number of slots, by the partition's name: a commit writes
//! few keys however many partitions there are, and little of what it does not move.

use std::collections::{BTreeMap, BTreeSet};

use etcd_client::proto::PbKeyValue;
use serde::{Deserialize, Serialize};

use super::layout::OURS;
use crate::error::{Error, Result};
use crate::model::{Checkpoint, LaneRecord, Owner, PartitionId, Scope, StreamId, StreamRecord};

/// LIMIT: keys that the positions of a lane take at most: few beside the 128 operations of an ordinary transaction, and a
/// source with hundreds of partitions has an eighth of them written when one moves.
pub const SLOTS: usize = 8;

/// A stream, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub format: u32,
    pub owner: String,
    pub layout: String,
    pub extent: String,
    pub lanes: u16,
    pub foreign: bool,
    /// What stands before every key of the data.
    pub prefix: String,
    /// Counts how often the number of lanes has changed.
    pub division: u64,
    /// The highest epoch of any earlier division.
    pub floor: u64,
}

/// A lane that was claimed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lane {
    pub epoch: u64,
    /// The revision at which its keys were made: a stream that was forgotten and begun anew has others.
    pub born: i64,
    pub number: u64,
    /// Under which epoch, and the count.
    pub beat: (u64, u64),
    pub checkpoint: Checkpoint,
    /// Whether its epoch and its number were there.
    whole: (bool, bool),
}

/// Everything about one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub stream: Stream,
    /// At which the record of the stream was written last; each claim writes it.
    pub revision: i64,
    pub base: Checkpoint,
    /// The lanes of the present division that were claimed.
    pub lanes: BTreeMap<u16, Lane>,
}

/// The keys of a stream.
#[derive(Clone, Debug)]
pub struct Names {
    name: String,
}

/// The keys of a lane.
#[derive(Clone, Debug)]
pub struct LaneNames {
    root: String,
}

/// Where the records of all streams lie.
pub fn streams() -> Vec<u8> {
    under("stream/")
}

impl Names {
    /// Of a stream.
    pub fn new(stream: &StreamId) -> Self {
        // A name holds nothing that would have to be escaped, unless somebody else makes names.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let escape = |c: char| if plain(c) { c.to_string() } else { format!("%{:X}", u32::from(c)) };
        Self { name: stream.as_str().chars().map(escape).collect() }
    }

    pub fn stream(&self) -> Vec<u8> {
        under(&format!("stream/{}", self.name))
    }

    pub fn base(&self) -> Vec<u8> {
        under(&format!("base/{}", self.name))
    }

    /// What the keys of all lanes begin with.
    pub fn lanes(&self) -> Vec<u8> {
        under(&format!("lane/{}/", self.name))
    }

    pub fn lane(&self, division: u64, lane: u16) -> LaneNames {
        LaneNames { root: format!("lane/{}/{division}/{lane}/", self.name) }
    }

    /// Reads what was found under these keys.
    pub fn read(
        &self,
        stream: Option<PbKeyValue>,
        base: Option<PbKeyValue>,
        lanes: Vec<PbKeyValue>,
    ) -> Result<Option<Known>> {
        let Some(record) = stream else { return Ok(None) };
        let stream = read_stream(&record.value)?;
        let base = base.map(|base| positions(&base.value)).transpose()?.unwrap_or_default();
        let mut known = Known { stream, revision: record.mod_revision, base, lanes: BTreeMap::new() };
        let root = self.lanes();
        for row in lanes {
            let rest = row.key.strip_prefix(&root[..]).and_then(|rest| std::str::from_utf8(rest).ok());
            let mut parts = rest.ok_or_else(broken)?.splitn(3, '/');
            let (Some(division), Some(lane), Some(what)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(broken());
            };
            if division.parse() != Ok(known.stream.division) {
                continue;
            }
            let lane = known.lanes.entry(lane.parse().map_err(|_| broken())?).or_default();
            lane.take(what, &row)?;
        }
        match known.lanes.values().all(|lane| lane.whole == (true, true)) {
            true => Ok(Some(known)),
            false => Err(broken()),
        }
    }
}

impl LaneNames {
    pub fn epoch(&self) -> Vec<u8> {
        under(&format!("{}epoch", self.root))
    }

    pub fn number(&self) -> Vec<u8> {
        under(&format!("{}number", self.root))
    }

    pub fn beat(&self) -> Vec<u8> {
        under(&format!("{}beat", self.root))
    }

    pub fn at(&self, slot: usize) -> Vec<u8> {
        under(&format!("{}at/{slot}", self.root))
    }

    /// What all of these begin with.
    pub fn all(&self) -> Vec<u8> {
        under(&self.root)
    }
}

impl Lane {
    fn take(&mut self, what: &str, row: &PbKeyValue) -> Result<()> {
        match what {
            "epoch" => {
                (self.epoch, self.born, self.whole.0) = (number(&row.value)?, row.create_revision, true);
            }
            "number" => (self.number, self.whole.1) = (number(&row.value)?, true),
            "beat" => {
                let text = std::str::from_utf8(&row.value).map_err(|_| broken())?;
                let (epoch, count) = text.split_once(' ').ok_or_else(broken)?;
                self.beat = (number(epoch.as_bytes())?, number(count.as_bytes())?);
            }
            _ if what.starts_with("at/") => self.checkpoint.merge(&positions(&row.value)?),
            // Of a release that knows more; it would have raised the format if that mattered here.
            _ => {}
        }
        Ok(())
    }

    /// Reads the keys of one lane.
    pub fn read(names: &LaneNames, rows: &[PbKeyValue]) -> Result<Self> {
        let (root, mut lane) = (names.all(), Self::default());
        for row in rows {
            let what = row.key.strip_prefix(&root[..]).and_then(|what| std::str::from_utf8(what).ok());
            lane.take(what.ok_or_else(broken)?, row)?;
        }
        if lane.whole == (true, true) { Ok(lane) } else { Err(broken()) }
    }

    pub fn record(&self) -> LaneRecord {
        let beat = if self.beat.0 == self.epoch { self.beat.1 } else { 0 };
        LaneRecord { epoch: self.epoch, number: self.number, beat, checkpoint: self.checkpoint.clone() }
    }
}

impl Known {
    /// As everybody else sees it.
    pub fn record(&self) -> StreamRecord {
        let Stream { layout, extent, lanes, .. } = self.stream.clone();
        // A lane that nobody has claimed since the number of lanes changed stands where all of them stood.
        let absent = || LaneRecord { checkpoint: self.base.clone(), ..LaneRecord::default() };
        StreamRecord {
            format: self.stream.format,
            owner: Owner(self.stream.owner.clone()),
            lanes: (0..lanes).map(|lane| self.lanes.get(&lane).map_or_else(absent, Lane::record)).collect(),
            scope: Scope { layout, extent, lanes },
            foreign: self.stream.foreign,
        }
    }

    /// What all lanes have passed.
    pub fn frontier(&self) -> Checkpoint {
        self.record().frontier()
    }
}

/// Reads the record of a stream.
///
/// # Errors
/// Config if a newer release wrote it.
pub fn read_stream(value: &[u8]) -> Result<Stream> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(value).map_err(|_| broken())?;
    if format > StreamRecord::FORMAT {
        return Err(Error::config(format!(
            "read the record of a stream: it was written by a newer driftless (format {format}); use that version"
        )));
    }
    serde_json::from_slice(value).map_err(|_| broken())
}

/// A number as it is written down.
pub fn text(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// JSON of what is made of texts and numbers alone.
pub fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|_| Error::bug("write the record of a stream: it has no form as JSON"))
}

/// A whole checkpoint, as JSON.
pub fn whole(checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    json(&checkpoint.iter().map(|(partition, at)| (partition.as_str(), at.to_string())).collect::<BTreeMap<_, _>>())
}

/// The value of a slot; `None` if no partition of the checkpoint lies in it.
pub fn slot(checkpoint: &Checkpoint, slot: usize) -> Result<Option<Vec<u8>>> {
    let inside = checkpoint.iter().filter(|(partition, _)| slot_of(partition) == slot);
    let inside: BTreeMap<_, _> = inside.map(|(partition, at)| (partition.as_str(), at.to_string())).collect();
    if inside.is_empty() { Ok(None) } else { json(&inside).map(Some) }
}

/// The slots of these partitions.
pub fn slots<'a>(partitions: impl IntoIterator<Item = &'a PartitionId>) -> BTreeSet<usize> {
    partitions.into_iter().map(slot_of).collect()
}

/// FNV-1a: what is written down must be found again by every release.
fn slot_of(partition: &PartitionId) -> usize {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = partition.as_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    // The low bits of this hash alone are worn by names that differ in their last digit only.
    usize::try_from((hash >> 32 ^ hash) % SLOTS as u64).unwrap_or_default()
}

fn positions(value: &[u8]) -> Result<Checkpoint> {
    let all: BTreeMap<String, String> = serde_json::from_slice(value).map_err(|_| broken())?;
    all.into_iter().map(|(partition, at)| Ok((PartitionId::new(partition), at.parse()?))).collect()
}

fn number(value: &[u8]) -> Result<u64> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(broken)
}

fn under(rest: &str) -> Vec<u8> {
    [OURS, rest.as_bytes()].concat()
}

fn broken() -> Error {
    Error::corrupt("read the record of a stream: what lies under /driftless/ is not ours, or is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Position;

    fn row(key: Vec<u8>, value: &[u8]) -> PbKeyValue {
        PbKeyValue { key, value: value.to_vec(), create_revision: 5, mod_revision: 9, ..PbKeyValue::default() }
    }

    fn stream() -> Stream {
        Stream {
            format: 1,
            owner: "o".into(),
            layout: "l".into(),
            extent: "e".into(),
            lanes: 2,
            foreign: false,
            prefix: "/t/".into(),
            division: 3,
            floor: 7,
        }
    }

    #[test]
    fn the_texts_of_keys_and_values_do_not_change() {
        let names = Names::new(&StreamId::new("a-b/c"));
        let text = |key: Vec<u8>| String::from_utf8(key).unwrap();
        assert_eq!(text(names.stream()), "/driftless/stream/a-b%2Fc");
        assert_eq!(text(names.base()), "/driftless/base/a-b%2Fc");
        let lane = names.lane(3, 1);
        assert_eq!(text(lane.epoch()), "/driftless/lane/a-b%2Fc/3/1/epoch");
        assert_eq!(text(lane.at(7)), "/driftless/lane/a-b%2Fc/3/1/at/7");
        let written = "{\"format\":1,\"owner\":\"o\",\"layout\":\"l\",\"extent\":\"e\",\"lanes\":2,\"foreign\":false,\"prefix\":\"/t/\",\"division\":3,\"floor\":7}";
        assert_eq!(text(json(&stream()).unwrap()), written);
        let named = ["pg/7/16384/driftless_x", "etcd/00000000000000ff", "!snapshot/1", "!snapshot/1/..", "!loaded"];
        let slots = named.map(|name| slot_of(&PartitionId::new(name)));
        assert_eq!(slots, [0, 7, 1, 3, 7], "what is written down is found again");
    }

    #[test]
    fn what_is_written_is_read_and_lanes_of_an_earlier_division_are_not() {
        let names = Names::new(&StreamId::new("s"));
        let partitions = (0..40).map(|n| PartitionId::new(format!("p/\u{e9}\"{n}")));
        let checkpoint: Checkpoint = partitions.map(|p| (p, Position::at([0, 255, b'"']).plus(3))).collect();
        let (new, old) = (names.lane(3, 1), names.lane(2, 0));
        let mut rows = vec![
            row(old.epoch(), b"9"),
            row(old.number(), b"9"),
            row(new.epoch(), b"8"),
            row(new.number(), b"4711"),
            row(new.beat(), b"8 2"),
        ];
        let used: Vec<_> = (0..SLOTS).filter_map(|n| Some((n, slot(&checkpoint, n).unwrap()?))).collect();
        assert_eq!(used.len(), SLOTS, "partitions spread over the slots");
        rows.extend(used.iter().map(|(n, value)| row(new.at(*n), value)));
        let base: Checkpoint = [(PartitionId::new("b"), Position::End)].into_iter().collect();
        let read = |rows| {
            let stream = row(names.stream(), &json(&stream()).unwrap());
            names.read(Some(stream), Some(row(names.base(), &whole(&base).unwrap())), rows)
        };
        let known = read(rows.clone()).unwrap().unwrap();
        assert_eq!(known.lanes.len(), 1);
        let record = known.record();
        assert_eq!(record.lanes[0], LaneRecord { checkpoint: base.clone(), ..LaneRecord::default() });
        assert_eq!(record.lanes[1], LaneRecord { epoch: 8, number: 4711, beat: 2, checkpoint: checkpoint.clone() });
        assert_eq!((known.lanes[&1].born, known.revision), (5, 9));
        assert!(names.read(None, None, rows.clone()).unwrap().is_none());
        rows.retain(|row| !row.key.ends_with(b"number") || row.key.starts_with(&old.all()));
        assert!(read(rows).is_err(), "half a lane is no lane");
        assert!(read_stream(b"{\"format\":2}").unwrap_err().to_string().contains("newer"));
        assert!(read_stream(b"{}").is_err());
    }
}
