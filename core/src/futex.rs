//! Futexes on which goroutines park: what a wait for a lock of `std` becomes when it must not block
//! its thread.
//!
//! Every lock of `std` waits by one system call, futex(2): "sleep while this word has this value".
//! A goroutine that makes the call blocks its thread, and with it the goroutines at home there. One
//! of them may hold the lock. Here the same call has the same meaning for goroutines. The kernel
//! keeps a table of queues by address; this is a table of queues of goroutines by address.
//!
//! | the caller of a wait | waits |
//! |---|---|
//! | an ordinary thread, or a goroutine on a stack of its own making | in the kernel |
//! | a goroutine that must not park ([`LockKind::Forbidden`]) | in the kernel |
//! | another goroutine, at an address in `HotWords` | here |
//! | another goroutine | in the kernel, until sysmon ends the wait (`watch::rescue`) |
//!
//! sysmon ends a wait by waking the sleepers of its word, after it has put the address into
//! `HotWords`. For the waiter this is a spurious wake-up, which futex(2) permits. It looks at its
//! lock, and calls again to wait: this time it parks.
//!
//! A wake goes to both kinds of waiters: those here, and those in the kernel.
//!
//! # No wake-up is lost
//!
//! A waker changes the word, then calls [`FutexTable::wake`]. It must find the waiters that have
//! read the word before the change. A wake without waiters must cost one load, so it takes no lock
//! if `FutexTable::parked` is 0:
//!
//! - the waiter increments `parked`, then reads the word;
//! - the waker has written the word, then reads `parked`.
//!
//! A sequentially consistent fence stands between the two accesses of each, so at least one sees
//! the other's. If the waker sees the waiter, the lock of the queue orders them: the waiter reads
//! the word and joins the queue in one critical section. Either the waker finds it there, or the
//! waiter comes later and reads the changed word.
//!
//! # No waiter starves
//!
//! A lock of `std` is free when its waiter is woken, and belongs to the first to take it. An owner
//! that unlocks and locks again would win each time, since its waiter has the same thread. So a
//! wake yields to a goroutine that it has readied, once a millisecond for each queue
//! (`step_aside`).
//!
//! # At home
//!
//! A goroutine holds whatever its callers hold while it waits, such as the guards of other locks.
//! So it has its M for a home until the wait is over, even in a scheduler whose goroutines migrate.

pub mod hot;

use crate::choice::End;
use crate::g::G;
pub use crate::lock_wait::LockKind;
use crate::locked_queue::{LockedQueue, Waited};
use crate::m::M;
use crate::os::Nanos;
use crate::sched::Sched;
use crate::sync::{self, AtomicU8, AtomicU32, Ordering, Word, const_unless_loom, fence, unmodeled};
use crate::trace::Identity;
use crate::wait_info::Wait;
use crate::waiter::WaiterList;
use core::ptr;
use hot::{FirstRescue, HotWords, Party, Recent};

/// How many queues there are. Waiters of addresses with the same queue make each other's wakes
/// longer. In tests all addresses have the same.
const BUCKETS: usize = if cfg!(any(loom, test, fuzzing)) {
    1
} else {
    1024
};

/// How many waiters are woken for each time that the lock of their queue is held.
const BATCH: usize = match () {
    () if cfg!(loom) => 1,
    () if cfg!(any(test, fuzzing)) => 2,
    () => 32,
};

/// Nanoseconds for which the owner of a lock may lock it again and again before those that wait.
const UNFAIR: Nanos = 1_000_000;

/// Nanoseconds for which a waker waits at most until one that it has woken runs: more than a thread
/// needs to get up.
const STEP_ASIDE: Nanos = 100_000;

/// When goroutines park in a wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Never.
    Block,
    /// At addresses where a wait has kept others from running.
    Rescue,
    /// Always, unless their code forbids it.
    Park,
}

/// Queues of goroutines by the addresses of the words that they wait for. A process has one, as a
/// static.
pub struct FutexTable {
    policy: AtomicU8,
    /// How many goroutines are in a queue, or look whether they must be.
    parked: AtomicU32,
    /// How many goroutines block their threads in the kernel.
    blocked: AtomicU32,
    buckets: [Bucket; BUCKETS],
    pub(crate) hot: HotWords,
    pub(crate) first: FirstRescue,
    pub(crate) recent: Recent,
}

/// The queue for one of [`BUCKETS`] parts of all addresses.
struct Bucket {
    queue: LockedQueue<(), Packet>,
    /// How many threads wait in the kernel.
    sleepers: AtomicU32,
    /// Grows when a goroutine has left the queue.
    left: unmodeled::AtomicU32,
    /// When a waker last stepped aside for those that it had woken.
    stepped_aside: unmodeled::AtomicI64,
}

struct Packet {
    address: usize,
    party: Party,
}

/// One call of futex(2) that waits.
#[derive(Clone, Copy)]
pub struct FutexWait<'a> {
    /// The word.
    pub word: &'a Word,
    /// The caller waits while the word has this value.
    pub expected: u32,
    /// When the wait ends at the latest.
    pub until: Option<Nanos>,
    /// What the caller is.
    pub kind: LockKind,
}

/// How a wait has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FutexWaited<T> {
    /// By a wake.
    Woken,
    /// The word had another value.
    Changed,
    /// The time limit came.
    Expired,
    /// The caller has waited in the kernel, with this result.
    Kernel(T),
}

impl Bucket {
    const_unless_loom! {
        fn new() -> Self {
            Bucket {
                queue: LockedQueue::new(()),
                sleepers: AtomicU32::new(0),
                left: unmodeled::AtomicU32::new(0),
                stepped_aside: unmodeled::AtomicI64::new(0),
            }
        }
    }
}

impl FutexTable {
    const_unless_loom! {
        /// A table without waiters, with [`Policy::Block`].
        pub fn new() -> Self {
            FutexTable {
                policy: AtomicU8::new(Policy::Block as u8),
                parked: AtomicU32::new(0),
                blocked: AtomicU32::new(0),
                #[cfg(not(any(loom, test, fuzzing)))]
                buckets: [const { Bucket::new() }; BUCKETS],
                #[cfg(any(loom, test, fuzzing))]
                buckets: [Bucket::new()],
                hot: HotWords::new(),
                first: FirstRescue::new(),
                recent: Recent::new(),
            }
        }
    }

    /// Sets how code of this crate that holds a lock keeps the program's allocator from parking:
    /// [`Sched::set_unparkable`] of the scheduler that runs. Called once, before goroutines park.
    pub fn forbid_parking_by(forbid: fn(bool) -> bool) {
        sync::set_forbid_parking(forbid);
    }

    /// Sets when goroutines park.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(policy as u8, Ordering::Relaxed);
    }

    /// The goroutine that last woke another one which was parked at `address`, if that is known.
    pub fn last_waker(&self, address: usize) -> Option<u64> {
        self.hot.last_waker(address)
    }

    /// Whether a goroutine blocks its thread in the kernel.
    pub(crate) fn is_any_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) > 0
    }

    fn bucket(&self, address: usize) -> &Bucket {
        &self.buckets[hot::place(address, BUCKETS)]
    }

    /// Waits as futex(2) does. `kernel` makes the call.
    pub fn wait<T>(
        &self,
        sched: &'static Sched,
        wait: FutexWait<'_>,
        kernel: impl FnOnce() -> T,
    ) -> FutexWaited<T> {
        match sched.current() {
            Some(g) => self.wait_as(sched, g, wait, kernel),
            None => FutexWaited::Kernel(self.sleep(ptr::from_ref(wait.word).addr(), kernel)),
        }
    }

    /// The calling goroutine `g` waits.
    fn wait_as<T>(
        &self,
        sched: &'static Sched,
        g: &G,
        wait: FutexWait<'_>,
        kernel: impl FnOnce() -> T,
    ) -> FutexWaited<T> {
        let address = ptr::from_ref(wait.word).addr();
        let kind = match wait.kind {
            LockKind::Std if !sched.may_park_in_lock(g) => LockKind::Forbidden,
            kind => kind,
        };
        if kind == LockKind::Std && self.parks_at_once(sched, address) {
            return self.park(sched, g, wait, address);
        }
        let kind = (kind, wait.until.is_some());
        FutexWaited::Kernel(self.block(sched, sched.m_of(g), kind, address, kernel))
    }

    /// Waits in the kernel on the thread of `m`, which sysmon sees. `kind` says also whether the
    /// wait has a time limit.
    fn block<T>(
        &self,
        sched: &'static Sched,
        m: &M,
        kind: (LockKind, bool),
        address: usize,
        kernel: impl FnOnce() -> T,
    ) -> T {
        let neighbours = sched.neighbours(m);
        m.lock_wait.begin(address, kind, neighbours, sched.now());
        self.blocked.fetch_add(1, Ordering::Relaxed);
        let result = self.sleep(address, kernel);
        self.blocked.fetch_sub(1, Ordering::Relaxed);
        m.lock_wait.end();
        result
    }

    fn sleep<T>(&self, address: usize, kernel: impl FnOnce() -> T) -> T {
        let sleepers = &self.bucket(address).sleepers;
        sleepers.fetch_add(1, Ordering::Relaxed);
        let result = kernel();
        sleepers.fetch_sub(1, Ordering::Relaxed);
        result
    }

    fn parks_at_once(&self, sched: &Sched, address: usize) -> bool {
        let policy = self.policy.load(Ordering::Relaxed);
        policy == Policy::Park as u8
            || policy == Policy::Rescue as u8 && self.hot.contains(address, sched.coarse_time())
    }

    /// Parks the calling goroutine. It stays on its M: it holds whatever its callers hold.
    fn park<T>(
        &self,
        sched: &'static Sched,
        g: &G,
        wait: FutexWait<'_>,
        address: usize,
    ) -> FutexWaited<T> {
        let migrates = g.home().is_none();
        if migrates {
            g.set_home(sched.m_of(g).index);
        }
        let waited = self.queue_up(sched, wait, address, Party::of(g));
        if migrates {
            g.leave_home();
        }
        match waited {
            Waited::Served => FutexWaited::Woken,
            Waited::Expired => FutexWaited::Expired,
            Waited::NotQueued => FutexWaited::Changed,
        }
    }

    /// Waits in the queue for `address`, unless the word has another value.
    fn queue_up(
        &self,
        sched: &'static Sched,
        wait: FutexWait<'_>,
        address: usize,
        party: Party,
    ) -> Waited {
        self.parked.fetch_add(1, Ordering::SeqCst);
        let waited = self.bucket(address).queue.wait(
            sched,
            Wait::StdLock(address as u64).encode(),
            wait.until,
            &Packet { address, party },
            |_| {
                // Pairs with the fence in `wake`: see the module's head.
                fence(Ordering::SeqCst);
                (wait.word.load(Ordering::Relaxed) == wait.expected).then_some(End::Back)
            },
        );
        self.parked.fetch_sub(1, Ordering::Relaxed);
        self.bucket(address).left.fetch_add(1, Ordering::Relaxed);
        waited
    }

    /// Wakes up to `most` waiters of the word at `address`, which is not read. `kernel` wakes up to
    /// so many of those in the kernel, and returns how many it has woken. Returns the sum.
    #[inline]
    pub fn wake(
        &self,
        sched: &'static Sched,
        address: usize,
        most: u32,
        mut kernel: impl FnMut(u32) -> u32,
    ) -> u32 {
        // Pairs with the fence in `queue_up`: see the module's head.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) == 0 {
            return kernel(most);
        }
        self.wake_both(sched, address, most, kernel)
    }

    /// Those here come first, since they are more often in a hurry: others are at home on their
    /// threads. If threads sleep in the kernel, one of them wakes in any case, so that neither kind
    /// starves the other. It may also block the M at which a woken goroutine is at home: then that
    /// goroutine does not run before the thread has had its turn. If this is one waiter more than
    /// `most`, that is a spurious wake-up.
    ///
    /// A thread increments `sleepers` before the kernel, behind a barrier of its own, compares the
    /// word. So if this does not see the thread, the kernel sees the changed word.
    #[cold]
    fn wake_both(
        &self,
        sched: &'static Sched,
        address: usize,
        most: u32,
        mut kernel: impl FnMut(u32) -> u32,
    ) -> u32 {
        let bucket = self.bucket(address);
        let left = bucket.left.load(Ordering::Relaxed);
        let parked = self.wake_parked(sched, address, most);
        let woken = match most - parked {
            0 if bucket.sleepers.load(Ordering::Relaxed) == 0 => parked,
            rest => (parked + kernel(rest.max(1))).min(most),
        };
        if parked > 0 {
            step_aside(sched, bucket, left);
        }
        woken
    }

    fn wake_parked(&self, sched: &'static Sched, address: usize, most: u32) -> u32 {
        let bucket = self.bucket(address);
        let (mut woken, mut joined) = (0, None);
        loop {
            let mut list = WaiterList::new();
            let before = woken;
            {
                let mut queued = bucket.queue.lock();
                // Those that join later have read the changed word.
                let joined = *joined.get_or_insert_with(|| queued.waiters.joined());
                let here = |packet: &Packet| packet.address == address;
                let room = BATCH.min((most - woken) as usize);
                queued.waiters.pop_each(joined, room, here, |served| {
                    self.first.note_wake(address, &served.packet.party, sched);
                    list.extend(served.waiter);
                    woken += 1;
                });
            }
            if woken > before {
                self.hot.note_waker(address, sched.current().map(G::id));
                sched.ready_by_anyone(list);
            }
            if woken == most || woken - before < BATCH as u32 {
                return woken;
            }
        }
    }

    /// How many goroutines are parked, or look whether they must be. For tests.
    #[doc(hidden)]
    pub fn num_parked(&self) -> u32 {
        self.parked.load(Ordering::Relaxed)
    }

    /// The goroutine that was the first to be rescued, and the one that then ended its wait. `None`
    /// after it was returned once, and before both are known.
    pub(crate) fn take_first(&self) -> Option<(Identity, Option<Identity>)> {
        self.first.take()
    }
}

/// Lets a goroutine run that the calling one has just woken, if that is due. `left` is what the
/// bucket said before.
fn step_aside(sched: &'static Sched, bucket: &Bucket, left: u32) {
    let now = sched.now();
    if now - bucket.stepped_aside.load(Ordering::Relaxed) >= UNFAIR {
        bucket.stepped_aside.store(now, Ordering::Relaxed);
        let runs = || bucket.left.load(Ordering::Relaxed) != left;
        sched.yield_until(now + STEP_ASIDE, runs);
    }
}

impl Default for FutexTable {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/futex.rs"]
pub(crate) mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/futex.rs"]
mod models;
