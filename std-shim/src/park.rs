//! Parking as `std` has it: a goroutine or thread waits until another one unparks it.

use crate::global::Global;
use crate::runtime::{started, time_limit};
use gopark_core::notify::RawNotify;
use gopark_core::watch::Wait;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// A handle to a goroutine or to an ordinary thread: [`std::thread::Thread`].
///
/// ```
/// use gopark::thread;
///
/// let sleeper = thread::spawn(thread::park);
/// sleeper.thread().unpark();
/// sleeper.join().unwrap();
/// ```
#[derive(Clone)]
pub struct Thread(Inner);

static_assertions::assert_impl_all!(Thread: Send, Sync, UnwindSafe, RefUnwindSafe);

// The state of its token is behind a lock of core, and no panic leaves what is done under it.
impl UnwindSafe for Thread {}
impl RefUnwindSafe for Thread {}

#[derive(Clone)]
enum Inner {
    Goroutine(Arc<Goroutine>),
    Thread(thread::Thread),
}

/// What is attached to a goroutine that has a `Thread`.
struct Goroutine {
    id: u64,
    name: Option<Arc<str>>,
    token: RawNotify<Global>,
}

/// Makes what is attached to a goroutine with this number and name.
pub(crate) fn attachment(id: u64, name: Option<Arc<str>>) -> Thread {
    let token = RawNotify::new(Global);
    Thread(Inner::Goroutine(Arc::new(Goroutine { id, name, token })))
}

impl Thread {
    /// Lets the goroutine or thread continue if it is parked in [`park`] or [`park_timeout`].
    /// Otherwise its next park returns at once.
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// thread::current().unpark();
    /// thread::park(); // Returns at once.
    /// ```
    pub fn unpark(&self) {
        match &self.0 {
            Inner::Goroutine(goroutine) => goroutine.token.notify_one(),
            Inner::Thread(thread) => thread.unpark(),
        }
    }

    /// Its identifier, unique in the process.
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// let other = thread::spawn(|| thread::current().id());
    /// let id = other.thread().id();
    /// assert_eq!(other.join().unwrap(), id);
    /// assert_ne!(id, thread::current().id());
    /// ```
    pub fn id(&self) -> ThreadId {
        ThreadId(match &self.0 {
            Inner::Goroutine(goroutine) => Id::Goroutine(goroutine.id),
            Inner::Thread(thread) => Id::Thread(thread.id()),
        })
    }

    /// Its name: what [`Builder::name`](crate::thread::Builder::name) or
    /// [`set_name`](crate::set_name) had set when the first `Thread` of the goroutine was made.
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// let named = thread::Builder::new().name("importer".into()).spawn(|| ())?;
    /// assert_eq!(named.thread().name(), Some("importer"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            Inner::Goroutine(goroutine) => goroutine.name.as_deref(),
            Inner::Thread(thread) => thread.name(),
        }
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread")
            .field("id", &self.id())
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// The identifier of a goroutine or of an ordinary thread: [`std::thread::ThreadId`].
///
/// ```
/// use gopark::thread;
///
/// let goroutine = thread::spawn(|| thread::current().id());
/// let number = goroutine.id();
/// assert_eq!(goroutine.join().unwrap().goroutine(), Some(number));
/// assert_eq!(thread::current().id().goroutine(), None); // This is an ordinary thread.
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadId(Id);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Id {
    Goroutine(u64),
    Thread(thread::ThreadId),
}

impl ThreadId {
    /// The goroutine's number, as [`JoinHandle::id`](crate::JoinHandle::id) and dumps show it.
    /// `None` for an ordinary thread.
    ///
    /// ```
    /// let number = gopark::run(|| gopark::thread::current().id().goroutine());
    /// assert!(number.is_some());
    /// ```
    pub fn goroutine(&self) -> Option<u64> {
        match self.0 {
            Id::Goroutine(number) => Some(number),
            Id::Thread(_) => None,
        }
    }
}

impl fmt::Debug for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Id::Goroutine(number) => f.debug_tuple("ThreadId").field(&number).finish(),
            Id::Thread(id) => id.fmt(f),
        }
    }
}

/// Returns a handle to the calling goroutine or thread.
///
/// ```
/// use gopark::thread;
///
/// let me = thread::current();
/// thread::spawn(move || me.unpark());
/// thread::park();
/// ```
pub fn current() -> Thread {
    started()
        .and_then(|sched| sched.attached(attachment))
        .unwrap_or_else(|| Thread(Inner::Thread(thread::current())))
}

/// Waits until [`Thread::unpark`] is called for the calling goroutine or thread. Returns at once if
/// that has happened since the last park.
///
/// In contrast to [`std::thread::park`], a goroutine does not return without an `unpark`.
///
/// ```
/// use gopark::thread;
///
/// let sleeper = thread::spawn(|| thread::park());
/// sleeper.thread().unpark();
/// sleeper.join().unwrap();
/// ```
pub fn park() {
    match current().0 {
        Inner::Goroutine(goroutine) => _ = goroutine.token.wait_as(Wait::Park, None),
        Inner::Thread(_) => thread::park(),
    }
}

/// As [`park`], but waits for `limit` at most.
///
/// ```
/// use gopark::thread;
/// use std::time::Duration;
///
/// gopark::run(|| thread::park_timeout(Duration::from_millis(2)));
/// ```
pub fn park_timeout(limit: Duration) {
    match current().0 {
        Inner::Goroutine(goroutine) => _ = goroutine.token.wait_as(Wait::Park, time_limit(limit)),
        Inner::Thread(_) => thread::park_timeout(limit),
    }
}
