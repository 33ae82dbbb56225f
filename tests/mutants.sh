#!/usr/bin/env bash
# mutants.sh : which of a seeded sample of mutants of the engine its tests catch (SEED=1 SAMPLE=300 JOBS=2).
# Works on clones of HEAD under target/mutants; interrupted, it goes on with the commit it began with. FRESH=1 begins anew.
set -euo pipefail
cd "$(dirname "$0")/.."
SEED=${SEED:-1} SAMPLE=${SAMPLE:-300} JOBS=${JOBS:-2}
PATH=$PWD/target/tools/bin:$PATH
dir=$PWD/target/mutants/$SEED
[ -z "${FRESH:-}" ] || rm -rf "$dir"
mkdir -p "$dir"

for ((job = 0; job < JOBS; job++)); do
  [ -d "$dir/tree-$job" ] || git clone --quiet . "$dir/tree-$job"
  commit=$(git -C "$dir/tree-0" rev-parse HEAD)
  git -C "$dir/tree-$job" checkout --quiet --force "$commit"
done

rooms=()
for room in format tree log store vdi engine; do rooms+=(--file "vdi-core/src/$room/**"); done
options=(--package vdi-core --features sim --no-config --no-shuffle --colors never "${rooms[@]}")

# All mutants are dealt out to hands of ten; the sample is the hands whose numbers, with the seed, have the smallest hashes.
all=$(cd "$dir/tree-0" && cargo mutants --list "${options[@]}" | wc -l)
hands=$(((all + 9) / 10))
sample=$(for ((hand = 0; hand < hands; hand++)); do
  echo "$(md5sum <<<"$SEED $hand" | cut -c1-16) $hand"
done | sort | head -n $(((SAMPLE + 9) / 10)) | cut -d' ' -f2)
echo "$all mutants of commit ${commit:0:10}, of which about $SAMPLE are tried"

try_hand() {
  local tree=$1 hand=$2
  (cd "$tree" && nice -n 10 cargo mutants "${options[@]}" --shard "$hand/$hands" --sharding round-robin --in-place \
    --baseline skip --timeout 400 --build-timeout 400 --test-tool nextest --cargo-arg=--lib --no-times \
    --output "$tree/../hand-$hand.under-way" >"$tree/../log" 2>&1) || [ $? -le 3 ]
  mv "$dir/hand-$hand.under-way" "$dir/hand-$hand"
}

outcomes() { cat "$dir"/hand-*[0-9]/mutants.out/"$1.txt" 2>/dev/null || true; }
say() {
  caught=$(outcomes caught | wc -l) timeout=$(outcomes timeout | wc -l) missed=$(outcomes missed | wc -l)
  tried=$((caught + timeout + missed))
  echo "$((caught + timeout)) of $tried caught ($timeout by the clock), $(outcomes unviable | wc -l) did not build"
}

started=$SECONDS
export PARALLAX_SIM_CYCLES=5000 NEXTEST_PROFILE=mutants
for ((job = 0; job < JOBS; job++)); do
  (
    export CARGO_TARGET_DIR=$dir/build-$job
    nth=0
    for hand in $sample; do
      if [ $((nth++ % JOBS)) = "$job" ] && [ ! -d "$dir/hand-$hand" ]; then
        rm -rf "$dir/hand-$hand.under-way"
        try_hand "$dir/tree-$job" "$hand"
        say
      fi
    done
  ) &
done
wait

echo "survivors:"
outcomes missed
say
setup/ledger.sh mutants "" "$tried" "$tried" $((SECONDS - started)) "$missed"
