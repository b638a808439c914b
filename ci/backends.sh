#!/usr/bin/env bash
# Runs over every poller, in one build with all of them: the conformance suite, and all behaviours
# of the runtime with 1 and 4 procs, with 1 and 2 pollers, with goroutines that stay on their
# threads and with goroutines that migrate. BACKENDS_ALL=1 adds two more arrangements. Then lints
# and unit tests with each poller compiled in alone, and with none. It needs Rust stable and a C
# linker, and installs nothing.
#
#   ci/backends.sh [POLLER…]
#
# Without names it leaves out the suites over epoll that `cargo test` runs: epoll is its default.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

limit=300 # seconds for one suite; the slowest takes a minute and a half
# `cargo test` makes all rounds of the longest races.
export GOPARK_TEST_ROUNDS=${GOPARK_TEST_ROUNDS:-2000}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Runs a command, and counts the tests that it runs in $scratch/counts. A command without tests
# counts as one.
check() {
    local name=$1 status=0 ok bad start=$SECONDS log
    log=$(mktemp -p "$scratch")
    shift
    timeout --kill-after=10 "$limit" "$@" > "$log" 2>&1 || status=$?
    ok=$(tests passed)
    bad=$(tests failed)
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    elif [ "$status" = 0 ] && [ "$ok" = 0 ]; then
        ok=1
    fi
    echo "$ok $bad" >> "$scratch/counts"
    printf '%-6s %5d passed %3d failed %4d s  %s\n' \
        "$([ "$bad" = 0 ] && echo ok || echo FAILED)" "$ok" "$bad" $((SECONDS - start)) "$name"
    if [ "$bad" != 0 ]; then
        grep -v '\.\.\. ok$' "$log" | tail --lines=60
    fi
}

tests() { grep -oE "[0-9]+ $1;" "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }

# Whether the kernel lets this user make a ring. One test does only that.
has_io_uring() {
    [ "$(cat /proc/sys/kernel/io_uring_disabled 2> /dev/null || echo 0)" != 2 ] &&
        cargo test --quiet --package gopark-backends --no-default-features --features io-uring \
            --lib -- --exact io_uring::tests::a_ring_can_be_made > /dev/null
}

# Whether the start of a runtime without a poller fails and says what to do.
says_what_is_missing() {
    local said
    said=$(cargo run --quiet --package gopark --no-default-features --example echo -- \
        --addr 127.0.0.1:0 2>&1) && return 1
    echo "$said"
    grep --quiet "no poller is compiled in: turn on one of gopark's features" <<< "$said"
}
export -f says_what_is_missing

features=epoll,epoll-level,poll
if has_io_uring; then
    features+=,io-uring
else
    echo "skipped io-uring: the kernel refuses io_uring_setup (too old, seccomp, io_uring_disabled)"
fi
IFS=, read -r -a pollers <<< "$features"
whole=("$@") # the pollers with all suites
if [ $# = 0 ]; then
    set -- "${pollers[@]}"
    whole=("${pollers[@]:1}")
fi

# Runs some suites over one poller.
suite() {
    check "$poller: $1" env GOPARK_POLLER="$poller" "${@:3}" cargo test "${all[@]}" --test "$2"
}
suites_of() {
    local poller=$1
    suite "4 procs, 2 pollers" four_procs GOPARK_TEST_POLLERS=2
    suite "4 procs, 1 poller, migrating" migrating GOPARK_TEST_POLLERS=1
    suite "4 procs, 2 pollers, migrating" migrating GOPARK_TEST_POLLERS=2
    [[ " ${whole[*]} " == *" $poller "* ]] || return 0
    suite "processes of their own" processes
    suite "descriptors" descriptors
    suite "refusals" refusals
    suite "counts" counts
    suite "reports and dumps" watched
    suite "starts and settings" starts
    suite "systems that show little" blind
    suite "hangs" hangs
    suite "locks of std" std_locks
    suite "stacks" stacks
    suite "panics" panics
    suite "unwinding" unwinding
    suite "forks" forks
    suite "1 proc, 1 poller" one_proc
    [ "${BACKENDS_ALL:-0}" = 1 ] || return 0
    suite "2 procs, 2 pollers" two_procs
    suite "4 procs, 1 poller" four_procs
}

features+=,backtrace,std-locks,programs
all=(--package gopark-tests --no-default-features --features "$features")
check "all: lints" \
    cargo clippy --workspace --all-targets --features gopark-tests/io-uring -- -D warnings
check "all: build" cargo test "${all[@]}" --tests --no-run
check "all: conformance" cargo test "${all[@]}" --test conformance
# The suites wait more than they compute, so those of different pollers run side by side.
for poller in "$@"; do
    suites_of "$poller" &
done
wait

for poller in "$@"; do
    alone=(--package gopark-backends --package gopark --no-default-features --features "$poller")
    check "$poller alone: lints" cargo clippy --all-targets "${alone[@]}" -- -D warnings
    check "$poller alone: unit tests" cargo test --lib "${alone[@]}"
done
none=(--package gopark-backends --package gopark --no-default-features)
check "no poller: lints" cargo clippy --all-targets "${none[@]}" -- -D warnings
check "no poller: what a start says" bash -c says_what_is_missing

read -r passed failed < <(awk '{ ok += $1; bad += $2 } END { print ok, bad }' "$scratch/counts")
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
