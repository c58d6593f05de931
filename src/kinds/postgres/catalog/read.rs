//! The statements that read the catalog, and what becomes of their rows.

use std::collections::BTreeMap;

use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Row};

use crate::error::{Error, Result};

use super::super::conn::translate;
use super::super::ddl;
use super::super::shape::{Column, Constraint, Generated, Identity, Index, Sequence, Shape};
use super::key::{Candidate, Facts, KeyColumn};
use super::pattern::Pattern;
use super::types::Types;
use super::{Found, Need, Refusal};

const TABLES: &str = "
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relreplident::text, c.relpersistence = 'u',
  case when c.relkind = 'p' then pg_get_partkeydef(c.oid) end,
  (select count(*) from pg_partition_tree(c.oid) where level > 0),
  array(select p.relid::regclass::text from pg_partition_tree(c.oid) p join pg_class l on l.oid = p.relid
    where p.isleaf and p.level > 0 and (l.relreplident <> c.relreplident
      or l.relreplident = 'i' and not exists (select from pg_index i
        where i.indrelid = l.oid and i.indisreplident and exists (select from pg_partition_ancestors(i.indexrelid) a
          join pg_index r on r.indexrelid = a.relid where r.indrelid = c.oid and r.indisreplident)))),
  coalesce((select string_agg(quote_ident(o.name) || '=' || quote_literal(o.value), ', ' order by o.place)
    from pg_options_to_table(c.reloptions) with ordinality as o(name, value, place)), '')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = any($1) order by 2, 3";

const COLUMNS: &str = "
select a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod),
  a.attnotnull, nullif(a.attidentity, '')::text, nullif(a.attgenerated, '')::text, pg_get_expr(d.adbin, d.adrelid),
  case when a.attcollation <> t.typcollation then quote_ident(cn.nspname) || '.' || quote_ident(co.collname) end,
  case when a.attstorage <> t.typstorage then case a.attstorage
    when 'p' then 'plain' when 'e' then 'external' when 'x' then 'extended' else 'main' end end,
  getdatabaseencoding() = 'UTF8' and coalesce(co.oid in (950, 951) or co.collname = 'ucs_basic'
    or co.collprovider = 'b' or co.oid = 100 and (
      coalesce(to_jsonb(db)->>'datlocprovider', 'c') = 'b'
      or coalesce(to_jsonb(db)->>'datlocprovider', 'c') = 'c' and db.datcollate in ('C', 'POSIX')), false)
from pg_attribute a
  join pg_type t on t.oid = a.atttypid
  join pg_database db on db.datname = current_database()
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join pg_collation co on co.oid = a.attcollation
  left join pg_namespace cn on cn.oid = co.collnamespace
where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped order by a.attrelid, a.attnum";

const INDEXES: &str = "
select i.indrelid, c.relname::text, i.indisprimary, i.indisreplident, i.indisunique, i.indimmediate,
  i.indpred is not null, i.indisvalid, i.indkey::int2[], i.indnkeyatts::int4, pg_get_indexdef(i.indexrelid),
  exists(select from pg_constraint k where k.conindid = i.indexrelid and k.conrelid = i.indrelid
    and k.contype in ('p', 'u', 'x'))
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = any($1) order by i.indrelid, c.relname";

const CONSTRAINTS: &str = "
select conrelid, conname::text, contype::text, pg_get_constraintdef(oid)
from pg_constraint where conrelid = any($1) and contype in ('p', 'u', 'c', 'x') order by conrelid, contype <> 'p', conname";

const SEQUENCES: &str = "
select a.attrelid, a.attname::text, n.nspname::text, c.relname::text, bool_or(d.kind = 'i'), bool_or(d.kind in ('a', 'i')),
  format_type(q.seqtypid, null), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, q.seqcycle
from (
    select refobjid as tab, refobjsubid as att, objid as seq, deptype::text as kind from pg_depend
    where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype in ('a', 'i')
  union all
    select ad.adrelid, ad.adnum, refobjid, 'n' from pg_depend join pg_attrdef ad on ad.oid = objid
    where classid = 'pg_attrdef'::regclass and refclassid = 'pg_class'::regclass and deptype = 'n') d
  join pg_class c on c.oid = d.seq and c.relkind = 'S'
  join pg_namespace n on n.oid = c.relnamespace
  join pg_sequence q on q.seqrelid = c.oid
  join pg_attribute a on a.attrelid = d.tab and a.attnum = d.att
where d.tab = any($1)
group by a.attrelid, a.attnum, a.attname, n.nspname, c.relname, q.seqtypid, q.seqstart, q.seqincrement, q.seqmin, q.seqmax,
  q.seqcache, q.seqcycle
order by a.attrelid, a.attnum";

const NAMES: &str = "
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't'
  and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'driftless')
order by 2, 3";

/// A column of a row.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index)
        .map_err(|_| Error::corrupt(format!("read the catalog: column {index} is not of the type asked for")))
}

/// A column that is one letter.
fn letter(row: &Row, index: usize) -> Result<char> {
    Ok(get::<&str>(row, index)?.chars().next().unwrap_or_default())
}

async fn query(client: &Client, sql: &str, oids: &[u32]) -> Result<Vec<Row>> {
    let rows = if sql == NAMES { client.query(sql, &[]).await } else { client.query(sql, &[&oids]).await };
    rows.map_err(|error| translate(&error, "read the catalog"))
}

async fn one(client: &Client, sql: &str) -> Result<Row> {
    client.query_one(sql, &[]).await.map_err(|error| translate(&error, "read the catalog"))
}

/// `server_version_num`.
pub(super) async fn version(client: &Client) -> Result<u32> {
    let row = one(client, "select current_setting('server_version_num')::int4").await?;
    Ok(get::<i32>(&row, 0)?.unsigned_abs())
}

/// Teleport's table. Must come before the search path is emptied.
pub(super) async fn kv(client: &Client) -> Result<Option<u32>> {
    get(&one(client, "select to_regclass('kv')::oid").await?, 0)
}

/// As [`kv`], where it has to be there.
pub(super) async fn kv_required(client: &Client) -> Result<u32> {
    let row = one(client, "select to_regclass('kv')::oid, current_database()::text").await?;
    get::<Option<u32>>(&row, 0)?.ok_or_else(|| {
        let database: &str = get(&row, 1).unwrap_or_default();
        Error::config(format!(
            "read database {database:?}: no schema of the search path has a table kv, so it holds no Teleport backend; \
             check the database and the search_path of the connection string, or use layout: raw"
        ))
    })
}

/// The tables that match one of the patterns, partitions aside.
pub(super) async fn matching(client: &Client, patterns: &[Pattern]) -> Result<(Vec<u32>, Vec<Refusal>)> {
    let rows = query(client, NAMES, &[]).await?;
    let (mut oids, mut refused) = (Vec::new(), Vec::new());
    let mut used = vec![false; patterns.len()];
    for row in &rows {
        let (schema, name): (&str, &str) = (get(row, 1)?, get(row, 2)?);
        let (kind, partition): (char, bool) = (letter(row, 3)?, get(row, 4)?);
        let mut exact = false;
        let mut matches = false;
        for (pattern, used) in patterns.iter().zip(&mut used) {
            if pattern.matches(schema, name) {
                (matches, *used, exact) = (true, true, exact || pattern.is_exact());
            }
        }
        let why = match kind {
            _ if partition => "it is a partition; name the table that it is a partition of",
            'r' | 'p' => "",
            'f' => "it is a foreign table, whose rows lie elsewhere",
            _ => "it is a view",
        };
        match why {
            "" if matches => oids.push(get(row, 0)?),
            why if exact => refused.push(Refusal { table: format!("{schema}.{name}"), why: why.into() }),
            _ => {}
        }
    }
    if let Some((pattern, _)) = patterns.iter().zip(&used).find(|(_, used)| !**used) {
        return Err(Error::config(format!(
            "find the tables to replicate: {:?} matches no table that this role can see",
            pattern.to_string()
        )));
    }
    Ok((oids, refused))
}

/// Tables of these names, as far as they are there.
pub(super) async fn named(client: &Client, names: &[(String, String)]) -> Result<Vec<u32>> {
    let rows = query(client, NAMES, &[]).await?;
    let mut oids = Vec::new();
    for row in &rows {
        let (schema, name): (String, String) = (get(row, 1)?, get(row, 2)?);
        if matches!(letter(row, 3)?, 'r' | 'p') && names.contains(&(schema, name)) {
            oids.push(get(row, 0)?);
        }
    }
    Ok(oids)
}

/// Everything about these tables. They come by name.
pub(super) async fn tables(client: &Client, oids: &[u32], need: Need) -> Result<Found> {
    let empty = client.batch_execute("set local search_path to ''").await;
    empty.map_err(|error| translate(&error, "read the catalog"))?;
    let columns = query(client, COLUMNS, oids).await?;
    let type_oids: Vec<u32> = columns.iter().map(|row| get(row, 3)).collect::<Result<_>>()?;
    let types = Types::read(client, type_oids).await?;
    let mut parts: BTreeMap<u32, Parts> = BTreeMap::new();
    let of = |row: &Row| get::<u32>(row, 0);
    for row in &columns {
        parts.entry(of(row)?).or_default().column(row, &types)?;
    }
    for row in &query(client, INDEXES, oids).await? {
        parts.entry(of(row)?).or_default().index(row)?;
    }
    for row in &query(client, CONSTRAINTS, oids).await? {
        let constraint = Constraint { name: get(row, 1)?, kind: letter(row, 2)?, definition: get(row, 3)? };
        parts.entry(of(row)?).or_default().shape.constraints.push(constraint);
    }
    for row in &query(client, SEQUENCES, oids).await? {
        parts.entry(of(row)?).or_default().shape.sequences.push(sequence(row)?);
    }
    let mut found = Found::default();
    for row in &query(client, TABLES, oids).await? {
        match parts.remove(&of(row)?).unwrap_or_default().finish(row, need)? {
            Ok(shape) => found.tables.push(shape),
            Err(refusal) => found.refused.push(refusal),
        }
    }
    Ok(found)
}

/// What is gathered about a table before it is judged.
#[derive(Default)]
struct Parts {
    shape: Shape,
    facts: Facts,
    not_portable: bool,
}

impl Parts {
    fn column(&mut self, row: &Row, types: &Types) -> Result<()> {
        let type_oid: u32 = get(row, 3)?;
        let (base_oid, base) = types.base(type_oid);
        let base = base.ok_or_else(|| Error::corrupt("read the catalog: a column has a type that does not exist"))?;
        let identity: Option<&str> = get(row, 7)?;
        let generated: Option<&str> = get(row, 8)?;
        let column = Column {
            name: get(row, 2)?,
            number: get(row, 1)?,
            type_oid,
            typmod: get(row, 4)?,
            type_name: get(row, 5)?,
            not_null: get(row, 6)?,
            identity: identity.and_then(|letter| letter.chars().next()),
            default: get(row, 9)?,
            collation: get(row, 10)?,
            storage: get(row, 11)?,
            bytewise: get(row, 12)?,
            binary: false,
            sendable: base.sendable,
            output: base.output.clone(),
            category: base.category,
            base_oid,
            array_oid: base.array,
        };
        self.facts.columns.push(KeyColumn {
            number: column.number,
            not_null: column.not_null,
            generated: generated.is_some(),
        });
        types.needed(type_oid, &mut self.shape.types, &mut self.shape.unsupported);
        if let Some(generated) = generated {
            self.shape.generated.push(Generated { column, is_virtual: generated == "v" });
        } else {
            self.not_portable |= !types.is_portable(type_oid);
            self.shape.columns.push(column);
        }
        Ok(())
    }

    fn index(&mut self, row: &Row) -> Result<()> {
        let mut columns: Vec<i16> = get(row, 8)?;
        columns.truncate(usize::try_from(get::<i32>(row, 9)?).unwrap_or_default());
        let candidate = Candidate {
            name: get(row, 1)?,
            primary: get(row, 2)?,
            identity: get(row, 3)?,
            unique: get(row, 4)?,
            immediate: get(row, 5)?,
            partial: get(row, 6)?,
            valid: get(row, 7)?,
            columns,
        };
        let belongs_to_constraint: bool = get(row, 11)?;
        if !belongs_to_constraint {
            self.shape.indexes.push(Index {
                name: candidate.name.clone(),
                unique: candidate.unique,
                definition: get(row, 10)?,
            });
        }
        if candidate.identity {
            self.shape.identity_index = Some(candidate.name.clone());
        }
        self.facts.candidates.push(candidate);
        Ok(())
    }

    fn finish(self, row: &Row, need: Need) -> Result<Result<Shape, Refusal>> {
        let Self { mut shape, mut facts, not_portable } = self;
        shape.oid = get(row, 0)?;
        shape.schema = get(row, 1)?;
        shape.name = get(row, 2)?;
        shape.identity = match letter(row, 4)? {
            'f' => Identity::Full,
            'i' => Identity::Index,
            'n' => Identity::Nothing,
            _ => Identity::Default,
        };
        shape.unlogged = get(row, 5)?;
        shape.partition_key = get(row, 6)?;
        shape.partitions = usize::try_from(get::<i64>(row, 7)?).unwrap_or_default();
        shape.options = get(row, 9)?;
        shape.portable = !not_portable;
        facts.identity = shape.identity;
        facts.unlogged = shape.unlogged;
        facts.strays = get(row, 8)?;
        let key = match facts.choose(&ddl::qualified(&shape.schema, &shape.name), need == Need::Tail) {
            Ok(key) => key,
            Err(_) if need == Need::Columns => return Ok(Ok(shape)),
            Err(why) => return Ok(Err(Refusal { table: shape.full_name(), why })),
        };
        shape.key_index = key.name.clone();
        shape.key = key
            .columns
            .iter()
            .filter_map(|number| shape.columns.iter().position(|column| column.number == *number))
            .collect();
        Ok(Ok(shape))
    }
}

fn sequence(row: &Row) -> Result<Sequence> {
    Ok(Sequence {
        column: get(row, 1)?,
        schema: get(row, 2)?,
        name: get(row, 3)?,
        identity: get(row, 4)?,
        owned: get(row, 5)?,
        type_name: get(row, 6)?,
        start: get(row, 7)?,
        increment: get(row, 8)?,
        min: get(row, 9)?,
        max: get(row, 10)?,
        cache: get(row, 11)?,
        cycle: get(row, 12)?,
    })
}
