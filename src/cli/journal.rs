//! `journal`: its tables for people, its lines for programs. Keys and bodies are secret, and hidden unless asked for.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::cli::args::{Journal, Show, Target};
use crate::cli::exit::Exit;
use crate::cli::load;
use crate::cli::print::{Printer, columns, number, size};
use crate::error::Result;
use crate::kinds::journal::{Cursor, SegmentInfo, Snapshot};
use crate::kinds::open::shared::Log;
use crate::model::{Checkpoint, Micros, Op, shown};
use crate::ops::journal::{self, Change, Checked, Entry, Listing, Range};

/// LIMIT: lines are written in pieces of about this many bytes.
const PIECE: usize = 64 << 10;

/// Does one of its verbs. They read local files, in a command that has nothing else to do meanwhile.
pub(super) fn run(what: &Journal, printer: Printer) -> Result<Exit> {
    let mut exit = Exit::Done;
    match what {
        Journal::Ls(options) => {
            for log in logs(&options.target)? {
                let listing = journal::ls(&log)?;
                printer.either(&listing_value(&listing), &listing_text(&listing))?;
            }
        }
        Journal::Show(options) => show(options, printer)?,
        Journal::Verify(options) => {
            for log in logs(&options.target)? {
                let checked = journal::verify(&log)?;
                if !checked.sound {
                    exit = Exit::Different;
                }
                printer.either(&checked, &checked_text(&checked))?;
            }
        }
    }
    Ok(exit)
}

fn logs(target: &Target) -> Result<Vec<Log>> {
    journal::journals(&load(target)?, !target.pipelines.is_empty())
}

fn show(options: &Show, printer: Printer) -> Result<()> {
    let bound = |text: &Option<String>| text.as_deref().map(str::parse).transpose();
    let range = Range { from: bound(&options.from)?, until: bound(&options.until)? };
    let logs = logs(&options.target)?;
    if options.values {
        tracing::warn!("keys and values are shown: whoever reads them has the cluster's secrets");
    }
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut lines = String::new();
    for log in logs {
        let shown = journal::show(&log, &range, &mut |entry| {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            lines.push_str(&entry_line(&log.name, &entry, options.values));
            lines.push('\n');
            if lines.len() >= PIECE {
                printer.lines(&std::mem::take(&mut lines))?;
            }
            Ok(true)
        });
        // What came before the damage is shown.
        printer.lines(&std::mem::take(&mut lines))?;
        shown?;
    }
    Ok(())
}

/// A time as it is shown; nothing where none is known.
fn time(at: Micros) -> Option<String> {
    Timestamp::from_microsecond(at).ok().filter(|_| at != 0).map(|at| at.to_string())
}

/// A line of `show`: what is not there is left out, but for a time and a position, which then are not known.
#[derive(Serialize)]
struct Line<'a> {
    journal: &'a str,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Change {
        partition: &'a str,
        position: Option<String>,
        time: Option<String>,
        op: &'a str,
        table: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        snapshot: Option<u64>,
        #[serde(flatten, serialize_with = "as_fields")]
        content: Vec<(&'a str, Cow<'a, str>)>,
    },
    Note {
        note: &'a str,
        time: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        snapshot: Option<u64>,
        #[serde(skip_serializing_if = "str::is_empty")]
        why: &'a str,
        places: Value,
    },
}

fn as_fields<S: Serializer>(fields: &[(&str, Cow<'_, str>)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

fn entry_line(journal: &str, entry: &Entry<'_>, values: bool) -> String {
    let what = match entry {
        Entry::Change(change) => What::Change {
            partition: change.partition.as_str(),
            position: change.position.as_ref().map(ToString::to_string),
            time: time(change.at),
            op: op(change.op),
            table: change.table,
            snapshot: change.snapshot,
            content: content(change, values),
        },
        Entry::Note(note) => {
            let (note, at, snapshot, why, places) = journal::told(note);
            What::Note { note, time: time(at), snapshot, why, places: places_value(places) }
        }
    };
    serde_json::to_string(&Line { journal, what }).expect("lines are plain data with text keys")
}

fn places_value(places: &Checkpoint) -> Value {
    places.iter().map(|(partition, position)| (partition.to_string(), Value::from(position.to_string()))).collect()
}

/// Key and body, or as much of them as may be shown.
fn content<'a>(change: &Change<'a>, values: bool) -> Vec<(&'a str, Cow<'a, str>)> {
    if !values {
        return vec![("key", shown(change.table, change.key).into())];
    }
    let mut content = vec![text("key", "key_base64", change.key)];
    content.extend(change.before.map(|before| text("key_before", "key_before_base64", before)));
    content.push(text("body", "body_base64", change.body));
    content
}

/// Bytes under a name: as text, or else in base64 under a name that says so.
fn text<'a>(name: &'a str, coded: &'a str, bytes: &'a [u8]) -> (&'a str, Cow<'a, str>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (name, text.into()),
        Err(_) => (coded, STANDARD.encode(bytes).into()),
    }
}

fn op(op: Op) -> &'static str {
    match op {
        Op::Put => "put",
        Op::Patch => "patch",
        Op::Delete => "delete",
        Op::Clear => "clear",
    }
}

/// Frames, bytes, and the time span of all segments together.
fn totals(listing: &Listing) -> (u64, u64, u64, Micros, Micros) {
    let all = &listing.segments;
    let earliest = all.iter().map(|s| s.earliest).filter(|at| *at != 0).min().unwrap_or(0);
    (
        all.iter().map(|s| s.last + 1 - s.first).sum(),
        all.iter().map(|s| s.bytes).sum(),
        all.iter().map(|s| s.unpacked).sum(),
        earliest,
        all.iter().map(|s| s.latest).max().unwrap_or(0),
    )
}

fn listing_value(listing: &Listing) -> Value {
    let (frames, bytes, unpacked, earliest, latest) = totals(listing);
    let segment = |s: &SegmentInfo| {
        json!({
            "file": s.name, "first": s.first, "frames": s.last + 1 - s.first, "bytes": s.bytes, "unpacked": s.unpacked,
            "begun": time(s.made), "earliest": time(s.earliest), "latest": time(s.latest),
            "encrypted": s.key.is_some(), "damage": s.damage,
        })
    };
    let reader = |(reader, bytes): &(Cursor, u64)| {
        json!({
            "name": reader.name, "needs": reader.sequence, "bytes": bytes, "moved": time(reader.moved),
            "outrun": reader.outrun,
        })
    };
    let snapshot = |s: &Snapshot| {
        json!({
            "number": s.id, "first": s.began, "last": s.ended, "begun": time(s.began_at), "ended": time(s.ended_at),
        })
    };
    let snapshots = listing.snapshots.as_ref().map(|all| all.iter().map(snapshot).collect::<Vec<_>>());
    json!({
        "name": listing.name, "pipelines": listing.pipelines, "folder": listing.folder,
        "lineage": listing.segments.last().map(|s| &s.lineage),
        "segments": listing.segments.iter().map(segment).collect::<Vec<_>>(),
        "readers": listing.readers.iter().map(reader).collect::<Vec<_>>(),
        "snapshots": snapshots.as_ref().ok(), "snapshots_unknown": snapshots.err().map(ToString::to_string),
        "frames": frames, "bytes": bytes, "unpacked": unpacked, "earliest": time(earliest), "latest": time(latest),
    })
}

fn listing_text(listing: &Listing) -> String {
    let shown = |at: Micros| time(at).unwrap_or_else(|| "unknown".into());
    let (frames, bytes, unpacked, earliest, latest) = totals(listing);
    let mut out = format!("{}: {}, followed by {}\n", listing.name, listing.folder, listing.pipelines.join(", "));
    let mut rows =
        vec![["SEGMENT", "FIRST FRAME", "FRAMES", "SIZE", "ENCRYPTED", "EARLIEST", "LATEST"].map(str::to_owned)];
    rows.extend(listing.segments.iter().map(|s| {
        let encrypted = if s.key.is_some() { "yes" } else { "no" }.to_owned();
        let frames = number(s.last + 1 - s.first);
        [s.name.clone(), s.first.to_string(), frames, size(s.bytes), encrypted, shown(s.earliest), shown(s.latest)]
    }));
    out.push_str(&columns(&rows));
    for (name, damage) in listing.segments.iter().filter_map(|s| Some((&s.name, s.damage.as_ref()?))) {
        out.push_str(&format!("{name}: DAMAGED: {damage}\n"));
    }
    let mut rows = vec![["READER", "NEEDS FRAME", "KEPT FOR IT", "MOVED"].map(str::to_owned)];
    rows.extend(listing.readers.iter().map(|(reader, bytes)| {
        let name = if reader.outrun { format!("{} (outrun)", reader.name) } else { reader.name.clone() };
        [name, reader.sequence.to_string(), size(*bytes), shown(reader.moved)]
    }));
    out.push_str(&if listing.readers.is_empty() { "no reader is registered\n".into() } else { columns(&rows) });
    match &listing.snapshots {
        Ok(all) if all.is_empty() => out.push_str("no whole snapshot\n"),
        Ok(all) => {
            let mut rows = vec![["SNAPSHOT", "FIRST FRAME", "LAST FRAME", "BEGUN", "ENDED"].map(str::to_owned)];
            rows.extend(all.iter().map(|s| {
                let (first, last) = (s.began.to_string(), s.ended.to_string());
                [s.id.to_string(), first, last, shown(s.began_at), shown(s.ended_at)]
            }));
            out.push_str(&columns(&rows));
        }
        Err(error) => out.push_str(&format!("snapshots are not known: {error}\n")),
    }
    let (frames, count) = (number(frames), number(listing.segments.len() as u64));
    let (bytes, unpacked, from, to) = (size(bytes), size(unpacked), shown(earliest), shown(latest));
    out + &format!("{count} segments, {frames} frames, {bytes}, unpacked {unpacked}, from {from} to {to}\n")
}

fn checked_text(checked: &Checked) -> String {
    let Checked { name, sound, segments, frames, changes, items, damage, torn, seconds } = checked;
    let mut out = String::new();
    for what in damage {
        out.push_str(&format!("  {what}\n"));
    }
    let verdict = if *sound { "sound" } else { "DAMAGED" };
    let torn = if *torn { "; the last write was cut short or is under way, which is no damage" } else { "" };
    let (segments, frames, changes, items) = (number(*segments), number(*frames), number(*changes), number(*items));
    out + &format!(
        "{name}: {verdict}: {segments} segments, {frames} frames, {changes} changes, {items} items of snapshots \
         in {seconds:.1} s{torn}\n"
    )
}
