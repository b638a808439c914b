#!/usr/bin/env bash
# Builds minimal-echo, linked with the system's libc and static with musl. Checks that it has no std
# in it, that it is small on disk and in memory, and that it serves. Prints the figures of
# docs/minimal.md. Also builds and runs minimal-sum, which has channels and a mutex.
#
# It needs Rust stable, a C linker and binutils (nm); for the static program also `rustup`, or the
# target's library.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. ci/echo.sh
root=$PWD
cd backends/minimal-echo || exit

machine=$(uname -m)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/minimal-echo
# Bytes on disk without symbols, and KiB in memory after the start.
declare -A disk_max=([dynamic]=43008 [static]=47104)
declare -A moves=([dynamic]=stay [static]=move)
memory_max=512
connections=200
passed=0
failed=0

check() {
    if "${@:2}"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $kind: $1"
    fi
}

# Panic messages contain the paths of the sources. They are remapped, so that the size does not
# depend on the folder of the sources.
registry=$(echo "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/)
sources="'--remap-path-prefix=$root/=', '--remap-path-prefix=${registry%% *}='"
build() { cargo build --quiet --release --config "build.rustflags = [$sources]" "$@"; }

# Removes the symbols and the section table, which only tools read. GNU strip keeps the section
# table; Rust comes with LLVM's objcopy.
sysroot=$(rustc --print sysroot)
host=$(rustc -vV | sed -n 's/^host: //p')
strip_all() {
    LD_LIBRARY_PATH=$sysroot/lib "$sysroot/lib/rustlib/$host/bin/rust-objcopy" \
        --strip-sections "$1" "$2"
}

# The program's crates do not build with std, which has a second panic handler. A linker argument
# could still link it, so the symbols are checked.
is_without_std() {
    local symbols
    symbols=$(nm -C "$program")
    grep -q gopark_core:: <<< "$symbols" && ! grep -E '\bstd::|_Unwind_' <<< "$symbols"
}

status() { awk -v field="$1:" '$1 == field { print $2 }' "/proc/$server/status"; }

# Whether a command prints a line that matches $1 and ends by SIGABRT.
aborts_saying() {
    local said result
    said=$("${@:2}" 2>&1 > /dev/null)
    result=$?
    if [ "$result" != 134 ] || ! grep -qE "$1" <<< "$said"; then
        echo "$result: $said"
        return 1
    fi
}

# Runs the program with one argument, its output on one line.
on_one_line() {
    "$program.stripped" "$1" 2>&1 | tr '\n' ' ' >&2
    return "${PIPESTATUS[0]}"
}

small_address_space() { (ulimit -v "$1" && exec "$program.stripped" 1); }

adds_up() { [ "$(timeout 60 "$1")" = "10000 numbers, sum 50005000" ]; }

examine() {
    strip_all "$program" "$program.stripped"
    local disk memory anonymous
    disk=$(stat -c %s "$program.stripped")
    check "something of std is linked" is_without_std
    check "$disk bytes are more than ${disk_max[$kind]}" [ "$disk" -le "${disk_max[$kind]}" ]
    check "it does not start" serve "$program.said" "$program.stripped"
    memory=$(status VmRSS)
    anonymous=$(status RssAnon)
    # The pages of a shared libc belong to all programs that use it.
    if [ "$kind" = static ]; then
        check "$memory KiB of memory are more than $memory_max" [ "$memory" -le "$memory_max" ]
    else
        check "$anonymous KiB of private memory are more than $memory_max" \
            [ "$anonymous" -le "$memory_max" ]
    fi
    echo "sizes: $kind $disk bytes, $memory KiB resident after the start ($anonymous KiB private)"
    # libc.so has thread-locals, a static musl has none.
    check "goroutines do not ${moves[$kind]}" grep -qx "goroutines ${moves[$kind]}" "$program.said"
    check "$connections connections at once" echoes "$connections" "$port"
    check "a read deadline" drops_the_silent "$port" 1.9 4
    check "a port that is taken" \
        aborts_saying "panicked at src/main.rs:[0-9]+:[0-9]+:.*port $port: errno 98" \
        on_one_line "$port"
    kill "$server"
    wait "$server" 2> /dev/null
    check "an argument that is missing" aborts_saying 'usage: minimal-echo PORT' "$program.stripped"
    check "no room for stacks" \
        aborts_saying 'no address space for stacks: .*errno 12' small_address_space 12000
    check "channels and a mutex" adds_up "${program%echo}sum"
}

kind=dynamic
if build; then
    program=$CARGO_TARGET_DIR/release/minimal-echo
    examine
else
    failed=$((failed + 1))
fi

kind=static
target=$machine-unknown-linux-musl
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    rustup target add "$target" > /dev/null 2>&1
fi
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    echo "skipped static: rustup cannot install the library for $target"
elif build --target "$target"; then
    program=$CARGO_TARGET_DIR/$target/release/minimal-echo
    examine
else
    failed=$((failed + 1))
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
