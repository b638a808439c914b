//! What is kept of rescues: the addresses at which waits have kept goroutines from running, how
//! many there were of late, and the two goroutines of the first such wait.
#![allow(unsafe_code, reason = "a spawn site is kept as an address")]

use crate::g::G;
use crate::os::Nanos;
use crate::sched::Sched;
use crate::sync::Ordering;
use crate::sync::unmodeled::{AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};
use crate::trace::Identity;
use core::panic::Location;

/// How many addresses share a place in the table.
pub(super) const WAYS: usize = 4;

/// One in models, whose stacks are small.
pub(super) const SETS: usize = if cfg!(loom) { 1 } else { 2048 };

/// Nanoseconds after its last use until an address is forgotten. Its memory may have another use by
/// then. A lock that is contended again is found again after a millisecond.
pub(super) const FORGOTTEN_AFTER: Nanos = 10_000_000_000;

/// Where an address belongs in a table of `size` places, a power of two. Words are 4 bytes apart at
/// least.
pub(super) fn place(address: usize, size: usize) -> usize {
    /// 2^64 divided by the golden ratio: neighbours spread far.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    ((address as u64 >> 2).wrapping_mul(SPREAD) >> 40) as usize & (size - 1)
}

/// A bounded set of addresses. It may lose one at any time: the next waiter there blocks its thread
/// for a moment.
pub(crate) struct HotWords([[Entry; WAYS]; SETS]);

struct Entry {
    address: AtomicUsize,
    used: AtomicI64,
    /// The number of the goroutine that last woke one here, or 0.
    waker: AtomicU64,
}

impl HotWords {
    pub(super) const fn new() -> Self {
        #[allow(
            clippy::declare_interior_mutable_const,
            reason = "each use makes an entry of its own"
        )]
        const ENTRY: Entry = Entry {
            address: AtomicUsize::new(0),
            used: AtomicI64::new(0),
            waker: AtomicU64::new(0),
        };
        HotWords([const { [ENTRY; WAYS] }; SETS])
    }

    fn set(&self, address: usize) -> &[Entry; WAYS] {
        &self.0[place(address, SETS)]
    }

    fn entry(&self, address: usize) -> Option<&Entry> {
        self.set(address)
            .iter()
            .find(|entry| entry.address.load(Ordering::Relaxed) == address)
    }

    /// Whether the address is in the set. If so, it stays there.
    pub(super) fn contains(&self, address: usize, now: Nanos) -> bool {
        let Some(entry) = self.entry(address) else {
            return false;
        };
        let fresh = now - entry.used.load(Ordering::Relaxed) < FORGOTTEN_AFTER;
        if fresh {
            entry.used.store(now, Ordering::Relaxed);
        }
        fresh
    }

    /// Adds an address, in place of the one of its neighbours that was not used for longest.
    /// Called by sysmon only.
    pub(crate) fn insert(&self, address: usize, now: Nanos) {
        let entry = self.entry(address).unwrap_or_else(|| {
            let used = |entry: &&Entry| entry.used.load(Ordering::Relaxed);
            let [first, rest @ ..] = self.set(address);
            let oldest = rest
                .iter()
                .min_by_key(used)
                .filter(|entry| used(entry) < used(&first));
            let entry = oldest.unwrap_or(first);
            entry.waker.store(0, Ordering::Relaxed);
            entry
        });
        entry.used.store(now, Ordering::Relaxed);
        entry.address.store(address, Ordering::Relaxed);
    }

    pub(super) fn note_waker(&self, address: usize, waker: Option<u64>) {
        if let Some(entry) = self.entry(address) {
            entry.waker.store(waker.unwrap_or(0), Ordering::Relaxed);
        }
    }

    pub(super) fn last_waker(&self, address: usize) -> Option<u64> {
        let waker = self.entry(address)?.waker.load(Ordering::Relaxed);
        (waker != 0).then_some(waker)
    }
}

/// The rescues of the last while. Written by sysmon.
pub(crate) struct Recent {
    count: AtomicU32,
    /// When counting began.
    since: AtomicI64,
}

impl Recent {
    pub(crate) const MANY: u32 = 16;

    /// In nanoseconds.
    pub(crate) const WINDOW: Nanos = 10_000_000_000;

    pub(super) const fn new() -> Self {
        Recent {
            count: AtomicU32::new(0),
            since: AtomicI64::new(0),
        }
    }

    pub(crate) fn count(&self, now: Nanos) {
        if now - self.since.load(Ordering::Relaxed) >= Self::WINDOW {
            self.since.store(now, Ordering::Relaxed);
            self.count.store(0, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn are_many(&self, now: Nanos) -> bool {
        self.count.load(Ordering::Relaxed) >= Self::MANY
            && now - self.since.load(Ordering::Relaxed) < Self::WINDOW
    }
}

/// A goroutine that took part in a wait. It may have returned by now.
pub(crate) struct Party {
    id: AtomicU64,
    site: AtomicPtr<Location<'static>>,
}

impl Party {
    pub(super) const fn new() -> Self {
        Party {
            id: AtomicU64::new(0),
            site: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    pub(super) fn of(g: &G) -> Self {
        let party = Party::new();
        party.set(g.id(), g.site());
        party
    }

    fn set(&self, id: u64, site: &'static Location<'static>) {
        self.id.store(id, Ordering::Relaxed);
        self.site
            .store(core::ptr::from_ref(site).cast_mut(), Ordering::Relaxed);
    }

    fn copy_from(&self, other: &Party) {
        if let Some(Identity { id, site, .. }) = other.get() {
            self.set(id, site);
        }
    }

    fn get(&self) -> Option<Identity> {
        let site = self.site.load(Ordering::Relaxed);
        // SAFETY: null, or what `set` has stored, which is 'static.
        unsafe { site.as_ref() }.map(|site| Identity {
            id: self.id.load(Ordering::Relaxed),
            name: None,
            site,
        })
    }
}

/// The first rescue of the process, for a report:
///
/// ```text
///   NONE ──sysmon──▶ RESCUED ──first wake there──▶ WRITING ──▶ KNOWN ──sysmon──▶ TOLD
/// ```
pub(crate) struct FirstRescue {
    state: AtomicU8,
    address: AtomicUsize,
    waiter: Party,
    waker: Party,
}

const NONE: u8 = 0;
const RESCUED: u8 = 1;
const WRITING: u8 = 2;
const KNOWN: u8 = 3;
const TOLD: u8 = 4;

impl FirstRescue {
    pub(super) const fn new() -> Self {
        FirstRescue {
            state: AtomicU8::new(NONE),
            address: AtomicUsize::new(0),
            waiter: Party::new(),
            waker: Party::new(),
        }
    }

    /// A wait at `address` was ended. Called by sysmon only. It takes the place of an earlier one
    /// that no goroutine has parked after: its waiter may have found its lock free.
    pub(crate) fn begin(&self, address: usize) {
        let state = self.state.load(Ordering::Relaxed);
        if state <= RESCUED {
            self.address.store(address, Ordering::Relaxed);
        }
        if state == NONE {
            self.state.store(RESCUED, Ordering::Release);
        }
    }

    /// The caller wakes `waiter`, which was parked at `address`.
    #[inline]
    pub(super) fn note_wake(&self, address: usize, waiter: &Party, sched: &Sched) {
        if self.state.load(Ordering::Acquire) == RESCUED
            && self.address.load(Ordering::Relaxed) == address
        {
            self.write(waiter, sched.current().map(Party::of));
        }
    }

    #[cold]
    fn write(&self, waiter: &Party, waker: Option<Party>) {
        let claimed =
            self.state
                .compare_exchange(RESCUED, WRITING, Ordering::Relaxed, Ordering::Relaxed);
        if claimed.is_ok() {
            self.waiter.copy_from(waiter);
            if let Some(waker) = waker {
                self.waker.copy_from(&waker);
            }
            self.state.store(KNOWN, Ordering::Release);
        }
    }

    /// The waiter and the waker, once. Called by sysmon only.
    pub(super) fn take(&self) -> Option<(Identity, Option<Identity>)> {
        if self.state.load(Ordering::Acquire) != KNOWN {
            return None;
        }
        self.state.store(TOLD, Ordering::Relaxed);
        self.waiter.get().map(|waiter| (waiter, self.waker.get()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_while_it_is_used_and_forgotten_later() {
        let hot = HotWords::new();
        assert!(!hot.contains(0x1000, 1));
        hot.insert(0x1000, 1);
        assert!(hot.contains(0x1000, FORGOTTEN_AFTER));
        assert!(hot.contains(0x1000, 2 * FORGOTTEN_AFTER - 1));
        assert!(!hot.contains(0x1000, 3 * FORGOTTEN_AFTER - 1));
        hot.insert(0x1000, 3 * FORGOTTEN_AFTER);
        assert!(hot.contains(0x1000, 3 * FORGOTTEN_AFTER));
    }

    #[test]
    fn a_full_place_forgets_the_address_that_was_not_used_for_longest() {
        let hot = HotWords::new();
        let mut neighbours = (1..).map(|n| n * 4).filter(|&n| place(n, SETS) == 7);
        let first: [usize; WAYS] = core::array::from_fn(|_| neighbours.next().unwrap_or(0));
        for (time, &address) in (1..).zip(&first) {
            hot.insert(address, time);
        }
        assert!(hot.contains(first[0], 10), "used again");
        let next = neighbours.next().unwrap_or(0);
        hot.insert(next, 11);
        assert!(hot.contains(next, 12) && hot.contains(first[0], 12));
        assert!(!hot.contains(first[1], 12));
    }

    #[test]
    fn sixteen_rescues_in_ten_seconds_are_many() {
        let recent = Recent::new();
        let start = Recent::WINDOW;
        (1..Recent::MANY).for_each(|_| recent.count(start));
        assert!(!recent.are_many(start));
        recent.count(start + Recent::WINDOW - 1);
        assert!(recent.are_many(start + Recent::WINDOW - 1));
        assert!(!recent.are_many(start + Recent::WINDOW));
        recent.count(start + Recent::WINDOW);
        assert!(!recent.are_many(start + Recent::WINDOW));
    }

    #[test]
    fn the_last_waker_belongs_to_its_address() {
        let hot = HotWords::new();
        hot.insert(0x1000, 1);
        assert_eq!(hot.last_waker(0x1000), None);
        hot.note_waker(0x1000, Some(7));
        hot.note_waker(0x2000, Some(8));
        assert_eq!(
            (hot.last_waker(0x1000), hot.last_waker(0x2000)),
            (Some(7), None)
        );
        hot.note_waker(0x1000, None);
        assert_eq!(hot.last_waker(0x1000), None, "a thread");
    }

    #[test]
    fn the_first_rescue_is_told_once() {
        let (waiter, waker) = (crate::g::idle::goroutine(3), crate::g::idle::goroutine(5));
        let first = FirstRescue::new();
        assert!(first.take().is_none());
        first.begin(0x1000);
        first.begin(0x2000);
        assert_eq!(first.address.load(Ordering::Relaxed), 0x2000);
        assert!(first.take().is_none(), "its end is not known");
        first.write(&Party::of(&waiter), Some(Party::of(&waker)));
        first.write(&Party::of(&waker), None);
        let (waiter, waker) = first.take().expect("both are known");
        assert_eq!((waiter.id, waker.map(|waker| waker.id)), (3, Some(5)));
        assert!(first.take().is_none());
    }
}
