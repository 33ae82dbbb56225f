#!/usr/bin/env bash
# minimize.sh ROOT : of the grown corpus of each target in $FUZZ (all when empty), commit as few inputs as keep its
# coverage, and none larger than $BYTES_MAX; inputs whose names begin with a letter that is no hash digit stay.
set -euo pipefail
cd "$1"
triple=$(rustc -vV | sed -n 's/^host: //p')
for folder in fuzz/corpus/${FUZZ:-*}; do
  name=$(basename "$folder")
  # A target is built in one of the two folders only.
  binary=$(ls target/fuzz-{engine,front-end}/"$triple/release/$name" 2>/dev/null | head -1 || true)
  [ -n "$binary" ] && [ -d "target/fuzz-corpus/$name" ] || continue
  small=$(mktemp -d)
  "$binary" -merge=1 -max_len="${BYTES_MAX:-512}" -handle_bus=0 "$small" "fuzz/corpus/$name" "target/fuzz-corpus/$name" >/dev/null 2>&1
  find "fuzz/corpus/$name" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
  find "$small" -type f -size -"$(( ${BYTES_MAX:-512} / 512 + 1 ))" -exec cp -t "fuzz/corpus/$name" {} +
  rm -rf "$small"
  echo "fuzz: $name: $(find "fuzz/corpus/$name" -type f | wc -l) inputs, $(du -sb "fuzz/corpus/$name" | cut -f1) bytes"
done
