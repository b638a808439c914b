#!/usr/bin/env bash
# Tests for aarch64, under qemu's user emulation: the unit tests, the conformance suite, the
# behaviours of goroutines that migrate between four threads, descriptors, some of the simulation,
# and minimal-echo, dynamic and static. They show that the code for this processor is right:
# switches, stack pointers, layouts, unwinding. They do not show its memory order, since the
# emulator has that of this machine.
#
# The script needs root to install the cross compiler and qemu with apt, and `rustup`, or the
# target's library. It skips if they cannot be installed. The tests that the emulator makes
# impossible are left out by name.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. ci/echo.sh

target=aarch64-unknown-linux-gnu
static=aarch64-unknown-linux-musl
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/aarch64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=aarch64-linux-gnu-gcc
# Emulated code is slow, so it is optimised a little.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 RUST_BACKTRACE=0
limit=400 # seconds for one suite
filter=() # names that the tests of a suite must contain
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

skip() {
    echo "skipped: $1"
    echo "1 skipped"
    echo "0 passed, 0 failed"
    exit 0
}

need() {
    command -v "$1" > /dev/null || ci/install.sh "${@:2}"
    command -v "$1" > /dev/null || skip "$2 cannot be installed, so there is no $1"
}

has_library() {
    local library
    library=$(rustc --print sysroot)/lib/rustlib/$1/lib
    [ -d "$library" ] || rustup target add "$1" > /dev/null 2>&1
    [ -d "$library" ]
}

need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
need qemu-aarch64-static qemu-user-static
has_library "$target" || skip "rustup cannot install the library for $target"

# qemu records each reserved page. Stacks reserve terabytes unless the address space is limited.
emulator=(qemu-aarch64-static -R 64G -L /usr/aarch64-linux-gnu)
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="${emulator[*]}"

left_out=(
    # qemu does not pass madvise and limits of the address space to the kernel. Its mincore ignores
    # pages without access.
    reserved_memory_has_no_access_and_opened_memory_is_zeroed_without_huge_pages
    adjacent_opened_parts_form_one_mapping_even_when_used_and_guarded
    the_address_space_is_its_limit_or_that_of_locked_memory
    a_thread_that_cannot_start_is_an_error
    touched_pages_are_resident_and_guards_are_not
    # qemu adds a line to the output of an aborted process.
    a_futex_wake_that_the_kernel_refuses_aborts_with_a_message
    abort_prints_one_cut_line_and_raises_sigabrt
    a_request_on_a_closed_eventfd_aborts_with_a_message
    # qemu has no epoll_pwait2, and the fallback epoll_wait counts in milliseconds.
    a_short_delay_is_not_rounded_up_to_a_millisecond
    # qemu has no process_vm_readv, which copies stacks for a dump. The unwinder has unit tests.
    a_dump_of_a_parked_goroutine_shows_the_call_that_parked_it
    a_dump_of_a_reader_shows_the_read_and_its_callers
    a_dump_of_a_deep_stack_shows_its_innermost_frames
    # qemu returns four bytes of a socket's TCP_INFO.
    a_listener_queues_as_much_as_the_system_allows
    # qemu returns the earlier length of control data if a message has none, and leaves descriptors
    # open for which there was no room.
    a_buffer_that_is_used_again_closes_what_was_not_taken
    a_message_that_was_cut_leaks_no_descriptor
    # qemu has no socket options for the error queue.
    queues::
    # An emulated program cannot start another.
    accept_without_a_free_descriptor_leaves_the_connection_queued
    # What these add to the others is system calls, which the emulator changes (TCP_INFO, control
    # messages, pidfd_open), and not code for a processor.
    behaviours::copy::
    behaviours::descriptor::
    behaviours::dialer::
    behaviours::fs::
    behaviours::listen::
    behaviours::process::
    behaviours::serve::
    behaviours::signal::
    behaviours::udp::
    behaviours::unix::
    # These need more stacks at once than mprotect can guard.
    a_burst_of_spawns_overflows_into_the_global_queue_and_all_run
    fifty_thousand_sleepers_all_wake
)
options=()
for test in "${left_out[@]}"; do
    options+=(--skip "$test")
done

sum() { { grep -aoE "[0-9]+ $1;" "$log" || true; } | awk '{ sum += $1 } END { print sum + 0 }'; }

suite() {
    local name=$1 status=0 ok bad start=$SECONDS
    shift
    timeout --kill-after=10 "$limit" cargo test --target "$target" "$@" \
        -- "${filter[@]}" "${options[@]}" \
        > "$log" 2>&1 || status=$?
    ok=$(sum passed)
    bad=$(sum failed)
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
    printf '%-6s %5d passed %3d failed %4d s  %s\n' \
        "$([ "$bad" = 0 ] && echo ok || echo FAILED)" "$ok" "$bad" $((SECONDS - start)) "$name"
    [ "$bad" = 0 ] || grep -av '\.\.\. ok$' "$log" | tail --lines=60
}

# Whether the program echoes on 20 connections at once, reports whether goroutines move, and drops a
# silent connection.
serves() {
    echoes 20 "$port" && grep -qx "goroutines $1" "$log" && drops_the_silent "$port" 1.9 10
}

echo_server() {
    local name=$1
    local program=$CARGO_TARGET_DIR/$2/release/minimal-echo
    if (cd backends/minimal-echo && cargo build --quiet --release --target "$2") &&
        serve "$log" "${emulator[@]}" "$program" && serves "$3"; then
        passed=$((passed + 1))
        echo "ok     $name"
    else
        failed=$((failed + 1))
        echo "FAILED $name"
        cat "$log"
    fi
    [ -z "${server:-}" ] || kill "$server" 2> /dev/null
    wait 2> /dev/null
}

libraries=(--lib --package gopark-core --package gopark-backends --package gopark)
suites=(conformance migrating descriptors simulation)
if ! cargo test --quiet --no-run --target "$target" "${libraries[@]}" ||
    ! cargo test --quiet --no-run --target "$target" --package gopark-tests \
        "${suites[@]/#/--test=}"; then
    echo "0 passed, 1 failed"
    exit 1
fi
suite "unit tests" "${libraries[@]}"
# The limits of the emulator are known for this poller only.
filter=(epoll::)
suite "conformance" --package gopark-tests --test conformance
filter=()
suite "4 procs, migrating" --package gopark-tests --test migrating
suite "descriptors" --package gopark-tests --test descriptors
GOPARK_SEEDS=300 suite "simulation" --package gopark-tests --test simulation
echo_server "minimal-echo, dynamic" "$target" stay
if has_library "$static"; then
    echo_server "minimal-echo, static" "$static" move
else
    echo "skipped minimal-echo, static: rustup cannot install the library for $static"
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
