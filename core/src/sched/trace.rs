//! What the scheduler records for a trace, and the switches that it tells the program of. Until a
//! program asks for one of the two, each function is one branch.

use super::Sched;
use crate::g::{G, Resumed};
use crate::m::{Asleep, Here, M};
use crate::os::Nanos;
use crate::sync::{Once, Ordering};
use crate::trace::{
    Canceller, Identity, Reader, Readied, Row, Source, StopReason, Trace, TraceEvent, Turn,
};
use crate::wait_info::Wait;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A trace, the program's function for switches, and the function that passes notes to both. Only
/// [`Sched::trace`] and [`Sched::on_switch`] name the latter, so a program that asks for neither is
/// linked without it.
pub(super) struct Observers {
    trace: Once<Trace>,
    on_switch: Once<fn(Switch)>,
    tell: fn(&'static Sched, &Observers, Note<'_>),
}

/// What happened, and on which P: that of `Here`, or that of the index.
enum Note<'a> {
    Run(&'a Here, &'a G),
    Stop(&'a Here, &'a Resumed),
    Outstayed(&'a Here),
    Ready(Option<&'a Here>, &'a G),
    Named(&'a Here, Arc<str>),
    Spawn(Option<&'a Here>, &'a G),
    Cancel(Option<&'a Here>, Vec<Identity>, Canceller),
    Batch(&'a Here, Source, u32, Nanos),
    Idle(&'a Here, Asleep),
    GaveWay(&'a Here, &'a M),
    /// The caller has taken the P.
    Taken(usize, &'a M, &'a M),
}

impl Observers {
    /// The trace, until it is over.
    fn trace(&self) -> Option<&Trace> {
        self.trace.get().filter(|trace| !trace.is_over())
    }
}

/// A goroutine's turn on a thread begins or ends. On each thread, `In` and `Out` of the same
/// goroutine follow each other, and `In` comes first.
///
/// A turn ends when the goroutine parks, yields or returns. If what it would have waited for has
/// come before the end of its park, its next turn begins at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Switch {
    /// The goroutine is about to run on the calling thread.
    #[non_exhaustive]
    In {
        /// The goroutine's number.
        id: u64,
    },
    /// The goroutine has stopped on the calling thread, and does not run elsewhere yet.
    #[non_exhaustive]
    Out {
        /// The goroutine's number.
        id: u64,
    },
}

/// The switch that a note tells of.
fn switch(note: &Note<'_>) -> Option<Switch> {
    match note {
        Note::Run(here, g) => {
            here.m.turn_of.store(g.id(), Ordering::Relaxed);
            Some(Switch::In { id: g.id() })
        }
        // A turn that began before the first call of `on_switch` has no `In`.
        Note::Stop(here, _) | Note::Outstayed(here) => {
            let id = here.m.turn_of.swap(0, Ordering::Relaxed);
            (id != 0).then_some(Switch::Out { id })
        }
        _ => None,
    }
}

impl Sched {
    /// Begins to record. Returns the one reader, or `None` if a trace was begun before.
    pub fn trace(&'static self) -> Option<Reader> {
        let mut first = false;
        let trace = self.observers().trace.call_once(|| {
            first = true;
            Trace::new(self.config.procs)
        });
        first.then(|| Reader::new(trace))
    }

    /// Calls `on_switch` from now on for every [`Switch`], on the stack of its thread. Returns
    /// false if there is such a function already.
    ///
    /// `on_switch` must not wait: the thread runs nothing else until it returns. A panic must not
    /// leave it.
    pub fn on_switch(&'static self, on_switch: fn(Switch)) -> bool {
        let mut first = false;
        self.observers().on_switch.call_once(|| {
            first = true;
            on_switch
        });
        first
    }

    fn observers(&'static self) -> &'static Observers {
        self.observers.call_once(|| Observers {
            trace: Once::new(),
            on_switch: Once::new(),
            tell: Sched::tell,
        })
    }

    /// How many threads only read the trace: 1 if there is one.
    pub(super) fn trace_readers(&self) -> usize {
        let trace = self.observers.get().and_then(Observers::trace);
        usize::from(trace.is_some())
    }

    #[inline]
    fn note<'a>(&'static self, note: impl FnOnce() -> Note<'a>) {
        if let Some(observers) = self.observers.get() {
            self.take_note(observers, note());
        }
    }

    #[cold]
    fn take_note(&'static self, observers: &Observers, note: Note<'_>) {
        (observers.tell)(self, observers, note);
    }

    fn tell(&'static self, observers: &Observers, note: Note<'_>) {
        if let Some(on_switch) = observers.on_switch.get() {
            if let Some(switch) = switch(&note) {
                on_switch(switch);
            }
        }
        if let Some(trace) = observers.trace() {
            self.record(trace, note);
        }
    }

    fn record(&'static self, trace: &Trace, note: Note<'_>) {
        let now = || self.os.now();
        match note {
            Note::Run(here, g) => self.record_run(trace, here, g),
            Note::Stop(here, resumed) => self.record_stop(trace, here, resumed),
            Note::Outstayed(here) => self.record_outstayed(trace, here),
            Note::Ready(here, g) => _ = self.note_origin(g, here),
            Note::Named(here, name) => record(trace, here, now(), TraceEvent::Named(name)),
            Note::Spawn(here, g) => self.record_spawn(trace, g, here),
            Note::Cancel(here, reached, by) => self.record_cancels(trace, reached, by, here),
            Note::Batch(here, source, count, since) => record(
                trace,
                here,
                now(),
                TraceEvent::Batch {
                    source,
                    count,
                    since,
                },
            ),
            Note::Idle(here, asleep) => record(
                trace,
                here,
                now(),
                TraceEvent::Idle {
                    in_poller: asleep == Asleep::Poller,
                },
            ),
            Note::GaveWay(here, to) => record(
                trace,
                here,
                now(),
                TraceEvent::GaveWay {
                    from: here.m.index as u32,
                    to: to.index as u32,
                },
            ),
            Note::Taken(p, from, to) => {
                let now = now();
                from.p_taken.store(now, Ordering::Relaxed);
                // SAFETY: the note says so.
                unsafe {
                    trace.record_on(
                        p,
                        now,
                        TraceEvent::Taken {
                            from: from.index as u32,
                            to: to.index as u32,
                        },
                    )
                };
            }
        }
    }

    /// Called before a goroutine is resumed.
    #[inline]
    pub(super) fn trace_run(&'static self, here: &Here, g: &G) {
        self.note(|| Note::Run(here, g));
    }

    fn record_run(&self, trace: &Trace, here: &Here, g: &G) {
        let (readied, since, m) = (g.origin().take(), self.os.now(), here.m.index as u32);
        let g = g.identity();
        let running = Turn {
            g: g.clone(),
            since,
        };
        drop(here.home(|home| home.running.replace(running)));
        record(trace, here, since, TraceEvent::Run { g, m, readied });
    }

    /// Called after a goroutine stopped on an M that has kept its P, before the commit.
    #[inline]
    pub(super) fn trace_stop(&'static self, here: &Here, resumed: &Resumed) {
        self.note(|| Note::Stop(here, resumed));
    }

    fn record_stop(&self, trace: &Trace, here: &Here, resumed: &Resumed) {
        let stopped = match resumed {
            Resumed::Parked(g, _) => StopReason::Blocked(
                Wait::decode(g.wait_info.read().wait, |_, _| (), |_| 0).reason(),
            ),
            Resumed::Yielded(_) => StopReason::Yielded,
            Resumed::Dead(_) => StopReason::Returned,
        };
        drop(here.home(|home| home.running.take()));
        record(trace, here, self.os.now(), TraceEvent::Stop(stopped));
    }

    /// Called after a goroutine stopped on an M whose P was taken.
    pub(super) fn trace_outstayed(&'static self, here: &Here) {
        self.note(|| Note::Outstayed(here));
    }

    fn record_outstayed(&self, trace: &Trace, here: &Here) {
        let (now, taken) = (self.os.now(), here.m.p_taken.load(Ordering::Relaxed));
        let running = here.home(|home| home.running.take());
        // No ordering connects this with the store of the thread that took the P: this may read the
        // time of an earlier one.
        if let Some(Turn { g, .. }) = running.filter(|running| taken >= running.since) {
            trace.record_outside(
                here.m.thread.load(Ordering::Relaxed),
                now,
                TraceEvent::Outstayed { g, since: taken },
            );
        }
    }

    /// Called before a goroutine is queued that has waited.
    #[inline]
    pub(super) fn trace_ready(&'static self, g: &G, here: Option<&Here>) {
        self.note(|| Note::Ready(here, g));
    }

    fn note_origin(&'static self, g: &G, here: Option<&Here>) -> Readied {
        let (row, by) = match here {
            Some(here) => (
                Row::P(here.p.index as u32),
                here.home(|home| home.running.as_ref().map_or(0, |running| running.g.id)),
            ),
            None => (
                Row::Thread(self.thread_here()),
                self.current().map_or(0, G::id),
            ),
        };
        let readied = Readied {
            time: self.os.now(),
            row,
            by,
        };
        g.origin().set(readied);
        readied
    }

    /// The number of the calling thread.
    fn thread_here(&'static self) -> u32 {
        match self.current() {
            Some(g) => self.m_of(g).thread.load(Ordering::Relaxed),
            None => self.os.thread_id(),
        }
    }

    /// Gives the calling goroutine a name, in place of any other. Returns false on an ordinary
    /// thread.
    pub fn set_name(&'static self, name: Arc<str>) -> bool {
        let Some(g) = self.current() else {
            return false;
        };
        g.set_name(name.clone());
        if let Some(here) = self.here() {
            self.note(|| Note::Named(&here, name));
        }
        true
    }

    /// Called before a new goroutine is queued.
    #[inline]
    pub(super) fn trace_spawn(&'static self, g: &G, here: Option<&Here>) {
        self.note(|| Note::Spawn(here, g));
    }

    fn record_spawn(&'static self, trace: &Trace, g: &G, here: Option<&Here>) {
        let Readied { time, row, .. } = self.note_origin(g, here);
        let event = TraceEvent::Spawn { g: g.identity() };
        match (here, row) {
            (Some(here), _) => record(trace, here, time, event),
            (None, Row::Thread(thread)) => trace.record_outside(thread, time, event),
            (None, Row::P(_)) => unreachable!("a thread that holds no P records on a P"),
        }
    }

    /// Called after a cancel has reached the goroutines `reached`, and before those of them are
    /// readied whose waits it has ended.
    pub(crate) fn trace_cancels(&'static self, reached: Vec<Identity>, by: Canceller) {
        if !reached.is_empty() {
            let here = self.here();
            self.note(|| Note::Cancel(here.as_deref(), reached, by));
        }
    }

    /// A deadline fires on an M's own stack, where there is no `Here`: the record is then in the
    /// row of the thread.
    fn record_cancels(
        &'static self,
        trace: &Trace,
        reached: Vec<Identity>,
        by: Canceller,
        here: Option<&Here>,
    ) {
        let time = self.os.now();
        for g in reached {
            let event = TraceEvent::Cancel { g, by };
            match here {
                Some(here) => record(trace, here, time, event),
                None => trace.record_outside(self.thread_here(), time, event),
            }
        }
    }

    /// Whether notes are taken.
    #[inline]
    pub(crate) fn is_observed(&self) -> bool {
        self.observers.get().is_some()
    }

    /// Called after `count` waiters were readied, which began at `since`.
    pub(super) fn trace_batch(
        &'static self,
        here: &Here,
        source: Source,
        count: u32,
        since: Nanos,
    ) {
        if count > 0 {
            self.note(|| Note::Batch(here, source, count, since));
        }
    }

    /// Called before an M sleeps.
    pub(super) fn trace_idle(&'static self, here: &Here, asleep: Asleep) {
        self.note(|| Note::Idle(here, asleep));
    }

    /// Called before an M grants its P to another.
    pub(super) fn trace_gave_way(&'static self, here: &Here, to: &M) {
        self.note(|| Note::GaveWay(here, to));
    }

    /// Called after P `p` was taken and before it is granted to another M.
    ///
    /// # Safety
    ///
    /// The caller has taken the P.
    pub(super) unsafe fn trace_taken(&'static self, p: usize, from: &M, to: &M) {
        self.note(|| Note::Taken(p, from, to));
    }
}

fn record(trace: &Trace, here: &Here, time: Nanos, event: TraceEvent) {
    // SAFETY: this M holds the P.
    unsafe { trace.record_on(here.p.index, time, event) };
}
