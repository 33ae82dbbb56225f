#!/usr/bin/env bash
# Is there a Rust new enough? Installs nothing: says what to run.
set -euo pipefail
cd "$(dirname "$0")/.."
want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! command -v cargo >/dev/null; then
  echo "Parallax needs Rust >= $want and found none. Install it with:" >&2
  echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" >&2
  exit 1
fi
have=$(rustc --version | awk '{print $2}')
if [ "$(printf '%s\n%s\n' "$want" "${have%%-*}" | sort -V | head -1)" != "$want" ]; then
  echo "Parallax needs Rust >= $want, this is $have. Run: rustup update stable" >&2
  exit 1
fi
for part in fmt clippy; do
  if ! cargo "$part" --version >/dev/null 2>&1; then
    echo "cargo $part is missing. Run: rustup component add rustfmt clippy" >&2
    exit 1
  fi
done
