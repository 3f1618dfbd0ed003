#!/usr/bin/env bash
# Installs the real servers that tests talk to, on demand and at pinned versions.
#
#   scripts/tools.sh NAME     installs NAME unless it is there, prints the path of its program
#   scripts/tools.sh --list   names and versions
#
# Everything lives in ${XDG_CACHE_HOME:-~/.cache}/lamina/tools/<name>-<version>/ and is complete as soon
# as that folder exists: it is built beside it and renamed at the end, so an interrupted install is
# simply done again. Two callers at once wait for each other. Builds run at low priority.
set -euo pipefail

# name version kind source
TOOLS='
s3        0.14.1   cargo  s3s-fs
azurite   3.35.0   npm    azurite
gcs       v1.56.1  go     github.com/fsouza/fake-gcs-server
registry  v3.1.2   go     github.com/distribution/distribution/v3/cmd/registry
'

root="${XDG_CACHE_HOME:-$HOME/.cache}/lamina/tools"

usage() {
  echo "usage: scripts/tools.sh NAME | --list" >&2
  echo "names: $(awk 'NF { printf "%s ", $1 }' <<<"$TOOLS")" >&2
  exit 2
}

program() { # the program inside a tool's folder
  case "$1" in
    s3) echo bin/s3s-fs ;;
    azurite) echo node_modules/.bin/azurite-blob ;;
    gcs) echo bin/fake-gcs-server ;;
    registry) echo bin/registry ;;
  esac
}

build() { # kind source version into
  local kind=$1 source=$2 version=$3 into=$4
  case "$kind" in
    cargo)
      # Own target folder: the workspace's lock stays free while this compiles.
      CARGO_TARGET_DIR="$into.target" nice -n 10 cargo install --quiet --locked --root "$into" \
        --version "$version" --features binary "$source"
      rm -rf "$into.target"
      ;;
    go) GOBIN="$into/bin" GOFLAGS=-buildvcs=false CGO_ENABLED=0 nice -n 10 go install "$source@$version" ;;
    npm) nice -n 10 npm install --silent --no-audit --no-fund --fetch-retries 5 --prefix "$into" "$source@$version" ;;
  esac
}

# A registry that refuses once is asked again: a test that needs the tool would fail for it.
build_patiently() { # as build
  local attempt
  for attempt in 1 2 3; do
    build "$@" && return
    echo "tools.sh: attempt $attempt to install $2 $3 failed" >&2
    sleep $((attempt * 5))
  done
  return 1
}

[ $# -eq 1 ] || usage
if [ "$1" = --list ]; then
  awk 'NF { print $1, $2 }' <<<"$TOOLS"
  exit 0
fi

row=$(awk -v name="$1" '$1 == name' <<<"$TOOLS")
[ -n "$row" ] || usage
read -r name version kind source <<<"$row"
home="$root/$name-$version"

if [ ! -d "$home" ]; then
  mkdir -p "$root"
  exec 9>"$root/.$name.lock"
  flock 9
  if [ ! -d "$home" ]; then # nobody built it while we waited
    work=$(mktemp -d "$root/.$name.XXXXXX")
    # What fails in the trap would be this script's status: after a success there is nothing left.
    trap 'chmod -R u+w "$work" "$work.target" 2>/dev/null || true; rm -rf "$work" "$work.target"' EXIT
    (cd "$root" && build_patiently "$kind" "$source" "$version" "$work") >&2
    [ -x "$work/$(program "$name")" ] || { echo "tools.sh: $name $version has no program" >&2; exit 1; }
    mv "$work" "$home"
  fi
fi
echo "$home/$(program "$name")"
