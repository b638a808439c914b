#!/usr/bin/env bash
# Fuzzes the state machines of core, the poller, and the reader of control messages.
# `ci/fuzz.sh [TARGET…]` replays the committed corpus of each target, fuzzes it for FUZZ_SECS (5)
# seconds more, and prints a table. Other modes:
#
#   ci/fuzz.sh coverage          counts the lines of the state machines that the corpora reach, and
#                                fails below 95 %
#   ci/fuzz.sh afresh [TARGET…]  fuzzes without the corpora, as ci/mutants.sh does to show what the
#                                fuzzer finds by itself
#   ci/fuzz.sh build [TARGET…]   builds the targets
#   ci/fuzz.sh corpus [TARGET…]  replaces the corpora by all inputs that add coverage, including
#                                those that earlier runs found
#
# The target `backend` runs each input over every poller except io_uring's. The script uses the
# nightly toolchain if there is one, and otherwise stable's unstable options.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=(
    polldesc waiter choice chan cancel locks futex timer_heap runq fdmutex tagptr backend control
)
machines=(
    polldesc.rs polldesc/cache.rs polldesc/deadline.rs polldesc/info.rs waiter.rs choice.rs
    chan.rs chan/arms.rs chan/buffer.rs select.rs locked_queue.rs mutex.rs rwlock.rs condvar.rs
    semaphore.rs wait_group.rs notify.rs timer.rs runq.rs fdmutex.rs fdmutex/leave.rs permits.rs
    cancel.rs withdraw.rs tagptr.rs futex.rs futex/hot.rs lock_wait.rs
)
secs=${FUZZ_SECS:-5}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
bins=$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/release
# A step takes one or two bytes, and longer programs reach no new states.
limits=(-max_len=64 -timeout=20 -print_final_stats=1)

toolchain=()
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    toolchain=(+nightly)
else
    export RUSTC_BOOTSTRAP=1
fi

mode=fuzz
case ${1:-} in coverage | afresh | build | corpus) mode=$1; shift ;; esac
chosen=("$@")
[ $# = 0 ] || targets=("$@")

# Unpacks the committed corpus of target $1 into folder $2, one input a file, as libFuzzer reads it.
unpack() {
    rm -rf "$2" && mkdir -p "$2" && python3 -B - "fuzz/corpus/$1.hex" "$2" <<'PYTHON'
import sys
for number, line in enumerate(open(sys.argv[1])):
    open(f"{sys.argv[2]}/{number:05}", "wb").write(bytes.fromhex(line))
PYTHON
}

# Packs the inputs in folder $1 into the corpus of target $2, the shortest first.
pack() {
    python3 -B - "$1" "fuzz/corpus/$2.hex" <<'PYTHON'
import os, sys
folder, corpus = sys.argv[1:]
inputs = {open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder)}
lines = [data.hex() for data in sorted(inputs, key=lambda data: (len(data), data)) if data]
open(corpus, "w").write("".join(line + "\n" for line in lines))
PYTHON
}

build() {
    command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
    local options=(--sanitizer none --no-trace-compares)
    if [ $# = 0 ]; then
        # One command links the targets on all CPUs.
        cargo "${toolchain[@]}" fuzz build "${options[@]}"
    fi
    local target
    for target; do
        cargo "${toolchain[@]}" fuzz build "${options[@]}" "$target"
    done
}

# Fuzzes target $1 from the inputs in the folders that follow. New inputs go into the first folder.
explore() {
    "$bins/$1" "${limits[@]}" -max_total_time="$secs" -artifact_prefix="$CARGO_TARGET_DIR/$1-" \
        "${@:2}"
}

replay_and_explore() {
    local inputs=$CARGO_TARGET_DIR/corpus/$1
    unpack "$1" "$inputs" && mkdir -p "$CARGO_TARGET_DIR/found/$1" &&
        "$bins/$1" "${limits[@]}" -runs=0 "$inputs" &&
        explore "$1" "$CARGO_TARGET_DIR/found/$1" "$inputs"
}

# Calls function $1 with each target, as many at once as there are CPUs, and prints a table.
each() {
    local target log replayed units result running=0 passed=0 failed=0 executions=0
    build "${chosen[@]}"
    mkdir -p "$CARGO_TARGET_DIR/logs"
    for target in "${targets[@]}"; do
        if [ "$running" = "$(nproc)" ]; then
            wait -n
            running=$((running - 1))
        fi
        (
            SECONDS=0 result=FAILED
            if "$1" "$target"; then result=passed; fi
            echo "result: $result"
            echo "after: $SECONDS s"
        ) >"$CARGO_TARGET_DIR/logs/$target" 2>&1 &
        running=$((running + 1))
    done
    wait
    printf '| target | replayed | executions | a second | after | result |\n'
    printf '|---|---|---|---|---|---|\n'
    for target in "${targets[@]}"; do
        log=$CARGO_TARGET_DIR/logs/$target
        stat() { sed -n "s/^$1: *//p" "$log" | tail -1; }
        replayed=0
        if [ "$1" = replay_and_explore ]; then replayed=$(wc -l <"fuzz/corpus/$target.hex"); fi
        result=$(stat result)
        units=$(stat stat::number_of_executed_units)
        executions=$((executions + ${units:-0}))
        printf '| %s | %s | %s | %s | %s | %s |\n' "$target" "$replayed" "$units" \
            "$(stat stat::average_exec_per_sec)" "$(stat after)" "$result"
        if [ "$result" = passed ]; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            grep -vE '^#|^INFO|^WARNING' "$log" | tail -20
        fi
    done
    echo "fuzz: $executions executions"
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}

fuzz() { each replay_and_explore; }

afresh() { each explore; }

corpus() {
    build "${chosen[@]}"
    local target all least
    for target in "${targets[@]}"; do
        all=$CARGO_TARGET_DIR/corpus/$target
        least=$CARGO_TARGET_DIR/least/$target
        unpack "$target" "$all"
        rm -rf "$least"
        mkdir -p "$least" "$CARGO_TARGET_DIR/found/$target"
        "$bins/$target" "${limits[@]}" -merge=1 "$least" "$all" "$CARGO_TARGET_DIR/found/$target" \
            2>/dev/null
        pack "$least" "$target"
        all=fuzz/corpus/$target.hex
        echo "$target: $(wc -l <"$all") inputs, $(wc -c <"$all") bytes"
    done
}

# Prints the folder with the tools of rustc's version of LLVM.
llvm() {
    local version
    version=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    [ -x "/usr/lib/llvm-$version/bin/llvm-cov" ] || ci/install.sh "llvm-$version" ||
        { echo "llvm-$version cannot be installed" >&2; return 1; }
    echo "/usr/lib/llvm-$version/bin"
}

coverage() {
    local tools dir=$CARGO_TARGET_DIR/coverage target objects=()
    tools=$(llvm)
    # The fuzz programs, instrumented by rustc in place of libFuzzer.
    (cd fuzz && RUSTFLAGS="--cfg fuzzing -Cinstrument-coverage" CARGO_TARGET_DIR=$dir cargo build \
        --release --quiet)
    rm -f "$dir"/*.profraw
    for target in "${targets[@]}"; do
        unpack "$target" "$CARGO_TARGET_DIR/corpus/$target"
        LLVM_PROFILE_FILE=$dir/$target.profraw \
            "$dir/release/$target" -runs=0 "$CARGO_TARGET_DIR/corpus/$target" 2>/dev/null
        objects+=(--object "$dir/release/$target")
    done
    "$tools/llvm-profdata" merge --sparse "$dir"/*.profraw --output "$dir/merged.profdata"
    "$tools/llvm-cov" export --format=lcov --instr-profile="$dir/merged.profdata" "${objects[@]}" \
        >"$dir/merged.lcov"
    python3 -B ci/coverage.py "$dir/merged.lcov" "$PWD/core/src" "${machines[@]}"
}

if [ "$mode" = build ]; then
    build "${chosen[@]}"
else
    "$mode"
fi
