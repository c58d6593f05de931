//! Rows on their way into statements: as array parameters, through a temporary table, or by COPY into the table itself.
//!
//! Arrays cost no round trip of their own, so they are the ordinary way. A type without an array over it (arrays
//! themselves) goes through a temporary table; long runs of new rows go by COPY, which is the cheapest for the server.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;

use super::arrays::{Array, Parameter, Shelf, TEXT_OID, copy_header, copy_row, copy_trailer, copy_value};
use super::bindings::Bindings;
use super::pipeline::{Pipeline, Step, Trouble};
use super::session::{Session, start};
use super::sort::Sorted;
use super::sql::{self, Feed, FeedColumn, Form};
use super::target::Binding;
use crate::error::{Error, Result};
use crate::kinds::postgres::rowcodec::Value;
use crate::model::Op;

/// LIMIT: bytes of rows in one statement's parameters. The server holds a parameter several times over. (Rows of 0.5 KiB,
/// two cores: arrays 140 000 to 190 000 upserts/s at 100 to 10 000 rows; a temporary table 93 000/s.)
const STATEMENT_BYTES: usize = 1 << 20;
/// LIMIT: bytes of COPY data handed over at once; small beside a batch, large beside a system call.
const COPY_BYTES: usize = 128 << 10;

/// Everything that sending needs.
pub struct Sender<'a> {
    /// Where to.
    pub session: &'a mut Session,
    /// Names of temporary tables.
    pub bindings: &'a mut Bindings,
    /// What is under way.
    pub pipeline: Pipeline,
    /// Buffers.
    pub shelf: Shelf,
    /// Tables for which COPY was tried in the hope that no row is there yet.
    pub tried: Vec<u32>,
    /// A COPY was refused before it began: the driver can no longer tell which answer belongs to which request.
    pub confused: bool,
}

/// Where rows come from: calls the function with each value of the row, in order.
pub trait Rows: Sync {
    /// Number of rows.
    fn count(&self) -> usize;
    /// The values of row `index`, in the order of the feed's columns; gives the number of bytes they take.
    fn each(&self, index: usize, value: &mut dyn FnMut(usize, Value<'_>) -> Result<()>) -> Result<usize>;
}

impl Sender<'_> {
    /// Runs a statement over rows, with as many executions as their size asks for. `text` makes the statement for a
    /// feed of these columns of the shape, the first `keys` of which are cut out of keys. The last parameter of a patch
    /// is the number of rows.
    pub async fn run(
        &mut self,
        binding: &Binding,
        columns: &[usize],
        keys: usize,
        rows: &dyn Rows,
        step: Step,
        text: &(dyn Fn(&Feed<'_>) -> String + Sync),
    ) -> Result<(), Trouble> {
        if rows.count() == 0 {
            return Ok(());
        }
        let forms = binding.forms(columns, keys);
        if !binding.in_arrays(columns) {
            return self.run_temporary(binding, columns, &forms, rows, step, text).await;
        }
        let mut next = 0;
        while next < rows.count() {
            let (count, arrays) = collect(&self.shelf, columns.len(), rows, next)?;
            next += count;
            let feed = feed_of(binding, columns, &arrays, &forms);
            let statement = text(&feed);
            let mut parameters = parameters_of(binding, columns, arrays, &forms);
            if step == Step::Patch {
                parameters.push(self.counted(count));
            }
            self.execute(&statement, parameters, step).await?;
        }
        Ok(())
    }

    /// The feed of keys, and its parameters.
    pub fn key_feed<'b>(&self, binding: &'b Binding, rows: &dyn Rows) -> Result<(Vec<Parameter>, Feed<'b>)> {
        let mut arrays: Vec<Array> = binding.shape.key.iter().map(|_| Array::new(&self.shelf)).collect();
        for index in 0..rows.count() {
            rows.each(index, &mut |column, value| arrays.get_mut(column).map_or(Ok(()), |array| array.push(value)))?;
        }
        let forms = binding.forms(&binding.shape.key, binding.shape.key.len());
        let feed = feed_of(binding, &binding.shape.key, &arrays, &forms);
        Ok((parameters_of(binding, &binding.shape.key, arrays, &forms), feed))
    }

    /// Names and values of sequences; `None` where there are none.
    pub fn sequence_values(&self, sorted: &Sorted<'_>) -> Result<Option<Vec<Parameter>>> {
        if sorted.sequences.is_empty() {
            return Ok(None);
        }
        let (mut names, mut values) = (Array::new(&self.shelf), Array::new(&self.shelf));
        for &index in &sorted.sequences {
            let row = sorted.changes.row(index as usize);
            if row.op == Op::Put {
                names.push(Value::Text(row.key))?;
                values.push(Value::Text(row.body))?;
            }
        }
        Ok(Some(vec![names.finish(TEXT_OID, Form::Text), values.finish(TEXT_OID, Form::Text)]))
    }

    fn counted(&self, count: usize) -> Parameter {
        Parameter::raw(&(count as i64).to_be_bytes(), &self.shelf)
    }

    /// Starts a statement.
    pub async fn execute(&mut self, text: &str, parameters: Vec<Parameter>, step: Step) -> Result<(), Trouble> {
        let statement = match self.session.prepare(text).await {
            Ok(statement) => statement,
            Err(error) => return Err(self.pipeline.blame(&error, step).await),
        };
        let client = Arc::clone(&self.session.client);
        let pending = start(async move { client.execute_raw(&statement, parameters).await }).await;
        self.pipeline.push(step, pending);
        Ok(())
    }

    async fn run_temporary(
        &mut self,
        binding: &Binding,
        columns: &[usize],
        forms: &[Form],
        rows: &dyn Rows,
        step: Step,
        text: &(dyn Fn(&Feed<'_>) -> String + Sync),
    ) -> Result<(), Trouble> {
        let columns: Vec<FeedColumn<'_>> =
            columns.iter().zip(forms).map(|(&index, &form)| binding.feed_column(index, form)).collect();
        // The binary form of type text is the text, so values of both forms fit one COPY.
        let source = |(i, column): (usize, &FeedColumn<'_>)| match column.form {
            Form::Binary => format!("{} as c{i}", column.name),
            Form::Text => format!("null::text as c{i}"),
        };
        let sources: Vec<String> = columns.iter().enumerate().map(source).collect();
        let source = format!("as select {} from {} with no data", sources.join(", "), binding.target.sql);
        let table = self.bindings.temporary(&source);
        let made = format!("create temp table if not exists {table} on commit delete rows {source}; truncate {table}");
        if let Err(error) = self.session.client.batch_execute(&made).await {
            return Err(self.pipeline.blame(&error, step).await);
        }
        let names: Vec<String> = (0..columns.len()).map(|i| format!("c{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.copy(&sql::copy(&table, &names, Form::Binary), Form::Binary, rows, forms).await?;
        let feed = Feed { columns, temporary: Some(&table) };
        let parameters = if step == Step::Patch { vec![self.counted(rows.count())] } else { Vec::new() };
        self.execute(&text(&feed), parameters, step).await
    }

    /// COPY in a form, of rows whose columns have these forms. Its end is under way when this comes back.
    pub async fn copy(&mut self, text: &str, form: Form, rows: &dyn Rows, forms: &[Form]) -> Result<(), Trouble> {
        let statement = match self.session.prepare(text).await {
            Ok(statement) => statement,
            Err(error) => return Err(self.pipeline.blame(&error, Step::Data).await),
        };
        let sink = match self.session.client.copy_in::<_, Bytes>(&statement).await {
            Ok(sink) => sink,
            Err(error) => {
                self.confused = true;
                return Err(self.pipeline.blame(&error, Step::Data).await);
            }
        };
        let mut sink = Box::pin(sink);
        let columns = forms.len();
        let mut out = BytesMut::with_capacity(COPY_BYTES + COPY_BYTES / 4);
        copy_header(&mut out, form);
        for index in 0..rows.count() {
            copy_row(&mut out, form, columns)?;
            rows.each(index, &mut |column, value| {
                copy_value(&mut out, form, forms.get(column).copied(), value, column + 1 == columns)
            })?;
            if out.len() >= COPY_BYTES {
                // A failure shows when the end is answered.
                if sink.feed(out.split().freeze()).await.is_err() {
                    break;
                }
                out.reserve(COPY_BYTES + COPY_BYTES / 4);
            }
        }
        copy_trailer(&mut out, form);
        if !out.is_empty() {
            drop(sink.feed(out.freeze()).await);
        }
        // Only when the driver has room is the end handed over by the first poll; what is sent behind it would wait for
        // ever otherwise.
        drop(sink.flush().await);
        let pending = start(async move { sink.as_mut().finish().await }).await;
        self.pipeline.push(Step::Data, pending);
        Ok(())
    }
}

fn collect(shelf: &Shelf, columns: usize, rows: &dyn Rows, from: usize) -> Result<(usize, Vec<Array>)> {
    let mut arrays: Vec<Array> = (0..columns).map(|_| Array::new(shelf)).collect();
    let (mut count, mut bytes) = (0, 0);
    while from + count < rows.count() && bytes < STATEMENT_BYTES {
        bytes += rows.each(from + count, &mut |column, value| match arrays.get_mut(column) {
            Some(array) => array.push(value),
            None => Err(Error::corrupt("write a row: it has more columns than its table")),
        })?;
        count += 1;
    }
    Ok((count, arrays))
}

fn feed_of<'b>(binding: &'b Binding, columns: &[usize], arrays: &[Array], forms: &[Form]) -> Feed<'b> {
    let column = |((&index, array), &form): ((&usize, &Array), &Form)| binding.feed_column(index, array.form(form));
    Feed { columns: columns.iter().zip(arrays).zip(forms).map(column).collect(), temporary: None }
}

fn parameters_of(binding: &Binding, columns: &[usize], arrays: Vec<Array>, forms: &[Form]) -> Vec<Parameter> {
    let parameter = |((&index, array), &form): ((&usize, Array), &Form)| array.finish(binding.place(index).oid, form);
    columns.iter().zip(arrays).zip(forms).map(parameter).collect()
}
