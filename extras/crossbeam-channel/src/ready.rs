//! The wait for an operation that is ready.

use crate::channel::Handle;
use crate::operation::Limit;
use crate::shared::Readiness;
use gopark::chan;
use gopark::select::{at, pick, recv};
use std::sync::atomic::{AtomicU32, Ordering};

/// Waits until the operation of one of `handles` is ready. Returns its index, or `None` at the
/// limit. If several are ready, it takes one at random, or the first if `biased`.
///
/// A cancel does not end the wait, because no operation would fail by it without a wait.
pub(crate) fn ready(handles: &[&dyn Handle], biased: bool, limit: Limit) -> Option<usize> {
    if let Some(index) = find(handles, biased) {
        return Some(index);
    }
    if limit == Limit::Now {
        return None;
    }
    let watch = Watch::new(handles);
    loop {
        // An event after this look finds the signal.
        if let Some(index) = find(handles, biased) {
            return Some(index);
        }
        if !gopark::shield(|| watch.wait(limit)) {
            return find(handles, biased);
        }
    }
}

/// Returns the index of an operation that is ready.
///
/// A partner that has announced its wait may not have begun it, or may be on its way from it. It
/// gets a turn, so that a program that asks in a loop does not keep it from running.
fn find(handles: &[&dyn Handle], biased: bool) -> Option<usize> {
    let mut found = None;
    let mut count = 0;
    for (index, handle) in handles.iter().enumerate() {
        let mut readiness = handle.readiness();
        if readiness == Readiness::Announced {
            gopark::yield_now();
            readiness = handle.readiness();
        }
        if readiness == Readiness::Blocked {
            continue;
        }
        if biased {
            return Some(index);
        }
        count += 1;
        if random(count) == 0 {
            found = Some(index);
        }
    }
    found
}

/// A number below `n`: a sequence of Weyl, mixed. Threads that lose an update get the same number,
/// which is random all the same.
fn random(n: u32) -> u32 {
    static SEQUENCE: AtomicU32 = AtomicU32::new(0);
    let weyl = SEQUENCE.load(Ordering::Relaxed).wrapping_add(0x9e37_79b9);
    SEQUENCE.store(weyl, Ordering::Relaxed);
    let mixed = (weyl ^ (weyl >> 16)).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    ((u64::from(mixed ^ (mixed >> 16)) * u64::from(n)) >> 32) as u32
}

/// A signal that the channels of `handles` raise when they become ready.
struct Watch<'a> {
    handles: &'a [&'a dyn Handle],
    raise: chan::Sender<()>,
    signal: chan::Receiver<()>,
}

impl<'a> Watch<'a> {
    fn new(handles: &'a [&'a dyn Handle]) -> Self {
        let (raise, signal) = chan::bounded(1);
        let watched = handles.iter().filter_map(|handle| handle.watchers());
        watched.for_each(|watchers| watchers.add(&raise));
        Watch {
            handles,
            raise,
            signal,
        }
    }

    /// Waits for the signal or a clock. Returns false at the limit.
    fn wait(&self, limit: Limit) -> bool {
        let signal = recv(&self.signal);
        let due = self.handles.iter().filter_map(|handle| handle.due()).min();
        let picked = match due.map(at) {
            Some(clock) => pick(&[signal.case(), clock.case()], false, limit),
            None => pick(&[signal.case()], false, limit),
        };
        picked.is_some()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let watched = self.handles.iter().filter_map(|handle| handle.watchers());
        watched.for_each(|watchers| watchers.remove(&self.raise));
    }
}
