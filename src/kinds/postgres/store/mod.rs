//! Present state of PostgreSQL tables: the [`Store`] of this kind.
//!
//! Every page is read with `COPY … TO STDOUT` in binary framing and goes straight into the batch. A store that is not
//! frozen reads each page by a statement of its own, so that nothing is older than the call that asked for it. A frozen
//! one reads in an exported snapshot, where time stands still, and therefore keeps one statement per range open between
//! pages: a sustained stream, as fast as the server can send in key order.
//!
//! Pages follow each other by key, never by number or place: a row that does not change is seen exactly once, whatever
//! happens to its neighbours. Nothing is written, and every session is read-only.

mod copy;
mod order;
mod plan;
mod range;
mod sessions;
mod tables;
mod time;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};

use crate::error::{Error, Result};
use crate::model::{Batch, Position, Steps, Table};
use crate::source::Fut;
use crate::store::{Range, Store};

use super::catalog::{self, Need, Refusal, Scope};
use super::conn::{Endpoint, Session, translate};
use super::shape::Shape;
use copy::Rows;
use plan::{Plan, Scratch};
use range::Bounds;
use sessions::{Lease, Sessions};

/// LIMIT: statements of a frozen store that stay open between pages, one session each. The engine reads eight ranges at
/// a time.
const STREAMS: usize = 8;
/// LIMIT: sessions of a store: its streams, and two for everything else.
const SESSIONS: usize = STREAMS + 2;
/// LIMIT: pages of 8 KiB that are sampled for each range that is cut; a few hundred rows place a cut well enough.
const SAMPLE: u64 = 16;
/// LIMIT: bytes that are read over at the end of a page rather than to break off the statement, which costs a session.
const DRAIN: usize = 1 << 20;
/// Tables under this many bytes are one range.
const SMALL: u64 = 4 << 20;

/// Which tables a store shows.
#[derive(Clone, Debug)]
enum View {
    /// Those of a source.
    Source(Scope, Need),
    /// Teleport's table of a sink, once it is there.
    TeleportSink,
    /// Those tables of a sink that the tables of a source are copied to, once they are there.
    RawSink { source: Endpoint, scope: Scope },
    /// The same for tables that a source once had.
    Copy(Vec<Shape>),
}

/// Present state of PostgreSQL tables.
pub struct PgStore {
    sessions: Sessions,
    view: View,
    /// Only the tables that this publication has are shown.
    publication: Option<String>,
    /// The tables that were left out when this was told last.
    left_out: Mutex<Vec<Refusal>>,
    plans: Mutex<HashMap<String, Arc<Plan>>>,
    /// Open statements of a frozen store, the one used last at the end.
    streams: Mutex<VecDeque<Stream>>,
    /// The session whose transaction keeps the snapshot of a frozen store.
    _holder: Option<Client>,
}

/// A statement that is being read.
struct Stream {
    range: String,
    /// Where its next row follows.
    at: Position,
    rows: Rows,
    lease: Lease,
}

impl PgStore {
    /// The tables of a source. Connects when it is first asked for something.
    pub fn source(endpoint: &Endpoint, scope: Scope, need: Need) -> Self {
        Self::new(endpoint, View::Source(scope, need))
    }

    /// Teleport's table of a sink.
    pub fn teleport_sink(endpoint: &Endpoint) -> Self {
        Self::new(endpoint, View::TeleportSink)
    }

    /// The tables of a sink that the tables of a source are copied to: found by name, with the source's keys and form of
    /// bodies. Those that are not there yet appear when they are.
    pub fn raw_sink(endpoint: &Endpoint, source: &Endpoint, scope: Scope) -> Self {
        Self::new(endpoint, View::RawSink { source: source.clone(), scope })
    }

    /// The same for tables that a source once had; it is not asked.
    ///
    /// # Errors
    /// Corrupt, for a table whose shape cannot be read.
    pub fn copy_of(endpoint: &Endpoint, tables: &[Arc<Table>]) -> Result<Self> {
        let shapes = tables.iter().map(|table| Shape::decode(&table.shape)).collect::<Result<_>>()?;
        Ok(Self::new(endpoint, View::Copy(shapes)))
    }

    fn new(endpoint: &Endpoint, view: View) -> Self {
        Self {
            sessions: Sessions::new(endpoint, SESSIONS, None),
            view,
            publication: None,
            left_out: Mutex::default(),
            plans: Mutex::default(),
            streams: Mutex::default(),
            _holder: None,
        }
    }

    /// Shows no more than what a stream with this publication follows, once there is one.
    #[must_use]
    pub fn following(mut self, publication: &str) -> Self {
        self.publication = Some(publication.to_owned());
        self
    }

    fn is_teleport(&self) -> bool {
        matches!(self.view, View::TeleportSink | View::Source(Scope::Teleport, _))
    }

    /// Reads the catalog. Tables that did not change stay the same.
    async fn load(&self) -> Result<Vec<Arc<Plan>>> {
        let client = self.sessions.endpoint().session(&Session::ADMIN).await?;
        let shapes = match &self.view {
            View::Source(scope, need) => {
                let found = tables::shown(&client, scope, *need, self.publication.as_deref()).await?;
                if self.publication.is_none() {
                    self.tell(&found.refused);
                }
                found.tables
            }
            View::TeleportSink => catalog::teleport_counterpart(&client).await?.into_iter().collect(),
            View::RawSink { source, scope } => {
                let source = source.session(&Session::ADMIN).await?;
                let found = tables::shown(&source, scope, Need::Scan, self.publication.as_deref()).await?;
                catalog::counterparts(&client, &found.tables).await?
            }
            View::Copy(shapes) => catalog::counterparts(&client, shapes).await?,
        };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut loaded = HashMap::with_capacity(shapes.len());
        let mut in_order = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let name = shape.table().name.clone();
            let plan = match plans.get(&name) {
                Some(known) if known.shape == shape => Arc::clone(known),
                _ => Arc::new(Plan::new(shape)?),
            };
            in_order.push(Arc::clone(&plan));
            loaded.insert(name, plan);
        }
        *plans = loaded;
        Ok(in_order)
    }

    /// Says which tables are left out, once. A stream that follows is told by its source.
    fn tell(&self, refused: &[Refusal]) {
        let mut told = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != *refused {
            *told = refused.to_vec();
            for refusal in refused {
                tracing::error!(table = %refusal.table, why = %refusal.why, "a table that `tables` means is left out");
            }
        }
    }

    /// Whether all tables that configuration means can be shown.
    async fn whole(&self) -> Result<()> {
        let View::Source(scope, need) = &self.view else { return Ok(()) };
        let client = self.sessions.endpoint().session(&Session::ADMIN).await?;
        let need = if self.publication.is_some() { Need::Tail } else { *need };
        catalog::find(&client, scope, need).await?.all().map(drop)
    }

    fn known(&self, table: &str) -> Option<Arc<Plan>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(table).cloned()
    }

    /// How to read a table; `None` when there is none.
    async fn plan(&self, table: &str) -> Result<Option<Arc<Plan>>> {
        if let Some(plan) = self.known(table) {
            return Ok(Some(plan));
        }
        self.load().await?;
        Ok(self.known(table))
    }

    async fn cut(&self, plan: &Plan, pages: u64, count: usize) -> Result<Vec<Bounds>> {
        if count < 2 || !plan.order.is_indexed() {
            return Ok(vec![Bounds::default()]);
        }
        let wanted = SAMPLE * count as u64;
        let percent = (wanted as f64 * 100.0 / pages.max(1) as f64).min(100.0);
        let mut lease = self.sessions.take().await?;
        lease.busy();
        let stream = copy_out(&lease, &plan.sample(percent)).await?;
        let mut rows = Rows::new(stream);
        let mut cursors = Vec::new();
        let mut read = async || {
            rows.next(|fields| {
                let mut cursor = Vec::new();
                plan.order.cursor_of_all(|index| fields.get(index), &mut cursor)?;
                Ok(cursor)
            })
            .await
        };
        while let Some(cursor) = read().await? {
            cursors.push(cursor);
        }
        lease.rest();
        Ok(Bounds::cut(&cursors, count))
    }

    /// Sizes of the tables in bytes, partitions included.
    async fn sizes(&self, plans: &[Arc<Plan>]) -> Result<Vec<u64>> {
        let oids: Vec<u32> = plans.iter().map(|plan| plan.shape.oid).collect();
        let lease = self.sessions.take().await?;
        let sql = "select pg_relation_size(o.oid) + coalesce((select sum(pg_relation_size(relid))
                from pg_partition_tree(o.oid) where isleaf and relid <> o.oid), 0)::int8
              from unnest($1::oid[]) with ordinality as o(oid, place) order by place";
        let failed = |error| translate(&error, "look up the sizes of tables");
        let rows = lease.client().query_typed(sql, &[(&oids, Type::OID_ARRAY)]).await.map_err(failed)?;
        // A table that was dropped meanwhile has no size.
        rows.iter()
            .map(|row| row.try_get(0).map(|size: Option<i64>| size.unwrap_or(0).unsigned_abs()))
            .collect::<Result<_, _>>()
            .map_err(failed)
    }

    async fn cut_all(&self, count: usize) -> Result<Vec<Range>> {
        let plans = self.load().await?;
        let sizes = self.sizes(&plans).await?;
        let total: u64 = sizes.iter().sum();
        let mut ranges = Vec::new();
        for (plan, size) in plans.iter().zip(sizes) {
            let share = (count as u64 * size).div_ceil(total.max(1)).min(count as u64);
            let share = if size < SMALL { 1 } else { usize::try_from(share).unwrap_or(1) };
            for bounds in self.cut(plan, size / 8192, share).await? {
                ranges.push(Range { name: bounds.name(&plan.table.name), table: Arc::clone(&plan.table) });
            }
        }
        Ok(ranges)
    }

    async fn page(&self, range: &Range, after: &Position, mut batch: Batch, fill: usize) -> Result<Batch> {
        let (table, bounds) = Bounds::parse(&range.name, self.is_teleport())?;
        let Some(plan) = self.plan(table).await? else { return Err(missing(table)) };
        if !plan.shape.flat_key {
            batch.steps = Steps::Cursor;
        }
        let frozen = self.sessions.is_frozen();
        let limit = (!frozen).then(|| plan.page_rows(fill));
        let mut stream = match self.resume(range, after) {
            Some(stream) => stream,
            None => self.open(range, &plan, &bounds, after, limit).await?,
        };
        let (before, index) = (batch.len(), batch.table(&plan.table));
        let mut scratch = Scratch::default();
        let mut ended = false;
        // A page of a statement of its own is read to its end unless its rows are far longer than expected.
        let most = if frozen { fill } else { fill.saturating_mul(2) };
        while !ended && (batch.bytes() < most || batch.len() == before) {
            ended = stream.rows.next(|row| plan.push_scanned(row, &mut batch, index, &mut scratch)).await?.is_none();
        }
        let count = batch.len() - before;
        plan.learn(count, batch.bytes());
        if ended {
            stream.lease.rest();
            if limit.is_none_or(|limit| count < limit) {
                batch.mark(Position::End);
                return Ok(batch);
            }
        }
        let at = batch.len().checked_sub(1).map_or_else(|| after.clone(), |last| batch.position(last));
        batch.mark(at.clone());
        if frozen && !ended {
            stream.at = at;
            self.keep(stream);
        } else if !ended && stream.rows.drain(DRAIN).await? {
            stream.lease.rest();
        }
        Ok(batch)
    }

    /// Takes the open statement of a range, if it stands there.
    fn resume(&self, range: &Range, after: &Position) -> Option<Stream> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let index = streams.iter().position(|stream| stream.range == range.name)?;
        let stream = streams.remove(index)?;
        // One that stands elsewhere is dropped: nobody will come back to it.
        (stream.at == *after).then_some(stream)
    }

    fn keep(&self, stream: Stream) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.len() == STREAMS {
            streams.pop_front();
        }
        streams.push_back(stream);
    }

    async fn open(
        &self,
        range: &Range,
        plan: &Plan,
        bounds: &Bounds,
        after: &Position,
        limit: Option<usize>,
    ) -> Result<Stream> {
        let after = match after {
            Position::Start => None,
            Position::At { at, .. } => Some(&at[..]),
            Position::End => return Err(Error::bug("a scan does not go on behind its end")),
        };
        let sql = plan.scan(bounds, after, limit)?;
        let mut lease = self.sessions.take().await?;
        lease.busy();
        let rows = Rows::new(copy_out(&lease, &sql).await?);
        Ok(Stream { range: range.name.clone(), at: Position::Start, rows, lease })
    }

    async fn rows_of(&self, table: &Arc<Table>, keys: &[&[u8]], mut batch: Batch) -> Result<Batch> {
        let Some(mut plan) = self.plan(&table.name).await? else {
            // At a sink, a table that does not exist has no rows.
            return if matches!(self.view, View::Source(..)) { Err(missing(&table.name)) } else { Ok(batch) };
        };
        if !plan.serves(table)? {
            self.load().await?;
            plan = self.known(&table.name).ok_or_else(|| missing(&table.name))?;
        }
        if keys.is_empty() {
            return Ok(batch);
        }
        let (sql, types) = plan.get();
        let arrays: Vec<_> = plan.key_arrays(keys)?.into_iter().map(Raw).collect();
        let failed = |error| translate(&error, format_args!("get rows of table {:?}", table.name));
        let mut lease = self.sessions.take().await?;
        lease.busy();
        let rows = lease.client().query_typed_raw(&sql, arrays.iter().zip(types)).await.map_err(failed)?;
        let mut rows = std::pin::pin!(rows);
        let index = batch.table(&plan.table);
        let mut scratch = Scratch::default();
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let field = |index| row.try_get::<_, Option<Field<'_>>>(index).ok().flatten().map(|field| field.0);
            plan.push_found(field, &mut batch, index, &mut scratch)?;
        }
        lease.rest();
        Ok(batch)
    }

    /// Waits until every transaction that is under way now has ended.
    ///
    /// Such a transaction holds the lock on its own id, and gives it back only after its rows can be seen. The bounds of a
    /// snapshot would not do: the newest transaction lies outside of them while it is under way.
    async fn settled(&self) -> Result<()> {
        // LIMIT: pauses between two looks; most transactions end within the first.
        const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
        const PATIENCE: Duration = Duration::from_secs(10);
        const SQL: &str = "select coalesce(array_agg(distinct transactionid::text), '{}') from pg_catalog.pg_locks
            where locktype = 'transactionid' and mode = 'ExclusiveLock' and granted";
        let lease = self.sessions.take().await?;
        let under_way = async || {
            let failed = |error| translate(&error, "look up the transactions that are under way");
            let rows = lease.client().query_typed(SQL, &[]).await.map_err(failed)?;
            rows.first().map_or_else(|| Ok(Vec::new()), |row| row.try_get::<_, Vec<String>>(0)).map_err(failed)
        };
        let mut left = under_way().await?;
        let (started, mut pause, mut told) = (Instant::now(), PAUSE.0, false);
        while !left.is_empty() {
            if !told && started.elapsed() > PATIENCE {
                told = true;
                tracing::warn!(
                    transactions = left.len(),
                    "waiting for transactions at the source that began before this moment; pg_stat_activity.xact_start \
                     says which are the oldest"
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
            let now = under_way().await?;
            left.retain(|id| now.contains(id));
        }
        Ok(())
    }

    async fn freeze(&self) -> Result<Box<dyn Store>> {
        self.load().await?;
        let holder = self.sessions.endpoint().session(&Session::READ).await?;
        let failed = |error| translate(&error, "hold the store as it is at one moment");
        holder.batch_execute("begin isolation level repeatable read read only").await.map_err(failed)?;
        let row = holder.query_one("select pg_catalog.pg_export_snapshot()", &[]).await.map_err(failed)?;
        let snapshot = row.try_get(0).map_err(failed)?;
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Box::new(Self {
            sessions: Sessions::new(self.sessions.endpoint(), SESSIONS, Some(snapshot)),
            view: self.view.clone(),
            publication: self.publication.clone(),
            left_out: Mutex::default(),
            plans: Mutex::new(plans),
            streams: Mutex::default(),
            _holder: Some(holder),
        }))
    }
}

impl Store for PgStore {
    fn begin(&self) -> Fut<'_, ()> {
        Box::pin(self.whole())
    }

    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async { Ok(self.load().await?.iter().map(|plan| Arc::clone(&plan.table)).collect()) })
    }

    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(self.cut_all(count))
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async move {
            let (table, _) = Bounds::parse(name, self.is_teleport())?;
            let plan = self.plan(table).await?.ok_or_else(|| missing(table))?;
            Ok(Range { name: name.to_owned(), table: Arc::clone(&plan.table) })
        })
    }

    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch> {
        Box::pin(self.page(range, after, batch, fill_bytes))
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        Box::pin(self.rows_of(table, keys, batch))
    }

    fn visible(&self) -> Fut<'_, ()> {
        Box::pin(async { if self.sessions.is_frozen() { Ok(()) } else { self.settled().await } })
    }

    fn frozen(&self) -> Fut<'_, Option<Box<dyn Store>>> {
        Box::pin(async { self.freeze().await.map(Some) })
    }
}

async fn copy_out(lease: &Lease, sql: &str) -> Result<tokio_postgres::CopyOutStream> {
    lease.client().copy_out(sql).await.map_err(|error| translate(&error, "read a table"))
}

fn missing(table: &str) -> Error {
    let table = if table.is_empty() { "kv" } else { table };
    Error::config(format!("read table {table:?}: it is not there, or not within the scope any more"))
}

/// A parameter that is in binary form already.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A column as it came.
struct Field<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Field<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
