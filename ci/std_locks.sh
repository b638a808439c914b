#!/usr/bin/env bash
# Builds a program whose goroutines hold a Mutex of std over parks in the ways that a linker may
# treat `syscall` differently: with fat LTO, where it must come to an end, with std linked
# dynamically, where it must say that its locks block threads, and without the feature.
#
# It needs Rust stable and a C linker.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
root=$PWD
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/std-locks
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0

check() {
    if "${@:2}"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $1"
    fi
}

mkdir "$scratch/src"
cp Cargo.lock "$scratch"
cat > "$scratch/Cargo.toml" << END
[package]
name = "held"
edition = "2024"

[dependencies]
gopark = { path = "$root/std-shim", default-features = false, features = ["poll"] }

[features]
std-locks = ["gopark/std-locks"]

[profile.release]
lto = "fat"

[workspace]
END
cat > "$scratch/src/main.rs" << 'END'
use gopark::{Builder, StdLocks};
use std::sync::{Arc, Mutex};

fn main() {
    let locks = match std::env::args().nth(1).as_deref() {
        Some("park") => Some(StdLocks::Park),
        Some("rescue") => Some(StdLocks::Rescue),
        _ => None,
    };
    let mut builder = Builder::new().max_procs(1);
    if let Some(locks) = locks {
        builder = builder.std_locks(locks);
    }
    if let Err(error) = builder.start() {
        return println!("{:?}: {error}", error.kind());
    }
    if std::env::args().nth(2).is_some() {
        return println!("started");
    }
    let lock = Arc::new(Mutex::new(0));
    let turns: Vec<_> = (0..9)
        .map(|_| {
            let lock = lock.clone();
            gopark::go(move || {
                let mut turns = lock.lock().unwrap();
                gopark::sleep(std::time::Duration::from_millis(1));
                *turns += 1;
            })
        })
        .collect();
    turns.into_iter().for_each(|turn| turn.join().unwrap());
    println!("{} turns, {} rescues", lock.lock().unwrap(), gopark::metrics().rescues);
}
END

# Builds the program with flags for the compiler, and arguments for cargo.
build() {
    (cd "$scratch" && RUSTFLAGS=$1 cargo build --quiet "${@:2}") || return
    program=$CARGO_TARGET_DIR/$([[ " $* " == *" --release "* ]] && echo release || echo debug)/held
}

# Whether the program, run with the arguments after $1, prints what matches $1.
says() {
    local said
    said=$(LD_LIBRARY_PATH=$(rustc --print target-libdir) timeout 60 "$program" "${@:2}" 2>&1)
    if ! grep -qE "$1" <<< "$said"; then
        echo "it does not say $1: $said"
        return 1
    fi
}

# The function of the program, where libc's would be undefined.
defines_syscall() { nm "$program" | grep -qE ' [tTwW] syscall$'; }

check "fat LTO: build" build "" --release --features std-locks
check "fat LTO: syscall" defines_syscall
check "fat LTO: rescue" says '^9 turns, [1-9][0-9]* rescues$'
check "fat LTO: park" says '^9 turns, 0 rescues$' park

check "dynamic: build" build "-C prefer-dynamic" --features std-locks
check "dynamic: the report" says '^gopark: std is linked dynamically' default starts
check "dynamic: it goes on" says '^started$' default starts
check "dynamic: park" says '^Unsupported: std_locks needs .* prefer-dynamic' park
check "dynamic: rescue" says '^Unsupported: std_locks needs .* prefer-dynamic' rescue

check "without the feature: build" build ""
check "without the feature: park" says '^Unsupported: .* feature .std-locks.' park
check "without the feature: it starts" says '^started$' default starts

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
