#!/usr/bin/env bash
# Installs what a build ("build") or the tests ("servers") need and does not find. Touches nothing when all is there.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("${@:2}"); }

# Any PostgreSQL of 13 or later does, whoever installed it; tests use the newest, or the one in DRIFTLESS_TEST_PG_BIN.
has_postgresql() {
  [ -n "${DRIFTLESS_TEST_PG_BIN:-}" ] && [ -x "$DRIFTLESS_TEST_PG_BIN/postgres" ] && return 0
  local bin
  for bin in /usr/lib/postgresql/*/bin/postgres; do
    [ -x "$bin" ] || continue
    local major=${bin#/usr/lib/postgresql/}
    [ "${major%%/*}" -ge 13 ] && return 0
  done
  return 1
}

for part in "$@"; do
  case "$part" in
    build)
      need cc build-essential
      need make build-essential
      need cmake cmake
      need perl perl
      need pkg-config pkg-config
      # etcd's messages are generated from its own description of them.
      need protoc protobuf-compiler
      [ -e /usr/include/google/protobuf/descriptor.proto ] || [ -n "${PROTOC_INCLUDE:-}" ] || missing+=(libprotobuf-dev)
      ;;
    servers)
      has_postgresql || missing+=(postgresql)
      need psql postgresql-client
      need sqlite3 sqlite3
      need setpriv util-linux
      need strings binutils
      # The oldest etcd that is supported, and the client that looks at what any of them holds.
      need etcd etcd-server
      need etcdctl etcd-client
      need openssl openssl
      # A client of DynamoDB that is not ours, and Amazon's own emulator of it.
      if ! python3 -c 'import boto3' 2>/dev/null && ! /usr/bin/python3 -c 'import boto3' 2>/dev/null; then
        missing+=(python3 python3-boto3)
      fi
      if [ "${DYNAMODB_LOCAL:-}" != off ]; then
        need java default-jre-headless
        need mvn maven
      fi
      if ! command -v go >/dev/null 2>&1; then
        need curl curl
        need unzip unzip
      fi
      ;;
    *) echo "usage: needs.sh [build] [servers]" >&2; exit 2 ;;
  esac
done

if [ "${#missing[@]}" -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "root or sudo is needed once, for: apt-get install ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "this system has no apt-get: install by hand what Debian calls ${missing[*]}, then try again" >&2
    exit 1
  fi
  echo "installing with apt, which needs root or sudo: ${missing[*]}"
  log=$(mktemp)
  install() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; }
  # A fresh image has no package lists, a well-used one may have stale ones: fetch them first either way.
  if ! { "${as_root[@]}" apt-get update && install; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "apt could not install ${missing[*]}; the whole log is in $log" >&2
    exit 1
  fi
  rm -f "$log"
fi

if ! command -v cargo >/dev/null 2>&1; then
  echo "cargo is neither in PATH nor in ~/.cargo/bin: install Rust from https://rustup.rs" >&2
  exit 1
fi

if [[ " $* " == *" servers "* ]]; then
  cd "$(dirname "$0")/.."
  scripts/etcd.sh
  scripts/dynamodb.sh
fi
