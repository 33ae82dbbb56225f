#!/usr/bin/env bash
# mutants.sh DIR : what `make mutants` needs besides, at fixed versions, built once into DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1
install() {
  local have
  have=$("$dir/bin/$1" "$2" --version 2>/dev/null | awk 'NR == 1 {print $2}' || true)
  [ "$have" != "$3" ] || return 0
  echo "setup: building $1 $3 into $dir (about $4 minutes on 2 cores, once)"
  mkdir -p "$dir"
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  CARGO_TARGET_DIR=$build nice -n 5 cargo install "$1" --version "$3" --locked --force --quiet --root "$dir"
  rm -rf "$build"
}
install cargo-mutants mutants 27.1.0 3
install cargo-nextest nextest 0.9.114 6
