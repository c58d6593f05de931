#!/usr/bin/env bash
# Clones the committed state to an empty folder and types what the README says, with an empty target folder.
set -euo pipefail
cd "$(dirname "$0")/.."

here=$PWD
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT
git clone --quiet "$here" "$clone/driftless"
cd "$clone/driftless"
# The proof must not lean on what is built here, nor shrink or grow with the caller's own settings.
unset CARGO_TARGET_DIR DRIFTLESS_PROVE
for target in demo test; do
  begun=$SECONDS
  make --no-print-directory "$target"
  echo "PROVE 3.1 make $target from a fresh clone: $((SECONDS - begun)) s, build included"
done
