//! What expressions mean, by example.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::super::wire;
use super::{Names, condition, key_condition, project, projection, update};

fn names(values: &Json) -> Names {
    let values = values.as_object().unwrap().iter().map(|(k, v)| (k.clone(), wire::value(v).unwrap())).collect();
    Names::new(BTreeMap::from([("#s".to_owned(), "status".to_owned())]), values)
}

fn holds(text: &str, item: &Json, values: &Json) -> bool {
    condition(text, "ConditionExpression", &mut names(values)).unwrap().holds(&wire::item(item).unwrap())
}

fn refused(text: &str, values: &Json) -> String {
    condition(text, "ConditionExpression", &mut names(values)).unwrap_err().message
}

fn updated(text: &str, item: &Json, values: &Json) -> Json {
    let update = update(text, &mut names(values)).unwrap();
    wire::item_json(&update.applied(&wire::item(item).unwrap()).unwrap())
}

#[test]
fn conditions_follow_precedence_and_parentheses() {
    let item = json!({"a": {"N": "1"}, "b": {"N": "2"}});
    let values = json!({":1": {"N": "1"}, ":2": {"N": "2"}, ":3": {"N": "3"}});
    assert!(holds("a = :1 OR a = :2 AND b = :3", &item, &values));
    assert!(!holds("(a = :1 OR a = :2) AND b = :3", &item, &values));
    assert!(holds("NOT a = :2 AND b IN (:1, :2)", &item, &values));
    assert!(holds("b BETWEEN a AND :3 and not attribute_exists(c)", &item, &values));
    assert!(!holds("a BETWEEN :2 AND :3", &item, &values));
}

#[test]
fn numbers_compare_as_numbers_and_types_do_not_mix() {
    let item = json!({"a": {"N": "10"}, "t": {"S": "10"}, "big": {"N": "12345678901234567890123456789012345678"}});
    let values = json!({":9": {"N": "9"}, ":t": {"S": "9"}, ":big": {"N": "12345678901234567890123456789012345677"}});
    assert!(holds("a > :9 AND t < :t AND big > :big", &item, &values));
    assert!(!holds("a = t OR a < t OR a > t", &item, &values));
    assert!(holds("a <> t", &item, &values));
}

#[test]
fn functions_look_into_documents() {
    let item = json!({
        "l": {"L": [{"M": {"k": {"S": "value"}}}, {"N": "1"}]}, "ss": {"SS": ["x", "y"]}, "b": {"B": "AAEC"},
    });
    let values = json!({":v": {"S": "val"}, ":x": {"S": "x"}, ":t": {"S": "SS"}, ":1": {"N": "1"}, ":2": {"N": "2"}, ":b": {"B": "AQI="}});
    assert!(holds("begins_with(l[0].k, :v) AND contains(ss, :x) AND attribute_type(ss, :t)", &item, &values));
    assert!(holds("contains(l, :1) AND size(ss) = :2 AND contains(b, :b)", &item, &values));
    assert!(holds("attribute_not_exists(l[5]) AND attribute_not_exists(l.k)", &item, &values));
}

#[test]
fn a_wrong_expression_is_refused_with_the_services_words() {
    let values = json!({":v": {"S": "a"}, ":t": {"BOOL": true}});
    assert!(refused("status = :v", &values).contains("Attribute name is a reserved keyword; reserved keyword: status"));
    assert!(refused("a = :w", &values).contains("attribute value: :w"));
    assert!(refused("#x = :v", &values).contains("attribute name: #x"));
    assert!(refused("a = ", &values).contains("Syntax error; token: \"<EOF>\""));
    assert!(refused("a < :t", &values).contains("operand type: BOOL"));
    assert!(refused("((a = :v))", &values).contains("redundant parentheses"));
    assert!(refused("exists(a)", &values).contains("Invalid function name; function: exists"));
    assert!(holds("((a = :v) OR (a = :t))", &json!({"a": {"S": "a"}}), &values));
}

#[test]
fn what_is_not_used_is_refused() {
    let mut names = names(&json!({":v": {"S": "a"}, ":w": {"S": "a"}}));
    condition("#s = :v", "ConditionExpression", &mut names).unwrap();
    assert!(
        names.all_used().unwrap_err().message.ends_with("ExpressionAttributeValues unused in expressions: keys: {:w}")
    );
}

#[test]
fn an_update_sees_the_item_as_it_was() {
    let item = json!({"a": {"N": "1"}, "b": {"N": "2"}, "l": {"L": [{"N": "0"}, {"N": "1"}, {"N": "2"}]}});
    let values = json!({":1": {"N": "1"}, ":l": {"L": [{"S": "z"}]}, ":s": {"SS": ["x"]}});
    let after =
        updated("SET a = b, b = a + :1, c = if_not_exists(c, :1) REMOVE l[0], l[2] ADD n :1, s :s", &item, &values);
    let expected = json!({
        "a": {"N": "2"}, "b": {"N": "2"}, "c": {"N": "1"}, "l": {"L": [{"N": "1"}]}, "n": {"N": "1"}, "s": {"SS": ["x"]},
    });
    assert_eq!(after, expected);
    let appended = updated("SET l = list_append(l, :l), a = a - :1", &item, &values);
    assert_eq!(appended["l"]["L"][3], json!({"S": "z"}));
    assert_eq!(appended["a"], json!({"N": "0"}));
    assert_eq!(updated("SET l[9] = :1", &item, &values)["l"]["L"][3], json!({"N": "1"}));
}

#[test]
fn a_set_without_members_is_gone() {
    let item = json!({"s": {"SS": ["x", "y"]}});
    assert_eq!(updated("DELETE s :v", &item, &json!({":v": {"SS": ["x"]}})), json!({"s": {"SS": ["y"]}}));
    assert_eq!(updated("DELETE s :v", &item, &json!({":v": {"SS": ["x", "y"]}})), json!({}));
}

#[test]
fn an_update_that_touches_one_place_twice_is_refused() {
    let values = json!({":v": {"N": "1"}});
    for text in ["SET a.b = :v REMOVE a", "SET a = :v, a = :v", "SET a[0] = :v REMOVE a.b"] {
        assert!(update(text, &mut names(&values)).is_err(), "{text}");
    }
    assert!(update("SET a = :v SET b = :v", &mut names(&values)).is_err());
    assert!(update("ADD a :s", &mut names(&json!({":s": {"S": "x"}}))).is_err());
}

#[test]
fn a_projection_selects_parts_of_documents() {
    let item = wire::item(&json!({
        "a": {"M": {"x": {"N": "1"}, "y": {"N": "2"}}}, "l": {"L": [{"N": "0"}, {"N": "1"}, {"N": "2"}]}, "c": {"S": "c"},
    }))
    .unwrap();
    let paths = projection("l[2], a.y, l[0], nothing", &mut Names::default()).unwrap();
    let expected = json!({"a": {"M": {"y": {"N": "2"}}}, "l": {"L": [{"N": "0"}, {"N": "2"}]}});
    assert_eq!(wire::item_json(&project(&item, &paths)), expected);
    assert!(projection("a, a.x", &mut Names::default()).is_err());
}

#[test]
fn a_key_condition_is_one_partition_and_one_range() {
    let values = json!({":h": {"S": "teleport"}, ":a": {"S": "a"}, ":b": {"S": "b"}});
    let read = |text: &str| key_condition(text, "HashKey", Some("FullPath"), &mut names(&values));
    assert!(read("HashKey = :h").unwrap().sort.is_none());
    assert!(read("FullPath BETWEEN :a AND :b AND HashKey = :h").unwrap().sort.is_some());
    assert!(read(":a < FullPath AND HashKey = :h").unwrap().sort.is_some());
    for text in ["FullPath = :a", "HashKey > :h", "HashKey = :h OR FullPath = :a", "HashKey = :h AND other = :a"] {
        assert!(read(text).is_err(), "{text}");
    }
}
