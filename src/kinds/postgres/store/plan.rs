//! How one table is read: statements, and what becomes of a row.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::types::Type;

use crate::error::{Error, Result};
use crate::model::{Batch, Op, Steps, Table};

use super::super::ddl;
use super::super::rowcodec::{self, Value};
use super::super::shape::{Column, Shape};
use super::copy::Fields;
use super::order::Order;
use super::range::Bounds;

/// LIMIT: rows of the first page of a table, before it is known how long its rows are.
const FIRST_PAGE: usize = 256;
/// LIMIT: rows of a page, so that very short rows do not make one answer very long.
const PAGE: usize = 50_000;

/// How one table is read.
#[derive(Debug)]
pub struct Plan {
    pub table: Arc<Table>,
    pub shape: Shape,
    pub order: Order,
    /// Select list: the columns of the body in their form.
    columns: String,
    from: String,
    /// Mean length of a row in a batch, 0 when not known yet.
    row_bytes: AtomicUsize,
    /// The table of another store whose rows were last asked for.
    asked: Mutex<Option<Arc<Table>>>,
}

/// Scratch space for a row that is being put together.
#[derive(Debug, Default)]
pub struct Scratch {
    key: Vec<u8>,
    body: Vec<u8>,
    cursor: Vec<u8>,
}

impl Plan {
    /// The plan for a table of this shape.
    pub fn new(shape: Shape) -> Result<Self> {
        if shape.key.is_empty() {
            return Err(Error::config(format!("read table {:?}: it has no usable key", shape.full_name())));
        }
        let columns: Vec<_> = shape.columns.iter().map(select).collect();
        // Children by inheritance are tables of their own; partitions are not.
        let only = if shape.partition_key.is_some() { "" } else { "only " };
        Ok(Self {
            order: Order::of(&shape)?,
            columns: columns.join(", "),
            from: format!("{only}{}", ddl::qualified(&shape.schema, &shape.name)),
            table: shape.table(),
            row_bytes: AtomicUsize::new(0),
            asked: Mutex::default(),
            shape,
        })
    }

    /// Rows to ask for when a page shall have about this many bytes.
    pub fn page_rows(&self, bytes: usize) -> usize {
        // ORDERING: Relaxed: an estimate; a stale one makes a page somewhat larger or smaller.
        match self.row_bytes.load(Ordering::Relaxed) {
            0 => FIRST_PAGE,
            row => (bytes / row).clamp(1, PAGE),
        }
    }

    /// Remembers how long the rows of a page were.
    pub fn learn(&self, rows: usize, bytes: usize) {
        if let Some(row) = bytes.checked_div(rows) {
            // ORDERING: Relaxed, both: of two that learn at the same time one is forgotten, which an estimate bears.
            let known = self.row_bytes.load(Ordering::Relaxed);
            let row = if known == 0 { row } else { (known + row) / 2 };
            self.row_bytes.store(row.max(1), Ordering::Relaxed);
        }
    }

    /// Whether rows of this table can be given with all their columns; asked for the second time, yes.
    pub fn serves(&self, table: &Arc<Table>) -> Result<bool> {
        if Arc::ptr_eq(table, &self.table) {
            return Ok(true);
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, table)) {
            return Ok(true);
        }
        *asked = Some(Arc::clone(table));
        // A table of another kind of store has no columns.
        if table.shape.is_empty() {
            return Ok(true);
        }
        let other = Shape::of(table)?;
        Ok(other.columns.iter().all(|column| self.shape.column(&column.name).is_some()))
    }

    /// Reads the rows within the bounds, from after the cursor on, in order.
    pub fn scan(&self, bounds: &Bounds, after: Option<&[u8]>, rows: Option<usize>) -> Result<String> {
        let mut conditions = Vec::new();
        if let Some(from) = after.or(bounds.from.as_deref()) {
            conditions.push(self.order.compare(">", from)?);
        }
        if let Some(to) = &bounds.to {
            conditions.push(self.order.compare("<=", to)?);
        }
        let mut list = self.columns.clone();
        for extra in self.order.extras() {
            list.push_str(if list.is_empty() { "" } else { ", " });
            list.push_str(extra);
        }
        let condition = if conditions.is_empty() { "true".into() } else { conditions.join(" and ") };
        let limit = rows.map(|rows| format!(" limit {rows}")).unwrap_or_default();
        Ok(format!(
            "copy (select {list} from {} where {condition} order by {}{limit}) to stdout (format binary)",
            self.from,
            self.order.by()
        ))
    }

    /// Reads the cursors of about `percent` of the rows, in order.
    pub fn sample(&self, percent: f64) -> String {
        format!(
            "copy (select {by} from {} tablesample system ({percent:.6}) order by {by}) to stdout (format binary)",
            self.from,
            by = self.order.by()
        )
    }

    /// Reads the rows of some keys: one array parameter for each column of the key, with its type.
    pub fn get(&self) -> (String, Vec<Type>) {
        let (mut parameters, mut names, mut conditions, mut types) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, column) in self.shape.key.iter().filter_map(|&index| self.shape.columns.get(index)).enumerate() {
            let cast = if column.binary { String::new() } else { format!("::{}", column.type_name) };
            parameters.push(format!("pg_catalog.unnest(${})", index + 1));
            names.push(format!("driftless_{index}"));
            conditions.push(format!("{} = driftless_{index}{cast}", ddl::quote(&column.name)));
            types.push(array_type(column));
        }
        let sql = format!(
            "select {} from rows from ({}) as driftless_keys({}) join {} on {}",
            self.columns,
            parameters.join(", "),
            names.join(", "),
            self.from,
            conditions.join(" and ")
        );
        (sql, types)
    }

    /// Array parameters that hold these keys.
    pub fn key_arrays(&self, keys: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let count = i32::try_from(keys.len()).map_err(|_| Error::bug("fewer than two billion keys are asked for"))?;
        let mut arrays = Vec::new();
        for column in self.shape.key.iter().filter_map(|&index| self.shape.columns.get(index)) {
            let element = if column.binary { column.base_oid } else { Type::TEXT.oid() };
            let mut array = Vec::new();
            // One dimension, no nulls, the type of the elements, the length, counted from 1.
            for number in [1, 0, element.cast_signed(), count, 1] {
                array.extend_from_slice(&number.to_be_bytes());
            }
            arrays.push(array);
        }
        for key in keys {
            let mut columns = rowcodec::key_columns(&self.shape, key);
            for array in &mut arrays {
                let column = columns.next().ok_or_else(|| Error::corrupt("get rows: a key has too few columns"))??;
                let len = i32::try_from(column.len()).map_err(|_| Error::corrupt("get rows: a key is too long"))?;
                array.extend_from_slice(&len.to_be_bytes());
                array.extend_from_slice(column);
            }
        }
        Ok(arrays)
    }

    /// Appends a row of a scan.
    pub fn push_scanned(&self, fields: Fields<'_>, batch: &mut Batch, table: u16, scratch: &mut Scratch) -> Result<()> {
        self.build(|index| fields.get(index), scratch)?;
        scratch.key.clear();
        rowcodec::key_of(&self.shape, &scratch.body, &mut scratch.key)?;
        if self.shape.flat_key {
            batch.push(Op::Put, false, table, &scratch.key, &scratch.body, 0);
            return Ok(());
        }
        debug_assert!(batch.steps == Steps::Cursor, "keys with lengths do not grow as the scan does");
        scratch.cursor.clear();
        self.order.cursor(self.shape.columns.len(), |index| fields.get(index), &mut scratch.cursor)?;
        batch.push_scanned(table, &scratch.key, &scratch.body, &scratch.cursor);
        Ok(())
    }

    /// Appends a row that was asked for.
    pub fn push_found<'f>(
        &self,
        field: impl Fn(usize) -> Option<&'f [u8]>,
        batch: &mut Batch,
        table: u16,
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.build(field, scratch)?;
        scratch.key.clear();
        rowcodec::key_of(&self.shape, &scratch.body, &mut scratch.key)?;
        batch.push(Op::Put, false, table, &scratch.key, &scratch.body, 0);
        Ok(())
    }

    fn build<'f>(&self, field: impl Fn(usize) -> Option<&'f [u8]>, scratch: &mut Scratch) -> Result<()> {
        scratch.body.clear();
        rowcodec::begin(&mut scratch.body, self.shape.columns.len());
        for (index, column) in self.shape.columns.iter().enumerate() {
            let value = match field(index) {
                None => Value::Null,
                Some(bytes) if column.binary => Value::Binary(bytes),
                Some(bytes) => Value::Text(bytes),
            };
            rowcodec::push(&mut scratch.body, value);
        }
        Ok(())
    }
}

/// A column in the form that bodies have it in. Text forms go through the output function, as the stream's do: a cast to
/// text differs for some types (`true` for `t`, trailing blanks cut).
fn select(column: &Column) -> String {
    let name = ddl::quote(&column.name);
    if column.binary { name } else { format!("pg_catalog.textin({}({name}))", column.output) }
}

/// The type of an array of a column's values.
fn array_type(column: &Column) -> Type {
    if !column.binary {
        return Type::TEXT_ARRAY;
    }
    // The driver needs the number only.
    let element = tokio_postgres::types::Kind::Array(Type::TEXT);
    Type::new("array".into(), column.array_oid, element, "pg_catalog".into())
}
