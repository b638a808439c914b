//! Models of a reader against the kernel, deadlines, closes and the next use of its poll
//! descriptor.
//!
//! Threads wait in place of goroutines, through the same code. The models `p1` to `p6` are the six
//! programs of Go's protocol: each mutant of the protocol breaks at least one of them.
#![allow(unsafe_code, reason = "events are delivered by hand")]

use crate::models::{Immortal, ModelSched, explore};
use crate::netpoll::RegisterError;
use crate::os::{Event, Mode, Nanos, Ready};
use crate::polldesc::{self, Deadline, PollDesc, PollError};
use crate::sched::Sched;
use crate::timer::Heap;
use crate::waiter::WaiterList;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

const READ: Option<Mode> = Some(Mode::Read);

struct Connection {
    // The scheduler is dropped last, because the other fields refer to it.
    desc: Immortal<PollDesc>,
    bytes: Immortal<AtomicU32>,
    heap: Immortal<Heap>,
    sched: ModelSched,
}

/// What the threads of a model share.
#[derive(Clone, Copy)]
struct Peer {
    sched: &'static Sched,
    desc: &'static PollDesc,
    /// The bytes in the kernel's buffer.
    bytes: &'static AtomicU32,
    heap: &'static Heap,
}

impl Connection {
    fn new() -> Self {
        let owner = ModelSched::new(1, 1);
        // SAFETY: under loom, the cache leaks blocks of one poll descriptor.
        let desc = unsafe { Immortal::adopt(owner.get().poll_open(3)) };
        Connection {
            desc,
            bytes: Immortal::new(AtomicU32::new(0)),
            heap: Immortal::new(Heap::new(0)),
            sched: owner,
        }
    }

    fn peer(&self) -> Peer {
        Peer {
            sched: self.sched.get(),
            desc: self.desc.get(),
            bytes: self.bytes.get(),
            heap: self.heap.get(),
        }
    }
}

impl Peer {
    /// The system call. Returns whether it read a byte; `false` is `EAGAIN`.
    fn take(self) -> bool {
        // A read-modify-write reads the latest value, as the kernel's lock does. Only the reader
        // subtracts.
        let some = self.bytes.fetch_add(0, Ordering::AcqRel) > 0;
        if some {
            self.bytes.fetch_sub(1, Ordering::AcqRel);
        }
        some
    }

    /// Reads one byte as `Fd` does.
    fn read(self) -> Result<(), PollError> {
        self.sched.poll_reset(self.desc, Mode::Read)?;
        while !self.take() {
            self.sched.poll_wait(self.desc, Mode::Read)?;
        }
        Ok(())
    }

    /// A byte arrives, and an M fetches and delivers the edge.
    fn edge(self) {
        self.bytes.fetch_add(1, Ordering::AcqRel);
        self.deliver(Event {
            token: self.desc.token(),
            ready: Ready::READ,
        });
    }

    fn deliver(self, event: Event) {
        let mut woken = WaiterList::new();
        // SAFETY: the token is that of a live poll descriptor.
        unsafe { polldesc::deliver(&[event], &mut woken) };
        self.sched.ready_list(woken);
    }

    fn set(self, deadline: Deadline) {
        let mut woken = WaiterList::new();
        _ = self
            .desc
            .set_deadline(&|| Some(deadline), READ, self.heap, &mut woken);
        self.sched.ready_list(woken);
    }

    fn tick(self, now: Nanos) {
        let mut woken = WaiterList::new();
        self.heap.run(now, &mut woken);
        self.sched.ready_list(woken);
    }

    fn close(self) {
        self.sched.poll_unblock(self.desc);
    }

    /// Ends this use and begins the next with the same poll descriptor.
    fn reuse(self) {
        self.close();
        self.sched.poll_close(self.desc);
        assert!(core::ptr::eq(self.sched.poll_open(4), self.desc));
    }
}

/// Explores a model of one connection. At its end no waiter is counted.
fn run<F: Fn(Peer) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let connection = Connection::new();
        model(connection.peer());
        assert_eq!(connection.sched.get().num_poll_waiters(), 0);
    });
}

#[test]
fn p1_two_reads_against_an_edge_and_a_close() {
    run(|peer| {
        let reader = thread::spawn(move || (peer.read(), peer.read()));
        let kernel = thread::spawn(move || peer.edge());
        peer.close();
        kernel.join().unwrap();
        let (first, second) = reader.join().unwrap();
        assert!(first == Ok(()) || first == Err(PollError::Closing));
        assert_eq!(second, Err(PollError::Closing));
    });
}

#[test]
fn p2_an_edge_against_a_deadline_that_is_cleared() {
    run(|peer| {
        let reader = thread::spawn(move || peer.read());
        let kernel = thread::spawn(move || peer.edge());
        let deadline = thread::spawn(move || {
            peer.set(Deadline::At(10));
            peer.set(Deadline::None);
        });
        peer.tick(100);
        kernel.join().unwrap();
        deadline.join().unwrap();
        let outcome = reader.join().unwrap();
        assert!(outcome == Ok(()) || outcome == Err(PollError::Timeout));
        // After a timeout, the byte and its readiness are left to the next read, which has no
        // deadline.
        assert_eq!(outcome.or_else(|_| peer.read()), Ok(()));
    });
}

#[test]
fn p2_a_read_succeeds_when_its_deadline_is_cleared() {
    run(|peer| {
        peer.set(Deadline::At(10));
        let reader = thread::spawn(move || peer.read());
        let timers = thread::spawn(move || peer.tick(100));
        peer.set(Deadline::None);
        peer.edge();
        timers.join().unwrap();
        let outcome = reader.join().unwrap();
        assert_eq!(
            outcome.or_else(|_| peer.read()),
            Ok(()),
            "a stale timer expired the deadline"
        );
    });
}

#[test]
fn two_first_deadlines_make_one_pair_of_timers() {
    run(|peer| {
        let other = thread::spawn(move || peer.set(Deadline::At(10)));
        peer.set(Deadline::At(20));
        other.join().unwrap();
        assert_eq!(peer.heap.armed(), 1);
        peer.tick(100);
        assert_eq!(peer.read(), Err(PollError::Timeout));
    });
}

#[test]
fn p3_an_edge_against_two_deadlines_and_a_close() {
    run(|peer| {
        let reader = thread::spawn(move || (peer.read(), peer.read()));
        let timers = thread::spawn(move || peer.tick(15));
        peer.set(Deadline::At(10));
        peer.set(Deadline::At(20));
        peer.edge();
        peer.close();
        timers.join().unwrap();
        let (_, second) = reader.join().unwrap();
        assert!(matches!(
            second,
            Ok(()) | Err(PollError::Closing | PollError::Timeout)
        ));
        assert_eq!(peer.read(), Err(PollError::Closing));
    });
}

#[test]
fn p4_an_edge_against_a_deadline_in_the_past_that_is_cleared() {
    run(|peer| {
        let reader = thread::spawn(move || peer.read());
        let kernel = thread::spawn(move || peer.edge());
        peer.set(Deadline::Passed);
        peer.set(Deadline::None);
        kernel.join().unwrap();
        let outcome = reader.join().unwrap();
        assert!(outcome == Ok(()) || outcome == Err(PollError::Timeout));
        assert_eq!(outcome.or_else(|_| peer.read()), Ok(()));
    });
}

#[test]
fn p5_two_edges_against_a_deadline() {
    run(|peer| {
        let reader = thread::spawn(move || [peer.read(), peer.read()]);
        let kernel = thread::spawn(move || {
            peer.edge();
            peer.edge();
        });
        peer.set(Deadline::At(10));
        peer.tick(10);
        kernel.join().unwrap();
        let got = reader
            .join()
            .unwrap()
            .into_iter()
            .filter(Result::is_ok)
            .count();
        peer.set(Deadline::None);
        // The bytes that a timeout has left are there for the next reads.
        for _ in got..2 {
            assert_eq!(peer.read(), Ok(()));
        }
    });
}

#[test]
fn p6_deadlines_ahead_and_past_and_a_close() {
    run(|peer| {
        let reader = thread::spawn(move || peer.read());
        let timers = thread::spawn(move || peer.tick(10));
        peer.set(Deadline::At(10));
        peer.set(Deadline::Passed);
        peer.set(Deadline::At(20));
        peer.close();
        timers.join().unwrap();
        assert!(matches!(
            reader.join().unwrap(),
            Err(PollError::Timeout | PollError::Closing)
        ));
    });
}

#[test]
fn a_deadline_that_passes_ends_the_wait() {
    run(|peer| {
        let reader = thread::spawn(move || peer.read());
        peer.set(Deadline::At(10));
        peer.tick(10);
        assert_eq!(reader.join().unwrap(), Err(PollError::Timeout));
    });
}

#[test]
fn an_event_of_an_earlier_use_leaves_no_bits_on_the_next() {
    run(|peer| {
        let stale = Event {
            token: peer.desc.token(),
            ready: Ready::all(),
        };
        let kernel = thread::spawn(move || peer.deliver(stale));
        peer.reuse();
        kernel.join().unwrap();
        assert_eq!(peer.desc.may_wait(Mode::Read), Ok(()));
        assert!(!peer.desc.hung_up());
    });
}

#[test]
fn an_event_and_a_deadline_update_one_word_without_loss() {
    run(|peer| {
        let kernel = thread::spawn(move || {
            peer.deliver(Event {
                token: peer.desc.token(),
                ready: Ready::READ | Ready::HANGUP,
            })
        });
        peer.set(Deadline::Passed);
        kernel.join().unwrap();
        // The deadline's owner, which holds the lock, and the event wrote the same word.
        assert!(peer.desc.hung_up() && peer.desc.slot(Mode::Read).is_ready());
    });
}

#[test]
fn a_timer_of_an_earlier_use_does_not_expire_the_next() {
    run(|peer| {
        peer.set(Deadline::At(10));
        let timers = thread::spawn(move || peer.tick(15));
        peer.reuse();
        peer.set(Deadline::At(20));
        timers.join().unwrap();
        assert_eq!(peer.desc.may_wait(Mode::Read), Ok(()));
        peer.tick(20);
        assert_eq!(peer.desc.may_wait(Mode::Read), Err(PollError::Timeout));
    });
}

#[test]
fn a_moved_deadline_does_not_pass_at_its_old_time() {
    run(|peer| {
        peer.set(Deadline::At(10));
        let timers = thread::spawn(move || peer.tick(15));
        peer.set(Deadline::At(20));
        timers.join().unwrap();
        // A deadline that passed before it was moved has been taken back.
        assert_eq!(peer.desc.may_wait(Mode::Read), Ok(()));
        peer.tick(20);
        assert_eq!(peer.desc.may_wait(Mode::Read), Err(PollError::Timeout));
    });
}

#[test]
fn a_waiter_that_relies_on_a_failed_registration_gets_its_error() {
    run(|peer| {
        // Every poller refuses this descriptor.
        peer.close();
        peer.sched.poll_close(peer.desc);
        assert!(core::ptr::eq(
            peer.sched.poll_open(crate::models::REFUSED),
            peer.desc
        ));
        let read = move |mode| {
            loop {
                match peer.sched.register(peer.desc) {
                    Ok(()) => peer.sched.poll_wait(peer.desc, mode).unwrap(),
                    Err(error) => return error,
                }
            }
        };
        let writer = thread::spawn(move || read(Mode::Write));
        assert!(matches!(read(Mode::Read), RegisterError::Os(_)));
        assert!(matches!(writer.join().unwrap(), RegisterError::Os(_)));
    });
}
