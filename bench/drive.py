"""The workloads. run.sh calls it and sets BENCH_BUILD. Each sample is kept as a line of JSON in
$BENCH_BUILD/results."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

from measure import BUILD, CELLS, ROUNDS, SECS, WARMUP, Server
from measure import descriptors, load, own_group, prepare, read_conf, undisturbed
from tables import print_cells, print_micro, print_noise

ECHO_METRICS = [
    "rps", "p50_us", "p99_us", "p999_us", "max_us",
    "cpu_us_per_trip", "vcsw_per_trip", "hwm_kb", "dropped", "errors",
]
CPU_FIRST = ["cpu_us_per_trip", "rps"]
CONF = read_conf()
FAILURES = []


class Results:
    """The samples of a workload, in a file of their own and in memory."""

    def __init__(self, workload):
        self.workload, self.samples = workload, []
        self.name = f"{time.strftime('%Y%m%d-%H%M%S')}-{workload}.jsonl"
        self.file = open(f"{BUILD}/results/{self.name}", "w", encoding="utf-8")

    def add(self, sample, **place):
        row = {"workload": self.workload, **place, **sample}
        self.samples.append(row)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def report(self, metrics, compared):
        when = time.strftime("%Y-%m-%d %H:%M")
        print(f"\n## {self.workload} ({when}, {ROUNDS} rounds, {self.name})")
        report(self.workload, self.samples, metrics, compared)


def report(workload, samples, metrics, compared):
    FAILURES.extend(sample for sample in samples if "error" in sample)
    if workload == "micro":
        print_micro(samples)
    else:
        print_cells(samples, metrics, compared)
    print_noise(samples)
    sys.stdout.flush()


def rounds(workload):
    for number in range(ROUNDS):
        yield number
        print(f"# {workload}: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)


class Cell:
    """A load, and how the server runs under it."""

    def __init__(self, name, args, extra=(), workers=2, pinned=False, nice=0):
        self.name, self.args, self.extra, self.nice = name, args, list(extra), nice
        # Pinned: one worker on CPU 0, the load on CPU 1.
        self.workers, self.cpus, self.cpu = (1, "0", 1) if pinned else (workers, None, None)


def run_cells(workload, section, cells, metrics=None, compared=None, program="load"):
    """Runs all servers of a cell once in each round, one after the other."""
    metrics, compared = metrics or ECHO_METRICS, compared or CPU_FIRST
    results = Results(workload)
    for number in rounds(workload):
        for cell in cells:
            if CELLS not in cell.name:
                continue
            for name, keys, argv in CONF[section]:
                if "only" in keys and workload not in keys["only"].split(","):
                    continue
                if "--deadline-ms" in cell.extra and keys.get("deadline") == "no":
                    continue
                workers = int(keys.get("workers", cell.workers))

                def sample():
                    udp = section == "udp"
                    with Server(argv, workers, cell.extra, cell.cpus, udp) as server:
                        return load(server, cell.args, cell.nice, cell.cpu, program)

                place = {"cell": cell.name, "server": name, "round": number, "workers": workers}
                results.add(undisturbed(sample), **place)
    results.report(metrics, compared)


def closed(conns, size=64, *extra):
    return ["--conns", conns, "--size", size, "--secs", SECS, "--warmup", WARMUP, *extra]


def echo():
    run_cells("echo", "echo", [
        Cell("1x64", closed(1)),
        Cell("50x64", closed(50)),
        Cell("1000x64", closed(1000)),
        Cell("50x16384", closed(50, 16384), ["--buf", "16384"]),
    ])


def pinned():
    run_cells("pinned", "echo", [
        Cell("pinned-1x64", closed(1), pinned=True),
        Cell("pinned-50x64", closed(50), pinned=True),
        Cell("pinned-50x64x16", closed(50, 64, "--depth", 16), pinned=True),
    ])


def churn():
    run_cells("churn", "echo", [Cell("churn32", closed(32, 64, "--mode", "churn", "--src", 4))])


def idle(count=10000):
    count = min(int(os.environ.get("IDLE", count)), descriptors() - 200)
    args = closed(100, 64, "--idle", count - 100, "--src", 8, "--settle-ms", 300)
    metrics = [
        "rss_per_idle_b", "hwm_kb", "kernel_slab_per_idle_b", "kernel_stack_per_idle_b",
        "page_tables_per_idle_b", "idle_open_s", "idle_cpu_us_each", "rps", "p50_us", "p99_us",
        "cpu_us_per_trip",
    ]
    cells = [Cell(f"idle{count - 100}+100", args)]
    run_cells("idle", "echo", cells, metrics, ["rss_per_idle_b", "cpu_us_per_trip"])


def burst(count=10000):
    count = min(int(os.environ.get("BURST", count)), descriptors() - 200)
    args = ["--mode", "burst", "--conns", count, "--src", 8, "--secs", 60, "--warmup", 0]
    metrics = ["secs", "p50_us", "p99_us", "max_us", "cpu_s", "trips", "hwm_kb", "errors"]
    run_cells("burst", "echo", [Cell(f"burst{count}", args)], metrics, ["secs", "cpu_s"])


def deadline():
    late = ["--deadline-ms", "5000"]
    run_cells("deadline", "echo", [
        Cell("plain-50x64", closed(50)),
        Cell("deadline-50x64", closed(50), late),
        Cell("pinned-plain-50x64", closed(50), pinned=True),
        Cell("pinned-deadline-50x64", closed(50), late, pinned=True),
    ])


def http():
    args = ["--mode", "http", "--secs", SECS, "--warmup", WARMUP, "--conns", 50, "--depth"]
    run_cells("http", "http", [
        Cell("http-50", args + [1]),
        Cell("http-50x16", args + [16]),
        Cell("pinned-http-50", args + [1], pinned=True),
    ])


def udp():
    args = ["--mode", "udp", *closed(50)]
    run_cells("udp", "udp", [Cell("udp-50x64", args), Cell("pinned-udp-50x64", args, pinned=True)])


def tls():
    files = ["--cert", f"{BUILD}/tls/cert.pem", "--key", f"{BUILD}/tls/key.pem"]
    args = closed(50) + files[:2]
    cells = [
        Cell("tls-50x64", args, files),
        Cell("tls-50x16384", closed(50, 16384) + files[:2], files + ["--buf", "16384"]),
        Cell("tls-handshakes", args + ["--mode", "churn"], files),
    ]
    run_cells("tls", "tls", cells, program="tls-load")


def stalls():
    # One message each 10 ms for each connection, and four special messages at once, again 300 ms
    # after the last of them was answered.
    args = closed(50, 64, "--pace-us", 10000, "--special-conns", 4, "--special")
    metrics = [
        "busy_n", "busy_p50_us", "busy_p99_us", "busy_p999_us", "busy_max_us", "special_n",
        "special_mean_us", "special_max_us", "p50_us", "p99_us", "threads",
    ]
    cells = [Cell("compute-4x200ms", args + ["s"], nice=-5),
             Cell("block-4x200ms", args + ["b"], nice=-5)]
    run_cells("stalls", "echo", cells, metrics, ["busy_p99_us"])


def hot():
    args = closed(50, 64, "--pace-us", 10000, "--hot", 1, "--hot-depth", 256)
    cells = [Cell("hot256+50slow", args, nice=-5), Cell("pinned-hot256+50slow", args, pinned=True)]
    metrics = ["hot_rps", "p50_us", "p99_us", "p999_us", "max_us", "cpu_us_per_trip"]
    run_cells("hot", "echo", cells, metrics, ["p99_us", "hot_rps"])


MICRO = {
    "tasks": ["spawn", "waitgroup", "yield", "sleepers", "parked"],
    "channels": [
        "pingpong", "chan0", "chan1", "chan128", "unbounded", "mpmc0", "mpmc1", "mpmc128",
        "mpmcunb", "trychan",
    ],
    "selects": ["select0", "select128", "selectdef"],
    "locks": ["mutex1", "mutex", "mutexpark", "rwlock1"],
    "timers": ["timers"],
}


def micro_sample(argv, workers, bench):
    pin = ["taskset", "-c", "0"] if workers == 1 else []
    count = ["--n", os.environ["COUNT"]] if "COUNT" in os.environ else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [*pin, *argv, "--workers", str(workers), "--bench", bench, *count],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=prepare,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    values = [line.split() for line in ended.stdout.splitlines()]
    values = {line[0]: [float(line[1]), line[2]] for line in values if len(line) == 3}
    sample = {"cpu_s": round(cpu, 3), "values": values}
    if ended.returncode:
        sample["error"] = ended.stderr[-300:]
    return sample


def micro():
    results = Results("micro")
    benches = [(kind, bench) for kind in MICRO for bench in MICRO[kind] if CELLS in bench]
    for number in rounds("micro"):
        for kind, bench in benches:
            for workers in 1, 2:
                # Memory hardly varies: three rounds of it, with two workers.
                if bench == "parked" and (workers == 1 or number >= 3):
                    continue
                for name, keys, argv in CONF["micro"]:
                    if keys.get("workers", str(workers)) != str(workers):
                        continue
                    if kind not in keys.get("benches", kind).split(","):
                        continue
                    sample = undisturbed(lambda: micro_sample(argv, workers, bench))
                    cell = f"{bench} ({workers})"
                    results.add(sample, cell=cell, server=name, round=number)
    results.report([], [])


def counted_calls(log):
    """The counts in a table of `strace -c`."""
    calls = {}
    with open(log, encoding="utf-8") as lines:
        for fields in map(str.split, lines):
            if len(fields) >= 5 and fields[0][0].isdigit() and fields[-1] != "total":
                calls[fields[-1]] = int(fields[3])
    return calls


def traced(argv, workers, args):
    log = f"{BUILD}/results/strace.{os.getpid()}"
    with Server(["strace", "-c", "-f", "-o", log] + argv, workers) as server:
        children = f"/proc/{server.pid}/task/{server.pid}/children"
        with open(children, encoding="ascii") as pids:
            pid = int(pids.read().split()[0])
        trips = load(server, args + ["--warmup", 0, "--secs", SECS])["trips"]
        # strace prints its table when its child, the server, has ended.
        os.kill(pid, signal.SIGKILL)
        server.process.wait(10)
    calls = counted_calls(log)
    os.unlink(log)
    each = {name: round(count / trips, 3) for name, count in calls.items()}
    return {"trips": trips, "total": sum(calls.values()) / trips, "calls": each}


def syscalls():
    """System calls for each round trip, set-up included. The times under strace mean nothing."""
    loads = {
        "1x64": ["--conns", 1],
        "50x64": ["--conns", 50],
        "churn8": ["--conns", 8, "--mode", "churn"],
    }
    results = Results("syscalls")
    print("\n## syscalls\n\n| load | server | total | calls |\n|---|---|---|---|")
    for cell, args in loads.items():
        for name, keys, argv in CONF["echo"]:
            if "only" in keys or CELLS not in cell:
                continue
            workers = int(keys.get("workers", 2))
            sample = traced(argv, workers, args)
            results.add(sample, cell=cell, server=name, round=0)
            most = sorted(sample["calls"].items(), key=lambda call: -call[1])
            most = ", ".join(f"{call} {count:.2f}" for call, count in most if count > 0.004)
            print(f"| {cell} | {name} | {sample['total']:.2f} | {most} |")


def report_files(paths):
    """Prints the tables of kept samples. Files of one workload are pooled."""
    workloads = {}
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for sample in map(json.loads, lines):
                # Rounds of two files are different rounds.
                sample["round"] = f"{path} {sample['round']}"
                workloads.setdefault(sample["workload"], []).append(sample)
    for workload, samples in workloads.items():
        print(f"\n## {workload}")
        skipped = ("round", "workers", "trips", "steal_pct", "foreign_pct", "disturbed_pct")
        good = next((s for s in samples if "error" not in s), {})
        metrics = [k for k, v in good.items() if isinstance(v, (int, float)) and k not in skipped]
        compared = [k for k in ("busy_p99_us", *CPU_FIRST) if k in metrics]
        report(workload, samples, metrics, compared)


WORKLOADS = {
    f.__name__: f
    for f in (echo, pinned, churn, idle, burst, deadline, hot, stalls, http, udp, tls, micro,
              syscalls)
}


def main():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(130))
    own_group()
    command, *rest = sys.argv[1:]
    if command == "list":
        for section, servers in CONF.items():
            print(section, *(name for name, _, _ in servers))
    elif command == "report":
        report_files(rest)
    else:
        for name in WORKLOADS if command == "all" else sys.argv[1:]:
            WORKLOADS[name]()
    if FAILURES:
        sys.exit(f"{len(FAILURES)} samples failed")


main()
