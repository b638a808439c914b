//! Models of `Fd`: reads that skip a system call, deadlines, selects, and a close.
//!
//! The kernel is a thread with a socket buffer. Its edges reach the poll descriptor in the order in
//! which the buffer changes, or later.
#![allow(
    unsafe_code,
    reason = "a model opens and frees descriptors by number, as a port does"
)]

use super::{Fd, FdError};
use crate::models::{Immortal, ModelSched, explore, goroutine};
use crate::os::{Borrowed, Event, Mode, Outcome, Ready};
use crate::polldesc::{self, Deadline, PollDesc, PollError};
use crate::sched;
use crate::select::Limit;
use crate::sync::Cell;
use crate::waiter::WaiterList;
use loom::sync::Mutex;
use loom::thread;

/// A socket's receiving side.
#[derive(Default)]
struct Buffer {
    bytes: usize,
    ended: bool,
    /// The number of read system calls.
    asked: usize,
}

struct Socket {
    // The scheduler is dropped last, because the other fields refer to it.
    fd: Immortal<Fd>,
    _desc: Immortal<PollDesc>,
    buffer: Immortal<Mutex<Buffer>>,
    _sched: ModelSched,
}

#[derive(Clone, Copy)]
struct Peer {
    fd: &'static Fd,
    buffer: &'static Mutex<Buffer>,
}

/// The length of a reader's buffer.
const LEN: usize = 2;

impl Socket {
    fn new() -> Self {
        let owner = ModelSched::new(1, 1);
        // SAFETY: no descriptor 3 exists, so this `Fd` is its only user.
        let fd = unsafe { Fd::new(owner.get(), 3) };
        // SAFETY: under loom, the cache leaks blocks of one poll descriptor.
        let desc = unsafe { Immortal::adopt(fd.desc) };
        fd.register().unwrap();
        Socket {
            fd: Immortal::new(fd),
            _desc: desc,
            buffer: Immortal::new(Mutex::default()),
            _sched: owner,
        }
    }

    fn peer(&self) -> Peer {
        Peer {
            fd: self.fd.get(),
            buffer: self.buffer.get(),
        }
    }
}

impl Peer {
    fn read(self) -> Result<usize, FdError> {
        self.fd.transfer(Mode::Read, LEN, |_| {
            let mut buffer = self.buffer.lock().unwrap();
            buffer.asked += 1;
            match buffer.bytes.min(LEN) {
                0 if buffer.ended => Outcome::Done(0),
                0 => Outcome::WouldBlock,
                n => {
                    buffer.bytes -= n;
                    Outcome::Done(n)
                }
            }
        })
    }

    fn arrive(self, bytes: usize) {
        self.buffer.lock().unwrap().bytes += bytes;
        self.edge(Ready::READ);
    }

    /// An M fetches and delivers an event.
    fn edge(self, ready: Ready) {
        let mut woken = WaiterList::new();
        // SAFETY: the token is that of a live poll descriptor.
        unsafe {
            polldesc::deliver(
                &[Event {
                    token: self.fd.desc.token(),
                    ready,
                }],
                &mut woken,
            )
        };
        self.fd.sched.ready_list(woken);
    }
}

/// Explores a model of one socket.
fn run<F: Fn(Peer) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let socket = Socket::new();
        model(socket.peer());
    });
}

#[test]
fn an_end_that_shares_an_edge_with_the_last_bytes_is_seen() {
    run(|peer| {
        let kernel = thread::spawn(move || {
            let mut buffer = peer.buffer.lock().unwrap();
            (buffer.bytes, buffer.ended) = (1, true);
            drop(buffer);
            peer.edge(Ready::READ | Ready::HANGUP);
        });
        assert_eq!(peer.read(), Ok(1));
        assert_eq!(peer.read(), Ok(0));
        kernel.join().unwrap();
        peer.fd.close().unwrap();
    });
}

#[test]
fn bytes_after_a_short_read_are_read() {
    run(|peer| {
        let kernel = thread::spawn(move || {
            peer.arrive(1);
            peer.arrive(1);
        });
        let mut got = 0;
        while got < 2 {
            got += peer.read().unwrap();
        }
        kernel.join().unwrap();
        peer.fd.close().unwrap();
    });
}

#[test]
fn an_end_after_a_short_read_is_seen() {
    run(|peer| {
        let kernel = thread::spawn(move || {
            peer.arrive(1);
            peer.buffer.lock().unwrap().ended = true;
            peer.edge(Ready::READ | Ready::HANGUP);
        });
        assert_eq!(peer.read(), Ok(1));
        assert_eq!(peer.read(), Ok(0));
        assert_eq!(peer.read(), Ok(0));
        kernel.join().unwrap();
        peer.fd.close().unwrap();
    });
}

#[test]
fn after_a_full_read_the_next_read_asks_the_kernel_first() {
    run(|peer| {
        let kernel = thread::spawn(move || peer.arrive(3));
        assert_eq!(peer.read(), Ok(2));
        assert_eq!(peer.read(), Ok(1));
        kernel.join().unwrap();
        assert!(peer.buffer.lock().unwrap().asked <= 3);
        peer.fd.close().unwrap();
    });
}

#[test]
fn a_close_ends_the_read_and_returns_after_it() {
    run(|peer| {
        let reader = thread::spawn(move || {
            let outcome = peer.read();
            assert_eq!(outcome, Err(FdError::Poll(PollError::Closing)));
        });
        peer.fd.close().unwrap();
        // After the close the poll descriptor is in the cache and has no waiter.
        assert!(!peer.fd.desc.slot(Mode::Read).is_ready());
        reader.join().unwrap();
    });
}

/// One hour in nanoseconds. The models' clock never advances so far.
const TIMEOUT: i64 = 3_600_000_000_000;

#[test]
fn a_deadline_in_the_past_ends_a_read_that_begins_with_a_timeout() {
    run(|peer| {
        peer.fd.set_timeout(Mode::Read, TIMEOUT).unwrap();
        let ender = thread::spawn(move || {
            peer.fd
                .set_deadline(Some(Mode::Read), Deadline::Passed)
                .unwrap()
        });
        assert_eq!(peer.read(), Err(FdError::Poll(PollError::Timeout)));
        ender.join().unwrap();
        assert_eq!(
            peer.read(),
            Err(FdError::Poll(PollError::Timeout)),
            "a passed deadline ends later reads too"
        );
        peer.fd.close().unwrap();
    });
}

#[test]
fn the_later_of_a_cleared_and_a_set_timeout_counts() {
    run(|peer| {
        peer.buffer.lock().unwrap().bytes = LEN;
        peer.fd.set_timeout(Mode::Read, 0).unwrap();
        let setter = thread::spawn(move || peer.fd.set_timeout(Mode::Read, TIMEOUT).unwrap());
        assert_eq!(peer.read(), Ok(LEN));
        setter.join().unwrap();
        assert_eq!(peer.fd.timeout(Mode::Read), TIMEOUT);
        peer.fd.close().unwrap();
    });
}

std::thread_local! {
    /// The buffer of the current execution. All threads of an execution run on one thread.
    static BUFFER: Cell<Option<&'static Mutex<Buffer>>> = const { Cell::new(None) };
}

fn probe(_: Borrowed<'_>, _: Mode) -> bool {
    let buffer = BUFFER.get().unwrap().lock().unwrap();
    buffer.bytes > 0 || buffer.ended
}

impl Peer {
    /// Waits until a read would not block.
    fn select(self) -> Result<(), FdError> {
        BUFFER.set(Some(self.buffer));
        let arm = self.fd.ready_arm(Mode::Read, probe);
        let chosen = self.fd.sched.select(&[arm.case()], true, Limit::Never);
        assert_eq!(chosen, Some(0));
        arm.finish()
    }
}

#[test]
fn a_select_finds_bytes_that_arrive_while_it_begins_to_wait() {
    run(|peer| {
        let kernel = thread::spawn(move || peer.arrive(1));
        assert_eq!(peer.select(), Ok(()));
        assert_eq!(peer.buffer.lock().unwrap().bytes, 1);
        kernel.join().unwrap();
        peer.fd.close().unwrap();
    });
}

#[test]
fn an_edge_without_bytes_does_not_end_a_select() {
    run(|peer| {
        let kernel = thread::spawn(move || {
            peer.edge(Ready::READ);
            peer.arrive(1);
        });
        assert_eq!(peer.select(), Ok(()));
        assert_eq!(peer.buffer.lock().unwrap().bytes, 1);
        kernel.join().unwrap();
        peer.fd.close().unwrap();
    });
}

#[test]
fn a_close_ends_a_select() {
    run(|peer| {
        let waiter = thread::spawn(move || {
            assert_eq!(peer.select(), Err(FdError::Poll(PollError::Closing)));
        });
        peer.fd.close().unwrap();
        waiter.join().unwrap();
    });
}

impl Peer {
    /// Makes a goroutine that waits without a stack. `None` if the descriptor is closed.
    fn hand_over(self) -> Option<()> {
        BUFFER.set(Some(self.buffer));
        let is_ready = self.fd.begin_idle(probe).ok()?;
        let desc = self.fd.desc;
        let may_wait = || !is_ready && desc.may_wait(Mode::Read).is_ok();
        self.fd
            .sched
            .wait_without_stack(goroutine(1), desc.slot(Mode::Read), may_wait);
        Some(())
    }

    /// An M finds the goroutine, and its first turn begins.
    fn start(self) {
        assert_eq!(sched::models::run(self.fd.sched, 0, 1), [1]);
        self.fd.leave_idle();
    }
}

#[test]
fn bytes_that_arrive_while_a_connection_is_handed_over_start_its_goroutine() {
    run(|peer| {
        let kernel = thread::spawn(move || peer.arrive(1));
        peer.hand_over().unwrap();
        peer.start();
        assert_eq!(peer.read(), Ok(1));
        kernel.join().unwrap();
        peer.fd.close().unwrap();
    });
}

#[test]
fn bytes_after_a_short_read_start_the_goroutine() {
    run(|peer| {
        peer.arrive(1);
        assert_eq!(peer.read(), Ok(1));
        let kernel = thread::spawn(move || peer.arrive(1));
        peer.hand_over().unwrap();
        peer.start();
        assert_eq!(peer.read(), Ok(1));
        kernel.join().unwrap();
        peer.fd.close().unwrap();
    });
}

#[test]
fn a_close_starts_the_goroutine_and_returns_after_its_wait() {
    run(|peer| {
        let maker = thread::spawn(move || {
            if peer.hand_over().is_some() {
                peer.start();
            }
        });
        peer.fd.close().unwrap();
        // After the close the poll descriptor is in the cache and has no waiter.
        assert!(!peer.fd.desc.slot(Mode::Read).is_ready());
        maker.join().unwrap();
    });
}
