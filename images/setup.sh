#!/usr/bin/env bash
# The guest image of the tests and the demo, made once into target/tools/guest: kernel, fio, initramfs.
# Each part is stamped with its version here and its recipe's checksum, and not made again while those
# stand: a newer kernel in the archive changes nothing until a version below is raised.
# PARALLAX_GUEST_DIR puts it elsewhere (several checkouts can share one).
set -euo pipefail
here=$(dirname "$(realpath "$0")")
out=${PARALLAX_GUEST_DIR:-$here/../target/tools/guest}
kernel_version=1 fio_version=1 initramfs_version=1

if [ "$(uname -m)" != x86_64 ] || ! command -v apt-get >/dev/null; then
  echo "setup: no guest image: the recipe needs Debian on x86_64; tests that boot a guest will skip"
  exit 0
fi
[ ! -x "$here/../setup/apt.sh" ] || "$here/../setup/apt.sh"
mkdir -p "$out"
exec 9>"$out/lock"
flock 9

stamp() { # stamp VERSION FILE...
  { echo "$1"; shift; (cd "$here" && sha256sum "$@"); } | sha256sum | cut -d' ' -f1
}
make_part() { # make_part NAME STAMP TEXT COMMAND...
  local name=$1 stamp=$2 text=$3
  shift 3
  [ "$(cat "$out/$name.stamp" 2>/dev/null || true)" != "$stamp" ] || return 0
  echo "setup: $text"
  rm -f "$out/$name.stamp"
  "$@"
  echo "$stamp" >"$out/$name.stamp"
}
kernel=$(stamp $kernel_version kernel.sh private-apt.sh vmlinux.py)
fio=$(stamp $fio_version fio.sh private-apt.sh)
initramfs=$(stamp "$initramfs_version $kernel $fio" initramfs.sh init)
make_part kernel "$kernel" "fetching the guest kernel, Debian linux-image-cloud-amd64 (about 10 seconds)" "$here/kernel.sh" "$out"
make_part fio "$fio" "building a static fio for the guest from Debian source (about 40 seconds)" "$here/fio.sh" "$out"
make_part initramfs "$initramfs" "packing the guest's initramfs (1 second)" "$here/initramfs.sh" "$out"
