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
CARGO_FUZZ_VERSION := 0.13.2
CARGO_FUZZ := $(CACHE)/cargo-fuzz-$(CARGO_FUZZ_VERSION)/bin/cargo-fuzz
SECONDS ?= 60
export PROVIDER ?= local
DIST_MAX_BYTES := 25000000

##@ Build
.PHONY: build dist image
build: deps ## Release build: target/release/lamina
	cargo build --release -p lamina-cli

dist: deps ## One static binary for any distribution: target/dist/lamina
	scripts/static-cargo.sh build --profile dist -p lamina-cli
	mkdir -p target/dist
	install -m 755 "$$(scripts/static-cargo.sh --target-dir)/dist/lamina" target/dist/lamina
	scripts/check-static.sh target/dist/lamina $(DIST_MAX_BYTES)

# PROFILE=quick builds in a fraction of the time, for the test cluster.
PROFILE ?= dist
image: deps ## Container image without Docker: target/image/lamina.tar (PROFILE=quick to try)
	scripts/static-cargo.sh build --locked --profile $(PROFILE) -p lamina-cli -p lamina-operator -p lamina-csi
	scripts/image.py --binaries "$$(scripts/static-cargo.sh --target-dir)/$(PROFILE)"

##@ Check
.PHONY: fmt lint deny helm test test-sdk test-k8s test-vm fuzz
fmt: ## Format all Rust code
	cargo fmt --all

lint: deps deny ## Formatting, clippy (warnings are errors), licences and sources, Python's types
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	python3 sdk/python/dev.py lint

# Advisories need a vulnerability database from the network, so they are not part of
# lint: run `cargo deny check advisories` where that is reachable.
deny: $(CARGO_DENY)
	"$(CARGO_DENY)" check bans licenses sources

$(CARGO_DENY):
	nice cargo install --locked --debug cargo-deny --version $(CARGO_DENY_VERSION) --root "$(CACHE)/cargo-deny-$(CARGO_DENY_VERSION)"

helm: ## helm as the test cluster has it, for the chart's tests
	@python3 -m e2e.cluster build helm

test: deps helm ## Everything: lint, unit and integration tests, Python checks, other kernels
	python3 scripts/test.py

test-sdk: ## Only the Python client, in an environment of its own in the cache
	python3 scripts/test.py sdk

test-k8s: ## Stories on a real cluster, which is started and removed (STORY="a b" for some)
	$(MAKE) image PROFILE=quick
	python3 -m e2e.cluster up
	status=0; python3 -m e2e $(STORY) || status=$$?; python3 -m e2e.cluster down; exit $$status

test-vm: deps ## Only mounts and sandboxes on Debian kernels 6.1 and 6.12 (QEMU, no KVM needed)
	python3 scripts/test.py vm

# What a target finds is kept in the cache and searched on from there; fuzz/corpus holds what
# every test run repeats. A finding is printed and lies in fuzz/artifacts. Without a sanitizer: the
# decoders are safe Rust, where it finds nothing and costs half the speed.
fuzz: $(CARGO_FUZZ) ## Every fuzz target, SECONDS=60 each (needs the nightly toolchain)
	rustup run nightly rustc --version || rustup toolchain install nightly --profile minimal
	export PATH="$(dir $(CARGO_FUZZ)):$$PATH"; \
	nice cargo +nightly fuzz build -s none; \
	for target in $$(cargo +nightly fuzz list); do \
	  echo "== $$target"; mkdir -p "$(CACHE)/fuzz/$$target"; \
	  nice -n 15 cargo +nightly fuzz run -s none "$$target" "$(CACHE)/fuzz/$$target" "fuzz/corpus/$$target" -- \
	    -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1; \
	done

$(CARGO_FUZZ):
	nice cargo install --locked cargo-fuzz --version $(CARGO_FUZZ_VERSION) --root "$(CACHE)/cargo-fuzz-$(CARGO_FUZZ_VERSION)"

##@ See it work
.PHONY: demo demo-k8s bench bench-quick bench-k8s bench-cluster bench-execution corpus
demo: build ## Mount a Python + pandas image lazily, then run a command on it (IMAGE=ref for your own)
	python3 demo/run.py $(if $(IMAGE),--image "$(IMAGE)")

demo-k8s: ## The same on Kubernetes: cluster, chart, a Flist and a pod; the cluster stays up
	$(MAKE) image PROFILE=quick
	python3 demo/k8s.py

corpus: deps ## Build every benchmark image (about 15 minutes and 12 GB the first time)
	python3 -m bench.corpus all

bench: build ## Measure everything against native ext4 and peers; writes docs/benchmarks.md
	python3 -m bench

bench-quick: build ## The same in under ten minutes: fewer rounds, small images
	python3 -m bench --quick

bench-k8s: ## Pods on a real cluster, which is started and removed; writes docs/benchmarks-kubernetes.md
	$(MAKE) image
	python3 -m e2e.cluster up
	status=0; python3 -m bench.kubernetes || status=$$?; python3 -m e2e.cluster down; exit $$status

bench-cluster: build ## What nodes do for each other; writes docs/benchmarks-cluster.md
	python3 -m bench.cluster

bench-execution: build ## Commands in sandboxes; writes docs/benchmarks-execution.md
	python3 -m bench.execution

##@ Kubernetes on this machine
.PHONY: cluster cluster-down cluster-smoke
cluster: deps ## Two nodes and a registry, without Docker (PROVIDER=kind where Docker is)
	python3 -m e2e.cluster up

cluster-down: ## Remove every trace of it
	python3 -m e2e.cluster down

cluster-smoke: deps ## Bring one up, try it, take it down, look for traces
	python3 -m e2e.cluster smoke

##@ Housekeeping
.PHONY: deps clean help
deps: ## Install the Debian packages that are missing (needs root or sudo)
	@scripts/deps.sh

clean: ## Remove build output (the cache in $(CACHE) stays)
	cargo clean

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile
