#!/bin/bash
# check-static.sh BINARY MAX_BYTES: fails unless BINARY is static and at most MAX_BYTES.
set -euo pipefail
binary=$1 max=$2
size=$(stat -c %s "$binary")
file "$binary" | grep -Eq 'statically linked|static-pie linked' || { echo "$binary is not static: $(file -b "$binary")"; exit 1; }
! ldd "$binary" 2>/dev/null | grep -q '=>' || { echo "$binary needs shared libraries:"; ldd "$binary"; exit 1; }
[ "$size" -le "$max" ] || { echo "$binary has $size bytes, more than $max"; exit 1; }
echo "$binary: static, $size bytes (limit $max)"
