#!/bin/bash
# Installs the Debian packages the build, tests, demo and benchmarks need, only those that
# are missing, and says nothing when all are there. Needs root or sudo to install.
set -euo pipefail

packages=(
  # build: C compiler and linker named in .cargo/config.toml, and -sys crates
  build-essential clang mold pkg-config cmake
  # tests and demo: reference tools, images from packages
  attr erofs-utils e2fsprogs jq python3 tar xz-utils zstd mmdebstrap
  curl file libcap2-bin
  # other kernels (vmtest/)
  qemu-system-x86 cpio kmod busybox-static
  # Kubernetes on this machine (e2e/cluster): certificates, rules of services and policies, seccomp for runc
  openssl iptables ipset libseccomp-dev procps
  # benchmarks and shaped links
  fio iproute2 util-linux bubblewrap crun runc
)

# Wheels for the demo's image come through pip.
python3 -m pip --version > /dev/null 2>&1 || packages+=(python3-pip)
# The chart's tests and the stories read and write YAML.
python3 -c 'import yaml' 2> /dev/null || packages+=(python3-yaml)
# The registry is built with Go where Go is; Debian's own one does for the demo.
command -v go > /dev/null || packages+=(docker-registry)
command -v npm > /dev/null || packages+=(npm)

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "installing Debian packages: ${missing[*]}"
"${sudo[@]}" apt-get update -q
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"
