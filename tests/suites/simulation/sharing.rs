//! Channels, selects and alarms whose operations the ledger checks.

use crate::computer::computer;
use crate::kernel::Kernel;
use crate::ledger::{Attempt, Cause, Idle, Ledger, Side};
use crate::oracle::{Activity, Call};
use crate::program::{Actor, Socket, judge, sched};
use gopark_core::alarm::Alarm;
use gopark_core::chan::{self, Receiver, RecvArm, SendArm, Sender};
use gopark_core::fd::{FdError, ReadyArm};
use gopark_core::join::Join;
use gopark_core::os::{Mode, Nanos};
use gopark_core::polldesc::PollError;
use gopark_core::sched::Sched;
use gopark_core::select::{CancelledArm, Case, Limit};
use std::mem::ManuallyDrop;

/// Calls `f` with the ledger. The ledger is free again when a verdict ends the run.
pub(crate) fn ledger<T>(f: impl FnOnce(&mut Ledger) -> T) -> T {
    f(&mut computer().oracle.borrow_mut().ledger)
}

/// A value with its number in the ledger, twice: a value that was copied in part is noticed.
pub(crate) struct Value(usize, usize);

impl Value {
    fn new(attempt: Attempt) -> Self {
        let number = ledger(|ledger| ledger.add_value(attempt));
        Value(number, !number)
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if self.1 != !self.0 {
            computer().fail(format!("a value is {:x} and {:x}", self.0, self.1));
        }
        judge(ledger(|ledger| ledger.dropped(self.0)));
    }
}

/// A handle of a channel. The ledger counts handles.
pub(crate) struct End<H> {
    handle: ManuallyDrop<H>,
    pub(crate) id: usize,
    side: Side,
}

pub(crate) type Tx = End<Sender<Value, &'static Sched>>;
pub(crate) type Rx = End<Receiver<Value, &'static Sched>>;

/// Makes a channel. `usize::MAX` stands for no bound.
pub(crate) fn channel(capacity: usize) -> (Tx, Rx) {
    let (sender, receiver) = match capacity {
        usize::MAX => chan::unbounded(sched()),
        _ => chan::bounded(capacity, sched()),
    };
    let id = ledger(|ledger| ledger.add_channel(capacity));
    (
        End::new(sender, id, Side::Sending),
        End::new(receiver, id, Side::Receiving),
    )
}

impl<H> End<H> {
    fn new(handle: H, id: usize, side: Side) -> Self {
        ledger(|ledger| ledger.handle_made(id, side));
        let handle = ManuallyDrop::new(handle);
        End { handle, id, side }
    }

    /// Closes the channel by `close`.
    pub(crate) fn close(&self, close: impl FnOnce(&H) -> bool) {
        ledger(|ledger| ledger.close_begins(self.id));
        let first = close(&self.handle);
        judge(ledger(|ledger| ledger.close_ends(self.id, first)));
    }
}

impl<H: Clone> Clone for End<H> {
    fn clone(&self) -> Self {
        Self::new(H::clone(&self.handle), self.id, self.side)
    }
}

impl<H> Drop for End<H> {
    fn drop(&mut self) {
        ledger(|ledger| ledger.handle_goes(self.id, self.side));
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.handle) };
        ledger(|ledger| ledger.handle_gone(self.id, self.side));
    }
}

/// How an operation on a channel ended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Ended {
    Done,
    Closed,
    Blocked,
    Cancelled,
}

impl From<Idle> for Ended {
    fn from(why: Idle) -> Self {
        match why {
            Idle::Closed => Ended::Closed,
            Idle::Blocked | Idle::Lost => Ended::Blocked,
            Idle::Cancelled => Ended::Cancelled,
        }
    }
}

impl Actor {
    /// Waits by `f` for one of several causes.
    pub(crate) fn awaits<T>(self, causes: Vec<Cause>, limit: Limit, f: impl FnOnce() -> T) -> T {
        let (doing, number) = {
            let mut oracle = computer().oracle.borrow_mut();
            let number = oracle.ledger.awaits(causes, limit, computer().now());
            let doing = match limit {
                Limit::Now => Activity::Running,
                Limit::At(_) | Limit::Never => Activity::Await(number),
            };
            (doing, number)
        };
        // An operation that ends at once makes no system call. Without this step, a loop of such
        // operations would stop the clock.
        computer().step("awaits", [self.0 as u64, number as u64]);
        self.during(doing, f)
    }

    /// An operation has given up.
    pub(crate) fn gives_up(self, limit: Limit) {
        match limit {
            Limit::Now => {}
            Limit::At(when) if when <= computer().now() => {}
            _ => computer().fail(format!("actor {} gave up before {limit:?}", self.0)),
        }
    }

    /// Why an operation has failed that could wait. Its error for a close is that for a cancel.
    fn explain(self, why: Idle, limit: Limit) -> Idle {
        match why {
            Idle::Closed if limit != Limit::Now && self.may_be_cancelled() => Idle::Cancelled,
            _ => why,
        }
    }

    pub(crate) fn send(self, to: &Tx, limit: Limit) -> Ended {
        use gopark_core::chan::{SendError, SendTimeoutError, TrySendError};
        let attempt = ledger(|ledger| ledger.begins(to.id, Side::Sending));
        let value = Value::new(attempt);
        let number = value.0;
        let doomed = limit != Limit::Now && self.is_doomed();
        let back = self.awaits(vec![Cause::Send(to.id)], limit, || match limit {
            Limit::Now => to.handle.try_send(value).map_err(|error| match error {
                TrySendError::Full(value) => (Idle::Blocked, value),
                TrySendError::Disconnected(value) => (Idle::Closed, value),
            }),
            Limit::At(when) => to
                .handle
                .send_deadline(value, when)
                .map_err(|error| match error {
                    SendTimeoutError::Timeout(value) => (Idle::Blocked, value),
                    SendTimeoutError::Disconnected(value) => (Idle::Closed, value),
                }),
            Limit::Never => {
                let sent = to.handle.send(value);
                sent.map_err(|SendError(value)| (Idle::Closed, value))
            }
        });
        let back = back.map_err(|(why, value)| (self.explain(why, limit), value));
        match back {
            Err((Idle::Cancelled, _)) => {}
            _ => self.was_not_cancelled(doomed),
        }
        if matches!(back, Err((Idle::Blocked, _))) {
            self.gives_up(limit);
        }
        self.sent(attempt, number, back)
    }

    fn sent(self, attempt: Attempt, number: usize, back: Result<(), (Idle, Value)>) -> Ended {
        let (verdict, ended) = match &back {
            Ok(()) => (ledger(|ledger| ledger.sent(attempt, number)), Ended::Done),
            Err((_, value)) if value.0 != number => {
                let why = format!("value {} came back instead of {number}", value.0);
                (Err(why), Ended::Done)
            }
            Err((why, _)) => {
                let returned = ledger(|ledger| ledger.returned(attempt, number, *why));
                (returned, Ended::from(*why))
            }
        };
        judge(verdict);
        computer().note("sent", [number as u64, ended as u64]);
        ended
    }

    pub(crate) fn receive(self, from: &Rx, limit: Limit) -> Ended {
        use gopark_core::chan::{RecvError, RecvTimeoutError, TryRecvError};
        let attempt = ledger(|ledger| ledger.begins(from.id, Side::Receiving));
        let doomed = limit != Limit::Now && self.is_doomed();
        let got = self.awaits(vec![Cause::Receive(from.id)], limit, || match limit {
            Limit::Now => from.handle.try_recv().map_err(|error| match error {
                TryRecvError::Empty => Idle::Blocked,
                TryRecvError::Disconnected => Idle::Closed,
            }),
            Limit::At(when) => from
                .handle
                .recv_deadline(when)
                .map_err(|error| match error {
                    RecvTimeoutError::Timeout => Idle::Blocked,
                    RecvTimeoutError::Disconnected => Idle::Closed,
                }),
            Limit::Never => from.handle.recv().map_err(|RecvError| Idle::Closed),
        });
        let got = got.map_err(|why| self.explain(why, limit));
        match got {
            Err(Idle::Cancelled) => {}
            _ => self.was_not_cancelled(doomed),
        }
        if matches!(got, Err(Idle::Blocked)) {
            self.gives_up(limit);
        }
        self.received(attempt, got)
    }

    fn received(self, attempt: Attempt, got: Result<Value, Idle>) -> Ended {
        let (verdict, ended) = match &got {
            Ok(value) => {
                computer().note("received", [attempt.channel as u64, value.0 as u64]);
                (
                    ledger(|ledger| ledger.received(attempt, value.0)),
                    Ended::Done,
                )
            }
            Err(why) => (
                ledger(|ledger| ledger.idle(attempt, *why)),
                Ended::from(*why),
            ),
        };
        judge(verdict);
        ended
    }
}

/// An alarm. One actor at a time stops and resets it.
pub(crate) struct Bell {
    alarm: Alarm<&'static Sched>,
    id: usize,
}

impl Bell {
    pub(crate) fn new() -> Self {
        Bell {
            alarm: Alarm::new(sched()),
            id: ledger(Ledger::add_alarm),
        }
    }

    /// Stops the alarm, or resets it to a time and a period.
    pub(crate) fn set(&self, next: Option<(Nanos, Option<Nanos>)>) {
        let computer = computer();
        computer.step(
            "set alarm",
            [self.id as u64, next.map_or(0, |(due, _)| due as u64)],
        );
        ledger(|ledger| ledger.stop_begins(computer, self.id, next));
        let active = match next {
            Some((due, period)) => self.alarm.reset(due, period),
            None => self.alarm.stop(),
        };
        computer.note("alarm is set", [self.id as u64, active.into()]);
        judge(ledger(|ledger| ledger.stop_ends(computer, self.id, active)));
    }

    fn rang(&self, since: u64, value: Nanos) {
        computer().note("rang", [self.id as u64, value as u64]);
        judge(ledger(|ledger| {
            ledger.rang(computer(), self.id, since, value)
        }));
    }
}

impl Actor {
    /// Waits for an alarm.
    pub(crate) fn hear(self, bell: &Bell, limit: Limit) {
        let since = ledger(Ledger::ring_begins);
        let receiver = bell.alarm.receiver();
        let doomed = limit != Limit::Now && self.is_doomed();
        let got = self.awaits(vec![Cause::Alarm(bell.id)], limit, || match limit {
            Limit::Now => receiver.try_recv().ok(),
            Limit::At(when) => receiver.recv_deadline(when).ok(),
            Limit::Never => receiver.recv().ok(),
        });
        match got {
            Some(value) => {
                self.was_not_cancelled(doomed);
                bell.rang(since, value);
            }
            None if limit != Limit::Now && self.may_be_cancelled() => {}
            None => self.gives_up(limit),
        }
    }
}

/// A case of a select.
pub(crate) enum Arm<'a> {
    Send(&'a Tx),
    Receive(&'a Rx),
    Hear(&'a Bell),
    Join(&'a (Actor, Join<usize>)),
    Ready(&'a Socket, Mode),
    Cancelled,
}

/// A case under way.
enum Open<'a> {
    Send(Attempt, usize, SendArm<'a, Value, &'static Sched>),
    Receive(Attempt, RecvArm<'a, Value, &'static Sched>),
    Hear(u64, &'a Bell, RecvArm<'a, Nanos, &'static Sched>),
    Join(&'a (Actor, Join<usize>)),
    Ready(Call, usize, ReadyArm<'a>),
    Cancelled(CancelledArm),
}

impl<'a> Arm<'a> {
    /// What the oracle knows the case by, unless it is the cancel of the actor.
    fn cause(&self) -> Option<Cause> {
        Some(match self {
            Arm::Send(to) => Cause::Send(to.id),
            Arm::Receive(from) => Cause::Receive(from.id),
            Arm::Hear(bell) => Cause::Alarm(bell.id),
            Arm::Join((actor, _)) => Cause::Join(actor.0),
            Arm::Ready(socket, mode) => Cause::Ready(socket.id, *mode),
            Arm::Cancelled => return None,
        })
    }

    fn open(&self) -> Open<'a> {
        match *self {
            Arm::Send(to) => {
                let attempt = ledger(|ledger| ledger.begins(to.id, Side::Sending));
                let value = Value::new(attempt);
                Open::Send(attempt, value.0, to.handle.arm(value))
            }
            Arm::Receive(from) => {
                let attempt = ledger(|ledger| ledger.begins(from.id, Side::Receiving));
                Open::Receive(attempt, from.handle.arm())
            }
            Arm::Hear(bell) => {
                let since = ledger(Ledger::ring_begins);
                Open::Hear(since, bell, bell.alarm.receiver().arm())
            }
            Arm::Join(child) => Open::Join(child),
            Arm::Ready(socket, mode) => {
                let computer = computer();
                let call = computer.oracle.borrow_mut().begin(computer);
                Open::Ready(call, socket.id, socket.fd.ready_arm(mode, Kernel::probe))
            }
            Arm::Cancelled => Open::Cancelled(CancelledArm::default()),
        }
    }
}

impl Open<'_> {
    fn case(&self) -> Case<'_> {
        match self {
            Open::Send(_, _, arm) => arm.case(),
            Open::Receive(_, arm) => arm.case(),
            Open::Hear(_, _, arm) => arm.case(),
            Open::Join((_, join)) => join.case(),
            Open::Ready(_, _, arm) => arm.case(),
            Open::Cancelled(arm) => arm.case(),
        }
    }

    /// Checks what has become of the case. `idle` is why it was not taken, if it was not, and
    /// `closed` why it may have been taken and have failed.
    fn finish(self, actor: Actor, idle: Option<Idle>, closed: Idle) -> Ended {
        let lost = |what: &str| computer().fail(format!("{what} by a case that was not taken"));
        match self {
            Open::Send(attempt, number, arm) => {
                let why = idle.unwrap_or(closed);
                let back = arm.finish().map_err(|error| (why, error.0));
                if back.is_ok() && idle.is_some() {
                    lost("a value was sent");
                }
                actor.sent(attempt, number, back)
            }
            Open::Receive(attempt, arm) => {
                let got = arm.finish().map_err(|_| idle.unwrap_or(closed));
                if got.is_ok() && idle.is_some() {
                    lost("a value was received");
                }
                actor.received(attempt, got)
            }
            Open::Hear(since, bell, arm) => match (arm.finish(), idle) {
                (Ok(value), None) => {
                    bell.rang(since, value);
                    Ended::Done
                }
                (Err(_), Some(_)) => Ended::Blocked,
                (Err(_), None) if closed == Idle::Cancelled => Ended::Cancelled,
                (got, _) => {
                    lost(&format!("{got:?} was got from an alarm"));
                    Ended::Closed
                }
            },
            Open::Join((child, join)) => {
                let result = join.take();
                if (result, idle, closed) == (None, None, Idle::Cancelled) {
                    return Ended::Cancelled;
                }
                if result != idle.is_none().then_some(child.0) {
                    computer().fail(format!("the goroutine of {} returned {result:?}", child.0));
                }
                Ended::Done
            }
            Open::Ready(call, socket, arm) => {
                let result = arm.finish();
                if idle.is_some() {
                    return Ended::Done;
                }
                if result == Err(FdError::Poll(PollError::Cancelled)) {
                    actor.was_cancelled();
                    return Ended::Cancelled;
                }
                actor.found_ready(socket, call, result);
                Ended::Done
            }
            Open::Cancelled(_) if idle.is_some() => Ended::Blocked,
            Open::Cancelled(_) => {
                actor.was_cancelled();
                Ended::Cancelled
            }
        }
    }
}

impl Actor {
    fn found_ready(self, socket: usize, call: Call, result: Result<(), FdError>) {
        let computer = computer();
        computer.note("ready", [socket as u64, result.is_ok().into()]);
        let verdict = computer
            .oracle
            .borrow()
            .ready(computer, socket, call, &result);
        judge(verdict);
    }

    /// Waits for the first of several cases. Returns its index, and how its operation ended.
    pub(crate) fn select(
        self,
        arms: &[Arm<'_>],
        biased: bool,
        limit: Limit,
    ) -> Option<(usize, Ended)> {
        let open: Vec<_> = arms.iter().map(Arm::open).collect();
        let causes = arms.iter().filter_map(Arm::cause).collect();
        let asks = |arm: &Arm<'_>| limit != Limit::Now || matches!(arm, Arm::Cancelled);
        let doomed = arms.iter().any(asks) && self.is_doomed();
        let picked = {
            let cases: Vec<_> = open.iter().map(Open::case).collect();
            self.awaits(causes, limit, || sched().select(&cases, biased, limit))
        };
        if picked.is_none() {
            self.gives_up(limit);
        }
        computer().note(
            "selected",
            [self.0 as u64, picked.map_or(99, |index| index as u64)],
        );
        let mut outcome = None;
        for (index, case) in open.into_iter().enumerate() {
            let idle = match picked {
                None => Some(Idle::Blocked),
                Some(taken) => (taken != index).then_some(Idle::Lost),
            };
            let ended = case.finish(self, idle, self.explain(Idle::Closed, limit));
            if idle.is_none() {
                outcome = Some((index, ended));
            }
        }
        if !matches!(outcome, Some((_, Ended::Cancelled))) {
            self.was_not_cancelled(doomed);
        }
        outcome
    }
}
