//! What the peers share: options, the special requests of the workload `stalls`, and measuring.
#![allow(
    unsafe_code,
    reason = "smol reads its number of threads from the environment only"
)]

use std::time::{Duration, Instant};
use std::{env, fs, hint, thread};

/// The options of a program.
pub struct Opts {
    pub addr: String,
    pub workers: usize,
    pub deadline: Option<Duration>,
    pub buf: usize,
    pub flavor: String,
    pub offload: bool,
    pub bench: String,
    pub n: Option<usize>,
    pub cert: String,
    pub key: String,
}

/// Reads `--name value` pairs. Panics for unknown names and wrong values.
pub fn opts() -> Opts {
    let mut o = Opts {
        addr: "127.0.0.1:9000".into(),
        workers: 2,
        deadline: None,
        buf: 4096,
        flavor: String::new(),
        offload: false,
        bench: "all".into(),
        n: None,
        cert: "cert.pem".into(),
        key: "key.pem".into(),
    };
    let args: Vec<String> = env::args().skip(1).collect();
    for pair in args.chunks(2) {
        let value = pair.get(1).expect("every option needs a value").as_str();
        match pair[0].as_str() {
            "--addr" => o.addr = value.into(),
            "--workers" => o.workers = value.parse().unwrap(),
            "--deadline-ms" => o.deadline = Some(Duration::from_millis(value.parse().unwrap())),
            "--buf" => o.buf = value.parse().unwrap(),
            "--flavor" => o.flavor = value.into(),
            "--offload" => o.offload = value == "1",
            "--bench" => o.bench = value.into(),
            "--n" => o.n = Some(value.parse().unwrap()),
            "--cert" => o.cert = value.into(),
            "--key" => o.key = value.into(),
            other => panic!("unknown option {other}"),
        }
    }
    o
}

impl Opts {
    /// Whether `--bench` names the benchmark.
    pub fn wants(&self, bench: &str) -> bool {
        self.bench == "all" || self.bench.split(',').any(|wanted| wanted == bench)
    }

    pub fn count(&self, default: usize) -> usize {
        self.n.unwrap_or(default)
    }

    pub fn report(&self, name: &str, value: f64, unit: &str) {
        println!("{name}_w{} {value:.3} {unit}", self.workers);
    }

    /// Reports the nanoseconds of one of `n` operations that began at `start`.
    pub fn per_op(&self, name: &str, n: usize, start: Instant) {
        self.report(name, start.elapsed().as_nanos() as f64 / n as f64, "ns");
    }

    /// Reports how late sleepers woke, in microseconds, and what all of them took since `start`.
    pub fn report_sleepers(&self, mut late: Vec<u64>, cpu_at_start: f64, start: Instant) {
        late.sort_unstable();
        let share = |part: f64| late[((late.len() - 1) as f64 * part) as usize] as f64;
        self.report("sleepers_n", late.len() as f64, "tasks");
        self.report("sleepers_cpu", cpu_seconds() - cpu_at_start, "s");
        self.report("sleepers_wall", start.elapsed().as_secs_f64(), "s");
        self.report("sleepers_late_p50", share(0.5), "us");
        self.report("sleepers_late_p99", share(0.99), "us");
        self.report("sleepers_late_max", share(1.0), "us");
    }

    /// Reports the memory that each of `n` parked tasks takes.
    pub fn report_parked(&self, n: usize, bytes_before: f64) {
        self.report("parked_n", n as f64, "tasks");
        let each = (resident_bytes() - bytes_before) / n as f64;
        self.report("parked_rss", each, "B/task");
    }

    /// Tells smol how many threads its executor has. Call it before smol is used.
    pub fn set_smol_threads(&self) {
        // SAFETY: the program has no other thread yet that could read the environment.
        unsafe { env::set_var("SMOL_THREADS", self.workers.to_string()) };
    }
}

/// Runs a benchmark if it is wanted: `timed!(o, "spawn", "spawn_join", 1_000_000, n => spawn(n))`.
#[macro_export]
macro_rules! timed {
    ($o:expr, $bench:literal, $name:literal, $default:literal, $n:ident => $body:expr) => {
        if $o.wants($bench) {
            let $n = $o.count($default);
            let start = std::time::Instant::now();
            $body;
            $o.per_op($name, $n, start);
        }
    };
}

/// Whether a request is one of the workload `stalls`.
pub fn is_special(request: u8) -> bool {
    request == b'S' || request == b'B'
}

/// Keeps the thread: `S` computes for about 200 ms, `B` blocks for 200 ms.
#[cold]
pub fn special(request: u8) {
    if request != b'S' {
        return thread::sleep(Duration::from_millis(200));
    }
    let mut x = 1u64;
    for _ in 0..100_000_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    hint::black_box(x);
}

pub fn resident_bytes() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes.unwrap().parse::<f64>().unwrap() * 1024.0
}

/// User and system time of the process. Linux counts it in hundredths of a second.
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|it| it.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// xorshift64*: all programs take the same numbers.
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Random(88_172_645_463_325_252)
    }
}

impl Random {
    pub fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        Duration::from_nanos(value % limit.as_nanos() as u64)
    }
}
