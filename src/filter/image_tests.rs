//! Rows of a kind of our own, so that holes, expiry and keys within bodies are plain to see.
#![allow(clippy::unwrap_used)] // Tests stop at the first surprise.

use std::borrow::Cow;

use super::super::classes::Class;
use super::super::rules::{Profile, Rename, Replace, Rules, Substitute};
use super::*;
use crate::error::Fault;
use crate::model::{Batch, PartitionId, Position, Steps, Table};

/// A body is `<key>|<expires: y, n, ?>|<value, or ? for a hole>`.
struct Plain;

fn parts(body: &[u8]) -> Vec<&[u8]> {
    body.splitn(3, |&byte| byte == b'|').collect()
}

impl Bodies for Plain {
    fn expires(&self, row: Row<'_>) -> Result<Option<bool>> {
        Ok(match parts(row.body)[1] {
            b"?" => None,
            says => Some(says == b"y"),
        })
    }

    fn value<'a>(&self, row: Row<'a>) -> Result<Option<Cow<'a, [u8]>>> {
        Ok(Some(parts(row.body)[2]).filter(|value| *value != b"?").map(Cow::Borrowed))
    }

    fn rewrite(&self, row: Row<'_>, key: Option<&[u8]>, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<bool> {
        let all = parts(row.body);
        out.extend_from_slice(&[key.unwrap_or(all[0]), all[1], value.unwrap_or(all[2])].join(&b'|'));
        Ok(true)
    }
}

fn image(rules: Rules) -> Image {
    let (source, sink) = (Arc::new(Plain), Arc::new(Plain));
    Image { ruled: !rules.is_empty(), filter: Filter::new(&rules).unwrap(), source, sink }
}

type Change<'a> = (Op, &'a str, &'a str, Option<&'a str>);

fn batch(changes: &[Change<'_>]) -> Batch {
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("p"), Position::Start, Steps::Ordinal);
    let table = batch.table(&Arc::new(Table::default()));
    for (op, key, body, from) in changes {
        batch.push_moved(*op, false, table, key.as_bytes(), body.as_bytes(), from.map(str::as_bytes), 0);
    }
    batch
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a change becomes: `-` left out, else operation, key, body and older key.
fn of(image: &Image, follows: bool, change: Change<'_>) -> Result<String> {
    let mut batch = batch(&[change]);
    let mut pass = Pass::default();
    batch.edit(|row, draft| image.of(row, follows, draft, &mut pass))?;
    let row = batch.row(0);
    if row.is_left_out() {
        return Ok("-".to_owned());
    }
    let from = row.from.map(|from| format!(" from {}", text(from))).unwrap_or_default();
    Ok(format!("{:?} {} {}{from}", row.op, text(row.key), text(row.body)).trim_end().to_owned())
}

fn rename() -> Vec<Rename> {
    vec![Rename { from: "/a/".into(), to: "/b/".into() }]
}

fn masks() -> Vec<Replace> {
    let field = Substitute::Field { path: vec!["s".into()], json: None };
    vec![
        Replace { prefix: "/json/".into(), with: field },
        Replace { prefix: "/fixed/".into(), with: Substitute::Value(b"X".to_vec()) },
    ]
}

#[test]
fn a_key_changes_everywhere_it_lies() {
    let image = image(Rules { rename: rename(), ..Rules::default() });
    let of = |change| of(&image, true, change).unwrap();
    assert_eq!(of((Op::Put, "/a/k", "/a/k|n|v", None)), "Put /b/k /b/k|n|v");
    assert_eq!(of((Op::Delete, "/a/k", "", None)), "Delete /b/k");
    assert_eq!(of((Op::Patch, "/a/k", "/a/k|n|?", Some("/a/old"))), "Patch /b/k /b/k|n|? from /b/old");
    assert_eq!(of((Op::Patch, "/c", "/c|n|?", Some("/a/old"))), "Patch /c /c|n|? from /b/old");
    assert_eq!(of((Op::Patch, "/a/k", "/a/k|n|?", Some("/c"))), "Patch /b/k /b/k|n|? from /c");
    assert_eq!(of((Op::Put, "/c", "/c|n|v", None)), "Put /c /c|n|v");
}

#[test]
fn two_keys_that_could_become_one_stop_the_stream() {
    let image = image(Rules { rename: rename(), ..Rules::default() });
    for op in [Op::Put, Op::Delete] {
        let error = of(&image, true, (op, "/b/k", "/b/k|n|v", None)).unwrap_err();
        assert_eq!(error.fault(), Fault::Config);
    }
}

#[test]
fn what_expires_is_no_presence_any_more_and_is_removed_if_it_was_there() {
    let image = image(Rules {
        drop: vec![Class::Presence],
        rename: vec![Rename { from: "/nodes/".into(), to: "/n/".into() }],
        ..Rules::default()
    });
    let of = |follows, op, body| of(&image, follows, (op, "/nodes/x", body, None));
    assert_eq!(of(true, Op::Put, "/nodes/x|n|v").unwrap(), "Put /n/x /n/x|n|v");
    assert_eq!(of(true, Op::Put, "/nodes/x|y|v").unwrap(), "Delete /n/x");
    assert_eq!(of(false, Op::Put, "/nodes/x|y|v").unwrap(), "-", "a walk finds nothing");
    assert_eq!(of(true, Op::Patch, "/nodes/x|y|?").unwrap(), "Delete /n/x");
    assert_eq!(of(true, Op::Patch, "/nodes/x|?|v").unwrap_err().fault(), Fault::Rejected);
}

#[test]
fn values_are_masked_in_puts_and_patches_and_what_cannot_be_is_removed() {
    let image = image(Rules { replace: masks(), ..Rules::default() });
    let of = |follows, op, key: &str, value: &str| of(&image, follows, (op, key, &format!("k|n|{value}"), None));
    assert_eq!(of(true, Op::Put, "/json/k", r#"{"s":1,"t":2}"#).unwrap(), r#"Put /json/k k|n|{"t":2}"#);
    assert_eq!(of(true, Op::Patch, "/json/k", r#"{"s":1,"t":2}"#).unwrap(), r#"Patch /json/k k|n|{"t":2}"#);
    assert_eq!(of(true, Op::Put, "/json/k", "secret").unwrap(), "Delete /json/k");
    assert_eq!(of(false, Op::Put, "/json/k", "secret").unwrap(), "-");
    assert_eq!(of(true, Op::Patch, "/json/k", "?").unwrap_err().fault(), Fault::Rejected);
    assert_eq!(of(true, Op::Put, "/fixed/k", "secret").unwrap(), "Put /fixed/k k|n|X");
    assert_eq!(of(true, Op::Patch, "/fixed/k", "?").unwrap(), "Patch /fixed/k k|n|?");
    assert_eq!(of(true, Op::Delete, "/json/k", "").unwrap(), "Delete /json/k ".trim_end().to_owned() + " k|n|");
}

/// The older image of a row that moved may be left out, or be masked otherwise: then nobody has it.
#[test]
fn a_patch_that_moved_a_row_into_or_out_of_a_rule_is_refused() {
    let image = image(Rules { replace: masks(), exclude: vec!["/out/".into()], ..Rules::default() });
    let of = |key, from| of(&image, true, (Op::Patch, key, "k|n|?", Some(from))).map_err(|error| error.fault());
    for (key, from) in [("/k", "/out/k"), ("/k", "/json/k"), ("/fixed/k", "/k")] {
        assert_eq!(of(key, from), Err(Fault::Rejected), "{key} from {from}");
    }
    assert_eq!(of("/out/k", "/k"), Ok("-".to_owned()));
    assert_eq!(of("/k", "/l"), Ok("Patch /k k|n|? from /l".to_owned()));
}

#[test]
fn a_source_that_is_emptied_at_one_stroke_is_compared_and_not_followed() {
    let clear = (Op::Clear, "", "", None);
    assert_eq!(of(&image(Rules::default()), true, clear).unwrap(), "Clear");
    let error = of(&image(Rules { exclude: vec!["/a/".into()], ..Rules::default() }), true, clear).unwrap_err();
    assert_eq!(error.fault(), Fault::PositionLost);
}

#[test]
fn a_row_of_the_sink_is_the_streams_only_if_it_can_be_in_the_image() {
    let image = image(Rules {
        exclude: vec!["/out/".into()],
        drop: vec![Class::Presence],
        rename: rename(),
        ..Rules::default()
    });
    for (key, body, wanted) in [
        ("/b/k", "k|n|v", true),
        ("/a/k", "k|n|v", false),
        ("/out/k", "k|n|v", false),
        (".locks/k", "k|n|v", false),
        ("/nodes/k", "k|y|v", false),
        ("/nodes/k", "k|n|v", true),
        ("/c", "k|y|v", true),
    ] {
        let batch = batch(&[(Op::Put, key, body, None)]);
        assert_eq!(image.holds(batch.row(0), &mut Pass::default()).unwrap(), wanted, "{key} {body}");
    }
}

#[test]
fn what_is_left_out_is_counted_by_reason_and_an_unknown_kind_is_named_without_its_key() {
    let image = image(Rules { profile: Some(Profile::TestCluster), ..Rules::default() });
    let keys = ["/tokens/1", "/tokens/2", "/custom/secret", "/custom/other", "/secret", "/s e/x", "odd", ".locks/x"];
    let changes: Vec<Change<'_>> = keys.iter().map(|key| (Op::Put, *key, "k|n|v", None)).collect();
    let mut pass = Pass::default();
    batch(&changes).edit(|row, draft| image.of(row, true, draft, &mut pass)).unwrap();
    let tokens = Why::Class(Class::Tokens);
    assert_eq!(pass.counts, [(tokens, 2), (Why::Unknown, 5), (Why::Never, 1)]);
    assert_eq!(pass.families.into_iter().collect::<Vec<_>>(), ["/custom/"]);
}
