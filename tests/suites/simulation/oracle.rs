//! What a run must obey, judged from outside the scheduler: which results an operation may have, and who may sleep when nobody runs.
//!
//! | rule | of `go-semantics` | judged |
//! |---|---|---|
//! | a timeout needs a deadline in force that has passed; a passed one lets nothing through | K6, K7 | when an operation ends |
//! | closing needs a close; after it there is nothing else, and one close of many succeeds | K8 | when an operation ends |
//! | no bytes lost, doubled, or mixed with another writer's; an end only after an end | K17 | when an operation ends |
//! | nobody sleeps who has a reason to go on | K1, K3, K18 | when nobody can run |
//! | whoever waits in a poller is counted, once | K4 | when nobody can run |
//! | the clock does not jump over anybody's hour | K10, K11 | when nobody can run |
//! | no event lies in a poller in which nobody sleeps; nobody shares one | K13, K14 | when nobody can run, or goes to sleep |
//! | no goroutine is runnable while an M sleeps | bug 16 | when nobody can run, or all who do compute |
//! | every M is counted as idle, none as spinning | bug 17 | when nobody can run |
//! | no descriptor, watch or goroutine is left | K8, K15 | at the end |
//!
//! K2, K5, K9 and K12 are panics, assertions and locks of core itself, which run here as everywhere.

use crate::kernel::ENOMEM;
use crate::machine::World;
use gopark_core::fd::FdError;
use gopark_core::os::{Mode, Nanos};
use gopark_core::polldesc::{Deadline, PollError};
use std::collections::BTreeSet;

/// What an actor is at.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Doing {
    /// Spawned, and has not run.
    New,
    Running,
    Wait(usize, Mode),
    Close(usize),
    Sema(usize),
    Join(usize),
    Sleep(Nanos),
    Done,
}

/// A deadline that somebody set, from the beginning of the call to its end.
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
    /// When the first close began and ended, in steps, and its time.
    close: Option<(u64, u64)>,
    closes: usize,
}

pub(crate) struct Oracle {
    pub(crate) seed: u64,
    pub(crate) actors: Vec<Doing>,
    pub(crate) goroutine: Vec<bool>,
    pub(crate) files: Vec<usize>,
    pub(crate) sockets: Vec<SocketState>,
    /// Permits given and taken, by semaphore.
    pub(crate) permits: Vec<(usize, usize)>,
    /// The clock at each step that a call began or ended with: `(step, time)`, ascending.
    times: Vec<(u64, Nanos)>,
}

/// A call under way.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    begin: u64,
}

/// How late whoever waits for an hour may be: between a look at the clock and the sleep that follows from it no time passes, unless each
/// access to memory takes some.
pub(crate) const SLACK: Nanos = if cfg!(steps) { 10_000_000 } else { 0 };

const UNDER_WAY: u64 = u64::MAX;

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
        }
    }

    pub(crate) fn stamp(&mut self, world: &World) -> u64 {
        let stamp = self.times.len() as u64;
        self.times.push((world.steps(), world.now()));
        stamp
    }

    fn time(&self, stamp: u64) -> Nanos {
        self.times[stamp as usize].1
    }

    pub(crate) fn begin(&mut self, world: &World) -> Call {
        Call {
            begin: self.stamp(world),
        }
    }

    /// Until when a setting may have been in force: until the end of a later one of the same direction.
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

    /// Whether a timeout between two stamps has a deadline to refer to.
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

    /// Whether a deadline that was in force for the whole of a call had passed before it began, beyond doubt.
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

    /// Judges how an operation has ended.
    pub(crate) fn end<T>(
        &mut self,
        world: &World,
        socket: usize,
        mode: Mode,
        call: Call,
        result: &Result<T, FdError>,
    ) -> Result<(), String> {
        let end = self.stamp(world);
        let state = &self.sockets[socket];
        let closing_began = state.close.is_some_and(|(begin, _)| begin <= end);
        let closed_before = state
            .close
            .is_some_and(|(_, close_end)| close_end < call.begin);
        match result {
            Err(FdError::Poll(PollError::Closing)) if !closing_began => Err(format!(
                "socket {socket} says closing, and nobody closes it"
            )),
            Err(FdError::Poll(PollError::Closing)) => Ok(()),
            Err(FdError::Poll(PollError::NotPollable))
                if !world.kernel.borrow().files[self.files[socket]].told_error =>
            {
                Err(format!("socket {socket} says not pollable, and is"))
            }
            Err(FdError::Os(errno))
                if errno.raw() == ENOMEM
                    && !world.kernel.borrow().files[self.files[socket]].refused =>
            {
                Err(format!(
                    "socket {socket} says that the system refused it, which did not"
                ))
            }
            _ if closed_before => Err(format!(
                "an operation on socket {socket} did not say closing after the close"
            )),
            Err(FdError::Poll(PollError::Timeout)) => {
                match self.may_time_out(socket, mode, call.begin, end) {
                    true => Ok(()),
                    false => Err(format!(
                        "socket {socket} timed out in direction {mode:?} without a deadline that has passed"
                    )),
                }
            }
            _ if self.must_fail(socket, mode, call.begin) => Err(format!(
                "socket {socket} went on in direction {mode:?} though its deadline had passed before"
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn set_begins(
        &mut self,
        world: &World,
        socket: usize,
        mode: Option<Mode>,
        deadline: Deadline,
    ) -> usize {
        let begin = self.stamp(world);
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
        world: &World,
        socket: usize,
        setting: usize,
        refused: bool,
    ) -> Result<(), String> {
        let end = self.stamp(world);
        let state = &mut self.sockets[socket];
        let begin = state.settings[setting].begin;
        if refused {
            // It has changed nothing: as if it had begun and ended before all others.
            state.settings[setting] = Setting {
                deadline: Deadline::None,
                mode: None,
                begin: 0,
                end: 0,
            };
            return match state.close {
                Some((close, _)) if close <= end => Ok(()),
                _ => Err(format!(
                    "a deadline of socket {socket} was refused, and nobody closes it"
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

    pub(crate) fn close_begins(&mut self, world: &World, socket: usize) {
        let begin = self.stamp(world);
        self.sockets[socket].close.get_or_insert((begin, UNDER_WAY));
    }

    pub(crate) fn close_ends(
        &mut self,
        world: &World,
        socket: usize,
        closed: bool,
    ) -> Result<(), String> {
        let end = self.stamp(world);
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

    /// Nobody can run, and the clock is about to jump to `next`: who sleeps that must not?
    pub(crate) fn at_rest(&self, world: &World, next: Nanos) -> Result<(), String> {
        let sched = world.sched.get().expect("started");
        let (computing, config) = (world.busy(), sched.config());
        let busy = computing > 0;
        let mut waits = BTreeSet::new();
        for (actor, &doing) in self.actors.iter().enumerate() {
            let wrong =
                |why: &str| Err(format!("nobody runs, and actor {actor}, {doing:?}, {why}"));
            match doing {
                // While one M computes, those at home there wait for it; those that may run anywhere do not.
                Doing::New if self.goroutine[actor] && computing < config.procs => {
                    return wrong("could start: it lies in a queue");
                }
                _ if busy => {}
                Doing::New | Doing::Running => return wrong("could run: it lies in a queue"),
                Doing::Sleep(when) if when <= world.now() - SLACK => {
                    return wrong("has slept long enough");
                }
                Doing::Sleep(when) if when < next - SLACK => return wrong("would oversleep"),
                Doing::Join(other) if self.actors[other] == Doing::Done => {
                    return wrong("waits for one who has ended");
                }
                Doing::Sema(sema) if self.permits[sema].0 > self.permits[sema].1 => {
                    return wrong("could have a permit");
                }
                Doing::Close(socket) if !waits_on(&self.actors, socket) => {
                    return wrong("waits for nobody to let go");
                }
                Doing::Wait(socket, mode) => {
                    if let Err(why) = self.may_wait(world, socket, mode, next) {
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
        if let Some(poller) = world.kernel.borrow().unfetched() {
            return Err(format!(
                "nobody runs, and poller {poller} has events that nobody waits for"
            ));
        }
        if sched.num_poll_waiters() != waits.len() {
            return Err(format!(
                "{} are counted as waiting in pollers, and {waits:?} do",
                sched.num_poll_waiters()
            ));
        }
        let alive = self
            .actors
            .iter()
            .zip(&self.goroutine)
            .filter(|&(&doing, &goroutine)| goroutine && doing != Doing::Done)
            .count();
        if sched.num_goroutines() != alive {
            return Err(format!(
                "{} goroutines are counted, and {alive} have not ended",
                sched.num_goroutines()
            ));
        }
        match sched.num_idle() {
            (idle, 0) if idle == config.procs => Ok(()),
            (idle, spinning) => Err(format!(
                "all {} Ms sleep, {idle} are counted so, and {spinning} as spinning",
                config.procs
            )),
        }
    }

    fn may_wait(
        &self,
        world: &World,
        socket: usize,
        mode: Mode,
        next: Nanos,
    ) -> Result<(), String> {
        let state = &self.sockets[socket];
        if state.close.is_some() {
            return Err("waits on a descriptor that is closing".into());
        }
        if world.kernel.borrow().could(self.files[socket], mode) {
            return Err("waits for what is there".into());
        }
        let settings = state
            .settings
            .iter()
            .filter(|setting| setting.mode.is_none_or(|m| m == mode));
        let Some(last) = settings.clone().max_by_key(|setting| setting.begin) else {
            return Ok(());
        };
        // Of two that were set at the same time, either may hold.
        let candidates: Vec<_> = settings
            .filter(|setting| setting.end >= last.begin)
            .collect();
        let hour = |setting: &&Setting| match setting.deadline {
            Deadline::None => Nanos::MAX,
            Deadline::Passed => Nanos::MIN,
            Deadline::At(when) => when,
        };
        match candidates.iter().map(hour).max() {
            Some(hour) if hour <= world.now() - SLACK => Err("waits beyond its deadline".into()),
            Some(hour) if hour < next - SLACK => Err("would wait beyond its deadline".into()),
            _ => Ok(()),
        }
    }
}

fn waits_on(actors: &[Doing], socket: usize) -> bool {
    actors
        .iter()
        .any(|doing| matches!(doing, Doing::Wait(s, _) if *s == socket))
}
