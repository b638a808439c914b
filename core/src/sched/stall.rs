//! Stalls: goroutines that keep their threads for longer than the program finds right.

use super::{Report, Sched};
use crate::m::M;
use crate::os::{Doing, Nanos};
use crate::sync::Ordering;
use alloc::sync::Arc;
use core::fmt;
use core::panic::Location;

/// A goroutine that keeps its thread.
#[derive(Clone, Debug)]
pub struct Stall {
    /// Its number.
    pub id: u64,
    /// The name it was given.
    pub name: Option<Arc<str>>,
    /// Where it was spawned.
    pub site: &'static Location<'static>,
    /// For how long it has not let go, in nanoseconds.
    pub lasts: Nanos,
    /// What its thread does.
    pub doing: Doing,
    /// How many goroutines can run only on that thread, and are ready to.
    pub waiting: usize,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goroutine {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        write!(f, ", spawned at {}, keeps its thread for {} ms ", self.site, self.lasts / 1_000_000)?;
        match self.doing {
            Doing::Running => f.write_str("computing")?,
            Doing::Blocked(number) => write!(f, "in system call {number}")?,
            Doing::Unknown => f.write_str("so far")?,
        }
        match self.waiting {
            0 => Ok(()),
            1 => f.write_str("; 1 goroutine waits for it"),
            waiting => write!(f, "; {waiting} goroutines wait for it"),
        }
    }
}

/// Which stalls are reported.
///
/// Like the other kinds of watching that a [`Config`](super::Config) asks for, it holds the code that it needs: a program that does not ask is
/// linked without.
#[derive(Clone, Copy, Debug)]
pub struct Stalls {
    after: Nanos,
    tell: fn(&'static Sched, &M, Nanos),
}

impl Stalls {
    /// Those that have lasted for so long.
    pub fn after(after: Nanos) -> Self {
        Stalls { after, tell: Sched::tell_stall }
    }
}

/// An M that has lost its P while it was away, and is not back.
pub(super) struct Stray {
    pub(super) m: usize,
    /// Since when its goroutine keeps it.
    pub(super) since: Nanos,
    /// Whether that was reported.
    pub(super) told: bool,
}

impl Sched {
    /// Whether the M is still away.
    pub(super) fn is_astray(&'static self, stray: &mut Stray, now: Nanos) -> bool {
        let m = self.m(stray.m);
        let away = m.lease.is_taken() && m.lease.is_outside();
        if away {
            self.tell_stall_once(m, now - stray.since, &mut stray.told);
        }
        away
    }

    /// Reports what runs on `m` if that has kept it for too long, once.
    pub(super) fn tell_stall_once(&'static self, m: &M, lasts: Nanos, told: &mut bool) {
        if let Some(stalls) = self.config.stalls.filter(|stalls| !*told && lasts >= stalls.after) {
            *told = true;
            (stalls.tell)(self, m, lasts);
        }
    }

    fn tell_stall(&'static self, m: &M, lasts: Nanos) {
        let doing = self.os.doing(m.thread.load(Ordering::Relaxed));
        let mut stall = None;
        self.with_running_on(m, |g| stall = Some(Stall { id: g.id(), name: g.name(), site: g.site(), lasts, doing, waiting: 0 }));
        if let Some(mut stall) = stall {
            stall.waiting = self.waiting_for(m);
            (self.config.report)(self, Report::Stall(&stall));
        }
    }
}
