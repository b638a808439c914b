//! Deadlines of a PollDesc: for each direction a time, a timer, and a sequence number that exposes
//! a stale timer.
//!
//! | field | value |
//! |---|---|
//! | `when` | 0: none; > 0: the time; < 0: passed, until another is set |
//! | `running` | the timer was armed since it was last stopped |
//! | `seq` | what the timer was armed with; changes whenever the timer's task changes |
//!
//! If both directions have the same time, the read timer serves both and the write timer is
//! stopped. Whatever begins or ends such a pairing counts as a change of both directions.
//!
//! Most connections that wait for long have no deadline. So the timers are made when a first one is
//! set, and then stay for the rest of the process, as the PollDesc does.
#![allow(
    unsafe_code,
    reason = "timers get the address of their PollDesc and are never freed"
)]

use super::{Moved, PollDesc};
use crate::os::{Mode, Nanos};
use crate::sync::{AtomicPtr, Ordering};
use crate::timer::{Fire, Heap, Timer};
use crate::waiter::WaiterList;
use alloc::boxed::Box;
use core::ptr::{self, NonNull};

/// When operations time out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// No deadline.
    None,
    /// A time in the past: operations fail at once.
    Passed,
    /// At this time, which is more than 0.
    At(Nanos),
}

pub(super) struct DeadlineState {
    when: Nanos,
    seq: u32,
    running: bool,
}

const PASSED: Nanos = -1;

/// The timers for reads and for writes. Null until a first deadline is set.
pub(super) struct Timers(AtomicPtr<[Timer; 2]>);

impl Timers {
    pub(super) fn new() -> Self {
        Timers(AtomicPtr::new(ptr::null_mut()))
    }

    pub(super) fn get(&self) -> Option<&[Timer; 2]> {
        // SAFETY: null, or what `make` has leaked. Acquire pairs with its Release.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Makes the timers of `desc`.
    #[cold]
    fn make(&self, desc: &PollDesc) -> &[Timer; 2] {
        let timer = || Timer::new(NonNull::from(desc).cast());
        let new = Box::into_raw(Box::new([timer(), timer()]));
        let none = ptr::null_mut();
        let made = self
            .0
            .compare_exchange(none, new, Ordering::AcqRel, Ordering::Acquire);
        let timers = made.map_or_else(
            |first| {
                // SAFETY: another deadline was first, so nothing else has this box.
                drop(unsafe { Box::from_raw(new) });
                first
            },
            |_| new,
        );
        // SAFETY: what this or another call has leaked.
        unsafe { &*timers }
    }
}

impl DeadlineState {
    pub(super) const fn new() -> Self {
        DeadlineState {
            when: 0,
            seq: 0,
            running: false,
        }
    }

    pub(super) fn open(&mut self) {
        self.seq = self.seq.wrapping_add(1);
        self.when = 0;
    }

    pub(super) fn when(&self) -> Option<Nanos> {
        (self.when > 0).then_some(self.when)
    }

    pub(super) fn expired(&self) -> bool {
        self.when < 0
    }

    #[cfg(test)]
    pub(super) fn seq(&self) -> u32 {
        self.seq
    }

    fn set(&mut self, deadline: Deadline) {
        self.when = match deadline {
            Deadline::None => 0,
            Deadline::Passed => PASSED,
            Deadline::At(when) => when.max(1),
        };
    }

    /// Stops the timer and makes a callback on its way stale.
    pub(super) fn abandon(&mut self, timer: &Timer) {
        self.seq = self.seq.wrapping_add(1);
        if self.running {
            timer.stop();
            self.running = false;
        }
    }

    /// Arms, moves or stops the timer after `when` may have changed. `wanted` is whether this timer
    /// should run at all. Returns the heap whose M must look again.
    fn follow(
        &mut self,
        timer: &Timer,
        heap: &'static Heap,
        fire: Fire,
        changed: bool,
        wanted: bool,
    ) -> Option<&'static Heap> {
        let wanted = wanted && self.when > 0;
        if self.running && !changed {
            return None;
        }
        if self.running {
            self.seq = self.seq.wrapping_add(1);
        }
        if wanted {
            self.running = true;
            // SAFETY: a PollDesc and its timers are never freed, `fire` may get its address on any
            // thread, and the caller holds its lock.
            return unsafe { timer.arm(heap, self.when, self.seq, fire) };
        }
        if self.running {
            timer.stop();
            self.running = false;
        }
        None
    }
}

impl PollDesc {
    /// Sets the deadline of one direction, or of both (`mode` is `None`), and adds the waiters
    /// whose deadline has passed to `woken`. Does nothing once the descriptor is closing. Timers
    /// that are in no heap go into `heap`. Returns the heaps whose Ms must look again.
    ///
    /// It calls `decide` under the lock; `None` changes nothing. If two callers decide by the same
    /// words, the second sees what the first has done.
    #[doc(alias = "pollSetDeadline")]
    pub(crate) fn set_deadline(
        &self,
        decide: &dyn Fn() -> Option<Deadline>,
        mode: Option<Mode>,
        heap: &'static Heap,
        woken: &mut WaiterList,
    ) -> Moved {
        let timers = self.timers.get();
        let [rt, wt] = timers.unwrap_or_else(|| self.timers.make(self));
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.closing {
            return [None; 2];
        }
        let Some(deadline) = decide() else {
            return [None; 2];
        };
        let before = (state.read.when, state.write.when);
        if mode != Some(Mode::Write) {
            state.read.set(deadline);
        }
        if mode != Some(Mode::Read) {
            state.write.set(deadline);
        }
        let after = (state.read.when, state.write.when);
        if after == before {
            return [None; 2];
        }
        let expired = |(read, write): (Nanos, Nanos)| (read < 0, write < 0);
        if expired(before) != expired(after) {
            self.publish(state);
        }

        let paired = |(read, write): (Nanos, Nanos)| read > 0 && read == write;
        let repaired = paired(before) != paired(after);
        let fire = if paired(after) { fire_both } else { fire_read };
        let moved_read = state
            .read
            .follow(rt, heap, fire, before.0 != after.0 || repaired, true);
        let moved_write = state.write.follow(
            wt,
            heap,
            fire_write,
            before.1 != after.1 || repaired,
            !paired(after),
        );

        if after.0 < 0 {
            woken.extend(self.slot(Mode::Read).cancel());
        }
        if after.1 < 0 {
            woken.extend(self.slot(Mode::Write).cancel());
        }
        [moved_read, moved_write]
    }

    /// Handles a deadline timer that has fired. A stale one changes nothing.
    #[doc(alias = "netpolldeadlineimpl")]
    pub(super) fn expire(&self, seq: u32, read: bool, write: bool, woken: &mut WaiterList) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let current = if read {
            state.read.seq
        } else {
            state.write.seq
        };
        if seq != current {
            return;
        }
        for (side, fired) in [(&mut state.read, read), (&mut state.write, write)] {
            if fired {
                assert!(side.when > 0, "a timer fires without a deadline");
                side.when = PASSED;
            }
        }
        self.publish(state);
        if read {
            woken.extend(self.slot(Mode::Read).cancel());
        }
        if write {
            woken.extend(self.slot(Mode::Write).cancel());
        }
    }
}

unsafe fn fire_read(desc: NonNull<()>, seq: u32, woken: &mut WaiterList) {
    // SAFETY: the argument of a PollDesc's timers is that PollDesc.
    unsafe { desc.cast::<PollDesc>().as_ref() }.expire(seq, true, false, woken);
}

unsafe fn fire_write(desc: NonNull<()>, seq: u32, woken: &mut WaiterList) {
    // SAFETY: as in `fire_read`.
    unsafe { desc.cast::<PollDesc>().as_ref() }.expire(seq, false, true, woken);
}

unsafe fn fire_both(desc: NonNull<()>, seq: u32, woken: &mut WaiterList) {
    // SAFETY: as in `fire_read`.
    unsafe { desc.cast::<PollDesc>().as_ref() }.expire(seq, true, true, woken);
}
