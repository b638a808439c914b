#!/usr/bin/env bash
# Runs the unit tests, the behaviours with four Ps, and the stress of tests/src/bin/stress.rs under
# ThreadSanitizer and AddressSanitizer. SANITIZED=all adds the other suites, the documentation's
# examples and some of the simulation. No report is allowed, and none is suppressed.
# `ci/sanitizers.sh thread` and `ci/sanitizers.sh address` run one of the two. Each stress takes
# STRESS_SECONDS (5). Two long tests of the suites, races of closes and stacks that shrink, make at
# most SANITIZED_ROUNDS (2000) rounds.
#
# ThreadSanitizer must see the atomics inside std, or every lock of std is a false report. So std is
# built from the sources that belong to the compiler. Debian has both, and the sanitizers' runtimes
# of the same LLVM. They are unpacked beside the build, not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-both}" in
    both) modes=(thread address) ;;
    thread | address) modes=("$1") ;;
    *) echo "sanitizers: '$1'? thread, address, or nothing for both" >&2 && exit 1 ;;
esac
target=${CARGO_TARGET_DIR:-$PWD/target}/sanitizers
seconds=${STRESS_SECONDS:-5}
export GOPARK_TEST_ROUNDS=${SANITIZED_ROUNDS:-2000}
# Many tests wait for a child process that waits. More tests than CPUs use the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
host=x86_64-unknown-linux-gnu
passed=0
failed=0
reports=0
asan= # options of AddressSanitizer for one run

give_up() {
    echo "sanitizers: $*" >&2
    echo "$passed passed, $((failed + 1)) failed"
    exit 1
}

# Prints the first dependency of package $1 that starts with $2.
dependency() {
    apt-cache depends "$1" |
        awk -v start="$2" '$1 == "Depends:" && index($2, start) == 1 { print $2; exit }'
}

unpack_toolchain() {
    local into=$1 std llvm
    [ "$(uname -m)" = x86_64 ] || give_up "only tried on x86_64"
    command -v apt-get > /dev/null || give_up "the toolchain comes with apt-get, which is missing"
    apt-cache show rustc-web libclang-rt-22-dev > /dev/null 2>&1 || apt-get update -q ||
        give_up "apt-get update failed: it needs root and the network"
    std=$(dependency libstd-rust-web-dev libstd-rust-web-)
    llvm=$(dependency "$std" libllvm)
    [ -n "$llvm" ] || give_up "the archive has no rustc-web with its std"
    mkdir -p "$into/deb"
    (cd "$into/deb" && apt-get download -q -o APT::Sandbox::User=root rustc-web rust-web-src \
        libstd-rust-web-dev "$std" "$llvm" "libclang-rt-${llvm#libllvm}-dev") ||
        give_up "apt-get download failed"
    for deb in "$into"/deb/*.deb; do
        dpkg -x "$deb" "$into"
    done
    rm -r "$into/deb"
    # rustc expects the runtimes under these names.
    for mode in asan tsan; do
        cp "$into"/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.$mode-x86_64.a \
            "$into/usr/lib/rustlib/$host/lib/librustc-stable_rt.$mode.a"
    done
    if LD_LIBRARY_PATH=$into/usr/lib/x86_64-linux-gnu ldd "$into/usr/bin/rustc" |
        grep -q 'not found'; then
        apt-get install -q -y --no-install-recommends "$llvm" ||
            give_up "the libraries of LLVM cannot be installed"
    fi
}

# The linker, and addr2line, which finds names and lines for reports.
if ! command -v cc addr2line > /dev/null; then
    apt-get install -q -y --no-install-recommends gcc libc6-dev binutils ||
        give_up "gcc and binutils are missing"
fi
toolchain=$target/toolchain
if [ ! -d "$toolchain" ]; then
    rm -rf "$toolchain.part"
    unpack_toolchain "$toolchain.part"
    mv "$toolchain.part" "$toolchain"
fi
export RUSTC=$toolchain/usr/bin/rustc RUSTDOC=$toolchain/usr/bin/rustdoc
export LD_LIBRARY_PATH=$toolchain/usr/lib/x86_64-linux-gnu
export RUSTC_BOOTSTRAP=1 RUST_BACKTRACE=0

# Tests of limits of the address space: a sanitizer's shadow memory takes terabytes of it.
skipped=(
    a_thread_that_cannot_start_is_an_error
    running_out_of_address_space_fails_the_spawn_and_nothing_else
    the_address_space_is_its_limit_or_that_of_locked_memory
    failed_starts_take_no_address_space_from_the_one_that_succeeds
)
# The simulation leaks the computers that it abandons. It runs separately under AddressSanitizer,
# without a leak check.
skipped+=(scenarios:: programs_keep_all_rules)
# ThreadSanitizer needs more than the 8 KiB that std gives a signal handler, and it keeps one
# thread. In the other tests one thread makes many steps, in which it has nothing to find.
# shellcheck disable=SC2034 # `own` refers to it by name
skipped_thread=(
    an_overflow_of_an_ordinary_thread_is_still_reported_by_std
    a_start_that_fails_leaves_no_handler_no_file_no_thread_and_no_setting
    fuzz::
    timer::tests::it_agrees_with_a_sorted_list
    random_bytes_and_registers_do_no_harm
    a_vectored_call_stays_below_the_limit
)
# shellcheck disable=SC2034
skipped_address=()

sum() { { grep -aoE "[0-9]+ $1" "$2" || true; } | awk '{ sum += $1 } END { print sum + 0 }'; }

# Runs a command, shows what it prints, adds up the tests it has run, and counts reports as
# failures.
count() {
    local name=$1 folder=$target/reports log=$target/log status=0
    shift
    rm -rf "$folder" && mkdir -p "$folder"
    # A test may provoke a fault to see gopark's own report of it.
    local options=handle_segv=0:handle_abort=0:log_path=$folder/report
    options+=:external_symbolizer_path=$(command -v addr2line)
    # Each process waits for races at its exit, by default for a second.
    TSAN_OPTIONS=$options:atexit_sleep_ms=50 ASAN_OPTIONS=$options:$asan "$@" 2>&1 | tee "$log" |
        grep -a --line-buffered -vE '^(test .* ok|)$' || status=${PIPESTATUS[0]}
    local tests failures found
    tests=$(sum passed "$log")
    failures=$(sum failed "$log")
    found=$(find "$folder" -type f | wc -l)
    if [ "$found" != 0 ]; then
        head -n 100 "$folder"/*
    fi
    if [ "$status" != 0 ] && [ $((failures + found)) = 0 ]; then
        failures=1
    fi
    passed=$((passed + tests))
    failed=$((failed + failures + found))
    reports=$((reports + found))
    echo "sanitizers: $name: $tests passed, $failures failed, $found reports"
}

# Runs the stress, which counts as one test.
stress() {
    timeout $((seconds + 330)) "$@" && echo "1 passed"
}

# Cargo unites the features of the packages that it builds. With the same packages in each command,
# it builds each of them once.
packages=(--package gopark-backends --package gopark --package gopark-tests --no-default-features)
for feature in epoll epoll-level poll backtrace std-locks; do
    packages+=(--features "gopark-tests/$feature")
done
programs=(--features gopark-tests/programs)
if [ "${SANITIZED:-}" = all ]; then
    suites=(--tests "${programs[@]}")
else
    # These run no programs, so only the stress is built.
    suites=(--lib --test four_procs --test unwinding)
fi

for mode in "${modes[@]}"; do
    export CARGO_TARGET_DIR=$target/$mode
    export RUSTFLAGS="-Zsanitizer=$mode --cfg gopark_sanitize=\"$mode\""
    export RUSTDOCFLAGS=$RUSTFLAGS
    cargo=(--target "$host")
    declare -n own=skipped_$mode
    skip=()
    for test in "${skipped[@]}" "${own[@]}"; do
        skip+=(--skip "$test")
    done
    if [ "$mode" = thread ]; then
        cargo+=(-Zbuild-std)
    fi
    # A leak check reads the stacks of parked goroutines, but not the frames that the check for uses
    # after return keeps elsewhere, so only one of the two is on. Core's unit tests leave goroutines
    # in queues, so they have no leak check. Core's other test, the search, runs no code of gopark.
    asan=detect_stack_use_after_return=0:detect_leaks=0 \
        count "$mode, core" cargo test "${cargo[@]}" --package gopark-core --lib -- "${skip[@]}"
    asan=detect_stack_use_after_return=0 \
        count "$mode, suites" cargo test "${cargo[@]}" --no-fail-fast "${packages[@]}" \
        "${suites[@]}" -- "${skip[@]}"
    # With a std that is built here, rustdoc compiles each example of the documentation alone, which
    # takes minutes. They are short, and the suites do what they do, so one sanitizer runs them.
    if [ "$mode" = address ] && [ "${SANITIZED:-}" = all ]; then
        asan=detect_stack_use_after_return=0 \
            count "$mode, documentation" \
            cargo test "${cargo[@]}" --no-fail-fast "${packages[@]}" --doc
        asan=detect_stack_use_after_return=0:detect_leaks=0 GOPARK_SEEDS=300 \
            count "$mode, simulation" \
            cargo test "${cargo[@]}" "${packages[@]}" --test simulation
    fi
    cargo build --quiet "${cargo[@]}" "${packages[@]}" "${programs[@]}" --bin stress
    program=$CARGO_TARGET_DIR/$host/debug/stress
    [ -x "$program" ] || give_up "the stress does not build"
    for kind in "" migrate; do
        asan=detect_stack_use_after_return=1:detect_leaks=0 \
            count "$mode, stress $kind" \
            stress "$program" "$seconds" $kind
    done
done

echo "sanitizers: $reports reports, no suppression file"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
