//! Timers and tickers whose events come through channels: Go's package `time`.
//!
//! ```
//! use gopark::{select, time::Ticker};
//! use std::time::Duration;
//!
//! let ticker = Ticker::new(Duration::from_millis(2));
//! let end = gopark::time::after(Duration::from_millis(100));
//! let mut ticks = 0;
//! while ticks < 3 {
//!     select! {
//!         recv(ticker.chan()) -> _ => ticks += 1,
//!         recv(end) -> _ => break,
//!     }
//! }
//! ```
//!
//! [`sleep`](crate::sleep()) and [`sleep_until`](crate::sleep_until()) wait without a channel.
//! [`Duration`] and [`Instant`] are those of `std`.

use crate::builder::sched;
use crate::cancel::{Cancel, shield};
use crate::chan::Receiver;
use crate::global::Global;
use crate::goroutine::try_go;
use crate::runtime::duration_nanos;
use crate::select;
use gopark_core::alarm::Alarm;
use gopark_core::os::Nanos;
use std::error::Error;
use std::fmt;
use std::panic::{self, RefUnwindSafe, UnwindSafe};

pub use std::time::{Duration, Instant};

/// Returns a channel that gets the time once, after `duration`. Go's `time.After`.
///
/// The channel stays open, and a second receive waits forever. Dropping the receiver stops the
/// timer. In a `select!`, `default(duration)` does the same without a channel, and a [`Timer`] can
/// be reset.
///
/// ```
/// use gopark::time::{self, Duration, Instant};
///
/// let before = Instant::now();
/// let now = time::after(Duration::from_millis(5)).recv().unwrap();
/// assert!(now - before >= Duration::from_millis(5));
/// ```
pub fn after(duration: Duration) -> Receiver<Instant> {
    let alarm = Alarm::new(Global);
    alarm.reset(due(duration), None);
    Receiver(alarm.into_receiver())
}

/// The time of the scheduler's clock after `duration`.
fn due(duration: Duration) -> Nanos {
    sched().now().saturating_add(duration_nanos(duration))
}

/// One event in the future. Go's `time.Timer`, by the rules of Go 1.23: after a
/// [`stop`](Self::stop) or [`reset`](Self::reset), no receive returns a time of before.
///
/// ```
/// use gopark::time::{Duration, Timer};
///
/// let timer = Timer::new(Duration::from_millis(1));
/// timer.chan().recv().unwrap();
/// timer.reset(Duration::from_secs(3600));
/// assert!(timer.stop());
/// assert!(timer.chan().is_empty());
/// ```
pub struct Timer {
    alarm: Alarm<Global>,
    receiver: Receiver<Instant>,
}

static_assertions::assert_impl_all!(Timer: Send, Sync, UnwindSafe, RefUnwindSafe);

// The state of its alarm is behind a lock of core, and no panic leaves what is done under it.
impl UnwindSafe for Timer {}
impl RefUnwindSafe for Timer {}

impl Timer {
    /// A timer whose channel gets the time after `duration`. Dropping it stops it.
    ///
    /// ```
    /// use gopark::time::{Duration, Timer};
    ///
    /// let timer = Timer::new(Duration::ZERO);
    /// assert!(timer.chan().recv().is_ok());
    /// ```
    #[doc(alias = "NewTimer")]
    pub fn new(duration: Duration) -> Self {
        let alarm = Alarm::new(Global);
        let receiver = Receiver(alarm.receiver().clone());
        let timer = Timer { alarm, receiver };
        timer.reset(duration);
        timer
    }

    /// Stops the timer. Returns whether it was still to fire, or its time was not received.
    ///
    /// ```
    /// use gopark::time::{Duration, Timer};
    ///
    /// let timer = Timer::new(Duration::from_secs(3600));
    /// assert!(timer.stop());
    /// assert!(!timer.stop());
    /// ```
    pub fn stop(&self) -> bool {
        self.alarm.stop()
    }

    /// Lets the timer fire after `duration`, counted from now. Returns what [`stop`](Self::stop)
    /// would have returned.
    ///
    /// ```
    /// use gopark::time::{Duration, Timer};
    ///
    /// let timer = Timer::new(Duration::from_secs(3600));
    /// assert!(timer.reset(Duration::ZERO));
    /// assert!(timer.chan().recv().is_ok());
    /// assert!(!timer.reset(Duration::from_secs(3600)));
    /// ```
    pub fn reset(&self, duration: Duration) -> bool {
        self.alarm.reset(due(duration), None)
    }

    /// The channel that gets the time. It stays open.
    ///
    /// ```
    /// use gopark::time::{Duration, Timer};
    ///
    /// let timer = Timer::new(Duration::from_secs(3600));
    /// assert!(timer.chan().try_recv().is_err());
    /// ```
    #[doc(alias = "C")]
    pub fn chan(&self) -> &Receiver<Instant> {
        &self.receiver
    }
}

/// An event again and again. Go's `time.Ticker`.
///
/// A tick that is not received before the next one is dropped. Later ticks stay in phase: with a
/// period of 10 ms they come at 10, 20, 30 ms, and so on, however late the receiver is.
///
/// ```
/// use gopark::time::{Duration, Ticker};
///
/// let ticker = Ticker::new(Duration::from_millis(2));
/// for now in ticker.chan().iter().take(3) {
///     println!("it is {now:?}");
/// }
/// ```
pub struct Ticker {
    alarm: Alarm<Global>,
    receiver: Receiver<Instant>,
}

static_assertions::assert_impl_all!(Ticker: Send, Sync, UnwindSafe, RefUnwindSafe);

// As for `Timer`.
impl UnwindSafe for Ticker {}
impl RefUnwindSafe for Ticker {}

impl Ticker {
    /// A ticker whose first tick comes after one `period`. Dropping it stops it.
    ///
    /// # Panics
    ///
    /// If `period` is 0, as in Go.
    ///
    /// ```
    /// use gopark::time::{Duration, Ticker};
    ///
    /// let ticker = Ticker::new(Duration::from_millis(1));
    /// assert!(ticker.chan().recv().is_ok());
    /// ```
    #[doc(alias = "NewTicker")]
    #[track_caller]
    pub fn new(period: Duration) -> Self {
        let alarm = Alarm::new(Global);
        let receiver = Receiver(alarm.receiver().clone());
        let ticker = Ticker { alarm, receiver };
        ticker.reset(period);
        ticker
    }

    /// Stops the ticker. No receive returns a tick afterwards, until [`reset`](Self::reset).
    ///
    /// ```
    /// use gopark::time::{Duration, Ticker};
    ///
    /// let ticker = Ticker::new(Duration::from_millis(1));
    /// ticker.stop();
    /// assert!(ticker.chan().try_recv().is_err());
    /// ```
    pub fn stop(&self) {
        self.alarm.stop();
    }

    /// Changes the period. The next tick comes after one `period`, counted from now.
    ///
    /// # Panics
    ///
    /// If `period` is 0.
    ///
    /// ```
    /// use gopark::time::{Duration, Ticker};
    ///
    /// let ticker = Ticker::new(Duration::from_secs(3600));
    /// ticker.reset(Duration::from_millis(1));
    /// assert!(ticker.chan().recv().is_ok());
    /// ```
    #[track_caller]
    pub fn reset(&self, period: Duration) {
        assert!(!period.is_zero(), "a ticker needs a period of more than 0");
        self.alarm.reset(due(period), Some(duration_nanos(period)));
    }

    /// The channel that gets the ticks. It stays open.
    ///
    /// ```
    /// use gopark::time::{Duration, Ticker};
    ///
    /// let ticker = Ticker::new(Duration::from_secs(3600));
    /// assert_eq!(ticker.chan().len(), 0);
    /// ```
    #[doc(alias = "C")]
    pub fn chan(&self) -> &Receiver<Instant> {
        &self.receiver
    }
}

/// Runs `f` in a goroutine and returns its result, if it comes within `duration`.
///
/// When the time is over, `f` is [cancelled](crate::sync::Cancel), and this function returns
/// without waiting for it. If `f` does not end by that, as in a long computation, it goes on. A
/// cancel of the caller reaches `f`.
///
/// What `f` ends with after the limit is unread, as if the handle of a goroutine was dropped:
/// [`Builder::on_leak`](crate::Builder::on_leak) gets a panic and an error, that of an operation
/// that the limit has cancelled included.
///
/// [`with_timeout`](crate::with_timeout) calls `f` on the caller's stack, so that it may borrow,
/// and waits for it.
///
/// # Errors
///
/// If the time is over first.
///
/// # Panics
///
/// With the panic of `f`, if that comes in time. If no stack is available, as in
/// [`go`](crate::go).
///
/// ```
/// use gopark::time::{self, Duration};
///
/// assert_eq!(time::timeout(Duration::from_secs(10), || 6 * 7), Ok(42));
/// let late = time::timeout(Duration::from_millis(5), || gopark::sleep(Duration::from_secs(3600)));
/// assert!(late.is_err());
/// ```
#[track_caller]
pub fn timeout<T, F>(duration: Duration, f: F) -> Result<T, Elapsed>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let cancel = Cancel::below_current();
    let theirs = cancel.clone();
    let goroutine = match try_go(move || theirs.run(f)) {
        Ok(goroutine) => goroutine,
        Err(error) => panic!("gopark::time::timeout: {error}"),
    };
    // A cancel of the caller ends the waits of `f`, whose result then comes.
    let result = shield(|| {
        select! {
            join(goroutine) -> result => Some(result),
            default(duration) => None,
        }
    });
    match result {
        Some(Ok(value)) => Ok(value),
        Some(Err(payload)) => panic::resume_unwind(payload),
        None => {
            cancel.cancel();
            Err(Elapsed(()))
        }
    }
}

/// The time of a [`timeout`] was over before its function returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit has passed")
    }
}

impl Error for Elapsed {}

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> Self {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.alarm.stop();
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.alarm.stop();
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticker").finish_non_exhaustive()
    }
}
