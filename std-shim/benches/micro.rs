//! What goroutines, channels, locks and timers cost, without a socket.
//!
//! ```text
//! cargo bench -p gopark --bench micro -- [--workers 2] [--names all] [--n COUNT] [--sysmon true]
//! ```
//!
//! Without arguments it runs all benchmarks briefly, with one worker and with two, and prints a
//! table. With arguments it prints lines `name_wWORKERS value unit`, as a harness expects that
//! compares runtimes (`docs/performance.md`). `--bench` is the harness's word for `--names`; cargo
//! itself passes `--bench` without a value.

#[path = "micro/operations.rs"]
mod operations;

use gopark::chan;
use gopark::go;
use gopark::time::{Duration, Instant, Timer};
use operations::{
    channel, join_all, mutex, mutex_alone, mutex_contended, mutex_yields, park_ready, pingpong,
    ready_channel, rwlock_alone, select_default, selects, spawn, timers, wait_group, yields,
};
use std::process::Command;
use std::{env, fs};

/// A benchmark: its name on the command line and in the output, its number of operations, and what
/// does so many operations.
struct Timed(&'static str, &'static str, usize, fn(usize));

const TIMED: [Timed; 22] = [
    Timed("spawn", "spawn_join", 1_000_000, spawn),
    Timed("yield", "yield", 2_000_000, yields),
    Timed("park", "park_ready", 1_000_000, park_ready),
    Timed("pingpong", "pingpong_switch", 1_000_000, pingpong),
    Timed("chan0", "chan_unbuffered", 1_000_000, |n| {
        channel(n, 1, Some(0))
    }),
    Timed("chan1", "chan_1", 1_000_000, |n| channel(n, 1, Some(1))),
    Timed("chan128", "chan_128", 2_000_000, |n| {
        channel(n, 1, Some(128))
    }),
    Timed("unbounded", "chan_unbounded", 2_000_000, |n| {
        channel(n, 1, None)
    }),
    Timed("mpmc0", "mpmc_unbuffered", 1_000_000, |n| {
        channel(n, 4, Some(0))
    }),
    Timed("mpmc1", "mpmc_1", 1_000_000, |n| channel(n, 4, Some(1))),
    Timed("mpmc128", "mpmc_128", 2_000_000, |n| {
        channel(n, 4, Some(128))
    }),
    Timed("mpmcunb", "mpmc_unbounded", 2_000_000, |n| {
        channel(n, 4, None)
    }),
    Timed("trychan", "chan_ready_send_recv", 4_000_000, ready_channel),
    Timed("select0", "select_unbuffered", 1_000_000, |n| selects(n, 0)),
    Timed("select128", "select_128", 1_000_000, |n| selects(n, 128)),
    Timed("selectdef", "select_default", 4_000_000, select_default),
    Timed("mutex1", "mutex_1task", 10_000_000, mutex_alone),
    Timed("mutex", "mutex_8tasks", 2_000_000, mutex),
    Timed("mutexpark", "mutex_8tasks_yield", 500_000, mutex_yields),
    Timed("mutextwo", "mutex_contended", 500_000, mutex_contended),
    Timed("rwlock1", "rwlock_read_1task", 10_000_000, rwlock_alone),
    Timed("waitgroup", "waitgroup_go_wait", 1_000_000, wait_group),
];

/// xorshift64*, as in the programs that this one is compared with.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

const SEED: u64 = 88_172_645_463_325_252;

struct Run {
    workers: usize,
    names: String,
    n: Option<usize>,
    /// False to count instructions: under callgrind sysmon would find every turn too long.
    sysmon: bool,
}

impl Run {
    fn wants(&self, name: &str) -> bool {
        self.names == "all" || self.names.split(',').any(|wanted| wanted == name)
    }

    fn count(&self, default: usize) -> usize {
        self.n.unwrap_or(default)
    }

    fn report(&self, name: &str, value: f64, unit: &str) {
        println!("{name}_w{} {value:.3} {unit}", self.workers);
    }

    fn timed(&self, name: &str, n: usize, f: impl FnOnce()) {
        let start = Instant::now();
        f();
        self.report(name, start.elapsed().as_nanos() as f64 / n as f64, "ns");
    }

    fn all(&self) {
        for Timed(name, output, default, f) in TIMED {
            if self.wants(name) {
                let n = self.count(default);
                if name == "spawn" {
                    // Takes the first use of each stack out of the figure.
                    f(n.min(10_000));
                }
                self.timed(output, n, || f(n));
            }
        }
        if self.wants("timers") {
            self.timers(self.count(1_000_000));
        }
        if self.wants("sleepers") {
            self.sleepers(self.count(100_000));
        }
        if self.wants("parked") {
            self.parked(self.count(1_000_000));
        }
    }

    fn timers(&self, n: usize) {
        self.timed("timer_create_stop", n, || timers(n));
        let mut random = Random(SEED);
        let mut timers = Vec::with_capacity(n);
        self.timed("timer_bulk_create", n, || {
            for _ in 0..n {
                let spread = Duration::from_nanos(random.below(50_000_000_000));
                timers.push(Timer::new(Duration::from_secs(10) + spread));
            }
        });
        self.timed("timer_bulk_stop", n, || {
            timers.iter().for_each(|timer| _ = timer.stop())
        });
    }

    fn sleepers(&self, n: usize) {
        let (cpu, start) = (cpu_seconds(), Instant::now());
        let mut random = Random(SEED);
        let sleeper = |nanos| {
            let time = Duration::from_nanos(nanos);
            go(move || {
                let start = Instant::now();
                gopark::sleep(time);
                (start.elapsed() - time).as_micros() as f64
            })
        };
        let sleepers: Vec<_> = (0..n)
            .map(|_| sleeper(random.below(1_000_000_000)))
            .collect();
        let mut late: Vec<_> = sleepers
            .into_iter()
            .map(|sleeper| sleeper.join().unwrap())
            .collect();
        late.sort_unstable_by(f64::total_cmp);
        let share = |part: f64| late[((n - 1) as f64 * part) as usize];
        self.report("sleepers_n", n as f64, "tasks");
        self.report("sleepers_cpu", cpu_seconds() - cpu, "s");
        self.report("sleepers_wall", start.elapsed().as_secs_f64(), "s");
        self.report("sleepers_late_p50", share(0.5), "us");
        self.report("sleepers_late_p99", share(0.99), "us");
        self.report("sleepers_late_max", share(1.0), "us");
    }

    fn parked(&self, n: usize) {
        let before = resident_bytes();
        let (sender, receiver) = chan::bounded::<()>(0);
        let parked = (0..n).map(|_| {
            let receiver = receiver.clone();
            go(move || _ = receiver.recv())
        });
        let parked = parked.collect();
        gopark::sleep(Duration::from_secs(1));
        self.report("parked_n", n as f64, "tasks");
        let each = (resident_bytes() - before) / n as f64;
        self.report("parked_rss", each, "B/task");
        drop(sender);
        join_all(parked);
    }
}

fn resident_bytes() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes.unwrap().parse::<f64>().unwrap() * 1024.0
}

/// User and system time of the process. Linux counts it in hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .map(|field| field.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}

/// Runs everything briefly, in one process for each number of workers.
fn table() {
    const BRIEF: &str = "50000";
    let outputs = ["1", "2"].map(|workers| {
        let program = env::current_exe().unwrap();
        let arguments = ["--workers", workers, "--n", BRIEF];
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    });
    println!("{:24}{:>12}{:>12}", "", "1 worker", "2 workers");
    for (one, two) in outputs[0].lines().zip(outputs[1].lines()) {
        let [one, two]: [Vec<&str>; 2] = [one, two].map(|line| line.split(' ').collect());
        let name = one[0].trim_end_matches("_w1");
        println!("{name:24}{:>12}{:>12} {}", one[1], two[1], one[2]);
    }
}

fn main() {
    let mut run = Run {
        workers: 2,
        names: "all".into(),
        n: None,
        sysmon: true,
    };
    let arguments: Vec<String> = env::args().skip(1).filter(|word| word != "--").collect();
    let options: Vec<_> = arguments.chunks_exact(2).collect();
    for option in &options {
        match option[0].as_str() {
            "--workers" => run.workers = option[1].parse().unwrap(),
            "--bench" | "--names" => run.names = option[1].clone(),
            "--n" => run.n = Some(option[1].parse().unwrap()),
            "--sysmon" => run.sysmon = option[1].parse().unwrap(),
            other => panic!("{other}: the options are --workers, --names, --n and --sysmon"),
        }
    }
    if options.is_empty() {
        return table();
    }
    let builder = gopark::Builder::new().max_procs(run.workers);
    builder.sysmon(run.sysmon).start().unwrap();
    gopark::run(|| run.all());
}
