//! Stacks that give their memory back: what goroutines have touched once, deep down, and not used for long.
//!
//! Go copies a stack to a smaller one. Here the pages below the stack pointer of a goroutine that waits go back to the system, and come again
//! when it needs them. Meanwhile the goroutine must not go on: it is held (`wait_info::ResumeSeq`), a few at a time.

use super::Sched;
use crate::g::{Pinned, Status};
use crate::os::Nanos;
use alloc::vec::Vec;

/// When stacks give memory back.
#[derive(Clone, Copy, Debug)]
pub struct Shrink {
    pub(super) after: Nanos,
    pub(super) every: Nanos,
    pub(super) round: fn(&'static Sched, Nanos, Nanos) -> bool,
}

impl Shrink {
    /// Those of goroutines that have waited for `after`. Sysmon looks for them every so often.
    pub fn new(after: Nanos, every: Nanos) -> Self {
        Shrink {
            after,
            every,
            round: Sched::shrink,
        }
    }
}

/// How many goroutines are held at once: one barrier for all of them, and a few microseconds for the M that wants to resume one.
const BATCH: usize = 16;

/// A goroutine to be shrunk.
struct Candidate {
    g: Pinned,
    runs: u32,
    start: usize,
    end: usize,
}

impl Sched {
    /// One round over all stacks. Whether a later one may find more, though nobody runs in between.
    fn shrink(&'static self, after: Nanos, now: Nanos) -> bool {
        self.arena.discard_free();
        let mut batch = Vec::with_capacity(BATCH);
        let mut more = false;
        self.each_started(false, |g| {
            let runs = g.wait_info.resumes.count();
            if g.status() != Status::Waiting || g.wait_info.is_shrunk(runs) {
                return;
            }
            let stop = g.wait_info.read();
            if !g.wait_info.resumes.validate(runs) {
                return;
            }
            if now - stop.since < after {
                more = true;
                return;
            }
            match self.arena.unused_below(stop.place.sp) {
                Some((start, end)) => batch.push(Candidate {
                    g,
                    runs,
                    start,
                    end,
                }),
                None => g.wait_info.set_shrunk(runs),
            }
            if batch.len() == BATCH {
                self.shrink_batch(&mut batch);
            }
        });
        self.shrink_batch(&mut batch);
        more
    }

    fn shrink_batch(&'static self, batch: &mut Vec<Candidate>) {
        batch
            .iter()
            .for_each(|candidate| candidate.g.wait_info.resumes.hold());
        let barrier = !batch.is_empty() && self.os.barrier();
        for Candidate {
            g,
            runs,
            start,
            end,
        } in batch.drain(..)
        {
            if barrier && g.wait_info.resumes.validate(runs) {
                // SAFETY: the goroutine is stopped, and held since before the barrier; what is below its stack pointer means nothing.
                unsafe { self.arena.discard(start, end) };
                g.wait_info.set_shrunk(runs);
            }
            g.wait_info.resumes.release();
        }
    }
}
