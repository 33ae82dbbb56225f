#!/usr/bin/env bash
# tools.sh DIR : cargo tools at fixed versions, built once into DIR, and the crates that they look at.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1
deny_version=0.20.2

have=$("$dir/bin/cargo-deny" --version 2>/dev/null | awk '{print $2}' || true)
if [ "$have" != "$deny_version" ]; then
  echo "setup: building cargo-deny $deny_version into $dir (about 3 minutes on 2 cores, once)"
  mkdir -p "$dir"
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  CARGO_TARGET_DIR=$build nice -n 5 cargo install cargo-deny --version "$deny_version" --locked --force --quiet --root "$dir"
fi

# A build fetches the crates of its own platform only; cargo-deny reads the manifests of all.
if ! cargo fetch --locked --offline --quiet 2>/dev/null; then
  echo "setup: fetching the crates of Cargo.lock (a few seconds)"
  cargo fetch --locked --quiet
fi
