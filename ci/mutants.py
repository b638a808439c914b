"""Applies mutants one by one and runs their killers. Called by mutants.sh, which says what it prints.

mutants.txt: `== name`, then `file PATH` and a piece of its text between `<<<` and `===`, what stands there in the mutant between `===`
and `>>>`, as often as needed; `kill SUITE TEST` names the test, or the target of the fuzzer. Indentation counts; the piece must occur once.
"""

import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys

HUNG = "it ran for five minutes"
# Most counterexamples need few preemptions, and to look for those first is quick.
BOUNDS = ["2", os.environ.get("LOOM_MAX_PREEMPTIONS", "3")]

SUITES = {
    "loom": (["cargo", "test", "--release", "--quiet", "--package", "gopark-core", "--lib"], "--cfg loom"),
    "sim": (["cargo", "test", "--release", "--quiet", "--package", "gopark-tests", "--test", "simulation"], ""),
    "steps": (["cargo", "test", "--release", "--quiet", "--package", "gopark-tests", "--test", "simulation"], "--cfg steps"),
    "unit": (["cargo", "test", "--release", "--quiet", "--package", "gopark-core", "--lib"], ""),
    "fuzz": (["ci/fuzz.sh", "afresh"], ""),
    "stacks": (["cargo", "test", "--release", "--quiet", "--package", "gopark-tests", "--test", "stacks"], ""),
    "refusals": (["cargo", "test", "--release", "--quiet", "--package", "gopark-tests", "--test", "refusals"], ""),
    "starts": (["cargo", "test", "--release", "--quiet", "--package", "gopark-tests", "--test", "starts"], ""),
}


def parse(path):
    mutants, file, part = [], None, None
    for line in open(path):
        word, _, rest = line.rstrip("\n").partition(" ")
        if part is not None and word not in ("===", ">>>"):
            part.append(line)
        elif word == "==":
            mutants.append({"name": rest, "changes": [], "kill": None})
        elif word == "file":
            file = rest
        elif word == "kill":
            mutants[-1]["kill"] = tuple(rest.split())
        elif word == "<<<":
            part = []
            mutants[-1]["changes"].append((file, part, []))
        elif word == "===":
            part = mutants[-1]["changes"][-1][2]
        elif word == ">>>":
            part = None
    return mutants


def apply(mutant, copy):
    """The files changed, with their texts from before."""
    before = {}
    for file, old, new in mutant["changes"]:
        path = os.path.join(copy, file)
        text = open(path).read()
        old, new = "".join(old), "".join(new)
        if text.count(old) != 1:
            raise SystemExit(f"mutant '{mutant['name']}': its piece of {file} occurs {text.count(old)} times")
        before.setdefault(path, text)
        write(path, text.replace(old, new))
    return before


def write(path, text):
    with open(path, "w") as out:
        out.write(text)


def run(kill, bound, place):
    """Whether the test was there and passed, whether it failed, and what it printed."""
    suite, test = kill
    command, flags = SUITES[suite]
    command = command + ([test] if suite == "fuzz" else ["--", "--exact", test, "--nocapture"])
    # Some mutants need a thousand simulated programs until one shows them.
    env = dict(os.environ, RUSTFLAGS=flags, LOOM_MAX_PREEMPTIONS=bound, GOPARK_SEEDS="3000")
    env["CARGO_TARGET_DIR"] = os.path.join(place, suite if flags else "plain")
    if suite == "fuzz":
        # The limit is not for building.
        subprocess.run(["ci/fuzz.sh", "build", test], cwd=os.path.join(place, "copy"), env=env, capture_output=True)
    try:
        done = subprocess.run(command, cwd=os.path.join(place, "copy"), env=env, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return False, True, HUNG
    output = done.stdout + done.stderr
    if "error: could not compile" in output:
        raise SystemExit(f"a mutant does not compile:\n{output}")
    ran = "running 1 test" in output or f"| {test} |" in output
    return ran and done.returncode == 0, ran and done.returncode != 0, output


def prepare(place):
    """A copy of the sources, and room for what is built from them."""
    copy = os.path.join(place, "copy")
    os.makedirs(copy, exist_ok=True)
    for item in ["core", "backends", "std-shim", "tests", "fuzz", "ci", "Cargo.toml", "Cargo.lock"]:
        to = os.path.join(copy, item)
        if os.path.isdir(item):
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(item, to, ignore=shutil.ignore_patterns("target", "__pycache__"))
        else:
            shutil.copy2(item, to)
    return copy


def judge(mutant, free):
    """What becomes of the mutant."""
    place = free.get()
    try:
        before = apply(mutant, os.path.join(place, "copy"))
        for bound in BOUNDS:
            passed, failed, output = run(mutant["kill"], bound, place)
            if not passed:
                break
        for path, text in before.items():
            write(path, text)
        if not passed and not failed:
            raise SystemExit(f"mutant '{mutant['name']}': no test {mutant['kill']}:\n{output}")
        if not failed:
            return "SURVIVED"
        return "killed: it hung" if output == HUNG else "killed"
    finally:
        free.put(place)


def main(target, *words):
    mutants = parse("ci/mutants.txt")
    mutants = [m for m in mutants if not words or any(w in m["name"] or w in " ".join(m["kill"]) for w in words)]
    free = queue.Queue()
    for worker in range(min(2, os.cpu_count())):
        free.put(os.path.join(target, str(worker)))
        prepare(os.path.join(target, str(worker)))
    killed = survived = 0
    print("| mutant | test | result |\n|---|---|---|", flush=True)
    with concurrent.futures.ThreadPoolExecutor(free.qsize()) as pool:
        for mutant, fate in zip(mutants, pool.map(lambda mutant: judge(mutant, free), mutants)):
            killed, survived = killed + (fate != "SURVIVED"), survived + (fate == "SURVIVED")
            suite, test = mutant["kill"]
            print(f"| {mutant['name']} | {suite} {test.replace('models::', '')} | {fate} |", flush=True)
    print(f"mutants: {killed} of {killed + survived} killed")
    print(f"{killed} passed, {survived} failed")
    sys.exit(1 if survived or not killed else 0)


main(*sys.argv[1:])
