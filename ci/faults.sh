#!/usr/bin/env bash
# Faults against real sockets: limits reached, peers killed and reset, system calls that a filter
# refuses, networks that drop and delay, and "the k-th call fails" for the system calls of gopark
# (strace). tests/src/faults.rs says what must hold after each.
#
# Needs root. Parts that this machine cannot run are skipped, with the reason. `ci/faults.sh PART…`
# runs some parts: limits seccomp namespaces sweep. FAULTS=all tries every k, in more arrangements.
# FAULTS_BACKENDS names the pollers, FAULTS_CALLS the system calls that fail.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "skipped: it needs root, to trace processes and to make network namespaces"
    echo "1 skipped"
    echo "0 passed, 0 failed"
    exit 0
fi

need() {
    command -v "$1" >/dev/null && return
    # If the install fails, the part that needs the program is skipped.
    ci/install.sh "$2" || echo "$2 cannot be installed"
}
need strace strace
need nft nftables
need ip iproute2

log=$(mktemp)
trap 'rm -f "$log"' EXIT
broken=0
# The calls of the pollers themselves, and those whose EAGAIN is possible only without edges.
poller_calls="epoll_create1 epoll_ctl epoll_wait epoll_pwait2 poll ppoll fstat newfstatat eventfd2"
poller_calls+=" io_uring_setup io_uring_enter read write recvmsg sendmsg"
# Every poller has a line in the features, and one build has all of them.
pollers=$(sed -nE 's/^([a-z-]+) = \[\]$/\1/p' backends/Cargo.toml)
for backend in ${FAULTS_BACKENDS:-$pollers}; do
    printf '\n==== %s\n' "$backend"
    # The kernel's faults on sockets are the same for each poller, so the first poller runs all
    # parts, and the others the parts and calls that concern the poller.
    parts=("$@")
    calls=${FAULTS_CALLS:-}
    if [ "$#" = 0 ] && [ "$backend" != epoll ]; then
        parts=(seccomp sweep)
        calls=${calls:-$poller_calls}
    fi
    GOPARK_POLLER=$backend FAULTS_CALLS=$calls cargo run --quiet --package gopark-tests \
        --features io-uring --bin faults -- "${parts[@]}" 2>&1 |
        tee -a "$log" || broken=1
done

sum() { grep -oE "^[0-9]+ $1|[0-9]+ $1$" "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }
passed=$(sum passed)
failures=$(sum failed)
if [ "$broken" != 0 ] && [ "$failures" = 0 ]; then
    failures=1
fi
echo
echo "faults: $(sum "faults struck") struck"
if [ "$(sum skipped)" != 0 ]; then
    echo "$(sum skipped) skipped"
fi
echo "$passed passed, $failures failed"
[ "$failures" = 0 ]
