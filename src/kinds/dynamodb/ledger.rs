//! What we remember of a stream at a destination: items of a table of our own, beside that of the data. Pure.
//!
//! Every item has the stream's name in `Stream`, its partition key, and says in `Record`, its sort key, what it is:
//!
//! | `Record` | what it holds |
//! |---|---|
//! | `stream` | owner, scope, the name of the present division into lanes, and how often it was written |
//! | `base/<division>/<slot>` | what all lanes of the division before had passed |
//! | `lane/<division>/<lane>` | the lane's epoch, and the number of the last commit that landed |
//! | `beat/<division>/<lane>` | an epoch and a count |
//! | `at/<division>/<lane>/<slot>` | partition → position |
//!
//! A commit is one transaction over its data, the positions that it moves, and the lane's item, whose epoch and number it
//! compares and whose number it raises. A claim raises the epoch. A division is named by chance and never again, so whatever
//! belonged to an earlier one, or to a stream that was forgotten, has nothing to compare itself with. Positions lie in a
//! fixed number of slots, by the partition's name, so that a transaction's 100 actions hold any number of partitions that
//! move at once, and one that moves alone rewrites a sixteenth of what the lane remembers.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::AttributeValue;

use super::body::Attributes;
use crate::error::{Error, Result};
use crate::model::{Checkpoint, LaneRecord, Owner, PartitionId, Scope, StreamRecord};

/// The partition key of our table.
pub const STREAM: &str = "Stream";
/// The sort key of our table.
pub const RECORD: &str = "Record";
/// The record of a stream.
pub const ONE: &str = "stream";
/// LIMIT: items that the positions of a lane take: sixteen of a transaction's hundred actions at the most, and with 500 shards
/// some 4 KB are written when one of them moves.
pub const SLOTS: usize = 16;

/// A stream, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub format: u32,
    pub owner: String,
    pub layout: String,
    pub extent: String,
    pub lanes: u16,
    pub foreign: bool,
    /// The table that holds the data.
    pub table: String,
    /// The present division into lanes.
    pub division: String,
    /// The highest epoch of any earlier division.
    pub floor: u64,
    /// How often this was written.
    pub version: u64,
}

/// Positions by slot. A slot that is not there says nothing; an empty one says that it has none.
pub type Slots = BTreeMap<usize, Checkpoint>;

/// A lane that was claimed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lane {
    pub epoch: u64,
    pub number: u64,
    /// Under which epoch, and the count.
    pub beat: (u64, u64),
    pub slots: Slots,
}

/// Everything about one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub stream: Stream,
    pub base: Slots,
    /// The lanes of the present division that were claimed.
    pub lanes: BTreeMap<u16, Lane>,
    /// Records of divisions that are over.
    pub leftovers: Vec<String>,
}

/// The record of a lane.
pub fn lane(division: &str, lane: u16) -> String {
    format!("lane/{division}/{lane}")
}

/// The record of a lane's beat.
pub fn beat(division: &str, lane: u16) -> String {
    format!("beat/{division}/{lane}")
}

/// The record of a slot of a lane.
pub fn at(division: &str, lane: u16, slot: usize) -> String {
    format!("at/{division}/{lane}/{slot}")
}

/// The record of a slot of what all lanes had passed.
pub fn base(division: &str, slot: usize) -> String {
    format!("base/{division}/{slot}")
}

/// The key of a record.
pub fn key(stream: &str, record: &str) -> Attributes {
    [(STREAM.to_owned(), s(stream)), (RECORD.to_owned(), s(record))].into()
}

/// An item with these positions.
pub fn positions(stream: &str, record: &str, checkpoint: &Checkpoint) -> Attributes {
    let all = checkpoint.iter().map(|(partition, at)| (partition.as_str().to_owned(), s(&at.to_string())));
    let mut item = key(stream, record);
    item.insert("Positions".to_owned(), AttributeValue::M(all.collect()));
    item
}

/// The part of a checkpoint that lies in a slot.
pub fn slot(checkpoint: &Checkpoint, slot: usize) -> Checkpoint {
    let inside = checkpoint.iter().filter(|(partition, _)| slot_of(partition) == slot);
    inside.map(|(partition, at)| (partition.clone(), at.clone())).collect()
}

/// The slots of these partitions.
pub fn slots<'a>(partitions: impl IntoIterator<Item = &'a PartitionId>) -> BTreeSet<usize> {
    partitions.into_iter().map(slot_of).collect()
}

/// FNV-1a: what is written down must be found again by every release.
fn slot_of(partition: &PartitionId) -> usize {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = partition.as_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    usize::try_from((hash ^ (hash >> 32)) % SLOTS as u64).unwrap_or(0)
}

impl Stream {
    /// The item that holds it.
    pub fn item(&self, stream: &str) -> Attributes {
        let mut item = key(stream, ONE);
        for (name, value) in [
            ("Format", n(self.format)),
            ("Owner", s(&self.owner)),
            ("Layout", s(&self.layout)),
            ("Extent", s(&self.extent)),
            ("Lanes", n(self.lanes)),
            ("Foreign", AttributeValue::Bool(self.foreign)),
            ("Table", s(&self.table)),
            ("Division", s(&self.division)),
            ("Floor", n(self.floor)),
            ("Version", n(self.version)),
        ] {
            item.insert(name.to_owned(), value);
        }
        item
    }

    /// Reads its item.
    ///
    /// # Errors
    /// Config if a newer release wrote it.
    pub fn read(item: &Attributes) -> Result<Self> {
        let format = number(item, "Format")?;
        if format > u64::from(StreamRecord::FORMAT) {
            return Err(Error::config(format!(
                "read the record of a stream: it was written by a newer driftless (format {format}); use that version"
            )));
        }
        Ok(Self {
            format: u32::try_from(format).map_err(|_| broken())?,
            owner: text(item, "Owner")?,
            layout: text(item, "Layout")?,
            extent: text(item, "Extent")?,
            lanes: u16::try_from(number(item, "Lanes")?).map_err(|_| broken())?,
            foreign: matches!(item.get("Foreign"), Some(AttributeValue::Bool(true))),
            table: text(item, "Table")?,
            division: text(item, "Division")?,
            floor: number(item, "Floor")?,
            version: number(item, "Version")?,
        })
    }
}

impl Lane {
    /// Reads the item of a lane.
    pub fn read(item: &Attributes) -> Result<Self> {
        Ok(Self { epoch: number(item, "Epoch")?, number: number(item, "Number")?, ..Self::default() })
    }

    /// Reads the item of a lane's beat.
    pub fn read_beat(item: &Attributes) -> Result<(u64, u64)> {
        Ok((number(item, "Epoch")?, number(item, "Count")?))
    }

    /// Everything at or before it is in the sink.
    pub fn checkpoint(&self, base: &Slots) -> Checkpoint {
        let mut all = Checkpoint::default();
        for slot in 0..SLOTS {
            if let Some(inside) = self.slots.get(&slot).or_else(|| base.get(&slot)) {
                all.merge(inside);
            }
        }
        all
    }

    /// As everybody else sees it.
    pub fn record(&self, base: &Slots) -> LaneRecord {
        let beat = if self.beat.0 == self.epoch { self.beat.1 } else { 0 };
        LaneRecord { epoch: self.epoch, number: self.number, beat, checkpoint: self.checkpoint(base) }
    }
}

impl Known {
    /// Reads all items of a stream; `None` if that of the stream itself is not among them.
    pub fn read(items: &[Attributes]) -> Result<Option<Self>> {
        let record = |item: &Attributes| text(item, RECORD);
        let mut one = None;
        for item in items {
            if record(item)? == ONE {
                one = Some(Stream::read(item)?);
            }
        }
        let Some(stream) = one else { return Ok(None) };
        let mut known = Self { stream, base: Slots::new(), lanes: BTreeMap::new(), leftovers: Vec::new() };
        let mut beats = Vec::new();
        for item in items {
            let record = record(item)?;
            let parts: Vec<&str> = record.split('/').collect();
            let slot = |text: &str| text.parse().ok().filter(|slot| *slot < SLOTS).ok_or_else(broken);
            let number_of = |text: &str| text.parse::<u16>().map_err(|_| broken());
            match parts[..] {
                [ONE] => {}
                [_, division, ..] if division != known.stream.division => known.leftovers.push(record),
                ["base", _, at] => drop(known.base.insert(slot(at)?, read_positions(item)?)),
                ["lane", _, lane] => {
                    let (Lane { epoch, number, .. }, lane) = (Lane::read(item)?, known.lanes.entry(number_of(lane)?));
                    let lane = lane.or_default();
                    (lane.epoch, lane.number) = (epoch, number);
                }
                ["beat", _, lane] => beats.push((number_of(lane)?, Lane::read_beat(item)?)),
                ["at", _, lane, at] => {
                    let lane = known.lanes.entry(number_of(lane)?).or_default();
                    lane.slots.insert(slot(at)?, read_positions(item)?);
                }
                // Of a release that knows more; it would have raised the format if that mattered here.
                _ => {}
            }
        }
        for (lane, beat) in beats {
            if let Some(lane) = known.lanes.get_mut(&lane) {
                lane.beat = beat;
            }
        }
        // A lane whose item was removed meanwhile was divided anew, or forgotten.
        known.lanes.retain(|_, lane| lane.epoch > 0);
        Ok(Some(known))
    }

    /// As everybody else sees it.
    pub fn record(&self) -> StreamRecord {
        let Stream { layout, extent, lanes, .. } = self.stream.clone();
        // A lane that nobody has claimed since the number of lanes changed stands where all of them stood.
        let absent = || LaneRecord { checkpoint: Lane::default().checkpoint(&self.base), ..LaneRecord::default() };
        let one = |lane: u16| self.lanes.get(&lane).map_or_else(absent, |lane| lane.record(&self.base));
        StreamRecord {
            format: self.stream.format,
            owner: Owner(self.stream.owner.clone()),
            lanes: (0..lanes).map(one).collect(),
            scope: Scope { layout, extent, lanes },
            foreign: self.stream.foreign,
        }
    }
}

/// Reads the item of a slot.
pub fn read_positions(item: &Attributes) -> Result<Checkpoint> {
    let Some(AttributeValue::M(all)) = item.get("Positions") else { return Err(broken()) };
    let one = |(partition, at): (&String, &AttributeValue)| {
        let at = at.as_s().map_err(|_| broken())?.parse()?;
        Ok((PartitionId::new(partition.as_str()), at))
    };
    all.iter().map(one).collect()
}

/// A number as it is written down.
pub fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// A text as it is written down.
pub fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(item: &Attributes, name: &str) -> Result<u64> {
    item.get(name).and_then(|value| value.as_n().ok()).and_then(|text| text.parse().ok()).ok_or_else(broken)
}

fn text(item: &Attributes, name: &str) -> Result<String> {
    item.get(name).and_then(|value| value.as_s().ok()).cloned().ok_or_else(broken)
}

fn broken() -> Error {
    Error::corrupt("read the record of a stream: it is damaged, or somebody else has written into our table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Position;

    fn stream() -> Stream {
        Stream {
            format: 1,
            owner: "somebody".into(),
            layout: "teleport dynamodb dynamodb".into(),
            extent: String::new(),
            lanes: 2,
            foreign: true,
            table: "teleport".into(),
            division: "d2".into(),
            floor: 3,
            version: 9,
        }
    }

    fn reached(text: &str) -> Checkpoint {
        [(PartitionId::new("p"), Position::at(text))].into_iter().collect()
    }

    fn item(record: &str, all: &[(&str, AttributeValue)]) -> Attributes {
        let mut item = key("s", record);
        item.extend(all.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        item
    }

    #[test]
    fn a_stream_comes_back_from_its_items() {
        let in_slot = slot_of(&PartitionId::new("p"));
        let items = [
            stream().item("s"),
            positions("s", &base("d2", in_slot), &reached("3")),
            item(&lane("d2", 0), &[("Epoch", n(5)), ("Number", n(7))]),
            item(&lane("d1", 0), &[("Epoch", n(2)), ("Number", n(2))]),
            item(&beat("d2", 0), &[("Epoch", n(5)), ("Count", n(4))]),
            positions("s", &at("d2", 0, in_slot), &reached("9")),
            positions("s", &at("d1", 1, in_slot), &reached("99")),
        ];
        let known = Known::read(&items).unwrap().unwrap();
        assert_eq!(known.stream, stream());
        assert_eq!(known.leftovers, ["lane/d1/0", &format!("at/d1/1/{in_slot}")]);
        let record = known.record();
        assert_eq!(record.lanes[0], LaneRecord { epoch: 5, number: 7, beat: 4, checkpoint: reached("9") });
        assert_eq!(record.lanes[1], LaneRecord { checkpoint: reached("3"), ..LaneRecord::default() });
        assert_eq!(record.frontier(), reached("3"));
        assert_eq!(Known::read(&items[1..]).unwrap(), None);
    }

    #[test]
    fn a_slot_without_positions_is_not_one_that_was_never_written() {
        let base = Slots::from([(slot_of(&PartitionId::new("p")), reached("3"))]);
        let mut lane = Lane::default();
        assert_eq!(lane.checkpoint(&base), reached("3"));
        lane.slots.insert(slot_of(&PartitionId::new("p")), Checkpoint::default());
        assert_eq!(lane.checkpoint(&base), Checkpoint::default(), "what was forgotten does not come back");
    }

    #[test]
    fn what_somebody_else_wrote_is_refused_and_what_a_newer_one_wrote_is_named() {
        let newer = item(ONE, &[("Format", n(99))]);
        assert!(Known::read(&[newer]).unwrap_err().to_string().contains("newer driftless (format 99)"));
        for broken in [item(ONE, &[]), item(ONE, &[("Format", s("1"))]), Attributes::new()] {
            assert!(Known::read(&[broken]).is_err());
        }
    }

    #[test]
    fn slots_do_not_change_from_release_to_release() {
        let of = |name: &str| slot_of(&PartitionId::new(name));
        assert_eq!([of("!snapshot/1"), of("etcd/cdf81818e32f9c6d"), of("p"), of("")], [1, 7, 3, 1]);
    }
}
