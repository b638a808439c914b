#!/usr/bin/env bash
# Builds the program without std, makes sure that there is none in it, runs it, and prints its size.
set -euo pipefail
cd "$(dirname "$0")/no-std"

# The program has a panic handler of its own, so it would not build if any of its crates asked for std, which brings one.
target=${CARGO_TARGET_DIR:-$PWD/target}/no-std
CARGO_TARGET_DIR=$target cargo build --release
program=$target/release/gopark-no-std

symbols=$(nm -C "$program")
if ! grep -q gopark_core:: <<< "$symbols"; then
    echo "no-std: nm shows no names, so it cannot show that std is absent" >&2
    exit 1
fi
if grep -E '\bstd::|_Unwind_' <<< "$symbols"; then
    echo "no-std: $program has the above of std or of an unwinder" >&2
    exit 1
fi

output=$(timeout 60 "$program")
if [ "$output" != OK ]; then
    echo "no-std: it printed '$output' instead of OK" >&2
    exit 1
fi

strip -o "$program.stripped" "$program"
echo "no-std: OK, $(stat -c %s "$program.stripped") bytes"
