#!/usr/bin/env bash
# run.sh ROOT : fuzz the targets in $FUZZ (all when empty) for $SECONDS_EACH seconds each of processor time, from and into the
# grown corpus under target/fuzz-corpus, which starts as the committed one. Needs the nightly toolchain; `make fuzz` calls it.
set -euo pipefail
cd "$1"
engine="store-image log-image operations"
front_end="inflight request-path vhost-user-stream control-api"
seconds=${SECONDS_EACH:-60}
targets=${FUZZ:-$engine $front_end}
triple=$(rustc -vV | sed -n 's/^host: //p')
memory_mb=2048

coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"

# The engine's targets run without the address sanitizer: their code has no pointers, and runs three times as fast.
kind_of() { case " $front_end " in *" $1 "*) echo front-end ;; *) echo engine ;; esac; }
build() { # NAME
  local kind flags features
  kind=$(kind_of "$1")
  if [ "$kind" = engine ]; then flags=$coverage features=""; else flags="$coverage -Zsanitizer=address" features="--features front-end"; fi
  # shellcheck disable=SC2086
  RUSTFLAGS=$flags CARGO_TARGET_DIR=target/fuzz-$kind \
    cargo +nightly build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target "$triple" $features --bin "$1"
}

TIMEFORMAT='%0U %0S'
runs_in() { awk '/^stat::number_of_executed_units:/ { runs += $2 } END { print runs + 0 }' "$1"; }

failed=0
for name in $targets; do
  [ -f "fuzz/fuzz_targets/${name//-/_}.rs" ] || { echo "fuzz: no target '$name'; there are $engine $front_end" >&2; exit 2; }
  build "$name"
  grown=target/fuzz-corpus/$name
  crashes=target/fuzz-crashes/$name
  log=target/fuzz-corpus/$name.log
  mkdir -p "$grown" "$crashes"
  echo "fuzz: $name for $seconds s; corpus: $(find "$grown" -type f | wc -l) grown, $(find "fuzz/corpus/$name" -type f | wc -l) committed"
  left=$seconds status=0
  # By its own clock: what else the machine does takes nothing from a target's share.
  : >"$log"
  while [ "$left" -gt 0 ] && [ "$status" = 0 ]; do
    { time { ASAN_OPTIONS=detect_leaks=1:handle_sigbus=0 "target/fuzz-$(kind_of "$name")/$triple/release/$name" "$grown" "fuzz/corpus/$name" \
      -artifact_prefix="$crashes/" -max_total_time="$left" -max_len=2048 -len_control=20 -timeout=25 -rss_limit_mb=$memory_mb \
      -handle_bus=0 -reload=0 -print_final_stats=1 >>"$log" 2>&1 || status=$?; }; } 2>"$log.time"
    read -r user system < <(tail -n 1 "$log.time")
    left=$((left - user - system - 1))
  done
  took=$((seconds - left))
  runs=$(runs_in "$log")
  edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | awk '{print $2}')
  echo "fuzz: $name: $runs runs in $took s of processor time, ${edges:-0} edges, $(find "$grown" -type f | wc -l) inputs"
  found=0
  # What libFuzzer ends with when it is told to stop.
  if [ "$status" = 72 ]; then
    echo "fuzz: $name was interrupted"
    failed=1
  elif [ "$status" != 0 ]; then
    found=1 failed=1
    grep -E 'panicked at|ERROR: |SUMMARY: ' -A2 "$log" | head -12 || tail -5 "$log"
    input=$(sed -n "s/.*Test unit written to //p" "$log" | tail -1)
    echo "fuzz: $name FAILED; its log: $log"
    [ -z "$input" ] || echo "fuzz: again with: make fuzz FUZZ=$name INPUT=$input"
  fi
  [ "$runs" = 0 ] || setup/ledger.sh "fuzz:$name" "" "$runs" 0 "$took" "$found"
  [ "$status" != 72 ] || break
done
exit $failed
