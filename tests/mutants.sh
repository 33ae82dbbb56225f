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
  tree=$dir/tree-$job
  [ -d "$tree" ] || git clone --quiet . "$tree"
  commit=$(git -C "$dir/tree-0" rev-parse HEAD)
  git -C "$tree" checkout --quiet --force "$commit"
done
echo "mutants of commit ${commit:0:10}, seed $SEED"

examined=()
for room in format tree log store vdi engine; do examined+=(--file "vdi-core/src/$room/**"); done
options=(--package vdi-core --features sim --no-config --no-shuffle --colors never "${examined[@]}")

# The sample: those whose names, with the seed, have the smallest hashes.
if [ ! -s "$dir/sample" ]; then
  (cd "$dir/tree-0" && cargo mutants --list "${options[@]}") | while read -r name; do
    echo "$(md5sum <<<"$SEED $name" | cut -c1-16) $name"
  done | sort >"$dir/all"
  head -n "$SAMPLE" "$dir/all" | cut -d' ' -f2- >"$dir/sample"
  echo "$(wc -l <"$dir/all") mutants, of which $(wc -l <"$dir/sample") are tried"
fi

# Adds the outcomes of all runs so far to `outcomes`: outcome, tab, mutant.
collect() {
  local what
  for what in caught missed timeout unviable; do
    cat "$dir"/out-*/mutants.out*/"$what.txt" 2>/dev/null | sed "s/^/$what\t/" >>"$dir/outcomes" || true
  done
  touch "$dir/outcomes"
  sort -u -o "$dir/outcomes" "$dir/outcomes"
}
collect
rm -rf "$dir"/out-*
cut -f2- "$dir/outcomes" | grep -vxFf - "$dir/sample" >"$dir/left" || true
echo "$(wc -l <"$dir/left") left"

started=$SECONDS
export PARALLAX_SIM_CYCLES=5000 NEXTEST_PROFILE=mutants
for ((job = 0; job < JOBS; job++)); do
  mapfile -t mine < <(awk "NR % $JOBS == $job" "$dir/left" | sed 's/[][\\.*^$+?(){}|/]/\\&/g; s/.*/^&$/')
  [ ${#mine[@]} -gt 0 ] || continue
  (
    cd "$dir/tree-$job"
    export CARGO_TARGET_DIR=$dir/build-$job
    nice -n 10 cargo mutants "${options[@]}" "${mine[@]/#/--re=}" --in-place --baseline skip --timeout 400 \
      --build-timeout 400 --test-tool nextest --output "$dir/out-$job" --no-times -- --lib || true
  ) &
done
wait
collect

count() { grep -c "^$1" "$dir/outcomes" || true; }
caught=$(($(count caught) + $(count timeout)))
tried=$((caught + $(count missed)))
left=$(cut -f2- "$dir/outcomes" | grep -vcxFf - "$dir/sample" || true)
echo "survivors:"
sed -n 's/^missed\t/  /p' "$dir/outcomes"
echo "$caught of $tried caught ($((tried > 0 ? 100 * caught / tried : 0)) %), $(count unviable) did not build, $left left"
if [ "$left" = 0 ]; then
  setup/ledger.sh mutants "" "$tried" "$tried" $((SECONDS - started)) $((tried - caught))
fi
