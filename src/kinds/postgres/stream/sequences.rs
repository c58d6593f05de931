//! Values of sequences, which the stream itself does not carry.
//!
//! A task reads them now and then, beside the stream, and the tail lets the newest reading travel before a mark, as puts
//! of a table of their own. A reading is never behind the place of the stream where it enters. While values are drawn it
//! is carried with a margin, so that what is drawn before the next reading does not collide at the sink if the source is
//! lost meanwhile; once a sequence stands still its exact value follows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::relations::Definitions;
use crate::kinds::postgres::catalog::SequenceValue;
use crate::model::Table;

/// Name of the table under which values travel: key `schema.name`, body the value as a decimal number.
const TABLE: &str = "!sequences";
/// LIMIT: how often they are read; each costs the source a short question.
const INTERVAL: Duration = Duration::from_secs(10);
/// The margin covers as much as was drawn in this many intervals, and at least what a server reserves at a time.
const INTERVALS: i64 = 2;
const LEAST: i64 = 32;

/// Values to be carried, by name.
pub(super) type Values = Vec<(String, i64)>;

/// The newest reading, until the tail takes it.
#[derive(Clone, Default)]
pub(super) struct Reading(Arc<Mutex<Values>>);

impl Reading {
    /// What was read since the last time.
    pub(super) fn take(&self) -> Values {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, values: Values) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(name, _)| !values.iter().any(|(newer, _)| newer == name));
        held.extend(values);
    }
}

/// The table that the values are rows of.
pub(super) fn table() -> Arc<Table> {
    Arc::new(Table { name: TABLE.to_owned(), shape: Vec::new() })
}

/// Reads until it is aborted.
pub(super) fn read_on(definitions: Arc<dyn Definitions>, reading: Reading) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut sent = Sent::default();
        loop {
            match definitions.sequences().await {
                Ok(values) => reading.put(sent.news(values)),
                Err(error) => tracing::warn!(%error, "could not read sequences; trying again"),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    })
}

/// What was read and what was sent last, by name.
#[derive(Default)]
struct Sent(HashMap<String, (i64, i64)>);

impl Sent {
    /// What the sink should hear after this reading.
    fn news(&mut self, values: Vec<SequenceValue>) -> Values {
        let mut news = Vec::new();
        // One that nobody has drawn from stands at its beginning on both sides.
        for value in values.into_iter().filter(|value| value.is_called) {
            let name = format!("{}.{}", value.schema, value.name);
            let before = self.0.get(&name).copied();
            let drawn = before.map_or(0, |(read, _)| value.last_value.saturating_sub(read));
            let margin = match drawn {
                0 => 0,
                _ => {
                    let least = value.increment.saturating_mul(LEAST);
                    let much = drawn.saturating_mul(INTERVALS);
                    if value.increment < 0 { least.min(much) } else { least.max(much) }
                }
            };
            let ahead = value.last_value.saturating_add(margin).clamp(value.min, value.max.max(value.min));
            if before.map(|(_, sent)| sent) != Some(ahead) {
                news.push((name.clone(), ahead));
            }
            self.0.insert(name, (value.last_value, ahead));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(last_value: i64, increment: i64, is_called: bool) -> SequenceValue {
        let (schema, name) = ("public".to_owned(), "s".to_owned());
        SequenceValue { schema, name, increment, min: -1000, max: 1000, last_value, is_called }
    }

    #[test]
    fn a_sequence_runs_ahead_while_it_is_drawn_from_and_stands_exactly_when_it_stands() {
        let mut sent = Sent::default();
        let mut news = |last, increment, called| {
            let news = sent.news(vec![value(last, increment, called)]);
            news.first().map(|(name, value)| (name.clone(), *value))
        };
        let at = |value| Some(("public.s".to_owned(), value));
        assert_eq!(news(1, 1, false), None, "nobody has drawn from it");
        assert_eq!(news(1, 1, true), at(1));
        assert_eq!(news(5, 1, true), at(37), "at least what a server reserves");
        assert_eq!(news(105, 1, true), at(305), "twice what was drawn since");
        assert_eq!(news(105, 1, true), at(105));
        assert_eq!(news(105, 1, true), None, "nothing new");
        assert_eq!(news(900, 1, true), at(1000), "never beyond its end");
        assert_eq!(news(890, -1, true), at(858), "downwards");
    }

    #[test]
    fn a_newer_reading_replaces_an_older_one_that_was_not_taken() {
        let reading = Reading::default();
        reading.put(vec![("a".into(), 1), ("b".into(), 1)]);
        reading.put(vec![("a".into(), 2)]);
        assert_eq!(reading.take(), [("b".to_owned(), 1), ("a".to_owned(), 2)]);
        assert!(reading.take().is_empty());
    }
}
