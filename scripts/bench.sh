#!/usr/bin/env bash
# Measures. "own": the engine alone, the delay from commit to visible, the journal beside the bare disk. "peers": beside what
# others would pick, PostgreSQL ("postgresql") and etcd ("etcd"). Says on what it ran, because a figure without its machine
# means nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "machine: $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), load $(cut -d' ' -f1 /proc/loadavg)"
case "${1:-}" in
  own) cargo bench --locked --bench pipeline && cargo bench --locked --bench delay && cargo bench --locked --bench journal ;;
  journal) cargo bench --locked --bench journal ;;
  peers) cargo bench --locked --bench peers && cargo bench --locked --bench etcd ;;
  postgresql) cargo bench --locked --bench peers ;;
  etcd) cargo bench --locked --bench etcd ;;
  *) echo "usage: bench.sh own|journal|peers|postgresql|etcd" >&2; exit 2 ;;
esac
