#!/usr/bin/env bash
# P9: runs every test with its logs kept, then looks with `strings` for what the tests planted: in all output of driftless
# (at -v too), its metrics and status pages, and the logs of the PostgreSQL servers that it wrote to.
set -euo pipefail
cd "$(dirname "$0")/.."

kept=$(mktemp -d)
chmod 755 "$kept"
trap 'rm -rf "$kept"' EXIT
# The small size is enough: what leaks, leaks at any size, and every code path that logs is there.
unset DRIFTLESS_PROVE
DRIFTLESS_KEEP_LOGS="$kept" cargo test --locked --release --no-fail-fast

# Everything that a test plants, values and passwords alike, contains this word (tests/it/support/scale.rs).
planted=planted-
files=$(find "$kept" -type f | wc -l)
bytes=$(du -sb "$kept" | cut -f1)
# A folder without server logs and without output of ours would prove nothing.
for kind in server driftless; do
  if ! find "$kept" -type f -name "*$kind*" -size +0 | grep -q .; then
    echo "no log of kind '$kind' was kept in $kept" >&2
    exit 1
  fi
done
# What a test's own psql made a server write (a statement that was meant to fail) says nothing about driftless; every other
# entry of a server's log counts, with all its lines.
find "$kept" -type f -name 'server-*' -print0 | while IFS= read -r -d '' log; do
  awk '/^20[0-9][0-9]-/ { skip = /\[psql\] / } !skip' "$log" >"$log.of-others" && rm "$log"
done
hits=$(find "$kept" -type f -exec strings -f {} + | grep -cF -e "$planted" -e 'postgresql://' || true)
echo "PROVE 3.8 $files kept files, $bytes bytes, $hits lines with a planted value, password or connection string"
[ "$hits" -eq 0 ]
