#!/usr/bin/env bash
# Runs every workload of bench/ once, for 0.3 s, with gopark and the raw loop: the comparison works,
# and no figure is one. The programs are built without optimizations, in a folder of their own.
# BENCH_PEERS=1 also builds and runs the peers, optimized as far as their manifests say.
#
# It needs Rust stable. gcc, python3, openssl and strace are installed if they are missing.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

need() {
    command -v "$1" > /dev/null && return
    [ "$(id -u)" = 0 ] && ci/install.sh "$2"
    command -v "$1" > /dev/null
}

export BENCH_BUILD=${CARGO_TARGET_DIR:-$PWD/target}/bench-once
export ROUNDS=1 SECS=0.3 WARMUP=0.1 GATE=0 NICE=0 BURST=1000 IDLE=1000 COUNT=2000 PROFILE=default
parts=(load raw gopark)
if [ "${BENCH_PEERS:-0}" = 1 ]; then
    parts+=(rust go)
else
    export ONLY=gopark,raw2
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=false
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
fi
log=$(mktemp)
drawn=$(mktemp -d)
trap 'rm -rf "$log" "$drawn"' EXIT
passed=0
failed=0
skipped=0

check() {
    if "${@:2}" > "$log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $1"
        tail -n 30 "$log"
    fi
}

skip() {
    skipped=$((skipped + 1))
    echo "skipped $1: $2 cannot be installed"
}

# Whether a workload succeeds, and prints a row of gopark's that matches $2.
prints() {
    local table
    table=$(bench/run.sh "$1") && echo "$table" && grep -qE "$2" <<< "$table"
}

for program in gcc python3; do
    if ! need "$program" "$program"; then
        skip "all workloads" "$program"
        echo "$skipped skipped"
        echo "0 passed, 0 failed"
        exit
    fi
done
check "layout" cargo fmt --package gopark-programs --check \
    --manifest-path bench/servers/gopark/Cargo.toml
check "layout of the peers" cargo fmt --all --check --manifest-path bench/servers/rust/Cargo.toml
for part in "${parts[@]}"; do
    check "build $part" bench/run.sh build "$part"
done
for workload in echo pinned churn idle burst deadline hot stalls http udp; do
    check "$workload" prints "$workload" '^\| gopark \| 1 \|'
done
check "micro" prints micro '^\| spawn_join_w2 \| ns \| [0-9]'
if need openssl openssl; then
    check "build tls" bench/run.sh build tls
    check "tls" prints tls '^\| gopark \| 1 \|'
else
    skip "tls" openssl
fi
if need strace strace; then
    check "syscalls" prints syscalls '^\| 50x64 \| gopark \|'
else
    skip "syscalls" strace
fi
check "draw" bench/run.sh chart draw "$drawn"
check "the charts show their data" diff -r --exclude data docs/charts "$drawn"

[ "$skipped" = 0 ] || echo "$skipped skipped"
echo "bench: $SECONDS s"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
