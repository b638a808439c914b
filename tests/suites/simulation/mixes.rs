//! Actors that share channels, select and hear alarms.
//!
//! They end by themselves. A receiver that waits without a limit waits for all its channels, until
//! all senders are gone. A sender may therefore wait without a limit. An actor that does both, or
//! is the only one that could end its own wait, waits for a limit.

use crate::computer::computer;
use crate::kernel::Kernel;
use crate::locks::{draw_limit, draw_time};
use crate::program::{Actor, Body, Socket, below, pause, writer, yield_now};
use crate::sharing::{Arm, Bell, Ended, Rx, Tx, channel};
use gopark_core::os::{Mode, Nanos};
use gopark_core::select::Limit;
use std::sync::Arc;

fn pick<T>(list: &[T]) -> &T {
    &list[below(list.len() as u64) as usize]
}

/// Sends some values, each to any of its channels.
fn sender(actor: Actor, to: &[Tx]) {
    for _ in 0..1 + below(6) {
        let ended = match below(3) {
            0 => {
                let arms: Vec<_> = to.iter().map(Arm::Send).collect();
                let picked = actor.select(&arms, below(2) == 0, draw_limit());
                picked.map_or(Ended::Blocked, |(_, ended)| ended)
            }
            _ => actor.send(pick(to), draw_limit()),
        };
        match ended {
            Ended::Closed | Ended::Cancelled if below(2) == 0 => return,
            Ended::Blocked if below(2) == 0 => yield_now(),
            _ => pause(actor),
        }
    }
}

/// Receives until all its channels are closed, or gives up.
fn receiver(actor: Actor, mut from: Vec<Rx>, bell: &Bell) {
    let patience = [4, 40, 1000][below(3) as usize];
    while !from.is_empty() && below(patience) > 0 {
        let taken = match &from[..] {
            [from] if below(2) == 0 => {
                let limit = draw_limit();
                let ended = actor.receive(from, limit);
                if ended == Ended::Blocked && limit == Limit::Now {
                    yield_now();
                }
                Some((0, ended))
            }
            _ => {
                let mut arms: Vec<_> = from.iter().map(Arm::Receive).collect();
                if below(4) == 0 {
                    set(bell);
                    arms.push(Arm::Hear(bell));
                }
                let limit = match below(3) {
                    0 => draw_time(),
                    _ => Limit::Never,
                };
                actor.select(&arms, below(2) == 0, limit)
            }
        };
        match taken {
            Some((_, Ended::Cancelled)) => return,
            Some((index, Ended::Closed)) => _ = from.swap_remove(index),
            _ => {}
        }
        pause(actor);
    }
}

/// Sets an alarm, or stops it.
fn set(bell: &Bell) {
    let Limit::At(due) = draw_time() else { return };
    let period = 20_000 + below(300_000) as Nanos;
    bell.set(match below(4) {
        0 => None,
        1 => Some((due, Some(period))),
        2 => Some((below(2) as Nanos, None)),
        _ => Some((due, None)),
    });
}

/// Selects among all kinds of cases.
fn mixer(actor: Actor, to: &[Tx], from: &[Rx], socket: Option<&Socket>) {
    let bell = Bell::new();
    let mut child = None;
    for _ in 0..1 + below(8) {
        let mut arms = Vec::new();
        if below(3) == 0 {
            set(&bell);
        }
        if below(6) == 0 && child.is_none() {
            child = Some(Actor::go(|actor| actor.sleep(below(50_000))));
        }
        let mut joins = false;
        for _ in 0..below(5) {
            arms.push(match (below(7), socket, &child) {
                (6, ..) => Arm::Cancelled,
                (0, ..) => Arm::Hear(&bell),
                (1, _, Some(child)) if !joins => {
                    joins = true;
                    Arm::Join(child)
                }
                (2, Some(socket), _) => {
                    Arm::Ready(socket, [Mode::Read, Mode::Write][below(2) as usize])
                }
                (0..=2, ..) | (3, ..) => Arm::Receive(pick(from)),
                _ => Arm::Send(pick(to)),
            });
        }
        let limit = [Limit::Now, draw_time(), draw_time()][below(3) as usize];
        let picked = actor.select(&arms, below(2) == 0, limit);
        let joined = |(index, ended)| ended == Ended::Done && matches!(arms[index], Arm::Join(_));
        if picked.is_some_and(joined) {
            // Its result was taken.
            child = None;
        }
        pause(actor);
    }
    // Otherwise the alarm is dropped as it is, and may still fire.
    if below(3) > 0 {
        bell.set(None);
        actor.hear(&bell, Limit::Now);
    }
    if let Some(child) = child {
        actor.join(child);
    }
}

fn closer<H>(actor: Actor, end: &crate::sharing::End<H>, close: fn(&H) -> bool) {
    actor.sleep(below(2_000_000));
    end.close(close);
}

/// Hears an alarm that another actor sets.
fn listener(actor: Actor, bell: &Bell) {
    for _ in 0..1 + below(8) {
        match below(3) {
            0 => actor.hear(bell, Limit::Now),
            _ => actor.hear(bell, draw_time()),
        }
        pause(actor);
    }
}

/// Sets an alarm, which others hear.
fn ringer(actor: Actor, bell: &Bell) {
    for _ in 0..1 + below(8) {
        set(bell);
        if below(2) == 0 {
            actor.sleep(below(200_000));
        }
        pause(actor);
    }
    bell.set(None);
}

/// Hears an alarm that no other actor can stop.
fn sleeper(actor: Actor) {
    let bell = Bell::new();
    for _ in 0..1 + below(3) {
        let due = computer().now() + below(500_000) as Nanos;
        match below(2) {
            0 => {
                bell.set(Some((due, None)));
                actor.hear(&bell, Limit::Never);
            }
            _ => {
                bell.set(Some((due, Some(1 + below(200_000) as Nanos))));
                (0..1 + below(4)).for_each(|_| actor.hear(&bell, Limit::Never));
            }
        }
        pause(actor);
    }
    bell.set(None);
}

/// Waits until a socket is ready, perhaps for a time only.
pub(crate) fn await_ready(actor: Actor, socket: &Socket, mode: Mode) {
    let limit = [Limit::Never, draw_time()][below(2) as usize];
    actor.select(&[Arm::Ready(socket, mode)], true, limit);
}

/// Draws the actors of some channels.
pub(crate) fn draw(parts: &mut Vec<Body>) {
    let channels: Vec<(Tx, Rx)> = (0..1 + below(3))
        .map(|_| channel(*pick(&[0, 0, 1, 2, 5, usize::MAX])))
        .collect();
    let (all_to, all_from): (Vec<Tx>, Vec<Rx>) = channels.into_iter().unzip();
    for (to, from) in all_to.iter().zip(&all_from) {
        for _ in 0..1 + below(8) / 4 {
            let to = vec![to.clone()];
            parts.push(Box::new(move |actor| sender(actor, &to)));
        }
        for _ in 0..below(8) / 3 {
            let from = vec![from.clone()];
            parts.push(Box::new(move |actor| receiver(actor, from, &Bell::new())));
        }
        match below(8) {
            0 => {
                let to = to.clone();
                parts.push(Box::new(move |actor| {
                    closer(actor, &to, |sender| sender.close())
                }));
            }
            1 => {
                let from = from.clone();
                parts.push(Box::new(move |actor| {
                    closer(actor, &from, |end| end.close())
                }));
            }
            _ => {}
        }
    }
    let socket = (below(3) == 0).then(|| {
        let [near, far] = Kernel::pair(16);
        let far = Socket::new(far, 1, 1);
        parts.push(Box::new(move |actor| writer(actor, &far)));
        Socket::new(near, 1, 1)
    });
    for _ in 0..below(4) {
        let (to, from, socket) = (all_to.clone(), all_from.clone(), socket.clone());
        parts.push(Box::new(move |actor| {
            mixer(actor, &to, &from, socket.as_deref())
        }));
    }
    if below(2) == 0 {
        let to = all_to.clone();
        parts.push(Box::new(move |actor| sender(actor, &to)));
    }
    parts.push(Box::new(move |actor| {
        receiver(actor, all_from, &Bell::new())
    }));
    if below(3) == 0 {
        let bell = Arc::new(Bell::new());
        for _ in 0..1 + below(2) {
            let bell = bell.clone();
            parts.push(Box::new(move |actor| listener(actor, &bell)));
        }
        parts.push(Box::new(move |actor| ringer(actor, &bell)));
    }
    if below(3) == 0 {
        parts.push(Box::new(sleeper));
    }
}
