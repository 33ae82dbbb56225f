#!/usr/bin/env bash
# What fuzzing needs besides: a nightly toolchain (coverage and sanitizer flags) and a C++ compiler (libFuzzer's own
# code, which the crate libfuzzer-sys brings at the version of fuzz/Cargo.lock). Installs nothing: says what to run.
set -euo pipefail
if ! cargo +nightly --version >/dev/null 2>&1; then
  echo "Fuzzing needs a nightly Rust, for nothing else. Run: rustup toolchain install nightly --profile minimal" >&2
  exit 1
fi
if ! command -v c++ >/dev/null; then
  echo "Fuzzing needs a C++ compiler. As root, run: apt-get install -y g++" >&2
  exit 1
fi
