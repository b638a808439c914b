//! An echo server that exports the figures of its runtime to Prometheus, over an HTTP server of its own.
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

/// Runs `session` in a goroutine for each connection.
pub fn serve(listener: TcpListener, session: fn(TcpStream) -> io::Result<()>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        gopark::go(move || session(stream));
    }
}

/// Answers one request, which is all that the protocol asks for.
pub fn respond(stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // The request line, and headers up to an empty line. Whoever sends more than fits gets no answer.
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
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    (&stream).write_all((head + &body).as_bytes())
}

/// The figures in Prometheus's text format.
fn render(m: &Metrics) -> String {
    let mut page = Page(String::new());
    page.family("goroutines", "gauge", "Goroutines that exist, by state.");
    page.sample(
        "goroutines{state=\"not_started\"}",
        m.goroutines_not_started,
    );
    page.sample("goroutines{state=\"runnable\"}", m.goroutines_runnable);
    page.sample("goroutines{state=\"running\"}", m.goroutines_running);
    page.sample("goroutines{state=\"waiting\"}", m.goroutines_waiting);
    page.figure(
        "poll_waiters",
        "gauge",
        "Goroutines and threads that wait for a descriptor.",
        m.poll_waiters,
    );
    page.figure(
        "goroutines_created_total",
        "counter",
        "Goroutines spawned.",
        m.goroutines_created,
    );
    page.family("procs", "gauge", "Procs, by what their thread does.");
    page.sample("procs{state=\"idle\"}", m.procs_idle);
    page.sample(
        "procs{state=\"busy\"}",
        m.max_procs.saturating_sub(m.procs_idle),
    );
    page.family("threads", "gauge", "Threads, by what they are for.");
    page.sample(
        "threads{kind=\"with_proc\"}",
        m.threads - m.threads_without_proc,
    );
    page.sample("threads{kind=\"without_proc\"}", m.threads_without_proc);
    page.sample("threads{kind=\"pool\"}", m.pool_threads);
    page.figure("runs_total", "counter", "Turns of goroutines.", m.runs);
    page.figure(
        "parks_total",
        "counter",
        "Turns that ended with a wait.",
        m.parks,
    );
    page.figure(
        "yields_total",
        "counter",
        "Turns that ended to let others go first.",
        m.yields,
    );
    page.figure(
        "steals_total",
        "counter",
        "Batches of goroutines taken from another proc's queue.",
        m.steals,
    );
    page.figure(
        "handoffs_total",
        "counter",
        "Procs taken from a thread that was kept busy.",
        m.handoffs,
    );
    page.figure(
        "polls_total",
        "counter",
        "Times that a poller was asked.",
        m.polls,
    );
    page.figure(
        "events_total",
        "counter",
        "Events that pollers reported.",
        m.events,
    );
    page.figure(
        "wakes_total",
        "counter",
        "System calls that end a thread's sleep.",
        m.wakes,
    );
    page.figure("timers", "gauge", "Timers that will fire.", m.timers_armed);
    page.figure(
        "timers_fired_total",
        "counter",
        "Timers that have fired.",
        m.timers_fired,
    );
    page.family("run_queue", "gauge", "Goroutines in run queues.");
    page.sample("run_queue{queue=\"global\"}", m.global_queue);
    for (proc, length) in m.local_queues.iter().enumerate() {
        page.sample(&format!("run_queue{{queue=\"{proc}\"}}"), length);
    }
    if let Some(bytes) = m.stack_bytes {
        page.figure(
            "stack_bytes",
            "gauge",
            "Memory behind the stacks of goroutines.",
            bytes,
        );
    }
    page.latencies(m);
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.0 += &format!("# HELP gopark_{name} {help}\n# TYPE gopark_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, value: impl Display) {
        self.0 += &format!("gopark_{name} {value}\n");
    }

    /// A family of one.
    fn figure(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, value);
    }

    /// One turn in eight is measured. Buckets that end with a power of two are fine enough to show, and the last has no end.
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
