#!/usr/bin/env bash
# P9: runs every test with its logs kept and everything said (-vvv), then looks with `strings` for what the tests planted,
# in keys and values, passwords and connection strings: in all output of driftless and of the library, in its pages
# (/metrics, /status.json, /readyz), and in the logs of the PostgreSQL servers. A build for tests is enough: what leaks,
# leaks in any build and at any size.
# Argument: a folder that an earlier run kept (DRIFTLESS_KEEP_LOGS), which is searched without running anything.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C
work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT

# Everything that a test plants contains one word (tests/it/support/scale.rs), which can be told as it is, in hexadecimal,
# as a list of numbers, or in base64, where it has three spellings. A connection string shows itself whatever it holds.
# Each test looks for the same in what it has caused (tests/it/support/secrets.rs).
any_case='planted-|706c616e7465642d|112, ?108, ?97, ?110, ?116, ?101, ?100, ?45'
any_case+='|postgres(ql)?://[^[:space:]]'
any_case+='|(^|[^a-z_])(host|hostaddr|port|user|dbname|password)=[^[:space:]]+[[:space:]]+(host|hostaddr|port|user|dbname|password|passfile|sslmode)='
this_case='cGxhbnRlZC|BsYW50ZWQt|wbGFudGVkL|PRIVATE KEY'
# Planted to be told: servers, programs and pages must show it, or the search would have seen nothing of them.
canary='planted-canary'
# What a message shows as an example.
example='postgresql://user@host/database'

# leaks FOLDER: the lines that tell a secret, each behind its file's name.
leaks() {
  find "$1" -type f -exec strings -f {} + | sed "s/$canary//g; s|$example||g" >"$work/strings"
  { grep -aiE -e "$any_case" "$work/strings" || true; grep -aE -e "$this_case" "$work/strings" || true; } | sort -u
}

# First, that each spelling is found.
mkdir "$work/spellings"
printf '%s\n' 'a Planted-word' '\x2F706C616E7465642D31' '[1, 112, 108, 97, 110, 116, 101, 100, 45]' \
  "$(printf '/planted-1' | base64)" "$(printf '..planted-1' | base64)" "$(printf '.planted-1' | base64)" \
  'of postgresql://u@h/d' 'of user=u dbname=d' 'of (HOST=h sslmode=prefer)' 'BEGIN PRIVATE KEY' "$canary planted-2" \
  >"$work/spellings/each"
found=$(leaks "$work/spellings" | wc -l)
written=$(wc -l <"$work/spellings/each")
if [ "$found" -ne "$written" ]; then
  echo "the search finds $found of $written spellings of a secret" >&2
  exit 1
fi

kept=${1:-}
if [ -z "$kept" ]; then
  kept="$work/kept"
  mkdir "$kept"
  chmod 1777 "$kept"
  unset DRIFTLESS_PROVE
  DRIFTLESS_KEEP_LOGS="$kept" cargo test --locked --no-fail-fast
fi

# Then, that every server log, and output and pages of programs, would have shown a secret.
missing=0
shopt -s nullglob
servers=("$kept"/server-*)
for log in "${servers[@]}"; do
  grep -qF "$canary" "$log" || { echo "$log does not show what was planted to be told" >&2; missing=1; }
done
[ "${#servers[@]}" -gt 0 ] || { echo "no server has left a log in $kept" >&2; missing=1; }
for kind in log pages; do
  grep -qF "$canary" "$kept"/driftless-*."$kind" /dev/null || { echo "no .$kind of a program shows what was planted to be told" >&2; missing=1; }
done
for page in /metrics /status.json /readyz; do
  grep -qF "GET $page" "$kept"/driftless-*.pages /dev/null || { echo "$page was not kept" >&2; missing=1; }
done
[ "$missing" -eq 0 ]

# What a test's own psql made a server write (a statement that was meant to fail) says nothing about driftless; every other
# entry of a server's log counts, with all its lines.
searched="$work/searched"
cp -r "$kept" "$searched"
for log in "$searched"/server-*; do
  awk '/^20[0-9][0-9]-/ { skip = /\] \[psql\] / } !skip' "$log" >"$work/entries"
  mv "$work/entries" "$log"
done
leaks "$searched" >"$work/found"
hits=$(wc -l <"$work/found")
head -n 20 "$work/found" | cut -c1-300 >&2
count() { find "$searched" -type f -name "$1" | wc -l; }
echo "PROVE 3.8 secrets $(count 'driftless-*.log') logs of programs and library at -vvv, $(count '*.pages') of pages, $(count 'server-*') of servers, $(wc -l <"$work/strings") lines: $hits tell a planted key, value, password or connection string"
[ "$hits" -eq 0 ]
