//! Poll descriptors, their deadlines and their reuse against the transition tables of Go's protocol: two descriptors, each with a reader and a
//! writer, over a kernel with edges and a clock that this program moves.
//!
//! The reader and the writer of a descriptor make the steps of `Fd::attempt` and `Sched::poll_wait` one at a time; edges, late events, deadlines,
//! timers, closes and reuse come between any two of them. A timer of the target's own goes off in the same run as the deadlines, before
//! them, and makes further steps: so a deadline's callback can be on its way while the deadline is moved, or the descriptor closed and reused.
//!
//! The model is the tables written plainly: what is in the slot, what is published, when a side is due. What one thread cannot show (two
//! read-modify-writes that race) belongs to `core/models`.
//!
//! | assertion | where |
//! |---|---|
//! | the slot holds what the table says; a waiter is handed out once, in status waiting (K1, K2) | `Model::word`, `woken` |
//! | at rest nobody sleeps with data, a passed deadline or a close (K3, K18) | `come_to_rest` |
//! | a timeout needs a passed deadline, `Closing` a close, readiness an event (K6, K8) | `expected_error`, `settle` |
//! | no timeout of a deadline that was cleared or moved (K7, K11) | `pass` |
//! | the next use has another number, and neither events nor errors nor timers of the last (K9) | `open`, `deliver` |
//! | whoever is due, some heap is looked at in time (K10) | `check` |
//! | no lock is held when a callback runs (K12) | `intrude` would hang |
//! | readiness may be spurious, and the operation waits again (K16) | `system_call` |
#![allow(unsafe_code, reason = "a callback gets an address")]

use super::{Deadline, PollCache, PollDesc, PollError, TAG_MASK};
use crate::counter::Count;
use crate::fuzz::kernel::{ARMED, DESCS, FETCHED_MAX, Kernel, NEWS, REFUSES};
use crate::fuzz::system::Goroutines;
use crate::g::Status;
use crate::os::{Delay, Event, Mode, Nanos, Ready};
use crate::poller::Poller;
use crate::sync::Ordering;
use crate::timer::{Heap, NEVER, Timer};
use crate::waiter::{Announced, Waiter, WaiterList};
use core::cell::RefCell;
use core::fmt::Write;
use core::ptr::NonNull;
use std::boxed::Box;

const MODES: [Mode; 2] = [Mode::Read, Mode::Write];
const BITS: [Ready; 2] = [Ready::READ, Ready::WRITE];

std::thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(Fixture::new());
}

/// What all inputs use.
struct Fixture {
    cache: PollCache,
    heap: &'static Heap,
    poller: &'static Poller,
    goroutines: Goroutines,
}

impl Fixture {
    fn new() -> Self {
        Fixture {
            cache: PollCache::default(),
            heap: Box::leak(Box::new(Heap::new(0))),
            poller: Box::leak(Box::new(Poller::new(Box::new(Kernel)))),
            goroutines: Goroutines::new(2 * DESCS),
        }
    }
}

/// What is in a slot.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Word {
    Nil,
    Ready,
    Wait,
    Parked,
}

/// The step that a reader or writer makes next.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Begin,
    SystemCall,
    Register,
    Watch,
    MayWait,
    Announce,
    Look,
    Commit,
    Parked,
    Settle,
    LookAgain,
}

/// One direction of a descriptor: its waiter, and what the model knows.
#[derive(Clone, Copy)]
struct Side {
    phase: Phase,
    word: Word,
    /// 0: no deadline; < 0: it has passed.
    when: Nanos,
    /// Changes whenever a timer that is on its way must not count any more.
    errand: u32,
    /// The kernel has data, or room.
    level: bool,
    /// The kernel has an event to tell.
    edge: bool,
    /// An error kept it from waiting, and it asks the system a last time.
    last_try: bool,
}

struct Desc {
    desc: &'static PollDesc,
    fd: i32,
    open: bool,
    closing: bool,
    /// It has joined a poller, or an operation is about to register it.
    joined: bool,
    /// Another operation came while one registered it.
    awaited: bool,
    /// The last event was nothing but an error.
    error: bool,
    hung_up: bool,
    /// The tag of this use, and of the last.
    tag: u32,
    stale: u32,
    sides: [Side; 2],
}

struct Driver<'a> {
    fixture: &'a mut Fixture,
    steps: &'a [u8],
    now: Nanos,
    descs: [Desc; DESCS],
    /// Events that a poll has fetched, not yet delivered.
    fetched: heapless::Vec<Event, FETCHED_MAX>,
    /// A run of timers is under way.
    in_run: bool,
}

const FRESH: Side = Side {
    phase: Phase::Begin,
    word: Word::Nil,
    when: 0,
    errand: 0,
    level: false,
    edge: false,
    last_try: false,
};

/// The first byte says where sequence numbers begin; each other is a step: what (4 bits), on which descriptor (1) and side (1), how (2).
pub fn run(input: &[u8]) {
    let Some((&start, steps)) = input.split_first() else {
        return;
    };
    FIXTURE.with_borrow_mut(|fixture| {
        let descs = [0, 1].map(|fd| {
            let desc = fixture.cache.open(fd);
            // Half of the inputs begin just before the wrap.
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
            // A poll that waits: for an edge, or until a timer is due.
            _ if self
                .descs
                .iter()
                .any(|desc| desc.joined && desc.sides.iter().any(|side| side.edge)) =>
            {
                (0..DESCS).for_each(|at| self.fetch(at, 0))
            }
            _ => {
                // A deadline for the end of time has a timer for the moment before it.
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
            .filter(|desc| desc.joined && Kernel::watches(desc.fd))
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
            assert_eq!(desc.desc.poller().is_some(), desc.is_watched());
            assert_eq!(desc.desc.hung_up(), desc.hung_up, "whether an end was seen");
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
                    "when it gives up"
                );
                assert_eq!(
                    desc.desc.may_wait(mode),
                    desc.expected_error(mode, true),
                    "whether it may wait"
                );
                // In the middle of a run, what is due is no longer in the heap.
                let armed = side.when > 0 && !desc.closing && !self.in_run;
                assert!(
                    !armed || next <= side.when,
                    "a deadline passes at {}, and the heap waits for {next}",
                    side.when
                );
            }
        }
    }

    /// One step of a reader or writer. With `refused`, a registration fails.
    fn waiter_step(&mut self, at: usize, side: usize, refused: bool) {
        let (desc, mode) = (&mut self.descs[at], MODES[side]);
        if !desc.open {
            return;
        }
        let this = desc.desc;
        let slot = this.slot(mode);
        let phase = match desc.sides[side].phase {
            Phase::Begin => match this.may_try(mode) {
                Ok(()) => {
                    slot.reset();
                    desc.sides[side].word = Word::Nil;
                    Phase::SystemCall
                }
                Err(error) => desc.fail(mode, error),
            },
            Phase::SystemCall => desc.system_call(side),
            Phase::Register if this.join_poller() => {
                assert!(!desc.joined, "two operations register");
                desc.joined = true;
                Phase::Watch
            }
            Phase::Register => {
                assert!(desc.joined, "nobody registers");
                desc.awaited |= !desc.is_watched();
                Phase::MayWait
            }
            Phase::Watch => return self.watch(at, side, refused),
            Phase::MayWait => match this.may_wait(mode) {
                Ok(()) => {
                    ARMED.set(None);
                    this.arm(mode);
                    assert_eq!(ARMED.get(), desc.is_watched().then_some((desc.fd, mode)));
                    Phase::Announce
                }
                Err(error) => desc.fail(mode, error),
            },
            Phase::Announce => match slot.announce() {
                Announced::Ready => {
                    assert_eq!(desc.sides[side].word, Word::Ready);
                    desc.sides[side].word = Word::Nil;
                    Phase::SystemCall
                }
                Announced::Waiting => {
                    assert_eq!(
                        desc.sides[side].word,
                        Word::Nil,
                        "latched readiness is lost"
                    );
                    desc.sides[side].word = Word::Wait;
                    Phase::Look
                }
            },
            Phase::Look if this.may_wait(mode).is_ok() => Phase::Commit,
            Phase::Look => Phase::Settle,
            Phase::Commit => return self.commit(at, side),
            Phase::Parked => Phase::Parked,
            Phase::Settle => {
                let good = slot.settle();
                assert_eq!(
                    good,
                    desc.sides[side].word == Word::Ready,
                    "whether there was good news"
                );
                desc.sides[side].word = Word::Nil;
                if good {
                    Phase::SystemCall
                } else {
                    Phase::LookAgain
                }
            }
            // A deadline that passed and was moved since does not end the wait.
            Phase::LookAgain => match this.may_wait(mode) {
                Ok(()) => Phase::Announce,
                Err(error) => desc.fail(mode, error),
            },
        };
        desc.sides[side].phase = phase;
    }

    fn watch(&mut self, at: usize, side: usize, refused: bool) {
        REFUSES.set(refused);
        let desc = &mut self.descs[at];
        assert_eq!(
            self.fixture
                .poller
                .watch(desc.desc.fd(), desc.desc.token())
                .is_err(),
            refused
        );
        let told = std::mem::take(&mut desc.awaited) || refused;
        let mut woken = WaiterList::new();
        if refused {
            desc.joined = false;
            desc.desc.leave_poller(&mut woken);
        } else {
            // What is ready by then is reported.
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
                    "parked although news had come"
                );
                (desc.sides[side].word, desc.sides[side].phase) = (Word::Parked, Phase::Parked);
            }
            Err(Waiter::G(g)) => {
                assert_ne!(
                    desc.sides[side].word,
                    Word::Wait,
                    "not parked although no news had come"
                );
                assert_eq!(self.fixture.goroutines.give(g), id);
                desc.sides[side].phase = Phase::Settle;
            }
            Err(Waiter::Thread(_)) => panic!("a goroutine comes back as a thread"),
        }
    }

    /// Good news for one side: whom it wakes.
    fn notify(&mut self, at: usize, side: usize) -> Option<usize> {
        let before = core::mem::replace(&mut self.descs[at].sides[side].word, Word::Ready);
        (before == Word::Parked).then_some(2 * at + side)
    }

    /// Bad news for one side: whom it wakes. Readiness stays.
    fn cancel(&mut self, at: usize, side: usize) -> Option<usize> {
        let word = &mut self.descs[at].sides[side].word;
        let before = *word;
        if before != Word::Ready {
            *word = Word::Nil;
        }
        (before == Word::Parked).then_some(2 * at + side)
    }

    /// Lets those run again who were woken. They must be the expected ones.
    fn woken(&mut self, mut list: WaiterList, expected: &[Option<usize>]) {
        let (mut woken, mut to_wake) = (0u32, 0u32);
        expected.iter().flatten().for_each(|id| to_wake |= 1 << id);
        while let Some(Waiter::G(g)) = list.pop() {
            let id = self.fixture.goroutines.give(g);
            woken |= 1 << id;
            assert_eq!(
                self.fixture.goroutines.status(id),
                Status::Waiting,
                "a goroutine is readied that does not wait"
            );
            self.fixture.goroutines.set_status(id, Status::Runnable);
            let side = &mut self.descs[id / 2].sides[id % 2];
            assert_eq!(side.phase, Phase::Parked);
            side.phase = Phase::Settle;
        }
        assert_eq!(
            woken, to_wake,
            "others are woken than should be (a bit for each waiter)"
        );
    }

    /// The kernel gets data, or room.
    fn data(&mut self, at: usize, side: usize) {
        let desc = &mut self.descs[at];
        if desc.open {
            desc.sides[side].level = true;
            desc.sides[side].edge = desc.joined && Kernel::watches(desc.fd);
        }
    }

    /// A poll fetches what the kernel has to tell about a descriptor; `how` adds an end, or makes it an error and nothing else, or spurious.
    fn fetch(&mut self, at: usize, how: u8) {
        let desc = &mut self.descs[at];
        if !desc.joined || !Kernel::watches(desc.fd) || self.fetched.is_full() {
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
        NEWS.set(events.clone());
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

    /// An event of the last use that was found to be current before that use ended: it notes its error, and is a spurious wake-up.
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
            "nobody is told that the heap is due sooner"
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
                // Both share one timer while their times are the same, so what ends or begins that counts for both.
                if new[other] != old[other] || shared(new) != shared(old) {
                    this.sides[other].errand += 1;
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

    /// Time passes, and the timers are run. Deadlines that are due pass, unless one of the `intruding` steps in between changes them.
    fn pass(&mut self, by: Nanos, intruding: u8) {
        if self.in_run {
            return;
        }
        self.now += by;
        let is_due = |side: &Side| side.when > 0 && side.when <= self.now;
        let due = [0, 1].map(|at: usize| {
            self.descs[at].sides.map(|side| {
                (is_due(&side) && self.descs[at].open && !self.descs[at].closing)
                    .then_some(side.errand)
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
            // SAFETY: it is due at once, and has fired when the run has returned.
            let _ = unsafe { timer.arm(heap, 1, 0, intrude) };
            heap.run(now, &mut woken);
            self.in_run = false;
        }
        let mut expected = heapless::Vec::<_, { 2 * DESCS }>::new();
        for (at, errands) in due.into_iter().enumerate() {
            for (side, errand) in errands.into_iter().enumerate() {
                if errand == Some(self.descs[at].sides[side].errand) {
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
        this.sides.iter_mut().for_each(|side| side.errand += 1);
        let mut woken = WaiterList::new();
        this.desc.unblock(&mut woken);
        let expected = [0, 1].map(|side| self.cancel(at, side));
        self.woken(woken, &expected);
    }

    /// Ends the use, once it is closing and nobody uses the descriptor.
    fn free(&mut self, at: usize) {
        let this = &mut self.descs[at];
        if this.open && this.closing && this.sides.iter().all(|side| side.phase == Phase::Begin) {
            self.fixture.cache.close(this.desc);
            assert!(!Kernel::watches(this.fd), "the kernel still watches it");
            (this.open, this.joined, this.stale) = (false, false, this.tag);
        }
    }

    /// Begins a use: it knows nothing of those before.
    fn open(&mut self, at: usize) {
        if self.descs[at].open {
            return;
        }
        let fd = self.descs[at].fd;
        let desc = self.fixture.cache.open(fd);
        let tag = desc.token().tag();
        // The cache may give out the descriptors in another order than they were in.
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
        let errand = this.sides.map(|side| side.errand + 1);
        *this = Desc::fresh(desc, fd, tag, this.stale);
        this.sides
            .iter_mut()
            .zip(errand)
            .for_each(|(side, errand)| side.errand = errand);
    }

    /// Everybody goes on for as long as they can, and the kernel tells all it has to tell. Whoever then sleeps has no reason not to.
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

    /// Closes everything. Nothing is left over for the next input.
    fn shut_down(&mut self) {
        for at in 0..DESCS {
            self.close(at);
        }
        self.come_to_rest();
        for at in 0..DESCS {
            self.free(at);
            assert!(
                !self.descs[at].open,
                "somebody still uses a closed descriptor"
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

impl Desc {
    fn fresh(desc: &'static PollDesc, fd: i32, tag: u32, stale: u32) -> Self {
        let (open, sides) = (true, [FRESH; 2]);
        Desc {
            desc,
            fd,
            open,
            closing: false,
            joined: false,
            awaited: false,
            error: false,
            hung_up: false,
            tag,
            stale,
            sides,
        }
    }

    fn is_watched(&self) -> bool {
        self.joined && Kernel::watches(self.fd)
    }

    /// Closing comes before a deadline, and that before an error, which only a read that waits must know.
    fn expected_error(&self, mode: Mode, to_wait: bool) -> Result<(), PollError> {
        match self {
            _ if self.closing => Err(PollError::Closing),
            _ if self.sides[mode as usize].when < 0 => Err(PollError::Timeout),
            _ if self.error && to_wait && mode == Mode::Read => Err(PollError::NotPollable),
            _ => Ok(()),
        }
    }

    /// An operation fails; or, for an error of the descriptor's, asks the system once more.
    fn fail(&mut self, mode: Mode, error: PollError) -> Phase {
        let mut text = heapless::String::<64>::new();
        write!(text, "{error}").expect("it is short");
        let expected = match error {
            PollError::Closing => "use of closed network connection",
            PollError::Timeout => "i/o timeout",
            PollError::NotPollable => "not pollable",
            PollError::Unwinding => unreachable!("nothing here panics"),
        };
        assert_eq!(text, expected);
        if error == PollError::NotPollable {
            self.sides[mode as usize].last_try = true;
            return Phase::SystemCall;
        }
        Phase::Begin
    }

    /// The operation ends if the system has something for it, and else waits. After an error of the
    /// descriptor's, an operation on a socket waits again, and one on anything else fails.
    fn system_call(&mut self, side: usize) -> Phase {
        let is_socket = self.fd == 1;
        let side = &mut self.sides[side];
        let last = core::mem::take(&mut side.last_try);
        if core::mem::take(&mut side.level) || last && !is_socket {
            return Phase::Begin;
        }
        if last {
            self.desc.forget_error();
            self.error = false;
        }
        Phase::Register
    }
}

/// What the intruding timer's callback does.
struct Call {
    driver: NonNull<()>,
    steps: u8,
}

unsafe fn intrude(call: NonNull<()>, _: u32, _: &mut WaiterList) {
    // SAFETY: `pass` waits for the run of the timers with both on its stack, and touches neither meanwhile.
    let call = unsafe { call.cast::<Call>().as_ref() };
    // SAFETY: as above.
    let driver = unsafe { call.driver.cast::<Driver<'_>>().as_mut() };
    for _ in 0..call.steps {
        driver.next_step();
    }
}
