#!/usr/bin/env bash
# Runs the models of core/models with loom, and the search of core/tests/search.rs. Prints the
# executions of each model and their sum.
#
# LOOM_MAX_PREEMPTIONS (2) bounds how often an execution takes the CPU from a thread that can
# continue. Each step up takes about eight times as long. Models of single words get one preemption
# more. The largest models (`large`) get LOOM_LARGE_LESS (1) fewer than their group.
set -euo pipefail
cd "$(dirname "$0")/.."

bound=${LOOM_MAX_PREEMPTIONS:-2}
less=${LOOM_LARGE_LESS:-1}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0

# The flag changes every crate, so models have a target directory of their own.
models() {
    LOOM_MAX_PREEMPTIONS=$1 RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$CARGO_TARGET_DIR/loom \
        cargo test --release --quiet --package gopark-core --lib -- --nocapture "${@:2}" 2>&1 |
        tee -a "$log" | grep -v '^$' || failed=1
}
large=(
    chan::models::a_receive_gets_the_value_or_its_limit
    chan::models::a_send_is_received_or_its_limit
    select::models::a_select_of_two_receives
    select::models::a_select_takes_the_value_or_its_limit
    sched::models::a_submitter_that_relies_on_another_waker
    sched::models::two_submitted_goroutines
    blocking::models::each_of_two_sleeping_threads
    offered_to_an_m_that_wakes_for_another
    futex::models::a_broadcast_wakes_every_batch
    fdmutex::models::a_cancelled_reader
)
large_words=(
    fdmutex::models::three_readers
    waiter::models::a_waiter_is_handed_out_once
)
# Each step of these is a critical section, so one preemption more takes ten times as long.
locks=(
    rwlock:: semaphore:: once:: wait_group:: cancel:: futex::
    mutex::models::three_lockers mutex::models::two_waiters mutex::models::a_broadcast
)
models $((bound - less)) "${large[@]}"
models "$bound" sched:: blocking:: chan:: select:: "${locks[@]}" "${large[@]/#/--skip=}"
models $((bound + 1 - less)) "${large_words[@]}"
models $((bound + 1)) models:: --skip sched:: --skip blocking:: --skip chan:: --skip select:: \
    "${locks[@]/#/--skip=}" "${large[@]/#/--skip=}" "${large_words[@]/#/--skip=}"

cargo test --release --quiet --package gopark-core --test search -- --nocapture 2>&1 |
    tee -a "$log" || failed=1

sum() { grep -oE "[0-9]+ $1" "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }
grep -oE 'model [^ ]*: [0-9]+' "$log" | sort | awk '{ printf "%10d  %s\n", $3, $2 }' | sed 's/:$//'
models=$(grep -cE 'model .*executions' "$log" || true)
echo "loom: $models models, $(sum executions) executions; search: $(sum states) states"
passed=$(sum passed)
failures=$(sum failed)
if [ "$failed" != 0 ] && [ "$failures" = 0 ]; then
    failures=1
fi
echo "$passed passed, $failures failed"
[ "$failures" = 0 ]
