#!/usr/bin/env bash
# Debian packages that build, test and demo need. Installs only what is missing; sudo only when not root.
set -euo pipefail
build="gcc libc6-dev make"
guest="busybox-static cpio e2fsprogs lz4 python3 qemu-system-x86 qemu-utils xfsprogs xz-utils zstd"

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is not Debian; make sure these are installed: $build $guest"
  exit 0
fi
missing=""
for package in $build $guest; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=" $package"
done
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "setup: as root, run: apt-get install -y$missing" >&2; exit 1; }
  sudo="sudo"
fi
echo "setup: installing$missing (about 1 minute)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
  # shellcheck disable=SC2086
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >"$log" 2>&1
}
install || { $sudo apt-get update -qq >/dev/null 2>&1 || true; install; } || { tail -20 "$log" >&2; exit 1; }
