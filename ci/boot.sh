#!/usr/bin/env bash
# Boots backends/init as the first process of a stock Debian kernel in qemu, without hardware
# support (TCG), and talks to it through forwarded ports: once on a plain network, once with delay
# and loss in the guest. Prints the time to the first answer.
#
# It needs qemu-system-x86_64, cpio and a kernel package, which it installs with apt, and Rust's
# library for static programs with musl. If one of them cannot be installed, it skips. BOOT_MAX
# limits the seconds to the first answer (60; an idle machine needs at most 15).
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. ci/echo.sh

target=x86_64-unknown-linux-musl
work=${CARGO_TARGET_DIR:-$PWD/target}/boot
mkdir -p "$work"
work=$(cd "$work" && pwd)
# Each of these ports is forwarded to the echo port of a guest address of its own. qemu queues two
# connections to a port; a third waits for a second. Two ports that forward to one address do not
# work: connections with the same source port would have the same four numbers. The kernel passes at
# most 31 words to init, and 9 of them load modules.
ports=16
batch=$((2 * ports))
connections=$((32 * batch))
slowest=0
idle=3
# KiB that init may use after the start.
memory_max=512
passed=0
failed=0

skip() {
    echo "skipped: $1"
    echo "1 skipped"
    echo "0 passed, 0 failed"
    exit 0
}

check() {
    if "${@:2}"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $network: $1"
    fi
}

need() {
    command -v "$1" > /dev/null || ci/install.sh "$2"
    command -v "$1" > /dev/null || skip "$2 cannot be installed, so there is no $1"
}

# Downloads the kernel that this release of Debian has for virtual machines, and unpacks it beside
# the build. Sets `root`, `kernel` and `release`.
unpack_kernel() {
    local package
    for _ in 1 2; do
        package=$(apt-cache depends linux-image-cloud-amd64 2> /dev/null |
            sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
        [ -n "$package" ] && break
        apt-get update > /dev/null 2>&1
    done
    [ -n "$package" ] || return 1
    root=$work/$package
    if [ ! -e "$root/done" ]; then
        mkdir -p "$root"
        (cd "$root" && apt-get download "$package" > /dev/null 2>&1 &&
            dpkg -x ./*.deb . && rm ./*.deb && touch "done") || return 1
    fi
    kernel=$(echo "$root"/boot/vmlinuz-*)
    release=${kernel##*/vmlinuz-}
    [ -e "$kernel" ]
}

# Copies a module and the modules that it needs into the guest's root, and appends them to `loads`
# in the order in which they must be loaded.
add_module() {
    local file needed
    [ -e "$guest/$1.ko" ] && return
    file=$(find "$root/lib/modules" -name "${1//_/[-_]}.ko*" | head -1)
    case $file in
        '') return ;; # the kernel has it built in
        *.ko) cp "$file" "$guest/$1.ko" ;;
        *.xz) xz -dc "$file" > "$guest/$1.ko" ;;
        *) echo "$file is compressed in an unknown way" && return 1 ;;
    esac
    for needed in $(grep -az '^depends=' "$guest/$1.ko" | tr -d '\0' |
        sed 's/^depends=//; s/,/ /g'); do
        add_module "$needed" || return 1
    done
    loads+=" load=/$1.ko"
}

# Starts the guest with the arguments as further words for init, and waits for the first echo.
boot() {
    local began ended forwards addresses index
    for _ in {1..20}; do
        echo_port=$((20000 + RANDOM % 10000))
        status_port=$((echo_port + ports))
        mapfile -t echo_ports < <(seq "$echo_port" $((status_port - 1)))
        forwards=hostfwd=tcp:127.0.0.1:$status_port-:80
        addresses='address=eth0/10.0.2.15/24'
        for ((index = 0; index < ports; index++)); do
            forwards+=,hostfwd=tcp:127.0.0.1:$((echo_port + index))-10.0.2.$((100 + index)):7
            addresses+=" address=eth0:$index/10.0.2.$((100 + index))/24"
        done
        rm -f "$work/console"
        qemu-system-x86_64 -accel tcg -m 128 -smp 2 -nodefaults -no-reboot -display none \
            -serial "file:$work/console" -kernel "$kernel" -initrd "$work/initramfs" \
            -append "console=ttyS0 quiet panic=-1 --$loads $addresses idle=$idle $*" \
            -netdev "user,id=net,restrict=on,$forwards" \
            -device virtio-net-pci,netdev=net,romfile= 2> "$work/qemu" &
        qemu=$!
        began=$EPOCHREALTIME
        while kill -0 "$qemu" 2> /dev/null; do
            if grep -aq 'init: process 1, echo on port 7' "$work/console" 2> /dev/null &&
                echoes 1 "$echo_port"; then
                ended=$EPOCHREALTIME
                took=$(awk "BEGIN { printf \"%.1f\", $ended - $began }")
                return 0
            fi
            [ "${EPOCHREALTIME%.*}" -gt $((${began%.*} + ${BOOT_MAX:-60})) ] && return 1
            sleep 0.05
        done
        grep -q 'Could not set up host forwarding' "$work/qemu" ||
            return 1 # otherwise a port is in use
    done
    return 1
}

# Echoes on all connections, a batch at a time. Sets `slowest` to the seconds of the slowest batch.
echoes_to_all() {
    local began ended
    slowest=0
    for _ in $(seq $((connections / batch))); do
        began=$EPOCHREALTIME
        echoes "$batch" "${echo_ports[@]}" || return 1
        ended=$EPOCHREALTIME
        slowest=$(awk "BEGIN { took = $ended - $began; print (took > $slowest ? took : $slowest) }")
    done
}

# Prints the guest's answer to `METHOD PATH`.
ask() {
    local fd
    exec {fd}<> "/dev/tcp/127.0.0.1/$status_port" || return 1
    # The program printf writes the request at once; the shell's own printf writes it line by line.
    env printf '%s %s HTTP/1.1\r\nHost: guest\r\n\r\n' "$1" "$2" >&"$fd"
    timeout 30 cat <&"$fd" | tr -d '\r'
    exec {fd}>&-
}

answers() { ask "$1" "$2" | head -1 | grep -qx "HTTP/1.1 $3"; }

# Prints the figure in one line of the status page.
figure() { ask GET / | sed -n "s/^$1: //p"; }

# Waits at most ten seconds until a figure of the status page is as expected.
becomes() {
    for _ in {1..50}; do
        [ "$(figure "$1")" = "$2" ] && return 0
        sleep 0.2
    done
    echo "$1: $(figure "$1"), not $2"
    return 1
}

page_is_whole() {
    local page name length
    page=$(ask GET /)
    for name in 'process: 1' 'seconds since the machine started: [0-9]+\.[0-9]{3}' \
        'goroutines: [0-9]+' 'goroutines move: true' 'connections served: [0-9]+' \
        'connections dropped: [0-9]+' 'KiB of memory: [1-9][0-9]*' 'guards: .+' \
        'children started: 0' 'processes reaped: 0' 'children left: false'; do
        grep -qxE "$name" <<< "$page" || { echo "$page"; return 1; }
    done
    length=$(sed '1,/^$/d' <<< "$page" | wc -c)
    [ "$(grep -m1 '^Content-Length' <<< "$page" | tr -dc 0-9)" = "$length" ]
}

drops_an_idle_connection() {
    local before
    before=$(figure 'connections dropped')
    drops_the_silent "$echo_port" "$(awk "BEGIN { print $idle - 0.1 }")" $((idle + 2)) &&
        becomes 'connections dropped' $((before + 1))
}

# Each child leaves an orphan, which the kernel gives to process 1.
reaps_all() {
    local asked=()
    for _ in {1..20}; do
        answers POST /child '200 OK' &
        asked+=($!)
    done
    wait "${asked[@]}"
    becomes 'children started' 20 && becomes 'processes reaped' 40 && becomes 'children left' false
}

has_its_guards() {
    local kind=lightweight
    # Guard regions came with Linux 6.13.
    [ "$(printf '%s\n' 6.13 "$release" | sort -V | head -1)" = 6.13 ] ||
        kind='mprotect, at most [0-9]+'
    guards=$(figure guards)
    grep -qxE "$kind" <<< "$guards" || { echo "$release has guards: $guards"; return 1; }
}

powers_off() {
    answers POST /poweroff '200 OK' || return 1
    for _ in {1..200}; do
        if ! kill -0 "$qemu" 2> /dev/null; then
            # A kernel panic also ends qemu, so the console must show the power off.
            wait "$qemu" && grep -aq 'reboot: Power down' "$work/console"
            return
        fi
        sleep 0.1
    done
    return 1
}

said_nothing_else() {
    [ "$(grep -ac 'init: ' "$work/console")" = 2 ] && grep -aq '^init: power off' "$work/console"
}

examine() {
    check "no answer within ${BOOT_MAX:-60} s" boot "$@"
    if [ -z "${took:-}" ]; then
        tail -c 2000 "$work/console" "$work/qemu"
        kill "$qemu" 2> /dev/null
        return
    fi
    memory=$(figure 'KiB of memory')
    check "$memory KiB of memory are more than $memory_max" [ "$memory" -le "$memory_max" ]
    check "the status page" page_is_whole
    check "a page that does not exist" answers GET /nothing '404 Not Found'
    check "$connections connections, $batch at once" echoes_to_all
    check "connections counted" becomes 'connections served' $((connections + 1))
    check "a read deadline" drops_an_idle_connection
    check "children and orphans" reaps_all
    check "guards" has_its_guards
    check "power off" powers_off
    check "what the console shows" said_nothing_else
    grep -a 'init: ' "$work/console"
    echo "boot: $network: first answer after $took s, $connections connections, $batch at once," \
        "the slowest $batch in $slowest s; $memory KiB, guards: $guards"
    unset took
}

[ "$(uname -m)" = x86_64 ] || skip "the guest is x86-64"
need qemu-system-x86_64 qemu-system-x86
need cpio cpio
need xz xz-utils
unpack_kernel || skip "linux-image-cloud-amd64 cannot be downloaded, so there is no kernel"
library=$(rustc --print sysroot)/lib/rustlib/$target/lib
[ -d "$library" ] || rustup target add "$target" > /dev/null 2>&1
[ -d "$library" ] || skip "rustup cannot install the library for $target"

if ! (cd backends/init && CARGO_TARGET_DIR=$work/init cargo build --quiet --release \
    --target "$target" --config "build.rustflags = ['--remap-path-prefix=$PWD/=']"); then
    echo "0 passed, 1 failed"
    exit 1
fi
guest=$work/guest
loads=
rm -rf "$guest"
mkdir -p "$guest"
strip -o "$guest/init" "$work/init/$target/release/init"
for module in virtio_pci virtio_net sch_netem; do
    add_module "$module" || exit 1
done
(cd "$guest" && find . | cpio --quiet -o -H newc | gzip > "$work/initramfs")
echo "boot: Linux $release, init of $(stat -c %s "$guest/init") bytes"

network='plain network'
examine
network='20 ms and 5 % loss'
examine netem=eth0/20/5
# TCP repeats a lost packet of a handshake after a second, so some batch must take that long.
check "no packet is lost" awk "BEGIN { exit !($slowest >= 1) }"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
