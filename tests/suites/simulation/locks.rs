//! Actors that share locks, condition variables, semaphores, notifications and wait groups. The
//! ledger keeps the owners: an owner is noted after its lock was granted, and removed before it
//! unlocks.

use crate::computer::computer;
use crate::ledger::{Cause, Ledger};
use crate::program::{Actor, Body, below, judge, pause, sched};
use crate::sharing::ledger;
use gopark_core::condvar::RawCondvar;
use gopark_core::mutex::RawMutex;
use gopark_core::notify::RawNotify;
use gopark_core::os::Nanos;
use gopark_core::rwlock::RawRwLock;
use gopark_core::sched::Sched;
use gopark_core::select::Limit;
use gopark_core::semaphore::RawSemaphore;
use gopark_core::wait_group::RawWaitGroup;
use std::sync::Arc;

/// A limit that a wait may have.
pub(crate) fn draw_limit() -> Limit {
    match below(4) {
        0 => Limit::Now,
        1 => Limit::Never,
        _ => draw_time(),
    }
}

/// A time, usually soon.
pub(crate) fn draw_time() -> Limit {
    let span = [1, 2_000, 100_000, 1_000_000][below(4) as usize];
    Limit::At(computer().now() + below(span) as Nanos)
}

impl Actor {
    /// Takes a lock or permits: at once, until a time or without a limit. Returns whether it did,
    /// and checks that it did not give up early.
    fn acquire(
        self,
        cause: Cause,
        limit: Limit,
        [now, endless]: [&dyn Fn() -> bool; 2],
        until: &dyn Fn(Nanos) -> bool,
    ) -> bool {
        let can_be_cancelled = limit != Limit::Now && matches!(cause, Cause::Permits(..));
        let doomed = can_be_cancelled && self.is_doomed();
        let done = self.awaits(vec![cause], limit, || match limit {
            Limit::Now => now(),
            Limit::At(when) => until(when),
            Limit::Never => endless(),
        });
        computer().note("acquired", [self.0 as u64, done.into()]);
        if done {
            self.was_not_cancelled(doomed);
        } else if !(can_be_cancelled && self.may_be_cancelled()) {
            self.gives_up(limit);
        }
        done
    }
}

struct Mutex {
    raw: RawMutex<&'static Sched>,
    id: usize,
}

impl Mutex {
    fn new() -> Arc<Self> {
        let id = ledger(|ledger| {
            ledger.mutexes.push(None);
            ledger.mutexes.len() - 1
        });
        let raw = RawMutex::new(sched());
        Arc::new(Mutex { raw, id })
    }

    fn lock(&self, actor: Actor, limit: Limit) -> bool {
        let endless = || {
            self.raw.lock();
            true
        };
        let cause = Cause::Lock(self.id);
        let locked = actor.acquire(cause, limit, [&|| self.raw.try_lock(), &endless], &|when| {
            self.raw.lock_until(when)
        });
        if locked {
            self.own(actor);
        }
        locked
    }

    fn own(&self, actor: Actor) {
        let before = ledger(|ledger| ledger.mutexes[self.id].replace(actor.0));
        if let Some(before) = before {
            computer().fail(format!(
                "actors {before} and {} own mutex {}",
                actor.0, self.id
            ));
        }
    }

    fn disown(&self) {
        ledger(|ledger| ledger.mutexes[self.id] = None);
    }

    fn unlock(&self) {
        self.disown();
        // SAFETY: the actor owned it until here.
        unsafe { self.raw.unlock() };
    }
}

/// Locks and unlocks a mutex.
fn locker(actor: Actor, mutex: &Mutex) {
    for _ in 0..1 + below(6) {
        if mutex.lock(actor, draw_limit()) {
            hold(actor);
            mutex.unlock();
        }
        pause(actor);
    }
}

/// Keeps what it owns for a while, and may park.
pub(crate) fn hold(actor: Actor) {
    match below(4) {
        0 => actor.sleep(below(200_000)),
        1 => sched().yield_now(),
        _ => pause(actor),
    }
}

struct RwLock {
    raw: RawRwLock<&'static Sched>,
    id: usize,
}

impl RwLock {
    /// Notes a change of the owners. `change` returns false if the lock must not have been granted.
    fn note(&self, change: impl FnOnce(&mut (usize, bool)) -> bool) {
        let (right, owners) = ledger(|ledger| {
            let owners = &mut ledger.rwlocks[self.id];
            (change(owners), *owners)
        });
        if !right {
            computer().fail(format!("lock {} was granted, owners {owners:?}", self.id));
        }
    }

    fn read(&self, actor: Actor, limit: Limit) {
        let endless = || {
            self.raw.read();
            true
        };
        let tries = || self.raw.try_read();
        let cause = Cause::Read(self.id);
        if actor.acquire(cause, limit, [&tries, &endless], &|when| {
            self.raw.read_until(when)
        }) {
            self.reads(actor);
        }
    }

    fn reads(&self, actor: Actor) {
        self.note(|(readers, writer)| {
            *readers += 1;
            !*writer
        });
        self.hold_reading(actor);
    }

    fn hold_reading(&self, actor: Actor) {
        hold(actor);
        self.note(|(readers, writer)| {
            *readers -= 1;
            !*writer
        });
        // SAFETY: the actor has read until here.
        unsafe { self.raw.unlock_read() };
    }

    fn write(&self, actor: Actor, limit: Limit) {
        let endless = || {
            self.raw.write();
            true
        };
        let tries = || self.raw.try_write();
        let cause = Cause::Write(self.id);
        if !actor.acquire(cause, limit, [&tries, &endless], &|when| {
            self.raw.write_until(when)
        }) {
            return;
        }
        self.note(|owners| std::mem::replace(owners, (0, true)) == (0, false));
        hold(actor);
        let downgrades = below(3) == 0;
        let after = (usize::from(downgrades), false);
        self.note(|owners| std::mem::replace(owners, after) == (0, true));
        // SAFETY: the actor has written until here.
        unsafe {
            match downgrades {
                true => self.raw.downgrade(),
                false => self.raw.unlock_write(),
            }
        }
        if downgrades {
            self.hold_reading(actor);
        }
    }
}

/// Reads and writes under a lock.
fn visitor(actor: Actor, lock: &RwLock) {
    for _ in 0..1 + below(6) {
        match below(3) {
            0 => lock.write(actor, draw_limit()),
            _ => lock.read(actor, draw_limit()),
        }
        pause(actor);
    }
}

/// Items that are counted only, and how consumers wait for them.
struct Stock {
    mutex: Arc<Mutex>,
    changed: RawCondvar<&'static Sched>,
    notify: RawNotify<&'static Sched>,
    id: usize,
}

impl Stock {
    fn new() -> Arc<Self> {
        Arc::new(Stock {
            mutex: Mutex::new(),
            changed: RawCondvar::new(sched()),
            notify: RawNotify::new(sched()),
            id: ledger(|ledger| added(&mut ledger.stocks, 0)),
        })
    }

    fn add(&self) {
        ledger(|ledger| ledger.stocks[self.id] += 1);
    }

    /// Takes an item. Returns how many are left.
    fn take(&self) -> Option<usize> {
        ledger(|ledger| {
            let stock = &mut ledger.stocks[self.id];
            *stock = stock.checked_sub(1)?;
            Some(*stock)
        })
    }

    /// Waits for a change of the condition. The actor owns the mutex.
    fn wait(&self, actor: Actor) {
        let limit = match below(2) {
            0 => Limit::Never,
            _ => draw_time(),
        };
        self.mutex.disown();
        let until = match limit {
            Limit::At(when) => Some(when),
            Limit::Now | Limit::Never => None,
        };
        // After its limit, the actor waits for the mutex.
        let causes = vec![Cause::Stock(self.id)];
        // SAFETY: the actor owned the mutex until here.
        let wait = || unsafe { self.changed.wait(&self.mutex.raw, until) };
        let notified = actor.awaits(causes, Limit::Never, wait);
        self.mutex.own(actor);
        if !notified {
            actor.gives_up(limit);
        }
    }
}

fn added<T>(list: &mut Vec<T>, new: T) -> usize {
    list.push(new);
    list.len() - 1
}

/// Produces items under a mutex, for consumers that wait with a condition variable.
fn producer(actor: Actor, stock: &Stock, n: usize) {
    for _ in 0..n {
        pause(actor);
        stock.mutex.lock(actor, Limit::Never);
        stock.add();
        let (early, all) = (below(2) == 0, below(6) == 0);
        let notify = || match all {
            true => stock.changed.notify_all(),
            false => stock.changed.notify_one(),
        };
        if early {
            notify();
        }
        stock.mutex.unlock();
        if !early {
            notify();
        }
    }
}

fn consumer(actor: Actor, stock: &Stock, n: usize) {
    for _ in 0..n {
        stock.mutex.lock(actor, Limit::Never);
        while stock.take().is_none() {
            stock.wait(actor);
        }
        stock.mutex.unlock();
        pause(actor);
    }
}

/// Produces items without a mutex, for consumers that wait for a notification.
fn notifier(actor: Actor, stock: &Stock, n: usize) {
    for _ in 0..n {
        pause(actor);
        stock.add();
        if below(6) == 0 {
            stock.notify.notify_waiters();
        }
        stock.notify.notify_one();
    }
}

/// A permit stands for all items that there are, so a consumer that leaves some passes it on.
fn notified(actor: Actor, stock: &Stock, n: usize) {
    for _ in 0..n {
        loop {
            match stock.take() {
                Some(0) => break,
                Some(_) => {
                    stock.notify.notify_one();
                    break;
                }
                None => {}
            }
            let endless = || {
                stock.notify.wait();
                true
            };
            let limit = [Limit::Never, draw_time()][below(2) as usize];
            let cause = Cause::Stock(stock.id);
            let until = |when| stock.notify.wait_until(when);
            actor.acquire(cause, limit, [&|| false, &endless], &until);
        }
        pause(actor);
    }
}

struct Permits {
    raw: RawSemaphore<&'static Sched>,
    total: usize,
    id: usize,
}

/// Takes some permits, and gives them back.
fn taker(actor: Actor, permits: &Permits) {
    for _ in 0..1 + below(5) {
        let n = 1 + below(permits.total as u64) as usize;
        let endless = || permits.raw.acquire_or_cancel(n, None) == Ok(true);
        let cause = Cause::Permits(permits.id, n);
        let tries = || permits.raw.try_acquire(n);
        let until = |when| permits.raw.acquire_or_cancel(n, Some(when)) == Ok(true);
        if actor.acquire(cause, draw_limit(), [&tries, &endless], &until) {
            judge(
                ledger(|ledger: &mut Ledger| {
                    let free = &mut ledger.permits[permits.id];
                    let left = free
                        .checked_sub(n)
                        .ok_or("more permits were taken than there are");
                    *free = left?;
                    Ok::<_, &str>(())
                })
                .map_err(String::from),
            );
            hold(actor);
            ledger(|ledger| ledger.permits[permits.id] += n);
            permits.raw.release(n);
        }
        pause(actor);
    }
}

struct Group {
    raw: RawWaitGroup<&'static Sched>,
    id: usize,
}

impl Group {
    fn wait(&self, actor: Actor) {
        let cause = vec![Cause::Group(self.id)];
        actor.awaits(cause, Limit::Never, || self.raw.wait());
        if ledger(|ledger| ledger.groups[self.id]) > 0 {
            computer().fail(format!("a wait for group {} has ended early", self.id));
        }
    }
}

/// Starts members of a group, and waits for them.
fn grouper(actor: Actor, group: &Arc<Group>, members: usize) {
    let children: Vec<_> = (0..members)
        .map(|_| {
            let group = group.clone();
            Actor::go(move |actor| {
                hold(actor);
                ledger(|ledger| ledger.groups[group.id] -= 1);
                group.raw.done();
            })
        })
        .collect();
    group.wait(actor);
    children.into_iter().for_each(|child| actor.join(child));
}

/// Draws the actors of one lock or of two.
pub(crate) fn draw(parts: &mut Vec<Body>) {
    for _ in 0..1 + below(2) {
        match below(6) {
            0 => share(parts, 2 + below(3), Mutex::new(), |actor, mutex| {
                locker(actor, mutex)
            }),
            1 => {
                let id = ledger(|ledger| added(&mut ledger.rwlocks, (0, false)));
                let raw = RawRwLock::new(sched());
                let lock = Arc::new(RwLock { raw, id });
                share(parts, 2 + below(4), lock, |actor, lock| {
                    visitor(actor, lock)
                });
            }
            2 => trade(parts, producer, consumer),
            3 => trade(parts, notifier, notified),
            4 => {
                let total = 1 + below(4) as usize;
                let id = ledger(|ledger| added(&mut ledger.permits, total));
                let raw = RawSemaphore::new(total, sched());
                let permits = Arc::new(Permits { raw, total, id });
                share(parts, 2 + below(4), permits, |actor, permits| {
                    taker(actor, permits)
                });
            }
            _ => {
                let members = below(5) as usize;
                let id = ledger(|ledger| added(&mut ledger.groups, members));
                let group = Arc::new(Group {
                    raw: RawWaitGroup::new(sched()),
                    id,
                });
                group.raw.add(members);
                share(parts, below(3), group.clone(), |actor, group| {
                    group.wait(actor)
                });
                parts.push(Box::new(move |actor| grouper(actor, &group, members)));
            }
        }
    }
}

pub(crate) fn share<T: Send + Sync + 'static>(
    parts: &mut Vec<Body>,
    actors: u64,
    object: Arc<T>,
    body: fn(Actor, &Arc<T>),
) {
    for _ in 0..actors {
        let object = object.clone();
        parts.push(Box::new(move |actor| body(actor, &object)));
    }
}

/// Producers and consumers of a stock: the consumers take all.
fn trade(
    parts: &mut Vec<Body>,
    produce: fn(Actor, &Stock, usize),
    consume: fn(Actor, &Stock, usize),
) {
    let (stock, n) = (Stock::new(), 1 + below(4) as usize);
    let (few, many) = (1 + below(2) as usize, 2);
    // `few * many * n` items on each side, by `few` actors on one and `few * many` on the other.
    let sides = match below(2) {
        0 => [(few, many * n), (few * many, n)],
        _ => [(few * many, n), (few, many * n)],
    };
    for ((actors, items), body) in sides.into_iter().zip([produce, consume]) {
        for _ in 0..actors {
            let stock = stock.clone();
            parts.push(Box::new(move |actor| body(actor, &stock, items)));
        }
    }
}
