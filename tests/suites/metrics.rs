//! The figures of the runtime: each changes when it must, and by the right amount. Nothing else
//! uses this process's runtime.

use gopark::net::{TcpListener, TcpStream, UnixStream, on_readable};
use gopark::{Builder, Metrics, blocking, go, metrics};
use gopark_tests::{in_goroutine, join, on_thread, start, until, until_on_thread};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The example's own code. The suite calls its functions in place of its `main`.
#[allow(dead_code, unreachable_pub, reason = "the test is the main program")]
#[path = "../../std-shim/examples/metrics.rs"]
mod example;

/// The tests take turns, because the figures are those of the whole runtime.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `behaviour` alone, when the runtime is idle.
#[track_caller]
fn alone(behaviour: impl FnOnce() + Send + 'static) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    start(Builder::new().max_procs(2));
    until_on_thread("all is quiet", at_rest);
    in_goroutine(behaviour);
}

/// Whether no goroutine or timer is left that could change a figure.
fn at_rest() -> bool {
    let m = metrics();
    m.goroutines == 0 && m.procs_idle == 2
}

/// `[not started, runnable, running, waiting]`
fn states(m: &Metrics) -> [u64; 4] {
    [
        m.goroutines_not_started,
        m.goroutines_runnable,
        m.goroutines_running,
        m.goroutines_waiting,
    ]
}

#[test]
fn goroutines_are_counted_by_state() {
    alone(|| {
        let before = metrics();
        assert_eq!((before.goroutines, states(&before)), (1, [0, 0, 1, 0]));
        let (hold, go_on) = (
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicBool::new(false)),
        );

        // Both Ps are busy: one with this goroutine, one with a goroutine that computes.
        let computing = Arc::new(AtomicBool::new(false));
        let busy = go({
            let (hold, computing) = (hold.clone(), computing.clone());
            move || {
                while hold.load(SeqCst) {
                    computing.store(true, SeqCst);
                    std::hint::spin_loop();
                }
            }
        });
        until_on_thread("the other computes", || computing.load(SeqCst));
        let others: Vec<_> = (0..100)
            .map(|_| {
                let go_on = go_on.clone();
                go(move || until("they may go on", || go_on.load(SeqCst)))
            })
            .collect();
        let m = metrics();
        assert_eq!(m.goroutines_created, before.goroutines_created + 101);
        // Another thread may have taken over the P of the goroutine that computes, and started some
        // of them.
        assert_eq!(
            (m.goroutines, states(&m).iter().sum::<u64>()),
            (102, 102),
            "{m:?}"
        );
        assert!(
            m.goroutines_running >= 2 && m.goroutines_waiting <= 100,
            "{m:?}"
        );

        go_on.store(true, SeqCst);
        hold.store(false, SeqCst);
        join(busy);
        others.into_iter().for_each(join);
        until("all have let go of their threads", || {
            states(&metrics()) == [0, 0, 1, 0]
        });
    });
}

#[test]
fn goroutines_that_have_not_run_are_counted_as_not_started() {
    alone(|| {
        let before = metrics();
        // Local goroutines run on this thread only.
        let local: Vec<_> = (0..100)
            .map(|_| gopark::go_local(gopark::yield_now))
            .collect();
        assert_eq!(states(&metrics()), [100, 0, 1, 0]);
        gopark::yield_now();
        // Each has run once and yielded.
        let m = metrics();
        assert_eq!(states(&m), [0, 100, 1, 0]);
        assert_eq!(
            (m.yields, m.runs, m.parks),
            (before.yields + 101, before.runs + 101, before.parks)
        );
        local.into_iter().for_each(join);
        assert_eq!(
            metrics().goroutines_created,
            before.goroutines_created + 100
        );
    });
}

/// Starts sleepers that sleep for `patience`. Returns whether all could be counted before the first
/// woke.
fn sleepers_are_counted(patience: Duration) -> bool {
    let before = metrics();
    let wake_at = Instant::now() + patience;
    let sleepers: Vec<_> = (0..1000)
        .map(|_| go(move || gopark::sleep_until(wake_at)))
        .collect();
    until("all have gone to sleep", || {
        metrics().goroutines_not_started == 0 && metrics().goroutines_runnable == 0
    });
    let asleep = metrics();
    let seen = Instant::now() < wake_at;
    if seen {
        // One of them may not have parked yet.
        assert!(
            asleep.goroutines_waiting + asleep.goroutines_running >= 1001,
            "{asleep:?}"
        );
        assert_eq!(asleep.timers_armed, before.timers_armed + 1000);
    }
    sleepers.into_iter().for_each(join);
    let after = metrics();
    // This goroutine, in `until`, sleeps now and then.
    assert_eq!(after.timers_armed, before.timers_armed);
    if seen {
        assert!(
            after.timers_fired >= before.timers_fired + 1000,
            "{after:?}"
        );
        assert!(after.parks >= before.parks + 1000, "{after:?}");
        assert!(after.runs >= before.runs + 2000, "{after:?}");
    }
    seen
}

#[test]
fn sleepers_park_and_have_armed_a_timer_each() {
    alone(|| {
        let seen = [100, 1000, 10_000]
            .map(Duration::from_millis)
            .into_iter()
            .any(sleepers_are_counted);
        assert!(seen, "too slow to be seen");
    });
}

#[test]
fn a_park_is_counted_once() {
    alone(|| {
        // A goroutine that is delayed on its way to sleep may find that its time has passed, and
        // does not park.
        let counted = (0..100).find_map(|_| {
            let before = metrics();
            for _ in 0..20 {
                gopark::sleep(Duration::from_micros(200));
            }
            let after = metrics();
            assert_eq!(
                (after.yields, after.goroutines_created),
                (before.yields, before.goroutines_created)
            );
            let counted = [
                after.parks - before.parks,
                after.timers_fired - before.timers_fired,
                after.runs - before.runs,
            ];
            (counted[0] >= 20).then_some(counted)
        });
        assert_eq!(counted, Some([20; 3]));
    });
}

#[test]
fn a_stopped_deadline_is_not_armed() {
    alone(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = metrics();
        listener
            .set_deadline(Some(Instant::now() + Duration::from_secs(60)))
            .unwrap();
        assert_eq!(metrics().timers_armed, before.timers_armed + 1);
        listener.set_deadline(None).unwrap();
        let after = metrics();
        assert_eq!(
            (after.timers_armed, after.timers_fired),
            (before.timers_armed, before.timers_fired)
        );
    });
}

#[test]
fn every_event_of_a_connection_is_counted() {
    alone(|| {
        let before = metrics();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = go(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() > 0 {
                stream.write_all(&byte).unwrap();
            }
        });
        until("the server waits", || metrics().poll_waiters == 1);
        // An ordinary thread, whose waits are not counted. Each of its writes finds the server
        // waiting, or about to wait.
        let client = thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            for _ in 0..50 {
                until_on_thread("the server waits", || metrics().poll_waiters == 1);
                stream.write_all(b"x").unwrap();
                stream.read_exact(&mut [0]).unwrap();
            }
        });
        join(server);
        until("the client has ended", || client.is_finished());
        let after = metrics();
        assert!(
            after.events - before.events >= 50 && after.polls - before.polls >= 50,
            "{after:?}"
        );
        assert_eq!(after.poll_waiters, 0);
    });
}

#[test]
fn a_goroutine_that_waits_without_a_stack_is_counted_until_it_starts() {
    alone(|| {
        let before = metrics();
        assert_eq!(before.idle_connections, 0);
        let pairs: Vec<_> = (0..10).map(|_| UnixStream::pair().unwrap()).collect();
        let clients: Vec<_> = pairs
            .into_iter()
            .map(|(client, server)| {
                on_readable(server, |mut server| server.read(&mut [0])).unwrap();
                client
            })
            .collect();
        let m = metrics();
        assert_eq!((m.idle_connections, m.poll_waiters), (10, 10));
        assert_eq!((m.goroutines, states(&m)), (11, [0, 0, 1, 10]));
        assert_eq!(m.goroutines_created, before.goroutines_created + 10);
        let mut dump = Vec::new();
        gopark::dump(&mut dump).unwrap();
        let dump = String::from_utf8(dump).unwrap();
        assert!(
            dump.contains("\n10 goroutines wait without a stack for a socket\n")
                && !dump.contains("more goroutines are new"),
            "{dump}"
        );
        drop(clients);
        until("all have read the end", || metrics().goroutines == 1);
        let after = metrics();
        assert_eq!((after.idle_connections, after.poll_waiters), (0, 0));
        assert_eq!(states(&after), [0, 0, 1, 0]);
    });
    // Made on an ordinary thread, ended in a goroutine.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    on_thread(|| {
        let (client, server) = UnixStream::pair().unwrap();
        on_readable(server, |mut server| server.read(&mut [0])).unwrap();
        let m = metrics();
        assert_eq!((m.idle_connections, m.poll_waiters), (1, 1));
        assert_eq!((m.goroutines, states(&m)), (1, [0, 0, 0, 1]));
        drop(client);
        until_on_thread("all is quiet", at_rest);
        let after = metrics();
        assert_eq!((after.idle_connections, after.poll_waiters), (0, 0));
        assert_eq!(states(&after), [0; 4]);
    });
}

#[test]
fn a_goroutine_that_blocks_outside_of_blocking_loses_its_proc() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    start(Builder::new().max_procs(2));
    until_on_thread("all is quiet", at_rest);
    on_thread(|| {
        let before = metrics();
        let stop = Arc::new(AtomicBool::new(false));
        let block = || {
            let stop = stop.clone();
            go(move || {
                while !stop.load(SeqCst) {
                    thread::sleep(Duration::from_millis(10));
                }
            })
        };
        let blocked = [block(), block()];
        until_on_thread("both threads are blocked", || {
            states(&metrics()) == [0, 0, 2, 0]
        });
        join(go(|| ()));
        let m = metrics();
        assert!(m.handoffs > before.handoffs, "{m:?}");
        assert!(
            m.threads > 2 && m.threads_without_proc == m.threads - 2,
            "{m:?}"
        );
        stop.store(true, SeqCst);
        blocked.into_iter().for_each(join);
        until_on_thread("all have let go of their threads", || {
            states(&metrics()) == [0; 4]
        });
    });
}

#[test]
fn blocking_work_parks_its_goroutine_and_has_a_thread_of_a_pool() {
    alone(|| {
        let before = metrics();
        for _ in 0..10 {
            let states = blocking(|| {
                // The goroutine may still be on its way into the queue of the pool.
                until_on_thread("it is parked", || metrics().goroutines_waiting == 1);
                states(&metrics())
            });
            assert_eq!(states, [0, 0, 0, 1]);
        }
        let after = metrics();
        assert_eq!(after.parks - before.parks, 10);
        assert!((1..=10).contains(&after.pool_threads), "{after:?}");
        assert!(
            after.wakes - before.wakes >= 9,
            "the thread of the pool, or that of the goroutine, slept each time: {after:?}"
        );
    });
}

#[test]
fn goroutines_of_a_busy_thread_are_stolen() {
    alone(|| {
        loop {
            let before = metrics();
            // Gets back a P that was taken.
            gopark::yield_now();
            let threads: Vec<_> = (0..100).map(|_| go(thread_id)).collect();
            // This goroutine keeps its thread, so another thread has taken the goroutines that ran.
            until_on_thread("the other thread has run them", || {
                threads.iter().all(|goroutine| goroutine.is_finished())
            });
            let after = metrics();
            // On a busy machine sysmon may take this thread's P first. The goroutines are then in
            // the global queue, and none is stolen.
            if after.handoffs == before.handoffs {
                let steals = after.steals - before.steals;
                assert!((1..=100).contains(&steals), "{steals}");
                return;
            }
        }
    });
}

fn thread_id() -> thread::ThreadId {
    thread::current().id()
}

#[test]
fn queues_have_a_length() {
    alone(|| {
        let local: Vec<_> = (0..64)
            .map(|_| gopark::go_local(|| (0..2).for_each(|_| gopark::yield_now())))
            .collect();
        gopark::yield_now();
        let m = metrics();
        // The figure is updated every eight turns. It includes this goroutine, and misses one of
        // the others.
        assert!(
            (56..=65).contains(&m.local_queues.iter().max().copied().unwrap()),
            "{m:?}"
        );
        assert_eq!((m.local_queues.len(), m.global_queue), (2, 0));
        local.into_iter().for_each(join);
    });
}

#[test]
fn about_one_turn_in_eight_is_measured() {
    alone(|| {
        let before = metrics();
        let shift: Vec<_> = (0..8)
            .map(|_| {
                go(|| {
                    for _ in 0..1000 {
                        gopark::yield_now();
                    }
                })
            })
            .collect();
        shift.into_iter().for_each(join);
        let after = metrics();
        let (runs, measured) = (
            after.runs - before.runs,
            after.latencies.count() - before.latencies.count(),
        );
        assert!(runs >= 8000);
        // Each thread may withhold an eighth of its count, and the last spawns are missing.
        assert!(
            (runs / 8 - 20..=runs / 8 + 20).contains(&measured),
            "{measured} of {runs}"
        );
        let took = after.latencies.sum - before.latencies.sum;
        assert!(took > Duration::ZERO, "{took:?}");
    });
}

#[test]
fn a_long_wait_for_a_turn_is_in_the_buckets_for_long_ones() {
    alone(|| {
        let long = |m: &Metrics| {
            m.latencies
                .buckets
                .iter()
                .filter(|bucket| bucket.below > Duration::from_millis(6))
                .map(|b| b.count)
                .sum::<u64>()
        };
        let before = metrics();
        let waiting: Vec<_> = (0..80).map(|_| gopark::go_local(|| ())).collect();
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(6) {
            std::hint::spin_loop();
        }
        waiting.into_iter().for_each(join);
        let more = long(&metrics()) - long(&before);
        assert!((8..=12).contains(&more), "{more} of 80");
    });
}

#[test]
fn stacks_in_use_are_resident() {
    const TOUCHED: usize = 64 * 1024;
    alone(|| {
        let before = metrics().stack_bytes.expect("Linux says it");
        let go_on = Arc::new(AtomicBool::new(false));
        let deep: Vec<_> = (0..100)
            .map(|_| {
                let go_on = go_on.clone();
                go(move || {
                    std::hint::black_box([1u8; TOUCHED]);
                    until("it may end", || go_on.load(SeqCst));
                })
            })
            .collect();
        until("all have touched their stacks", || {
            metrics().goroutines_not_started == 0
        });
        let after = metrics().stack_bytes.unwrap();
        // The figure is an estimate, since earlier tests may have left many free stacks.
        assert!(
            after >= before.max(100 * TOUCHED as u64 * 3 / 4),
            "{before}, then {after}"
        );
        assert!(
            after - before <= 100 * (256 << 10),
            "{before}, then {after}"
        );
        go_on.store(true, SeqCst);
        deep.into_iter().for_each(join);
    });
}

/// A sample of a page in Prometheus's text format.
struct Sample {
    name: String,
    labels: HashMap<String, String>,
    value: f64,
}

/// The type and the samples of each family.
type Families = HashMap<String, (String, Vec<Sample>)>;

/// Parses a page. Panics if it breaks a rule of the format.
fn parse(page: &str) -> Families {
    let mut families = Families::new();
    let (mut family, mut helped) = (String::new(), String::new());
    assert!(page.ends_with('\n'), "the last line has an end");
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("a help has a text").0.into();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(name, helped, "the help comes first");
            family = name.into();
            assert!(
                families
                    .insert(family.clone(), (kind.into(), Vec::new()))
                    .is_none(),
                "{name} comes twice"
            );
        } else {
            let sample = sample(line);
            let (kind, samples) = families
                .get_mut(&family)
                .expect("a type comes before the samples");
            let suffixes: &[&str] = if kind == "histogram" {
                &["_bucket", "_sum", "_count"]
            } else {
                &[""]
            };
            assert!(
                suffixes
                    .iter()
                    .any(|suffix| sample.name == format!("{family}{suffix}")),
                "{line} is not of {family}"
            );
            assert!(
                samples
                    .iter()
                    .all(|other| (&other.name, &other.labels) != (&sample.name, &sample.labels)),
                "{line} comes twice"
            );
            samples.push(sample);
        }
    }
    families
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    assert!(
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
        "{line}"
    );
    let labels = labels
        .strip_suffix('}')
        .expect("labels end")
        .split(',')
        .filter(|label| !label.is_empty());
    let label = |label: &str| {
        let (name, value) = label.split_once('=').expect("a label has a value");
        (
            name.into(),
            value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'))
                .expect("quotes")
                .into(),
        )
    };
    Sample {
        name: name.into(),
        labels: labels.map(label).collect(),
        value: value.parse().expect("a number"),
    }
}

/// The status and the body of the server's answer to one request.
fn request(addr: std::net::SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "{request}\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(
        head.contains(&format!("Content-Length: {}", body.len())),
        "{head}"
    );
    (head.lines().next().unwrap().into(), body.into())
}

#[test]
fn the_example_exports_what_prometheus_can_read() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    start(Builder::new().max_procs(2));
    in_goroutine(|| {
        let [echo, http] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addrs = [&echo, &http].map(|listener| listener.local_addr().unwrap());
        let echo_stops = Arc::new(echo);
        go({
            let echo = echo_stops.try_clone().unwrap();
            move || {
                example::serve(echo, |stream| {
                    std::io::copy(&mut &stream, &mut &stream).map(drop)
                })
            }
        });
        let http_stops = http.try_clone().unwrap();
        go(move || example::serve(http, example::respond));

        let mut stream = TcpStream::connect(addrs[0]).unwrap();
        let page = |expect: fn(&Families)| {
            let (status, body) = request(addrs[1], "GET /metrics HTTP/1.1");
            assert_eq!(status, "HTTP/1.1 200 OK");
            let families = parse(&body);
            expect(&families);
            families
        };
        let value = |families: &Families, name: &str| {
            families[name]
                .1
                .iter()
                .map(|sample| sample.value)
                .sum::<f64>()
        };
        let first = page(assert_histogram);
        for _ in 0..100 {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        let second = page(assert_histogram);
        for name in first.keys().filter(|name| first[*name].0 == "counter") {
            assert!(name.ends_with("_total"), "{name}");
            assert!(value(&second, name) >= value(&first, name), "{name}");
        }
        assert!(
            value(&second, "gopark_events_total") >= value(&first, "gopark_events_total") + 100.0
        );
        // This goroutine, the one that answers, those of two servers, and one connection to the
        // first.
        assert_eq!(value(&second, "gopark_goroutines"), 5.0);
        assert_eq!(value(&second, "gopark_procs"), 2.0);

        assert_eq!(
            request(addrs[1], "GET / HTTP/1.1").0,
            "HTTP/1.1 404 Not Found"
        );
        assert_eq!(
            request(addrs[1], "POST /metrics HTTP/1.1").0,
            "HTTP/1.1 405 Method Not Allowed"
        );
        echo_stops.close().unwrap();
        http_stops.close().unwrap();
        drop(stream);
        until("the servers have ended", || metrics().goroutines == 1);
    });
}

fn assert_histogram(families: &Families) {
    let (_, samples) = &families["gopark_sched_latency_seconds"];
    let buckets: Vec<_> = samples
        .iter()
        .filter(|sample| sample.name.ends_with("_bucket"))
        .collect();
    let bounds: Vec<f64> = buckets
        .iter()
        .map(|bucket| {
            bucket.labels["le"]
                .parse()
                .expect("+Inf is a number to Rust, too")
        })
        .collect();
    assert!(
        bounds.is_sorted_by(|a, b| a < b) && bounds.last() == Some(&f64::INFINITY),
        "{bounds:?}"
    );
    assert!(buckets.is_sorted_by(|a, b| a.value <= b.value));
    let one = |suffix: &str| {
        samples
            .iter()
            .find(|sample| sample.name.ends_with(suffix))
            .unwrap()
            .value
    };
    assert_eq!(buckets.last().unwrap().value, one("_count"));
    assert!(one("_count") > 0.0 && one("_sum") > 0.0);
}
