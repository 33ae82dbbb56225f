#!/usr/bin/env bash
# initramfs.sh OUT : OUT/initramfs.cpio from OUT/modules, OUT/fio, init, busybox and the tools below.
# Not compressed: the guest would unpack it under emulation. Dynamic tools bring their libraries.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
out=$(realpath "$1")
PATH=$PATH:/usr/sbin:/sbin
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{bin,dev,proc,sys,tmp,modules,mnt,etc,lib64,lib/x86_64-linux-gnu,sbin}
busybox=$(command -v busybox)
if ldd "$busybox" >/dev/null 2>&1; then
  echo "initramfs.sh: $busybox is not static; install busybox-static" >&2
  exit 1
fi
cp "$busybox" "$root/bin/busybox"
cp "$here/init" "$root/init"
chmod 755 "$root/init"
cp "$out"/modules/*.ko "$root/modules/"
cp "$out/fio" "$root/sbin/fio"
cp /etc/mke2fs.conf "$root/etc/"
touch "$root/etc/mtab"
for tool in mke2fs e2fsck; do
  file=$(command -v "$tool")
  cp -L "$file" "$root/sbin/$tool"
  { ldd "$file" || true; } | awk '/=> \//{print $3} /^\t\/lib64/{print $1}' | while read -r library; do
    case $library in
      /lib64/*) cp -L "$library" "$root/lib64/" ;;
      *) cp -L "$library" "$root/lib/x86_64-linux-gnu/" ;;
    esac
  done
done
(cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc --reproducible -R 0:0 --quiet) \
  >"$out/initramfs.cpio"
