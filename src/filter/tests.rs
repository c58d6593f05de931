//! Which rule says what of a key, and what becomes of values.
#![allow(clippy::unwrap_used)] // Tests stop at the first surprise.

use super::rules::{Rename, Replace, Rules, Substitute};
use super::*;
use Say::{Leave, Take, TakeUnlessItExpires};

fn filter(rules: Rules) -> Filter {
    Filter::new(&rules).unwrap()
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|&text| text.to_owned()).collect()
}

fn field(prefix: &str, path: &[&str], json: Option<&str>) -> Replace {
    let with = Substitute::Field { path: texts(path), json: json.map(str::to_owned) };
    Replace { prefix: prefix.into(), with }
}

fn check(filter: &Filter, all: &[(&str, Say)]) {
    for (key, wanted) in all {
        assert_eq!(filter.say(key.as_bytes()), *wanted, "{key}");
    }
}

#[test]
fn without_rules_everything_is_taken_but_locks_of_the_cluster_itself() {
    check(
        &filter(Rules::default()),
        &[
            (".locks/athena_lock", Leave(Why::Never)),
            ("", Leave(Why::Never)),
            ("/locks/user", Take),
            (".flags/x", Take),
            ("/nodes/default/.locks/", Take),
            ("/anything", Take),
        ],
    );
}

#[test]
fn the_longest_prefix_that_is_named_counts() {
    let exclude = filter(Rules { exclude: texts(&["/excluded/"]), ..Rules::default() });
    check(&exclude, &[("/excluded/a", Leave(Why::Prefix)), ("/excluded", Take), ("/b", Take)]);
    let both = Rules { include: texts(&["/a/", "/a/b/c/"]), exclude: texts(&["/a/b/"]), ..Rules::default() };
    check(
        &filter(both),
        &[
            ("/a/x", Take),
            ("/a/b/x", Leave(Why::Prefix)),
            ("/a/b/c/x", Take),
            ("/x", Leave(Why::Prefix)),
            (".locks/x", Leave(Why::Never)),
        ],
    );
    let all = filter(Rules { include: texts(&[".locks/", "/"]), ..Rules::default() });
    check(&all, &[(".locks/x", Leave(Why::Never)), ("/x", Take)]);
}

#[test]
fn presence_is_left_out_where_it_expires_and_other_classes_whole() {
    let rules = Rules { drop: vec![Class::Presence, Class::Sessions], ..Rules::default() };
    check(
        &filter(rules.clone()),
        &[
            ("/nodes/default/x", TakeUnlessItExpires),
            ("/web/sessions/x", Leave(Why::Class(Class::Sessions))),
            ("/authorities/host/x", Take),
            ("/unknown/x", Take),
        ],
    );
    let rules = Rules { include: texts(&["/nodes/default/keep", "/web/"]), exclude: texts(&["/unknown/"]), ..rules };
    check(
        &filter(rules),
        &[
            ("/nodes/default/keep-this", Take),
            ("/nodes/default/x", TakeUnlessItExpires),
            ("/web/sessions/x", Leave(Why::Class(Class::Sessions))),
            ("/web/users/alice/pwd", Take),
            ("/unknown/x", Leave(Why::Prefix)),
            ("/authorities/host/x", Leave(Why::Prefix)),
        ],
    );
}

#[test]
fn a_test_cluster_gets_no_secret_and_nothing_unknown_unless_it_is_named() {
    let rules = Rules { profile: Some(Profile::TestCluster), ..Rules::default() };
    let plain = filter(rules.clone());
    check(
        &plain,
        &[
            ("/roles/access/params", Take),
            ("/web/users/alice/params", Take),
            ("/cluster_configuration/networking", Take),
            ("/cluster_configuration/name", Leave(Why::Class(Class::Cluster))),
            ("/authorities/host/x", Leave(Why::Class(Class::Authorities))),
            ("/tokens/x", Leave(Why::Class(Class::Tokens))),
            ("/locks/x", Leave(Why::Class(Class::Locks))),
            ("/web/users/alice/pwd", Leave(Why::Class(Class::Passwords))),
            ("/web/users/alice/mfa/1", Leave(Why::Class(Class::Mfa))),
            ("/nodes/default/x", Leave(Why::Class(Class::Presence))),
            ("/custom/x", Leave(Why::Unknown)),
            ("x", Leave(Why::Unknown)),
        ],
    );
    // A short prefix brings what is unknown, never what is known to be a secret.
    let wide = filter(Rules { include: texts(&["/", "/web/users/"]), ..rules.clone() });
    check(
        &wide,
        &[
            ("/custom/x", Take),
            ("/authorities/host/x", Leave(Why::Class(Class::Authorities))),
            ("/web/users/alice/pwd", Leave(Why::Class(Class::Passwords))),
            ("/web/users/alice/new", Leave(Why::Class(Class::Passwords))),
            ("/web/users/alice/params", Take),
        ],
    );
    let named = filter(Rules { include: texts(&["/db/"]), exclude: texts(&["/roles/admin"]), ..rules });
    check(&named, &[("/db/x", Take), ("/roles/admin/params", Leave(Why::Prefix)), ("/roles/access/params", Take)]);
}

/// What one value becomes.
fn masked(filter: &Filter, key: &str, value: &str) -> Result<String, Why> {
    let mut out = b"what was there".to_vec();
    Ok(match filter.mask(key.as_bytes(), value.as_bytes(), &mut out)? {
        Masked::Same => value.to_owned(),
        Masked::Written => String::from_utf8(out).unwrap(),
    })
}

#[test]
fn values_are_replaced_whole_or_field_by_field() {
    let value = |prefix: &str, text: &str| Replace { prefix: prefix.into(), with: Substitute::Value(text.into()) };
    let filter = filter(Rules {
        replace: vec![
            field("/a/", &["spec", "x"], Some("1")),
            field("/a/b/", &["spec", "y"], None),
            field("/a/", &["z"], Some("\"${}\"")),
            value("/a/v/", "fixed"),
        ],
        ..Rules::default()
    });
    assert_eq!(
        masked(&filter, "/a/k", r#"{"spec":{"x":7,"y":8},"z":9}"#).unwrap(),
        r#"{"spec":{"x":1,"y":8},"z":"${}"}"#
    );
    assert_eq!(masked(&filter, "/a/b/k", r#"{"spec":{"x":7,"y":8}}"#).unwrap(), r#"{"spec":{"x":1}}"#);
    assert_eq!(masked(&filter, "/a/k", r#"{ "q": 1 }"#).unwrap(), r#"{ "q": 1 }"#);
    assert_eq!(masked(&filter, "/a/k", "$2a$10$secret"), Err(Why::NotJson));
    assert_eq!(masked(&filter, "/a/k", ""), Err(Why::NotJson));
    assert_eq!(masked(&filter, "/a/v/k", "$2a$10$secret").unwrap(), "fixed");
    assert_eq!(masked(&filter, "/a/v/k", "fixed").unwrap(), "fixed");
    for (key, needs) in [("/a/k", Needs::Value), ("/a/v/k", Needs::Presence), ("/b", Needs::Nothing)] {
        assert_eq!(filter.needs(key.as_bytes()), needs, "{key}");
    }
}

#[test]
fn a_test_cluster_gets_users_without_what_they_log_in_with() {
    let rules = Rules { profile: Some(Profile::TestCluster), ..Rules::default() };
    let plain = filter(rules.clone());
    let user = r#"{"kind":"user","spec":{"roles":["access"],"local_auth":{"password_hash":"x"}}}"#;
    let wanted = r#"{"kind":"user","spec":{"roles":["access"]}}"#;
    assert_eq!(plain.needs(b"/web/users/alice/params"), Needs::Value);
    assert_eq!(masked(&plain, "/web/users/alice/params", user).unwrap(), wanted);
    assert_eq!(masked(&plain, "/web/users/alice/params", "gob"), Err(Why::NotJson));
    assert_eq!(plain.needs(b"/roles/access/params"), Needs::Nothing);
    let more = filter(Rules { replace: vec![field("/web/users/", &["kind"], Some("0"))], ..rules });
    assert_eq!(masked(&more, "/web/users/alice/params", user).unwrap(), wanted.replace("\"user\"", "0"));
}

#[test]
fn the_image_of_a_key_and_what_is_said_of_it_agree() {
    let filter = filter(Rules {
        exclude: texts(&["/a/secret/"]),
        rename: vec![Rename { from: "/a/".into(), to: "/b/".into() }],
        ..Rules::default()
    });
    let said = |image: &str| filter.say_of_image(image.as_bytes(), &mut Vec::new());
    assert_eq!(said("/b/x"), Some(Take));
    assert_eq!(said("/b/secret/x"), Some(Leave(Why::Prefix)));
    assert_eq!(said("/a/x"), None, "nothing in the image is called that");
    assert_eq!(said("/c"), Some(Take));
}

#[test]
fn rules_that_cannot_be_followed_make_no_filter() {
    let rules = Rules { exclude: vec![String::new()], ..Rules::default() };
    assert!(Filter::new(&rules).unwrap_err().to_string().contains("`exclude` holds an empty prefix"));
}
