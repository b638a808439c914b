//! Looking up host names: [`Resolver`], and the look-up by the C library.
//!
//! `getaddrinfo` blocks its thread until a name server answers, and cannot be told to stop. So each
//! call runs on a thread of the pool, and two rules keep calls that hang from occupying the pool:
//!
//! - [`MOST`] calls run at once, and never more than half as many as the pool has threads. Further
//!   look-ups wait for a place. The work has the place, not its caller: a call that its caller has
//!   left keeps the place until it returns.
//! - Look-ups of the same host and port share one call, as in Go's `singleflight`. The first is the
//!   leader, which makes the call. The others follow: they wait for its outcome, each with its own
//!   cancel.
//!
//! A cancel of the leader while the call runs leaves the call to the followers. If the call has not
//! begun, it is dropped without an outcome, and the followers ask again: one of them leads next.

use super::{SocketAddr, ToSocketAddrs};
use crate::PollError;
use crate::builder::sched;
use crate::cancel::Cancelled;
use crate::error::io_error;
use crate::global::Global;
use gopark_core::fd::FdError;
use gopark_core::semaphore::RawSemaphore;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Looks up host names, in place of the C library: Go's `net.Resolver`, for a DNS crate.
///
/// A closure is one. [`Dialer::resolver`](super::Dialer::resolver) sets it for one dialler,
/// [`set_resolver`] for the process. Addresses in digits need no look-up and do not get here.
///
/// ```
/// use gopark::net::{Dialer, SocketAddr, TcpListener};
/// use std::sync::Arc;
///
/// # fn main() -> std::io::Result<()> {
/// # gopark::run(|| {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let port = listener.local_addr()?.port();
/// let local = |_: &str, port: u16| Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]);
/// let dialer = Dialer::new().resolver(Arc::new(local));
/// dialer.dial(("any.name.test", port))?;
/// # Ok(())
/// # })
/// # }
/// ```
pub trait Resolver: Send + Sync {
    /// Returns the addresses of `host`, each with `port`, the best first.
    ///
    /// It runs on the goroutine or thread that dials, and may park. A look-up that blocks its
    /// thread belongs in [`try_blocking`](crate::try_blocking). A deadline of the dial is a cancel
    /// here: the operations of this crate in it fail with
    /// [`PollError::Cancelled`](crate::PollError::Cancelled).
    ///
    /// # Errors
    ///
    /// If there is no such name, or no answer. Callers get the error with the name before its text.
    fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>>;
}

impl<F: Fn(&str, u16) -> Result<Vec<SocketAddr>> + Send + Sync> Resolver for F {
    fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
        self(host, port)
    }
}

static RESOLVER: OnceLock<Arc<dyn Resolver>> = OnceLock::new();

/// Sets the resolver of the process, for every look-up of this module without one of its own.
///
/// # Errors
///
/// `AlreadyExists` if it was set before. It stays as it was.
///
/// ```
/// use gopark::net::{self, SocketAddr, TcpStream};
/// use std::io::{Error, Result};
/// use std::sync::Arc;
///
/// fn nothing(_: &str, _: u16) -> Result<Vec<SocketAddr>> {
///     Err(Error::other("names are off"))
/// }
/// net::set_resolver(Arc::new(nothing))?;
/// let error = TcpStream::connect("gopark.test:80").unwrap_err();
/// assert_eq!(error.to_string(), "lookup gopark.test: names are off");
/// assert!(net::set_resolver(Arc::new(nothing)).is_err());
/// # Ok::<(), Error>(())
/// ```
#[doc(alias = "DefaultResolver")]
pub fn set_resolver(resolver: Arc<dyn Resolver>) -> Result<()> {
    RESOLVER.set(resolver).map_err(|_| {
        Error::new(
            ErrorKind::AlreadyExists,
            "the resolver of this process is already set: set it once",
        )
    })
}

/// Looks up `host` with `own`, or else with the resolver of the process, or else with the C
/// library.
pub(super) fn look_up(
    host: &str,
    port: u16,
    own: Option<&dyn Resolver>,
) -> Result<Vec<SocketAddr>> {
    match own.or(RESOLVER.get().map(|resolver| &**resolver)) {
        Some(resolver) => resolver.look_up(host, port),
        None => by_libc(host, port),
    }
}

/// The most calls of `getaddrinfo` at once. Go's limit is 500; its threads cost as much.
const MOST: usize = 64;

/// The places for calls.
fn places() -> &'static RawSemaphore<Global> {
    static PLACES: OnceLock<RawSemaphore<Global>> = OnceLock::new();
    PLACES.get_or_init(|| {
        let threads = sched().config().max_threads;
        RawSemaphore::new((threads / 2).clamp(1, MOST), Global)
    })
}

type Key = (Arc<str>, u16);

/// The calls that run or wait for a place.
static CALLS: Mutex<BTreeMap<Key, Arc<Call>>> = Mutex::new(BTreeMap::new());

fn calls() -> MutexGuard<'static, BTreeMap<Key, Arc<Call>>> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that look-ups share.
struct Call {
    /// Not set if the call was dropped before it began, or has panicked.
    outcome: OnceLock<Outcome>,
    /// Gets a permit when the call has ended. Each follower takes it and hands it on.
    ended: RawSemaphore<Global>,
}

/// Kind and text of an error can be copied for each follower, an `io::Error` cannot.
type Outcome = std::result::Result<Vec<SocketAddr>, (ErrorKind, String)>;

impl Call {
    fn result(&self) -> Option<Result<Vec<SocketAddr>>> {
        let outcome = self.outcome.get()?.clone();
        Some(outcome.map_err(|(kind, text)| Error::new(kind, text)))
    }
}

fn by_libc(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let cancelled = |Cancelled| io_error(FdError::Poll(PollError::Cancelled));
    loop {
        let (call, leading) = join((host.into(), port));
        match leading {
            Some(leading) => lead(leading).map_err(cancelled)?,
            None => {
                call.ended.acquire_or_cancel(1, None).map_err(cancelled)?;
                call.ended.release(1);
            }
        }
        if let Some(result) = call.result() {
            return result;
        }
    }
}

/// Returns the call for `key`, and what the caller needs to lead it if there was none.
fn join(key: Key) -> (Arc<Call>, Option<Leading>) {
    let mut calls = calls();
    if let Some(call) = calls.get(&key) {
        return (call.clone(), None);
    }
    let call = Arc::new(Call {
        outcome: OnceLock::new(),
        ended: RawSemaphore::new(0, Global),
    });
    calls.insert(key.clone(), call.clone());
    let leading = Leading {
        key,
        call: call.clone(),
    };
    (call, Some(leading))
}

fn lead(leading: Leading) -> std::result::Result<(), Cancelled> {
    places().acquire_or_cancel(1, None)?;
    let place = Place;
    crate::try_blocking(move || {
        let (host, port) = &leading.key;
        let found = (&**host, *port).to_socket_addrs();
        let outcome = found.map(Vec::from_iter);
        let outcome = outcome.map_err(|error| (error.kind(), error.to_string()));
        _ = leading.call.outcome.set(outcome);
        drop((leading, place));
    })
}

/// Ends the call when it is dropped: with an outcome, or without one because the call was dropped.
struct Leading {
    key: Key,
    call: Arc<Call>,
}

impl Drop for Leading {
    fn drop(&mut self) {
        calls().remove(&self.key);
        self.call.ended.release(1);
    }
}

/// A place for a call. Dropping it lets the next call begin.
struct Place;

impl Drop for Place {
    fn drop(&mut self) {
        places().release(1);
    }
}
