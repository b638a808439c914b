#!/usr/bin/env bash
# Checks the whole workspace, and builds minimal-echo, with the oldest Rust that Cargo.toml allows.
# With MSRV_TESTS=1 it also runs all tests. `rustup` installs that version beside the others. If it
# cannot, the script skips with a reason.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

RUSTUP_TOOLCHAIN=$(sed -nE 's/^rust-version = "(.*)"/\1/p' Cargo.toml)
export RUSTUP_TOOLCHAIN
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/msrv
# Many tests wait for a child process that waits. More tests than CPUs use the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

install=(rustup toolchain install "$RUSTUP_TOOLCHAIN" --profile minimal)
if ! timeout 300 "${install[@]}" > /dev/null 2>&1; then
    echo "skipped: rustup cannot install Rust $RUSTUP_TOOLCHAIN"
    echo "1 skipped"
    echo "0 passed, 0 failed"
    exit 0
fi

sum() { { grep -aoE "[0-9]+ $1;" "$log" || true; } | awk '{ sum += $1 } END { print sum + 0 }'; }

passed=0
failed=0
if cargo check --quiet --workspace --all-targets; then
    passed=1
else
    failed=1
fi
if [ "${MSRV_TESTS:-0}" = 1 ]; then
    status=0
    cargo test --workspace --no-fail-fast 2>&1 | tee "$log" |
        grep -a --line-buffered -vE '^(test .* ok|)$' || status=${PIPESTATUS[0]}
    passed=$((passed + $(sum passed)))
    failed=$((failed + $(sum failed)))
    if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
        failed=1
    fi
fi
if (cd backends/minimal-echo && cargo build --quiet --release); then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
fi
echo "msrv: $(rustc --version)"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
