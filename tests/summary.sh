#!/usr/bin/env bash
# summary.sh LOG SKIPPED STATUS : the last lines of `make test`. Lists what was skipped; under CI a skip
# that tests/expected-skips.txt does not name is a failure.
set -euo pipefail
log=$1 skipped=$2 status=$3
expected="$(dirname "$0")/expected-skips.txt"
passed=$(awk '/^test result:/{n += $4} END{print n + 0}' "$log")
failed=$(awk '/^test result:/{n += $6} END{print n + 0}' "$log")
skips=0 unexpected=0
while IFS=$'\t' read -r name reason; do
  [ -n "$name" ] || continue
  skips=$((skips + 1))
  if grep -qxF "$name" <(sed 's/[[:space:]]*#.*//' "$expected"); then
    echo "SKIPPED $name: $reason"
  else
    unexpected=$((unexpected + 1))
    echo "SKIPPED (unexpected) $name: $reason"
  fi
done < <(sort -u "$skipped")
if [ "$unexpected" != 0 ] && [ -n "${CI:-}" ]; then status=1; fi
if [ "$passed" = 0 ]; then status=1; fi
# A test that skips itself counts as passed for cargo.
echo "$((passed - skips)) passed, $failed failed, $skips skipped"
exit "$status"
