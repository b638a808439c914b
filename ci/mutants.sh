#!/usr/bin/env bash
# Shows that the models and tests can fail. Applies each mutant of ci/mutants.txt to a copy of the
# sources and runs the one test, or fuzzes the one target, that must kill it. Prints a table, and
# fails if a mutant survives. `ci/mutants.sh WORD…` takes only mutants whose name or test contains
# one of the words.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}/mutants
export RUST_BACKTRACE=0
# Each mutant is compiled once and runs briefly, so its build is optimised little.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=1

exec python3 -B ci/mutants.py "$target" "$@"
