//! TransactWriteItems and TransactGetItems.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use super::super::chance::hash;
use super::super::fail::{Failure, Kind, Reason, Result};
use super::super::faults::Fault;
use super::super::input::Input;
use super::super::wire;
use super::super::world::{World, capacity};
use super::read;
use super::write::{Action, Judged, Prepared, prepare};

/// LIMIT: actions of a transaction, as documented.
const ACTIONS: usize = 100;
/// LIMIT: the items of a transaction together, as documented.
const BYTES: usize = 4 << 20;
/// LIMIT: how long a token stands for its request, as documented.
const TOKEN_LIFE: u64 = 10 * 60 * 1000;

/// Refuses a list that is empty or too long.
pub fn sized(name: &str, length: usize, limit: usize) -> Result<()> {
    let side = match length {
        0 => "greater than or equal to 1".to_owned(),
        n if n > limit => format!("less than or equal to {limit}"),
        _ => return Ok(()),
    };
    Err(Failure::invalid(format!(
        "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must have length {side}"
    )))
}

fn action(json: &Json) -> Result<(Action, Input<'_>)> {
    let whole = Input::new(json)?;
    let known = [
        ("Put", Action::Put),
        ("Update", Action::Update),
        ("Delete", Action::Delete),
        ("ConditionCheck", Action::Check),
    ];
    let mut found = Vec::new();
    for (name, action) in known {
        found.extend(whole.part(name)?.map(|part| (action, part)));
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => Err(Failure::invalid("TransactItems can only contain one of Check, Put, Update or Delete")),
    }
}

/// Whether the token's request was done already.
fn repeated(world: &mut World, input: &Input<'_>) -> Result<(bool, Option<(String, u64)>)> {
    let now = world.now;
    world.tokens.retain(|_, (_, at)| *at + TOKEN_LIFE > now);
    let Some(token) = input.text("ClientRequestToken")? else { return Ok((false, None)) };
    if token.is_empty() || token.len() > 36 {
        return Err(Failure::invalid(
            "1 validation error detected: Value at 'clientRequestToken' failed to satisfy constraint: Member must have length \
             between 1 and 36",
        ));
    }
    let print = hash(input.required("TransactItems")?.to_string().as_bytes());
    match world.tokens.get(token) {
        Some((known, _)) if *known != print => Err(Failure::new(
            Kind::IdempotentParameterMismatch,
            "The request has the same client token and different parameters",
        )),
        Some(_) => Ok((true, None)),
        None => Ok((false, Some((token.to_owned(), print)))),
    }
}

/// TransactWriteItems.
pub fn write(world: &mut World, input: &Input<'_>) -> Result<Json> {
    input.required("TransactItems")?;
    let list = input.list("TransactItems")?;
    sized("transactItems", list.len(), ACTIONS)?;
    let (done, token) = repeated(world, input)?;
    let mut prepared: Vec<Prepared> = Vec::new();
    for (at, json) in list.iter().enumerate() {
        let (action, part) = action(json)?;
        let one = prepare(world, action, &part).map_err(|failure| told_by_reason(failure, at, list.len()))?;
        prepared.push(one);
    }
    let places: BTreeSet<_> = prepared.iter().map(|one| (&one.table, &one.key)).collect();
    if places.len() < prepared.len() {
        return Err(Failure::invalid("Transaction request cannot include multiple operations on one item"));
    }
    if !done {
        disturbed(world, prepared.len())?;
        run(world, &prepared)?;
        if let Some((token, print)) = token {
            let now = world.now;
            world.tokens.insert(token, (print, now));
        }
    }
    let mut answer = Map::new();
    let tables: BTreeSet<&str> = prepared.iter().map(|one| one.table.as_str()).collect();
    let each = |table: &str| 2.0 * prepared.iter().filter(|one| one.table == table).count() as f64;
    let consumed: Vec<(&str, f64)> = tables.into_iter().map(|table| (table, each(table))).collect();
    if let Some(consumed) = capacity(input, &consumed)? {
        answer.insert("ConsumedCapacity".into(), consumed);
    }
    Ok(Json::Object(answer))
}

/// A key of another type is an action's fault and told as that; everything else that can be seen at once is the request's.
fn told_by_reason(failure: Failure, at: usize, count: usize) -> Failure {
    if !failure.message.contains("Type mismatch for key") {
        return failure;
    }
    let mut reasons = vec![Reason::NONE; count];
    reasons[at] = Reason { code: "ValidationError", message: Some(failure.message), item: None };
    Failure::canceled(reasons)
}

/// The faults that a transaction tells of in its own way.
fn disturbed(world: &mut World, count: usize) -> Result<()> {
    let (code, message) = match world.fault {
        Some(Fault::TransactionConflict) => ("TransactionConflict", "Transaction is ongoing for the item"),
        // The service says it in both ways.
        Some(Fault::Throttle) if world.chance.below(2) == 0 => (
            "ThrottlingError",
            "Throughput exceeds the current capacity for one or more global secondary indexes or the table",
        ),
        _ => return Ok(()),
    };
    let at = usize::try_from(world.chance.below(count as u64)).unwrap_or(0);
    let mut reasons = vec![Reason::NONE; count];
    reasons[at] = Reason { code, message: Some(message.to_owned()), item: None };
    Err(Failure::canceled(reasons))
}

fn run(world: &mut World, prepared: &[Prepared]) -> Result<()> {
    let mut judged: Vec<Judged> = Vec::new();
    let mut reasons = Vec::new();
    for one in prepared {
        match one.judge(world) {
            Ok(fine) => {
                judged.push(fine);
                reasons.push(Reason::NONE);
            }
            Err(failure) => {
                let code = match failure.kind {
                    Kind::ConditionalCheckFailed => "ConditionalCheckFailed",
                    _ => "ValidationError",
                };
                reasons.push(Reason { code, message: Some(failure.message), item: failure.item });
            }
        }
    }
    if judged.len() < prepared.len() {
        return Err(Failure::canceled(reasons));
    }
    let bytes: usize = prepared.iter().zip(&judged).map(|(one, judged)| one.size(judged)).sum();
    if bytes > BYTES {
        return Err(Failure::invalid("Member must have a total size of at most 4 MB: the transaction is too large"));
    }
    for (one, judged) in prepared.iter().zip(&judged) {
        world.charge(&one.table, 2 * one.units(judged), true)?;
    }
    for (one, judged) in prepared.iter().zip(judged) {
        one.apply(world, judged);
    }
    Ok(())
}

/// TransactGetItems.
pub fn get(world: &mut World, input: &Input<'_>) -> Result<Json> {
    input.required("TransactItems")?;
    let list = input.list("TransactItems")?;
    sized("transactItems", list.len(), ACTIONS)?;
    let mut prepared = Vec::new();
    for json in list {
        let whole = Input::new(json)?;
        whole.required("Get")?;
        let Some(part) = whole.part("Get")? else { continue };
        prepared.push(read::prepare(world, &part)?);
    }
    let places: BTreeSet<_> = prepared.iter().map(|one| (&one.table, &one.key)).collect();
    if places.len() < prepared.len() {
        return Err(Failure::invalid("Transaction request cannot include multiple operations on one item"));
    }
    disturbed(world, prepared.len())?;
    let mut responses = Vec::new();
    for one in &prepared {
        world.charge(&one.table, 2, false)?;
        let (item, _) = one.read(world);
        responses.push(item.map_or_else(|| json!({}), |item| json!({ "Item": wire::item_json(&item) })));
    }
    Ok(json!({ "Responses": responses }))
}
