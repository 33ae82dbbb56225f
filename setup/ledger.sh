#!/usr/bin/env bash
# ledger.sh FAMILY LOG CASES FAULTS SECONDS FAILURES : one row in tests/ledger.csv for a long run that happened. Runs of less
# than a minute, and runs of sources that no commit names, are not noted.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$5" -ge 60 ] || exit 0
sources="vdi-core vhost-parallax qemu-harness tests/src tests/tests tests/examples fuzz fuzz-targets"
existing=$(for path in $sources; do [ ! -e "$path" ] || echo "$path"; done)
# shellcheck disable=SC2086
if [ -n "$(git status --porcelain -- $existing)" ]; then
  echo "not in the ledger: the sources are not those of a commit"
  exit 0
fi
ledger=tests/ledger.csv
[ -f $ledger ] || echo "date,commit,family,log,cases,faults,seconds,failures" >$ledger
row="$(date -u +%F),$(git rev-parse --short=10 HEAD),$1,$2,$3,$4,$5,$6"
echo "$row" >>$ledger
echo "ledger: $row"
