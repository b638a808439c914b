#!/usr/bin/env bash
# Compiles everything with the oldest Rust that Cargo.toml says is enough, and runs the tests. `rustup` brings that Rust, or Debian's archive, from
# where it is unpacked beside the build, not installed. Skips with a reason where neither has it.
set -uo pipefail
cd "$(dirname "$0")/.."

version=$(sed -nE 's/^rust-version = "(.*)"/\1/p' Cargo.toml)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/msrv
toolchain=$CARGO_TARGET_DIR/toolchain
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Debian's package of a version, as `name=version`.
package() { apt-cache madison "$1" 2> /dev/null | awk -v start="$version." '!done && index($3, start) == 1 { print $1 "=" $3; done = 1 }'; }

unpack() {
    local into=$1 std
    package rustc-web | grep -q . || apt-get update -q > /dev/null 2>&1
    package rustc-web | grep -q . || return 1
    std=$(package "libstd-rust-web-$version")
    mkdir -p "$into/deb"
    (cd "$into/deb" && apt-get download -q -o APT::Sandbox::User=root "$(package rustc-web)" "$(package libstd-rust-web-dev)" "$std" \
        "$(apt-cache depends "${std%=*}" | awk '$2 ~ /^libllvm/ { print $2 }')") > /dev/null 2>&1 || return 1
    for deb in "$into"/deb/*.deb; do
        dpkg -x "$deb" "$into"
    done
}

if timeout 300 rustup toolchain install "$version" --profile minimal > /dev/null 2>&1; then
    export RUSTUP_TOOLCHAIN=$version
else
    if [ ! -d "$toolchain" ]; then
        rm -rf "$toolchain.part"
        if ! unpack "$toolchain.part"; then
            echo "skipped: neither rustup nor Debian's archive has Rust $version"
            echo "1 skipped"
            echo "0 passed, 0 failed"
            exit 0
        fi
        mv "$toolchain.part" "$toolchain"
    fi
    export RUSTC=$toolchain/usr/bin/rustc RUSTDOC=$toolchain/usr/bin/rustdoc LD_LIBRARY_PATH=$toolchain/usr/lib/x86_64-linux-gnu
fi

sum() { { grep -aoE "[0-9]+ $1;" "$log" || true; } | awk '{ sum += $1 } END { print sum + 0 }'; }

status=0
cargo test --workspace --no-fail-fast 2>&1 | tee "$log" | grep -a --line-buffered -vE '^(test .* ok|)$' || status=${PIPESTATUS[0]}
passed=$(sum passed)
failed=$(sum failed)
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
    failed=1
fi
if (cd backends/minimal-echo && cargo build --quiet --release); then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
fi
echo "msrv: $("${RUSTC:-rustc}" --version)"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
