#!/usr/bin/env bash
# Fetches DynamoDB Local for the tests once, in the version of tests/fixtures/dynamodb/pom.xml.
# It comes under a licence of its own from Amazon, which allows its use and not its redistribution: it is fetched by whoever runs the
# tests and is no part of this project. DYNAMODB_LOCAL=off does without it.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "${DYNAMODB_LOCAL:-}" = off ] && exit 0
fixture=tests/fixtures/dynamodb
version=$(sed -n 's,.*<artifactId>DynamoDBLocal</artifactId><version>\([^<]*\)<.*,\1,p' "$fixture/pom.xml")
kept=${CARGO_TARGET_DIR:-target}/fixtures
[ -d "$kept/dynamodb-local-$version" ] && exit 0
mkdir -p "$kept"
kept=$(cd "$kept" && pwd)

echo "fetching DynamoDB Local $version for the tests, under Amazon's own licence for it (50 MB, once; DYNAMODB_LOCAL=off does without)"
work=$(mktemp -d "$kept/dynamodb-XXXXXX")
trap 'rm -rf "$work"' EXIT
cp "$fixture/pom.xml" "$work/"
if ! mvn -q -B -f "$work/pom.xml" -Dout="$work/lib" package >"$work/log" 2>&1; then
  tail -n 20 "$work/log" >&2
  echo "DynamoDB Local $version could not be fetched" >&2
  exit 1
fi
mv "$work/lib" "$kept/dynamodb-local-$version"
