#!/bin/bash
# Runs cargo for a fully static x86_64 Linux target, in a target directory of its own so
# that ordinary builds are not disturbed.
#   static-cargo.sh build -p lamina-cli ...    cargo with target and flags added
#   static-cargo.sh --target-dir               where profiles (debug/, dist/) end up
# musl when rustup has that target installed, else glibc linked statically: same result
# for our purposes, except that host names then resolve only where the machine that runs
# the binary has a glibc of its own (getaddrinfo loads NSS modules at run time).
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
if rustup target list --installed 2>/dev/null | grep -qx x86_64-unknown-linux-musl; then
  target=x86_64-unknown-linux-musl
fi
dir=target/static

if [ "${1:-}" = --target-dir ]; then
  echo "$dir/$target"
  exit 0
fi
# RUSTFLAGS replaces what .cargo/config.toml sets, so the linker choice is repeated.
# --target keeps build scripts and proc macros dynamic.
export RUSTFLAGS="-C linker=clang -C link-arg=-fuse-ld=mold -C target-feature=+crt-static ${RUSTFLAGS:-}"
exec cargo "$@" --target "$target" --target-dir "$dir"
