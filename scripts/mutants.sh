#!/usr/bin/env bash
# Breaks the engine on purpose, one rule at a time (`cfg(mutate = "…")`), and expects the simulation to go red each time.
# Prints one line per mutation; fails if any of them survives. Names as arguments pick some.
set -uo pipefail
cd "$(dirname "$0")/.."

mutations=(
  late_twin_accepted
  piece_without_position
  repair_without_window
  child_before_parents
  release_before_commit
  keepalive_to_slot
  wrong_head_of_empty
  sweep_not_durable
)
[ "$#" -gt 0 ] && mutations=("$@")

# A target folder of its own, because the mutated `driftless` must never lie where `make demo` finds it.
target="${CARGO_TARGET_DIR:-$PWD/target}/mutants"
mkdir -p "$target/rustc" "$target/log"
# LIMIT: each mutation is caught within dozens of seeds; this many leave no doubt.
seeds=${SEEDS:-300}

# Cargo runs the compiler of our own crate, and of no dependency, through this wrapper, and tells builds apart by its path:
# so eight mutations cost one build of the dependencies, which RUSTFLAGS would build eight times.
wrapper() {
  printf '#!/bin/sh\nexec "$@" --cfg '"'mutate=\"%s\"'"'\n' "$1" >"$target/rustc/$1"
  chmod +x "$target/rustc/$1"
  echo "$target/rustc/$1"
}

# A simulation that fails by itself would seem to catch everything.
if ! DRIFTLESS_SEEDS=$seeds CARGO_TARGET_DIR="$target" cargo test --locked --test sim >"$target/log/none.log" 2>&1; then
  echo "MUTANT none FAILED: the simulation is red without any mutation, see $target/log/none.log"
  exit 1
fi

survivors=0
for name in "${mutations[@]}"; do
  grep -rqE "mutate *= *\"$name\"" src || { echo "MUTANT $name FAILED: the code has no such mutation"; survivors=$((survivors + 1)); continue; }
  log="$target/log/$name.log"
  simulate=(env RUSTC_WORKSPACE_WRAPPER="$(wrapper "$name")" CARGO_TARGET_DIR="$target" cargo test --locked --test sim)
  if ! "${simulate[@]}" --no-run >"$log" 2>&1; then
    echo "MUTANT $name FAILED: it did not build, see $log"
    survivors=$((survivors + 1))
  elif DRIFTLESS_SEEDS=$seeds "${simulate[@]}" >>"$log" 2>&1; then
    echo "MUTANT $name FAILED: it survived $seeds seeds"
    survivors=$((survivors + 1))
  else
    echo "MUTANT $name caught: $(grep -m1 -oE 'DRIFTLESS_SEED=[0-9]+.*' "$log" || grep -m1 -E 'panicked|FAILED' "$log")" | cut -c1-160
  fi
done
exit "$((survivors > 0))"
