//! Timers in two heaps against a table of the time for which each timer is armed. A run of a heap
//! must fire the timers that are due, the earliest first.
//!
//! Timers are armed, moved later and earlier, stopped, and armed again from their own callbacks. The
//! limits of waits decide choices, and are removed before or after that.
//! After each step no armed timer is due before its heap's next run. At the end of an input the
//! heaps' internals are checked, and the heaps are emptied.
#![allow(unsafe_code, reason = "callbacks get addresses")]

use super::{ARITY, FIRE_BATCH, Heap, Timer};
use crate::choice::{Choice, Outcome};
use crate::os::Nanos;
use crate::sync::{Ordering, UnsafeCell};
use crate::waiter::WaiterList;
use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use std::boxed::Box;
use std::vec::Vec;

const TIMERS: usize = 48;
const LIMITS: usize = 12;
static_assertions::const_assert!(TIMERS > FIRE_BATCH);

/// A timer and its row in the model's table.
struct Entry {
    timer: Timer,
    plan: Cell<Plan>,
}

#[derive(Clone, Copy, Default)]
struct Plan {
    /// The time at which the timer is due; 0: it is not armed.
    when: Nanos,
    seq: u32,
    /// The callback arms the timer again for so long after it fires; 0: it does not.
    repeat: Nanos,
}

/// A wait with a time limit.
struct Limit {
    timer: Timer,
    choice: UnsafeCell<Choice>,
    /// When the limit comes, and the heap that the timer was put into. `None`: no wait.
    wait: Cell<Option<(Nanos, &'static Heap)>>,
    outcome: Cell<Option<Outcome>>,
}

struct Fixture {
    heaps: [&'static Heap; 2],
    timers: Vec<&'static Entry>,
    limits: Vec<&'static Limit>,
}

impl Fixture {
    fn new() -> Self {
        let entry = |_| {
            let entry = Box::into_raw(Box::new(Entry {
                timer: Timer::new(NonNull::dangling()),
                plan: Cell::default(),
            }));
            // SAFETY: the entry was just allocated, and is leaked.
            unsafe {
                (*entry).timer = Timer::new(NonNull::new_unchecked(entry).cast());
                &*entry
            }
        };
        let limit = |_| {
            let limit = Box::into_raw(Box::new(Limit {
                timer: Timer::new(NonNull::dangling()),
                choice: UnsafeCell::new(Choice::new()),
                wait: Cell::default(),
                outcome: Cell::default(),
            }));
            // SAFETY: the limit was just allocated, and is leaked.
            unsafe {
                let choice = &raw const (*limit).choice;
                (*limit).timer = Timer::new(NonNull::new_unchecked(choice.cast_mut()).cast());
                &*limit
            }
        };
        Fixture {
            limits: (0..LIMITS).map(limit).collect(),
            heaps: [0, 1].map(|owner| &*Box::leak(Box::new(Heap::new(owner)))),
            timers: (0..TIMERS).map(entry).collect(),
        }
    }
}

/// The clock, and the key of the timer that the current run of a heap has fired last.
#[derive(Default)]
struct Log {
    now: Nanos,
    last: Nanos,
}

std::thread_local! {
    static FIXTURE: Fixture = Fixture::new();
    static LOG: RefCell<Log> = RefCell::default();
}

/// Two bytes are one step: what and which timer, and how long.
pub fn run(input: &[u8]) {
    FIXTURE.with(|fixture| {
        LOG.with_borrow_mut(|log| log.now = 1_000);
        for step in input.chunks_exact(2) {
            let (what, at) = (step[0] % 7, usize::from(step[0] / 7));
            let (heap, long) = (
                fixture.heaps[usize::from(step[1] & 1)],
                Nanos::from(step[1] >> 1),
            );
            let entry = fixture.timers[at % TIMERS];
            let limit = fixture.limits[at % LIMITS];
            let now = LOG.with_borrow(|log| log.now);
            let when = entry.plan.get().when;
            match what {
                0 => entry.arm(heap, now + long, (long & 1) * (1 + long)),
                // Moves the timer later or earlier, possibly into the past.
                1 if when != 0 => entry.arm(
                    heap,
                    if long & 1 == 0 {
                        when + long
                    } else {
                        (when - long).max(1)
                    },
                    0,
                ),
                2 => entry.stop(),
                3 => fixture.pass(long),
                4 => {
                    // Enough timers that one run takes more than one batch.
                    for (i, entry) in fixture.timers[at % TIMERS..]
                        .iter()
                        .take(step[1] as usize)
                        .enumerate()
                    {
                        entry.arm(heap, now + long + i as Nanos % 3, 0);
                    }
                }
                5 => match limit.wait.get() {
                    None => limit.arm(heap, now + long),
                    Some(_) => limit.decide(),
                },
                6 => limit.remove(),
                _ => {}
            }
            fixture.an_owner_wakes_in_time();
        }
        fixture.check_insides();
        fixture.clear();
    });
}

impl Entry {
    fn arm(&self, heap: &'static Heap, when: Nanos, repeat: Nanos) {
        let before = self.plan.get();
        let plan = Plan {
            when,
            seq: before.seq.wrapping_add(1),
            repeat,
        };
        self.plan.set(plan);
        let home = self.timer.state.lock().heap.unwrap_or(heap);
        let before = home.next();
        // SAFETY: the entry is leaked, `fire` takes its address, and there is one thread.
        let moved = unsafe { self.timer.arm(heap, when, plan.seq, fire) };
        let earlier = home
            .next()
            .is_some_and(|next| before.is_none_or(|before| next < before));
        assert_eq!(
            moved.is_some(),
            earlier,
            "whether the heap's owner must wake"
        );
        assert!(
            moved.is_none_or(|moved| core::ptr::eq(moved, home)),
            "the owner of the other heap must wake"
        );
    }

    fn stop(&self) {
        self.plan.set(Plan {
            when: 0,
            ..self.plan.get()
        });
        self.timer.stop();
    }
}

impl Limit {
    fn arm(&self, heap: &'static Heap, when: Nanos) {
        let before = heap.next();
        // SAFETY: the limit is leaked, and its choice is replaced after `remove`.
        let moved = unsafe { self.timer.arm_expiry(heap, when) };
        assert_eq!(
            moved.is_some(),
            before.is_none_or(|before| when < before),
            "whether the heap's owner must wake"
        );
        self.wait.set(Some((when, heap)));
    }

    fn choice(&self) -> &Choice {
        // SAFETY: there is one thread, and `remove` has no reference when it writes.
        unsafe { &*self.choice.get() }
    }

    /// Another event than the limit comes.
    fn decide(&self) {
        let decided = self.choice().decide(Outcome::Arm(0)).is_some();
        assert_eq!(decided, self.outcome.get().is_none());
        if decided {
            self.outcome.set(Some(Outcome::Arm(0)));
        }
    }

    /// Ends the wait.
    fn remove(&self) {
        if let Some((_, heap)) = self.wait.take() {
            heap.remove(&self.timer);
        }
        // SAFETY: after `remove` the heap does not refer to the choice.
        unsafe { *self.choice.get() = Choice::new() };
        self.outcome.set(None);
    }

    /// The limit, if it has not come.
    fn when(&self) -> Option<Nanos> {
        let pending = self.timer.state.lock().heap.is_some();
        self.wait.get().map(|(when, _)| when).filter(|_| pending)
    }
}

/// The callback of every timer.
unsafe fn fire(entry: NonNull<()>, seq: u32, _: &mut WaiterList) {
    // SAFETY: the argument is the address of a leaked entry.
    let entry = unsafe { entry.cast::<Entry>().as_ref() };
    let Plan {
        when,
        seq: armed,
        repeat,
    } = entry.plan.get();
    let now = LOG.with_borrow_mut(|log| {
        assert!(when != 0, "a timer that is not armed fires");
        assert!(
            when <= log.now,
            "a timer fires at {} that is due at {when}",
            log.now
        );
        assert_eq!(seq, armed, "a timer fires with an old sequence number");
        // The time for which the timer is in the heap: its own, or an earlier one from which it was
        // moved.
        let key = entry.timer.state.lock().key;
        assert!(
            log.last <= key,
            "a timer due at {key} fires after one due at {}",
            log.last
        );
        log.last = key;
        log.now
    });
    entry.plan.set(Plan {
        when: 0,
        ..entry.plan.get()
    });
    if repeat != 0 {
        let heap = FIXTURE.with(|fixture| fixture.heaps[0]);
        entry.arm(heap, now + repeat, repeat);
    }
}

impl Fixture {
    /// Advances the clock and runs both heaps.
    fn pass(&self, by: Nanos) {
        let now = LOG.with_borrow_mut(|log| {
            log.now += by;
            log.now
        });
        for heap in self.heaps {
            LOG.with_borrow_mut(|log| log.last = 0);
            heap.run(now, &mut WaiterList::new());
            assert!(
                heap.next().is_none_or(|next| next > now),
                "after a run a timer of the heap is due"
            );
        }
        self.limits_come(now);
        for entry in &self.timers {
            let when = entry.plan.get().when;
            assert!(
                when == 0 || when > now,
                "a timer due at {when} has not fired at {now}"
            );
        }
    }

    /// Each limit that has come has decided its choice, unless another event had.
    fn limits_come(&self, now: Nanos) {
        for limit in &self.limits {
            let came = limit.wait.get().is_some_and(|(when, _)| when <= now);
            if came && limit.outcome.get().is_none() {
                limit.outcome.set(Some(Outcome::Expired));
            }
            assert_eq!(limit.choice().outcome(), limit.outcome.get());
            assert!(
                !came || limit.when().is_none(),
                "a limit came and has an entry"
            );
        }
    }

    fn an_owner_wakes_in_time(&self) {
        let next = self
            .heaps
            .iter()
            .filter_map(|heap| heap.next())
            .min()
            .unwrap_or(Nanos::MAX);
        let earliest = self
            .timers
            .iter()
            .map(|entry| entry.plan.get().when)
            .filter(|&when| when != 0)
            .chain(self.limits.iter().filter_map(|limit| limit.when()))
            .min()
            .unwrap_or(Nanos::MAX);
        assert!(
            next <= earliest,
            "the next run is at {next}, and a timer is due at {earliest}"
        );
    }

    /// Checks what must hold inside the heaps between any two steps.
    fn check_insides(&self) {
        for heap in self.heaps {
            let entries = heap.entries.lock();
            let mut zombies = 0;
            for (index, entry) in entries.iter().enumerate() {
                let timer = entry.timer();
                let state = timer.state.lock();
                assert!(
                    index == 0 || entries[(index - 1) / ARITY].key <= entry.key,
                    "entry {index} is earlier than its parent"
                );
                assert_eq!(
                    (timer.index.load(Ordering::Relaxed) as usize, state.key),
                    (index, entry.key),
                    "a timer and its entry differ"
                );
                assert!(
                    state.heap.is_some_and(|home| core::ptr::eq(home, heap)),
                    "a timer does not know its heap"
                );
                assert!(
                    state.when == 0 || entry.key <= state.when,
                    "an entry comes later than its timer"
                );
                zombies += u32::from(state.when == 0);
            }
            assert_eq!(
                heap.zombies.load(Ordering::Relaxed),
                zombies,
                "zombies are miscounted"
            );
            assert_eq!(
                heap.next.load(Ordering::Relaxed),
                entries.first().map_or(super::NEVER, |entry| entry.key)
            );
        }
        let armed = self
            .timers
            .iter()
            .filter(|entry| entry.plan.get().when != 0)
            .count()
            + self.limits.iter().filter_map(|limit| limit.when()).count();
        assert_eq!(
            self.heaps.iter().map(|heap| heap.armed()).sum::<usize>(),
            armed,
            "armed timers are miscounted"
        );
        for entry in &self.timers {
            let state = entry.timer.state.lock();
            assert_eq!(state.when, entry.plan.get().when);
            assert!(
                state.when == 0 || state.heap.is_some(),
                "an armed timer is in no heap"
            );
        }
    }

    fn clear(&self) {
        self.limits.iter().for_each(|limit| limit.remove());
        for entry in &self.timers {
            entry.stop();
            entry.plan.set(Plan::default());
        }
        for heap in self.heaps {
            heap.run(super::NEVER - 1, &mut WaiterList::new());
            assert!(
                heap.entries.lock().is_empty(),
                "a stopped timer is left in the heap"
            );
        }
    }
}
