//! What can be wrong with a cluster, found before it matters. Reads only; changes nothing.

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::connect::{Cluster, Live};
use super::fault::fault;
use super::ledger;
use super::limits::{Learned, Takes};
use super::options::{Options, Role};
use super::read::Reader;
use crate::error::Result;
use crate::model::{Level, Remark};

/// Looks at a cluster through each of its peers.
pub async fn look(options: &Options) -> Vec<Remark> {
    let mut found = Vec::new();
    if options.insecure {
        found.push(Remark::new(
            Level::Warning,
            "insecure is set: whoever answers for a peer is believed, and sees and forges everything",
            "use https:// and tls_ca_file, and leave insecure out",
        ));
    }
    let mut first = true;
    for peer in &options.peers {
        let alone = Options { peers: vec![peer.clone()], ..options.clone() };
        match one(&alone).await {
            Ok((cluster, live)) => {
                of_member(peer, &live, options.role, &mut found);
                if std::mem::take(&mut first) {
                    of_keys(&cluster, &live, &mut found).await;
                }
            }
            Err(error) => found.push(Remark::new(Level::Error, error.to_string(), "")),
        }
    }
    found
}

async fn one(options: &Options) -> Result<(Cluster, Live)> {
    let cluster = Cluster::new(options)?;
    let live = cluster.live().await?;
    Ok((cluster, live))
}

fn of_member(peer: &str, live: &Live, role: Role, found: &mut Vec<Remark>) {
    if role == Role::Source {
        for defect in live.version.defects() {
            found.push(Remark::new(
                Level::Warning,
                format!("{peer} is version {}: {defect}", live.version),
                "move to the newest release of its line; until then `verify` finds what was lost",
            ));
        }
    }
    // A member says which alarms there are, and of whom; each is a fixed word.
    for (word, what) in
        [("NOSPACE", "takes no writes: its quota is used up"), ("CORRUPT", "says that its data is damaged")]
    {
        if live.complaints.iter().any(|complaint| complaint.contains(word)) {
            found.push(Remark::new(Level::Error, format!("{peer} {what}"), "see `etcdctl alarm list`"));
        }
    }
    // The default where the member does not tell.
    let quota = if live.quota > 0 { live.quota } else { 2 << 30 };
    if role == Role::Sink && live.size > quota / 10 * 8 {
        found.push(Remark::new(
            Level::Warning,
            format!("the database of {peer} has {} of the {} MiB that it may have", live.size >> 20, quota >> 20),
            "compact and defragment it, or raise --quota-backend-bytes",
        ));
    }
}

async fn of_keys(cluster: &Cluster, live: &Live, found: &mut Vec<Remark>) {
    let options = cluster.options();
    if options.user.is_some() && !live.logged_in {
        found.push(Remark::new(
            Level::Warning,
            "a user is configured, and the cluster asks nobody for a name: whoever reaches it may read and write",
            "`etcdctl auth enable`",
        ));
    }
    let reader = Reader::new(cluster);
    let (from, end) = (reader.keys.first(b""), reader.keys.end(b""));
    match reader.count(from, end).await {
        Ok((0, _)) if options.role == Role::Source => found.push(Remark::new(
            Level::Error,
            format!("there is no key under {:?}", options.prefix),
            "`prefix` must be that of the program which writes there; in Teleport's own it is storage.prefix",
        )),
        Ok((count, _)) if options.role == Role::Source && !options.journaled => found.push(Remark::new(
            Level::Warning,
            format!(
                "there is no journal, and {count} keys are to be copied: if the cluster compacts its history before that is \
                 done, what happened meanwhile is a gap, and all is compared once more"
            ),
            "leave `enabled` of `journal` out, or compact less often (--auto-compaction-retention) than the copy takes",
        )),
        Ok(_) => {}
        Err(error) => found.push(Remark::new(Level::Error, error.to_string(), "")),
    }
    if options.role == Role::Sink {
        of_writing(cluster, reader.keys.stored(b"/"), found).await;
    }
}

/// Whether a destination may be written, and how much at once.
async fn of_writing(cluster: &Cluster, data: Vec<u8>, found: &mut Vec<Remark>) {
    for (what, key) in [("the keys under `prefix`", data), ("driftless' own records", ledger::streams())] {
        if let Err(error) = may_write(cluster, key).await {
            let mend = "a destination's role needs readwrite on `prefix` and on /driftless/, and space to write";
            return found.push(Remark::new(Level::Error, error.during(format!("write {what}")).to_string(), mend));
        }
    }
    let learned = Learned::default();
    match learned.learn(cluster).await {
        Ok(()) => {
            let Takes { ops, bytes } = learned.takes();
            let what = format!(
                "one transaction takes {ops} operations and {} KiB; a larger one of the source is split, counted and told",
                bytes >> 10
            );
            found.push(Remark::new(Level::Note, what, ""));
        }
        Err(error) => found.push(Remark::new(Level::Error, error.to_string(), "")),
    }
}

/// Asks for a write that cannot happen, which is refused to whoever may not do it.
async fn may_write(cluster: &Cluster, key: Vec<u8>) -> Result<()> {
    const ATTEMPT: &str = "ask whether that is allowed";
    // No key has been written fewer than no times.
    let never = Compare::version(key.clone(), CompareOp::Less, 0);
    let txn = Txn::new().when([never]).and_then([TxnOp::put(key, "", None)]);
    let answer = cluster.once(ATTEMPT, |mut live| async move { live.kv.txn(txn).await }).await?;
    answer.map(drop).map_err(|error| fault(ATTEMPT, &error))
}
