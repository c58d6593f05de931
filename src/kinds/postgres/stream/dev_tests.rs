//! dev only
use super::*;
use super::relations::Definitions;
use super::receiver::{Plan, start};
use super::tail::{PostgresTail, Setup};
use crate::kinds::postgres::shape::{Column, Shape};
use crate::kinds::postgres::wire::{Lsn, frames};
use crate::model::*;
use crate::pool::Pool;
use crate::source::{Fut, Tail};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub fn psql(db: &str, sql: &str) -> String {
    let out = std::process::Command::new("psql").args(["-X","-qAt","-h","/tmp/pgs","-p","47113","-U","postgres","-d",db,"-c",sql]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}
struct Defs(String);
impl Definitions for Defs {
    fn shape(&self, oid: u32) -> Fut<'_, Option<Shape>> {
        let rows = psql(&self.0, &format!("select n.nspname, c.relname, a.attname, a.atttypid, a.atttypmod, coalesce(array_position(i.indkey::int2[], a.attnum), -1) from pg_class c join pg_namespace n on n.oid=c.relnamespace join pg_attribute a on a.attrelid=c.oid and a.attnum>0 and not a.attisdropped left join pg_index i on i.indrelid=c.oid and i.indisprimary where c.oid={oid} order by a.attnum"));
        let mut shape = Shape { binary: true, ..Shape::default() };
        let mut key = vec![];
        for (i, row) in rows.lines().enumerate() {
            let f: Vec<_> = row.split('|').collect();
            shape.schema = f[0].into(); shape.name = f[1].into();
            shape.columns.push(Column { name: f[2].into(), type_oid: f[3].parse().unwrap(), typmod: f[4].parse().unwrap(), ..Column::default() });
            let k: i64 = f[5].parse().unwrap();
            if k >= 0 { key.push((k, i)); }
        }
        key.sort_unstable();
        shape.key = key.into_iter().map(|k| k.1).collect();
        Box::pin(async move { Ok((!shape.columns.is_empty()).then_some(shape)) })
    }
    fn type_name(&self, _: u32, _: i32) -> Fut<'_, String> { Box::pin(async { Ok("x".into()) }) }
    fn takes(&self, _: &str, _: &str) -> bool { true }
}
pub async fn connect(db: &str) -> (tokio::net::TcpStream, Vec<u8>) {
    let mut s = tokio::net::TcpStream::connect("127.0.0.1:47113").await.unwrap();
    let mut b = bytes::BytesMut::new();
    postgres_protocol::message::frontend::startup_message([("user","postgres"),("database",db),("replication","database"),("client_encoding","UTF8")], &mut b).unwrap();
    s.write_all(&b).await.unwrap();
    let mut buf = vec![];
    loop {
        let mut at = 0;
        while let Some((f, l)) = frames::next(&buf[at..]).unwrap() { at += l; if f == frames::Frame::Other(b'Z') { return (s, buf[at..].to_vec()); } assert!(!matches!(f, frames::Frame::Error(_))); }
        s.read_buf(&mut buf).await.unwrap();
    }
}
pub async fn tail(db: &str, from: Position, pool: &Pool) -> PostgresTail {
    let (io, rest) = connect(db).await;
    let plan = Plan { slot: format!("s_{db}"), publication: "p".into(), start: Lsn::of(&from).unwrap().unwrap(), version: 150_018, binary: true, timeout: Duration::from_secs(60), max_frame: 16 << 20 };
    let link = start(io, &rest, plan).await.unwrap();
    PostgresTail::new(Setup { link, partition: PartitionId::new("pg"), from, pool: pool.clone(), definitions: Arc::new(Defs(db.into())), state_dir: "/tmp".into() }).unwrap()
}
fn show(batch: &Batch) {
    println!("{batch:?} marks {:?}", batch.marks().iter().map(|m| (m.changes, m.upto.to_string())).collect::<Vec<_>>());
    for (i, r) in batch.rows().enumerate().take(12) { println!("   {} {:?} fresh {} {} key {:?} body {} from {:?} at {}", batch.position(i), r.op, r.fresh, r.table.name, String::from_utf8_lossy(r.key), r.body.len(), r.from, r.at); }
}
#[tokio::test(flavor = "multi_thread")]
async fn live() {
    let db = "live";
    psql("postgres", "drop database if exists live"); psql("postgres", "create database live");
    psql(db, "create table kv (key bytea primary key, value bytea); alter table kv alter value set storage external; create publication p for table kv");
    let at = psql(db, "select lsn from pg_create_logical_replication_slot('s_live','pgoutput')");
    assert!(std::process::Command::new("psql").args(["-X","-qAt","-h","/tmp/pgs","-p","47113","-U","postgres","-d",db,"-f","/tmp/live.sql"]).status().unwrap().success());
    let pool = Pool::new(4, 64 << 10);
    let mut t = tail(db, at.parse::<Lsn>().unwrap().position(), &pool).await;
    while let Ok(b) = tokio::time::timeout(Duration::from_secs(2), t.next()).await { show(&b.unwrap()); }
    drop(t);
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("{}", psql(db, "select active from pg_replication_slots where slot_name='s_live'"));
    psql(db, "select pg_drop_replication_slot('s_live')");
}
#[tokio::test(flavor = "multi_thread")]
async fn rate() {
    let db = "rate";
    if psql("postgres", "select count(*) from pg_database where datname='rate'") == "0" {
        psql("postgres", "create database rate");
        psql(db, "create table t (id bigint primary key, u uuid default gen_random_uuid(), at timestamptz default now(), v bytea); create publication p for table t");
        psql(db, "select lsn from pg_create_logical_replication_slot('s_rate','pgoutput')");
        let per: usize = std::env::var("PER").map_or(100, |v| v.parse().unwrap());
        for n in 0..10 { psql(db, &format!("do $$ begin for i in 0..{} loop insert into t (id, v) select i*{per}+g+{}, decode(repeat('ab',450),'hex') from generate_series(1,{per}) g; commit; end loop; end $$", 50_000/per-1, n*50_000)); }
    }
    let at = psql(db, "select confirmed_flush_lsn from pg_replication_slots where slot_name='s_rate'");
    let head: Lsn = psql(db, "select pg_current_wal_flush_lsn()").parse().unwrap();
    let pool = Pool::for_memory(64 << 20);
    let mut t = tail(db, at.parse::<Lsn>().unwrap().position(), &pool).await;
    let begin = std::time::Instant::now();
    let cpu = || { let s = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<u64> = s.rsplit(") ").next().unwrap().split(' ').skip(11).take(2).map(|v| v.parse().unwrap()).collect(); (f[0], f[1]) };
    let c0 = cpu();
    let (mut n, mut batches, mut bytes) = (0, 0, 0);
    loop {
        let b = t.next().await.unwrap();
        n += b.len(); batches += 1; bytes += b.bytes();
        if Lsn::of(b.upto()).unwrap() >= Some(head) { break; }
    }
    let c1 = cpu(); let s = begin.elapsed().as_secs_f64();
    println!("{n} changes {batches} batches {bytes} bytes {s:.2}s = {:.0}/s, user {} ns/change sys {} ns/change; rss {}", n as f64 / s, (c1.0-c0.0)*10_000_000/n as u64, (c1.1-c0.1)*10_000_000/n as u64, std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmHWM")).unwrap());
}
