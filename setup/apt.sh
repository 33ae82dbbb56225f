#!/usr/bin/env bash
# Debian packages that build, test and demo need. Installs only what is missing; sudo only when not root.
# It never removes a package that is not on this list.
set -euo pipefail
build="gcc libc6-dev make"
guest="busybox-static cpio e2fsprogs lz4 python3 qemu-system-x86 qemu-utils xfsprogs xz-utils zstd"

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is not Debian; make sure these are installed: $build $guest"
  exit 0
fi

missing() {
  local package
  for package in $build $guest; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo -n " $package"
  done
}

need=$(missing)
[ -n "$need" ] || exit 0
sudo=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "setup: as root, run: apt-get install -y$need" >&2; exit 1; }
  sudo="sudo"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# What installing $need would remove besides what is on our list.
would_remove() {
  local package
  # shellcheck disable=SC2086
  for package in $(apt-get install -s --no-install-recommends $need 2>/dev/null | awk '/^Remv/{print $2}'); do
    case " $build $guest " in *" $package "*) ;; *) echo -n " $package" ;; esac
  done
}

install() {
  # shellcheck disable=SC2086
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $need >"$log" 2>&1
}

echo "setup: installing$need (about 1 minute)"
# A second round: QEMU's packages must be of one version, so one from backports is replaced by Debian's own.
for round in 1 2; do
  need=$(missing)
  [ -n "$need" ] || break
  [ "$round" = 1 ] || echo "setup: installing again$need, to match the QEMU of this Debian"
  removed=$(would_remove)
  if [ -n "$removed" ]; then
    echo "setup: installing$need would remove$removed; install them yourself as you see fit, then run this again" >&2
    exit 1
  fi
  install || { $sudo apt-get update -qq >/dev/null 2>&1 || true; install; } || { tail -20 "$log" >&2; exit 1; }
done
