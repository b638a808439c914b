"""Applies mutants one by one and runs the test that must kill each. Called by mutants.sh.

The format of mutants.txt: `== name` begins a mutant. `file PATH` names a file. A piece of its text
stands between `<<<` and `===`, and its replacement between `===` and `>>>`; both may repeat.
`kill SUITE TEST` names the test, or the target of the fuzzer. A piece must occur exactly once,
indentation included.
"""

import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys

HUNG = "it ran for five minutes"
# Most counterexamples need few preemptions, and a search with a low bound is fast.
BOUNDS = ["2", os.environ.get("LOOM_MAX_PREEMPTIONS", "3")]

UNIT = ["cargo", "test", "--release", "--quiet", "--package", "gopark-core", "--lib"]
SHIM = ["cargo", "test", "--release", "--quiet", "--package", "gopark", "--lib"]
BACKENDS = ["cargo", "test", "--release", "--quiet", "--package", "gopark-backends", "--lib"]


def suite(name, *features):
    features = ["--no-default-features", "--features", ",".join(["epoll", "poll", *features])]
    command = ["cargo", "test", "--release", "--quiet", "--package", "gopark-tests"]
    return command + features + ["--test", name]


# The command of each suite, and its RUSTFLAGS.
SUITES = {
    "loom": (UNIT, "--cfg loom"),
    "sim": (suite("simulation"), ""),
    "steps": (suite("simulation"), "--cfg steps"),
    "unit": (UNIT, ""),
    "fuzz": (["ci/fuzz.sh", "afresh"], ""),
    "stacks": (suite("stacks", "programs"), ""),
    "refusals": (suite("refusals"), ""),
    "starts": (suite("starts", "programs"), ""),
    "one_proc": (suite("one_proc", "std-locks"), ""),
    "shim": (SHIM, ""),
    "backends": (BACKENDS, ""),
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
    """Changes the files of a copy, and returns their paths with the texts from before."""
    before = {}
    for file, old, new in mutant["changes"]:
        path = os.path.join(copy, file)
        text = open(path).read()
        old, new = "".join(old), "".join(new)
        if text.count(old) != 1:
            count = text.count(old)
            raise SystemExit(f"mutant '{mutant['name']}': its piece of {file} occurs {count} times")
        before.setdefault(path, text)
        write(path, text.replace(old, new))
    return before


def write(path, text):
    with open(path, "w") as out:
        out.write(text)


def run(kill, bound, place):
    """Runs a killer. Returns whether it passed, whether it failed, and its output.

    Both are false if the test does not exist.
    """
    suite, test = kill
    copy = os.path.join(place, "copy")
    command, flags = SUITES[suite]
    # Some mutants show only in one of a thousand simulated programs. Some take the fuzzer 40
    # seconds.
    env = dict(os.environ, RUSTFLAGS=flags, LOOM_MAX_PREEMPTIONS=bound, GOPARK_SEEDS="3000")
    env.setdefault("FUZZ_SECS", "60")
    env["CARGO_TARGET_DIR"] = os.path.join(place, suite if flags else "plain")
    # The time limit below does not include the build.
    build = ["ci/fuzz.sh", "build", test] if suite == "fuzz" else command + ["--no-run"]
    subprocess.run(build, cwd=copy, env=env, capture_output=True)
    command = command + ([test] if suite == "fuzz" else ["--", "--exact", test, "--nocapture"])
    # `timeout` ends the test itself, too, which is a child of the command.
    done = subprocess.run(
        ["timeout", "--kill-after=10", "300"] + command,
        cwd=copy, env=env, capture_output=True, text=True,
    )
    if done.returncode in (124, 137):
        return False, True, HUNG
    output = done.stdout + done.stderr
    if "error: could not compile" in output:
        raise SystemExit(f"a mutant does not compile:\n{output}")
    ran = "running 1 test" in output or f"| {test} |" in output
    return ran and done.returncode == 0, ran and done.returncode != 0, output


def prepare(place):
    """Copies the sources into `place`, beside which the mutants are built."""
    copy = os.path.join(place, "copy")
    os.makedirs(copy, exist_ok=True)
    for item in ["core", "backends", "std-shim", "tests", "fuzz", "ci", "Cargo.toml", "Cargo.lock"]:
        to = os.path.join(copy, item)
        if os.path.isdir(item):
            shutil.rmtree(to, ignore_errors=True)
            # The files are new: cargo would take an old one for that of an earlier mutant's build.
            ignored = shutil.ignore_patterns("target", "__pycache__")
            shutil.copytree(item, to, ignore=ignored, copy_function=shutil.copy)
        else:
            shutil.copy(item, to)
    return copy


def judge(mutant, free):
    """Runs the killer of a mutant in a free place, and returns the result for the table."""
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
    if words:
        texts = [m["name"] + " " + " ".join(m["kill"]) for m in mutants]
        mutants = [m for m, text in zip(mutants, texts) if any(word in text for word in words)]
    free = queue.Queue()
    for worker in range(min(2, os.cpu_count())):
        free.put(os.path.join(target, str(worker)))
        prepare(os.path.join(target, str(worker)))
    killed = survived = 0
    print("| mutant | test | result |\n|---|---|---|", flush=True)
    with concurrent.futures.ThreadPoolExecutor(free.qsize()) as pool:
        for mutant, result in zip(mutants, pool.map(lambda mutant: judge(mutant, free), mutants)):
            killed += result != "SURVIVED"
            survived += result == "SURVIVED"
            suite, test = mutant["kill"]
            test = test.replace("models::", "")
            print(f"| {mutant['name']} | {suite} {test} | {result} |", flush=True)
    print(f"mutants: {killed} of {killed + survived} killed")
    print(f"{killed} passed, {survived} failed")
    sys.exit(1 if survived or not killed else 0)


main(*sys.argv[1:])
