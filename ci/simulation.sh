#!/usr/bin/env bash
# Runs the scheduler on simulated computers. First the scenarios, and SEEDS (40000) programs from
# FIRST_SEED (0) on, whose threads take turns at system calls. Then the scenarios again, and
# STEPS_SEEDS (20000) programs, whose threads take turns at every access to an atomic
# (RUSTFLAGS="--cfg steps"). Each program runs twice and must leave equal traces. The same flag
# shows the cache lines that Ms share: SHARING_PROCS (4) Ms work on real sockets.
#
# The script prints a seed that fails. `GOPARK_SEED=… cargo test --package gopark-tests --test
# simulation NAME -- --nocapture` repeats it with all its steps. Needs only cargo.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=${SEEDS:-40000}
first=${FIRST_SEED:-0}
# Programs in one process: poll descriptors and schedulers are never freed, so it grows with each.
batch=10000
# The programs run for a minute or two: a build with all optimisations takes longer than it saves.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export CARGO_PROFILE_RELEASE_DEBUG=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() {
    RUST_BACKTRACE=${RUST_BACKTRACE:-0} cargo test --release --quiet --package gopark-tests \
        --no-default-features --features epoll,poll --test simulation -- --nocapture "$@" 2>&1 |
        tee -a "$log" | { grep -E '^simulation: |panicked|error' || true; }
}

failed=0
programs() {
    run scenarios:: || failed=$((failed + 1))
    local start left running=0 # as many at once as there are CPUs
    for ((start = first; start < first + $1; start += batch)); do
        left=$((first + $1 - start))
        if [ "$running" = "$(nproc)" ]; then
            wait -n || failed=$((failed + 1))
            running=$((running - 1))
        fi
        GOPARK_FIRST_SEED=$start GOPARK_SEEDS=$((left < batch ? left : batch)) \
            run programs_keep_all_rules &
        running=$((running + 1))
    done
    for (( ; running > 0; running--)); do
        wait -n || failed=$((failed + 1))
    done
}

echo "turns at system calls: seeds $first to $((first + seeds - 1))"
programs "$seeds"
steps=${STEPS_SEEDS:-20000}
echo "turns at every access: seeds $first to $((first + steps - 1))"
export RUSTFLAGS="--cfg steps" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/steps
programs "$steps"
GOPARK_MAXPROCS=${SHARING_PROCS:-4} cargo test --release --quiet --package gopark-tests \
    --no-default-features --features epoll,poll --test sharing -- --nocapture 2>&1 |
    tee -a "$log" || failed=$((failed + 1))

awk '/^simulation: [0-9]+ seeds/ { seeds += $2; steps += $4; time += $6 }
     END { printf "simulation: %d programs, each run twice: %.0f steps, %.0f simulated seconds\n",
                  seeds, steps, time }' "$log"
sum() { grep -oE "[0-9]+ $1;" "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }
failures=$(sum failed)
# A process that was aborted has printed no count.
[ "$failures" -ge "$failed" ] || failures=$failed
echo "$(sum passed) passed, $failures failed"
[ "$failures" = 0 ]
