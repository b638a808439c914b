#!/usr/bin/env bash
# Shows that the models and tests can fail: applies each mutant of ci/mutants.txt to a copy of the sources and runs the one test, or
# fuzzes the one target, that must kill it. Prints a table, fails if a mutant survives. `ci/mutants.sh WORD…` takes only mutants whose name or test has one of the words.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}/mutants
export RUST_BACKTRACE=0
# What is compiled once for each mutant is not optimised much.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=1

exec python3 -B ci/mutants.py "$target" "$@"
