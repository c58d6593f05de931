//! Query and Scan, of a table or an index, page by page.

use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::super::expression::{
    Condition, KeyCondition, Path, SortCondition, condition, key_condition, project, projection,
};
use super::super::fail::{Failure, Result};
use super::super::faults::Fault;
use super::super::input::Input;
use super::super::table::{Index, Key, Place, Scalar, Schema, Table};
use super::super::value::{Item, item_size};
use super::super::wire;
use super::super::world::{World, capacity};
use super::read::read_units;
use super::write::units;

/// LIMIT: what a page reads before it ends, as documented.
const PAGE: usize = 1 << 20;
/// LIMIT: segments of a parallel scan, as documented.
const SEGMENTS: u64 = 1_000_000;

/// An item in the order of a read: its place in the index, its place in the table, itself.
type Row<'a> = (Option<Place>, &'a Place, &'a Arc<Item>);
/// Where a page begins: behind this place in the index and this one in the table.
type Start = (Option<Place>, Place);

/// What is common to both.
struct Read {
    table: String,
    index: Option<Index>,
    filter: Option<Condition>,
    projection: Option<Vec<Path>>,
    count: bool,
    limit: usize,
    start: Option<Start>,
}

fn read(world: &World, input: &Input<'_>, names: &mut super::super::expression::Names) -> Result<Read> {
    let table = world.table(input.required_text("TableName")?)?;
    let index = input.text("IndexName")?.map(|name| table.index(name).cloned()).transpose()?;
    if input.flag("ConsistentRead")? && index.as_ref().is_some_and(|index| !index.local) {
        return Err(Failure::invalid("Consistent reads are not supported on global secondary indexes"));
    }
    let filter = input.text("FilterExpression")?.map(|text| condition(text, "FilterExpression", names)).transpose()?;
    let mut projection = input.text("ProjectionExpression")?.map(|text| projection(text, names)).transpose()?;
    let select = input.text("Select")?;
    match (select, &projection) {
        (None | Some("SPECIFIC_ATTRIBUTES"), Some(_)) | (None | Some("ALL_ATTRIBUTES" | "COUNT"), None) => {}
        (Some("ALL_PROJECTED_ATTRIBUTES"), None) if index.is_some() => {}
        (Some(select), _) => {
            return Err(Failure::invalid(format!("Cannot specify {select} with this combination of parameters")));
        }
    }
    // An index gives what it holds.
    let held = index.as_ref().and_then(|index| index.attributes(&table.schema));
    if let Some(held) = held.filter(|_| projection.is_none() && select != Some("ALL_ATTRIBUTES")) {
        projection = Some(held.into_iter().map(|attribute| Path { attribute, steps: Vec::new() }).collect());
    }
    let start = input.json("ExclusiveStartKey").map(|json| start(table, index.as_ref(), json)).transpose()?;
    let limit = input.number("Limit", 1, u64::from(u32::MAX))?.and_then(|n| usize::try_from(n).ok());
    Ok(Read {
        table: table.name.clone(),
        index,
        filter,
        projection,
        count: select == Some("COUNT"),
        limit: limit.unwrap_or(usize::MAX),
        start,
    })
}

fn start(table: &Table, index: Option<&Index>, json: &Json) -> Result<Start> {
    let wrong = || Failure::invalid("The provided starting key is invalid");
    let item = wire::item(json)?;
    let only = |schema: &Schema| -> Item {
        item.iter().filter(|(name, _)| schema.has(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let expected = |name: &String| table.schema.has(name) || index.is_some_and(|index| index.schema.has(name));
    if !item.keys().all(expected) {
        return Err(wrong());
    }
    let key = table.schema.named(&only(&table.schema)).map_err(|_| wrong())?;
    let of_index = index.map(|index| index.schema.named(&only(&index.schema)).map_err(|_| wrong())).transpose()?;
    Ok((of_index.map(Key::place), key.place()))
}

/// Items of an index in its order, those of one partition or all.
fn index_rows<'a>(table: &'a Table, index: &Index, hash: Option<&Scalar>) -> Vec<Row<'a>> {
    let row = |(place, item): (&'a Place, &'a Arc<Item>)| {
        let key = index.schema.index_key(item)?;
        hash.is_none_or(|hash| key.hash == *hash).then(|| (Some(key.place()), place, item))
    };
    let mut rows: Vec<Row<'a>> = table.items(None).filter_map(row).collect();
    rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    rows
}

/// A sort key behind every other.
fn last() -> Scalar {
    Scalar::B(vec![0xff; 2048])
}

fn in_range(sort: Option<&SortCondition>, range: Option<&Scalar>) -> bool {
    let Some(sort) = sort else { return true };
    let Some(range) = range else { return false };
    let scalar = |value| Scalar::of(value).expect("a key condition's values were compared with the schema");
    use super::super::expression::Comparator as C;
    match sort {
        SortCondition::Compare(how, value) => match how {
            C::Equal => *range == scalar(value),
            C::Less => *range < scalar(value),
            C::AtMost => *range <= scalar(value),
            C::Greater => *range > scalar(value),
            C::AtLeast => *range >= scalar(value),
            C::Different => false,
        },
        SortCondition::Between(low, high) => (scalar(low)..=scalar(high)).contains(range),
        SortCondition::BeginsWith(start) => match (range, scalar(start)) {
            (Scalar::S(text), Scalar::S(start)) => text.starts_with(&start),
            (Scalar::B(bytes), Scalar::B(start)) => bytes.starts_with(&start),
            _ => false,
        },
    }
}

/// The sort keys between which a condition's lie; not every one between them meets it.
fn bounds(sort: Option<&SortCondition>) -> (Option<Scalar>, Scalar) {
    use super::super::expression::Comparator as C;
    let scalar = Scalar::of;
    match sort {
        Some(SortCondition::Compare(C::Equal, value)) => (scalar(value), scalar(value).unwrap_or_else(last)),
        Some(SortCondition::Compare(C::Less | C::AtMost, value)) => (None, scalar(value).unwrap_or_else(last)),
        Some(SortCondition::Compare(_, value) | SortCondition::BeginsWith(value)) => (scalar(value), last()),
        Some(SortCondition::Between(low, high)) => (scalar(low), scalar(high).unwrap_or_else(last)),
        None => (None, last()),
    }
}

fn typed(schema: &Schema, keys: &KeyCondition) -> Result<()> {
    let wrong = || Failure::parameter("Condition parameter type does not match schema type");
    if keys.hash.kind() != schema.hash.kind {
        return Err(wrong());
    }
    let (Some(sort), Some(range)) = (&keys.sort, &schema.range) else { return Ok(()) };
    let values = match sort {
        SortCondition::Compare(_, value) => vec![value],
        SortCondition::BeginsWith(value) if range.kind == "N" => {
            return Err(Failure::parameter(format!(
                "Invalid KeyConditionExpression: Incorrect operand type for operator or function; operator or function: \
                 begins_with, operand type: {}",
                value.kind()
            )));
        }
        SortCondition::BeginsWith(value) => vec![value],
        SortCondition::Between(low, high) => vec![low, high],
    };
    if values.iter().all(|value| value.kind() == range.kind) { Ok(()) } else { Err(wrong()) }
}

/// Query.
pub fn query(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let mut names = input.names()?;
    let read = read(world, input, &mut names)?;
    let table = world.table(&read.table)?;
    let schema = read.index.as_ref().map_or(&table.schema, |index| &index.schema);
    let text = input.text("KeyConditionExpression")?.ok_or_else(|| {
        Failure::invalid(
            "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.",
        )
    })?;
    let range = schema.range.as_ref().map(|range| range.name.as_str());
    let keys = key_condition(text, &schema.hash.name, range, &mut names)?;
    names.all_used()?;
    typed(schema, &keys)?;
    if read.filter.as_ref().is_some_and(|filter| filter.mentions(&|name| schema.has(name))) {
        return Err(Failure::invalid(
            "Filter Expression can only contain non-primary key attributes: a key attribute is in the filter",
        ));
    }
    let hash = Scalar::of(&keys.hash).expect("its type is the schema's");
    let forward = input.json("ScanIndexForward").and_then(Json::as_bool).unwrap_or(true);
    let sort = keys.sort.as_ref();
    if let Some(index) = &read.index {
        let mut rows = index_rows(table, index, Some(&hash));
        rows.retain(|(place, _, _)| in_range(sort, place.as_ref().and_then(|place| place.key.range.as_ref())));
        if !forward {
            rows.reverse();
        }
        let behind = |row: &Row<'_>, start: &Start| {
            let order = (&row.0, row.1).cmp(&(&start.0, &start.1));
            if forward { order.is_gt() } else { order.is_lt() }
        };
        let rows = rows.into_iter().filter(|row| read.start.as_ref().is_none_or(|start| behind(row, start)));
        let page = page(world, &read, rows)?;
        return answer(world, &read, input, page);
    }
    let (low, high) = bounds(sort);
    let place = |range: Option<Scalar>| Key { hash: hash.clone(), range }.place();
    let (low, high) = (place(low), place(Some(high)));
    let start = read.start.as_ref().map(|(_, place)| place);
    let (mut from, mut to) = (Bound::Included(&low), Bound::Included(&high));
    match start {
        Some(start) if forward && *start >= low => from = Bound::Excluded(start),
        Some(start) if !forward && *start <= high => to = Bound::Excluded(start),
        _ => {}
    }
    let found = table.between(from, to).filter(|(place, _)| in_range(sort, place.key.range.as_ref()));
    let found = found.map(|(place, item)| (None, place, item));
    let page = if forward { page(world, &read, found)? } else { page(world, &read, found.rev())? };
    answer(world, &read, input, page)
}

/// Scan.
pub fn scan(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let mut names = input.names()?;
    let read = read(world, input, &mut names)?;
    names.all_used()?;
    let total = input.number("TotalSegments", 1, SEGMENTS)?;
    let segment = input.number("Segment", 0, SEGMENTS - 1)?;
    let (low, high) = match (segment, total) {
        (None, None) => (0, u64::MAX),
        (Some(segment), Some(total)) if segment < total => {
            let step = u64::MAX / total;
            (segment * step, if segment + 1 == total { u64::MAX } else { (segment + 1) * step - 1 })
        }
        (Some(segment), Some(total)) => {
            return Err(Failure::invalid(format!(
                "The Segment parameter is zero-based and must be less than parameter TotalSegments: Segment: {segment} is not \
                 less than TotalSegments: {total}"
            )));
        }
        (None, Some(_)) => {
            return Err(Failure::invalid(
                "The Segment parameter is required but was not present in the request when parameter TotalSegments is present",
            ));
        }
        (Some(_), None) => {
            return Err(Failure::invalid(
                "The TotalSegments parameter is required but was not present in the request when Segment parameter is present",
            ));
        }
    };
    let table = world.table(&read.table)?;
    if let Some(index) = &read.index {
        let rows = index_rows(table, index, None).into_iter().filter(|(place, primary, _)| {
            let place = place.as_ref().expect("a row of an index has its place there");
            (low..=high).contains(&place.token)
                && read.start.as_ref().is_none_or(|(index, start)| (Some(place), *primary) > (index.as_ref(), start))
        });
        let page = page(world, &read, rows)?;
        return answer(world, &read, input, page);
    }
    let first = Place { token: low, key: Key { hash: Scalar::S(String::new()), range: None } };
    let from = match &read.start {
        Some((_, start)) if *start >= first => {
            if start.token > high {
                return Err(Failure::invalid(
                    "The provided starting key is invalid: Invalid ExclusiveStartKey. Please use ExclusiveStartKey with correct \
                     Segment. TotalSegments",
                ));
            }
            Bound::Excluded(start)
        }
        _ => Bound::Included(&first),
    };
    let rows = table.between(from, Bound::Unbounded).take_while(|(place, _)| place.token <= high);
    let page = page(world, &read, rows.map(|(place, item)| (None, place, item)))?;
    answer(world, &read, input, page)
}

/// What a page holds.
struct Page {
    items: Vec<Item>,
    scanned: usize,
    matched: usize,
    bytes: usize,
    last: Option<Item>,
}

fn page<'a>(world: &World, read: &Read, rows: impl Iterator<Item = Row<'a>>) -> Result<Page> {
    let table = world.table(&read.table)?;
    let mut page = Page { items: Vec::new(), scanned: 0, matched: 0, bytes: 0, last: None };
    let limit = if world.fault == Some(Fault::ShortPage) { read.limit.min(7) } else { read.limit };
    for (of_index, place, item) in rows {
        page.scanned += 1;
        page.bytes += item_size(item);
        if read.filter.as_ref().is_none_or(|filter| filter.holds(item)) {
            page.matched += 1;
            if !read.count {
                page.items
                    .push(read.projection.as_ref().map_or_else(|| (**item).clone(), |paths| project(item, paths)));
            }
        }
        if page.scanned >= limit || page.bytes >= PAGE {
            let mut key = table.schema.item(&place.key);
            if let (Some(index), Some(place)) = (&read.index, of_index) {
                key.extend(index.schema.item(&place.key));
            }
            page.last = Some(key);
            break;
        }
    }
    Ok(page)
}

fn answer(world: &mut World, read: &Read, input: &Input<'_>, page: Page) -> Result<Json> {
    world.charge(&read.table, units(page.bytes, 4096), false)?;
    let mut answer = Map::new();
    if !read.count {
        answer.insert("Items".into(), page.items.iter().map(wire::item_json).collect());
    }
    answer.insert("Count".into(), page.matched.into());
    answer.insert("ScannedCount".into(), page.scanned.into());
    if let Some(last) = &page.last {
        answer.insert("LastEvaluatedKey".into(), wire::item_json(last));
    }
    let consumed = read_units(page.bytes, input.flag("ConsistentRead")?);
    if let Some(consumed) = capacity(input, &[(&read.table, consumed)])? {
        answer.insert("ConsumedCapacity".into(), consumed[0].clone());
    }
    Ok(Json::Object(answer))
}
