# Lamina's verbs. `make` alone lists them. Every target can be run again at any time;
# what is big (images, kernels, peers) is cached in $(CACHE), keyed by version.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin
export CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lamina

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(CACHE)/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
DIST_MAX_BYTES := 25000000

##@ Build
.PHONY: build dist
build: deps ## Release build: target/release/lamina
	cargo build --release -p lamina-cli

dist: deps ## One static binary for any distribution: target/dist/lamina
	scripts/static-cargo.sh build --profile dist -p lamina-cli
	mkdir -p target/dist
	install -m 755 "$$(scripts/static-cargo.sh --target-dir)/dist/lamina" target/dist/lamina
	scripts/check-static.sh target/dist/lamina $(DIST_MAX_BYTES)

##@ Check
.PHONY: fmt lint deny test test-vm
fmt: ## Format all Rust code
	cargo fmt --all

lint: deps deny ## Formatting, clippy (warnings are errors), licences and sources
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# Advisories need a vulnerability database from the network, so they are not part of
# lint: run `cargo deny check advisories` where that is reachable.
deny: $(CARGO_DENY)
	"$(CARGO_DENY)" check bans licenses sources

$(CARGO_DENY):
	nice cargo install --locked cargo-deny --version $(CARGO_DENY_VERSION) --root "$(CACHE)/cargo-deny-$(CARGO_DENY_VERSION)"

test: deps ## Everything: lint, unit and integration tests, Python checks, other kernels
	python3 scripts/test.py

test-vm: deps ## The mount suite on Debian kernels 6.1 and 6.12 (QEMU, no KVM needed)
	python3 scripts/test.py vm

##@ See it work
.PHONY: demo bench bench-quick corpus
demo: build ## Mount a Python + pandas image lazily and time it (IMAGE=ref for your own)
	python3 demo/run.py $(if $(IMAGE),--image "$(IMAGE)")

corpus: deps ## Build every benchmark image (about 15 minutes and 12 GB the first time)
	python3 -m bench.corpus all

bench: build ## Measure everything against native ext4 and peers; writes docs/benchmarks.md
	python3 -m bench

bench-quick: build ## The same in under five minutes: fewer rounds, small images
	python3 -m bench --quick

##@ Housekeeping
.PHONY: deps clean help
deps: ## Install the Debian packages that are missing (needs root or sudo)
	@scripts/deps.sh

clean: ## Remove build output (the cache in $(CACHE) stays)
	cargo clean

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
