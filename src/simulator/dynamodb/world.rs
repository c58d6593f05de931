//! The service's whole state, moved by requests and by time.
//!
//! Invariant: the state and every answer follow from the options, the seed, and the requests with their times. Time never goes
//! back: an earlier one is taken for the latest that was seen. What falls due between two requests (the end of a shard, an item
//! whose time is over, a record too old) is done in the order of its times before the request is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::calls;
use super::chance::Chance;
use super::fail::{Failure, Kind, Result};
use super::faults::{Fault, Script, Window};
use super::input::Input;
use super::options::Options;
use super::stream::{Change, Stream};
use super::table::{Key, Place, Table};
use super::value::Item;

/// A request as it came.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The header `X-Amz-Target`.
    pub target: &'a str,
    /// Whether it was signed; the signature itself is not looked at.
    pub signed: bool,
    /// The body.
    pub body: &'a [u8],
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is answered.
    Said {
        /// The HTTP status.
        status: u16,
        /// The JSON.
        body: Vec<u8>,
        /// The request's id, for `x-amzn-RequestId`.
        id: String,
    },
    /// The connection is closed without a word.
    Cut,
}

/// A simulated service.
#[derive(Debug)]
pub struct World {
    pub(super) options: Options,
    pub(super) chance: Chance,
    pub(super) now: u64,
    pub(super) tables: BTreeMap<String, Table>,
    pub(super) streams: BTreeMap<String, Stream>,
    pub(super) script: Script,
    /// What goes wrong with the present call, for the call itself to act on.
    pub(super) fault: Option<Fault>,
    /// Transactions with a token that were done: the request's hash and the time.
    pub(super) tokens: BTreeMap<String, (u64, u64)>,
    /// What was used of limits, by their names.
    pub(super) windows: BTreeMap<String, Window>,
    /// Calls by name, and those of them that were refused.
    pub(super) counts: BTreeMap<String, (u64, u64)>,
}

impl World {
    /// A service without tables.
    pub fn new(options: Options) -> Self {
        Self {
            chance: Chance::new(options.seed),
            options,
            now: 0,
            tables: BTreeMap::new(),
            streams: BTreeMap::new(),
            script: Script::default(),
            fault: None,
            tokens: BTreeMap::new(),
            windows: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Answers a request that arrives at this time, in milliseconds since 1970.
    pub fn handle(&mut self, now: u64, request: &Request<'_>) -> Answer {
        self.tick(now);
        let operation = request.target.rsplit('.').next().unwrap_or_default().to_owned();
        let known = calls::find(request.target);
        let fault = known.and_then(|_| self.script.fault(&operation, &self.options.faults, &mut self.chance));
        self.fault = fault;
        let done = match (known, fault) {
            (None, _) => Err(Failure::new(Kind::UnknownOperation, "")),
            (_, Some(Fault::LostRequest)) => return Answer::Cut,
            (_, Some(Fault::InternalError)) => Err(internal()),
            (Some(call), _) => self.run(call, request),
        };
        if fault == Some(Fault::LostAnswer) {
            return Answer::Cut;
        }
        let done = if fault == Some(Fault::InternalErrorDone) { Err(internal()) } else { done };
        let count = self.counts.entry(operation).or_default();
        count.0 += 1;
        count.1 += u64::from(done.is_err());
        self.said(done)
    }

    fn run(&mut self, call: calls::Call, request: &Request<'_>) -> Result<Json> {
        if !request.signed {
            return Err(Failure::new(
                Kind::MissingAuthenticationToken,
                "Request must contain either a valid (registered) AWS access key ID or X.509 certificate.",
            ));
        }
        let json: Json = serde_json::from_slice(request.body)
            .map_err(|error| Failure::new(Kind::Serialization, format!("The body is not JSON: {error}")))?;
        call(self, &Input::new(&json)?)
    }

    fn said(&mut self, done: Result<Json>) -> Answer {
        let id = format!("{:016X}{:016X}", self.chance.next(), self.chance.next());
        let (status, json) = match done {
            Ok(json) => (200, json),
            Err(failure) => (failure.kind.wire().1, failure.body()),
        };
        Answer::Said { status, body: json.to_string().into_bytes(), id }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: u64) {
        let now = now.max(self.now);
        loop {
            let end = self.streams.values().filter(|stream| stream.ended.is_none()).filter_map(Stream::next_end).min();
            let expiry = self.tables.values().filter_map(|t| Some((t.next_expiry()?.0, t.name.clone()))).min();
            match (end, expiry) {
                (Some(end), expiry) if end <= now && expiry.as_ref().is_none_or(|(due, _)| end <= *due) => {
                    self.now = self.now.max(end);
                    self.rotate();
                }
                (_, Some((due, table))) if due <= now => {
                    self.now = self.now.max(due);
                    self.expire(&table);
                }
                _ => break,
            }
        }
        self.now = now;
        for stream in self.streams.values_mut() {
            stream.trim(now, &self.options);
        }
        let (options, tables) = (&self.options, &self.tables);
        self.streams.retain(|_, stream| !stream.is_gone(now, options));
        debug_assert!(tables.values().all(|t| t.stream.as_ref().is_none_or(|arn| self.streams.contains_key(arn))));
    }

    fn rotate(&mut self) {
        for stream in self.streams.values_mut().filter(|stream| stream.ended.is_none()) {
            stream.rotate_due(self.now, &self.options, &mut self.chance);
            // A jump in time must not keep years of records on its way.
            stream.trim(self.now, &self.options);
        }
    }

    fn expire(&mut self, table: &str) {
        let Some(place) = self.tables.get_mut(table).and_then(|table| table.expire_first(self.now)) else { return };
        self.write(table, &place, None, true);
    }

    /// Writes an item, or deletes it, with a record if that changes anything. Gives what was there.
    pub(super) fn write(
        &mut self,
        table: &str,
        place: &Place,
        new: Option<Item>,
        by_service: bool,
    ) -> Option<Arc<Item>> {
        let table = self.tables.get_mut(table).expect("a table that is written was looked up");
        let same = table.get(place).map(Arc::as_ref) == new.as_ref();
        if same {
            return table.get(place).cloned();
        }
        let new = new.map(Arc::new);
        let old = table.store(place, new.clone());
        if let Some(arn) = &table.stream
            && let Some(stream) = self.streams.get_mut(arn)
        {
            let keys = table.schema.item(&place.key);
            let change = Change { token: place.key.shard_token(), keys, old: old.clone(), new, by_service };
            stream.append(change, self.now, &self.options, &mut self.chance);
        }
        old
    }

    /// The table that a request names, by name or resource name.
    pub(super) fn table(&self, name: &str) -> Result<&Table> {
        let short = name.rsplit_once(":table/").map_or(name, |(_, short)| short);
        let found = self.tables.get(short).filter(|table| table.busy.1 != "CREATING" || table.busy.0 <= self.now);
        found.ok_or_else(|| Failure::new(Kind::ResourceNotFound, "Requested resource not found"))
    }

    /// The item with this key, or nothing.
    pub(super) fn item(&self, table: &str, key: &Key) -> Option<&Arc<Item>> {
        self.tables.get(table)?.get(&key.clone().place())
    }

    /// Takes units of a table's throughput.
    ///
    /// # Errors
    /// There are not so many left in this second, or the call is to be throttled.
    pub(super) fn charge(&mut self, table: &str, units: u64, write: bool) -> Result<()> {
        let limit = if write { self.options.write_units_per_second } else { self.options.read_units_per_second };
        let window = self.windows.entry(format!("{write} {table}")).or_default();
        if self.fault != Some(Fault::Throttle) && window.take(units, limit, self.now) {
            return Ok(());
        }
        Err(Failure::new(
            Kind::ProvisionedThroughputExceeded,
            "The level of configured provisioned throughput for the table was exceeded. Consider increasing your provisioning \
             level with the UpdateTable API.",
        ))
    }

    /// Takes one call of a control plane's rate.
    ///
    /// # Errors
    /// There are none left in this second, or the call is to be throttled.
    pub(super) fn admit(&mut self, what: &str, limit: u32) -> Result<()> {
        let window = self.windows.entry(what.to_owned()).or_default();
        if self.fault != Some(Fault::Throttle) && window.take(1, limit, self.now) {
            return Ok(());
        }
        Err(Failure::new(Kind::Throttling, "Rate exceeded"))
    }
}

fn internal() -> Failure {
    Failure::new(
        Kind::InternalServerError,
        "The request processing has failed because of an unknown error, exception or failure.",
    )
}

/// `ConsumedCapacity`, where a request asks for it.
pub(super) fn capacity(input: &Input<'_>, tables: &[(&str, f64)]) -> Result<Option<Json>> {
    if matches!(input.text("ReturnConsumedCapacity")?, None | Some("NONE")) {
        return Ok(None);
    }
    Ok(Some(tables.iter().map(|(table, units)| json!({ "TableName": table, "CapacityUnits": units })).collect()))
}
