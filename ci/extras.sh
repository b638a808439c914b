#!/usr/bin/env bash
# Checks the crates of extras/, which have a workspace of their own: lints, tests and documentation
# with default features and with all, and the tests with the oldest Rust that the manifest allows.
#
# The first build needs crates.io. If rustup cannot install the oldest Rust, the script skips that
# part.
set -uo pipefail
cd "$(dirname "$0")/../extras" || exit

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
oldest=$(sed -nE 's/^rust-version = "(.*)"/\1/p' Cargo.toml)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0

count() { { grep -aoE "[0-9]+ $1;" "$log" || true; } | awk '{ sum += $1 } END { print sum + 0 }'; }

check() {
    if "${@:2}"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $1"
    fi
}

# Runs the tests with these arguments, and adds what they say to the sums.
tests() {
    local status=0 bad
    cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$log" |
        grep -a --line-buffered -vE '^(test .* ok|)$' || status=${PIPESTATUS[0]}
    bad=$(count failed)
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    fi
    passed=$((passed + $(count passed)))
    failed=$((failed + bad))
}

# Whether all dependents of this crate get the one of the workspace.
replaces() { ! grep -A2 "^name = \"$1\"" Cargo.lock | grep -q '^source = '; }

lint() { cargo clippy --workspace --all-targets "$@" -- -D warnings; }

check "lints" lint
check "lints with all features" lint --all-features
check "layout" cargo fmt --all --check
check "documentation" env RUSTDOCFLAGS="-D warnings" \
    cargo doc --workspace --no-deps --all-features
check "parking_lot is replaced" replaces parking_lot
check "crossbeam-channel is replaced" replaces crossbeam-channel
tests
tests --all-features
if timeout 300 rustup toolchain install "$oldest" --profile minimal > /dev/null 2>&1; then
    export RUSTUP_TOOLCHAIN=$oldest CARGO_TARGET_DIR=$CARGO_TARGET_DIR/msrv
    tests --all-features
else
    echo "skipped: rustup cannot install Rust $oldest"
    echo "1 skipped"
fi
echo "extras: $(rustc --version)"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
