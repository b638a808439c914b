//! Shrinking: memory of stacks goes back to the system that a deep call or a burst of goroutines
//! has touched and that is no longer in use.
//!
//! Go copies a stack to a smaller one. Here the pages below the stack pointer of a goroutine that
//! waits go back to the system, which maps new ones when the goroutine touches them again. The
//! goroutine must not run during that, so a few at a time are held (`wait_info::ResumeSeq`).
#![allow(
    unsafe_code,
    reason = "discards memory that only a goroutine which is held could use"
)]

use crate::g::{Pinned, Status};
use crate::os::Nanos;
use crate::sched::{Sched, Shrink};
use alloc::vec::Vec;

impl Shrink {
    /// Those of goroutines that have waited for `after`. sysmon looks for them once per `every`.
    pub fn new(after: Nanos, every: Nanos) -> Self {
        Shrink {
            after,
            every,
            round: shrink,
        }
    }
}

/// How many goroutines are held at once. They share one barrier, and an M that is to resume one of
/// them waits a few microseconds.
const BATCH: usize = 16;

/// A goroutine whose stack is to be shrunk.
struct Candidate {
    g: Pinned,
    /// Its sequence number when it was found to wait.
    count: u32,
    /// The addresses of the memory to be returned.
    start: usize,
    end: usize,
}

/// Does one round over all stacks. Returns whether a later one may find more although no goroutine
/// runs in between.
fn shrink(sched: &'static Sched, after: Nanos, now: Nanos) -> bool {
    sched.arena().discard_free();
    let mut batch = Vec::with_capacity(BATCH);
    let mut more = false;
    sched.each_started(false, |g| {
        let count = g.wait_info.resumes.count();
        if g.status() != Status::Waiting || g.wait_info.is_shrunk(count) {
            return;
        }
        let stop = g.wait_info.read();
        if !g.wait_info.resumes.validate(count) {
            return;
        }
        if now - stop.since < after {
            more = true;
            return;
        }
        match sched.arena().unused_below(stop.place.sp) {
            Some((start, end)) => batch.push(Candidate {
                g,
                count,
                start,
                end,
            }),
            None => g.wait_info.set_shrunk(count),
        }
        if batch.len() == BATCH {
            shrink_batch(sched, &mut batch);
        }
    });
    shrink_batch(sched, &mut batch);
    more
}

fn shrink_batch(sched: &'static Sched, batch: &mut Vec<Candidate>) {
    batch
        .iter()
        .for_each(|candidate| candidate.g.wait_info.resumes.hold());
    let barrier = !batch.is_empty() && sched.os().barrier();
    for Candidate {
        g,
        count,
        start,
        end,
    } in batch.drain(..)
    {
        if barrier && g.wait_info.resumes.validate(count) {
            // SAFETY: the goroutine is stopped, and held since before the barrier. It has nothing
            // below its stack pointer.
            unsafe { sched.arena().discard(start, end) };
            g.wait_info.set_shrunk(count);
        }
        g.wait_info.resumes.release();
    }
}
