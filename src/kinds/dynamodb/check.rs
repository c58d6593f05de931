//! What can be wrong with a table, found before it matters. Reads only; changes nothing.

use super::connect::Access;
use super::describe::{Described, describe, expiry};
use super::item::EXPIRES;
use super::layout;
use super::options::Role;
use super::read::Reader;
use super::store::is_teleport;
use super::units;
use crate::error::{Error, Result};
use crate::model::{Layout, Level, Remark};

/// Looks at a table, and at a destination at our own beside it.
pub async fn look(access: &Access) -> Vec<Remark> {
    let mut found = Vec::new();
    let role = access.options().role;
    match describe(access, access.table()).await {
        Err(error) => add(&mut found, Level::Error, error.to_string(), ""),
        Ok(Some(table)) => of_table(access, &table, &mut found).await,
        Ok(None) if role == Role::Sink => {
            let what = format!("table {} is not there: it is made when the first lane is claimed", access.table());
            add(&mut found, Level::Note, what, "");
        }
        Ok(None) => {
            let what = format!("table {} is not there", access.table());
            add(&mut found, Level::Error, what, "look at `table_name`, `region` and the account");
        }
    }
    if role == Role::Sink {
        of_ours(access, &mut found).await;
    }
    found
}

fn add(found: &mut Vec<Remark>, level: Level, what: impl Into<String>, mend: &str) {
    found.push(Remark::new(level, what, mend));
}

async fn of_table(access: &Access, table: &Described, found: &mut Vec<Remark>) {
    let options = access.options();
    if options.layout == Layout::Teleport
        && let Err(error) = is_teleport(&options.table, table)
    {
        return add(found, Level::Error, error.to_string(), "");
    }
    if !table.ready {
        let what = format!("table {} is being made, changed or removed", options.table);
        add(found, Level::Warning, what, "wait until it is ACTIVE");
    }
    match may_read(access).await {
        Err(error) => add(found, Level::Error, error.to_string(), ""),
        Ok(false) if options.role == Role::Source => {
            let what = format!("table {} holds no item of Teleport's", options.table);
            add(found, Level::Error, what, "`table_name` must be that of Teleport's own configuration");
        }
        Ok(_) => {}
    }
    if options.layout == Layout::Teleport {
        of_expiry(access, found).await;
    }
    match options.role {
        Role::Source => of_reading(table, options.read_limit, found),
        Role::Sink => of_writing(table, found),
    }
}

/// Whether there is something that could be copied.
async fn may_read(access: &Access) -> Result<bool> {
    let reader = Reader::new(access);
    match access.options().layout {
        Layout::Raw => reader.scan(0, 1, None, 1).await.map(|_| true),
        Layout::Teleport => {
            let (from, to) = layout::between(b"", b"").ok_or_else(|| Error::bug("look at keys: no bound is none"))?;
            Ok(!reader.paths(&from, &to, 1).await?.is_empty())
        }
    }
}

async fn of_expiry(access: &Access, found: &mut Vec<Remark>) {
    let (table, mend) =
        (access.table(), "Teleport sets it whenever it opens the table; or `aws dynamodb update-time-to-live`");
    match expiry(access, table).await {
        Err(error) => add(found, Level::Error, error.to_string(), ""),
        Ok(Some(attribute)) if attribute == EXPIRES => {}
        Ok(Some(_)) => add(found, Level::Warning, format!("items of table {table} do not expire on `{EXPIRES}`"), mend),
        Ok(None) => add(found, Level::Warning, format!("items of table {table} do not expire"), mend),
    }
}

fn of_reading(table: &Described, limit: Option<u32>, found: &mut Vec<Remark>) {
    let units = table.bytes.div_ceil(4 << 10).max(table.items.div_ceil(4));
    let provisioned = table.shape.units.and_then(|(read, _)| u32::try_from(read).ok());
    let pace = match [limit, provisioned].into_iter().flatten().min() {
        Some(pace) if pace > 0 => format!(", which takes {} s at {pace} a second", units.div_ceil(u64::from(pace))),
        _ => String::new(),
    };
    let what = format!("the table has about {} items; one copy takes about {units} read units{pace}", table.items);
    add(found, Level::Note, what, "");
    if let (None, Some(provisioned)) = (limit, provisioned) {
        add(
            found,
            Level::Warning,
            format!("the table has {provisioned} read units a second, and a copy takes all that it can get"),
            "set `read_limit`, so that the cluster's own reading is not held up",
        );
    }
    let written = units::of_items(table.items, table.bytes);
    add(found, Level::Note, format!("a first copy of it into DynamoDB takes about {written} write units"), "");
    if !matches!(table.shape.stream.as_deref(), Some("NEW_IMAGE" | "NEW_AND_OLD_IMAGES")) {
        let what = "the table has no stream of new images, so it can be copied and compared, and not be followed";
        add(found, Level::Note, what, "Teleport turns one on when it opens the table");
    }
}

fn of_writing(table: &Described, found: &mut Vec<Remark>) {
    let Some((_, write)) = table.shape.units else { return };
    add(
        found,
        Level::Warning,
        format!("the table has {write} write units a second; an item of 1 KiB takes two"),
        "raise them for the first copy, or let each request be paid for",
    );
}

async fn of_ours(access: &Access, found: &mut Vec<Remark>) {
    let name = &access.options().checkpoints;
    match describe(access, name).await {
        Err(error) => add(found, Level::Error, error.to_string(), ""),
        Ok(None) => {
            let what =
                format!("table {name}, for checkpoints, is not there: it is made when the first lane is claimed");
            add(found, Level::Note, what, "");
        }
        Ok(Some(_)) => {}
    }
}
