#!/usr/bin/env bash
# Programs of Debian against small servers over gopark: socat, nc, dig, curl,
# systemd-socket-activate, and a command on a terminal. Programs that are missing are installed, or
# their part is skipped.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

need() {
    command -v "$1" >/dev/null && return
    [ "$(id -u)" = 0 ] && ci/install.sh "$2"
    command -v "$1" >/dev/null
}

passed=0
failed=0
skipped=0

# check NAME EXPECTED ACTUAL
check() {
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s: expected %q, got %q\n' "$1" "$2" "$3"
    fi
}

skip() {
    skipped=$((skipped + 1))
    echo "skipped $1: $2 cannot be installed"
}

cargo build --quiet --package gopark-tests --bin peers --bin dns || exit
target=$(cargo metadata --no-deps --format-version 1 |
    sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
peers=$target/debug/peers
folder=$(mktemp -d)
servers=()
finish() {
    kill "${servers[@]}" 2>/dev/null
    rm -rf "$folder"
}
trap finish EXIT

# Starts a server in the background and waits for its first line.
serve() {
    local log=$folder/log-${#servers[@]}
    "$@" > "$log" 2>&1 &
    servers+=($!)
    for _ in $(seq 500); do
        [ -s "$log" ] && return
        sleep 0.02
    done
    echo "it does not start: $*"
    cat "$log"
}

if need socat socat; then
    serve "$peers" echo-unix "$folder/echo"
    check "socat over a Unix stream" hello "$(echo hello | socat - "UNIX-CONNECT:$folder/echo")"
    check "socat, 10 MB and the end" "$((10 << 20))" \
        "$(head -c 10485760 /dev/zero | socat -t 10 - "UNIX-CONNECT:$folder/echo" | wc -c)"
    serve "$peers" echo-seqpacket "$folder/messages"
    check "socat over seqpacket" hello \
        "$(echo hello | socat -t 1 - "UNIX-CONNECT:$folder/messages,type=5")"
    serve "$peers" echo-udp 127.0.0.1:5355
    check "socat over UDP" hello "$(echo hello | socat -t 1 - UDP:127.0.0.1:5355)"
    socat TCP-LISTEN:5356,reuseaddr,fork EXEC:cat &
    servers+=($!)
    sleep 0.3
    check "a dial to socat" hello "$(echo hello | "$peers" dial 127.0.0.1:5356)"
    check "a dial by name" hello "$(echo hello | "$peers" dial localhost:5356)"
else
    skip "streams and datagrams" socat
fi

if need nc netcat-openbsd; then
    serve "$peers" echo-unix "$folder/nc"
    check "nc over a Unix stream" hello "$(echo hello | nc -U -N "$folder/nc")"
else
    skip "a Unix stream" nc
fi

if need curl curl; then
    serve "$peers" http-unix "$folder/http"
    check "curl over a Unix stream" hello \
        "$(curl --silent --unix-socket "$folder/http" http://localhost/)"
else
    skip "HTTP over a Unix stream" curl
fi

if need dig bind9-dnsutils; then
    names=(one.test=192.0.2.1 one.test=192.0.2.2 six.test=2001:db8::6)
    serve "$target/debug/dns" 127.0.0.1:5354 "${names[@]}"
    ask() { dig +short +tries=1 @127.0.0.1 -p 5354 "$@" | sort | paste -sd ' '; }
    check "dig, two addresses" "192.0.2.1 192.0.2.2" "$(ask one.test A)"
    check "dig, IPv6, in other case" "2001:db8::6" "$(ask SIX.test AAAA)"
    check "dig, no such name" NXDOMAIN \
        "$(dig +tries=1 @127.0.0.1 -p 5354 two.test | grep -oE 'NXDOMAIN')"
    printf 'one.test A\n%.0s' $(seq 200) > "$folder/names"
    check "dig, 200 questions" 400 \
        "$(dig +short +tries=1 @127.0.0.1 -p 5354 -f "$folder/names" | wc -l)"
else
    skip "a name server" dig
fi

if need systemd-socket-activate systemd; then
    systemd-socket-activate --listen 127.0.0.1:5357 "$peers" activated 2> /dev/null &
    servers+=($!)
    sleep 0.5
    check "systemd-socket-activate" hello "$(echo hello | "$peers" dial 127.0.0.1:5357)"
    check "systemd-socket-activate, the next client" again \
        "$(echo again | "$peers" dial 127.0.0.1:5357)"
else
    skip "socket activation" systemd-socket-activate
fi

check "a command on a terminal" "a terminal" \
    "$("$peers" pty 'test -t 0 && test -t 1 && echo a terminal' | tr -d '\r')"

[ "$skipped" = 0 ] || echo "$skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
