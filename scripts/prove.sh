#!/usr/bin/env bash
# Runs every claim at full size, each as a command of its own: release build, the same code as `make test`, only larger
# (DRIFTLESS_PROVE=1, see tests/it/support/scale.rs). Prints the figures that the proofs print, one line each, and a last
# line per proof; goes on after a failure and exits non-zero in the end. Arguments pick proofs by number (3.4 3.5).
set -uo pipefail
cd "$(dirname "$0")/.."

logs="${CARGO_TARGET_DIR:-$PWD/target}/prove"
mkdir -p "$logs"
wanted=("$@")
failed=0

# prove NUMBER NAME COMMAND…: lines of the command's output that begin with PROVE are its figures.
prove() {
  local number=$1 name=$2 log="$logs/$1-$2.log" begun=$SECONDS verdict=ok
  shift 2
  if [ "${#wanted[@]}" -gt 0 ] && [[ " ${wanted[*]} " != *" $number "* ]]; then
    return
  fi
  DRIFTLESS_PROVE=1 "$@" 2>&1 | tee "$log" | grep --line-buffered '^PROVE '
  local status=${PIPESTATUS[0]}
  # A filter that matches no test succeeds without having shown anything.
  if [ "$status" -ne 0 ]; then
    verdict="FAILED (exit $status), see $log"
  elif ! grep -q '^PROVE ' "$log"; then
    verdict="FAILED: it printed no figure, see $log"
  fi
  [ "$verdict" = ok ] || failed=1
  echo "PROVE $number $name $verdict in $((SECONDS - begun)) s"
}

# A test whose name begins with `prove::` and these words, alone in its process, with its output.
tests() { cargo test --locked --release --test it -- "prove::$1" --nocapture --test-threads=1; }

fresh_clone() { scripts/fresh.sh; }
routes() { tests routes::; }
kills() { tests kills::; }
pgbench() { tests raw::pgbench; }
huge() { tests raw::huge; }
later() { tests raw::table_made_later; }
damage() { tests damage::; }
fanout() { tests fanout::; }
full() { tests full::; }
standby() { tests standby::; }
restore() { tests past::restore; }
test_cluster() { tests past::what_is_replayed; }
peers() { scripts/bench.sh postgresql; }
etcd_peers() { scripts/bench.sh etcd; }
etcd_chaos() { tests etcd::chaos; }
expiry() { tests etcd::expiry; }
whole() { tests etcd::whole; }
quiet() { tests etcd::quiet; }
own() { scripts/bench.sh own; }
own_journal() { scripts/bench.sh journal; }
secrets() { scripts/secrets.sh; }

echo "driftless $(git rev-parse --short HEAD 2>/dev/null), $(rustc --version), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"
prove 3.1 fresh-clone fresh_clone
prove 3.2 routes routes
prove 3.3 kills kills
prove 3.4 pgbench pgbench
prove 3.5 huge-transaction huge
prove 3.6 peers peers
prove 3.7 engine-and-delay own
prove 3.8 secrets secrets
prove 3.9 standby standby
prove 3.10 later-tables later
prove 4.1 journal-rate own_journal
prove 4.2 fanout fanout
prove 4.3 damage damage
prove 4.4 restore restore
prove 4.5 test-cluster test_cluster
prove 4.6 full-disk full
prove 5.1 etcd-peers etcd_peers
prove 5.2 etcd-chaos etcd_chaos
prove 5.3 etcd-expiry expiry
prove 5.4 etcd-whole whole
prove 5.5 etcd-quiet quiet
exit "$failed"
