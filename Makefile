# Everything a person types. Each target works from a fresh clone on Debian 12 with nothing but Rust installed.
#
#   make demo           a live replica with a writer, a kill -9, a resume and a verify; under a minute after the build
#   make test           every test against real servers, which it installs if they are missing
#   make prove          every claim at full size, one line per figure; takes hours and wants a quiet machine
#
# What else there is: `make help`.

SHELL := /bin/bash
# A shell that was open while Rust was being installed does not have cargo in its PATH yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO ?= cargo
# How many seeds `make sim` runs.
SEEDS ?= 1000
# Simulation seeds are derived from it, so that every commit looks somewhere new and can be replayed.
export DRIFTLESS_COMMIT := $(shell git rev-parse HEAD 2>/dev/null || echo none)

.PHONY: help demo test servers lint fmt tidy sim mutants bench bench-peers prove

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

demo: ## a live SQLite replica with a writer, a kill -9, a resume and a verify
	@scripts/needs.sh build
	$(CARGO) build --locked --bin driftless
	@$(CARGO) run --locked --quiet --bin driftless -- demo

test: servers ## every test, against real servers
	$(CARGO) test --locked --no-fail-fast

servers: ## installs what the tests need (root or sudo, for apt); does nothing when all is there
	@scripts/needs.sh build servers

lint: ## formatting, and clippy with every set of features
	@scripts/lint.sh

fmt: ## formats the code
	$(CARGO) fmt

tidy: ## style and layering as a test
	$(CARGO) test --locked --quiet --test tidy

sim: ## the engine under SEEDS=N seeds of faults (SEED=n replays one)
	$(if $(SEED),DRIFTLESS_SEED=$(SEED),DRIFTLESS_SEEDS=$(SEEDS)) $(CARGO) test --locked --release --test sim -- --nocapture

mutants: ## breaks the engine in eight ways; the simulation must catch each
	@scripts/mutants.sh

bench: ## engine throughput and delay from commit to visible
	@scripts/bench.sh own

bench-peers: servers ## driftless beside native replication and pg_recvlogical (PostgreSQL), and make-mirror (etcd)
	@scripts/bench.sh peers

prove: servers ## every claim at full size (PROVE="3.4 3.5" picks some)
	@scripts/prove.sh $(PROVE)
