#!/usr/bin/env bash
# fio.sh OUT : a static fio as OUT/fio, built from Debian's source package.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
out=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "$here/private-apt.sh"

cd "$work"
{ apt-get source -qq --download-only fio && apt-get download -qq libaio-dev; } >download.log 2>&1 ||
  { tail -5 download.log >&2; exit 1; }
dpkg -x libaio-dev_*.deb libaio
export LIBRARY_PATH=$work/libaio/usr/lib/x86_64-linux-gnu
tar xzf fio_*.orig.tar.gz
cd fio-*/
./configure --build-static --disable-{numa,rdma,rados,rbd,http,gfapi,libnfs,pmem,xnvme,libzbc,tcmalloc,dfs,lex,native} \
  --extra-cflags="-Os -I$work/libaio/usr/include" >configure.log 2>&1 || { tail configure.log >&2; exit 1; }
nice -n 5 make -j"$(nproc)" fio >make.log 2>&1 || { tail make.log >&2; exit 1; }
mkdir -p "$out"
strip -o "$out/fio" fio
