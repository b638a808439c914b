//! What actors do with channels, alarms and locks, and what must hold of it.
//!
//! When an operation ends:
//!
//! - Each value is received once, comes back to its sender, or is dropped with its channel.
//! - If a send begins after another one has ended, its value is received after the other's.
//! - A send or receive does nothing only if it could do nothing. `Closed` needs a close, and after
//!   the close there is no other reason.
//! - Only one close succeeds.
//! - An alarm's value is of an arming in force, not early, and one for each arming or tick. The
//!   result of a stop tells whether there is a value.
//!
//! At rest, no actor waits for what is there. The locks have their owners in the `Ledger` only: an
//! actor that locks checks that no other actor owns the lock.

use crate::cancels::Cancels;
use crate::computer::Computer;
use crate::oracle::{Activity, Oracle, SLACK, UNDER_WAY};
use gopark_core::os::{Mode, Nanos};
use gopark_core::select::Limit;

/// What may end a wait. The first number is that of a channel, alarm, socket, actor or lock.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Cause {
    Send(usize),
    Receive(usize),
    Alarm(usize),
    Ready(usize, Mode),
    Join(usize),
    Lock(usize),
    StdLock(usize),
    Read(usize),
    Write(usize),
    Stock(usize),
    Permits(usize, usize),
    Group(usize),
    Cancel(usize),
}

/// A wait for the first of several causes.
pub(crate) struct Await {
    causes: Vec<Cause>,
    limit: Nanos,
    since: Nanos,
}

impl Await {
    pub(crate) fn is_for(&self, socket: usize) -> bool {
        let is = |cause: &Cause| matches!(cause, Cause::Ready(other, _) if *other == socket);
        self.causes.iter().any(is)
    }

    /// Whether a cancel of the actor ends it.
    pub(crate) fn can_be_cancelled(&self) -> bool {
        self.causes.iter().any(|cause| match cause {
            Cause::Send(_) | Cause::Receive(_) | Cause::Alarm(_) | Cause::Ready(..) => true,
            Cause::Join(_) | Cause::Permits(..) | Cause::Cancel(_) => true,
            Cause::Lock(_) | Cause::Read(_) | Cause::Write(_) => false,
            Cause::StdLock(_) | Cause::Stock(_) | Cause::Group(_) => false,
        })
    }
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) waits: Vec<Await>,
    pub(crate) channels: Vec<Channel>,
    values: Vec<ValueState>,
    alarms: Vec<Vec<Arming>>,
    /// The owner of each mutex.
    pub(crate) mutexes: Vec<Option<usize>>,
    /// The owner of each lock of the kind that `std` has.
    pub(crate) std_locks: Vec<Option<usize>>,
    /// The number of readers of each read-write lock, and whether it has a writer.
    pub(crate) rwlocks: Vec<(usize, bool)>,
    /// What consumers wait for with a condition variable or a notification.
    pub(crate) stocks: Vec<usize>,
    /// The free permits of each semaphore.
    pub(crate) permits: Vec<usize>,
    /// The members of each wait group.
    pub(crate) groups: Vec<usize>,
    pub(crate) cancels: Cancels,
    stamps: u64,
}

/// The ends of a channel.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Side {
    Sending,
    Receiving,
}

/// The handles of one side.
#[derive(Default)]
struct Handles {
    made: usize,
    /// Those whose drop has begun, and those whose drop has ended.
    going: usize,
    gone: usize,
}

pub(crate) struct Channel {
    pub(crate) capacity: usize,
    handles: [Handles; 2],
    /// Whether a close has begun.
    closing: bool,
    /// The stamp at which a close had ended.
    closed: Option<u64>,
    closes: usize,
    /// Sends and receives that have succeeded, and those under way.
    done: [usize; 2],
    under_way: [usize; 2],
    /// For each receive its end, and the latest begin of the sends whose values were received then.
    order: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Life {
    /// Its send has not ended.
    Sending,
    Sent,
    Received,
    /// It came back to its sender.
    Returned,
    Dropped,
}

struct ValueState {
    channel: usize,
    begin: u64,
    end: u64,
    life: Life,
}

/// A send or receive that has not ended.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) channel: usize,
    side: Side,
    begin: u64,
    /// How many operations of the other side had succeeded before.
    before: usize,
}

/// Why an attempt did nothing.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Idle {
    Closed,
    /// It would have had to wait, or waited until its limit.
    Blocked,
    /// Another case of the select was taken.
    Lost,
    /// The actor is cancelled.
    Cancelled,
}

/// A time, and where it stands among the events of a run.
#[derive(Clone, Copy)]
struct Moment {
    stamp: u64,
    time: Nanos,
}

/// An alarm, from one reset to the next one or to a stop.
struct Arming {
    begin: Moment,
    /// Whether the reset has returned.
    set: bool,
    due: Nanos,
    period: Option<Nanos>,
    /// When the reset or stop began that ended it, and when it returned.
    over: Option<(Moment, Moment)>,
    /// What that reset or stop returned.
    stopped: Option<bool>,
    got: Vec<Nanos>,
    /// Another arming may have sent the values.
    doubtful: bool,
}

type Verdict = Result<(), String>;

fn wrong<T>(why: String) -> Result<T, String> {
    Err(why)
}

impl Ledger {
    fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    /// Notes a wait, and returns its number.
    pub(crate) fn awaits(&mut self, causes: Vec<Cause>, limit: Limit, since: Nanos) -> usize {
        let limit = match limit {
            Limit::At(when) => when,
            Limit::Now | Limit::Never => Nanos::MAX,
        };
        self.waits.push(Await {
            causes,
            limit,
            since,
        });
        self.waits.len() - 1
    }

    pub(crate) fn add_channel(&mut self, capacity: usize) -> usize {
        self.channels.push(Channel {
            capacity,
            handles: Default::default(),
            closing: false,
            closed: None,
            closes: 0,
            done: [0; 2],
            under_way: [0; 2],
            order: Vec::new(),
        });
        self.channels.len() - 1
    }

    pub(crate) fn handle_made(&mut self, channel: usize, side: Side) {
        self.channels[channel].handles[side as usize].made += 1;
    }

    /// A handle is about to be dropped. The last one of a side closes the channel.
    pub(crate) fn handle_goes(&mut self, channel: usize, side: Side) {
        let state = &mut self.channels[channel];
        let handles = &mut state.handles[side as usize];
        handles.going += 1;
        state.closing |= handles.going == handles.made;
    }

    pub(crate) fn handle_gone(&mut self, channel: usize, side: Side) {
        let stamp = self.stamp();
        let state = &mut self.channels[channel];
        let handles = &mut state.handles[side as usize];
        handles.gone += 1;
        if handles.gone == handles.made {
            state.closed.get_or_insert(stamp);
        }
    }

    pub(crate) fn close_begins(&mut self, channel: usize) {
        self.channels[channel].closing = true;
    }

    pub(crate) fn close_ends(&mut self, channel: usize, first: bool) -> Verdict {
        let stamp = self.stamp();
        let state = &mut self.channels[channel];
        state.closed.get_or_insert(stamp);
        state.closes += usize::from(first);
        match state.closes {
            0 | 1 => Ok(()),
            _ => wrong(format!("channel {channel} was closed twice")),
        }
    }

    pub(crate) fn begins(&mut self, channel: usize, side: Side) -> Attempt {
        let begin = self.stamp();
        let state = &mut self.channels[channel];
        state.under_way[side as usize] += 1;
        Attempt {
            channel,
            side,
            begin,
            before: state.done[1 - side as usize],
        }
    }

    /// Makes a value that `attempt` is about to send.
    pub(crate) fn add_value(&mut self, attempt: Attempt) -> usize {
        self.values.push(ValueState {
            channel: attempt.channel,
            begin: attempt.begin,
            end: UNDER_WAY,
            life: Life::Sending,
        });
        self.values.len() - 1
    }

    /// The value was sent, says the operation.
    pub(crate) fn sent(&mut self, attempt: Attempt, number: usize) -> Verdict {
        let stamp = self.stamp();
        let state = &mut self.channels[attempt.channel];
        state.under_way[Side::Sending as usize] -= 1;
        state.done[Side::Sending as usize] += 1;
        let value = &mut self.values[number];
        value.end = stamp;
        if value.life == Life::Sending {
            value.life = Life::Sent;
        }
        match state.closed {
            Some(closed) if closed < attempt.begin => wrong(format!(
                "value {number} was sent after the close of channel {}",
                attempt.channel
            )),
            _ => Ok(()),
        }
    }

    /// The value came back to its sender.
    pub(crate) fn returned(&mut self, attempt: Attempt, number: usize, why: Idle) -> Verdict {
        let value = &mut self.values[number];
        if value.life != Life::Sending {
            return wrong(format!(
                "value {number} came back to its sender, but was {:?}",
                value.life
            ));
        }
        value.life = Life::Returned;
        self.idle(attempt, why)
    }

    pub(crate) fn received(&mut self, attempt: Attempt, number: usize) -> Verdict {
        let stamp = self.stamp();
        let state = &mut self.channels[attempt.channel];
        state.under_way[Side::Receiving as usize] -= 1;
        state.done[Side::Receiving as usize] += 1;
        let value = &mut self.values[number];
        if value.channel != attempt.channel || !matches!(value.life, Life::Sending | Life::Sent) {
            return wrong(format!(
                "channel {} yields value {number} of channel {}, which was {:?}",
                attempt.channel, value.channel, value.life
            ));
        }
        value.life = Life::Received;
        let earlier = state
            .order
            .iter()
            .rev()
            .find(|(end, _)| *end < attempt.begin);
        if earlier.is_some_and(|(_, begin)| *begin > value.end) {
            return wrong(format!(
                "value {number} was overtaken by one that was sent later"
            ));
        }
        let latest = state.order.last().map_or(0, |(_, begin)| *begin);
        state.order.push((stamp, latest.max(value.begin)));
        Ok(())
    }

    /// An attempt has ended and done nothing.
    pub(crate) fn idle(&mut self, attempt: Attempt, why: Idle) -> Verdict {
        let side = attempt.side;
        let state = &mut self.channels[attempt.channel];
        state.under_way[side as usize] -= 1;
        let begun = |side: Side| state.done[side as usize] + state.under_way[side as usize];
        // What was certainly possible from the begin of the attempt to its end.
        let possible = match side {
            Side::Sending => begun(side) < state.capacity.saturating_add(attempt.before),
            Side::Receiving => attempt.before > begun(side),
        };
        let closed_before = state.closed.is_some_and(|closed| closed < attempt.begin);
        let fault = match why {
            Idle::Lost | Idle::Cancelled => return Ok(()),
            Idle::Closed if !state.closing => "says closed, but no actor closes it",
            Idle::Closed if side == Side::Receiving && possible => "says closed, but has a value",
            Idle::Blocked if possible && state.capacity > 0 => "did nothing, but could",
            Idle::Blocked if closed_before => "does not say that it is closed",
            _ => return Ok(()),
        };
        wrong(format!("{side:?}: channel {} {fault}", attempt.channel))
    }

    /// A value is dropped by its owner.
    pub(crate) fn dropped(&mut self, number: usize) -> Verdict {
        let value = &mut self.values[number];
        let life = std::mem::replace(&mut value.life, Life::Dropped);
        let state = &mut self.channels[value.channel];
        let receivers = &state.handles[Side::Receiving as usize];
        match life {
            Life::Received | Life::Returned => Ok(()),
            Life::Sending | Life::Sent if receivers.going == receivers.made => {
                state.done[Side::Receiving as usize] += 1;
                Ok(())
            }
            _ => wrong(format!("value {number} was dropped, but was {life:?}")),
        }
    }

    /// Checks the end of a run.
    pub(crate) fn at_end(&self) -> Verdict {
        if let Some(lost) = self
            .values
            .iter()
            .position(|value| value.life != Life::Dropped)
        {
            return wrong(format!(
                "value {lost} is {:?} at the end",
                self.values[lost].life
            ));
        }
        let silent = |arming: &Arming| {
            arming.period.is_none()
                && arming.stopped == Some(false)
                && arming.got.is_empty()
                && !arming.doubtful
        };
        match self
            .alarms
            .iter()
            .position(|armings| armings.iter().any(silent))
        {
            Some(alarm) => wrong(format!(
                "a stop of alarm {alarm} says that its value was received, but it was not"
            )),
            None => Ok(()),
        }
    }
}

/// Alarms.
impl Ledger {
    fn moment(&mut self, computer: &Computer) -> Moment {
        Moment {
            stamp: self.stamp(),
            time: computer.now(),
        }
    }

    pub(crate) fn add_alarm(&mut self) -> usize {
        self.alarms.push(Vec::new());
        self.alarms.len() - 1
    }

    /// A stop begins, or a reset to the time and period of `next`.
    pub(crate) fn stop_begins(
        &mut self,
        computer: &Computer,
        alarm: usize,
        next: Option<(Nanos, Option<Nanos>)>,
    ) {
        let begin = self.moment(computer);
        let never = Moment {
            stamp: UNDER_WAY,
            time: Nanos::MAX,
        };
        if let Some(last) = self.alarms[alarm].last_mut() {
            last.over.get_or_insert((begin, never));
        }
        if let Some((due, period)) = next {
            self.alarms[alarm].push(Arming {
                begin,
                set: false,
                due,
                period,
                over: None,
                stopped: None,
                got: Vec::new(),
                doubtful: false,
            });
        }
    }

    pub(crate) fn stop_ends(&mut self, computer: &Computer, alarm: usize, active: bool) -> Verdict {
        let end = self.moment(computer);
        if let Some(new) = self.alarms[alarm]
            .last_mut()
            .filter(|new| new.over.is_none())
        {
            new.set = true;
        }
        let ends =
            |arming: &&mut Arming| arming.over.is_some_and(|(_, end)| end.stamp == UNDER_WAY);
        let Some(ended) = self.alarms[alarm].iter_mut().find(ends) else {
            let new = self.alarms[alarm].last();
            return match active && new.is_none_or(|arming| arming.stopped.is_none()) {
                true => wrong(format!("alarm {alarm} was active, but not armed")),
                false => Ok(()),
            };
        };
        ended.over = ended.over.map(|(begin, _)| (begin, end));
        ended.stopped = Some(active);
        match ended.period.is_none() && active && !ended.got.is_empty() && !ended.doubtful {
            true => wrong(format!(
                "alarm {alarm} was active, but its value was received"
            )),
            false => Ok(()),
        }
    }

    /// A receive that began at `since` has got the time `value` from an alarm.
    pub(crate) fn rang(
        &mut self,
        computer: &Computer,
        alarm: usize,
        since: u64,
        value: Nanos,
    ) -> Verdict {
        let now = computer.now();
        let sends = |arming: &&mut Arming| {
            let ended = arming
                .over
                .is_some_and(|(_, end)| end.stamp < since || end.time < value);
            !ended && arming.due <= value && arming.begin.time <= value
        };
        let mut senders: Vec<_> = self.alarms[alarm].iter_mut().filter(sends).collect();
        let doubtful = senders.len() > 1;
        senders
            .iter_mut()
            .for_each(|arming| arming.doubtful |= doubtful);
        let Some(arming) = senders.pop().filter(|_| value <= now) else {
            return wrong(format!(
                "alarm {alarm} sent {value}, for which it was not armed"
            ));
        };
        let tick = |at: Nanos| arming.period.map_or(0, |period| (at - arming.due) / period);
        let twice = arming.got.iter().any(|&before| tick(before) == tick(value));
        arming.got.push(value);
        match (twice && !arming.doubtful, arming.stopped, arming.period) {
            (true, ..) => wrong(format!("alarm {alarm} sent two values at once")),
            (_, Some(true), None) if !arming.doubtful => wrong(format!(
                "alarm {alarm} sent a value, but was stopped before"
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn ring_begins(&mut self) -> u64 {
        self.stamp()
    }

    /// When an actor that has waited since a time gets a value of the alarm at the latest.
    fn rings(&self, alarm: usize, since: Nanos) -> Nanos {
        let Some(arming) = self.alarms[alarm].last() else {
            return Nanos::MAX;
        };
        if arming.over.is_some() || !arming.set || arming.doubtful {
            return Nanos::MAX;
        }
        match arming.period {
            None if arming.got.is_empty() => arming.due,
            None => Nanos::MAX,
            Some(period) => {
                let last = arming.got.iter().fold(since, |last, &got| last.max(got));
                let ticks = (last - arming.due).div_euclid(period) + 1;
                arming.due.saturating_add(period * ticks.max(0))
            }
        }
    }
}

/// Waits at rest.
impl Oracle {
    /// Checks the wait of an actor at rest, before the clock jumps to `next`.
    pub(crate) fn may_await(
        &self,
        computer: &Computer,
        actor: usize,
        wait: usize,
        next: Nanos,
    ) -> Verdict {
        let Await {
            causes,
            limit,
            since,
        } = &self.ledger.waits[wait];
        if *limit < next - SLACK || *limit <= computer.now() - SLACK {
            return wrong(format!(
                "would wait beyond its limit {limit} for {causes:?}"
            ));
        }
        for &cause in causes {
            if self.has_come(computer, actor, cause, *since, next) {
                return wrong(format!("waits for {causes:?} although there is {cause:?}"));
            }
        }
        Ok(())
    }

    /// How many sockets a wait is for.
    pub(crate) fn sockets_awaited(&self, wait: usize) -> usize {
        let causes = self.ledger.waits[wait].causes.iter();
        causes
            .filter(|cause| matches!(cause, Cause::Ready(..)))
            .count()
    }

    /// What the actors wait for, except one of them.
    fn awaited(&self, except: usize) -> impl Iterator<Item = Cause> + '_ {
        let others = self
            .actors
            .iter()
            .enumerate()
            .filter(move |(actor, _)| *actor != except);
        others.flat_map(|(_, doing)| match *doing {
            Activity::Await(wait) => self.ledger.waits[wait].causes.iter().copied(),
            _ => [].iter().copied(),
        })
    }

    fn has_come(
        &self,
        computer: &Computer,
        actor: usize,
        cause: Cause,
        since: Nanos,
        next: Nanos,
    ) -> bool {
        let ledger = &self.ledger;
        let other_waits = |cause| self.awaited(actor).any(|other| other == cause);
        match cause {
            Cause::Send(channel) => {
                let state = &ledger.channels[channel];
                let free = state.done[0] < state.capacity.saturating_add(state.done[1]);
                state.closed.is_some() || free || other_waits(Cause::Receive(channel))
            }
            Cause::Receive(channel) => {
                let state = &ledger.channels[channel];
                let filled = state.done[0] > state.done[1];
                state.closed.is_some() || filled || other_waits(Cause::Send(channel))
            }
            Cause::Alarm(alarm) => ledger.rings(alarm, since) < next - SLACK,
            Cause::Ready(socket, mode) => {
                let file = self.files[socket];
                self.is_closing(socket) || computer.kernel.borrow().could(file, mode)
            }
            Cause::Join(other) => self.actors[other] == Activity::Done,
            Cause::Lock(mutex) => ledger.mutexes[mutex].is_none(),
            Cause::StdLock(lock) => ledger.std_locks[lock].is_none(),
            Cause::Read(lock) => !ledger.rwlocks[lock].1 && !other_waits(Cause::Write(lock)),
            Cause::Write(lock) => ledger.rwlocks[lock] == (0, false),
            Cause::Stock(stock) => ledger.stocks[stock] > 0,
            // The first in the queue may want more than the others. It wants at most the most.
            Cause::Permits(semaphore, _) => {
                let of = |cause| match cause {
                    Cause::Permits(other, n) if other == semaphore => Some(n),
                    _ => None,
                };
                let wanted = self.awaited(usize::MAX).filter_map(of).max();
                wanted.is_some_and(|n| n <= ledger.permits[semaphore])
            }
            Cause::Group(group) => ledger.groups[group] == 0,
            Cause::Cancel(cancel) => ledger.cancels.due(cancel) < next - SLACK,
        }
    }
}
