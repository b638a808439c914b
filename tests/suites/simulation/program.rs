//! Programs for the simulated computer, drawn from the seed: actors that read, write, close, move
//! deadlines, sleep, yield, wait for semaphores, spawn and join, as goroutines or as threads
//! outside the scheduler. `mixes` and `locks` draw those that use channels, alarms and locks.
//!
//! Every program ends by itself. Writers send a fixed number of messages and then shut down their
//! half; readers read to the end, or give up and close; the last dialer closes the listener. An
//! actor that does not end is therefore the scheduler's fault.

use crate::computer::{State, computer};
use crate::kernel::{FileId, Kernel, Kind};
use crate::oracle::{Activity, SocketState};
use crate::{cancels, futexes, locks, mixes};
use gopark_core::fd::{Fd, FdError};
use gopark_core::join::Join;
use gopark_core::os::{Errno, Mode, Nanos, Outcome};
use gopark_core::polldesc::{Deadline, PollError};
use gopark_core::sched::Sched;
use gopark_core::semaphore::RawSemaphore;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// A descriptor with its file, and the numbers of readers and writers that have not finished.
pub(crate) struct Socket {
    pub(crate) fd: Fd,
    pub(crate) file: FileId,
    pub(crate) id: usize,
    readers: AtomicUsize,
    writers: AtomicUsize,
}

/// A goroutine or a thread of a program, by its number in the oracle.
#[derive(Clone, Copy)]
pub(crate) struct Actor(pub(crate) usize);

pub(crate) fn sched() -> &'static Sched {
    computer().sched.get().expect("started")
}

pub(crate) fn below(limit: u64) -> u64 {
    computer().dice.below(limit)
}

/// Yields. Time passes, so that a loop of yields ends.
pub(crate) fn yield_now() {
    computer().step("yield_now", [0; 2]);
    sched().yield_now();
}

impl Socket {
    pub(crate) fn new((file, number): (FileId, i32), readers: usize, writers: usize) -> Arc<Self> {
        // SAFETY: the simulated kernel has just made the number, and only this `Fd` owns it.
        let fd = unsafe { Fd::new(sched(), number) };
        let mut oracle = computer().oracle.borrow_mut();
        oracle.files.push(file);
        oracle.sockets.push(SocketState::default());
        let id = oracle.files.len() - 1;
        drop(oracle);
        Arc::new(Socket {
            fd,
            file,
            id,
            readers: AtomicUsize::new(readers),
            writers: AtomicUsize::new(writers),
        })
    }
}

pub(crate) fn judge(verdict: Result<(), String>) {
    if let Err(why) = verdict {
        computer().fail(why);
    }
}

impl Actor {
    fn new(goroutine: bool) -> Self {
        let mut oracle = computer().oracle.borrow_mut();
        oracle.actors.push(Activity::New);
        oracle.goroutine.push(goroutine);
        Actor(oracle.actors.len() - 1)
    }

    /// Starts a goroutine that runs `body`.
    pub(crate) fn go(body: impl FnOnce(Actor) + Send + 'static) -> (Actor, Join<usize>) {
        let actor = Actor::new(true);
        let body = move || {
            actor.set(Activity::Running);
            body(actor);
            actor.set(Activity::Done);
            actor.0
        };
        let join = sched()
            .go(body, Location::caller())
            .expect("the stacks suffice for a program");
        (actor, join)
    }

    /// Starts a thread that runs `body`. The semaphore is released when it ends.
    pub(crate) fn thread(body: impl FnOnce(Actor) + 'static) -> (Actor, Arc<Semaphore>) {
        let actor = Actor::new(false);
        let ended = Semaphore::new();
        let end = ended.clone();
        computer().spawn(move || {
            actor.set(Activity::Running);
            body(actor);
            // The thread's stack is used again without being unwound, so the last reference must go
            // before.
            end.give(1);
            drop(end);
            actor.set(Activity::Done);
        });
        (actor, ended)
    }

    fn set(self, doing: Activity) {
        computer().oracle.borrow_mut().actors[self.0] = doing;
        computer().note("actor", [self.0 as u64, 0]);
    }

    pub(crate) fn during<T>(self, doing: Activity, f: impl FnOnce() -> T) -> T {
        self.set(doing);
        let result = f();
        self.set(Activity::Running);
        result
    }

    pub(crate) fn join(self, (actor, join): (Actor, Join<usize>)) {
        match self.during(Activity::Join(actor.0), || join.join_or_cancel()) {
            Ok(result) if result != actor.0 => {
                computer().fail(format!("goroutine of actor {} returned {result}", actor.0));
            }
            Ok(_) => {}
            Err(_) => self.was_cancelled(),
        }
    }

    pub(crate) fn take(self, sema: &Semaphore) {
        let doomed = self.is_doomed();
        let acquire = || sema.sema.acquire_or_cancel(1, None);
        if self.during(Activity::Sema(sema.id), acquire).is_err() {
            return self.was_cancelled();
        }
        self.was_not_cancelled(doomed);
        computer().oracle.borrow_mut().permits[sema.id].1 += 1;
    }

    pub(crate) fn sleep(self, nanos: u64) {
        let when = computer().now() + nanos as Nanos;
        self.during(Activity::Sleep(when), || sched().sleep_until(when));
        if computer().now() < when && !self.may_be_cancelled() {
            computer().fail(format!(
                "actor {} woke {} ns early",
                self.0,
                when - computer().now()
            ));
        }
    }

    pub(crate) fn compute(self, nanos: u64) {
        computer().switch(State::Busy(computer().now() + nanos as Nanos));
    }

    fn operate<T>(
        self,
        socket: &Socket,
        mode: Mode,
        f: impl FnOnce() -> Result<T, FdError>,
    ) -> Result<T, FdError> {
        let computer = computer();
        // An operation that fails at once makes no system call. Without this step, a loop of such
        // operations would stop the clock.
        computer.step("operation", [socket.id as u64, mode as u64]);
        let call = computer.oracle.borrow_mut().begin(computer);
        let doomed = self.is_doomed();
        let result = self.during(Activity::Wait(socket.id, mode), f);
        match result {
            Err(FdError::Poll(PollError::Cancelled)) => self.was_cancelled(),
            _ => self.was_not_cancelled(doomed),
        }
        let verdict = computer
            .oracle
            .borrow_mut()
            .end(computer, socket.id, mode, call, &result);
        judge(verdict);
        let code = match &result {
            Ok(_) => 0,
            Err(FdError::Poll(error)) => 1 + *error as u64,
            Err(FdError::Os(errno)) => 1000 + errno.raw() as u64,
        };
        computer.note("result", [socket.id as u64, code]);
        result
    }

    pub(crate) fn read(self, socket: &Socket, len: usize) -> Result<usize, FdError> {
        let mut took = 0;
        let result = self.operate(socket, Mode::Read, || {
            socket.fd.transfer(Mode::Read, len, |number| {
                let outcome = Kernel::read(socket.file, number.raw(), len);
                if let Outcome::Done(n) = outcome {
                    took += n;
                }
                outcome
            })
        });
        if *result.as_ref().unwrap_or(&0) != took {
            computer().fail(format!(
                "a read of socket {} took {took} bytes and returns {result:?}",
                socket.id
            ));
        }
        result
    }

    pub(crate) fn write(self, socket: &Socket, len: usize) -> Result<(), FdError> {
        let (mut put, mut mixed) = (0, false);
        let message = self.0 as u64;
        let result = self.operate(socket, Mode::Write, || {
            let sent = socket.fd.transfer_all(len, |number, range| {
                mixed |= computer()
                    .kernel
                    .borrow_mut()
                    .part(socket.file, message, put);
                if range.start != put || range.end != len {
                    computer().fail(format!(
                        "{put} of {len} bytes are written, but {range:?} come next"
                    ));
                }
                let outcome = Kernel::write(socket.file, number.raw(), range.len());
                if let Outcome::Done(n) = outcome {
                    put += n;
                    computer()
                        .kernel
                        .borrow_mut()
                        .part(socket.file, message, put);
                }
                outcome
            });
            sent.map_err(|(done, error)| {
                if done != put {
                    computer().fail(format!("a write of {put} bytes returns {done}"));
                }
                error
            })
        });
        if result.is_ok() && (put != len || mixed) {
            computer().fail(format!(
                "a write of {len} bytes to socket {} wrote {put}; mixed: {mixed}",
                socket.id
            ));
        }
        result
    }

    pub(crate) fn connect(self, socket: &Socket) -> Result<(), FdError> {
        self.operate(socket, Mode::Write, || {
            socket
                .fd
                .connect(|number| Kernel::connected(socket.file, number.raw()))
        })
    }

    pub(crate) fn accept(self, socket: &Socket) -> Result<(FileId, i32), FdError> {
        self.operate(socket, Mode::Read, || {
            socket
                .fd
                .accept(|number| Kernel::accept(socket.file, number.raw()))
        })
    }

    pub(crate) fn set_deadline(
        self,
        socket: &Socket,
        mode: Option<Mode>,
        deadline: Deadline,
    ) -> Result<(), FdError> {
        let computer = computer();
        computer.step("set_deadline", [socket.id as u64, 0]);
        let setting = computer
            .oracle
            .borrow_mut()
            .set_begins(computer, socket.id, mode, deadline);
        let when = if let Deadline::At(when) = deadline {
            when
        } else {
            0
        };
        computer.note(
            "deadline",
            [
                socket.id as u64 * 10 + mode.map_or(2, |mode| mode as u64),
                when as u64,
            ],
        );
        let result = socket.fd.set_deadline(mode, deadline);
        let verdict =
            computer
                .oracle
                .borrow_mut()
                .set_ends(computer, socket.id, setting, result.is_err());
        judge(verdict);
        result
    }

    pub(crate) fn close(self, socket: &Socket) -> bool {
        let computer = computer();
        computer
            .oracle
            .borrow_mut()
            .close_begins(computer, socket.id);
        let closed = self
            .during(Activity::Close(socket.id), || socket.fd.close())
            .is_ok();
        let verdict = computer
            .oracle
            .borrow_mut()
            .close_ends(computer, socket.id, closed);
        judge(verdict);
        closed
    }

    pub(crate) fn shutdown(self, socket: &Socket) {
        let _ = socket
            .fd
            .with(|number| Kernel::shutdown(socket.file, number.raw()));
    }
}

/// A semaphore whose permits the oracle counts.
pub(crate) struct Semaphore {
    sema: RawSemaphore<&'static Sched>,
    id: usize,
}

impl Semaphore {
    pub(crate) fn new() -> Arc<Self> {
        let permits = &mut computer().oracle.borrow_mut().permits;
        permits.push((0, 0));
        Arc::new(Semaphore {
            sema: RawSemaphore::new(0, sched()),
            id: permits.len() - 1,
        })
    }

    pub(crate) fn give(&self, n: usize) {
        computer().oracle.borrow_mut().permits[self.id].0 += n;
        self.sema.release(n);
    }
}

/// Reads to the end, or gives up after a timeout.
pub(crate) fn reader(actor: Actor, socket: &Socket) {
    loop {
        if below(4) == 0 {
            mixes::await_ready(actor, socket, Mode::Read);
        }
        match actor.read(socket, 1 + below(40) as usize) {
            Ok(0) => break,
            Ok(_) => pause(actor),
            Err(FdError::Poll(PollError::Timeout)) if below(8) == 0 => break,
            Err(FdError::Poll(PollError::Timeout)) => {
                if below(2) == 0 {
                    actor.sleep(below(500_000));
                }
                let _ = actor.set_deadline(socket, Some(Mode::Read), draw_deadline());
            }
            // The kernel refused at random; the next attempt may succeed.
            Err(FdError::Os(errno)) if errno.raw() == crate::kernel::ENOMEM => {}
            Err(_) => break,
        }
    }
    if socket.readers.fetch_sub(1, SeqCst) == 1 {
        actor.close(socket);
    }
}

/// Sends some messages, each whole, and then shuts down its half.
pub(crate) fn writer(actor: Actor, socket: &Socket) {
    let mut left = 1 + below(6);
    while left > 0 {
        if below(4) == 0 {
            mixes::await_ready(actor, socket, Mode::Write);
        }
        match actor.write(socket, 1 + below(100) as usize) {
            Ok(()) => pause(actor),
            Err(FdError::Poll(PollError::Timeout)) => {
                let _ = actor.set_deadline(socket, Some(Mode::Write), Deadline::None);
            }
            Err(FdError::Os(errno)) if errno.raw() == crate::kernel::ENOMEM => continue,
            Err(_) => break,
        }
        left -= 1;
    }
    if socket.writers.fetch_sub(1, SeqCst) == 1 {
        actor.shutdown(socket);
    }
}

pub(crate) fn pause(actor: Actor) {
    match below(24) {
        0 => actor.sleep(below(300_000)),
        1 | 2 => yield_now(),
        3 => actor.compute(draw_effort()),
        4 => actor.shielded(|| actor.sleep(below(100_000))),
        _ => {}
    }
}

/// Nanoseconds of computing: usually less than a time slice, sometimes more.
fn draw_effort() -> u64 {
    below([100_000, 100_000, 100_000, 3_000_000, 30_000_000][below(5) as usize])
}

fn draw_deadline() -> Deadline {
    match below(8) {
        0 | 1 => Deadline::None,
        2 => Deadline::Passed,
        3 => Deadline::At(Nanos::MAX),
        _ => Deadline::At(
            computer().now() + below([1000, 100_000, 3_000_000][below(3) as usize]) as Nanos,
        ),
    }
}

/// Moves the deadlines of one direction or both.
fn mover(actor: Actor, socket: &Socket) {
    for _ in 0..1 + below(8) {
        let mode = [Some(Mode::Read), Some(Mode::Write), None][below(3) as usize];
        if actor.set_deadline(socket, mode, draw_deadline()).is_err() {
            return;
        }
        if below(2) == 0 {
            actor.sleep(below(400_000));
        }
    }
}

fn closer(actor: Actor, socket: &Socket) {
    actor.sleep(below(3_000_000));
    actor.close(socket);
}

fn dialer(actor: Actor, listener: &Socket) {
    let socket = Socket::new(Kernel::create(Kind::Unconnected), 1, 1);
    // A socket that is registered before it connects reports that it is writable and has hung up.
    if below(2) == 0 {
        let _ = socket.fd.register();
    }
    if below(4) == 0 {
        let _ = actor.set_deadline(&socket, Some(Mode::Write), draw_deadline());
    }
    if below(8) > 0 {
        Kernel::connect(socket.file, listener.file);
        let connected = loop {
            match actor.connect(&socket) {
                Err(FdError::Os(errno)) if errno.raw() == crate::kernel::ENOMEM => {}
                result => break result,
            }
        };
        if connected.is_ok() {
            writer(actor, &socket);
            reader(actor, &socket);
        }
    }
    actor.close(&socket);
    if listener.readers.fetch_sub(1, SeqCst) == 1 {
        actor.close(listener);
    }
}

fn accepter(actor: Actor, listener: &Socket) {
    let mut handlers = Vec::new();
    loop {
        match actor.accept(listener) {
            Ok(connection) => {
                // The peer writes before it reads. Two readers are noted, so that this one is not
                // the last and does not close.
                let socket = Socket::new(connection, 2, 1);
                handlers.push(Actor::go(move |actor| {
                    reader(actor, &socket);
                    writer(actor, &socket);
                    actor.close(&socket);
                }));
            }
            Err(FdError::Poll(PollError::Closing)) => break,
            // No number was free, the poller refused, or the deadline passed: try again.
            Err(_) => _ = actor.set_deadline(listener, Some(Mode::Read), Deadline::None),
        }
    }
    handlers.into_iter().for_each(|handler| actor.join(handler));
}

/// Reads from a broken device.
fn broken(actor: Actor, socket: &Socket) {
    let result = actor.read(socket, 8);
    let refused = FdError::Os(Errno::new(crate::kernel::ENOMEM));
    let cancelled = FdError::Poll(PollError::Cancelled);
    let device = FdError::Poll(PollError::NotPollable);
    if ![device, refused, cancelled].map(Err).contains(&result) {
        computer().fail(format!("the read of a broken device returns {result:?}"));
    }
    actor.close(socket);
}

fn spawner(actor: Actor, depth: u64) {
    let mut children = Vec::new();
    for _ in 0..1 + below(4) {
        let child = Actor::go(move |actor| match below(6) {
            0 if depth > 0 => spawner(actor, depth - 1),
            1 => actor.sleep(below(1_000_000)),
            2 => actor.compute(draw_effort()),
            3 => (0..below(20)).for_each(|_| yield_now()),
            _ => {}
        });
        if below(4) > 0 {
            children.push(child);
        }
        if below(4) == 0 {
            actor.compute(draw_effort());
        }
    }
    children.into_iter().for_each(|child| actor.join(child));
}

pub(crate) type Body = Box<dyn FnOnce(Actor) + Send>;

/// Draws the parts of a program: descriptors, channels and locks, or several of them.
fn draw() -> Vec<Body> {
    let mut parts: Vec<Body> = Vec::new();
    let kinds = 1 + below(7);
    if kinds & 1 != 0 {
        draw_sockets(&mut parts);
    }
    if kinds & 2 != 0 {
        mixes::draw(&mut parts);
    }
    if kinds & 4 != 0 {
        locks::draw(&mut parts);
    }
    (0..below(3)).for_each(|_| parts.push(Box::new(|actor| spawner(actor, 2))));
    (0..below(2)).for_each(|_| {
        parts.push(Box::new(|actor: Actor| {
            (0..1 + below(5)).for_each(|_| actor.sleep(below(2_000_000)))
        }))
    });
    // Decided without the dice, so that the other programs are those of before.
    if computer().oracle.borrow().seed % 4 == 3 {
        futexes::draw(&mut parts);
    }
    cancels::draw(&mut parts);
    parts
}

fn draw_sockets(parts: &mut Vec<Body>) {
    for _ in 0..1 + below(3) {
        let capacity = [1, 16, 64, 256][below(4) as usize];
        for end in Kernel::pair(capacity) {
            let (readers, writers) = (1 + below(8) / 6, 1 + below(8) / 6);
            let socket = Socket::new(end, readers as usize, writers as usize);
            let mut part = |f: fn(Actor, &Socket)| {
                let socket = socket.clone();
                parts.push(Box::new(move |actor| f(actor, &socket)));
            };
            (0..readers).for_each(|_| part(reader));
            (0..writers).for_each(|_| part(writer));
            (0..below(3)).for_each(|_| part(mover));
            (0..below(8) / 5).for_each(|_| part(closer));
        }
    }
    if below(3) == 0 {
        let dialers = 1 + below(4);
        let listener = Socket::new(Kernel::create(Kind::Listener), dialers as usize, 0);
        for f in std::iter::once(accepter as fn(Actor, &Socket))
            .chain((0..dialers).map(|_| dialer as fn(Actor, &Socket)))
        {
            let listener = listener.clone();
            // The others wait for each of them to the end.
            parts.push(Box::new(move |actor| {
                actor.shielded(|| f(actor, &listener))
            }));
        }
    }
    if below(8) == 0 {
        let socket = Socket::new(Kernel::create(Kind::Broken), 1, 1);
        parts.push(Box::new(move |actor| broken(actor, &socket)));
    }
    for _ in 0..below(3) {
        let (semaphore, n) = (Semaphore::new(), 1 + below(5) as usize);
        let takes = semaphore.clone();
        parts.push(Box::new(move |actor| {
            (0..n).for_each(|_| actor.take(&takes))
        }));
        parts.push(Box::new(move |actor| {
            for _ in 0..n {
                pause(actor);
                semaphore.give(1);
            }
        }));
    }
    if below(4) == 0 {
        // The connection outlives the close of its first number.
        let number = Kernel::dup(below(2) as usize);
        parts.push(Box::new(move |actor| {
            actor.sleep(below(5_000_000));
            Kernel::close(number);
        }));
    }
}

/// Draws a program, starts its parts in any order, and waits for them.
pub(crate) fn play(actor: Actor) {
    let mut parts = draw();
    let (mut joins, mut threads) = (Vec::new(), Vec::new());
    while !parts.is_empty() {
        let part = parts.swap_remove(below(parts.len() as u64) as usize);
        if below(6) == 0 && threads.len() < 6 {
            threads.push(Actor::thread(part));
        } else {
            joins.push(Actor::go(part));
        }
        if below(8) == 0 {
            pause(actor);
        }
    }
    joins.into_iter().for_each(|join| actor.join(join));
    threads
        .into_iter()
        .for_each(|(_, ended)| actor.take(&ended));
}
