//! [`Pipe`]: a connection in memory.
//!
//! Each direction is a [`Lane`]. A writer lends its buffer to the lane by address, and waits.
//! Readers copy from the buffer under the lane's lock. The writer takes the buffer back under the
//! same lock before it returns, so no reader sees a buffer whose writer has returned.
//!
//! | queue | its waiters | woken by |
//! |---|---|---|
//! | `turn` | writers whose buffer is not lent yet | the writer before |
//! | `offered` | readers | a writer that lends, or a reader that leaves a rest |
//! | `taken` | the writer whose buffer is lent | the reader of the last byte |
//!
//! A change of a deadline and a close wake all readers, and the writer whose buffer is lent. That
//! writer then ends if it has to, and passes the turn on. The writers behind it have the same
//! deadline and the same end, so they end one after another.
#![allow(
    unsafe_code,
    reason = "a writer's buffer is lent by address while the writer waits"
)]

use super::socket::zero_duration;
use crate::builder::sched;
use crate::error::io_error;
use crate::global::Global;
use gopark_core::cancel::Cancelled;
use gopark_core::condvar::RawCondvar;
use gopark_core::fd::FdError;
use gopark_core::mutex::RawMutex;
use gopark_core::os::Mode;
use gopark_core::polldesc::PollError;
use gopark_core::semaphore::RawSemaphore;
use std::cell::UnsafeCell;
use std::fmt;
use std::io::{Error, Read, Result, Write};
use std::mem;
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::process;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Makes a connection in memory and returns its ends: Go's `net.Pipe`.
///
/// It makes no system call and has no buffer. See [`Pipe`].
///
/// ```
/// use std::io::{Read, Write};
///
/// let (mut near, mut far) = gopark::net::pipe();
/// let echo = gopark::go(move || {
///     let mut buffer = [0; 5];
///     far.read_exact(&mut buffer)?;
///     far.write_all(&buffer)
/// });
/// near.write_all(b"hello")?;
/// let mut reply = Vec::new();
/// near.read_to_end(&mut reply)?;
/// assert_eq!(reply, b"hello");
/// echo.join().unwrap()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "net.Pipe")]
pub fn pipe() -> (Pipe, Pipe) {
    let lanes = Arc::new([Lane::new(), Lane::new()]);
    let end = |incoming| Pipe {
        end: Arc::new(End {
            lanes: Arc::clone(&lanes),
            incoming,
        }),
    };
    (end(0), end(1))
}

/// An end of a connection in memory, made by [`pipe()`]. For tests of code that talks to a
/// connection, and to join two parts of a program.
///
/// - **A write waits until reads have taken all of its bytes.** There is no buffer. Each read takes
///   bytes of one write at most.
/// - The bytes of one `write` or `write_all` stay together: writers take turns, in the order of
///   their calls.
/// - Reading and writing are independent and work on `&Pipe`, from goroutines and ordinary threads.
/// - Deadlines, timeouts, `close` and cancels end a wait as they do for a
///   [`TcpStream`](super::TcpStream). A write that ends early after a part of its bytes was read
///   returns their number; the next one returns the error. A `write_all` returns the error.
/// - An empty write and an empty read return 0 at once. Go lets an empty write wait for a read,
///   which then returns 0; in Rust that would be the end of the stream.
///
/// Dropping the last handle of an end closes it.
///
/// ```
/// use gopark::net::pipe;
/// use std::io::{ErrorKind, Read, Write};
/// use std::time::{Duration, Instant};
///
/// let (mut near, far) = pipe();
/// near.set_deadline(Some(Instant::now() + Duration::from_millis(2)))?;
/// assert_eq!(near.write(b"no reader").unwrap_err().kind(), ErrorKind::TimedOut);
///
/// near.set_deadline(None)?;
/// drop(far);
/// assert_eq!(near.read(&mut [0])?, 0);
/// assert_eq!(near.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Pipe {
    end: Arc<End>,
}

static_assertions::assert_impl_all!(Pipe: Send, Sync, UnwindSafe, RefUnwindSafe);

/// What the handles of one end share.
struct End {
    lanes: Arc<[Lane; 2]>,
    /// The index of the lane that this end reads. It writes the other one.
    incoming: usize,
}

/// One direction.
struct Lane {
    /// Guards the state.
    mutex: RawMutex<Global>,
    state: UnsafeCell<State>,
    /// One permit: the turn to write.
    turn: RawSemaphore<Global>,
    offered: RawCondvar<Global>,
    taken: RawCondvar<Global>,
}

struct State {
    /// What readers have not taken yet of the buffer that a writer has lent. Empty: no buffer is
    /// lent, or all of it is taken.
    lent: *const [u8],
    reader: Side,
    writer: Side,
}

/// What the reader or the writer has set.
#[derive(Default)]
struct Side {
    /// The end is closed, or its direction is shut down.
    closed: bool,
    deadline: Option<Instant>,
    /// The limit of each operation. While it is set, there is no deadline.
    timeout: Option<Duration>,
    /// How often the deadline was set.
    changes: u64,
}

/// When an operation has to end.
struct Until {
    when: Option<Instant>,
    /// `Side::changes` when this was found.
    changes: u64,
}

// SAFETY: the mutex guards the state. The buffer behind `lent` is borrowed by its writer, which
// waits while it is lent, and bytes may be read on any thread.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

// No panic leaves an operation while it holds the lock.
impl UnwindSafe for Lane {}
impl RefUnwindSafe for Lane {}

const NOTHING: *const [u8] = ptr::slice_from_raw_parts(ptr::null(), 0);

impl Pipe {
    /// Returns another handle of this end, with the same deadlines. It never fails.
    ///
    /// ```
    /// # use std::io::{Read, Write};
    /// let (near, mut far) = gopark::net::pipe();
    /// let mut other = near.try_clone()?;
    /// let writer = gopark::go(move || other.write_all(b"x"));
    /// far.read_exact(&mut [0])?;
    /// writer.join().unwrap()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_clone(&self) -> Result<Pipe> {
        Ok(Pipe {
            end: Arc::clone(&self.end),
        })
    }

    /// Closes this end under all its handles: Go's `Close`.
    ///
    /// Operations of this end that are in progress, and all later ones, fail with
    /// [`PollError::Closing`]. The other end reads the end of the stream, and its writes fail with
    /// `BrokenPipe`.
    ///
    /// # Errors
    ///
    /// [`PollError::Closing`] if this end is closed already.
    ///
    /// ```
    /// # use std::io::{ErrorKind, Read, Write};
    /// let (near, mut far) = gopark::net::pipe();
    /// let mut reader = near.try_clone()?;
    /// let blocked = gopark::go(move || reader.read(&mut [0]));
    /// gopark::yield_now();
    /// near.close()?;
    /// let error = blocked.join().unwrap().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    /// assert_eq!(far.read(&mut [0])?, 0);
    /// assert_eq!(far.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn close(&self) -> Result<()> {
        match self.end.close() {
            true => Ok(()),
            false => Err(poll(PollError::Closing)),
        }
    }

    /// Sets the time at which reads and writes of this end fail with [`PollError::Timeout`]. `None`
    /// removes it.
    ///
    /// The deadline applies to operations in progress and to all later ones, until it is changed.
    /// It replaces a timeout.
    ///
    /// # Errors
    ///
    /// [`PollError::Closing`] if this end is closed.
    ///
    /// ```
    /// # use std::io::{ErrorKind, Read};
    /// # use std::time::{Duration, Instant};
    /// let (mut near, _far) = gopark::net::pipe();
    /// near.set_deadline(Some(Instant::now() + Duration::from_millis(2)))?;
    /// assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SetDeadline")]
    pub fn set_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        self.set_read_deadline(deadline)?;
        self.set_write_deadline(deadline)
    }

    /// Sets the deadline of reads only, as [`set_deadline`](Self::set_deadline) does for both
    /// directions.
    ///
    /// ```
    /// # use std::io::{ErrorKind, Read};
    /// # use std::time::Instant;
    /// let (mut near, _far) = gopark::net::pipe();
    /// near.set_read_deadline(Some(Instant::now()))?;
    /// assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SetReadDeadline")]
    pub fn set_read_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        self.end.set(Mode::Read, |side| side.set_deadline(deadline))
    }

    /// Sets the deadline of writes only, as [`set_deadline`](Self::set_deadline) does for both
    /// directions. A `write_all` that fails may have sent a part of its data.
    ///
    /// ```
    /// # use std::io::{ErrorKind, Write};
    /// # use std::time::Instant;
    /// let (mut near, _far) = gopark::net::pipe();
    /// near.set_write_deadline(Some(Instant::now()))?;
    /// assert_eq!(near.write(b"x").unwrap_err().kind(), ErrorKind::TimedOut);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SetWriteDeadline")]
    pub fn set_write_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        self.end
            .set(Mode::Write, |side| side.set_deadline(deadline))
    }

    /// Limits the time of each later read, which then fails with [`PollError::Timeout`], of kind
    /// `TimedOut`. `None` is no limit. The timeout replaces a deadline. A read in progress keeps
    /// the limit that it started with.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `timeout` is zero. [`PollError::Closing`] if this end is closed.
    ///
    /// ```
    /// # use std::io::{ErrorKind, Read};
    /// # use std::time::Duration;
    /// let (mut near, _far) = gopark::net::pipe();
    /// near.set_read_timeout(Some(Duration::from_millis(2)))?;
    /// for _ in 0..2 {
    ///     assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.end.set_timeout(Mode::Read, timeout)
    }

    /// Limits the time of each later write, as [`set_read_timeout`](Self::set_read_timeout) does
    /// for reads. A `write_all` counts as one write.
    ///
    /// ```
    /// # use std::io::{ErrorKind, Write};
    /// # use std::time::Duration;
    /// let (mut near, _far) = gopark::net::pipe();
    /// near.set_write_timeout(Some(Duration::from_millis(2)))?;
    /// assert_eq!(near.write(b"x").unwrap_err().kind(), ErrorKind::TimedOut);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.end.set_timeout(Mode::Write, timeout)
    }
}

/// `read` waits for a write and returns how many bytes it has copied: 0 at the end of the stream,
/// or if `buf` is empty.
impl Read for &Pipe {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.end.incoming().read(buf)
    }
}

/// `write` waits until reads have taken all of `buf`. It returns fewer bytes only if it had to end
/// early. `flush` does nothing.
impl Write for &Pipe {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        match self.end.outgoing().write(buf) {
            (0, Err(error)) => Err(error),
            (n, _) => Ok(n),
        }
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        match buf.is_empty() {
            true => Ok(()),
            false => self.end.outgoing().write(buf).1,
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// As for `&Pipe`.
impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        (&*self).read(buf)
    }
}

/// As for `&Pipe`.
impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        (&*self).write(buf)
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        (&*self).write_all(buf)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}

impl End {
    fn incoming(&self) -> &Lane {
        &self.lanes[self.incoming]
    }

    fn outgoing(&self) -> &Lane {
        &self.lanes[1 - self.incoming]
    }

    /// Changes the limit of one direction.
    fn set(&self, mode: Mode, change: impl FnOnce(&mut Side)) -> Result<()> {
        let change = |side: &mut Side| match side.closed {
            true => Err(poll(PollError::Closing)),
            false => {
                change(side);
                Ok(())
            }
        };
        match mode {
            Mode::Read => self.incoming().change(|state| change(&mut state.reader)),
            Mode::Write => self.outgoing().change(|state| change(&mut state.writer)),
        }
    }

    fn set_timeout(&self, mode: Mode, timeout: Option<Duration>) -> Result<()> {
        if timeout == Some(Duration::ZERO) {
            return Err(zero_duration());
        }
        self.set(mode, |side| {
            side.deadline = None;
            side.timeout = timeout;
        })
    }

    /// Returns whether this end was open.
    fn close(&self) -> bool {
        let close = |side: &mut Side| mem::replace(&mut side.closed, true);
        let closed = self.outgoing().change(|state| close(&mut state.writer));
        self.incoming().change(|state| close(&mut state.reader));
        !closed
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close();
    }
}

impl Lane {
    fn new() -> Self {
        Lane {
            mutex: RawMutex::new(Global),
            state: UnsafeCell::new(State {
                lent: NOTHING,
                reader: Side::default(),
                writer: Side::default(),
            }),
            turn: RawSemaphore::new(1, Global),
            offered: RawCondvar::new(Global),
            taken: RawCondvar::new(Global),
        }
    }

    fn lock(&self) -> Locked<'_> {
        self.mutex.lock();
        Locked(self)
    }

    /// Makes a change that may end operations in progress.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.offered.notify_all();
        self.taken.notify_all();
        changed
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let sched = sched();
        sched.check().map_err(cancelled)?;
        let mut lane = self.lock();
        let mut until = lane.reader.begin();
        let read = loop {
            if let Some(end) = lane.end_of_read(&mut until) {
                break end;
            }
            if !lane.lent.is_empty() {
                break Ok(lane.take(buffer));
            }
            if sched.unwinds() {
                break Err(poll(PollError::Unwinding));
            }
            if let Err(error) = lane.wait(&self.offered, until.when) {
                break Err(error);
            }
        };
        let rest = !lane.lent.is_empty();
        drop(lane);
        if rest {
            // For the next reader, also if the notification of this one was for these bytes.
            self.offered.notify_one();
        } else if matches!(read, Ok(1..)) {
            self.taken.notify_one();
        }
        sched.spend(1);
        read
    }

    /// Returns how many bytes were read, and why not all.
    fn write(&self, data: &[u8]) -> (usize, Result<()>) {
        let (_turn, mut until) = match self.turn(data.is_empty()) {
            Ok(Some(turn)) => turn,
            Ok(None) => return (0, Ok(())),
            Err(error) => return (0, Err(error)),
        };
        let mut lane = self.lock();
        if let Err(error) = lane.end_of_write(&mut until) {
            return (0, Err(error));
        }
        lane.lent = data;
        // A panic must not leave the buffer with the lane. None comes: the runtime is started.
        let lent = AbortOnDrop;
        self.offered.notify_one();
        let ended = loop {
            if let Err(error) = lane.end_of_write(&mut until) {
                break Err(error);
            }
            if lane.lent.is_empty() {
                break Ok(());
            }
            if let Err(error) = lane.wait(&self.taken, until.when) {
                break Err(error);
            }
        };
        let rest = mem::replace(&mut lane.lent, NOTHING).len();
        mem::forget(lent);
        // What was completed wins.
        let ended = if rest == 0 { Ok(()) } else { ended };
        (data.len() - rest, ended)
    }

    /// Waits for the turn to write. Returns it, and when the write has to end. `None` if the write
    /// is `empty` and nothing forbids it.
    fn turn(&self, empty: bool) -> Result<Option<(Turn<'_>, Until)>> {
        let sched = sched();
        sched.check().map_err(cancelled)?;
        let mut until = self.lock().writer.begin();
        loop {
            self.lock().end_of_write(&mut until)?;
            if empty {
                return Ok(None);
            }
            // A write always waits for a reader.
            if sched.unwinds() {
                return Err(poll(PollError::Unwinding));
            }
            let turn = self.turn.acquire_or_cancel(1, until.when);
            if turn.map_err(cancelled)? {
                return Ok(Some((Turn(self), until)));
            }
        }
    }
}

impl Side {
    fn begin(&self) -> Until {
        let timeout = self.timeout.map(|limit| Instant::now().checked_add(limit));
        Until {
            when: timeout.unwrap_or(self.deadline),
            changes: self.changes,
        }
    }

    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
        self.timeout = None;
        self.changes += 1;
    }

    /// Whether the time of an operation has come. A new deadline replaces the old limit.
    fn has_expired(&self, until: &mut Until) -> bool {
        if until.changes != self.changes {
            until.when = self.deadline;
            until.changes = self.changes;
        }
        until.when.is_some_and(|when| when <= Instant::now())
    }
}

impl State {
    /// What a read returns that has to end without data.
    fn end_of_read(&self, until: &mut Until) -> Option<Result<usize>> {
        if self.reader.closed {
            Some(Err(poll(PollError::Closing)))
        } else if self.writer.closed {
            Some(Ok(0))
        } else if self.reader.has_expired(until) {
            Some(Err(poll(PollError::Timeout)))
        } else {
            None
        }
    }

    /// Fails if a write has to end.
    fn end_of_write(&self, until: &mut Until) -> Result<()> {
        if self.writer.closed {
            Err(poll(PollError::Closing))
        } else if self.reader.closed {
            Err(Error::from_raw_os_error(libc::EPIPE))
        } else if self.writer.has_expired(until) {
            Err(poll(PollError::Timeout))
        } else {
            Ok(())
        }
    }

    /// Copies from the lent buffer. Returns how many bytes.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        // SAFETY: the buffer stays borrowed by its writer until that has taken it out of the state,
        // under the lock that the caller holds.
        let lent = unsafe { &*self.lent };
        let n = lent.len().min(buffer.len());
        buffer[..n].copy_from_slice(&lent[..n]);
        self.lent = &lent[n..];
        n
    }
}

/// The turn to write. Its drop passes it on.
struct Turn<'a>(&'a Lane);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turn.release(1);
    }
}

/// A locked lane.
struct Locked<'a>(&'a Lane);

impl Locked<'_> {
    /// Unlocks the lane until a notification or `until`.
    fn wait(&mut self, queue: &RawCondvar<Global>, until: Option<Instant>) -> Result<()> {
        // SAFETY: this value owns the lock.
        let waited = unsafe { queue.wait_or_cancel(&self.0.mutex, until) };
        waited.map(|_| ()).map_err(cancelled)
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        // SAFETY: this value owns the lock.
        unsafe { &*self.0.state.get() }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: this value owns the lock.
        unsafe { &mut *self.0.state.get() }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: this value owns the lock.
        unsafe { self.0.mutex.unlock() };
    }
}

struct AbortOnDrop;

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        process::abort();
    }
}

fn poll(error: PollError) -> Error {
    io_error(FdError::Poll(error))
}

fn cancelled(_: Cancelled) -> Error {
    poll(PollError::Cancelled)
}
