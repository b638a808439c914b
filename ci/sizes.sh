#!/usr/bin/env bash
# Builds minimal-echo, linked with the system's libc and static with musl; makes sure that there is no std in it, that it is small on disk and
# in memory, and that it serves. Prints the figures of docs/minimal.md.
#
# It needs Rust stable, a C linker and binutils (nm); for the static program also `rustup`, or the target's library.
set -uo pipefail
cd "$(dirname "$0")/../backends/minimal-echo"

machine=$(uname -m)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/minimal-echo
# Bytes on disk without symbols, and KiB in memory after the start.
declare -A disk_max=([dynamic]=40960 [static]=46080)
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

# The paths of sources are part of panic messages, and are not to make the size depend on where the sources are.
registry=$(echo "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/)
sources="'--remap-path-prefix=$(cd ../.. && pwd)/=', '--remap-path-prefix=${registry%% *}='"
build() { cargo build --quiet --release --config "build.rustflags = [$sources]" "$@"; }

# Neither symbols nor the table of sections, which only tools read. GNU strip leaves the latter; Rust brings LLVM's along.
sysroot=$(rustc --print sysroot)
host=$(rustc -vV | sed -n 's/^host: //p')
strip_all() { LD_LIBRARY_PATH=$sysroot/lib "$sysroot/lib/rustlib/$host/bin/rust-objcopy" --strip-sections "$1" "$2"; }

# Its crates would not build with std, which has a panic handler of its own; but one could link it without a word from Rust.
is_without_std() {
    local symbols
    symbols=$(nm -C "$program")
    grep -q gopark_core:: <<< "$symbols" && ! grep -E '\bstd::|_Unwind_' <<< "$symbols"
}

start() {
    for _ in {1..20}; do
        port=$((20000 + RANDOM % 10000))
        "$program.stripped" "$port" 2 > "$program.said" 2> /dev/null &
        server=$!
        for _ in {1..50}; do
            if ! kill -0 "$server" 2> /dev/null; then
                break # the port is somebody's
            fi
            if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then
                return 0
            fi
            sleep 0.1
        done
    done
    return 1
}

status() { awk -v field="$1:" '$1 == field { print $2 }' "/proc/$server/status"; }

# All are open before the first is asked.
echoes_to_many() {
    local fds=() fd said
    for _ in $(seq "$connections"); do
        exec {fd}<> "/dev/tcp/127.0.0.1/$port" || return 1
        fds+=("$fd")
    done
    for fd in "${fds[@]}"; do
        echo "hello $fd" >&"$fd"
    done
    for fd in "${fds[@]}"; do
        read -r -t 5 -u "$fd" said && [ "$said" = "hello $fd" ] || return 1
        exec {fd}>&-
    done
}

# A connection that says nothing is dropped after 2 seconds and not before 1.
drops_the_silent() {
    local began=$EPOCHREALTIME ended fd
    exec {fd}<> "/dev/tcp/127.0.0.1/$port" || return 1
    timeout 10 cat <&"$fd" || return 1
    exec {fd}>&-
    ended=$EPOCHREALTIME
    awk "BEGIN { took = $ended - $began; exit !(1.9 < took && took < 4) }"
}

# It says so with these words, and ends by SIGABRT.
aborts_saying() {
    local said result
    said=$("${@:2}" 2>&1 > /dev/null)
    result=$?
    [ "$result" = 134 ] && grep -qE "$1" <<< "$said" || { echo "$result: $said"; false; }
}

small_address_space() { (ulimit -v "$1" && exec "$program.stripped" 1); }

examine() {
    strip_all "$program" "$program.stripped"
    local disk memory anonymous
    disk=$(stat -c %s "$program.stripped")
    check "something of std is linked" is_without_std
    check "$disk bytes are more than ${disk_max[$kind]}" [ "$disk" -le "${disk_max[$kind]}" ]
    check "it does not start" start
    memory=$(status VmRSS)
    anonymous=$(status RssAnon)
    # The pages of a shared libc are everybody's.
    if [ "$kind" = static ]; then
        check "$memory KiB of memory are more than $memory_max" [ "$memory" -le "$memory_max" ]
    else
        check "$anonymous KiB of memory of its own are more than $memory_max" [ "$anonymous" -le "$memory_max" ]
    fi
    echo "sizes: $kind $disk bytes, $memory KiB resident after the start ($anonymous KiB its own)"
    # libc.so has thread-locals, a static musl has none.
    check "goroutines do not ${moves[$kind]}" grep -qx "goroutines ${moves[$kind]}" "$program.said"
    check "$connections connections at once" echoes_to_many
    check "a read deadline" drops_the_silent
    check "a port that is taken" aborts_saying "panicked at src/main.rs:[0-9]+:[0-9]+:.*port $port: errno 98" bash -c "'$program.stripped' $port 2>&1 | tr '\n' ' ' >&2; exit \${PIPESTATUS[0]}"
    kill "$server"
    wait "$server" 2> /dev/null
    check "an argument that is missing" aborts_saying 'usage: minimal-echo PORT' "$program.stripped"
    check "no room for stacks" aborts_saying 'no address space for stacks: .*errno 12' small_address_space 12000
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
    echo "skipped static: there is no library for $target, and rustup does not get it"
elif build --target "$target"; then
    program=$CARGO_TARGET_DIR/$target/release/minimal-echo
    examine
else
    failed=$((failed + 1))
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
