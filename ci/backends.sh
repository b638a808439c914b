#!/usr/bin/env bash
# Runs the conformance suite and the behaviour suites over every poller: 1, 2 and 4 procs, one poller for all and one for each, goroutines that
# stay on their threads and goroutines that move. It needs Rust stable and a C linker, and installs nothing.
#
#   ci/backends.sh [POLLER...]      all of them by default
set -uo pipefail
cd "$(dirname "$0")/.."

suites=(conformance descriptors one_proc two_procs four_procs migrating)
limit=300 # seconds for one suite; the slowest takes a quarter of a minute
passed=0
failed=0

# Whether the kernel lets this user make a ring: a library test that does nothing else says it.
has_io_uring() {
    [ "$(cat /proc/sys/kernel/io_uring_disabled 2> /dev/null || echo 0)" != 2 ] &&
        cargo test --quiet --package gopark-backends --no-default-features --features io-uring --lib -- --exact io_uring::tests::a_ring_can_be_made > /dev/null
}

check() {
    local name=$1
    shift
    if timeout --kill-after=10 "$limit" "$@" > "$log" 2>&1; then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$name"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s\n' "$name"
        tail --lines=40 "$log"
    fi
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

if [ $# -eq 0 ]; then
    set -- epoll epoll-level poll io-uring
fi
for poller in "$@"; do
    options=(--no-default-features --features "$poller")
    if [ "$poller" = io-uring ] && ! has_io_uring; then
        echo "skipped io-uring: the kernel refuses io_uring_setup (too old, seccomp, or kernel.io_uring_disabled)"
        continue
    fi
    check "$poller: lints" cargo clippy --workspace --all-targets "${options[@]}" -- -D warnings
    check "$poller: unit tests" cargo test --package gopark-backends "${options[@]}"
    for suite in "${suites[@]}"; do
        check "$poller: $suite" cargo test --package gopark-tests "${options[@]}" --test "$suite"
    done
done

# One poller, no more and no less: the compiler says what to do.
refuses() {
    ! cargo check --package gopark --no-default-features --features "$1" 2> "$log" && grep --quiet "$2" "$log"
}
if refuses epoll,poll 'gopark has one poller' && refuses '' 'gopark has no poller'; then
    passed=$((passed + 1))
    echo "ok      two pollers, or none, are refused"
else
    failed=$((failed + 1))
    echo "FAILED  two pollers, or none, are not refused"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
