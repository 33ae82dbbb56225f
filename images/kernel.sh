#!/usr/bin/env bash
# kernel.sh OUT : Debian's cloud kernel as OUT/vmlinux (uncompressed ELF) and OUT/modules/ (virtio).
# QEMU boots the ELF directly through its PVH note, so nothing is decompressed inside the guest.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
out=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "$here/private-apt.sh"

package=$(apt-cache depends --no-recommends --no-suggests linux-image-cloud-amd64 |
  awk '/Depends: linux-image-[0-9]/{print $2; exit}')
[ -n "$package" ] || { echo "kernel.sh: apt knows no linux-image-cloud-amd64" >&2; exit 1; }
cd "$work"
apt-get download -qq "$package" >download.log 2>&1 || { tail -5 download.log >&2; exit 1; }
dpkg-deb --fsys-tarfile "$package"_*.deb | tar x --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/drivers/*'

mkdir -p "$out/modules"
for module in virtio/virtio_ring virtio/virtio virtio/virtio_pci_legacy_dev virtio/virtio_pci_modern_dev \
  virtio/virtio_pci char/virtio_console block/virtio_blk; do
  file=$(echo lib/modules/*/kernel/drivers/"$module".ko*)
  case $file in
    *.ko) cp "$file" "$out/modules/" ;;
    *.ko.xz) xz -dc "$file" >"$out/modules/$(basename "$module").ko" ;;
    *) echo "kernel.sh: $package has no module $module" >&2; exit 1 ;;
  esac
done
python3 "$here/vmlinux.py" boot/vmlinuz-* "$out/vmlinux"
echo "$package" >"$out/package"
