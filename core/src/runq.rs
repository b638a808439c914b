//! Queues of runnable goroutines.
//!
//! | queue | pushed by | taken by | holds |
//! |---|---|---|---|
//! | [`Ring`] | the owner P | the owner; thieves, half at once | goroutines that may run anywhere |
//! | [`Global`] | any thread | any M | spawns by threads, overflow of rings |
//! | [`GList`] | its owner | its owner | the goroutines at home on one M; those in `Global` |
//! | [`Inbox`] | any thread | the owner M, all at once | its own goroutines, woken elsewhere |
#![allow(
    unsafe_code,
    reason = "queues keep the address of a G in place of its GRef"
)]

use crate::g::{G, GRef};
use crate::must::Must;
use crate::sync::{AtomicPtr, AtomicU32, AtomicUsize, CachePadded, Lock, Ordering};
use core::ptr::{self, NonNull};

/// A FIFO list of goroutines, linked through the goroutines themselves.
#[derive(Default)]
pub(crate) struct GList {
    head: Option<NonNull<G>>,
    tail: Option<NonNull<G>>,
    len: usize,
}

// SAFETY: the list owns the GRefs of its elements, which are Send.
unsafe impl Send for GList {}

impl GList {
    pub(crate) const fn new() -> Self {
        GList {
            head: None,
            tail: None,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn push_back(&mut self, g: GRef) {
        let g = g.into_raw();
        // SAFETY: the list and the caller own the GRefs of the elements touched here.
        unsafe { g.as_ref() }.link.store(0, Ordering::Relaxed);
        match self.tail {
            None => self.head = Some(g),
            // SAFETY: as above.
            Some(tail) => unsafe { tail.as_ref() }
                .link
                .store(g.as_ptr() as usize, Ordering::Relaxed),
        }
        self.tail = Some(g);
        self.len += 1;
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<GRef> {
        let g = self.head?;
        // SAFETY: the list owns the GRef of its head.
        let next = unsafe { g.as_ref() }.link.load(Ordering::Relaxed);
        self.head = NonNull::new(next as *mut G);
        if self.head.is_none() {
            self.tail = None;
        }
        self.len -= 1;
        // SAFETY: the element leaves the list.
        Some(unsafe { GRef::from_raw(g) })
    }
}

/// The queue that all Ps share: spawns and wake-ups from ordinary threads, and goroutines that did
/// not fit into a ring.
pub(crate) struct Global {
    list: Lock<GList>,
    /// The length of the list, readable without the lock. Written by the lock's holder.
    len: AtomicUsize,
}

impl Global {
    pub(crate) fn new() -> Self {
        Global {
            list: Lock::new(GList::new()),
            len: AtomicUsize::new(0),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn push(&self, g: GRef) {
        let mut list = self.list.lock();
        list.push_back(g);
        self.len.store(list.len(), Ordering::Relaxed);
    }

    /// Takes a fair share for one of `procs` Ps. Returns the first goroutine, to run. The rest, up
    /// to half a ring, goes into `ring`, from which other Ps may steal it.
    #[doc(alias = "globrunqgetbatch")]
    pub(crate) fn take(&self, ring: &Ring, procs: usize) -> Option<GRef> {
        if self.is_empty() {
            return None;
        }
        let mut list = self.list.lock();
        let first = list.pop_front();
        let share = (list.len() / procs)
            .min(CAPACITY as usize / 2)
            .min(ring.room());
        for _ in 0..share {
            let Some(g) = list.pop_front() else { break };
            ring.push(g)
                .ok()
                .must("a run queue is full although its owner saw room");
        }
        self.len.store(list.len(), Ordering::Relaxed);
        first
    }

    /// Takes all goroutines, in order.
    pub(crate) fn take_all(&self) -> GList {
        let mut list = self.list.lock();
        self.len.store(0, Ordering::Relaxed);
        core::mem::take(&mut list)
    }

    pub(crate) fn extend(&self, batch: impl Iterator<Item = GRef>) {
        let mut list = self.list.lock();
        for g in batch {
            list.push_back(g);
        }
        self.len.store(list.len(), Ordering::Relaxed);
    }
}

/// How many goroutines a ring holds. Go's number: bursts fit, and spilling half of it is worth a
/// lock of the global queue. Under loom so few that the indices wrap.
const CAPACITY: u32 = if cfg!(loom) { 4 } else { 256 };

/// A P's queue of goroutines that may run anywhere: a ring and, before it, one slot for the
/// goroutine just readied.
///
/// The owner pushes at `tail`. The owner and thieves take from `head` by compare-and-swap. Both
/// indices wrap; `tail - head <= CAPACITY`.
///
/// The race: a thief reads a slot while the owner reuses it. The owner writes a slot before it
/// releases the `tail` that covers it. A thief reads the slot before the compare-and-swap of `head`
/// that frees it. If that fails, the thief may have read a newer goroutine and discards what it
/// read.
pub(crate) struct Ring {
    head: CachePadded<AtomicU32>,
    tail: AtomicU32,
    /// The goroutine to run before those in the ring: one that the running goroutine has readied,
    /// or that another M has offered. Thieves take it last.
    next: AtomicPtr<G>,
    slots: [AtomicPtr<G>; CAPACITY as usize],
}

impl Ring {
    pub(crate) fn new() -> Self {
        Ring {
            head: CachePadded::new(AtomicU32::new(0)),
            tail: AtomicU32::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            slots: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        }
    }

    fn slot(&self, index: u32) -> &AtomicPtr<G> {
        &self.slots[(index % CAPACITY) as usize]
    }

    /// The number of free slots. Called by the owner: thieves can only add to it.
    fn room(&self) -> usize {
        let used = self
            .tail
            .load(Ordering::Relaxed)
            .wrapping_sub(self.head.load(Ordering::Acquire));
        (CAPACITY - used) as usize
    }

    /// Whether the queue was empty at some instant during the call.
    #[doc(alias = "runqempty")]
    pub(crate) fn is_empty(&self) -> bool {
        loop {
            let head = self.head.load(Ordering::Acquire);
            let tail = self.tail.load(Ordering::Acquire);
            let next = self.next.load(Ordering::Acquire);
            // The owner pushes a displaced `next` into the ring, which moves `tail`.
            if tail == self.tail.load(Ordering::Acquire) {
                return head == tail && next.is_null();
            }
        }
    }

    /// Whether the ring holds goroutines besides `next`.
    pub(crate) fn has_queued(&self) -> bool {
        self.head.load(Ordering::Acquire) != self.tail.load(Ordering::Acquire)
    }

    /// Makes a goroutine the next one, unless there is one. Any thread may call it.
    pub(crate) fn offer(&self, g: GRef) -> Result<(), GRef> {
        let g = g.into_raw();
        // Release pairs with the swap in `take_next`: the M that takes it sees what its spawner
        // wrote.
        let offered = self.next.compare_exchange(
            ptr::null_mut(),
            g.as_ptr(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        // SAFETY: the exchange failed, so the caller's GRef is the only one.
        offered
            .map(|_| ())
            .map_err(|_| unsafe { GRef::from_raw(g) })
    }

    /// How many goroutines there are, `next` included. Approximate while other threads push or
    /// take.
    pub(crate) fn len(&self) -> usize {
        let head = self.head.load(Ordering::Acquire);
        let queued = self
            .tail
            .load(Ordering::Acquire)
            .wrapping_sub(head)
            .min(CAPACITY);
        queued as usize + usize::from(!self.next.load(Ordering::Relaxed).is_null())
    }

    /// Appends a goroutine; gives it back if the ring is full. Owner only.
    #[inline]
    pub(crate) fn push(&self, g: GRef) -> Result<(), GRef> {
        // Acquire pairs with the Release of a thief's compare-and-swap: the thief has read the
        // slot.
        let head = self.head.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Relaxed);
        if tail.wrapping_sub(head) >= CAPACITY {
            return Err(g);
        }
        self.slot(tail)
            .store(g.into_raw().as_ptr(), Ordering::Relaxed);
        // Release publishes the slot, and the G that it names, to thieves.
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Makes a goroutine the next one and returns the one that it displaces. Owner only.
    #[inline]
    pub(crate) fn swap_next(&self, g: GRef) -> Option<GRef> {
        let before = self.next.swap(g.into_raw().as_ptr(), Ordering::AcqRel);
        // SAFETY: the swap took the pointer out.
        NonNull::new(before).map(|g| unsafe { GRef::from_raw(g) })
    }

    /// Takes the next goroutine. Any thread may call it.
    #[inline]
    pub(crate) fn take_next(&self) -> Option<GRef> {
        if self.next.load(Ordering::Relaxed).is_null() {
            return None;
        }
        let g = self.next.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: the swap took the pointer out.
        NonNull::new(g).map(|g| unsafe { GRef::from_raw(g) })
    }

    /// Takes the oldest goroutine of the ring. Owner only.
    #[inline]
    pub(crate) fn pop(&self) -> Option<GRef> {
        loop {
            let head = self.head.load(Ordering::Acquire);
            if head == self.tail.load(Ordering::Relaxed) {
                return None;
            }
            let g = self.slot(head).load(Ordering::Relaxed);
            if self
                .head
                .compare_exchange_weak(
                    head,
                    head.wrapping_add(1),
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok()
            {
                // SAFETY: the exchange took the element out of the ring.
                return Some(unsafe { GRef::from_raw(NonNull::new_unchecked(g)) });
            }
        }
    }

    /// Takes the oldest goroutine of the ring, or `next` if the ring is empty. Any thread may call
    /// it.
    pub(crate) fn steal_one(&self) -> Option<GRef> {
        loop {
            let head = self.head.load(Ordering::Acquire);
            // Acquire pairs with the Release in `push`: the slot is written.
            if head == self.tail.load(Ordering::Acquire) {
                return self.take_next();
            }
            let g = self.slot(head).load(Ordering::Relaxed);
            if self
                .head
                .compare_exchange(
                    head,
                    head.wrapping_add(1),
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok()
            {
                // SAFETY: the exchange took the element out of the ring.
                return Some(unsafe { GRef::from_raw(NonNull::new_unchecked(g)) });
            }
        }
    }

    /// Moves the older half of a full ring, and then `last`, to `global`. Owner only.
    #[doc(alias = "runqputslow")]
    pub(crate) fn spill(&self, global: &Global, last: GRef) {
        let half = (0..CAPACITY / 2).map_while(|_| self.pop());
        global.extend(half.chain([last]));
    }

    /// Moves half of `victim`'s ring here, rounded up, and returns one of them to run. With
    /// `next_too`, takes `victim`'s `next` if its ring is empty. Only the owner of `self` calls it,
    /// and the ring of `self` is empty.
    #[doc(alias = "runqsteal")]
    pub(crate) fn steal(&self, victim: &Ring, next_too: bool) -> Option<GRef> {
        loop {
            // Acquire on both: slots up to `tail` are written, and `tail` is not older than `head`,
            // which would make the count absurd.
            let head = victim.head.load(Ordering::Acquire);
            let tail = victim.tail.load(Ordering::Acquire);
            let count = tail.wrapping_sub(head);
            let take = count - count / 2;
            if take == 0 {
                return if next_too { victim.take_next() } else { None };
            }
            if take > CAPACITY / 2 {
                // `head` moved between the two loads.
                continue;
            }
            let to = self.tail.load(Ordering::Relaxed);
            for i in 0..take {
                let g = victim.slot(head.wrapping_add(i)).load(Ordering::Relaxed);
                self.slot(to.wrapping_add(i)).store(g, Ordering::Relaxed);
            }
            // AcqRel. Release: the slots are read before the owner reuses them. Acquire: the Gs
            // that they name now belong to this P.
            if victim
                .head
                .compare_exchange(
                    head,
                    head.wrapping_add(take),
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok()
            {
                let first = self.slot(to.wrapping_add(take - 1)).load(Ordering::Relaxed);
                self.tail
                    .store(to.wrapping_add(take - 1), Ordering::Release);
                // SAFETY: the exchange made the elements this P's, and `tail` does not cover this
                // one.
                return Some(unsafe { GRef::from_raw(NonNull::new_unchecked(first)) });
            }
        }
    }
}

/// Wake-ups from other threads for one M: a stack on which any thread pushes, and which the M
/// empties.
pub(crate) struct Inbox(AtomicPtr<G>);

impl Inbox {
    pub(crate) fn new() -> Self {
        Inbox(AtomicPtr::new(ptr::null_mut()))
    }

    /// Adds a goroutine. True if it is the first: the caller must wake the M. The M finds later
    /// ones with it.
    #[must_use]
    pub(crate) fn push(&self, g: GRef) -> bool {
        let g = g.into_raw();
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: this function owns the GRef.
            unsafe { g.as_ref() }
                .link
                .store(head as usize, Ordering::Relaxed);
            // Release pairs with the swap in `drain`: the M sees the link and what the waker wrote.
            // There is no ABA problem, because elements leave all at once.
            match self.0.compare_exchange_weak(
                head,
                g.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return head.is_null(),
                Err(now) => head = now,
            }
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed).is_null()
    }

    /// Moves all goroutines, oldest first, to the end of `list`. Owner only.
    pub(crate) fn drain(&self, list: &mut GList) {
        let mut newest_first = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        let mut oldest_first: *mut G = ptr::null_mut();
        while let Some(g) = NonNull::new(newest_first) {
            // SAFETY: the swap took the whole chain.
            let link = &unsafe { g.as_ref() }.link;
            newest_first = link.load(Ordering::Relaxed) as *mut G;
            link.store(oldest_first as usize, Ordering::Relaxed);
            oldest_first = g.as_ptr();
        }
        while let Some(g) = NonNull::new(oldest_first) {
            // SAFETY: as above. `push_back` overwrites the link, which was read before.
            oldest_first = unsafe { g.as_ref() }.link.load(Ordering::Relaxed) as *mut G;
            // SAFETY: each element is handed over once.
            list.push_back(unsafe { GRef::from_raw(g) });
        }
    }
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/runq.rs"]
pub(crate) mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/runq.rs"]
mod models;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g::idle::goroutine;
    use std::sync::atomic::{AtomicBool, AtomicU8};
    use std::thread;
    use std::vec::Vec;

    fn fill(ring: &Ring, ids: core::ops::Range<u64>) {
        for id in ids {
            assert!(ring.push(goroutine(id)).is_ok());
        }
    }

    fn ids(mut next: impl FnMut() -> Option<GRef>) -> Vec<u64> {
        core::iter::from_fn(|| next().map(|g| g.id())).collect()
    }

    #[test]
    fn a_ring_is_first_in_first_out_over_many_turns() {
        let ring = Ring::new();
        for turn in 0..10 {
            fill(&ring, turn * 100..turn * 100 + 100);
            assert_eq!(
                ids(|| ring.pop()),
                Vec::from_iter(turn * 100..turn * 100 + 100)
            );
        }
        assert!(ring.is_empty());
    }

    #[test]
    fn other_threads_see_how_long_a_ring_is() {
        let ring = Ring::new();
        assert_eq!(ring.len(), 0);
        fill(&ring, 0..200);
        assert!(ring.swap_next(goroutine(200)).is_none());
        assert_eq!(ring.len(), 201);
        assert_eq!(ids(|| ring.pop()).len(), 200);
        assert_eq!(ring.len(), 1);
        fill(&ring, 0..200);
        assert_eq!(ring.len(), 201, "its ends have passed the end of the slots");
    }

    #[test]
    fn a_full_ring_gives_its_older_half_to_the_global_queue() {
        let (ring, global) = (Ring::new(), Global::new());
        fill(&ring, 0..256);
        let Err(last) = ring.push(goroutine(256)) else {
            panic!("the ring is full")
        };
        ring.spill(&global, last);
        assert_eq!(ids(|| ring.pop()), Vec::from_iter(128..256));
        let mut spilled = Vec::new();
        while let Some(g) = global.take(&ring, 1) {
            spilled.push(g.id());
            spilled.extend(ids(|| ring.pop()));
        }
        assert_eq!(spilled, Vec::from_iter((0..128).chain([256])));
    }

    #[test]
    fn a_fair_share_of_the_global_queue_goes_to_the_ring() {
        let (ring, global) = (Ring::new(), Global::new());
        (0..101).for_each(|id| global.push(goroutine(id)));
        assert_eq!(global.take(&ring, 4).map(|g| g.id()), Some(0));
        assert_eq!(ids(|| ring.pop()), Vec::from_iter(1..26));
        assert!(!global.is_empty());
    }

    #[test]
    fn a_thief_takes_the_older_half_rounded_up() {
        let (ring, thief) = (Ring::new(), Ring::new());
        for (have, stolen) in [(1, 1), (2, 1), (5, 3), (256, 128)] {
            fill(&ring, 0..have);
            let run = thief.steal(&ring, false).unwrap().id();
            let mut got = ids(|| thief.pop());
            got.push(run);
            assert_eq!(got, Vec::from_iter(0..stolen));
            assert_eq!(ids(|| ring.pop()), Vec::from_iter(stolen..have));
        }
    }

    #[test]
    fn the_next_goroutine_is_stolen_last() {
        let (ring, thief) = (Ring::new(), Ring::new());
        assert!(ring.swap_next(goroutine(7)).is_none());
        assert!(!ring.is_empty());
        assert!(thief.steal(&ring, false).is_none());
        assert_eq!(thief.steal(&ring, true).map(|g| g.id()), Some(7));
        assert!(ring.is_empty());
    }

    #[test]
    fn every_goroutine_is_taken_once_by_owner_or_thieves() {
        const COUNT: usize = 200_000;
        let ring = Ring::new();
        let taken: Vec<AtomicU8> = (0..COUNT).map(|_| AtomicU8::new(0)).collect();
        let done = AtomicBool::new(false);
        let take = |g: GRef| {
            assert_eq!(
                taken[g.id() as usize].fetch_add(1, Ordering::Relaxed),
                0,
                "taken twice"
            )
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mine = Ring::new();
                    while !done.load(Ordering::Acquire) || !ring.is_empty() {
                        match mine.steal(&ring, true) {
                            Some(g) => take(g),
                            None => thread::yield_now(),
                        }
                        while let Some(g) = mine.pop() {
                            take(g);
                        }
                    }
                });
            }
            for id in 0..COUNT as u64 {
                if id % 7 == 0 {
                    if let Some(g) = ring.take_next().or_else(|| ring.pop()) {
                        take(g);
                    }
                }
                let mut g = goroutine(id);
                if id % 3 == 0 {
                    match ring.swap_next(g) {
                        Some(before) => g = before,
                        None => continue,
                    }
                }
                while let Err(back) = ring.push(g) {
                    g = back;
                    if let Some(oldest) = ring.pop() {
                        take(oldest);
                    }
                }
            }
            done.store(true, Ordering::Release);
        });
        assert!(
            taken.iter().all(|count| count.load(Ordering::Relaxed) == 1),
            "a goroutine was lost"
        );
    }

    #[test]
    fn an_inbox_keeps_order_and_tells_its_first_push() {
        let (inbox, mut list) = (Inbox::new(), GList::new());
        assert_eq!(
            (0..5)
                .map(|id| inbox.push(goroutine(id)))
                .collect::<Vec<_>>(),
            [true, false, false, false, false]
        );
        inbox.drain(&mut list);
        assert!(inbox.is_empty() && inbox.push(goroutine(5)));
        inbox.drain(&mut list);
        assert_eq!(ids(|| list.pop_front()), Vec::from_iter(0..6));
    }
}
