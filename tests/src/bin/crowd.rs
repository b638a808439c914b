//! A hundred thousand goroutines that wait in every way that a cancel ends, one cancel, and what is
//! left behind: nothing. Prints how long it takes until all have returned: less than a second in an
//! optimised build, unless other programs have the CPUs.
//!
//! `cargo run --release -p gopark-tests --bin crowd [-- COUNT goroutine|thread|deadline [migrate]]`
//!
//! The second argument says what cancels: a goroutine, an ordinary thread or a deadline.
#![allow(
    unsafe_code,
    reason = "limits and CPU time are libc's, and goroutines migrate"
)]

use gopark::chan::{self, Receiver, RecvTimeoutError, SendTimeoutError, Sender};
use gopark::net::{SocketAddr, TcpListener, TcpStream};
use gopark::sync::{Arc, Barrier, Cancel, Condvar, Mutex, Notify, Semaphore, WaitGroup};
use gopark::{Builder, Cancelled, JoinHandle, PollError, Scope, go, select, time};
use gopark_core::watch::State;
use gopark_tests::sockets::{listener, narrow_pair, pair, pair_at, poll_error};
use gopark_tests::{join, open_files, until};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{env, process, thread};

const LONG: Duration = Duration::from_secs(3600);
/// How many goroutines wait for each thing that no cancel ends.
const HOLDOUTS: usize = 20;

fn main() {
    let args = Vec::from_iter(env::args().skip(1));
    let arg = |i: usize| args.get(i).map(String::as_str);
    let count = arg(0).map_or(100_000, |count| count.parse().expect("a number"));
    let by = arg(1).unwrap_or("goroutine").to_owned();
    let settings = match arg(2) {
        // SAFETY: no goroutine here keeps anything bound to a thread over a park.
        Some("migrate") => unsafe { Builder::new().migrate() },
        _ => Builder::new(),
    };
    settings.start().unwrap();
    let limit = descriptor_limit();
    // A goroutine that the cancel misses waits forever.
    // SAFETY: no memory is passed.
    unsafe { libc::alarm(200) };
    gopark::run(move || {
        // The first connection and the first call of the pool open what the runtime keeps.
        drop(pair());
        gopark::blocking(|| ());
        let before = Left::now(limit);
        run(count, limit, &by);
        until("all is as before", || Left::now(limit) == before);
    });
}

/// What must be the same before and after.
#[derive(PartialEq, Debug)]
struct Left {
    goroutines: u64,
    waiters: u64,
    timers: u64,
    descriptors: usize,
}

impl Left {
    fn now(limit: usize) -> Self {
        let metrics = gopark::metrics();
        Left {
            goroutines: metrics.goroutines,
            waiters: metrics.poll_waiters,
            timers: metrics.timers_armed,
            descriptors: open_files(limit as i32).len(),
        }
    }
}

/// Raises the limit of descriptors, at most to what the largest crowd needs. Returns it.
fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit. A call that fails leaves the limit unchanged.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max.min(1 << 15);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_cur as usize
}

/// Cancels a crowd, and prints how long it takes until all have returned.
fn run(count: usize, limit: usize, by: &str) {
    let unit = (count / 80).min((limit - 100) / Sockets::DESCRIPTORS);
    let sockets = Sockets::new(unit);
    let shared = Shared::new((count - unit * Sockets::GOROUTINES) / Shared::KINDS);
    let cancel = Cancel::new();
    let others = Holdouts::start(&cancel);
    let before = open_files(limit as i32).len();
    let (returned, at, busy) = gopark::scope(|outer| {
        let crowd = outer.go(|| {
            cancel.run(|| {
                gopark::scope(|s| {
                    sockets.start(s);
                    shared.start(s);
                })
            });
            Instant::now()
        });
        let mut expected = sockets.expected();
        expected.extend(shared.expected());
        let all = expected.iter().map(|(_, count)| count).sum::<usize>();
        until_all_wait(expected);
        let for_sockets = unit * Sockets::GOROUTINES;
        println!("{all} goroutines wait, {for_sockets} of them for sockets");
        let busy = cpu_time();
        let start = cancel_by(&cancel, by);
        let returned = start.elapsed();
        let at = crowd.join().unwrap() - start;
        (returned, at, cpu_time() - busy)
    });
    println!("cancelled by a {by}: `cancel` has returned after {returned:.1?}");
    println!("all have returned after {at:.1?}, in which the process had {busy:.1?} of the CPUs");
    assert_eq!(
        open_files(limit as i32).len(),
        before,
        "descriptors are left"
    );
    shared.check();
    sockets.check();
    others.release();
}

/// How long this process has run on CPUs.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Cancels. Returns when that began.
fn cancel_by(cancel: &Cancel, by: &str) -> Instant {
    let start = Instant::now();
    match by {
        "goroutine" => _ = cancel.cancel(),
        "thread" => {
            let cancel = cancel.clone();
            let other = thread::spawn(move || cancel.cancel());
            gopark::blocking(|| other.join()).unwrap();
        }
        "deadline" => {
            cancel.set_deadline(Some(start + Duration::from_micros(1)));
            cancel.wait().unwrap();
        }
        _ => panic!("nothing is cancelled by a {by}"),
    }
    start
}

/// Waits until so many goroutines wait for each reason. Names which, if that does not come.
fn until_all_wait(expected: Vec<(&'static str, usize)>) {
    let mut counts = BTreeMap::new();
    for (reason, count) in expected {
        *counts.entry(reason).or_insert(0) += count;
    }
    let start = Instant::now();
    until("all wait", || {
        let mut waiting = BTreeMap::new();
        gopark::scheduler().snapshot(None, |it| {
            if let State::Waiting { wait, .. } = it.state {
                *waiting.entry(wait.reason()).or_insert(0) += 1;
            }
        });
        let has_all = counts
            .iter()
            .all(|(reason, n)| waiting.get(reason).unwrap_or(&0) >= n);
        if !has_all && start.elapsed() > Duration::from_secs(50) {
            process::exit(1);
        }
        if !has_all {
            gopark::sleep(Duration::from_millis(20));
        }
        has_all
    });
}

/// Fails unless the goroutine's operation has failed because it was cancelled.
fn assert_cancelled<T>(result: io::Result<T>) {
    let error = result.err().expect("the operation cannot succeed");
    assert_eq!(poll_error(&error), Some(PollError::Cancelled), "{error:?}");
}

/// Goroutines that wait for sockets.
struct Sockets {
    /// The first end waits for bytes: all in a read, the first half with a second reader behind it.
    readers: Vec<(TcpStream, TcpStream)>,
    /// The first end waits in a select.
    selects: Vec<(TcpStream, TcpStream)>,
    /// The first end waits for room in its buffers, the first half with a second writer behind it.
    writers: Vec<(TcpStream, TcpStream)>,
    /// How many bytes the writers of each have written.
    written: Vec<AtomicUsize>,
    /// The first half have a second acceptor behind the first.
    listeners: Vec<TcpListener>,
    /// Its queue is full, so a connect to it waits.
    full: (socket2::Socket, Vec<TcpStream>),
    connects: usize,
}

impl Sockets {
    /// Descriptors for each unit, and goroutines.
    const DESCRIPTORS: usize = 2 * (4 + 2 + 2) + 2 + 1;
    const GOROUTINES: usize = (4 + 2) + 2 + (2 + 1) + (2 + 1) + 1;

    fn new(unit: usize) -> Self {
        let shared = listener();
        let pairs = |n| Vec::from_iter((0..n * unit).map(|_| pair_at(&shared)));
        Sockets {
            readers: pairs(4),
            selects: pairs(2),
            writers: (0..2 * unit).map(|_| narrow_pair()).collect(),
            written: (0..2 * unit).map(|_| AtomicUsize::new(0)).collect(),
            listeners: (0..2 * unit).map(|_| listener()).collect(),
            full: full_listener(),
            connects: unit,
        }
    }

    fn expected(&self) -> Vec<(&'static str, usize)> {
        let halves = [self.readers.len(), self.writers.len(), self.listeners.len()];
        let second = halves.iter().map(|n| n / 2).sum();
        let first = halves.iter().sum::<usize>() + self.connects;
        vec![
            ("IO wait", first),
            ("semacquire", second),
            ("select", self.selects.len()),
        ]
    }

    fn start<'scope>(&'scope self, s: &'scope Scope<'scope, '_>) {
        for (i, (near, _)) in self.readers.iter().enumerate() {
            // Some have a deadline, whose timer must not outlive the socket.
            let limited = near.set_read_timeout((i % 3 == 0).then_some(LONG));
            limited.unwrap();
            for _ in 0..behind(i, &self.readers) {
                s.go(move || assert_cancelled({ near }.read(&mut [0; 8])));
            }
        }
        for (near, _) in &self.selects {
            s.go(move || wait_in_select(near));
        }
        for (i, (near, _)) in self.writers.iter().enumerate() {
            for _ in 0..behind(i, &self.writers) {
                s.go(move || write(near, &self.written[i]));
            }
        }
        for (i, listener) in self.listeners.iter().enumerate() {
            for _ in 0..behind(i, &self.listeners) {
                s.go(move || assert_cancelled(listener.accept()));
            }
        }
        let full: SocketAddr = self.full.0.local_addr().unwrap().as_socket().unwrap();
        for _ in 0..self.connects {
            s.go(move || assert_cancelled(TcpStream::connect(full)));
        }
    }

    /// Fails unless all sockets work as before.
    fn check(&self) {
        gopark::scope(|s| {
            for (near, far) in self.readers.iter().chain(&self.selects) {
                s.go(|| exchange(near, far));
            }
            // The kernel takes a fifth of a second until it sends again after the window was full.
            for ((near, far), written) in self.writers.iter().zip(&self.written) {
                s.go(move || {
                    let mut bytes = vec![1; written.load(SeqCst)];
                    { far }.read_exact(&mut bytes).unwrap();
                    assert!(bytes.iter().all(|&byte| byte == 0));
                    exchange(near, far);
                });
            }
        });
        for listener in &self.listeners {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            exchange(&near, &listener.accept().unwrap().0);
        }
    }
}

/// How many goroutines operate on socket `i`: two on those of the first half.
fn behind<T>(i: usize, sockets: &[T]) -> usize {
    if i < sockets.len() / 2 { 2 } else { 1 }
}

/// A listener whose queue is full, and what fills it.
fn full_listener() -> (socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = || TcpStream::connect_timeout(&addr, Duration::from_millis(300)).ok();
    let queued = std::iter::from_fn(connect).collect();
    (socket, queued)
}

fn wait_in_select(socket: &TcpStream) {
    let never = chan::never::<()>();
    let was_cancelled = select! {
        readable(socket) -> _ => false,
        recv(never) -> _ => false,
        cancelled() => true,
    };
    assert!(was_cancelled);
}

/// Writes until it is cancelled.
fn write(mut socket: &TcpStream, written: &AtomicUsize) {
    let bytes = [0; 1024];
    loop {
        match socket.write(&bytes) {
            Ok(n) => _ = written.fetch_add(n, SeqCst),
            error => return assert_cancelled(error),
        }
    }
}

/// Sends a byte in each direction. The connection is reset when it is closed, so that it does not
/// keep its port for a minute.
fn exchange(near: &TcpStream, far: &TcpStream) {
    for (mut from, mut to) in [(near, far), (far, near)] {
        from.set_linger(Some(Duration::ZERO)).unwrap();
        from.write_all(b"!").unwrap();
        let mut byte = [0; 1];
        to.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"!");
    }
}

/// Goroutines that wait for time, and for what goroutines share.
struct Shared {
    /// How many goroutines there are of each kind.
    each: usize,
    empty: (Sender<usize>, Receiver<usize>),
    /// A channel without capacity, to which goroutines send.
    meeting: (Sender<usize>, Receiver<usize>),
    /// A channel that holds one value already.
    full: (Sender<usize>, Receiver<usize>),
    permits: Semaphore,
    /// Each sleeper holds one.
    locks: Vec<Mutex<()>>,
    /// Those that are joined wait for it. They are not cancelled.
    end: Mutex<Option<Sender<()>>>,
    is_over: Receiver<()>,
    other: Cancel,
}

impl Shared {
    const KINDS: usize = 14;

    fn new(each: usize) -> Self {
        let full = chan::bounded(1);
        full.0.send(usize::MAX).unwrap();
        let (end, is_over) = chan::bounded(0);
        Shared {
            each,
            empty: chan::bounded(0),
            meeting: chan::bounded(0),
            full,
            permits: Semaphore::new(0),
            locks: (0..each).map(|_| Mutex::new(())).collect(),
            end: Mutex::new(Some(end)),
            is_over,
            other: Cancel::new(),
        }
    }

    fn expected(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("chan receive", 4 * self.each),
            ("chan send", 3 * self.each),
            ("select", 2 * self.each),
            ("sleep", 2 * self.each),
            ("semacquire", 2 * self.each),
            ("join", self.each),
        ]
    }

    fn start<'scope>(&'scope self, s: &'scope Scope<'scope, '_>) {
        for i in 0..self.each {
            self.start_one_of_each(s, i);
        }
    }

    fn start_one_of_each<'scope>(&'scope self, s: &'scope Scope<'scope, '_>, i: usize) {
        let (empty, meeting, full) = (&self.empty.1, &self.meeting.0, &self.full.0);
        s.go(|| assert!(empty.recv().is_err()));
        s.go(|| {
            let result = empty.recv_timeout(LONG);
            assert_eq!(result, Err(RecvTimeoutError::Disconnected));
        });
        s.go(|| assert!(time::after(LONG).recv().is_err()));
        s.go(move || assert_eq!(meeting.send(i).unwrap_err().0, i));
        s.go(move || assert_eq!(full.send(i).unwrap_err().0, i));
        s.go(move || {
            let result = full.send_timeout(i, LONG);
            assert_eq!(result, Err(SendTimeoutError::Disconnected(i)));
        });
        s.go(move || {
            select! {
                recv(empty) -> value => assert!(value.is_err()),
                send(full, i) -> _ => panic!("there was no room"),
                at(Instant::now() + LONG) => panic!("it is late"),
            }
        });
        s.go(|| assert_eq!(self.other.wait(), Err(Cancelled)));
        s.go(move || {
            let _guard = self.locks[i].lock().unwrap();
            gopark::sleep(LONG);
        });
        s.go(|| gopark::sleep_until(Instant::now() + LONG));
        s.go(|| assert_eq!(self.permits.acquire().err(), Some(Cancelled)));
        s.go(|| assert!(self.permits.acquire_timeout(LONG).is_none()));
        let is_over = self.is_over.clone();
        let joined = go(move || is_over.recv());
        s.go(move || assert!(joined.join().unwrap_err().is::<Cancelled>()));
    }

    /// Fails if a goroutine still waits for one of these, or has left a lock behind.
    fn check(&self) {
        assert!(self.empty.0.try_send(1).is_err(), "a receiver waits");
        assert!(self.meeting.1.try_recv().is_err(), "a sender waits");
        assert_eq!(self.full.1.try_recv(), Ok(usize::MAX));
        assert!(self.full.1.try_recv().is_err(), "a sender waits");
        self.permits.add_permits(2 * self.each);
        assert_eq!(self.permits.available_permits(), 2 * self.each);
        assert!(self.locks.iter().all(|lock| lock.try_lock().is_ok()));
        self.end.lock().unwrap().take();
    }
}

/// Members of the cancel that wait for what no cancel ends.
struct Holdouts {
    all: Vec<JoinHandle<()>>,
    mutex: Arc<Mutex<bool>>,
    changed: Arc<Condvar>,
    barrier: Arc<Barrier>,
    group: Arc<WaitGroup>,
    notify: Arc<Notify>,
    work: std::sync::mpsc::Sender<()>,
}

impl Holdouts {
    fn start(cancel: &Cancel) -> Self {
        let mutex = Arc::new(Mutex::new(false));
        let changed = Arc::new(Condvar::new());
        let barrier = Arc::new(Barrier::new(HOLDOUTS + 1));
        let group = Arc::new(WaitGroup::new());
        group.add(1);
        let notify = Arc::new(Notify::new());
        let (work, is_done) = std::sync::mpsc::channel::<()>();
        let is_done = Arc::new(std::sync::Mutex::new(is_done));
        let mut all = Vec::new();
        let mut start = |f: Box<dyn FnOnce() + Send>| {
            let cancel = cancel.clone();
            all.push(go(move || cancel.run(f)));
        };
        for _ in 0..HOLDOUTS {
            let (lock, condition) = (mutex.clone(), changed.clone());
            start(Box::new(move || {
                let guard = lock.lock().unwrap();
                drop(condition.wait_while(guard, |is_over| !*is_over).unwrap());
            }));
            let barrier = barrier.clone();
            start(Box::new(move || _ = barrier.wait()));
            let group = group.clone();
            start(Box::new(move || group.wait()));
            let notify = notify.clone();
            start(Box::new(move || notify.notified()));
            start(Box::new(gopark::thread::park));
            let is_done = is_done.clone();
            start(Box::new(move || {
                gopark::blocking(|| _ = is_done.lock().unwrap().recv());
            }));
        }
        let reasons = [
            "sync.Cond.Wait", // Two of them: a barrier has a condition variable.
            "sync.Cond.Wait",
            "sync.WaitGroup.Wait",
            "notify",
            "park",
            "blocking",
        ];
        until_all_wait(reasons.map(|reason| (reason, HOLDOUTS)).into());
        Holdouts {
            all,
            mutex,
            changed,
            barrier,
            group,
            notify,
            work,
        }
    }

    /// Lets them end. Fails if one has ended before.
    fn release(self) {
        assert!(!self.all.iter().any(JoinHandle::is_finished));
        *self.mutex.lock().unwrap() = true;
        self.changed.notify_all();
        self.barrier.wait();
        self.group.done();
        self.notify.notify_waiters();
        drop(self.work);
        self.all.iter().for_each(|it| it.thread().unpark());
        self.all.into_iter().for_each(join);
    }
}
