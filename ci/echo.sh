# shellcheck shell=bash
# Functions that talk to an echo server, for scripts that `source` this file.

# `serve LOG COMMAND…` starts `COMMAND… PORT 2`, a server on a free port that drops a connection
# after 2 silent seconds, with its output in LOG. Sets `port`, and `server` to the process.
serve() {
    local said=$1
    for _ in {1..20}; do
        port=$((20000 + RANDOM % 10000))
        "${@:2}" "$port" 2 > "$said" 2>&1 &
        server=$!
        for _ in {1..100}; do
            kill -0 "$server" 2> /dev/null || break # the port is in use
            (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && return 0
            sleep 0.1
        done
        kill "$server" 2> /dev/null
    done
    return 1
}

# `echoes COUNT PORT…` opens COUNT connections, to the ports in turn, and sends a line on each. All
# are open before the first is read. Each line must come back.
echoes() {
    local numbers=("${@:2}") fds=() fd said index
    for ((index = 0; index < $1; index++)); do
        exec {fd}<> "/dev/tcp/127.0.0.1/${numbers[index % ${#numbers[@]}]}" || return 1
        echo "hello $fd" >&"$fd"
        fds+=("$fd")
    done
    for fd in "${fds[@]}"; do
        read -r -t 30 -u "$fd" said && [ "$said" = "hello $fd" ] || return 1
        exec {fd}>&-
    done
}

# `drops_the_silent PORT LEAST MOST` opens a connection and sends nothing. The server must close it
# after LEAST to MOST seconds.
drops_the_silent() {
    local began=$EPOCHREALTIME fd
    exec {fd}<> "/dev/tcp/127.0.0.1/$1" || return 1
    timeout 20 cat <&"$fd" || return 1
    exec {fd}>&-
    awk "BEGIN { took = $EPOCHREALTIME - $began; exit !($2 < took && took < $3) }"
}
