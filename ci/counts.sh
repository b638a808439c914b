#!/usr/bin/env bash
# Counts the instructions of each operation of benches/plain in user space, by callgrind, and
# compares them with benches/counts.txt: a profile with cargo's defaults, and one with thin LTO and
# one codegen unit. A count that differs by more than 2 % fails, in either direction.
# `ci/counts.sh --update` writes the counts to the table.
#
# Two counts of one build differ by less than 0.2 %: one worker, no sysmon, and nothing that depends
# on the time. They belong to a version of rustc and of glibc. With others the bound is 10 %.
#
# It needs Rust stable, a C linker and valgrind, which it installs.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

table=benches/counts.txt
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/counts
folder=$(mktemp -d)
export folder
trap 'rm -rf "$folder"' EXIT

skip() {
    echo "skipped: $1"
    echo "1 skipped"
    echo "0 passed, 0 failed"
    exit 0
}

[ "$(uname -m)" = x86_64 ] || skip "the table is of an x86-64 processor"
command -v valgrind > /dev/null || { [ "$(id -u)" = 0 ] && ci/install.sh valgrind libc6-dbg; }
command -v valgrind > /dev/null || skip "valgrind cannot be installed"

# Settings of the caller would change the code.
while read -r name; do
    unset "$name"
done < <(compgen -e | grep -E '^(CARGO_PROFILE_|RUSTFLAGS$|CARGO_ENCODED_RUSTFLAGS$)')
export CARGO_INCREMENTAL=0

build() {
    env "${@:2}" cargo build --quiet --release --manifest-path benches/plain/Cargo.toml \
        --target-dir "$CARGO_TARGET_DIR/$1"
}
build default && build lto CARGO_PROFILE_RELEASE_LTO=thin CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
if [ $? != 0 ]; then
    echo "0 passed, 1 failed"
    exit 1
fi

# Counts one operation: `count PROFILE NAME OPERATIONS`. Prints the profile, the name and the count.
count() {
    local out=$folder/$1-$2
    if ! timeout 300 valgrind --tool=callgrind --callgrind-out-file="$out" \
        --dump-before=plain::part_ends \
        "$CARGO_TARGET_DIR/$1/release/plain" "$2" > "$out.log" 2>&1 || [ ! -f "$out.3" ]; then
        tail -5 "$out.log" >&2
        echo "$1 $2 none"
        return
    fi
    # The third part has so many operations more than the second.
    awk -v which="$1 $2" -v operations="$3" '
        $1 == "totals:" { total[FILENAME] = $2 }
        END { printf "%s %.1f\n", which, (total[ARGV[2]] - total[ARGV[1]]) / operations }
    ' "$out.2" "$out.3"
}
export -f count

"$CARGO_TARGET_DIR/default/release/plain" > "$folder/operations"
for profile in default lto; do
    sed "s/^/$profile /" "$folder/operations"
done | xargs -P 2 -L 1 bash -c 'count "$@"' count > "$folder/counts"

versions="$(rustc --version), glibc $(ldd --version | sed -nE '1s/.* ([0-9.]+)$/\1/p')"

if [ "${1:-}" = --update ] && ! grep -q none "$folder/counts"; then
    {
        sed -n '/^#/!q; p' "$table" 2> /dev/null | sed "s/^# rustc .*/# $versions/"
        awk '
            FNR == NR { counts[$1, $2] = $3; next }
            { printf "%-20s %10s %10s\n", $1, counts["default", $1], counts["lto", $1] }
        ' "$folder/counts" "$folder/operations"
    } > "$folder/table"
    cp "$folder/table" "$table"
fi

if grep -qxF "# $versions" "$table"; then
    bound=2
else
    bound=10
    echo "The table is of$(sed -n 's/^# rustc/ rustc/p' "$table"), and this is $versions."
    echo "The bound is 10 % in place of 2 %."
fi
awk -v bound="$bound" -v table="$table" '
    BEGIN { title["default"] = "default profile"; title["lto"] = "thin LTO" }
    function fail(text) { print "FAILED " text; failed++ }
    function compare(profile, name, was, is) {
        if (is == "none")
            return fail(name ", " title[profile] ": the program failed under callgrind")
        change = 100 * (is - was) / was
        line = sprintf("%s, %s: %s instructions, in the table %s (%+.1f %%)",
            name, title[profile], is, was, change)
        if (change > bound || change < -bound)
            return fail(line)
        print "ok     " line
        passed++
    }
    FNR == NR { counts[$1, $2] = $3; names[$2] = $2; next }
    /^#/ || NF == 0 { next }
    { listed[$1] = $1 }
    !($1 in names) { fail($1 " is in " table ", but the program does not know it"); next }
    {
        compare("default", $1, $2, counts["default", $1])
        compare("lto", $1, $3, counts["lto", $1])
    }
    END {
        for (name in names)
            if (!(name in listed))
                fail(name " has no line in " table)
        if (failed) {
            print "If the change is meant, or a gain is to be kept, `ci/counts.sh --update` writes"
            print "these counts to " table "."
        }
        printf "counts: %s; in the default profile a yield %s, spawn and join %s, echo %s\n",
            "'"$(rustc --version | cut -d' ' -f1,2)"'", counts["default", "yield"],
            counts["default", "spawn_join"], counts["default", "echo"]
        print passed + 0 " passed, " failed + 0 " failed"
        exit failed > 0
    }
' "$folder/counts" "$table"
