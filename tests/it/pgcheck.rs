//! `check` against a real PostgreSQL server: each finding is provoked, and its statement repairs it.

use driftless::kinds::postgres::Options;
use driftless::kinds::postgres::admin::check::{self, Finding, Level};
use driftless::model::Layout;

use crate::support::pg;

fn errors(findings: &[Finding]) -> Vec<&Finding> {
    for finding in findings {
        let text = format!("{finding:?}");
        assert!(!text.contains("planted") && !text.contains(pg::PASSWORD), "{text}");
    }
    findings.iter().filter(|finding| finding.level == Level::Error).collect()
}

fn has(findings: &[Finding], level: Level, words: &str) -> bool {
    findings.iter().any(|finding| finding.level == level && finding.what.contains(words))
}

fn raw(database: &str, user: &str, password: &str) -> Options {
    let port = pg::primary().port;
    let conn_string = format!("host=127.0.0.1 port={port} dbname={database} user={user} password={password}");
    Options { layout: Layout::Raw, tables: vec!["public.*".into()], ..Options::new(database, conn_string) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_as_it_should_be_has_no_errors() {
    let database = pg::primary().database("check_fine");
    pg::primary().psql(&database, "create table a (id int primary key)");
    let findings = check::source(&raw(&database, "postgres", pg::PASSWORD)).await;
    assert!(errors(&findings).is_empty(), "{findings:?}");
    assert!(has(&findings, Level::Warning, "max_slot_wal_keep_size is -1"), "{findings:?}");
    assert!(has(&findings, Level::Ok, "will be made"), "{findings:?}");
    assert_eq!(pg::primary().psql(&database, "select count(*) from pg_publication"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_right_is_found_and_its_statement_repairs_it() {
    let server = pg::primary();
    let database = server.database("check_weak");
    let role = format!("{database}_role");
    server.psql(&database, "create table a (id int primary key); create table b (id int)");
    server.psql(&database, &format!("create role {role} login password 'planted-check'"));
    let options = raw(&database, &role, "planted-check");
    for words in
        ["cannot open a replication connection", "table public.b", "table \"public\".\"a\": the role may not read it"]
    {
        assert!(has(&check::source(&options).await, Level::Error, words), "{words}");
    }
    for _ in 0..5 {
        let findings = check::source(&options).await;
        for finding in errors(&findings) {
            let fix = finding.fix.clone().unwrap_or_default().replace("current_user", &role);
            if fix.starts_with("or leave") {
                server.psql(&database, "alter table b add primary key (id)");
            } else {
                server.psql(&database, &fix);
            }
        }
    }
    let findings = check::source(&options).await;
    assert!(errors(&findings).is_empty(), "{findings:?}");
    server.psql(&database, &format!("drop publication {}", options.publication()));
    server.psql(&database, &format!("drop owned by {role}; drop role {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_checked_for_what_the_role_may_write() {
    let server = pg::primary();
    let database = server.database("check_dst");
    let role = format!("{database}_role");
    server.psql(&database, &format!("create role {role} login password 'planted-check'"));
    server.psql(&database, "create table a (id int primary key); create table b (id int references a)");
    let options = raw(&database, &role, "planted-check");
    let findings = check::destination(&options).await;
    assert!(has(&findings, Level::Error, "schema driftless"), "{findings:?}");
    assert!(has(&findings, Level::Error, "table \"public\".\"a\": the role may not write it"), "{findings:?}");
    assert!(has(&findings, Level::Warning, "triggers and foreign keys will act"), "{findings:?}");
    assert!(has(&findings, Level::Warning, "can appear in its server's log"), "{findings:?}");
    for finding in errors(&findings) {
        server.psql(&database, &finding.fix.clone().unwrap().replace("<role>", &role));
    }
    let version: u32 = server.psql(&database, "show server_version_num").parse().unwrap();
    if version >= 150_000 {
        for finding in findings.iter().filter(|finding| finding.level == Level::Warning) {
            if let Some((grant, _)) = finding.fix.as_ref().and_then(|fix| fix.split_once(" (PostgreSQL 15")) {
                server.psql(&database, grant);
            }
        }
    }
    let findings = check::destination(&options).await;
    assert!(errors(&findings).is_empty(), "{findings:?}");
    assert!(version < 150_000 || has(&findings, Level::Ok, "shows no rows because of us"), "{findings:?}");
    let findings = check::destination(&raw(&database, "postgres", pg::PASSWORD)).await;
    assert!(errors(&findings).is_empty() && !has(&findings, Level::Warning, "triggers"), "{findings:?}");
    server.psql(&database, &format!("drop owned by {role}; drop role {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_one_error_and_no_panic() {
    let options = Options::new("s", "host=127.0.0.1 port=1 user=u password=planted-1 dbname=d connect_timeout=2");
    for findings in [check::source(&options).await, check::destination(&options).await] {
        assert_eq!(errors(&findings).len(), 1, "{findings:?}");
        assert!(has(&findings, Level::Error, "127.0.0.1:1"), "{findings:?}");
    }
    let broken = Options::new("s", "host=h pasword=planted-2");
    let findings = check::source(&broken).await;
    assert!(has(&findings, Level::Error, "`pasword`"), "{findings:?}");
    errors(&findings);
}
