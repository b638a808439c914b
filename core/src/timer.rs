//! Timers: a 4-ary heap for each P, moved and stopped lazily.
//!
//! Goal: a deadline that is pushed back again and again and never fires must cost little, since
//! that is the common timer. The rule: moving a timer *later*, or stopping it, writes only the
//! timer. Its entry stays in the heap under the old key. When that key is due, the owner looks at
//! the timer and removes the entry (stopped), re-keys it (moved), or fires it. Moving a timer
//! *earlier* cannot wait for the old key, so it takes the heap's lock and sifts the entry up.
//!
//! | `when` | `heap` | the timer is |
//! |---|---|---|
//! | 0 | none | off |
//! | t | some | armed; its key is <= t, or > t while `arm` moves it earlier |
//! | 0 | some | a zombie: stopped, with its entry still in the heap |
//! | t | none | being armed |
//!
//! The race: the heap's owner fires a timer while the timer's user moves or stops it. The user
//! calls `arm` and `stop` under a lock of its own (a poll descriptor's), and the owner calls
//! callbacks without any lock. So between the two the timer may be moved, or its object closed and
//! reused. The callback gets the sequence number that the timer was armed with, and ignores a stale
//! one.
//!
//! Lock order: heap, then timer.
#![allow(
    unsafe_code,
    reason = "entries and callbacks refer to timers by address"
)]

use crate::choice::{Choice, Outcome};
use crate::counter::UnmodeledCount;
use crate::must::Must;
use crate::os::Nanos;
use crate::sync::{AtomicI64, AtomicU32, Lock, Ordering, while_unparkable};
use crate::waiter::WaiterList;
use alloc::vec::Vec;
use core::ptr::NonNull;

/// The key of an empty heap: later than every timer.
pub(crate) const NEVER: Nanos = Nanos::MAX;

/// The latest time of a timer, 292 years after the clock's zero. A timer armed for later gets this
/// time, so that its heap does not look empty.
const LATEST: Nanos = NEVER - 1;

/// The callback of a timer. It gets the argument that the timer was made with and the sequence
/// number that it was armed with, and adds the waiters that it wakes to the list. It runs on a
/// scheduler's stack without locks, and must not park.
pub(crate) type Fire = unsafe fn(arg: NonNull<()>, seq: u32, woken: &mut WaiterList);

/// What a timer does when it is due.
#[derive(Clone, Copy)]
enum Action {
    /// Calls this, without locks.
    Call(Fire),
    /// Decides the [`Choice`] that the argument refers to, under the heap's lock.
    Expire,
}

/// A timer. It must stay in place while it is armed or a zombie.
pub(crate) struct Timer {
    state: Lock<State>,
    /// The index of the entry. Owned by the holder of the heap's lock.
    index: AtomicU32,
    arg: NonNull<()>,
}

struct State {
    when: Nanos,
    seq: u32,
    action: Action,
    heap: Option<&'static Heap>,
    /// The key of the entry. A writer also holds the heap's lock.
    key: Nanos,
}

// SAFETY: the argument is an address; `arm`'s caller promises that callbacks may use it from any
// thread.
unsafe impl Send for Timer {}
// SAFETY: as above. The lock protects everything else.
unsafe impl Sync for Timer {}

impl Timer {
    /// A timer that is off.
    pub(crate) fn new(arg: NonNull<()>) -> Self {
        unsafe fn nothing(_: NonNull<()>, _: u32, _: &mut WaiterList) {}
        let off = State {
            when: 0,
            seq: 0,
            action: Action::Call(nothing),
            heap: None,
            key: 0,
        };
        Timer {
            state: Lock::new(off),
            index: AtomicU32::new(0),
            arg,
        }
    }

    /// Arms or moves the timer to expire at `when` (more than 0; later than [`LATEST`] counts as
    /// that). A timer that is off goes into `heap`; others stay in theirs. Returns the heap if this
    /// is now its earliest timer: the M that sleeps for that heap must look again.
    ///
    /// # Safety
    ///
    /// - The timer stays in place until it has fired, or for the rest of the process if it is ever
    ///   stopped.
    /// - `fire(arg, seq, …)` is sound on any thread until then.
    /// - Calls of `arm` and `stop` for one timer do not overlap.
    #[must_use = "the M that sleeps for this heap must look again"]
    pub(crate) unsafe fn arm(
        &self,
        heap: &'static Heap,
        when: Nanos,
        seq: u32,
        fire: Fire,
    ) -> Option<&'static Heap> {
        self.arm_action(heap, when, seq, Action::Call(fire))
    }

    /// Arms a timer that is off and was made with the address of a [`Choice`]. At `when` (more than
    /// 0) the choice is decided as expired. Returns what [`arm`](Self::arm) returns.
    ///
    /// # Safety
    ///
    /// Timer and choice stay in place until [`Heap::remove`] has returned, or until the choice has
    /// expired and the heap was unlocked after it.
    #[must_use = "the M that sleeps for this heap must look again"]
    pub(crate) unsafe fn arm_expiry(
        &self,
        heap: &'static Heap,
        when: Nanos,
    ) -> Option<&'static Heap> {
        self.arm_action(heap, when, 0, Action::Expire)
    }

    fn arm_action(
        &self,
        heap: &'static Heap,
        when: Nanos,
        seq: u32,
        action: Action,
    ) -> Option<&'static Heap> {
        debug_assert!(when > 0);
        let when = when.min(LATEST);
        let mut state = self.state.lock();
        let was_zombie = state.when == 0;
        state.when = when;
        state.seq = seq;
        state.action = action;
        let Some(home) = state.heap else {
            drop(state);
            return heap.insert(self).then_some(heap);
        };
        if was_zombie {
            home.zombies.fetch_sub(1, Ordering::Relaxed);
        }
        if when >= state.key {
            return None;
        }
        drop(state);
        home.pull_forward(self).then_some(home)
    }

    /// Stops the timer. A callback already on its way still runs, with the sequence number that it
    /// had.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        if state.when != 0 {
            state.when = 0;
            if let Some(heap) = state.heap {
                heap.zombies.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Children of a node. Four entries are one cache line long: fewer levels than a binary heap for
/// the same misses.
const ARITY: usize = 4;

/// How many timers fire between two acquisitions of the heap's lock. Two under loom, so that there
/// is a second one.
const FIRE_BATCH: usize = if cfg!(loom) { 2 } else { 32 };

/// The timers of one P.
pub(crate) struct Heap {
    /// The number of the P that runs these timers.
    owner: usize,
    entries: Lock<Vec<Entry>>,
    /// The earliest key, or `NEVER`; readable without the lock. Written by the lock's holder.
    next: AtomicI64,
    /// How many entries are zombies. Approximate while timers fire.
    zombies: AtomicU32,
    /// How many timers have fired. Written by the lock's holder.
    fired: UnmodeledCount,
}

#[derive(Clone, Copy)]
struct Entry {
    /// A copy of the timer's key, so that sifting compares without touching timers.
    key: Nanos,
    timer: NonNull<Timer>,
}

// SAFETY: timers are Sync, and stay in place while an entry refers to them.
unsafe impl Send for Entry {}

impl Entry {
    fn timer(&self) -> &Timer {
        // SAFETY: `arm`'s contract keeps the timer in place while it has an entry.
        unsafe { self.timer.as_ref() }
    }
}

impl Heap {
    /// An empty heap that P number `owner` runs.
    pub(crate) fn new(owner: usize) -> Self {
        Heap {
            owner,
            entries: Lock::new(Vec::new()),
            next: AtomicI64::new(NEVER),
            zombies: AtomicU32::new(0),
            fired: UnmodeledCount::new(0),
        }
    }

    /// The number of the P that runs these timers.
    pub(crate) fn owner(&self) -> usize {
        self.owner
    }

    /// When the owner must look again: at the earliest timer or before it. `None` without timers.
    #[inline]
    pub(crate) fn next(&self) -> Option<Nanos> {
        let next = self.next.load(Ordering::Acquire);
        (next != NEVER).then_some(next)
    }

    /// How many timers will fire. Approximate while some do.
    pub(crate) fn armed(&self) -> usize {
        let entries = self.entries.lock();
        entries
            .len()
            .saturating_sub(self.zombies.load(Ordering::Relaxed) as usize)
    }

    /// How many timers have fired.
    pub(crate) fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }

    /// How many entries the heap has, zombies included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry for the timer. True if it is now the earliest.
    fn insert(&'static self, timer: &Timer) -> bool {
        let mut entries = self.entries.lock();
        if self.zombies.load(Ordering::Relaxed) as usize * 4 > entries.len() + 4 {
            self.compact(&mut entries);
        }
        let index = entries.len();
        if index == entries.capacity() {
            while_unparkable(|| entries.reserve(1));
        }
        let key = {
            let mut state = timer.state.lock();
            state.heap = Some(self);
            state.key = state.when;
            state.key
        };
        entries.push(Entry {
            key,
            timer: NonNull::from(timer),
        });
        sift_up(&mut entries, index);
        self.publish(&entries)
    }

    /// Re-keys a timer that was moved earlier. True if it is now the earliest.
    fn pull_forward(&'static self, timer: &Timer) -> bool {
        let mut entries = self.entries.lock();
        let index = {
            let mut state = timer.state.lock();
            // The old key was due in between, and the owner has seen the new time: the entry is
            // gone or re-keyed.
            if state.heap.is_none() || state.when >= state.key {
                return false;
            }
            state.key = state.when;
            let index = timer.index.load(Ordering::Relaxed) as usize;
            at(&mut entries, index).key = state.when;
            index
        };
        sift_up(&mut entries, index);
        self.publish(&entries)
    }

    /// Publishes the earliest key. True if it moved earlier.
    fn publish(&self, entries: &[Entry]) -> bool {
        let next = entries.first().map_or(NEVER, |entry| entry.key);
        // Only a holder of the lock of `entries` writes `next`.
        let before = self.next.load(Ordering::Relaxed);
        if next != before {
            self.next.store(next, Ordering::Release);
        }
        next < before
    }

    /// Takes a timer that was never [stopped](Timer::stop) out of the heap at once, if it is there.
    /// Returns whether it was: then it will not fire.
    ///
    /// Afterwards the heap does not refer to the timer. If it was armed by [`Timer::arm_expiry`],
    /// its choice is not used any more: that happens only under the lock that this function takes.
    /// A callback may still be on its way if this returns false.
    pub(crate) fn remove(&'static self, timer: &Timer) -> bool {
        let mut entries = self.entries.lock();
        {
            let mut state = timer.state.lock();
            if state.heap.is_none() {
                return false;
            }
            (state.heap, state.when) = (None, 0);
        }
        let index = timer.index.load(Ordering::Relaxed) as usize;
        let last = entries.pop().must("a timer was in an empty heap");
        if index < entries.len() {
            *at(&mut entries, index) = last;
            sift_down(&mut entries, index);
            sift_up(&mut entries, index);
        }
        self.publish(&entries);
        true
    }

    /// Returns when no thread is in the critical section that it was in before the call. A timer
    /// that has decided its choice is not used any more.
    pub(crate) fn wait_for_owner(&self) {
        drop(self.entries.lock());
    }

    /// Fires all timers due at `now`.
    pub(crate) fn run(&'static self, now: Nanos, woken: &mut WaiterList) {
        loop {
            let mut due = heapless::Vec::<(Fire, NonNull<()>, u32), FIRE_BATCH>::new();
            let fired = self.collect(now, &mut due, woken);
            for &(fire, arg, seq) in &due {
                // SAFETY: `arm`'s contract. This timer was armed with these, and fires only now.
                unsafe { fire(arg, seq, woken) };
            }
            if fired < FIRE_BATCH {
                return;
            }
        }
    }

    /// Removes at most [`FIRE_BATCH`] due timers from the heap. Expires the choices of some, and
    /// adds the callbacks of the others to `due`. Returns how many there were.
    fn collect(
        &'static self,
        now: Nanos,
        due: &mut heapless::Vec<(Fire, NonNull<()>, u32), FIRE_BATCH>,
        woken: &mut WaiterList,
    ) -> usize {
        let mut fired = 0;
        let mut entries = self.entries.lock();
        while let Some(&Entry { key, timer }) = entries.first() {
            if key > now || fired == FIRE_BATCH {
                break;
            }
            // SAFETY: as in `Entry::timer`; the lock of the entries is held.
            let timer = unsafe { timer.as_ref() };
            let mut state = timer.state.lock();
            if state.when > now {
                // The timer was moved later: re-key its entry.
                let key = state.when;
                state.key = key;
                drop(state);
                at(&mut entries, 0).key = key;
                sift_down(&mut entries, 0);
                continue;
            }
            let action = state.action;
            if state.when == 0 {
                self.zombies.fetch_sub(1, Ordering::Relaxed);
            } else {
                fired += 1;
                state.when = 0;
                if let Action::Call(fire) = action {
                    due.push((fire, timer.arg, state.seq))
                        .ok()
                        .must("a batch of due timers is full before its limit");
                }
            }
            state.heap = None;
            // From here a timer with a callback may be armed again elsewhere. One on a waiter's
            // stack stays until the waiter has called `remove`, which waits for this lock.
            drop(state);
            if let Action::Expire = action {
                // SAFETY: `arm_expiry`'s contract keeps the choice until `remove`.
                let choice = unsafe { timer.arg.cast::<Choice>().as_ref() };
                woken.extend(choice.decide(Outcome::Expired).flatten());
            }
            remove_first(&mut entries);
        }
        self.fired
            .store(self.fired() + fired as u64, Ordering::Relaxed);
        self.publish(&entries);
        fired
    }

    /// Removes all zombies.
    fn compact(&self, entries: &mut Vec<Entry>) {
        entries.retain(|entry| {
            let mut state = entry.timer().state.lock();
            if state.when == 0 {
                state.heap = None;
                self.zombies.fetch_sub(1, Ordering::Relaxed);
            }
            state.when != 0
        });
        for index in 0..entries.len() {
            let entry = *at(entries, index);
            place(entries, index, entry);
        }
        for index in (0..entries.len().div_ceil(ARITY)).rev() {
            sift_down(entries, index);
        }
    }
}

/// Keeps the bounds check, and its panic, in one place.
#[inline]
fn at(entries: &mut [Entry], index: usize) -> &mut Entry {
    &mut entries[index]
}

fn place(entries: &mut [Entry], index: usize, entry: Entry) {
    *at(entries, index) = entry;
    entry.timer().index.store(index as u32, Ordering::Relaxed);
}

fn remove_first(entries: &mut Vec<Entry>) {
    let last = entries.pop().must("an empty timer heap had a first entry");
    if !entries.is_empty() {
        *at(entries, 0) = last;
        sift_down(entries, 0);
    }
}

fn sift_up(entries: &mut [Entry], mut index: usize) {
    let entry = *at(entries, index);
    while index > 0 {
        let parent = (index - 1) / ARITY;
        let above = *at(entries, parent);
        if above.key <= entry.key {
            break;
        }
        place(entries, index, above);
        index = parent;
    }
    place(entries, index, entry);
}

fn sift_down(entries: &mut [Entry], mut index: usize) {
    let entry = *at(entries, index);
    loop {
        let first = index * ARITY + 1;
        let children = first..(first + ARITY).min(entries.len());
        let Some(least) = children.min_by_key(|&child| at(entries, child).key) else {
            break;
        };
        let below = *at(entries, least);
        if below.key >= entry.key {
            break;
        }
        place(entries, index, below);
        index = least;
    }
    place(entries, index, entry);
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/timer.rs"]
pub(crate) mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/timer.rs"]
mod models;

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::sync::Mutex;
    use std::vec::Vec as StdVec;

    struct Log {
        timer: Timer,
        name: usize,
        fired: Mutex<StdVec<u32>>,
    }

    unsafe fn log(arg: NonNull<()>, seq: u32, _: &mut WaiterList) {
        // SAFETY: `arg` is a leaked `Log`.
        unsafe { arg.cast::<Log>().as_ref() }
            .fired
            .lock()
            .unwrap()
            .push(seq);
    }

    fn timers(count: usize) -> (&'static Heap, StdVec<&'static Log>) {
        let heap = Box::leak(Box::new(Heap::new(0)));
        let make = |name| {
            let log = Box::into_raw(Box::new(Log {
                timer: Timer::new(NonNull::dangling()),
                name,
                fired: Mutex::default(),
            }));
            // SAFETY: the log was just allocated, and is leaked.
            unsafe {
                (*log).timer.arg = NonNull::new_unchecked(log).cast();
                &*log
            }
        };
        (heap, (0..count).map(make).collect())
    }

    fn arm(log: &Log, heap: &'static Heap, when: Nanos, seq: u32) -> bool {
        // SAFETY: the timer is leaked, and one thread uses it.
        unsafe { log.timer.arm(heap, when, seq, super::tests::log) }.is_some()
    }

    fn run(heap: &'static Heap, now: Nanos) {
        heap.run(now, &mut WaiterList::new());
    }

    fn fired(log: &Log) -> StdVec<u32> {
        log.fired.lock().unwrap().clone()
    }

    #[test]
    fn timers_fire_when_due_and_once() {
        let (heap, all) = timers(1000);
        for (i, log) in all.iter().enumerate() {
            arm(log, heap, 1 + (i as Nanos * 7919) % 1000, i as u32);
        }
        for now in [0, 1, 500, 999, 1000, 2000] {
            run(heap, now);
            for (i, log) in all.iter().enumerate() {
                let due = (i as Nanos * 7919) % 1000 < now;
                assert_eq!(
                    fired(log).len(),
                    usize::from(due),
                    "timer {} at {now}",
                    log.name
                );
            }
        }
        assert!(heap.is_empty() && heap.next().is_none());
    }

    #[test]
    fn a_timer_for_the_end_of_time_is_a_timer() {
        let (heap, all) = timers(2);
        assert!(arm(all[0], heap, Nanos::MAX, 0));
        assert_eq!((heap.next(), heap.armed()), (Some(LATEST), 1));
        assert!(arm(all[1], heap, 10, 0));
        run(heap, 10);
        assert_eq!((heap.next(), heap.armed()), (Some(LATEST), 1));
        assert!(
            arm(all[0], heap, 20, 0) && !arm(all[0], heap, Nanos::MAX, 0),
            "it moves there and back"
        );
        run(heap, 20);
        assert_eq!((heap.next(), fired(all[0]).len()), (Some(LATEST), 0));
    }

    #[test]
    fn armed_and_fired_timers_are_counted() {
        let (heap, all) = timers(100);
        all.iter()
            .zip(1..)
            .for_each(|(log, when)| _ = arm(log, heap, when, 0));
        assert_eq!((heap.armed(), heap.fired()), (100, 0));
        all[90..].iter().for_each(|log| log.timer.stop());
        assert_eq!((heap.armed(), heap.fired()), (90, 0));
        arm(all[0], heap, 200, 1);
        run(heap, 50);
        assert_eq!((heap.armed(), heap.fired()), (41, 49));
        run(heap, 200);
        assert_eq!((heap.armed(), heap.fired()), (0, 90));
    }

    #[test]
    fn moving_a_timer_later_leaves_the_heap_alone_until_the_old_key() {
        let (heap, all) = timers(1);
        assert!(arm(all[0], heap, 10, 1));
        assert!(!arm(all[0], heap, 50, 2));
        assert_eq!(heap.next(), Some(10));
        run(heap, 10);
        assert!(fired(all[0]).is_empty());
        assert_eq!(heap.next(), Some(50));
        run(heap, 50);
        assert_eq!(fired(all[0]), [2]);
    }

    #[test]
    fn moving_a_timer_earlier_takes_effect_at_once_and_asks_for_a_look() {
        let (heap, all) = timers(3);
        assert!(arm(all[0], heap, 100, 0));
        assert!(!arm(all[1], heap, 200, 0));
        assert!(!arm(all[2], heap, 300, 0));
        assert!(arm(all[2], heap, 20, 1));
        assert_eq!(heap.next(), Some(20));
        run(heap, 20);
        assert_eq!(fired(all[2]), [1]);
        assert!(!arm(all[1], heap, 150, 1), "the earliest is still at 100");
    }

    #[test]
    fn a_stopped_timer_does_not_fire_and_can_be_armed_again() {
        let (heap, all) = timers(1);
        arm(all[0], heap, 10, 1);
        all[0].timer.stop();
        run(heap, 10);
        assert!(fired(all[0]).is_empty() && heap.is_empty());
        arm(all[0], heap, 20, 2);
        all[0].timer.stop();
        arm(all[0], heap, 30, 3);
        run(heap, 30);
        assert_eq!(fired(all[0]), [3]);
    }

    #[test]
    fn zombies_are_removed_before_they_fill_the_heap() {
        let (heap, all) = timers(10_000);
        for (i, log) in all.iter().enumerate() {
            arm(log, heap, 1_000 + i as Nanos, 0);
            log.timer.stop();
        }
        assert!(
            heap.len() < 100,
            "{} entries for no armed timer",
            heap.len()
        );
    }

    /// Compares the heap with a sorted list over random arms, moves, stops and runs.
    #[test]
    fn it_agrees_with_a_sorted_list() {
        let (heap, all) = timers(64);
        let mut model = StdVec::from_iter(all.iter().map(|_| 0));
        let mut expected = StdVec::from_iter(all.iter().map(|_| StdVec::new()));
        let (mut now, mut random) = (1, fastrand::Rng::with_seed(1));
        for step in 0..200_000 {
            let i = random.usize(..64);
            match random.u8(..8) {
                0 => {
                    all[i].timer.stop();
                    model[i] = 0;
                }
                1 => {
                    now += random.i64(0..64);
                    run(heap, now);
                    for (when, expected) in model.iter_mut().zip(&mut expected) {
                        if *when != 0 && *when <= now {
                            expected.push(*when as u32);
                            *when = 0;
                        }
                    }
                }
                _ => {
                    model[i] = now + random.i64(1..=256);
                    arm(all[i], heap, model[i], model[i] as u32);
                }
            }
            if let Some(earliest) = model.iter().filter(|&&when| when != 0).min() {
                assert!(
                    heap.next().is_some_and(|next| next <= *earliest),
                    "step {step}: the heap would miss the timer at {earliest}"
                );
            }
        }
        for (log, expected) in all.iter().zip(&expected) {
            assert_eq!(&fired(log), expected, "timer {}", log.name);
        }
    }
}
