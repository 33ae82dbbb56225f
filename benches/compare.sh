#!/usr/bin/env bash
# compare.sh A B: build the programs of two commits below target/compare and ask whether B is slower than A.
# A build is kept and used again. PARALLAX_BENCH_DIR is /dev/shm unless set: what is below 25 % needs a tmpfs.
set -euo pipefail
top=$(dirname "$(dirname "$(realpath "$0")")")
cd "$top"
[ $# = 2 ] && [ -n "$1" ] && [ -n "$2" ] || { echo "usage: make bench-compare A=COMMIT B=COMMIT" >&2; exit 2; }

programs() { # programs COMMIT: where its programs are
  local commit bins tree
  commit=$(git rev-parse --verify --quiet "$1^{commit}") || { echo "bench-compare: there is no commit '$1'" >&2; exit 2; }
  bins=target/compare/$commit tree=target/compare/tree
  if [ ! -x "$bins/vhost-parallax" ]; then
    echo "bench-compare: building $(git log -1 --format='%h %s' "$commit") (about 3 minutes)" >&2
    git worktree remove --force "$tree" 2>/dev/null || true
    git worktree add --quiet --detach "$tree" "$commit"
    (cd "$tree" && CARGO_TARGET_DIR=$top/target/compare/build cargo build --release --quiet -p vhost-parallax --bins) >&2
    mkdir -p "$bins"
    cp target/compare/build/release/{parallax,vhost-parallax} "$bins"
    git worktree remove --force "$tree"
  fi
  echo "$top/$bins"
}
a=$(programs "$1")
b=$(programs "$2")
[ -n "${PARALLAX_BENCH_DIR:-}" ] || [ ! -d /dev/shm ] || export PARALLAX_BENCH_DIR=/dev/shm
PARALLAX_BENCH_BUILDS="$a $b" cargo bench --quiet -p parallax-benches --bench two_builds
