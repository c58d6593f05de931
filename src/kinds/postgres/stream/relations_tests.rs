//! What happens to a table while its changes are followed.

use super::*;
use crate::error::Fault;
use crate::kinds::postgres::wire::pgoutput::{self, Message};

/// The catalog: one table, or none.
struct Catalog(Option<Shape>);

impl Definitions for Catalog {
    fn shape(&self, _: u32) -> Fut<'_, Option<Shape>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
    fn type_name(&self, oid: u32, _: i32) -> Fut<'_, String> {
        Box::pin(async move { Ok(format!("type {oid}")) })
    }
    fn sequences(&self) -> Fut<'_, Vec<SequenceValue>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn takes(&self, schema: &str, _: &str) -> bool {
        schema == "public"
    }
}

/// `name:type`, key columns with a star.
fn columns(text: &str) -> impl Iterator<Item = (bool, &str, u32)> {
    text.split_whitespace().map(|word| {
        let (name, kind) = word.split_once(':').unwrap();
        (name.starts_with('*'), name.trim_start_matches('*'), kind.parse().unwrap())
    })
}

fn catalog(text: &str) -> Catalog {
    let column = |(_, name, type_oid): (bool, &str, u32)| Column {
        name: name.into(),
        type_oid,
        typmod: -1,
        type_name: "from the catalog".into(),
        ..Column::default()
    };
    let key = columns(text).enumerate().filter(|(_, (key, _, _))| *key).map(|(index, _)| index).collect();
    Catalog(Some(Shape {
        schema: "public".into(),
        name: "t".into(),
        columns: columns(text).map(column).collect(),
        key,
        ..Shape::default()
    }))
}

fn relation(schema: &str, name: &str, identity: u8, text: &str) -> Vec<u8> {
    let mut out = b"R\0\0\0\x07".to_vec();
    for text in [schema, name] {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }
    out.push(identity);
    out.extend_from_slice(&u16::try_from(columns(text).count()).unwrap().to_be_bytes());
    for (key, name, kind) in columns(text) {
        out.push(u8::from(key));
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&(-1i32).to_be_bytes());
    }
    out
}

async fn describe(relations: &mut Relations, bytes: &[u8], catalog: &Catalog) -> Result<()> {
    let (_, Message::Relation(relation)) = pgoutput::parse(bytes, false).unwrap() else { panic!("not a relation") };
    relations.describe(&relation, catalog).await
}

fn names(relations: &Relations) -> Vec<(String, String)> {
    let shape = &relations.get(7).unwrap().unwrap().shape;
    shape.columns.iter().map(|column| (column.name.clone(), column.type_name.clone())).collect()
}

#[tokio::test]
async fn an_added_column_makes_a_new_table_of_the_same_name_and_nothing_else_does() {
    let mut relations = Relations::default();
    let plain = relation("public", "t", b'd', "*a:1 b:2");
    describe(&mut relations, &plain, &catalog("*a:1 b:2")).await.unwrap();
    let first = Arc::clone(&relations.get(7).unwrap().unwrap().table);
    describe(&mut relations, &plain, &catalog("*a:1 b:2")).await.unwrap();
    assert!(Arc::ptr_eq(&first, &relations.get(7).unwrap().unwrap().table), "the same description is the same table");

    describe(&mut relations, &relation("public", "t", b'd', "*a:1 b:2 c:3"), &catalog("*a:1 b:2 c:3")).await.unwrap();
    let second = relations.get(7).unwrap().unwrap();
    assert_eq!((first.name.as_str(), second.table.name.as_str()), ("public.t", "public.t"));
    assert_eq!(Shape::of(&second.table).unwrap().columns.len(), 3);
}

#[tokio::test]
async fn a_stream_behind_the_catalog_sees_the_table_as_it_was() {
    let mut relations = Relations::default();
    // Since then `c` was added, `gone` was dropped, the type of `b` changed, and the key column moved in the order.
    let now = catalog("b:9 c:3 *a:1");
    describe(&mut relations, &relation("public", "t", b'd', "*a:1 b:2 gone:4"), &now).await.unwrap();
    let expected = [("a", "from the catalog"), ("b", "type 2"), ("gone", "type 4")];
    assert_eq!(names(&relations), expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    assert_eq!(relations.get(7).unwrap().unwrap().shape.key, [0]);
}

#[tokio::test]
async fn what_no_sink_can_follow_stops_with_the_tables_name() {
    let before = relation("public", "t", b'd', "*a:1 b:2 c:3");
    let now = catalog("*a:1 b:2 c:3");
    for (after, why) in [
        (relation("public", "t", b'd', "*a:1 c:3"), "column \"b\" was dropped"),
        (relation("public", "t", b'd', "*a:1 x:2 c:3"), "column \"b\" was dropped, renamed"),
        (relation("public", "t", b'd', "*a:1 c:3 b:2"), "column \"c\" was dropped, renamed"),
        (relation("public", "t", b'd', "*a:1 b:8 c:3"), "type of its column \"b\""),
        (relation("public", "u", b'd', "*a:1 b:2 c:3"), "was called"),
        (relation("public", "t", b'd', "a:1 *b:2 c:3"), "replica identity"),
        (relation("public", "t", b'n', "*a:1 b:2 c:3"), "replica identity"),
    ] {
        let mut relations = Relations::default();
        describe(&mut relations, &before, &now).await.unwrap();
        let error = describe(&mut relations, &after, &now).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Config);
        assert!(error.to_string().contains(why) && error.to_string().contains("table \"public."), "{error}");
    }
}

#[tokio::test]
async fn a_dropped_table_stops_and_one_of_others_is_passed_over() {
    let mut relations = Relations::default();
    let error = describe(&mut relations, &relation("public", "t", b'd', "*a:1"), &Catalog(None)).await.unwrap_err();
    assert!(error.to_string().contains("\"public.t\": it was dropped"), "{error}");
    assert!(relations.get(7).is_err());
    describe(&mut relations, &relation("other", "t", b'd', "*a:1"), &Catalog(None)).await.unwrap();
    assert!(relations.get(7).unwrap().is_none());
}
