//! Channels and selects against plain queues of numbers. Every value is received once or comes back
//! to its sender once, and is dropped once.
//!
//! There is one thread. When an operation waits, the rest of the program runs inside its futex wait
//! until a step wakes it. So the operations that wait are nested, and the innermost resumes first.
#![allow(unsafe_code, reason = "the program continues inside a futex wait")]

use super::{Receiver, RecvArm, SendArm, SendError, Sender, bounded};
use crate::fuzz::base::{FuzzOs, sched};
use crate::os::Nanos;
use crate::sched::Sched;
use crate::select::{Limit, TimeArm};
use crate::sync::{AtomicU32, Ordering};
use crate::waiter::WaiterList;
use core::cell::{Cell, RefCell};
use core::{mem, ptr};
use std::collections::VecDeque;
use std::vec::Vec;

/// The last has no bound.
const CAPACITIES: [usize; 4] = [0, 1, 5, usize::MAX];
/// The most operations that wait at the same time: each takes a part of the stack.
const WAITS_MAX: usize = 10;
/// The time that the clock of `FuzzOs` shows.
const PAST: Nanos = 1;
/// Later than every time limit.
const END: Nanos = 1 << 40;

type Tx = Sender<Token, &'static Sched>;
type Rx = Receiver<Token, &'static Sched>;

std::thread_local! {
    /// Whether the token with this number exists.
    static LIVE: RefCell<Vec<bool>> = const { RefCell::new(Vec::new()) };
    static DRIVER: Cell<*const Driver<'static>> = const { Cell::new(ptr::null()) };
}

/// A value. A block of the buffer holds two.
struct Token {
    number: usize,
    _weight: [u8; 2000],
}

impl Token {
    fn new() -> Self {
        LIVE.with_borrow_mut(|live| {
            live.push(true);
            Token {
                number: live.len() - 1,
                _weight: [0; 2000],
            }
        })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let was_live = LIVE.with_borrow_mut(|live| mem::replace(&mut live[self.number], false));
        assert!(was_live, "token {} is dropped twice", self.number);
    }
}

/// What an operation of one arm brought.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Event {
    Sent,
    Received(usize),
    Closed,
    Came,
}

/// The number of the arm, and its event. `None` is the time limit.
type Ended = Option<(usize, Event)>;

#[derive(Clone, Copy)]
enum Arm {
    Send { channel: usize, token: usize },
    Receive { channel: usize },
    Time(Nanos),
}

struct Wait {
    arms: Vec<Arm>,
    limit: Limit,
    ended: Option<Ended>,
}

#[derive(Default)]
struct Queues {
    buffer: VecDeque<usize>,
    /// The numbers of waits and arms.
    senders: VecDeque<(usize, usize)>,
    receivers: VecDeque<(usize, usize)>,
    closed: bool,
}

struct Model {
    now: Nanos,
    channels: [Queues; CAPACITIES.len()],
    waits: Vec<Wait>,
}

struct Driver<'a> {
    ends: [(Tx, Rx); CAPACITIES.len()],
    steps: Cell<&'a [u8]>,
    model: RefCell<Model>,
    /// The wait that the next futex wait belongs to.
    next: Cell<Option<usize>>,
    /// The waits that sleep, and their words.
    asleep: RefCell<Vec<(usize, *const AtomicU32)>>,
}

/// Two bytes are one step: what (3 bits), on which channel (2) and which arms (3), and how.
pub fn run(input: &[u8]) {
    LIVE.with_borrow_mut(Vec::clear);
    let driver = Driver {
        ends: CAPACITIES.map(|capacity| bounded(capacity, sched())),
        steps: Cell::new(input),
        model: RefCell::new(Model {
            now: 1_000,
            channels: CAPACITIES.map(|_| Queues::default()),
            waits: Vec::new(),
        }),
        next: Cell::new(None),
        asleep: RefCell::default(),
    };
    DRIVER.set((&raw const driver).cast());
    FuzzOs::on_sleep(sleep);
    while driver.step() {}
    DRIVER.set(ptr::null());
    driver.finish();
}

/// The futex wait of an operation: runs further steps until one has woken it.
fn sleep(word: &AtomicU32) {
    // SAFETY: `run` has stored the address, and its frame is further out on this stack.
    let driver = unsafe { &*DRIVER.get() };
    let wait = driver.next.take();
    let wait = wait.expect("an operation waits although it is possible");
    driver.asleep.borrow_mut().push((wait, word));
    while word.load(Ordering::Relaxed) == 0 {
        if !driver.step() {
            (0..CAPACITIES.len()).for_each(|channel| driver.close(channel));
            driver.pass(END);
        }
    }
    driver.asleep.borrow_mut().retain(|&(at, _)| at != wait);
}

impl Model {
    fn is_possible(&self, arm: Arm) -> bool {
        match arm {
            Arm::Send { channel, .. } => {
                let queues = &self.channels[channel];
                queues.closed
                    || !queues.receivers.is_empty()
                    || queues.buffer.len() < CAPACITIES[channel]
            }
            Arm::Receive { channel } => {
                let queues = &self.channels[channel];
                queues.closed || !queues.buffer.is_empty() || !queues.senders.is_empty()
            }
            Arm::Time(when) => when <= PAST,
        }
    }

    /// Does an operation that is possible.
    fn operate(&mut self, arm: Arm) -> Event {
        let (channel, token) = match arm {
            Arm::Send { channel, token } => (&mut self.channels[channel], token),
            Arm::Receive { channel } => return self.receive(channel),
            Arm::Time(_) => return Event::Came,
        };
        if channel.closed {
            return Event::Closed;
        }
        match channel.receivers.front() {
            Some(&receiver) => self.end(receiver, Event::Received(token)),
            None => channel.buffer.push_back(token),
        }
        Event::Sent
    }

    fn receive(&mut self, channel: usize) -> Event {
        let mut value = self.channels[channel].buffer.pop_front();
        if let Some(&sender) = self.channels[channel].senders.front() {
            let Arm::Send { token, .. } = self.waits[sender.0].arms[sender.1] else {
                unreachable!("a sender sends");
            };
            self.end(sender, Event::Sent);
            match value {
                Some(_) => self.channels[channel].buffer.push_back(token),
                None => value = Some(token),
            }
        }
        value.map_or(Event::Closed, Event::Received)
    }

    fn end(&mut self, (wait, arm): (usize, usize), event: Event) {
        self.ended(wait, Some((arm, event)));
    }

    fn ended(&mut self, wait: usize, ended: Ended) {
        self.waits[wait].ended = Some(ended);
        for channel in &mut self.channels {
            channel.senders.retain(|&(queued, _)| queued != wait);
            channel.receivers.retain(|&(queued, _)| queued != wait);
        }
    }

    /// Adds a wait for the first of these arms.
    fn wait(&mut self, arms: &[Arm], limit: Limit) -> usize {
        let wait = self.waits.len();
        for (number, arm) in arms.iter().enumerate() {
            let queue = match *arm {
                Arm::Send { channel, .. } => &mut self.channels[channel].senders,
                Arm::Receive { channel } => &mut self.channels[channel].receivers,
                Arm::Time(_) => continue,
            };
            queue.push_back((wait, number));
        }
        self.waits.push(Wait {
            arms: arms.to_vec(),
            limit,
            ended: None,
        });
        wait
    }
}

impl Driver<'_> {
    /// Makes one step. False if there is none.
    fn step(&self) -> bool {
        let &[what, how, ref rest @ ..] = self.steps.get() else {
            return false;
        };
        self.steps.set(rest);
        let channel = usize::from(what >> 3 & 3);
        match what & 7 {
            0 => self.send(channel, Limit::Never),
            1 => self.receive(channel, Limit::Never),
            2 => self.send(channel, self.limit(how)),
            3 => self.receive(channel, self.limit(how)),
            4 | 5 => self.select(channel, what >> 5, how),
            6 if how < 16 => self.close(channel),
            6 if how & 8 == 0 => (0..how & 7).for_each(|_| self.send(channel, Limit::Now)),
            6 => (0..how & 7).for_each(|_| self.receive(channel, Limit::Now)),
            _ => self.pass(Nanos::from(how)),
        }
        true
    }

    fn limit(&self, how: u8) -> Limit {
        match how & 3 {
            0 => Limit::Now,
            1 => Limit::At(PAST),
            _ => Limit::At(self.model.borrow().now + Nanos::from(how >> 2)),
        }
    }

    fn send(&self, channel: usize, limit: Limit) {
        let token = Token::new();
        let number = token.number;
        let arm = Arm::Send {
            channel,
            token: number,
        };
        let tx = &self.ends[channel].0;
        self.operate(&[arm], true, limit, || {
            let sent = match limit {
                Limit::Never => tx.send(token).map_err(|error| (true, error.into_inner())),
                Limit::Now => tx
                    .try_send(token)
                    .map_err(|error| (error.is_disconnected(), error.into_inner())),
                Limit::At(when) => tx
                    .send_deadline(token, when)
                    .map_err(|error| (error.is_disconnected(), error.into_inner())),
            };
            match sent {
                Ok(()) => Some((0, Event::Sent)),
                Err((closed, token)) => {
                    assert_eq!(token.number, number, "another value comes back");
                    closed.then_some((0, Event::Closed))
                }
            }
        });
    }

    fn receive(&self, channel: usize, limit: Limit) {
        let arm = Arm::Receive { channel };
        let rx = &self.ends[channel].1;
        self.operate(&[arm], true, limit, || {
            let received = match limit {
                Limit::Never => rx.recv().map_err(|_| true),
                Limit::Now => rx.try_recv().map_err(|error| error.is_disconnected()),
                Limit::At(when) => rx
                    .recv_deadline(when)
                    .map_err(|error| error.is_disconnected()),
            };
            match received {
                Ok(token) => Some((0, Event::Received(token.number))),
                Err(closed) => closed.then_some((0, Event::Closed)),
            }
        });
    }

    /// A select of 1, 2, 3 or 9 arms on channels in a row, with a time as the last arm or without.
    /// One bit of `sends` says whether an arm sends.
    fn select(&self, first: usize, sends: u8, how: u8) {
        let limit = match how >> 3 & 3 {
            0 => self.limit(how >> 5),
            _ => Limit::Never,
        };
        let mut tokens = Vec::new();
        let mut arms = Vec::from_iter((0..[1, 2, 3, 9][usize::from(how & 3)]).map(|i: usize| {
            let channel = (first + i * (1 + usize::from(how >> 7))) % CAPACITIES.len();
            if sends >> (i % 3) & 1 == 0 {
                return Arm::Receive { channel };
            }
            let sent = Token::new();
            let token = sent.number;
            tokens.push(sent);
            Arm::Send { channel, token }
        }));
        if let (1, Limit::At(when)) = (how >> 3 & 3, self.limit(how >> 5)) {
            arms.push(Arm::Time(when));
        }
        let biased = how & 4 == 0;
        self.operate(&arms, biased, limit, || {
            self.select_among(&arms, tokens, biased, limit)
        });
    }

    fn select_among(&self, arms: &[Arm], tokens: Vec<Token>, biased: bool, limit: Limit) -> Ended {
        enum Built<'a> {
            Send(SendArm<'a, Token, &'static Sched>),
            Receive(RecvArm<'a, Token, &'static Sched>),
            Time(TimeArm),
        }
        let mut tokens = tokens.into_iter();
        let built = Vec::from_iter(arms.iter().map(|arm| match *arm {
            Arm::Send { channel, .. } => {
                let token = tokens.next().expect("there is a token for each send");
                Built::Send(self.ends[channel].0.arm(token))
            }
            Arm::Receive { channel } => Built::Receive(self.ends[channel].1.arm()),
            Arm::Time(when) => Built::Time(TimeArm::new(sched(), when)),
        }));
        let cases = Vec::from_iter(built.iter().map(|arm| match arm {
            Built::Send(arm) => arm.case(),
            Built::Receive(arm) => arm.case(),
            Built::Time(arm) => arm.case(),
        }));
        let chosen = sched().select(&cases, biased, limit);
        drop(cases);
        for (number, arm) in built.into_iter().enumerate() {
            let event = match arm {
                Built::Send(arm) => match arm.finish() {
                    Ok(()) => Some(Event::Sent),
                    Err(SendError(back)) => {
                        let Arm::Send { token, .. } = arms[number] else {
                            unreachable!("the arm sends");
                        };
                        assert_eq!(back.number, token, "another value comes back");
                        None
                    }
                },
                Built::Receive(arm) => arm.finish().ok().map(|token| Event::Received(token.number)),
                Built::Time(_) => (chosen == Some(number)).then_some(Event::Came),
            };
            if chosen == Some(number) {
                return chosen.map(|number| (number, event.unwrap_or(Event::Closed)));
            }
            assert_eq!(event, None, "an arm happens that was not chosen");
        }
        None
    }

    /// Runs an operation and compares its end with the model's.
    fn operate(&self, arms: &[Arm], biased: bool, limit: Limit, run: impl FnOnce() -> Ended) {
        let possible = {
            let model = self.model.borrow();
            let possible = (0..arms.len()).filter(|&number| model.is_possible(arms[number]));
            Vec::from_iter(possible)
        };
        let waits = possible.is_empty() && !matches!(limit, Limit::Now | Limit::At(..=PAST));
        if waits && self.asleep.borrow().len() == WAITS_MAX {
            return;
        }
        let wait = waits.then(|| self.model.borrow_mut().wait(arms, limit));
        self.next.set(wait);
        let ended = run();
        let mut model = self.model.borrow_mut();
        let expected = match (wait, ended) {
            (Some(wait), _) => model.waits[wait]
                .ended
                .expect("an operation ends by itself"),
            (None, Some((number, _))) if possible.contains(&number) => {
                assert!(!biased || number == possible[0], "not the first arm");
                Some((number, model.operate(arms[number])))
            }
            (None, _) => {
                assert!(possible.is_empty(), "a possible operation does not happen");
                None
            }
        };
        assert_eq!(ended, expected, "how an operation ends");
        drop(model);
        self.compare();
    }

    fn close(&self, channel: usize) {
        let first = self.ends[channel].1.close();
        let mut model = self.model.borrow_mut();
        let queues = &mut model.channels[channel];
        assert_eq!(mem::replace(&mut queues.closed, true), !first);
        loop {
            let queues = &model.channels[channel];
            let waiter = queues.receivers.front().or(queues.senders.front());
            let Some(&waiter) = waiter else { break };
            model.end(waiter, Event::Closed);
        }
        drop(model);
        self.compare();
    }

    /// Advances the clock and runs the timers.
    fn pass(&self, by: Nanos) {
        let mut model = self.model.borrow_mut();
        model.now += by;
        for wait in 0..model.waits.len() {
            let Wait { arms, limit, ended } = &model.waits[wait];
            let is_over = |when: &Nanos| *when <= model.now;
            let came = arms
                .iter()
                .position(|arm| matches!(arm, Arm::Time(when) if is_over(when)));
            if ended.is_some() {
                continue;
            }
            if let Some(arm) = came {
                model.end((wait, arm), Event::Came);
            } else if matches!(limit, Limit::At(when) if is_over(when)) {
                model.ended(wait, None);
            }
        }
        let now = model.now;
        drop(model);
        let mut woken = WaiterList::new();
        sched().timers().run(now, &mut woken);
        sched().ready_list(woken);
        self.compare();
    }

    /// Compares the channels with the model, and the waits that are woken.
    fn compare(&self) {
        let model = self.model.borrow();
        for (queues, (tx, _)) in model.channels.iter().zip(&self.ends) {
            assert_eq!(tx.len(), queues.buffer.len());
            assert_eq!(tx.is_closed(), queues.closed);
        }
        for &(wait, word) in &*self.asleep.borrow() {
            // SAFETY: the word of an operation that waits further out on this stack.
            let woken = unsafe { &*word }.load(Ordering::Relaxed) != 0;
            assert_eq!(
                woken,
                model.waits[wait].ended.is_some(),
                "whether wait {wait} is woken"
            );
        }
    }

    /// Asserts that no operation has left a node or a timer. Then drops the ends.
    fn finish(self) {
        assert_eq!(sched().timers().next(), None, "a timer is left");
        let mut senders = Vec::new();
        for (tx, rx) in self.ends {
            let queued = rx
                .channel()
                .with(|state| !state.senders.is_empty() || !state.receivers.is_empty());
            assert!(!queued, "a node is left");
            senders.push(tx);
            drop(rx);
        }
        // Without receivers no value is kept, even if there are senders.
        let live = LIVE.with_borrow(|live| live.iter().filter(|&&live| live).count());
        assert_eq!(live, 0, "tokens are left");
    }
}
