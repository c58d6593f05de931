#!/usr/bin/env bash
# Formatting, then clippy with warnings as errors: all features, each one alone, and none.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in fmt clippy; do
  if ! cargo "$tool" --version >/dev/null 2>&1; then
    echo "cargo $tool is missing: rustup component add rustfmt clippy" >&2
    exit 1
  fi
done

cargo fmt --check
clippy() {
  echo "clippy ${*:-with the default features}"
  cargo clippy --locked --quiet --all-targets "$@" -- -D warnings
}
clippy --all-features
clippy --no-default-features
# The names are read from Cargo.toml, so that a kind that is added is checked alone from its first day.
features=$(sed -n '/^\[features\]/,/^\[/p' Cargo.toml | grep -oE '^[a-z0-9_-]+ *=' | tr -d ' =' | grep -vx default)
for feature in $features; do
  clippy --no-default-features --features "$feature"
done
