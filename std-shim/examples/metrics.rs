//! An echo server that exports the metrics of its runtime to Prometheus through an HTTP server.
//!
//! ```text
//! cargo run --release --example metrics -- 127.0.0.1:7000 127.0.0.1:9100
//! curl http://127.0.0.1:9100/metrics
//! ```

use gopark::Metrics;
use gopark::net::{TcpListener, TcpStream};
use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut listen =
        |default: &str| TcpListener::bind(args.next().unwrap_or_else(|| default.into()));
    let (echo, http) = (listen("127.0.0.1:7000")?, listen("127.0.0.1:9100")?);
    gopark::run(|| {
        let exporter = gopark::go(|| serve(http, respond));
        serve(echo, |stream| {
            io::copy(&mut &stream, &mut &stream).map(drop)
        })?;
        exporter.join().expect("no panic")
    })
}

/// Accepts connections, and runs `session` in a goroutine for each. Returns the first error.
pub fn serve(listener: TcpListener, session: fn(TcpStream) -> io::Result<()>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        gopark::go(move || session(stream));
    }
}

/// Answers one request and closes the connection.
pub fn respond(stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // The request line and headers end with an empty line. A longer request is an error.
    let mut lines = BufReader::new((&stream).take(8192)).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}

    let (status, body) = match request.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/metrics", _] => ("200 OK", render(&gopark::metrics())),
        ["GET", ..] => ("404 Not Found", "There is only /metrics.\n".into()),
        _ => ("405 Method Not Allowed", "There is only GET.\n".into()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    (&stream).write_all((head + &body).as_bytes())
}

/// Returns the metrics in Prometheus's text format.
fn render(m: &Metrics) -> String {
    let mut page = Page(String::new());
    page.goroutines(m);
    page.procs_and_threads(m);
    page.turns(m);
    page.poller_and_timers(m);
    page.run_queues(m);
    page.latencies(m);
    page.0
}

/// A page of metrics in Prometheus's text format.
struct Page(String);

impl Page {
    /// Writes the head of a metric family.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.0 += &format!("# HELP gopark_{name} {help}\n# TYPE gopark_{name} {kind}\n");
    }

    /// Writes one sample of the current family.
    fn sample(&mut self, name: &str, value: impl Display) {
        self.0 += &format!("gopark_{name} {value}\n");
    }

    /// Writes a family with a single sample.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, value);
    }

    fn goroutines(&mut self, m: &Metrics) {
        self.family("goroutines", "gauge", "Goroutines that exist, by state.");
        for (state, count) in [
            ("not_started", m.goroutines_not_started),
            ("runnable", m.goroutines_runnable),
            ("running", m.goroutines_running),
            ("waiting", m.goroutines_waiting),
        ] {
            self.sample(&format!("goroutines{{state=\"{state}\"}}"), count);
        }
        let help = "Goroutines and threads that wait for a descriptor.";
        self.single("poll_waiters", "gauge", help, m.poll_waiters);
        let help = "Waiting goroutines without a stack, before their first run.";
        self.single("idle_connections", "gauge", help, m.idle_connections);
        let help = "Goroutines spawned.";
        self.single(
            "goroutines_created_total",
            "counter",
            help,
            m.goroutines_created,
        );
        let help = "Goroutines whose panic nothing has read.";
        self.single("unseen_panics_total", "counter", help, m.unseen_panics);
        let help = "Goroutines whose error nothing has read.";
        self.single("unseen_errors_total", "counter", help, m.unseen_errors);
        if let Some(bytes) = m.stack_bytes {
            let help = "Memory of the stacks of goroutines.";
            self.single("stack_bytes", "gauge", help, bytes);
        }
    }

    fn procs_and_threads(&mut self, m: &Metrics) {
        self.family("procs", "gauge", "Procs, by whether their thread is idle.");
        self.sample("procs{state=\"idle\"}", m.procs_idle);
        let busy = m.max_procs.saturating_sub(m.procs_idle);
        self.sample("procs{state=\"busy\"}", busy);
        self.family("threads", "gauge", "Threads, by what they are for.");
        for (kind, count) in [
            ("with_proc", m.threads - m.threads_without_proc),
            ("without_proc", m.threads_without_proc),
            ("pool", m.pool_threads),
        ] {
            self.sample(&format!("threads{{kind=\"{kind}\"}}"), count);
        }
    }

    /// A turn is the time from when a thread resumes a goroutine until it parks, yields or returns.
    fn turns(&mut self, m: &Metrics) {
        for (name, help, count) in [
            ("runs_total", "Turns of goroutines.", m.runs),
            ("parks_total", "Turns that ended with a wait.", m.parks),
            ("yields_total", "Turns that ended with a yield.", m.yields),
            (
                "steals_total",
                "Batches of goroutines taken from another proc's queue.",
                m.steals,
            ),
            (
                "handoffs_total",
                "Procs taken from a thread that was kept busy.",
                m.handoffs,
            ),
        ] {
            self.single(name, "counter", help, count);
        }
    }

    fn poller_and_timers(&mut self, m: &Metrics) {
        for (name, kind, help, value) in [
            (
                "polls_total",
                "counter",
                "Times that a poller was asked.",
                m.polls,
            ),
            (
                "events_total",
                "counter",
                "Events that pollers reported.",
                m.events,
            ),
            (
                "wakes_total",
                "counter",
                "System calls that end a thread's sleep.",
                m.wakes,
            ),
            ("timers", "gauge", "Timers that will fire.", m.timers_armed),
            (
                "timers_fired_total",
                "counter",
                "Timers that have fired.",
                m.timers_fired,
            ),
        ] {
            self.single(name, kind, help, value);
        }
    }

    fn run_queues(&mut self, m: &Metrics) {
        self.family("run_queue", "gauge", "Goroutines in run queues.");
        self.sample("run_queue{queue=\"global\"}", m.global_queue);
        for (proc, length) in m.local_queues.iter().enumerate() {
            self.sample(&format!("run_queue{{queue=\"{proc}\"}}"), length);
        }
    }

    /// The runtime measures one turn in eight. The page shows the buckets that end at a power of
    /// two; the last bucket has no end.
    fn latencies(&mut self, m: &Metrics) {
        self.family(
            "sched_latency_seconds",
            "histogram",
            "Time that goroutines waited for their turn, of a sample.",
        );
        let mut count = 0;
        for bucket in &m.latencies.buckets {
            count += bucket.count;
            match bucket.below {
                Duration::MAX => self.sample("sched_latency_seconds_bucket{le=\"+Inf\"}", count),
                below if !below.as_nanos().is_power_of_two() => {}
                below => self.sample(
                    &format!(
                        "sched_latency_seconds_bucket{{le=\"{}\"}}",
                        below.as_secs_f64()
                    ),
                    count,
                ),
            }
        }
        self.sample("sched_latency_seconds_sum", m.latencies.sum.as_secs_f64());
        self.sample("sched_latency_seconds_count", count);
    }
}
