#!/usr/bin/env bash
# Runs the checkers and prints the table of docs/verification.md: `ci/verify.sh [--long] [NAME…]`.
# Without names it runs loom mutants simulation fuzz coverage backends faults sanitizers std_locks
# extras peers msrv boot aarch64. Each is a script in this folder that can also run alone.
#
# The bounds of seeds, seconds and preemptions fit a CI run. `--long` raises them, unless the
# environment sets them.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

if [ "${1:-}" = --long ]; then
    shift
    export LOOM_LARGE_LESS=${LOOM_LARGE_LESS:-0}
    export SEEDS=${SEEDS:-100000} STEPS_SEEDS=${STEPS_SEEDS:-50000}
    export FUZZ_SECS=${FUZZ_SECS:-60}
    export MSRV_TESTS=${MSRV_TESTS:-1} BACKENDS_ALL=${BACKENDS_ALL:-1}
    export STRESS_SECONDS=${STRESS_SECONDS:-60} SANITIZED_ROUNDS=${SANITIZED_ROUNDS:-20000}
    export SANITIZED=${SANITIZED:-all} LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-3}
fi
[ $# != 0 ] ||
    set -- loom mutants simulation fuzz coverage backends faults sanitizers std_locks extras peers \
        msrv boot aarch64
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0
table='| what | passed | failed | minutes | figures |\n|---|---|---|---|---|\n'
for name in "$@"; do
    printf '\n== %s\n' "$name"
    start=$SECONDS
    case $name in
        coverage) command=(ci/fuzz.sh coverage) ;;
        *) command=("ci/$name.sh") ;;
    esac
    "${command[@]}" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    closing=$(grep -aoE '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -1)
    read -r good _ bad _ <<< "${closing:-0 passed, 0 failed}"
    # A script that was aborted has printed no count.
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    fi
    figures=$(sed -nE "s/^$name: //p; s/^([0-9]+ skipped)$/\1/p" "$log" | tail -2 | paste -sd ';' |
        sed 's/;/; /')
    minutes=$(awk "BEGIN { printf \"%.1f\", ($SECONDS - $start) / 60 }")
    table+="| $name | $good | $bad | $minutes | $figures |\n"
    passed=$((passed + good))
    failed=$((failed + bad))
done
printf '\n%b\n' "$table"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
