//! A select's operations, and the wait for the first of them. `Select` and the macros use it.

use crate::channel::{Flavor, Receiver, Sender};
use crate::clock::Clock;
use crate::error::RecvError;
use crate::promise::{Obtained, Permit, Slot, promise};
use crate::random::random;
use crate::selected::{Erased, Selected};
use crate::shared::Waiting;
use gopark::select::{AtArm, Case, Global, RecvArm, SendArm, cancelled, pick};
pub use gopark::select::{Limit, within};
use std::ops::DerefMut;
use std::time::{Duration, Instant};

/// A limit at `deadline`.
pub(crate) fn until(deadline: Instant) -> Limit {
    within(deadline.saturating_duration_since(Instant::now()))
}

/// One operation of one select.
pub trait Operation {
    /// Gets ready for a wait, or for one more.
    fn prepare(&mut self, announces: bool);

    /// The event to wait for. `None` if it never comes.
    fn case(&self) -> Option<Case<'_>>;

    /// Whether the event is that of a clock. A cancel of the goroutine does not make it fail.
    fn is_clock(&self) -> bool;

    /// Whether the event is a time that has come after the select began.
    fn is_late(&self) -> bool;

    /// Completes the operation after its event. Returns false if another receiver was faster, and
    /// the select must start over.
    fn claim(&mut self) -> bool;

    /// The wait is over.
    fn settle(&mut self);
}

/// An operation whose type is unknown to a `Select`.
pub(crate) trait Selectable: Operation {
    /// What the program completes, after the operation was selected.
    fn into_selected(self: Box<Self>) -> Erased;
}

/// A receive for one select.
pub struct RecvOp<'a, T> {
    receiver: &'a Receiver<T>,
    event: Event<'a, T>,
    waiting: Option<Waiting<'a>>,
}

enum Event<'a, T> {
    Channel(RecvArm<'a, Slot<T>, Global>),
    Clock {
        clock: &'a Clock,
        began: Instant,
        /// When the message comes that the arm waits for.
        due: Option<(Instant, AtArm)>,
        message: fn(Instant) -> T,
        received: Option<Instant>,
    },
    Never,
}

impl<'a, T> RecvOp<'a, T> {
    /// A receive from `receiver`.
    #[inline]
    pub fn new(receiver: &'a Receiver<T>) -> Self {
        let event = match receiver.flavor() {
            Flavor::Channel(shared) => Event::Channel(gopark::select::recv(shared.receiver())),
            Flavor::Clock(clock, message) => Event::Clock {
                clock,
                began: Instant::now(),
                due: None,
                message: *message,
                received: None,
            },
            Flavor::Never => Event::Never,
        };
        RecvOp {
            receiver,
            event,
            waiting: None,
        }
    }

    /// What the selected receive returns.
    #[inline]
    pub fn finish(self) -> Result<T, RecvError> {
        let receiver = self.receiver;
        self.take()?.open().map_or_else(|| receiver.recv(), Ok)
    }

    /// What the selected receive has taken. The message may have yet to be made.
    fn take(self) -> Result<Slot<T>, RecvError> {
        match self.event {
            Event::Channel(arm) => arm.finish().map_err(|_| RecvError),
            Event::Clock {
                received, message, ..
            } => received
                .map(|time| Slot::Message(message(time)))
                .ok_or(RecvError),
            Event::Never => Err(RecvError),
        }
    }
}

impl<T> Operation for RecvOp<'_, T> {
    fn prepare(&mut self, announces: bool) {
        match (&mut self.event, self.receiver.flavor()) {
            (Event::Clock { clock, due, .. }, _) => {
                *due = clock.due().map(|due| (due, arm_at(due)));
            }
            (Event::Channel(_), Flavor::Channel(shared)) if announces && self.waiting.is_none() => {
                self.waiting = shared.announce_receive();
            }
            _ => {}
        }
    }

    #[inline]
    fn case(&self) -> Option<Case<'_>> {
        match &self.event {
            Event::Channel(arm) => Some(arm.case()),
            Event::Clock { due, .. } => due.as_ref().map(|(_, arm)| arm.case()),
            Event::Never => None,
        }
    }

    fn is_clock(&self) -> bool {
        !matches!(self.event, Event::Channel(_))
    }

    fn is_late(&self) -> bool {
        match &self.event {
            Event::Clock { began, due, .. } => due.as_ref().is_some_and(|(due, _)| due > began),
            Event::Channel(_) | Event::Never => false,
        }
    }

    fn claim(&mut self) -> bool {
        match &mut self.event {
            Event::Channel(_) => {
                if let Some(watchers) = crate::channel::Handle::watchers(self.receiver) {
                    watchers.wake();
                }
                true
            }
            Event::Clock {
                clock,
                began,
                due: Some((due, _)),
                received,
                ..
            } => {
                *received = clock.take(*due, *began).then_some(*due);
                received.is_some()
            }
            Event::Clock { due: None, .. } | Event::Never => false,
        }
    }

    fn settle(&mut self) {
        self.waiting = None;
    }
}

/// The event that `due` comes. A time that has come for `Instant` has come for the arm.
fn arm_at(due: Instant) -> AtArm {
    /// By so much at most, the scheduler's clock is behind `Instant`: it was set by reading one
    /// after the other.
    const SKEW: Duration = Duration::from_millis(1);
    let has_come = due <= Instant::now();
    let earlier = has_come.then(|| due.checked_sub(SKEW)).flatten();
    gopark::select::at(earlier.unwrap_or(due))
}

impl<T> Selectable for RecvOp<'_, T> {
    fn into_selected(self: Box<Self>) -> Erased {
        Erased::new(Selected::Received(self.take()))
    }
}

/// A send for one select. Its message is evaluated when it is selected.
pub struct SendOp<'a, T> {
    sender: &'a Sender<T>,
    arm: SendArm<'a, Slot<T>, Global>,
    permit: Permit<T>,
    waiting: Option<Waiting<'a>>,
}

impl<'a, T> SendOp<'a, T> {
    /// A send to `sender`.
    #[inline]
    pub fn new(sender: &'a Sender<T>) -> Self {
        let (permit, slot) = promise();
        SendOp {
            sender,
            arm: gopark::select::send(sender.shared().sender(), slot),
            permit,
            waiting: None,
        }
    }

    /// What the selected send has obtained.
    #[inline]
    pub fn finish(self) -> Obtained<T> {
        Obtained(self.arm.finish().ok().map(|()| self.permit))
    }
}

impl<T> Operation for SendOp<'_, T> {
    fn prepare(&mut self, announces: bool) {
        if announces && self.waiting.is_none() {
            self.waiting = self.sender.shared().announce_send();
        }
    }

    #[inline]
    fn case(&self) -> Option<Case<'_>> {
        Some(self.arm.case())
    }

    fn is_clock(&self) -> bool {
        false
    }

    fn is_late(&self) -> bool {
        false
    }

    fn claim(&mut self) -> bool {
        self.sender.shared().watchers.wake();
        true
    }

    fn settle(&mut self) {
        self.waiting = None;
    }
}

impl<T> Selectable for SendOp<'_, T> {
    fn into_selected(self: Box<Self>) -> Erased {
        Erased::new(Selected::Obtained(self.finish()))
    }
}

/// Waits for the first of `ops` and lets it happen. Returns its index, or `None` at the limit. If
/// several are possible, it takes one at random, or the first if `biased`.
pub(crate) fn select<O>(ops: &mut [O], biased: bool, limit: Limit) -> Option<usize>
where
    O: DerefMut<Target: Operation>,
{
    loop {
        for op in &mut *ops {
            op.prepare(limit != Limit::Now);
        }
        let mut picked = select_once(ops, biased, limit);
        if matches!(picked, Some(Picked::Event(index)) if ops[index].is_late()) {
            // A wait ends with the first time that comes. Others may have come since, and compete.
            picked = select_once(ops, biased, Limit::Now).or(picked);
        }
        let index = match picked {
            None => None,
            Some(Picked::Event(index)) if ops[index].claim() => Some(index),
            Some(Picked::Event(_)) => continue,
            Some(Picked::Cancelled) => Some(0),
        };
        ops.iter_mut().for_each(|op| op.settle());
        return index;
    }
}

enum Picked {
    Event(usize),
    /// No operation is done: the goroutine is cancelled.
    Cancelled,
}

/// In place of an operation's index.
const CANCELLED: usize = usize::MAX;

/// So many operations need no allocation.
const INLINE: usize = 8;

fn select_once<O>(ops: &[O], biased: bool, limit: Limit) -> Option<Picked>
where
    O: DerefMut<Target: Operation>,
{
    // Channels fail if the goroutine is cancelled. Among clocks alone, the first operation does.
    let cancel = cancelled();
    let is_clocks = !ops.is_empty() && ops.iter().all(|op| op.is_clock());
    let extra = (is_clocks && limit != Limit::Now).then_some((CANCELLED, cancel.case()));
    let cases = ops
        .iter()
        .enumerate()
        .filter_map(|(index, op)| Some((index, op.case()?)))
        .chain(extra);
    let mut indices = [0; INLINE + 1];
    let mut listed = [cancel.case(); INLINE + 1];
    let (mut all_indices, mut all_listed): (Vec<_>, Vec<_>);
    let (indices, listed) = if ops.len() <= INLINE {
        let mut count = 0;
        for (index, case) in cases {
            (indices[count], listed[count]) = (index, case);
            count += 1;
        }
        (&mut indices[..count], &mut listed[..count])
    } else {
        (all_indices, all_listed) = cases.unzip();
        (&mut all_indices[..], &mut all_listed[..])
    };
    if !biased {
        // gopark tries the cases in a random order, and then queues them in that of the list. An
        // event takes the first node of its channel, which the select may have several of.
        for end in (1..indices.len()).rev() {
            let other = random(end as u32 + 1) as usize;
            indices.swap(end, other);
            listed.swap(end, other);
        }
    }
    let index = indices[pick(listed, biased, limit)?];
    Some(match index {
        CANCELLED => Picked::Cancelled,
        index => Picked::Event(index),
    })
}
