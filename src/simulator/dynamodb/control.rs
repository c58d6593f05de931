//! The simulator's own calls: time, faults, lineage, and a look at everything.
//!
//! They are JSON over the same port, under `/_simulator/`, and unsigned. Nothing of the service's protocol leads here.

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::faults::Rule;
use super::stream::{Record, Shard, Stream};
use super::wire;
use super::world::World;

/// `POST /_simulator/script`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    rules: Vec<Rule>,
    #[serde(default)]
    clear: bool,
}

/// `POST /_simulator/rotate` and `/_simulator/split`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    table: String,
    #[serde(default)]
    shard: Option<String>,
}

/// `POST /_simulator/world`
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Look {
    table: Option<String>,
    items: bool,
    records: bool,
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}".as_slice() } else { body };
    serde_json::from_slice(body).map_err(|error| format!("read the request: {error}"))
}

impl World {
    /// Answers a call of the simulator's own, by the last part of its path. Time was moved by the caller.
    ///
    /// # Errors
    /// There is no such call, or its JSON is wrong; with a sentence.
    pub fn control(&mut self, now: u64, name: &str, body: &[u8]) -> Result<Json, String> {
        self.tick(now);
        match name {
            "advance" | "clock" => Ok(json!({ "now_milliseconds": self.now })),
            "script" => {
                let asked: Rules = parse(body)?;
                if asked.clear {
                    self.script.clear();
                }
                self.script.add(asked.rules);
                Ok(json!({ "rules": self.script.left() }))
            }
            "options" => self.change_options(&parse(body)?),
            "rotate" | "split" => self.succeed(&parse(body)?, name == "split"),
            "world" => Ok(self.look(&parse(body)?)),
            _ => Err(format!("there is no call {name}: advance, script, options, rotate, split, world")),
        }
    }

    /// Changes the options that are named, and gives all of them.
    fn change_options(&mut self, changes: &Map<String, Json>) -> Result<Json, String> {
        let mut all = serde_json::to_value(&self.options).expect("options are plain data");
        for (name, change) in changes {
            match (all.get_mut(name), change) {
                (Some(Json::Object(inner)), Json::Object(changes)) => inner.extend(changes.clone()),
                (Some(place), change) => *place = change.clone(),
                (None, _) => return Err(format!("there is no option {name}")),
            }
        }
        self.options = serde_json::from_value(all.clone()).map_err(|error| format!("change an option: {error}"))?;
        Ok(all)
    }

    /// Ends the shard that is named, or every open one, each followed by one shard or two.
    fn succeed(&mut self, which: &Which, split: bool) -> Result<Json, String> {
        let off = || "end a shard: no such table, or its stream is off".to_owned();
        let arn = self.tables.get(&which.table).and_then(|table| table.stream.as_ref()).ok_or_else(off)?;
        let stream = self.streams.get_mut(arn).ok_or_else(off)?;
        let open: Vec<String> = stream.shards.iter().filter(|s| s.is_open()).map(|s| s.id.clone()).collect();
        let ids = which.shard.clone().map_or(open, |id| vec![id]);
        for id in &ids {
            if !stream.succeed(id, split, self.now, &self.options, &mut self.chance) {
                return Err(format!("end a shard: {id} is not open"));
            }
        }
        Ok(json!({ "ended": ids }))
    }

    /// Everything, as it is, whatever readers may see of it.
    fn look(&self, look: &Look) -> Json {
        let wanted = |name: &str| look.table.as_deref().is_none_or(|table| table == name);
        let tables = self.tables.values().filter(|table| wanted(&table.name)).map(|table| {
            let mut json = json!({
                "name": table.name, "items": table.len(), "bytes": table.bytes, "stream": table.stream, "ttl": table.ttl,
            });
            if look.items {
                json["content"] = table.items(None).map(|(_, item)| wire::item_json(item)).collect();
            }
            json
        });
        let streams = self.streams.values().filter(|stream| wanted(&stream.table)).map(|s| stream(s, look.records));
        let calls: Map<String, Json> = self
            .counts
            .iter()
            .map(|(name, (all, refused))| (name.clone(), json!({ "all": all, "refused": refused })))
            .collect();
        json!({
            "now_milliseconds": self.now,
            "tables": tables.collect::<Vec<_>>(),
            "streams": streams.collect::<Vec<_>>(),
            "calls": calls,
            "rules": self.script.left(),
        })
    }
}

fn stream(stream: &Stream, records: bool) -> Json {
    json!({
        "arn": stream.arn, "table": stream.table, "view": stream.view, "ended": stream.ended, "written": stream.written,
        "shards": stream.shards.iter().map(|one| shard(one, records)).collect::<Vec<_>>(),
    })
}

fn shard(shard: &Shard, records: bool) -> Json {
    let mut json = json!({
        "id": shard.id, "parent": shard.parent, "opened": shard.opened,
        "closed": shard.closed.map(|closed| closed.at), "start": shard.start.to_string(),
        "end": shard.closed.map(|closed| closed.sequence.to_string()),
        "records": shard.records.len(), "trimmed": shard.trimmed.map(|sequence| sequence.to_string()),
    });
    if records {
        let one = |record: &Record| {
            json!({
                "sequence": record.sequence.to_string(), "at": record.at, "visible": record.visible, "event": record.event,
                "keys": wire::item_json(&record.keys),
            })
        };
        json["content"] = shard.records.iter().map(one).collect();
    }
    json
}
