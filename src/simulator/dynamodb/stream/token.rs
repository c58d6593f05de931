//! Iterators: what a reader holds between two calls.
//!
//! An iterator is a text that says all about itself, so that nothing is kept for readers that never come back. A checksum over it
//! keeps invented ones out; it is no secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::super::chance::hash;

/// Where an iterator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The record with this number is next, or the one after where it would be.
    At(u128),
    /// The record after this number is next.
    After(u128),
}

/// An iterator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The stream's resource name.
    pub stream: String,
    /// The shard.
    pub shard: String,
    /// Where in it.
    pub from: From,
    /// When it was given, in milliseconds.
    pub issued: u64,
    /// Who reads: the same for all that follow from one GetShardIterator.
    pub reader: u64,
}

impl Token {
    /// As text.
    pub fn text(&self) -> String {
        let (how, sequence) = match self.from {
            From::At(sequence) => ("at", sequence),
            From::After(sequence) => ("after", sequence),
        };
        let inner = format!("{}|{how}|{sequence}|{}|{}", self.shard, self.issued, self.reader);
        let sum = hash(format!("{}|{inner}", self.stream).as_bytes());
        format!("{}|1|{}", self.stream, BASE64.encode(format!("{inner}|{sum:016x}")))
    }

    /// From text, if that was an iterator.
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, rest) = text.split_once("|1|")?;
        let inner = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
        let (body, sum) = inner.rsplit_once('|')?;
        if u64::from_str_radix(sum, 16).ok()? != hash(format!("{stream}|{body}").as_bytes()) {
            return None;
        }
        let mut parts = body.split('|');
        let shard = parts.next()?.to_owned();
        let how = parts.next()?;
        let sequence = parts.next()?.parse().ok()?;
        let from = if how == "at" { From::At(sequence) } else { From::After(sequence) };
        let (issued, reader) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { stream: stream.to_owned(), shard, from, issued, reader })
    }
}
