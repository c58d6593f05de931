#!/usr/bin/env bash
# Builds the etcd server of the tests once, from its Go module, whose every part is pinned by tests/fixtures/etcd/go.sum.
# A machine without Go gets a toolchain for this one build, checked and thrown away afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

fixture=tests/fixtures/etcd
version=$(sed -n 's,^require go.etcd.io/etcd/server/v3 v,,p' "$fixture/go.mod")
kept=${CARGO_TARGET_DIR:-target}/fixtures
server=$kept/etcd-$version
[ -x "$server" ] && exit 0
mkdir -p "$kept"
kept=$(cd "$kept" && pwd)
server=$kept/etcd-$version

# What go.mod asks for, and the sum of its archive on the machine that the sum was taken on.
go_version=1.26.8
go_sum=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7
go_build=(build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w" -o "$server.new" .)

work=$(mktemp -d "$kept/go-XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

enough() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }
found=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null | sed 's/^go//' || true)
wanted=$(sed -n 's/^go //p' "$fixture/go.mod")
go=go
if [ -z "$found" ] || { ! enough "$found" "$wanted" && ! enough "$found" 1.21; }; then
  if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "the tests' etcd is built with Go $wanted or later, which this machine does not have: https://go.dev/dl" >&2
    exit 1
  fi
  echo "fetching Go $go_version for the tests' etcd, for this build only (70 MB)"
  # Go's own toolchains are published as a module; this is the archive that an older Go would fetch for itself.
  base=https://proxy.golang.org/golang.org/toolchain/@v
  curl -fsSL --retry 3 -o "$work/go.zip" "$base/v0.0.1-go$go_version.linux-amd64.zip"
  echo "$go_sum  $work/go.zip" | sha256sum --check --quiet
  unzip -q "$work/go.zip" -d "$work"
  root=$work/golang.org/toolchain@v0.0.1-go$go_version.linux-amd64
  chmod +x "$root"/bin/* "$root"/pkg/tool/*/*
  go=$root/bin/go
  export GOROOT=$root GOTOOLCHAIN=local GOCACHE=$work/cache GOPATH=$work/path
elif ! enough "$found" "$wanted"; then
  # Since 1.21 a Go fetches the toolchain that a module asks for.
  export GOTOOLCHAIN=auto
fi

echo "building etcd $version for the tests (a minute or two, once)"
if ! (cd "$fixture" && "$go" "${go_build[@]}") >"$work/log" 2>&1; then
  tail -n 20 "$work/log" >&2
  echo "etcd $version could not be built from $fixture" >&2
  exit 1
fi
mv "$server.new" "$server"
