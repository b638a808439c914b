//! Poll descriptors, their deadlines and their reuse against the transition tables of Go's
//! protocol.
//!
//! There are two descriptors, each with a reader and a writer, over a kernel with edges and a clock
//! that this program moves. The reader and the writer make the steps of `Fd::attempt` and
//! `Sched::poll_wait` one at a time. Edges, late events, deadlines, timers, closes and reuse come
//! between any two of these steps. A timer of the target's own fires in the same run as the
//! deadlines, before them, and its callback makes further steps. So the input can move a deadline,
//! or close and reuse the descriptor, while the deadline's callback is under way.
//!
//! `polldesc/model.rs` holds the tables written plainly: what is in the slot, what is published,
//! when a side expires. Two read-modify-writes that race need two threads; they belong to
//! `core/models`.
//!
//! What the target asserts, and where:
//!
//! - The slot holds what the table says; a waiter is returned once, in status waiting (K1, K2):
//!   `Desc::step`, `woken`.
//! - At rest no waiter sleeps with data, a passed deadline or a close (K3, K18): `come_to_rest`.
//! - A timeout needs a passed deadline, `Closing` a close, readiness an event (K6, K8):
//!   `expected_error`, `Desc::step`.
//! - A deadline that was cleared or moved causes no timeout (K7, K11): `pass`.
//! - The next use has another number, and no event, error or timer of the last (K9): `open`,
//!   `deliver`.
//! - The first entry of the heap is never later than any deadline (K10): `check`.
//! - No lock is held when a callback runs (K12): `intrude` would deadlock.
//! - Readiness may be spurious, and the operation waits again (K16): `system_call`.
#![allow(unsafe_code, reason = "a callback gets an address")]

#[path = "polldesc/model.rs"]
mod model;

use super::{Deadline, FreeDescs, PollCache, PollDesc, PollError, TAG_MASK};
use crate::counter::Count;
use crate::fuzz::base::Goroutines;
use crate::fuzz::poller::{ARMED, DESCS, FETCHED_MAX, FuzzPoller, PENDING, REFUSES};
use crate::g::Status;
use crate::os::{Delay, Event, Mode, Nanos, Ready};
use crate::poller::Poller;
use crate::sync::{Lock, Ordering};
use crate::timer::{Heap, NEVER, Timer};
use crate::waiter::{Waiter, WaiterList};
use core::cell::RefCell;
use core::ptr::NonNull;
use model::{Desc, Phase, Side, Word};
use std::boxed::Box;

const MODES: [Mode; 2] = [Mode::Read, Mode::Write];
const BITS: [Ready; 2] = [Ready::READ, Ready::WRITE];

std::thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(Fixture::new());
}

/// What all inputs share.
struct Fixture {
    cache: PollCache,
    /// Those of a P.
    kept: Lock<FreeDescs>,
    heap: &'static Heap,
    poller: &'static Poller,
    goroutines: Goroutines,
}

impl Fixture {
    fn new() -> Self {
        Fixture {
            cache: PollCache::new(),
            kept: Lock::new(FreeDescs::default()),
            heap: Box::leak(Box::new(Heap::new(0))),
            poller: Box::leak(Box::new(Poller::new(Box::new(FuzzPoller)))),
            goroutines: Goroutines::new(2 * DESCS),
        }
    }

    fn open(&self, fd: i32) -> &'static PollDesc {
        self.cache.open(self.kept_by(fd), fd)
    }

    fn close(&self, fd: i32, desc: &'static PollDesc) {
        self.cache.close(self.kept_by(fd), desc);
    }

    /// One descriptor is opened and closed by a thread with a P, the other one by an ordinary one.
    fn kept_by(&self, fd: i32) -> Option<&Lock<FreeDescs>> {
        (fd == 0).then_some(&self.kept)
    }
}

struct Driver<'a> {
    fixture: &'a mut Fixture,
    steps: &'a [u8],
    now: Nanos,
    descs: [Desc; DESCS],
    /// Events that a poll has fetched and not yet delivered.
    fetched: heapless::Vec<Event, FETCHED_MAX>,
    /// A run of timers is under way.
    in_run: bool,
}

/// The first byte says where sequence numbers begin. Each other byte is a step: what (4 bits), on
/// which descriptor (1) and side (1), how (2).
pub fn run(input: &[u8]) {
    let Some((&start, steps)) = input.split_first() else {
        return;
    };
    FIXTURE.with_borrow_mut(|fixture| {
        let descs = [0, 1].map(|fd| {
            let desc = fixture.open(fd);
            // Half of the inputs begin just before the sequence number wraps.
            desc.fdseq.store(
                if start & 1 == 0 {
                    1
                } else {
                    TAG_MASK - u32::from(start >> 1)
                },
                Ordering::Relaxed,
            );
            Desc::fresh(desc, fd, 0, 0)
        });
        let mut driver = Driver {
            fixture,
            steps,
            now: 1_000,
            descs,
            fetched: heapless::Vec::new(),
            in_run: false,
        };
        for at in (0..DESCS).rev() {
            driver.close(at);
            driver.free(at);
        }
        for at in 0..DESCS {
            driver.open(at);
        }
        while driver.next_step() {}
        driver.come_to_rest();
        driver.shut_down();
    });
}

impl Driver<'_> {
    /// Makes the next step of the input, if there is one.
    fn next_step(&mut self) -> bool {
        let Some((&step, rest)) = self.steps.split_first() else {
            return false;
        };
        self.steps = rest;
        let (at, side, how) = (
            usize::from(step >> 4 & 1),
            usize::from(step >> 5 & 1),
            step >> 6,
        );
        match step & 15 {
            0..=3 => self.waiter_step(at, side, how == 3),
            4 => self.data(at, side),
            5 => self.fetch(at, how),
            6 => self.deliver(usize::from(how)),
            7 => self.late_event(at, how),
            8 => self.set_deadline(
                at,
                Some(side),
                [
                    Deadline::Passed,
                    Deadline::None,
                    Deadline::At(self.now + 5),
                    Deadline::At(self.now + 9),
                ][usize::from(how)],
            ),
            9 => self.set_deadline(
                at,
                Some(side),
                [
                    Deadline::At(self.now + 50),
                    Deadline::At(self.now),
                    Deadline::At(NEVER),
                    Deadline::At(2),
                ][usize::from(how)],
            ),
            10 => self.set_deadline(
                at,
                None,
                [
                    Deadline::Passed,
                    Deadline::None,
                    Deadline::At(self.now + 5),
                    Deadline::At(self.now + 50),
                ][usize::from(how)],
            ),
            11 if side == 0 => self.close(at),
            11 => self.free(at),
            12 => self.open(at),
            13 => self.pass([0, 3, 7, 60][usize::from(how)], 0),
            14 => self.pass([5, 60][usize::from(step >> 4 & 1)], 1 + how),
            // A poll that waits returns with an edge, or when a timer is due.
            _ if self
                .descs
                .iter()
                .any(|desc| desc.joined && desc.sides.iter().any(|side| side.edge)) =>
            {
                (0..DESCS).for_each(|at| self.fetch(at, 0))
            }
            _ => {
                // A deadline at NEVER has a timer at NEVER - 1.
                let next = self.fixture.heap.next().filter(|&next| next < NEVER - 1);
                self.pass(next.map_or(0, |next| (next - self.now).max(0)), 0);
            }
        }
        self.check();
        true
    }

    /// What must hold between any two steps.
    fn check(&self) {
        let next = self.fixture.heap.next().unwrap_or(NEVER);
        let watched = self
            .descs
            .iter()
            .filter(|desc| desc.joined && FuzzPoller::watches(desc.fd))
            .count();
        assert_eq!(
            self.fixture.poller.watched() as usize,
            watched,
            "watched descriptors are miscounted"
        );
        for desc in self.descs.iter().filter(|desc| desc.open) {
            assert_eq!(
                (desc.desc.fd(), desc.desc.token().tag()),
                (desc.fd, desc.tag)
            );
            // SAFETY: the address was exposed.
            let found = unsafe { PollDesc::at(desc.desc.expose_address()) };
            assert!(core::ptr::eq(found, desc.desc));
            assert_eq!(desc.desc.poller().is_some(), desc.is_watched());
            assert_eq!(
                desc.desc.hung_up(),
                desc.hung_up,
                "whether a hang-up was seen"
            );
            for (side, mode) in desc.sides.iter().zip(MODES) {
                assert_eq!(
                    desc.desc.slot(mode).is_ready(),
                    side.word == Word::Ready,
                    "whether readiness is latched"
                );
                assert_eq!(
                    desc.desc.may_try(mode),
                    desc.expected_error(mode, false),
                    "whether it may try"
                );
                assert_eq!(
                    desc.desc.deadline(mode),
                    (side.when > 0).then_some(side.when),
                    "the time of the deadline"
                );
                assert_eq!(
                    desc.desc.may_wait(mode),
                    desc.expected_error(mode, true),
                    "whether it may wait"
                );
                // During a run, a timer that is due is no longer in the heap.
                let armed = side.when > 0 && !desc.closing && !self.in_run;
                assert!(
                    !armed || next <= side.when,
                    "a deadline passes at {}, and the heap's next timer is at {next}",
                    side.when
                );
            }
        }
    }

    /// Makes one step of a reader or writer. With `refused`, the kernel refuses a registration.
    fn waiter_step(&mut self, at: usize, side: usize, refused: bool) {
        let desc = &mut self.descs[at];
        match desc.sides[side].phase {
            _ if !desc.open => {}
            Phase::Watch => self.watch(at, side, refused),
            Phase::Commit => self.commit(at, side),
            _ => desc.step(side),
        }
    }

    fn watch(&mut self, at: usize, side: usize, refused: bool) {
        REFUSES.set(refused);
        let desc = &mut self.descs[at];
        assert_eq!(
            self.fixture
                .poller
                .register(desc.desc.fd(), desc.desc.token())
                .is_err(),
            refused
        );
        let told = std::mem::take(&mut desc.awaited) || refused;
        let mut woken = WaiterList::new();
        if refused {
            desc.joined = false;
            desc.desc.leave_poller(&mut woken);
        } else {
            // A registration reports what is ready at that moment.
            desc.sides
                .iter_mut()
                .for_each(|side| side.edge = side.level);
            desc.desc.joined(self.fixture.poller, &mut woken);
        }
        desc.sides[side].phase = if refused {
            Phase::Begin
        } else {
            Phase::MayWait
        };
        let expected = [0, 1].map(|side| if told { self.notify(at, side) } else { None });
        self.woken(woken, &expected);
    }

    fn commit(&mut self, at: usize, side: usize) {
        let id = 2 * at + side;
        self.fixture.goroutines.set_status(id, Status::Waiting);
        let g = self.fixture.goroutines.take(id);
        let desc = &mut self.descs[at];
        match desc.desc.slot(MODES[side]).commit(Waiter::G(g)) {
            Ok(()) => {
                assert_eq!(
                    desc.sides[side].word,
                    Word::Wait,
                    "parked although the slot had changed"
                );
                (desc.sides[side].word, desc.sides[side].phase) = (Word::Parked, Phase::Parked);
            }
            Err(Waiter::G(g)) => {
                assert_ne!(
                    desc.sides[side].word,
                    Word::Wait,
                    "not parked although the slot had not changed"
                );
                assert_eq!(self.fixture.goroutines.give(g), id);
                desc.sides[side].phase = Phase::Settle;
            }
            Err(Waiter::Thread(_)) => panic!("a goroutine comes back as a thread"),
        }
    }

    /// Readiness for one side. Returns the number of the goroutine that it wakes.
    fn notify(&mut self, at: usize, side: usize) -> Option<usize> {
        self.descs[at].sides[side].notify().then_some(2 * at + side)
    }

    /// A deadline or a close for one side. Returns the number of the goroutine that it wakes.
    fn cancel(&mut self, at: usize, side: usize) -> Option<usize> {
        self.descs[at].sides[side].cancel().then_some(2 * at + side)
    }

    /// Lets the woken goroutines run again. They must be the expected ones.
    fn woken(&mut self, mut list: WaiterList, expected: &[Option<usize>]) {
        let (mut woken, mut to_wake) = (0u32, 0u32);
        expected.iter().flatten().for_each(|id| to_wake |= 1 << id);
        while let Some(Waiter::G(g)) = list.pop() {
            let id = self.fixture.goroutines.give(g);
            woken |= 1 << id;
            assert_eq!(
                self.fixture.goroutines.status(id),
                Status::Waiting,
                "a goroutine that does not wait is readied"
            );
            self.fixture.goroutines.set_status(id, Status::Runnable);
            let side = &mut self.descs[id / 2].sides[id % 2];
            assert_eq!(side.phase, Phase::Parked);
            side.phase = Phase::Settle;
        }
        assert_eq!(
            woken, to_wake,
            "not the expected goroutines are woken (a bit for each)"
        );
    }

    /// The kernel gets data, or room.
    fn data(&mut self, at: usize, side: usize) {
        let desc = &mut self.descs[at];
        if desc.open {
            desc.sides[side].level = true;
            desc.sides[side].edge = desc.joined && FuzzPoller::watches(desc.fd);
        }
    }

    /// A poll fetches the event of one descriptor, if there is one. `how` adds a hang-up, makes the
    /// event an error and a hang-up, or makes it spurious.
    fn fetch(&mut self, at: usize, how: u8) {
        let desc = &mut self.descs[at];
        if !desc.joined || !FuzzPoller::watches(desc.fd) || self.fetched.is_full() {
            return;
        }
        let mut ready = Ready::empty();
        for (side, bit) in desc.sides.iter_mut().zip(BITS) {
            ready.set(bit, core::mem::take(&mut side.edge));
        }
        ready |= match how {
            0 => Ready::empty(),
            1 => Ready::READ | Ready::HANGUP,
            2 => Ready::READ | Ready::WRITE | Ready::HANGUP | Ready::ERROR,
            _ => Ready::WRITE,
        };
        if !ready.is_empty() {
            self.fetched
                .push(Event {
                    token: desc.desc.token(),
                    ready,
                })
                .expect("room was checked");
        }
    }

    /// Delivers the fetched events, all or the first few.
    fn deliver(&mut self, how: usize) {
        let count = if how == 3 {
            self.fetched.len()
        } else {
            self.fetched.len().min(how + 1)
        };
        let (events, later) = self.fetched.split_at(count);
        let [events, later] = [events, later]
            .map(|part| heapless::Vec::from_slice(part).expect("they were in one as long"));
        self.fetched = later;
        PENDING.set(events.clone());
        let count = Count::new();
        let woken = super::poll(self.fixture.poller, Delay::None, &count);
        assert_eq!(count.get(), events.len() as u64, "events are miscounted");
        let mut expected = heapless::Vec::<_, { 2 * FETCHED_MAX }>::new();
        for event in &events {
            let addressed = |desc: &Desc| desc.open && desc.desc.token() == event.token;
            let Some(at) = self.descs.iter().position(addressed) else {
                continue;
            };
            self.note(at, event.ready);
            for (side, bit) in BITS.into_iter().enumerate() {
                if event.ready.contains(bit) {
                    expected
                        .push(self.notify(at, side))
                        .expect("two for each event");
                }
            }
        }
        self.woken(woken, &expected);
    }

    fn note(&mut self, at: usize, ready: Ready) {
        let desc = &mut self.descs[at];
        desc.error = ready.contains(Ready::ERROR);
        desc.hung_up |= ready.contains(Ready::HANGUP);
    }

    /// An event of the last use whose tag was compared before that use ended. Its bits must not be
    /// merged into this use; its readiness is a spurious wake-up.
    fn late_event(&mut self, at: usize, how: u8) {
        let desc = &self.descs[at];
        if !desc.open || desc.stale == 0 {
            return;
        }
        let side = usize::from(how & 1);
        let mut woken = WaiterList::new();
        desc.desc
            .info
            .note_event(Ready::ERROR | Ready::HANGUP, desc.stale);
        woken.extend(desc.desc.slot(MODES[side]).notify());
        let expected = self.notify(at, side);
        self.woken(woken, &[expected]);
    }

    fn set_deadline(&mut self, at: usize, side: Option<usize>, deadline: Deadline) {
        let (this, heap) = (&mut self.descs[at], self.fixture.heap);
        if !this.open {
            return;
        }
        let before = heap.next().unwrap_or(NEVER);
        let mut woken = WaiterList::new();
        let moved = this.desc.set_deadline(
            &|| Some(deadline),
            side.map(|side| MODES[side]),
            heap,
            &mut woken,
        );
        assert!(
            moved.iter().any(Option::is_some) || heap.next().unwrap_or(NEVER) >= before,
            "no caller is told that the heap is due earlier"
        );
        let mut expected = [None; 2];
        if !this.closing {
            let old = this.sides.map(|side| side.when);
            let when = match deadline {
                Deadline::None => 0,
                Deadline::Passed => -1,
                Deadline::At(when) => when,
            };
            let new = [0, 1].map(|other| {
                if side.is_none_or(|side| side == other) {
                    when
                } else {
                    old[other]
                }
            });
            let shared = |[read, write]: [Nanos; 2]| read > 0 && read == write;
            for other in 0..2 {
                this.sides[other].when = new[other];
                // Both sides share one timer while their times are equal. When the sharing begins
                // or ends, the timer of both changes.
                if new[other] != old[other] || shared(new) != shared(old) {
                    this.sides[other].timer_seq += 1;
                }
            }
            for other in 0..2 {
                if new[other] < 0 && new != old {
                    expected[other] = self.cancel(at, other);
                }
            }
        }
        self.woken(woken, &expected);
    }

    /// Moves the clock and runs the timers. A deadline that is due passes, unless one of the
    /// `intruding` steps changes it during the run.
    fn pass(&mut self, by: Nanos, intruding: u8) {
        if self.in_run {
            return;
        }
        self.now += by;
        let is_due = |side: &Side| side.when > 0 && side.when <= self.now;
        let due = [0, 1].map(|at: usize| {
            self.descs[at].sides.map(|side| {
                (is_due(&side) && self.descs[at].open && !self.descs[at].closing)
                    .then_some(side.timer_seq)
            })
        });
        let mut woken = WaiterList::new();
        let (now, heap) = (self.now, self.fixture.heap);
        if intruding == 0 {
            heap.run(now, &mut woken);
        } else {
            self.in_run = true;
            let mut call = Call {
                driver: NonNull::from(&mut *self).cast(),
                steps: intruding,
            };
            let timer = Timer::new(NonNull::from(&mut call).cast());
            // SAFETY: the timer is due at once, so it has fired when the run returns.
            let _ = unsafe { timer.arm(heap, 1, 0, intrude) };
            heap.run(now, &mut woken);
            self.in_run = false;
        }
        let mut expected = heapless::Vec::<_, { 2 * DESCS }>::new();
        for (at, seqs) in due.into_iter().enumerate() {
            for (side, timer_seq) in seqs.into_iter().enumerate() {
                if timer_seq == Some(self.descs[at].sides[side].timer_seq) {
                    self.descs[at].sides[side].when = -1;
                    expected
                        .push(self.cancel(at, side))
                        .expect("one for each side");
                }
            }
        }
        self.woken(woken, &expected);
        let on_time = |desc: &Desc| {
            !desc.open
                || desc.closing
                || desc
                    .sides
                    .iter()
                    .all(|side| side.when <= 0 || side.when > now)
        };
        assert!(
            intruding != 0 || self.descs.iter().all(on_time),
            "a deadline was missed"
        );
    }

    fn close(&mut self, at: usize) {
        let this = &mut self.descs[at];
        if !this.open || this.closing {
            return;
        }
        this.closing = true;
        this.sides.iter_mut().for_each(|side| side.timer_seq += 1);
        let mut woken = WaiterList::new();
        this.desc.unblock(&mut woken);
        let expected = [0, 1].map(|side| self.cancel(at, side));
        self.woken(woken, &expected);
    }

    /// Ends the use if the descriptor is closing and no operation uses it.
    fn free(&mut self, at: usize) {
        let this = &mut self.descs[at];
        if this.open && this.closing && this.sides.iter().all(|side| side.phase == Phase::Begin) {
            self.fixture.close(this.fd, this.desc);
            assert!(!FuzzPoller::watches(this.fd), "the kernel still watches it");
            (this.open, this.joined, this.stale) = (false, false, this.tag);
        }
    }

    /// Begins a use. No state of earlier uses may show.
    fn open(&mut self, at: usize) {
        if self.descs[at].open {
            return;
        }
        let fd = self.descs[at].fd;
        let desc = self.fixture.open(fd);
        let tag = desc.token().tag();
        // The cache may return the two descriptors in either order.
        let other = 1 - at;
        if !core::ptr::eq(desc, self.descs[at].desc) {
            assert!(
                core::ptr::eq(desc, self.descs[other].desc) && !self.descs[other].open,
                "a descriptor is used twice"
            );
            let (desc, stale) = (self.descs[at].desc, self.descs[at].stale);
            (self.descs[at].desc, self.descs[at].stale) =
                (self.descs[other].desc, self.descs[other].stale);
            (self.descs[other].desc, self.descs[other].stale) = (desc, stale);
        }
        let this = &mut self.descs[at];
        assert!(
            tag != 0 && tag <= TAG_MASK && tag != this.stale,
            "the sequence number stands still"
        );
        let timer_seq = this.sides.map(|side| side.timer_seq + 1);
        *this = Desc::fresh(desc, fd, tag, this.stale);
        this.sides
            .iter_mut()
            .zip(timer_seq)
            .for_each(|(side, timer_seq)| side.timer_seq = timer_seq);
    }

    /// Delivers all events and lets every operation run until it ends or sleeps. An operation that
    /// sleeps then must have no reason to run.
    fn come_to_rest(&mut self) {
        for _ in 0..2 {
            for at in 0..DESCS {
                self.fetch(at, 0);
            }
            self.deliver(3);
            for _ in 0..16 {
                for id in 0..2 * DESCS {
                    let begins = self.descs[id / 2].sides[id % 2].phase == Phase::Begin;
                    if !begins {
                        self.waiter_step(id / 2, id % 2, false);
                    }
                }
            }
        }
        self.check();
        for desc in self.descs.iter().filter(|desc| desc.open) {
            for (side, mode) in desc.sides.iter().zip(MODES) {
                assert!(
                    matches!(side.phase, Phase::Begin | Phase::Parked),
                    "{mode:?} is at {:?} and gets no further",
                    side.phase
                );
                let reason = side.level || side.when < 0 || desc.closing;
                assert!(
                    side.phase == Phase::Begin || !reason,
                    "{mode:?} sleeps with data {}, deadline {}, closing {}",
                    side.level,
                    side.when,
                    desc.closing
                );
            }
        }
    }

    /// Closes both descriptors, so that the next input finds nothing of this one.
    fn shut_down(&mut self) {
        for at in 0..DESCS {
            self.close(at);
        }
        self.come_to_rest();
        for at in 0..DESCS {
            self.free(at);
            assert!(
                !self.descs[at].open,
                "an operation still uses a closed descriptor"
            );
        }
        let mut woken = WaiterList::new();
        self.fixture.heap.run(NEVER - 1, &mut woken);
        assert!(
            woken.is_empty() && self.fixture.heap.next().is_none(),
            "a timer outlives its descriptor"
        );
        assert_eq!(self.fixture.poller.watched(), 0);
    }
}

/// What the intruding timer's callback does.
struct Call {
    driver: NonNull<()>,
    steps: u8,
}

unsafe fn intrude(call: NonNull<()>, _: u32, _: &mut WaiterList) {
    // SAFETY: `pass` keeps the call and the driver on its stack until the run of the timers
    // returns, and uses neither during the run.
    let call = unsafe { call.cast::<Call>().as_ref() };
    // SAFETY: as above.
    let driver = unsafe { call.driver.cast::<Driver<'_>>().as_mut() };
    for _ in 0..call.steps {
        driver.next_step();
    }
}
