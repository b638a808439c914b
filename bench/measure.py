"""Starts servers, loads them and ends them, and tells how much of the machine went elsewhere.

Settings come from the environment; README.md lists them."""

import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time

BUILD = os.environ["BENCH_BUILD"]
HERE = os.path.dirname(os.path.abspath(__file__))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECS = float(os.environ.get("SECS", "2"))
WARMUP = float(os.environ.get("WARMUP", "0.4"))
ONLY = [name for name in os.environ.get("ONLY", "").split(",") if name]
CELLS = os.environ.get("CELLS", "")
NICE = int(os.environ.get("NICE", "-10"))
GATE = float(os.environ.get("GATE", "1.5"))
DISTURBED = float(os.environ.get("DISTURBED", "25"))
RETRY = int(os.environ.get("RETRY", "0"))


def read_conf():
    """The sections of servers.conf: lists of (name, keys, argv). Programs that are not built are
    left out."""
    conf = {}
    with open(f"{HERE}/servers.conf", encoding="utf-8") as lines:
        for line in map(str.strip, lines):
            if line.startswith("["):
                section = conf.setdefault(line.strip("[]"), [])
            elif line and not line.startswith("#"):
                left, command = line.split(" = ", 1)
                name, *keys = left.split()
                section.append((name, dict(key.split("=", 1) for key in keys), command))
    for section, rows in conf.items():
        for extra in filter(None, os.environ.get(f"ADD_{section.upper()}", "").split(";")):
            name, command = extra.split("=", 1)
            rows.append((name.strip(), {}, command))
        rows = [(name, keys, shlex.split(os.path.expandvars(cmd))) for name, keys, cmd in rows]
        conf[section] = [row for row in rows if wanted(row[0]) and os.path.exists(row[2][0])]
    return conf


def wanted(name):
    return not ONLY or name in ONLY


def descriptors():
    """How many files a process may have open, after it has raised its limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def prepare(more=0):
    """Runs in a child: raises its limit of files and its priority."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors(), descriptors()))
    if NICE:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, max(-20, NICE + more))
        except PermissionError:
            pass


def own_group():
    """Schedulers with autogroup share CPUs by session: makes a session and gives it NICE."""
    try:
        os.setsid()
    except OSError:
        pass
    try:
        with open("/proc/sys/kernel/sched_autogroup_enabled", encoding="ascii") as setting:
            grouped = setting.read().strip() == "1"
        if NICE and grouped:
            with open("/proc/self/autogroup", "w", encoding="ascii") as group:
                group.write(str(NICE))
    except OSError as error:
        print("# no priority for this session:", error, file=sys.stderr)


class Server:
    """A server process. The `with` statement ends it by its id."""

    # Below the range from which the kernel takes the ports of clients.
    next_port = 20000 + (os.getpid() * 37) % 8000

    def __init__(self, argv, workers, extra=(), cpus=None, datagrams=False):
        Server.next_port = 20000 + (Server.next_port - 19999) % 10000
        self.port = Server.next_port
        self.addr = f"127.0.0.1:{self.port}"
        argv = argv + ["--addr", self.addr, "--workers", str(workers), *extra]
        if cpus is not None:
            argv = ["taskset", "-c", cpus] + argv
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(argv, stdout=null, stderr=null, preexec_fn=prepare)
        self.pid = self.process.pid
        for _ in range(250):
            if self.answers(datagrams):
                time.sleep(0.05)
                return
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {shlex.join(argv)}")
            time.sleep(0.02)
        self.end()
        raise RuntimeError(f"the server does not listen: {shlex.join(argv)}")

    def answers(self, datagrams):
        try:
            if not datagrams:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.settimeout(0.1)
                probe.connect(("127.0.0.1", self.port))
                probe.send(b"probe")
                return probe.recv(16) == b"probe"
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def load(server, args, nice=0, cpu=None, program="load"):
    """Runs a load generator against a server. Returns its report."""
    argv = [f"{BUILD}/bin/{program}", "--addr", server.addr, "--pid", server.pid, *args]
    if cpu is not None:
        argv += ["--cpu", cpu]
    ended = subprocess.run(
        list(map(str, argv)),
        capture_output=True,
        text=True,
        timeout=180,
        preexec_fn=lambda: prepare(nice),
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip() or f"{program}: status {ended.returncode}")
    return json.loads(ended.stdout)


class Watch:
    """What part of the machine other processes took, and other guests, since it was made."""

    def __init__(self):
        self.before, self.own = self.stat(), self.own_secs()

    @staticmethod
    def stat():
        with open("/proc/stat", encoding="ascii") as stat:
            ticks = list(map(int, stat.readline().split()[1:9]))
        busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]
        return {"busy": busy, "steal": ticks[7], "all": sum(ticks)}

    @staticmethod
    def own_secs():
        """Of this process and of its children that were waited for."""
        both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(used.ru_utime + used.ru_stime for used in both)

    def end(self):
        after, own = self.stat(), self.own_secs()
        passed = {key: after[key] - self.before[key] for key in after}
        ticks = max(1, passed["all"])
        others = passed["busy"] - (own - self.own) * os.sysconf("SC_CLK_TCK")
        steal = 100 * passed["steal"] / ticks
        foreign = max(0.0, 100 * others / ticks)
        return {
            "steal_pct": round(steal, 1),
            "foreign_pct": round(foreign, 1),
            "disturbed_pct": round(steal + foreign, 1),
        }


def wait_for_quiet():
    end = time.time() + GATE
    while time.time() < end:
        watch = Watch()
        time.sleep(0.2)
        if watch.end()["disturbed_pct"] < DISTURBED / 2:
            return


def undisturbed(sample):
    """The least disturbed of at most 1 + RETRY results of `sample`. A failed one has an `error`."""
    best = None
    for _ in range(1 + RETRY):
        wait_for_quiet()
        watch = Watch()
        try:
            row = sample()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            row = {"error": str(error)[-300:]}
        row.update(watch.end())
        if best is None or row["disturbed_pct"] < best["disturbed_pct"]:
            best = row
        if best["disturbed_pct"] <= DISTURBED:
            break
    return best
