#!/usr/bin/env bash
# Runs what shows that gopark is right, and prints the table of docs/verification.md: `ci/verify.sh [NAME…]`, by default all of
# loom mutants simulation fuzz coverage backends faults sanitizers msrv boot aarch64. Each is a script of its own in this folder and can run alone.
set -uo pipefail
cd "$(dirname "$0")/.."

[ $# != 0 ] || set -- loom mutants simulation fuzz coverage backends faults sanitizers msrv boot aarch64
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
    # A script that ends early has counted nothing.
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    fi
    figures=$(sed -nE "s/^$name: //p; s/^([0-9]+ skipped)$/\1/p" "$log" | tail -2 | paste -sd ';' | sed 's/;/; /')
    table+="| $name | $good | $bad | $(awk "BEGIN { printf \"%.1f\", ($SECONDS - $start) / 60 }") | $figures |\n"
    passed=$((passed + good))
    failed=$((failed + bad))
done
printf '\n%b\n' "$table"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
