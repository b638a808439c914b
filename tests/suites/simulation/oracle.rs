//! What every run must obey, checked from outside the scheduler: the results that an operation may
//! have, and which goroutines and threads may wait when no thread can run.
//!
//! When an operation ends:
//!
//! - A timeout needs a deadline in force that has passed; a passed one fails every operation
//!   (K6, K7).
//! - `Closing` needs a close. After it every operation says so; one of many closes succeeds (K8).
//! - No bytes are lost, doubled or mixed with another writer's; an end of stream is reported only
//!   after one was sent (K17).
//!
//! At rest, and partly earlier:
//!
//! - No actor waits for what has already happened (K1, K3, K18).
//! - Each waiter in a poller is counted once (K4).
//! - The clock does not jump over a time that an actor waits for (K10, K11).
//! - No unfetched event is in a poller in which no M sleeps; no two Ms sleep in one poller
//!   (K13, K14).
//! - No goroutine is runnable while an M sleeps (bug 16). Checked also when all running threads
//!   compute.
//! - Every M is counted as idle, none as spinning (bug 17).
//!
//! At the end:
//!
//! - No descriptor, watch or goroutine is left (K8, K15).
//!
//! A run is at rest when no thread can run until the clock jumps. The numbers are those of
//! `go-semantics`.
//!
//! K2, K5, K9 and K12 are panics, assertions and locks of core itself, which are on in these runs.

use crate::cancels;
use crate::computer::Computer;
use crate::kernel::ENOMEM;
use crate::ledger::Ledger;
use gopark_core::fd::FdError;
use gopark_core::os::{Mode, Nanos};
use gopark_core::polldesc::{Deadline, PollError};
use gopark_core::sched::Sched;
use std::collections::BTreeSet;

/// What an actor does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Activity {
    /// Spawned, and has not run yet.
    New,
    Running,
    Wait(usize, Mode),
    Close(usize),
    Sema(usize),
    /// Waits for one of several causes: the number of an `Await` in the ledger.
    Await(usize),
    Join(usize),
    Sleep(Nanos),
    Done,
}

/// A call that sets a deadline.
#[derive(Clone, Copy)]
struct Setting {
    deadline: Deadline,
    mode: Option<Mode>,
    begin: u64,
    end: u64,
}

#[derive(Default)]
pub(crate) struct SocketState {
    settings: Vec<Setting>,
    /// The stamps at which the first close began and ended.
    close: Option<(u64, u64)>,
    closes: usize,
}

pub(crate) struct Oracle {
    pub(crate) seed: u64,
    pub(crate) actors: Vec<Activity>,
    pub(crate) goroutine: Vec<bool>,
    pub(crate) files: Vec<usize>,
    pub(crate) sockets: Vec<SocketState>,
    /// Permits released and acquired, by semaphore.
    pub(crate) permits: Vec<(usize, usize)>,
    /// The step and the time of each stamp, ascending.
    times: Vec<(u64, Nanos)>,
    pub(crate) ledger: Ledger,
}

/// A call that has not ended.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    begin: u64,
}

/// How late an actor may wake, in nanoseconds. No time passes between reading the clock and the
/// sleep that follows, unless each access to memory takes some.
pub(crate) const SLACK: Nanos = if cfg!(steps) { 10_000_000 } else { 0 };

/// The end of what has not ended.
pub(crate) const UNDER_WAY: u64 = u64::MAX;

impl Oracle {
    pub(crate) fn new(seed: u64) -> Self {
        Oracle {
            seed,
            actors: Vec::new(),
            goroutine: Vec::new(),
            files: Vec::new(),
            sockets: Vec::new(),
            permits: Vec::new(),
            times: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    pub(crate) fn stamp(&mut self, computer: &Computer) -> u64 {
        let stamp = self.times.len() as u64;
        self.times.push((computer.steps(), computer.now()));
        stamp
    }

    fn time(&self, stamp: u64) -> Nanos {
        self.times[stamp as usize].1
    }

    pub(crate) fn begin(&mut self, computer: &Computer) -> Call {
        Call {
            begin: self.stamp(computer),
        }
    }

    /// The last stamp at which a setting may have been in force: the end of the next call that sets
    /// the same direction.
    fn replaced(&self, socket: usize, setting: &Setting, mode: Mode) -> u64 {
        let concerns =
            |other: &&Setting| other.mode.is_none_or(|m| m == mode) && other.begin > setting.end;
        self.sockets[socket]
            .settings
            .iter()
            .filter(concerns)
            .map(|other| other.end)
            .min()
            .unwrap_or(UNDER_WAY)
    }

    /// Whether a deadline explains a timeout between two stamps.
    fn may_time_out(&self, socket: usize, mode: Mode, begin: u64, end: u64) -> bool {
        self.sockets[socket]
            .settings
            .iter()
            .filter(|setting| setting.mode.is_none_or(|m| m == mode))
            .any(|setting| {
                let last = self.replaced(socket, setting, mode).min(end);
                let in_force = setting.begin <= end && last >= begin;
                let passed = match setting.deadline {
                    Deadline::None => false,
                    Deadline::Passed => true,
                    Deadline::At(when) => when <= self.time(last),
                };
                in_force && passed
            })
    }

    /// Whether a deadline that was in force for the whole call had certainly passed before the call
    /// began.
    fn must_fail(&self, socket: usize, mode: Mode, begin: u64) -> bool {
        let settings = self.sockets[socket]
            .settings
            .iter()
            .filter(|setting| setting.mode.is_none_or(|m| m == mode));
        let Some(last) = settings.clone().max_by_key(|setting| setting.begin) else {
            return false;
        };
        let alone = settings
            .filter(|setting| setting.begin != last.begin)
            .all(|setting| setting.end < last.begin);
        alone && last.end < begin && last.deadline == Deadline::Passed
    }

    /// Checks the result of an operation.
    pub(crate) fn end<T>(
        &mut self,
        computer: &Computer,
        socket: usize,
        mode: Mode,
        call: Call,
        result: &Result<T, FdError>,
    ) -> Result<(), String> {
        let end = self.stamp(computer);
        let state = &self.sockets[socket];
        let closing_began = state.close.is_some_and(|(begin, _)| begin <= end);
        let closed_before = state
            .close
            .is_some_and(|(_, close_end)| close_end < call.begin);
        match result {
            // Whether it may say so, the ledger knows.
            Err(FdError::Poll(PollError::Cancelled)) => Ok(()),
            Err(FdError::Poll(PollError::Closing)) if !closing_began => Err(format!(
                "socket {socket} says closing, but no actor has closed it"
            )),
            Err(FdError::Poll(PollError::Closing)) => Ok(()),
            Err(FdError::Poll(PollError::NotPollable))
                if !computer.kernel.borrow().files[self.files[socket]].told_error =>
            {
                Err(format!(
                    "socket {socket} says not pollable, but it is pollable"
                ))
            }
            Err(FdError::Os(errno))
                if errno.raw() == ENOMEM
                    && !computer.kernel.borrow().files[self.files[socket]].refused =>
            {
                Err(format!(
                    "socket {socket} says that the system refused it, but the system did not"
                ))
            }
            _ if closed_before => Err(format!(
                "an operation on socket {socket} did not fail with closing after the close"
            )),
            Err(FdError::Poll(PollError::Timeout)) => {
                match self.may_time_out(socket, mode, call.begin, end) {
                    true => Ok(()),
                    false => Err(format!(
                        "socket {socket} timed out in direction {mode:?} before its deadline"
                    )),
                }
            }
            _ if self.must_fail(socket, mode, call.begin) => Err(format!(
                "socket {socket} succeeded in direction {mode:?} after its deadline"
            )),
            _ => Ok(()),
        }
    }

    /// Checks what a select returns for a socket that it has found ready.
    pub(crate) fn ready(
        &self,
        computer: &Computer,
        socket: usize,
        call: Call,
        result: &Result<(), FdError>,
    ) -> Result<(), String> {
        let close = self.sockets[socket].close;
        let file = &computer.kernel.borrow().files[self.files[socket]];
        let right = match result {
            Ok(()) => close.is_none_or(|(_, end)| end >= call.begin),
            Err(FdError::Poll(PollError::Closing)) => close.is_some(),
            Err(FdError::Os(errno)) => errno.raw() == ENOMEM && file.refused,
            Err(FdError::Poll(_)) => false,
        };
        match right {
            true => Ok(()),
            false => Err(format!("a select returns {result:?} for socket {socket}")),
        }
    }

    pub(crate) fn set_begins(
        &mut self,
        computer: &Computer,
        socket: usize,
        mode: Option<Mode>,
        deadline: Deadline,
    ) -> usize {
        let begin = self.stamp(computer);
        self.sockets[socket].settings.push(Setting {
            deadline,
            mode,
            begin,
            end: UNDER_WAY,
        });
        self.sockets[socket].settings.len() - 1
    }

    pub(crate) fn set_ends(
        &mut self,
        computer: &Computer,
        socket: usize,
        setting: usize,
        refused: bool,
    ) -> Result<(), String> {
        let end = self.stamp(computer);
        let state = &mut self.sockets[socket];
        let begin = state.settings[setting].begin;
        if refused {
            // It has changed nothing: recorded as if it had begun and ended before all others.
            state.settings[setting] = Setting {
                deadline: Deadline::None,
                mode: None,
                begin: 0,
                end: 0,
            };
            return match state.close {
                Some((close, _)) if close <= end => Ok(()),
                _ => Err(format!(
                    "a deadline of socket {socket} was refused, but no actor has closed it"
                )),
            };
        }
        state.settings[setting].end = end;
        match state.close {
            Some((_, close_end)) if close_end < begin => Err(format!(
                "a deadline of socket {socket} was set after the close"
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn close_begins(&mut self, computer: &Computer, socket: usize) {
        let begin = self.stamp(computer);
        self.sockets[socket].close.get_or_insert((begin, UNDER_WAY));
    }

    pub(crate) fn close_ends(
        &mut self,
        computer: &Computer,
        socket: usize,
        closed: bool,
    ) -> Result<(), String> {
        let end = self.stamp(computer);
        let state = &mut self.sockets[socket];
        if !closed {
            return Ok(());
        }
        state.closes += 1;
        let (begin, first_end) = state.close.expect("it began");
        state.close = Some((begin, first_end.min(end)));
        if state.closes > 1 {
            Err(format!("socket {socket} was closed twice"))
        } else {
            Ok(())
        }
    }

    /// Checks the run at rest, before the clock jumps to `next`: finds actors that should not be
    /// waiting.
    pub(crate) fn at_rest(&self, computer: &Computer, next: Nanos) -> Result<(), String> {
        let sched = computer.sched.get().expect("started");
        let (computing, config) = (computer.busy(), sched.config());
        let busy = computing > 0;
        let (mut waits, mut selected) = (BTreeSet::new(), 0);
        for (actor, &doing) in self.actors.iter().enumerate() {
            let wrong = |why: &str| Err(format!("at rest, actor {actor}, {doing:?}, {why}"));
            match doing {
                // While one M computes, goroutines bound to it wait for it. Fresh ones can start on
                // any M.
                Activity::New if self.goroutine[actor] && computing < config.procs => {
                    return wrong("could start: it is in a queue");
                }
                _ if busy => {}
                Activity::New | Activity::Running => return wrong("could run: it is in a queue"),
                _ if self.waits_cancelled(computer, actor, next) => {
                    return wrong("waits although it is cancelled by then");
                }
                Activity::Sleep(when) if when <= computer.now() - SLACK => {
                    return wrong("has slept long enough");
                }
                Activity::Sleep(when) if when < next - SLACK => return wrong("would oversleep"),
                Activity::Join(other) if self.actors[other] == Activity::Done => {
                    return wrong("waits for an actor that has ended");
                }
                Activity::Sema(sema) if self.permits[sema].0 > self.permits[sema].1 => {
                    return wrong("could have a permit");
                }
                Activity::Close(socket) if !self.waits_on(socket) => {
                    return wrong("waits although no operation is left");
                }
                Activity::Await(wait) => {
                    if let Err(why) = self.may_await(computer, actor, wait, next) {
                        return wrong(&why);
                    }
                    selected += self.sockets_awaited(wait);
                }
                Activity::Wait(socket, mode) => {
                    if let Err(why) = self.may_wait(computer, socket, mode, next) {
                        return wrong(&why);
                    }
                    waits.insert((socket, mode == Mode::Write));
                }
                _ => {}
            }
        }
        if busy {
            return Ok(());
        }
        if let Some(poller) = computer.kernel.borrow().unfetched() {
            return Err(format!(
                "at rest, poller {poller} has events that no thread fetches"
            ));
        }
        if sched.num_poll_waiters() != waits.len() + selected {
            return Err(format!(
                "the scheduler counts {} waiters in pollers, but {waits:?} and {selected} cases \
                 wait",
                sched.num_poll_waiters()
            ));
        }
        let alive = self.goroutines();
        if sched.num_goroutines() != alive {
            return Err(format!(
                "the scheduler counts {} goroutines, but {alive} have not ended",
                sched.num_goroutines()
            ));
        }
        all_idle(sched)
    }

    /// How many goroutines have not ended.
    fn goroutines(&self) -> usize {
        let actors = self.actors.iter().zip(&self.goroutine);
        actors
            .filter(|&(&doing, &goroutine)| goroutine && doing != Activity::Done)
            .count()
    }

    /// Whether an operation on a socket, or a select with such a case, has not ended.
    fn waits_on(&self, socket: usize) -> bool {
        let waits = |&doing: &Activity| match doing {
            Activity::Wait(other, _) => other == socket,
            Activity::Await(wait) => self.ledger.waits[wait].is_for(socket),
            _ => false,
        };
        self.actors.iter().any(waits)
    }

    /// Whether an actor waits in a cancel, although it is cancelled by the time `next`.
    fn waits_cancelled(&self, computer: &Computer, actor: usize, next: Nanos) -> bool {
        let can_end = match self.actors[actor] {
            Activity::Await(wait) => self.ledger.waits[wait].can_be_cancelled(),
            doing => cancels::ends(doing),
        };
        let due = self.ledger.cancels.reaches_at(actor);
        can_end && (due <= computer.now() - SLACK || due < next - SLACK)
    }

    pub(crate) fn is_closing(&self, socket: usize) -> bool {
        self.sockets[socket].close.is_some()
    }

    fn may_wait(
        &self,
        computer: &Computer,
        socket: usize,
        mode: Mode,
        next: Nanos,
    ) -> Result<(), String> {
        let state = &self.sockets[socket];
        if state.close.is_some() {
            return Err("waits on a descriptor that is closing".into());
        }
        if computer.kernel.borrow().could(self.files[socket], mode) {
            return Err("waits although the descriptor is ready".into());
        }
        let settings = state
            .settings
            .iter()
            .filter(|setting| setting.mode.is_none_or(|m| m == mode));
        let Some(last) = settings.clone().max_by_key(|setting| setting.begin) else {
            return Ok(());
        };
        // Either of two settings that overlap in time may be in force.
        let candidates: Vec<_> = settings
            .filter(|setting| setting.end >= last.begin)
            .collect();
        let time = |setting: &&Setting| match setting.deadline {
            Deadline::None => Nanos::MAX,
            Deadline::Passed => Nanos::MIN,
            Deadline::At(when) => when,
        };
        match candidates.iter().map(time).max() {
            Some(time) if time <= computer.now() - SLACK => Err("waits beyond its deadline".into()),
            Some(time) if time < next - SLACK => Err("would wait beyond its deadline".into()),
            _ => Ok(()),
        }
    }
}

/// Checks the counts of Ms at rest.
fn all_idle(sched: &Sched) -> Result<(), String> {
    let procs = sched.config().procs;
    match sched.num_idle() {
        (idle, 0) if idle == procs => Ok(()),
        (idle, spinning) => Err(format!(
            "all {procs} Ms sleep, but {idle} are counted as idle and {spinning} as spinning"
        )),
    }
}
