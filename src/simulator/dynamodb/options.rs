//! What a simulated service is like: its ages and limits, and how often it misbehaves.
//!
//! Everything can be changed while it runs. The defaults are the service's documented values, without misbehaviour.

use serde::{Deserialize, Serialize};

/// The service's constants and its faults. A limit of 0 is no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// The region in names of tables and streams.
    pub region: String,
    /// The account in names of tables and streams.
    pub account: String,
    /// Open shards that a stream begins with.
    pub shards: u32,
    /// How long a shard stays open, at most; each takes between 7/8 of it and all of it. 0: for ever.
    pub rotate_every_seconds: u64,
    /// How many in a thousand shards are split in two when they end, instead of followed by one.
    pub split_permille: u32,
    /// Shards are not split beyond this many open ones.
    pub max_open_shards: u32,
    /// How long a stream keeps a record.
    pub retention_seconds: u64,
    /// How long an iterator can be used.
    pub iterator_seconds: u64,
    /// Each record can be read this much after its write, at the latest; in order within a shard.
    pub late_milliseconds: u64,
    /// How long DescribeStream may be behind in telling of a shard's begin or end, each by itself.
    pub tree_lag_milliseconds: u64,
    /// How long a table is being created, updated or deleted.
    pub table_delay_milliseconds: u64,
    /// An item is deleted within this time after it has expired.
    pub ttl_delay_seconds: u64,
    /// Readers of one shard within a second.
    pub readers_per_shard: u32,
    /// GetRecords of one shard within a second.
    pub get_records_per_second: u32,
    /// DescribeStream within a second.
    pub describe_stream_per_second: u32,
    /// Write units of a table within a second.
    pub write_units_per_second: u32,
    /// Read units of a table within a second.
    pub read_units_per_second: u32,
    /// How often calls go wrong.
    pub faults: Rates,
}

/// How many in a thousand calls go wrong, by the way in which they do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Refused for throughput or rate.
    pub throttle: u32,
    /// Answered with status 500; every second one is done nevertheless.
    pub internal_error: u32,
    /// Not done, and the connection closed without an answer.
    pub lost_request: u32,
    /// Done, and the connection closed without an answer.
    pub lost_answer: u32,
    /// Transactions cancelled because another one touches the same item.
    pub transaction_conflict: u32,
    /// Batches of which a part comes back unprocessed.
    pub unprocessed: u32,
    /// GetRecords that gives no record although there are some.
    pub empty_page: u32,
    /// Pages of GetRecords, Query and Scan that end early.
    pub short_page: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            region: "us-east-1".into(),
            account: "000000000000".into(),
            shards: 1,
            rotate_every_seconds: 4 * 3600,
            split_permille: 0,
            max_open_shards: 64,
            retention_seconds: 24 * 3600,
            iterator_seconds: 15 * 60,
            late_milliseconds: 0,
            tree_lag_milliseconds: 0,
            table_delay_milliseconds: 0,
            ttl_delay_seconds: 600,
            readers_per_shard: 2,
            get_records_per_second: 5,
            describe_stream_per_second: 10,
            write_units_per_second: 0,
            read_units_per_second: 0,
            faults: Rates::default(),
        }
    }
}
