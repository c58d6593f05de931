//! Reading items: pages by query or by scan, and single ones by key. Strongly consistent, at the table's pace.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity, KeysAndAttributes, ReturnConsumedCapacity};
use tokio::time::sleep;

use super::body::Attributes;
use super::connect::Access;
use super::layout::{HASH, Keys, PATH, TELEPORT};
use super::pace::jitter;
use super::{body, cut};
use crate::error::{Error, Result};
use crate::model::{Batch, Op};

/// LIMIT: keys of one question, set by DynamoDB.
const AT_ONCE: usize = 100;
/// LIMIT: bytes of an answer to a question for keys. DynamoDB would give 16 MiB.
const ANSWER: usize = 2 << 20;
/// LIMIT: how often keys that were left out of an answer are asked for again.
const TRIES: u32 = 40;

/// A page and, unless it was the last, the key that it ends with.
pub type Page = (Vec<Attributes>, Option<Attributes>);

/// Who reads one table.
pub struct Reader {
    /// Its table.
    pub access: Access,
    /// Bytes of a row, as far as they are known.
    row: AtomicUsize,
}

impl Reader {
    /// Of a table.
    pub fn new(access: &Access) -> Self {
        Self { access: access.clone(), row: AtomicUsize::new(1 << 10) }
    }

    /// Teleport's items between two sort keys, both included, behind a third.
    pub async fn query(&self, from: &str, to: &str, after: Option<&str>, bytes: usize) -> Result<Page> {
        let start = after.map(|path| HashMap::from([(HASH.to_owned(), s(TELEPORT)), (PATH.to_owned(), s(path))]));
        self.access.reads().turn().await;
        let limit = self.at_once(bytes);
        let answer = self
            .access
            .ask("read items", |client| {
                let question = between(client.query().table_name(self.access.table()), from, to)
                    .consistent_read(true)
                    .set_exclusive_start_key(start.clone())
                    .limit(limit)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total);
                async move { question.send().await }
            })
            .await?;
        self.access.reads().took(units(answer.consumed_capacity.as_ref()));
        Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key))
    }

    /// The first sort keys between two, at most so many.
    pub async fn paths(&self, from: &str, to: &str, most: usize) -> Result<Vec<String>> {
        self.access.reads().turn().await;
        let limit = i32::try_from(most).unwrap_or(i32::MAX);
        let answer = self
            .access
            .ask("look at keys", |client| {
                let question = between(client.query().table_name(self.access.table()), from, to)
                    .projection_expression(PATH)
                    .limit(limit)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total);
                async move { question.send().await }
            })
            .await?;
        self.access.reads().took(units(answer.consumed_capacity.as_ref()));
        let path = |item: &Attributes| item.get(PATH).and_then(|path| path.as_s().ok()).cloned();
        // The upper bound is no part of what is asked for.
        Ok(answer.items().iter().filter_map(path).filter(|path| path.as_str() < to).collect())
    }

    /// The items of a segment of the table behind a key.
    pub async fn scan(&self, segment: i32, of: i32, after: Option<Attributes>, bytes: usize) -> Result<Page> {
        self.access.reads().turn().await;
        let limit = self.at_once(bytes);
        let answer = self
            .access
            .ask("read items", |client| {
                let question = client
                    .scan()
                    .table_name(self.access.table())
                    .segment(segment)
                    .total_segments(of)
                    .consistent_read(true)
                    .set_exclusive_start_key(after.clone())
                    .limit(limit)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total);
                async move { question.send().await }
            })
            .await?;
        self.access.reads().took(units(answer.consumed_capacity.as_ref()));
        Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key))
    }

    /// The items of these keys that are there, in any order.
    pub async fn items(&self, keys: &Keys, wanted: &[&[u8]]) -> Result<Vec<Attributes>> {
        let mut found = Vec::new();
        // A key that the table cannot hold is not there.
        let distinct: BTreeSet<&[u8]> = wanted.iter().copied().collect();
        let mut left: Vec<Attributes> = distinct.into_iter().filter_map(|key| keys.attributes(key).ok()).collect();
        let mut tries = TRIES;
        while !left.is_empty() {
            let count = (ANSWER / self.row().max(1)).clamp(1, AT_ONCE).min(left.len());
            let now: Vec<_> = left.drain(..count).collect();
            let unread = self.batch(now, &mut found).await?;
            if !unread.is_empty() {
                tries -= 1;
                if tries == 0 {
                    return Err(Error::transient("read keys: the service leaves some of them out each time"));
                }
                self.access.reads().refused();
                sleep(jitter(std::time::Duration::from_millis(20))).await;
                left.extend(unread);
            }
        }
        Ok(found)
    }

    async fn batch(&self, now: Vec<Attributes>, found: &mut Vec<Attributes>) -> Result<Vec<Attributes>> {
        const ATTEMPT: &str = "read keys";
        self.access.reads().turn().await;
        let question = KeysAndAttributes::builder().set_keys(Some(now)).consistent_read(true).build();
        let question = question.map_err(|_| Error::bug(format!("{ATTEMPT}: a question without keys")))?;
        let mut answer = self
            .access
            .ask(ATTEMPT, |client| {
                let question = client
                    .batch_get_item()
                    .request_items(self.access.table(), question.clone())
                    .return_consumed_capacity(ReturnConsumedCapacity::Total);
                async move { question.send().await }
            })
            .await?;
        self.access.reads().took(answer.consumed_capacity().iter().map(|part| units(Some(part))).sum());
        let items = answer.responses.take().and_then(|mut tables| tables.remove(self.access.table()));
        found.extend(items.unwrap_or_default());
        let unread = answer.unprocessed_keys.and_then(|mut tables| tables.remove(self.access.table()));
        Ok(unread.map(|keys| keys.keys).unwrap_or_default())
    }

    /// Appends an item to a batch, if it is of the layout; gives its key. `cursor` makes of the key what a scan by cursor
    /// carries.
    pub fn push(
        &self,
        keys: &Keys,
        item: &Attributes,
        batch: &mut Batch,
        table: u16,
        cursor: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        let Some(key) = keys.key(item)? else { return Ok(None) };
        let mut bytes = Vec::new();
        body::encode(item, &keys.names(), &mut bytes)?;
        match cursor(&key) {
            Some(cursor) => batch.push_scanned(table, &key, &bytes, &cursor),
            None => batch.push(Op::Put, false, table, &key, &bytes, 0),
        }
        let known = self.row();
        // ORDERING: Relaxed, a guess that guards nothing. Large at once, small by and by.
        self.row
            .store((key.len() + bytes.len() + 64).max((known * 15 + key.len() + bytes.len()) / 16), Ordering::Relaxed);
        Ok(Some(key))
    }

    fn row(&self) -> usize {
        // ORDERING: Relaxed, see `push`.
        self.row.load(Ordering::Relaxed)
    }

    /// How many items have about so many bytes.
    fn at_once(&self, bytes: usize) -> i32 {
        i32::try_from((bytes / self.row().max(1)).clamp(1, 10_000)).unwrap_or(1)
    }

    /// The first keys of all parts but the first, see [`cut::cuts`].
    pub async fn cuts(&self, from: &str, to: &str, parts: usize) -> Result<Vec<String>> {
        cut::cuts(from, to, parts, |from, to, most| async move { self.paths(&from, &to, most).await }).await
    }
}

fn between(
    question: aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder,
    from: &str,
    to: &str,
) -> aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder {
    question
        .key_condition_expression("HashKey = :hash AND FullPath BETWEEN :from AND :to")
        .expression_attribute_values(":hash", s(TELEPORT))
        .expression_attribute_values(":from", s(from))
        .expression_attribute_values(":to", s(to))
}

fn units(taken: Option<&ConsumedCapacity>) -> f64 {
    taken.and_then(ConsumedCapacity::capacity_units).unwrap_or(0.0)
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}
