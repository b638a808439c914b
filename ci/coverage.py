"""Prints which lines of the state machines a run reached, from an lcov file. Called by fuzz.sh."""

import os
import sys

# Percent of the lines of each file. The rest are messages for corrupt words and retries after
# another thread's interference, which one thread cannot reach.
LEAST = 95.0


def main(lcov, folder, *files):
    lines, path = {}, None
    for record in open(lcov):
        kind, _, rest = record.rstrip("\n").partition(":")
        if kind == "SF":
            path = os.path.relpath(rest, folder)
        elif kind == "DA" and path in files:
            number, count = map(int, rest.split(",")[:2])
            reached = lines.setdefault(path, {})
            reached[number] = max(reached.get(number, 0), count)
    passed = failed = 0
    print("| file | lines | reached | not reached |\n|---|---|---|---|")
    for path in files:
        counts = lines.get(path, {})
        missed = [number for number, count in sorted(counts.items()) if count == 0]
        share = 100.0 * (len(counts) - len(missed)) / len(counts) if counts else 0.0
        passed, failed = passed + (share >= LEAST), failed + (share < LEAST)
        print(f"| {path} | {len(counts)} | {share:.1f} % | {' '.join(map(str, missed))} |")
    total = sum(map(len, lines.values()))
    reached = sum(count > 0 for counts in lines.values() for count in counts.values())
    share = 100.0 * reached / max(total, 1)
    print(f"coverage: {reached} of {total} lines, {share:.1f} %; each file needs {LEAST:.0f} %")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


main(*sys.argv[1:])
