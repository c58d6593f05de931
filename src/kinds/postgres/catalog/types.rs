//! The types that columns are of, down to what they are made of.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::error::Result;

use super::super::conn::translate;
use super::super::shape::{UserType, UserTypeKind};
use super::read::get;

/// Object ids below this one are fixed by the server's sources; those above differ between clusters.
const FIRST_NOT_FIXED: u32 = 10_000;
/// LIMIT: rounds in which unknown types are looked up; types nest far less deep.
const ROUNDS: usize = 32;
/// Types whose values are object ids: `reg*`.
const NAMES_BY_OID: [u32; 11] = [24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

const SQL: &str = "
select t.oid, n.nspname::text, t.typname::text, t.typtype::text, t.typcategory::text, t.typelem, t.typbasetype,
  t.typsend <> 0, quote_ident(fn.nspname) || '.' || quote_ident(f.proname),
  format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault,
  case when t.typtype = 'd' and t.typcollation <> b.typcollation
    then quote_ident(cn.nspname) || '.' || quote_ident(co.collname) end,
  coalesce((select r.rngsubtype from pg_range r where r.rngtypid = t.oid
    or to_jsonb(r)->>'rngmultitypid' = t.oid::text), 0::oid),
  (select e.extname::text from pg_depend d join pg_extension e on e.oid = d.refobjid
    where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
      and d.refclassid = 'pg_extension'::regclass limit 1),
  array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder),
  array(select c.conname::text from pg_constraint c where c.contypid = t.oid and c.contype = 'c' order by c.conname),
  array(select pg_get_constraintdef(c.oid) from pg_constraint c
    where c.contypid = t.oid and c.contype = 'c' order by c.conname),
  array(select a.attname::text from pg_attribute a
    where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum),
  array(select format_type(a.atttypid, a.atttypmod) from pg_attribute a
    where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum),
  array(select a.atttypid from pg_attribute a
    where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum),
  coalesce((select c.relkind = 'c' from pg_class c where c.oid = t.typrelid), false), t.typarray
from pg_type t
  join pg_namespace n on n.oid = t.typnamespace
  join pg_proc f on f.oid = t.typoutput
  join pg_namespace fn on fn.oid = f.pronamespace
  left join pg_type b on b.oid = t.typbasetype
  left join pg_collation co on co.oid = t.typcollation
  left join pg_namespace cn on cn.oid = co.collnamespace
where t.oid = any($1)";

/// A type.
#[derive(Clone, Debug, Default)]
pub struct Type {
    pub schema: String,
    pub name: String,
    /// `pg_type.typtype`.
    pub kind: char,
    pub category: char,
    pub element: u32,
    pub base: u32,
    /// The array type over this one.
    pub array: u32,
    pub sendable: bool,
    pub output: String,
    pub extension: Option<String>,
    /// Of ranges and multiranges.
    pub subtype: u32,
    pub fields: Vec<u32>,
    /// How it is made, where we can; else `None`.
    pub making: Option<UserTypeKind>,
}

/// Types by their oid, with all that they are made of.
#[derive(Debug, Default)]
pub struct Types(BTreeMap<u32, Type>);

impl Types {
    /// Reads these types and what they are made of.
    pub async fn read(client: &Client, oids: impl IntoIterator<Item = u32>) -> Result<Self> {
        let mut types = BTreeMap::new();
        let mut wanted: Vec<u32> = oids.into_iter().collect();
        for _ in 0..ROUNDS {
            wanted.sort_unstable();
            wanted.dedup();
            wanted.retain(|oid| *oid != 0 && !types.contains_key(oid));
            if wanted.is_empty() {
                break;
            }
            let rows =
                client.query(SQL, &[&wanted]).await.map_err(|error| translate(&error, "read the catalog of types"))?;
            wanted.clear();
            for row in &rows {
                let one = of_row(row)?;
                wanted.extend([one.element, one.base, one.subtype]);
                wanted.extend(&one.fields);
                types.insert(get(row, 0)?, one);
            }
        }
        Ok(Self(types))
    }

    /// The type, or for a domain the type beneath it.
    pub fn base(&self, oid: u32) -> (u32, Option<&Type>) {
        let mut oid = oid;
        for _ in 0..ROUNDS {
            match self.0.get(&oid) {
                Some(domain) if domain.kind == 'd' => oid = domain.base,
                found => return (oid, found),
            }
        }
        (oid, None)
    }

    /// Whether the binary form means the same at another server.
    pub fn is_portable(&self, oid: u32) -> bool {
        let (oid, Some(one)) = self.base(oid) else { return false };
        let part = |oid: u32| oid < FIRST_NOT_FIXED && self.is_portable(oid);
        match one.kind {
            'c' => false,
            'r' | 'm' => part(one.subtype),
            // `name` and points have elements too, without being arrays.
            _ if one.category == 'A' && one.element != 0 => part(one.element),
            _ => !NAMES_BY_OID.contains(&oid),
        }
    }

    /// Adds the types of users that this one needs, itself included, after those that they need in turn. What cannot be
    /// made is told in `unsupported`.
    pub fn needed(&self, oid: u32, made: &mut Vec<UserType>, unsupported: &mut Vec<String>) {
        let Some(one) = self.0.get(&oid) else { return };
        if one.schema == "pg_catalog" || one.schema == "information_schema" {
            return;
        }
        if one.category == 'A' && one.element != 0 && one.kind == 'b' {
            return self.needed(one.element, made, unsupported);
        }
        if made.iter().any(|known| known.schema == one.schema && known.name == one.name) {
            return;
        }
        let push = |kind, made: &mut Vec<UserType>| {
            made.push(UserType { schema: one.schema.clone(), name: one.name.clone(), kind });
        };
        if let Some(extension) = &one.extension {
            return push(UserTypeKind::Extension(extension.clone()), made);
        }
        for part in one.fields.iter().chain([&one.base, &one.subtype]) {
            self.needed(*part, made, unsupported);
        }
        match &one.making {
            Some(kind) => push(kind.clone(), made),
            None => {
                let what = match one.kind {
                    'r' | 'm' => "range type",
                    'c' => "row type of a table",
                    _ => "base type",
                };
                let told = format!("the {what} {}.{}", one.schema, one.name);
                if !unsupported.contains(&told) {
                    unsupported.push(told);
                }
            }
        }
    }
}

fn of_row(row: &tokio_postgres::Row) -> Result<Type> {
    let letter = |text: String| text.chars().next().unwrap_or_default();
    let kind = letter(get(row, 3)?);
    let zip = |names: Vec<String>, definitions: Vec<String>| names.into_iter().zip(definitions);
    let standalone: bool = get(row, 21)?;
    let making = match kind {
        'e' => Some(UserTypeKind::Enum(get(row, 15)?)),
        'd' => Some(UserTypeKind::Domain {
            base: get(row, 9)?,
            collation: get(row, 12)?,
            not_null: get(row, 10)?,
            default: get(row, 11)?,
            checks: zip(get(row, 16)?, get(row, 17)?).collect(),
        }),
        'c' if standalone => {
            Some(UserTypeKind::Composite(zip(get(row, 18)?, get(row, 19)?).map(|(n, t)| (n, t, None)).collect()))
        }
        _ => None,
    };
    Ok(Type {
        schema: get(row, 1)?,
        name: get(row, 2)?,
        kind,
        category: letter(get(row, 4)?),
        element: get(row, 5)?,
        base: get(row, 6)?,
        sendable: get(row, 7)?,
        output: get(row, 8)?,
        subtype: get(row, 13)?,
        extension: get(row, 14)?,
        fields: get(row, 20)?,
        array: get(row, 22)?,
        making,
    })
}
