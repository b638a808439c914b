//! The wait for an operation that is ready.

use crate::channel::Handle;
use crate::operation::Limit;
use crate::random::random;
use crate::shared::Readiness;
use gopark::chan;
use gopark::select::{at, pick, recv};
use std::time::{Duration, Instant};

/// Waits until the operation of one of `handles` is ready. Returns its index, or `None` at the
/// limit. If several are ready, it takes one at random, or the first if `biased`.
///
/// A cancel does not end the wait, because no operation would fail by it without a wait.
pub(crate) fn ready(handles: &[&dyn Handle], biased: bool, limit: Limit) -> Option<usize> {
    if let Look::Ready(index) = look(handles, biased) {
        return Some(index);
    }
    if limit == Limit::Now {
        return None;
    }
    let watch = Watch::new(handles);
    let mut polls = 0;
    loop {
        // An event after this look finds the signal.
        let poll = match look(handles, biased) {
            Look::Ready(index) => return Some(index),
            Look::Blocked => None,
            Look::Changing if polls < YIELDS => {
                polls += 1;
                gopark::yield_now();
                continue;
            }
            Look::Changing => Some(Instant::now() + POLL),
        };
        polls = 0;
        if !gopark::shield(|| watch.wait(poll, limit)) {
            return match look(handles, biased) {
                Look::Ready(index) => Some(index),
                Look::Blocked | Look::Changing => None,
            };
        }
    }
}

/// So often a wait yields to a partner that is about to wait before it sleeps.
const YIELDS: u32 = 16;

/// How long the sleep is. Only a partner whose thread is kept from running takes so long.
const POLL: Duration = Duration::from_micros(200);

enum Look {
    Blocked,
    /// A look again may find a partner.
    Changing,
    Ready(usize),
}

/// Looks for an operation that is ready.
fn look(handles: &[&dyn Handle], biased: bool) -> Look {
    let mut found = Look::Blocked;
    let mut count = 0;
    for (index, handle) in handles.iter().enumerate() {
        match (handle.readiness(), &found) {
            (Readiness::Ready, _) => {
                count += 1;
                if random(count) == 0 {
                    found = Look::Ready(index);
                }
                if biased {
                    break;
                }
            }
            (Readiness::Changing, Look::Blocked) => found = Look::Changing,
            (Readiness::Changing | Readiness::Blocked, _) => {}
        }
    }
    found
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

    /// Waits for the signal, a clock or the time `poll`. Returns false at the limit.
    fn wait(&self, poll: Option<Instant>, limit: Limit) -> bool {
        let signal = recv(&self.signal);
        let clocks = self.handles.iter().filter_map(|handle| handle.due());
        let picked = match clocks.chain(poll).min().map(at) {
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
