//! Signals as values of a channel: Go's `os/signal`.
//!
//! ```
//! use gopark::select;
//! use gopark::signal::{self, Signal};
//! use std::time::Duration;
//!
//! # fn main() -> std::io::Result<()> {
//! gopark::run(|| {
//!     let stop = signal::notify([Signal::INT, Signal::TERM])?;
//!     select! {
//!         recv(stop) -> signal => println!("got {}: shutting down", signal.unwrap()),
//!         default(Duration::from_millis(2)) => println!("no signal yet"),
//!     }
//!     Ok(())
//! })
//! # }
//! ```
//!
//! | Go | here |
//! |---|---|
//! | `signal.Notify(c, sigs...)` | [`notify`] makes the channel |
//! | `signal.Stop(c)` | the [`Signals`] are dropped |
//! | `signal.NotifyContext(ctx, os.Interrupt)` | [`ctrl_c`], then [`Cancel::cancel`] |
//!
//! [`Cancel::cancel`]: crate::sync::Cancel::cancel
//!
//! # How signals arrive
//!
//! While a signal is notified, its default action, such as the end of the process, does not happen.
//! The handler counts the signal and wakes a thread of this crate, which sends it to all channels
//! that want it. The thread exists while there are channels. Because it runs no goroutines, a
//! goroutine that blocks its own thread does not delay it. While it exists, deadlocks are not
//! reported: a signal may wake any goroutine.
//!
//! A channel buffers 16 signals. If it is full, a further signal is dropped, as in Go. The kernel
//! itself merges signals of the same number that come before the first is handled.
//!
//! A signal that also requests a dump ([`Builder::dump_on`](crate::Builder::dump_on)) does both.
//!
//! A receive also works on an ordinary thread. [`notify`] does not start the runtime; a receive
//! that waits does.
//!
//! # fork
//!
//! In a child made by `fork`, a notified signal gets back its default action when it first comes. A
//! program that the child runs (exec) has the default actions anyway.

mod number;

pub use number::Signal;

use crate::cancel::check_cancel;
use crate::chan::{self, Receiver, Sender};
use crate::error::io_error;
use crate::signals::{self, Purpose};
use gopark_core::polldesc::PollError;
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// How many signals a channel buffers.
const BUFFERED: usize = 16;

/// Sends each of `set` to a channel when it comes, from now until the result is dropped. Go's
/// `signal.Notify`.
///
/// Several channels may want the same signal; each gets it. Starts no runtime.
///
/// # Errors
///
/// `InvalidInput` if one of `set` cannot be caught: `SIGKILL` and `SIGSTOP`, those that a faulting
/// instruction raises (`SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE`, `SIGTRAP`, `SIGSYS`), the two that
/// libc uses, and numbers that are no signal. `set` is then not notified at all. Errors of the
/// system if it has no descriptor or thread left.
///
/// ```
/// use gopark::signal::{self, Signal};
///
/// let signals = signal::notify([Signal::HUP])?;
/// // SAFETY: no memory is passed.
/// unsafe { libc::raise(libc::SIGHUP) };
/// assert_eq!(signals.recv(), Ok(Signal::HUP));
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "Notify")]
pub fn notify(set: impl IntoIterator<Item = Signal>) -> Result<Signals> {
    let mut wanted: Vec<Signal> = set.into_iter().collect();
    wanted.sort();
    wanted.dedup();
    for signal in &wanted {
        signals::check(signal.raw())
            .map_err(|why| Error::new(ErrorKind::InvalidInput, format!("notify: {why}")))?;
    }
    let (sender, receiver) = chan::bounded(BUFFERED);
    let mut registry = registry();
    registry.start_thread()?;
    let id = registry.next_id;
    registry.next_id += 1;
    registry.subscribers.push(Subscriber {
        id,
        wanted: Vec::new(),
        sender,
    });
    // From here on, an error removes the subscriber again.
    let signals = Signals { id, receiver };
    for signal in wanted {
        if !registry.wants(signal) {
            if let Err(error) = signals::install(signal.raw(), Purpose::Notify) {
                // Its drop takes the lock.
                drop(registry);
                return Err(error);
            }
        }
        let subscriber = registry.subscribers.last_mut();
        subscriber.expect("it was pushed").wanted.push(signal);
    }
    Ok(signals)
}

/// Waits for one `SIGINT`, which Ctrl-C in a terminal sends.
///
/// Before and after the call, Ctrl-C has its default action and ends the process. So a second
/// Ctrl-C ends a program that takes long to shut down. To receive several, use [`notify`].
///
/// # Errors
///
/// Those of [`notify`]. [`PollError::Cancelled`] if the caller is
/// cancelled first.
///
/// ```no_run
/// gopark::run(|| {
///     let server = gopark::sync::Cancel::new();
///     // … goroutines of the server run as members of `server` …
///     gopark::signal::ctrl_c()?;
///     server.cancel();
///     Ok::<(), std::io::Error>(())
/// })
/// # .unwrap();
/// ```
pub fn ctrl_c() -> Result<()> {
    let signals = notify([Signal::INT])?;
    match signals.recv() {
        Ok(_) => Ok(()),
        Err(_) => {
            debug_assert!(check_cancel().is_err(), "the channel is open");
            Err(io_error(PollError::Cancelled.into()))
        }
    }
}

/// The signals that [`notify`] receives, as a channel: a [`Receiver`] by `Deref`.
///
/// Dropping it ends the notification. When no other `Signals` want a signal, its action of before
/// the first [`notify`] is restored. Signals that were not received are lost.
///
/// ```
/// use gopark::signal::{self, Signal};
/// use std::time::Duration;
///
/// let signals = signal::notify([Signal::WINCH])?;
/// assert!(signals.recv_timeout(Duration::from_millis(1)).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Signals {
    id: u64,
    receiver: Receiver<Signal>,
}

static_assertions::assert_impl_all!(Signals: Send, Sync, UnwindSafe, RefUnwindSafe);

impl Deref for Signals {
    type Target = Receiver<Signal>;

    fn deref(&self) -> &Receiver<Signal> {
        &self.receiver
    }
}

impl Drop for Signals {
    #[doc(alias = "Stop")]
    fn drop(&mut self) {
        let mut registry = registry();
        let subscribers = &mut registry.subscribers;
        let Some(at) = subscribers.iter().position(|other| other.id == self.id) else {
            return;
        };
        let subscriber = subscribers.remove(at);
        for &signal in &subscriber.wanted {
            if !registry.wants(signal) {
                signals::release(signal.raw(), Purpose::Notify);
            }
        }
        if registry.subscribers.is_empty() {
            // The thread ends.
            let _ = signals::bell().map(|bell| bell.ring());
        }
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

/// The channels, and the thread that sends to them.
struct Registry {
    subscribers: Vec<Subscriber>,
    next_id: u64,
    has_thread: bool,
}

struct Subscriber {
    id: u64,
    wanted: Vec<Signal>,
    sender: Sender<Signal>,
}

fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
        subscribers: Vec::new(),
        next_id: 0,
        has_thread: false,
    });
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    fn wants(&self, signal: Signal) -> bool {
        let mut subscribers = self.subscribers.iter();
        subscribers.any(|subscriber| subscriber.wanted.contains(&signal))
    }

    fn start_thread(&mut self) -> Result<()> {
        let bell = signals::bell()?;
        if !self.has_thread {
            let thread = thread::Builder::new().name("gopark-signals".into());
            thread.spawn(move || while bell.wait().is_ok() && distribute() {})?;
            self.has_thread = true;
        }
        Ok(())
    }
}

/// Sends the signals that have come to the channels that want them. Returns false if there are no
/// channels and the thread is to end.
fn distribute() -> bool {
    let mut registry = registry();
    for signal in signals::take().map(Signal::from_raw) {
        for subscriber in &registry.subscribers {
            if subscriber.wanted.contains(&signal) {
                // A full channel drops it.
                let _ = subscriber.sender.try_send(signal);
            }
        }
    }
    registry.has_thread = !registry.subscribers.is_empty();
    registry.has_thread
}
