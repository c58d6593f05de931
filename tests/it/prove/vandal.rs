//! Somebody who harms a journal while nobody writes it, and who says what that must mean.
//!
//! He knows the files from their documentation alone (`src/kinds/journal/format.rs`, `mark.rs`), so that a mistake there is
//! not made twice. What was durable he takes from the mark: what lies behind it was never promised to anybody.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A small generator of chances: the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides.max(1)
    }
}

/// What a harm costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing that was durable.
    Nothing,
    /// Durable frames at the journal's end: whoever opens it sees that.
    Newest,
    /// Durable frames further back: whoever reads there sees that.
    Older,
    /// Durable frames at the end, and the mark that told of them: only the source can tell.
    Unseen,
}

/// What was done.
#[derive(Debug)]
pub struct Harm {
    /// One word or two, for counting.
    pub kind: &'static str,
    /// Where, for people.
    pub what: String,
    pub loss: Loss,
}

/// What the mark says.
#[derive(Clone, Copy)]
struct Mark {
    segment: u64,
    end: u64,
}

pub struct Vandal {
    folder: PathBuf,
    pub dice: Dice,
    /// Segments whose damage stays where it is.
    harmed: BTreeSet<u64>,
}

impl Vandal {
    pub fn new(folder: &Path, seed: u64) -> Self {
        Self { folder: folder.to_owned(), dice: Dice::new(seed), harmed: BTreeSet::new() }
    }

    /// Does one of the things that disks, crashes and people do.
    pub fn harm(&mut self) -> Harm {
        match self.dice.roll(20) {
            0 => self.flip_in_head(),
            1..=3 => self.flip("frame head", |frame, dice| frame.0 + dice.roll(56)),
            4..=7 => self.flip("payload", |frame, dice| frame.0 + 56 + dice.roll(frame.1 - frame.0 - 56)),
            8..=10 => self.cut_anywhere(),
            11..=13 => self.cut_between_frames(false),
            14..=15 => self.cut_between_frames(true),
            16 => self.remove_newest(),
            17 => self.remove_older(),
            18 => self.small_file("mark"),
            _ => self.small_file(".reader"),
        }
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments().into_iter().map(|first| self.path(first).metadata().unwrap().len()).sum()
    }

    /// Removes the mark and the places of all readers.
    pub fn remove_small_files(&self) {
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "reader") || path.ends_with("mark") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    fn segments(&self) -> Vec<u64> {
        let names =
            std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<u64> = names.filter_map(|name| name.strip_suffix(".segment")?.parse().ok()).collect();
        all.sort_unstable();
        all
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}.segment"))
    }

    fn mark(&self) -> Option<Mark> {
        let bytes = std::fs::read(self.folder.join("mark")).ok().filter(|bytes| bytes.len() == 36)?;
        Some(Mark { segment: number(&bytes, 16), end: number(&bytes, 24) })
    }

    /// Where the frames of a segment begin and end, as far as they are whole.
    fn frames(&self, first: u64) -> Vec<(u64, u64)> {
        let bytes = std::fs::read(self.path(first)).unwrap();
        let word = |at: usize| bytes.get(at..at + 4).map(|four| u32::from_le_bytes(four.try_into().unwrap()));
        let mut frames = Vec::new();
        let Some(lineage) = word(12) else { return frames };
        let mut at = 76 + lineage as usize + 4;
        while bytes.get(at..at + 4) == Some(b"dlf1") {
            let end = at + 56 + word(at + 4).unwrap() as usize;
            if end > bytes.len() {
                break;
            }
            frames.push((at as u64, end as u64));
            at = end;
        }
        frames
    }

    /// Mostly the newest segment, or the one before; one that nothing is wrong with yet.
    fn some_segment(&mut self) -> u64 {
        let all = self.segments();
        let back = match self.dice.roll(4) {
            0 | 1 => 0,
            2 => 1,
            _ => self.dice.roll(all.len() as u64),
        };
        let chosen = all[all.len() - 1 - (back as usize).min(all.len() - 1)];
        if self.harmed.contains(&chosen) { *all.last().unwrap() } else { chosen }
    }

    /// What it costs when a segment is changed from this byte on.
    fn loss(&mut self, segment: u64, at: u64) -> Loss {
        let newest = *self.segments().last().unwrap();
        match self.mark() {
            Some(mark) if segment < mark.segment || (segment == mark.segment && at < mark.end) => {
                if segment == newest {
                    Loss::Newest
                } else {
                    self.harmed.insert(segment);
                    Loss::Older
                }
            }
            _ => Loss::Nothing,
        }
    }

    fn flip_at(&mut self, kind: &'static str, segment: u64, at: u64) -> Harm {
        let loss = self.loss(segment, at);
        let bit = self.dice.roll(8);
        flip(&self.path(segment), at, bit);
        Harm { kind, what: format!("bit {bit} of byte {at} of segment {segment}"), loss }
    }

    fn flip_in_head(&mut self) -> Harm {
        let segment = self.some_segment();
        let length = self.frames(segment).first().map_or(76, |frame| frame.0);
        let at = self.dice.roll(length);
        self.flip_at("segment head", segment, at)
    }

    fn flip(&mut self, kind: &'static str, place: impl Fn((u64, u64), &mut Dice) -> u64) -> Harm {
        let segment = self.some_segment();
        let frames = self.frames(segment);
        if frames.is_empty() {
            return self.flip_in_head();
        }
        let at = place(frames[self.dice.roll(frames.len() as u64) as usize], &mut self.dice);
        self.flip_at(kind, segment, at)
    }

    fn cut_anywhere(&mut self) -> Harm {
        let segment = *self.segments().last().unwrap();
        let length = self.path(segment).metadata().unwrap().len();
        let at = self.dice.roll(length);
        let loss = self.loss(segment, at);
        cut(&self.path(segment), at);
        Harm { kind: "cut anywhere", what: format!("segment {segment} cut at byte {at} of {length}"), loss }
    }

    /// Cuts off some of the last frames, as if they had never been.
    pub fn cut_between_frames(&mut self, mark_too: bool) -> Harm {
        let segment = *self.segments().last().unwrap();
        let frames = self.frames(segment);
        let Some(last) = frames.len().checked_sub(1) else { return self.cut_anywhere() };
        let index = last - self.dice.roll(frames.len().min(8) as u64) as usize;
        let at = frames[index].0;
        let loss = self.loss(segment, at);
        cut(&self.path(segment), at);
        let what = format!("segment {segment} cut at byte {at}, where frame {index} of {} begins", frames.len());
        if mark_too {
            std::fs::remove_file(self.folder.join("mark")).unwrap_or_default();
            let loss = if loss == Loss::Newest { Loss::Unseen } else { loss };
            return Harm { kind: "cut between frames, no mark", what, loss };
        }
        Harm { kind: "cut between frames", what, loss }
    }

    fn remove_newest(&mut self) -> Harm {
        let segment = *self.segments().last().unwrap();
        let loss = self.loss(segment, 0);
        std::fs::remove_file(self.path(segment)).unwrap();
        Harm { kind: "newest removed", what: format!("segment {segment} removed"), loss }
    }

    /// Removes a segment that others surround; the oldest would look as if it had become too old.
    fn remove_older(&mut self) -> Harm {
        let all = self.segments();
        let sound = |first: &u64| !self.harmed.contains(first);
        let inner: Vec<u64> =
            all.windows(3).filter(|three| sound(&three[0]) && sound(&three[1])).map(|three| three[1]).collect();
        let Some(count) = std::num::NonZero::new(inner.len() as u64) else { return self.remove_newest() };
        // The newest of them half of the time: it is the one that somebody may need.
        let back = if self.dice.roll(2) == 0 { 0 } else { self.dice.roll(count.get()) };
        let segment = inner[inner.len() - 1 - back as usize];
        let loss = self.loss(segment, 0);
        std::fs::remove_file(self.path(segment)).unwrap();
        // What is wrong now is said of the segment before.
        let before = all.iter().rev().find(|first| **first < segment).copied();
        self.harmed.extend(before);
        Harm { kind: "older removed", what: format!("segment {segment} removed"), loss }
    }

    /// Harms one of the small files beside the segments, which only spare work.
    fn small_file(&mut self, ending: &'static str) -> Harm {
        let names =
            std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
        files.sort();
        let Some(count) = std::num::NonZero::new(files.len() as u64) else { return self.cut_anywhere() };
        let name = files.swap_remove(self.dice.roll(count.get()) as usize);
        let path = self.folder.join(&name);
        let length = path.metadata().unwrap().len();
        let how = match self.dice.roll(3) {
            0 => {
                let (at, bit) = (self.dice.roll(length), self.dice.roll(8));
                flip(&path, at, bit);
                "a bit flipped"
            }
            1 => {
                cut(&path, self.dice.roll(length));
                "cut short"
            }
            _ => {
                std::fs::remove_file(&path).unwrap();
                "removed"
            }
        };
        let kind = if ending == "mark" { "mark" } else { "place of a reader" };
        Harm { kind, what: format!("{name}: {how}"), loss: Loss::Nothing }
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn flip(path: &Path, at: u64, bit: u64) {
    let (file, mut byte) = (open(path), [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
}

fn cut(path: &Path, at: u64) {
    open(path).set_len(at).unwrap();
}
