#!/usr/bin/env bash
# Over every poller: lints, its unit tests, the conformance suite, and all behaviours of the runtime with 1, 2 and 4 procs, 1 and 2 pollers,
# goroutines that stay on their threads and goroutines that move. Then that two pollers, or none, are refused. It needs Rust stable and a C
# linker, and installs nothing.
#
#   ci/backends.sh [POLLER...]      all of them by default
set -uo pipefail
cd "$(dirname "$0")/.."

limit=300 # seconds for one suite; the slowest takes a quarter of a minute
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Runs a command. What it counts are the tests that it runs, or itself if it runs none.
check() {
    local name=$1 status=0 ok bad start=$SECONDS
    shift
    timeout --kill-after=10 "$limit" "$@" > "$log" 2>&1 || status=$?
    ok=$(tests passed)
    bad=$(tests failed)
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    elif [ "$status" = 0 ] && [ "$ok" = 0 ]; then
        ok=1
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
    printf '%-6s %5d passed %3d failed %4d s  %s\n' "$([ "$bad" = 0 ] && echo ok || echo FAILED)" "$ok" "$bad" $((SECONDS - start)) "$name"
    if [ "$bad" != 0 ]; then
        grep -v '\.\.\. ok$' "$log" | tail --lines=60
    fi
}

tests() { grep -oE "[0-9]+ $1;" "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }

# Whether the kernel lets this user make a ring: a test that does nothing else says it.
has_io_uring() {
    [ "$(cat /proc/sys/kernel/io_uring_disabled 2> /dev/null || echo 0)" != 2 ] &&
        cargo test --quiet --package gopark-backends --no-default-features --features io-uring --lib -- --exact io_uring::tests::a_ring_can_be_made > /dev/null
}

# The compiler refuses these features, and says what to do.
refuses() {
    ! cargo check --quiet --package gopark --no-default-features --features "$1" > "$log" 2>&1 && grep --quiet "$2" "$log" && grep --quiet 'default-features = false' "$log"
}
export -f refuses
export log

if [ $# -eq 0 ]; then
    set -- epoll epoll-level poll io-uring
fi
for poller in "$@"; do
    options=(--no-default-features --features "$poller")
    if [ "$poller" = io-uring ] && ! has_io_uring; then
        echo "skipped io-uring: the kernel refuses io_uring_setup (too old, seccomp, or kernel.io_uring_disabled)"
        continue
    fi
    suite() { check "$poller: $1" env "${@:3}" cargo test --package gopark-tests "${options[@]}" --test "$2"; }
    check "$poller: lints" cargo clippy --workspace --all-targets "${options[@]}" -- -D warnings
    check "$poller: unit tests" cargo test --package gopark-backends --package gopark-core --package gopark --lib "${options[@]}"
    suite "conformance" conformance
    suite "processes of their own" processes
    suite "descriptors" descriptors
    suite "counts" counts
    suite "what is seen and said" watched
    suite "starts and settings" starts
    suite "where the system shows little" blind
    suite "hangs" hangs
    suite "stacks" stacks
    suite "panics" panics
    suite "unwinding" unwinding
    suite "forks" forks
    suite "1 proc, 1 poller" one_proc
    suite "2 procs, 2 pollers" two_procs
    for pollers in 1 2; do
        suite "4 procs, $pollers poller(s)" four_procs GOPARK_TEST_POLLERS=$pollers
        suite "4 procs, $pollers poller(s), migrating" migrating GOPARK_TEST_POLLERS=$pollers
    done
done

check "two pollers are refused" bash -c 'for two in epoll,epoll-level epoll,poll epoll,io-uring epoll-level,poll epoll-level,io-uring poll,io-uring; do
    refuses "$two" "gopark has one poller" || exit 1
done'
check "no poller is refused" bash -c 'refuses "" "gopark has no poller"'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
