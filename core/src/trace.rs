//! Trace: a record of what the scheduler does, for a viewer to draw.
//!
//! Goal: a program without a trace pays one branch at each place that would record, and a traced
//! one takes no lock on a P. [`Sched::trace`](crate::sched::Sched::trace) gives each P a ring of
//! records that the P's holder writes. Threads without a P share one more ring, under a lock. One
//! [`Reader`] empties all of them.
//!
//! A full ring takes no more records: its writer neither waits nor overwrites what the reader may
//! be reading. It counts the lost records, and adds a record of the gap when there is room: so the
//! reader knows where the gap is and how long.
//!
//! The reader sees rings at different times, so each record can be drawn without those of other
//! rings: the thread that readies a goroutine leaves a note on it (`Origin`), and the M that runs
//! the goroutine copies the note into its own record.
#![allow(
    unsafe_code,
    reason = "a record is handed from the ring's writer to its reader in a plain cell"
)]

use crate::os::Nanos;
use crate::sync::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, CachePadded, Lock, Ordering,
    UnsafeCell,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::mem::MaybeUninit;
use core::panic::Location;

/// Where something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    /// On the P with this index.
    P(u32),
    /// On the thread with this number, which held no P.
    Thread(u32),
}

/// Identifies a goroutine. Its `Display` is as in reports: `goroutine 7 "importer" (spawned at
/// src/main.rs:20:5)`.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its number.
    pub id: u64,
    /// The name that it had at that time.
    pub name: Option<Arc<str>>,
    /// Where it was spawned.
    pub site: &'static Location<'static>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goroutine {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        write!(f, " (spawned at {})", self.site)
    }
}

/// What has cancelled a goroutine: what came first, if its cancel was cancelled with a parent. Its
/// `Display` follows the word "by" in dumps and timelines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Canceller {
    /// A call of `cancel`.
    Call {
        /// The goroutine that called it. 0: an ordinary thread.
        by: u64,
        /// Where it did.
        at: &'static Location<'static>,
    },
    /// A panic or an error of this goroutine, which a scope answers with a cancel. 0: an ordinary
    /// thread.
    Failure(u64),
    /// A deadline.
    Deadline,
}

impl fmt::Display for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Canceller::Call { by: 0, at } => write!(f, "a thread at {at}"),
            Canceller::Call { by, at } => write!(f, "goroutine {by} at {at}"),
            Canceller::Failure(0) => f.write_str("the failure of a thread"),
            Canceller::Failure(by) => write!(f, "the failure of goroutine {by}"),
            Canceller::Deadline => f.write_str("a deadline"),
        }
    }
}

/// What made a goroutine ready or spawned it.
#[derive(Clone, Copy, Debug)]
pub struct Readied {
    /// When.
    pub time: Nanos,
    /// Where.
    pub row: Row,
    /// The goroutine that did it. 0: an M that found an event or a timer, or an ordinary thread.
    pub by: u64,
}

/// Why a goroutine stopped running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// It waits, for this reason in Go's words.
    Blocked(&'static str),
    /// It yielded.
    Yielded,
    /// It returned.
    Returned,
}

/// What made several goroutines ready at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Events of the P's poller.
    Poll,
    /// Timers of the P.
    Timers,
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TraceEvent {
    /// A goroutine began to run on the P, on M `m`.
    Run {
        /// The goroutine.
        g: Identity,
        /// The M.
        m: u32,
        /// What made it ready, and when. `None` if it goes on after a yield or a failed park.
        readied: Option<Readied>,
    },
    /// The running goroutine set its name.
    Named(Arc<str>),
    /// The running goroutine stopped.
    Stop(StopReason),
    /// The P was retaken from M `from`, whose goroutine runs on, and given to M `to`.
    Taken {
        /// The M that had it.
        from: u32,
        /// The M that gets it.
        to: u32,
    },
    /// M `from` gave the P to M `to`.
    GaveWay {
        /// The M that had it.
        from: u32,
        /// The M that gets it.
        to: u32,
    },
    /// A goroutine whose M had lost its P stopped, on a thread without one.
    Outstayed {
        /// The goroutine.
        g: Identity,
        /// When the P was retaken.
        since: Nanos,
    },
    /// The P's holder made `count` goroutines and threads ready.
    Batch {
        /// Where they came from.
        source: Source,
        /// How many.
        count: u32,
        /// When that began.
        since: Nanos,
    },
    /// A goroutine was spawned.
    Spawn {
        /// The new goroutine.
        g: Identity,
    },
    /// A cancel has reached a goroutine, which may run, be ready or wait.
    Cancel {
        /// The goroutine.
        g: Identity,
        /// What has cancelled it.
        by: Canceller,
    },
    /// The P's holder goes to sleep: in the P's poller, or on its futex.
    Idle {
        /// Whether events wake it.
        in_poller: bool,
    },
    /// Records are missing here.
    Lost {
        /// How many.
        count: u64,
        /// When the first of them would have been made.
        since: Nanos,
    },
}

/// An event, with its time and place.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it happened, or ended if it took time.
    pub time: Nanos,
    /// Where.
    pub row: Row,
    /// What.
    pub event: TraceEvent,
}

/// A queue of fixed size between one writer and one reader.
///
/// `tail` counts pushed elements and `head` taken ones. Both wrap; `tail - head <= capacity`, and
/// an element's slot is its number modulo the capacity. A slot belongs to the writer once the
/// reader has released the `head` that frees it, and to the reader once the writer has released the
/// `tail` that covers it. Nothing else orders the two.
struct RecordRing<T> {
    tail: CachePadded<AtomicUsize>,
    head: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot has one owner at a time, as above. `push` and `pop_all` require a single caller
// each.
unsafe impl<T: Send> Sync for RecordRing<T> {}

impl<T> RecordRing<T> {
    /// An empty ring. `capacity` is a power of two.
    fn new(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two());
        RecordRing {
            tail: CachePadded::new(AtomicUsize::new(0)),
            head: CachePadded::new(AtomicUsize::new(0)),
            slots: (0..capacity)
                .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
                .collect(),
        }
    }

    fn slot(&self, number: usize) -> *mut MaybeUninit<T> {
        self.slots[number & (self.slots.len() - 1)].get()
    }

    /// Appends what `make` returns, if there is room. Returns whether there was.
    ///
    /// # Safety
    ///
    /// One caller at a time, each ordered after the one before.
    unsafe fn push(&self, make: impl FnOnce() -> T) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        // Acquire pairs with the Release in `pop_all`: the reader has read the slot.
        if tail.wrapping_sub(self.head.load(Ordering::Acquire)) == self.slots.len() {
            return false;
        }
        let value = make();
        // SAFETY: the slot belongs to the writer.
        unsafe { (*self.slot(tail)).write(value) };
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        true
    }

    /// Passes all elements that are there now to `take`.
    ///
    /// # Safety
    ///
    /// One caller at a time, each ordered after the one before.
    unsafe fn pop_all(&self, mut take: impl FnMut(T)) {
        // Acquire pairs with the Release in `push`: the writer has written the slots.
        let tail = self.tail.load(Ordering::Acquire);
        let mut head = self.head.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: the slot belongs to the reader, and was written.
            take(unsafe { (*self.slot(head)).assume_init_read() });
            head = head.wrapping_add(1);
            self.head.store(head, Ordering::Release);
        }
    }
}

/// A ring of records, and how many did not fit.
struct Track {
    ring: RecordRing<Record>,
    /// How many records are missing since `lost_since`. The writer owns both.
    lost: AtomicU64,
    lost_since: AtomicI64,
}

impl Track {
    fn new(capacity: usize) -> Self {
        Track {
            ring: RecordRing::new(capacity),
            lost: AtomicU64::new(0),
            lost_since: AtomicI64::new(0),
        }
    }

    /// Adds a record, or counts it as lost.
    ///
    /// # Safety
    ///
    /// As for [`RecordRing::push`].
    unsafe fn record(&self, record: Record) {
        let (lost, since) = (
            self.lost.load(Ordering::Relaxed),
            self.lost_since.load(Ordering::Relaxed),
        );
        let (time, row) = (record.time, record.row);
        let gap = || Record {
            time,
            row,
            event: TraceEvent::Lost { count: lost, since },
        };
        // SAFETY: the caller's promise.
        let said = lost == 0 || unsafe { self.ring.push(gap) };
        // SAFETY: as above.
        if said && unsafe { self.ring.push(|| record) } {
            if lost > 0 {
                self.lost.store(0, Ordering::Relaxed);
            }
            return;
        }
        let lost = if said { 0 } else { lost };
        if lost == 0 {
            self.lost_since.store(time, Ordering::Relaxed);
        }
        self.lost.store(lost + 1, Ordering::Relaxed);
    }
}

/// How many records a ring holds: about 50 ms of a P that passes messages as fast as it can. Two
/// under loom.
const CAPACITY: usize = if cfg!(loom) { 2 } else { 1 << 14 };

/// The records of a scheduler that were not read yet.
pub(crate) struct Trace {
    ps: Box<[Track]>,
    others: Track,
    /// Held by the writer of `others`.
    writer: Lock<()>,
    /// Set when the reader is dropped.
    over: AtomicBool,
}

impl Trace {
    pub(crate) fn new(procs: usize) -> Self {
        Trace {
            ps: (0..procs).map(|_| Track::new(CAPACITY)).collect(),
            others: Track::new(CAPACITY),
            writer: Lock::new(()),
            over: AtomicBool::new(false),
        }
    }

    /// Whether the reader is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Records an event on P `p`.
    ///
    /// # Safety
    ///
    /// The caller owns the P: it holds the P, or has retaken it and not yet granted it.
    pub(crate) unsafe fn record_on(&self, p: usize, time: Nanos, event: TraceEvent) {
        // SAFETY: a P has one owner at a time, and its hand-over orders what they do.
        unsafe {
            self.ps[p].record(Record {
                time,
                row: Row::P(p as u32),
                event,
            })
        };
    }

    /// Records an event on a thread without a P.
    pub(crate) fn record_outside(&self, thread: u32, time: Nanos, event: TraceEvent) {
        let _one_at_a_time = self.writer.lock();
        // SAFETY: the lock is held.
        unsafe {
            self.others.record(Record {
                time,
                row: Row::Thread(thread),
                event,
            })
        };
    }
}

/// The reader of a scheduler's records. After it is dropped, nothing is recorded. It needs a thread
/// of its own that readies no goroutine, since a thread that may ready one hides a deadlock.
pub struct Reader(&'static Trace);

impl Reader {
    /// The reader of a trace, which has only one.
    pub(crate) fn new(trace: &'static Trace) -> Self {
        Reader(trace)
    }

    /// Takes all records made so far: those of a row in the order of time, the rows in no order.
    pub fn drain(&mut self, mut take: impl FnMut(Record)) {
        for track in self.0.ps.iter().chain([&self.0.others]) {
            // SAFETY: there is one reader, which is borrowed mutably here.
            unsafe { track.ring.pop_all(&mut take) };
        }
    }

    /// How many records are missing that no [`TraceEvent::Lost`] has reported yet.
    pub fn lost(&self) -> u64 {
        self.0
            .ps
            .iter()
            .chain([&self.0.others])
            .map(|track| track.lost.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// The note on a goroutine of what made it ready. Owned by the holder of its `GRef`.
pub(crate) struct Origin {
    time: AtomicI64,
    by: AtomicU64,
    row: AtomicU32,
}

/// Set in the `row` of a thread. Linux's thread numbers are positive `i32`s.
const THREAD: u32 = 1 << 31;

impl Origin {
    pub(crate) fn new() -> Self {
        Origin {
            time: AtomicI64::new(0),
            by: AtomicU64::new(0),
            row: AtomicU32::new(0),
        }
    }

    pub(crate) fn set(&self, readied: Readied) {
        let row = match readied.row {
            Row::P(p) => p,
            Row::Thread(thread) => thread | THREAD,
        };
        self.time.store(readied.time, Ordering::Relaxed);
        self.by.store(readied.by, Ordering::Relaxed);
        self.row.store(row, Ordering::Relaxed);
    }

    /// Takes the note.
    pub(crate) fn take(&self) -> Option<Readied> {
        let time = self.time.load(Ordering::Relaxed);
        if time == 0 {
            return None;
        }
        self.time.store(0, Ordering::Relaxed);
        let row = match self.row.load(Ordering::Relaxed) {
            p if p & THREAD == 0 => Row::P(p),
            thread => Row::Thread(thread & !THREAD),
        };
        Some(Readied {
            time,
            row,
            by: self.by.load(Ordering::Relaxed),
        })
    }
}

/// The turn of the goroutine that an M runs, during a trace.
pub(crate) struct Turn {
    pub(crate) g: Identity,
    pub(crate) since: Nanos,
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn times(reader: &mut Reader) -> Vec<(Nanos, Option<(u64, Nanos)>)> {
        let mut found = Vec::new();
        reader.drain(|record| {
            let lost = match record.event {
                TraceEvent::Lost { count, since } => Some((count, since)),
                _ => None,
            };
            found.push((record.time, lost));
        });
        found
    }

    fn trace() -> (&'static Trace, Reader) {
        let trace: &'static Trace = Box::leak(Box::new(Trace::new(2)));
        (trace, Reader::new(trace))
    }

    #[test]
    fn a_full_ring_counts_what_it_loses_and_says_where() {
        let (trace, mut reader) = trace();
        // SAFETY: one thread records.
        let record =
            |time| unsafe { trace.record_on(1, time, TraceEvent::Idle { in_poller: true }) };
        let all = CAPACITY as Nanos;
        (1..=all + 3).for_each(record);
        assert_eq!(reader.lost(), 3);
        assert!(
            times(&mut reader)
                .into_iter()
                .eq((1..=all).map(|time| (time, None)))
        );
        record(all + 4);
        assert_eq!(reader.lost(), 0);
        assert_eq!(
            times(&mut reader),
            [(all + 4, Some((3, all + 1))), (all + 4, None)]
        );
        assert_eq!(times(&mut reader), []);
    }

    #[test]
    fn a_gap_that_is_told_of_in_the_last_slot_begins_anew() {
        let (trace, mut reader) = trace();
        let record = |time| trace.record_outside(7, time, TraceEvent::Idle { in_poller: true });
        let all = CAPACITY as Nanos;
        (1..=all + 2).for_each(record);
        // One slot is free: it takes the gap, and the next record is lost again.
        trace.others.ring.head.store(1, Ordering::Relaxed);
        record(all + 3);
        assert_eq!(reader.lost(), 1);
        assert_eq!(
            times(&mut reader).last(),
            Some(&(all + 3, Some((2, all + 1))))
        );
        record(all + 4);
        assert_eq!(
            times(&mut reader),
            [(all + 4, Some((1, all + 3))), (all + 4, None)]
        );
    }

    #[test]
    fn a_note_is_read_once() {
        let origin = Origin::new();
        assert!(origin.take().is_none());
        for row in [Row::P(0), Row::P(1023), Row::Thread(4_194_304)] {
            origin.set(Readied {
                time: 5,
                row,
                by: 6,
            });
            let readied = origin.take().unwrap();
            assert_eq!((readied.time, readied.row, readied.by), (5, row, 6));
            assert!(origin.take().is_none());
        }
    }
}

#[cfg(all(test, loom))]
#[path = "../models/trace.rs"]
mod models;
