//! [`Server`]: accept loops, and the end of a server.
//!
//! With a listener for each P, each acceptor and the handlers of its connections live on one
//! thread. A connection is accepted, registered with that thread's poller and handled there, and
//! wakes no other thread.
//!
//! Acceptors are ordinary goroutines that stay on the thread on which they start. To get a thread
//! each, they hold their threads when they start (`Seats`): an acceptor that has found a thread of
//! its own keeps it busy until all have found theirs, so that the others start elsewhere. One that
//! finds itself on a thread with another acceptor starts its successor and holds the thread until
//! that has started. All of this ends after some milliseconds: when the other Ps are busy with
//! other goroutines, acceptors share threads.

use super::tcp_listener::Incoming;
use super::{ListenConfig, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use crate::builder::sched;
use crate::cancel::Cancel;
use crate::global::Global;
use crate::goroutine::reporting;
use crate::report;
use crate::stderr::line_later;
use gopark_core::semaphore::RawSemaphore;
use gopark_core::wait_group::RawWaitGroup;
use std::collections::HashSet;
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Accepts connections and starts a goroutine for each: the accept loop of a server, with a limit,
/// and an end that waits for the connections.
///
/// ```
/// use gopark::net::{Server, TcpStream};
/// use gopark::sync::Cancel;
/// use std::io::{self, Read, Write};
/// use std::time::Duration;
///
/// # fn main() -> io::Result<()> {
/// # gopark::run(|| {
/// let stop = Cancel::new();
/// let server = Server::bind("127.0.0.1:0")?.grace(Duration::from_secs(5)).cancel(&stop);
/// let addr = server.local_addr()?;
/// let serving = gopark::go(move || {
///     server.serve(|mut stream, _peer| io::copy(&mut stream.try_clone()?, &mut stream))
/// });
///
/// let mut client = TcpStream::connect(addr)?;
/// let mut reply = [0; 5];
/// client.write_all(b"hello")?;
/// client.read_exact(&mut reply)?;
/// stop.cancel(); // No new connections. Those that are accepted have five seconds to end.
/// client.write_all(b"world")?;
/// client.read_exact(&mut reply)?;
/// assert_eq!(&reply, b"world");
/// drop(client);
/// serving.join().unwrap()?;
/// # Ok(())
/// # })
/// # }
/// ```
///
/// # One listener for each P
///
/// [`bind`](Self::bind) makes a listener for each P ([`max_procs`](crate::max_procs)), all on one
/// port (`SO_REUSEPORT`). The kernel assigns each new connection to one of them by a hash of its
/// addresses, and it is handled on the thread that accepts there. No connection moves.
///
/// - A goroutine that blocks or computes holds up the new connections that are assigned to its
///   thread, as it holds up those that live there. The other threads accept theirs. Put such work
///   into [`blocking`](crate::blocking).
/// - A few busy connections can live on one thread while another is idle.
///
/// A server with one listener (`Server::new(vec![TcpListener::bind(addr)?])`) accepts on one
/// thread, and its handlers start on any. It spreads a few connections better. Which of the two
/// takes less CPU for a connection depends on the load. With one P, or with
/// [`Builder::migrate`](crate::Builder::migrate), `bind` makes one listener.
///
/// # The end
///
/// A [cancel](Self::cancel), or a cancel of the caller of [`serve`](Self::serve), ends the server:
///
/// 1. The listeners are closed. The kernel resets connections that are queued there and not
///    accepted, and refuses new ones. To lose none in a restart, hand the listeners to the next
///    process with [`pass_listeners`](super::pass_listeners).
/// 2. Handlers go on for the time of [`grace`](Self::grace). The cancel that ends the server does
///    not reach them.
/// 3. Those that are left are cancelled: their operations fail with
///    [`PollError::Cancelled`](crate::PollError::Cancelled).
/// 4. When all handlers have returned, `serve` returns.
#[must_use = "a server does nothing until `serve`"]
pub struct Server {
    listeners: Vec<TcpListener>,
    max_connections: Option<usize>,
    grace: Duration,
    cancel: Option<Cancel>,
}

impl Server {
    /// Returns a server that listens on the first address of `addr` that can be bound, with a
    /// listener for each P.
    ///
    /// Clients can connect from now on, and are accepted by [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// Those of [`TcpListener::bind`]. `AddrInUse` also if another server has the port, which
    /// `SO_REUSEPORT` alone would permit.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// # use gopark::net::Server;
    /// let server = Server::bind("127.0.0.1:0")?;
    /// assert!(Server::bind(server.local_addr()?).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn bind<A: ToSocketAddrs>(addr: A) -> Result<Server> {
        let config = sched().config();
        let count = if config.migrate { 1 } else { config.procs };
        ListenConfig::new()
            .listen_group(addr, count)
            .map(Server::new)
    }

    /// Returns a server that accepts from `listeners`, which [`ListenConfig::listen_group`] makes,
    /// or which come from another process. Each gets a goroutine that accepts.
    ///
    /// ```
    /// # use gopark::net::{ListenConfig, Server};
    /// let config = ListenConfig::new().backlog(100);
    /// let server = Server::new(config.listen_group("127.0.0.1:0", gopark::max_procs())?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(listeners: Vec<TcpListener>) -> Server {
        Server {
            listeners,
            max_connections: None,
            grace: Duration::from_secs(10),
            cancel: None,
        }
    }

    /// Sets how many handlers run at once. Default: no limit.
    ///
    /// At the limit the server stops accepting. Each listener may then have one connection that is
    /// accepted and waits for its handler. Further ones wait in the kernel's queue
    /// ([`ListenConfig::backlog`]).
    ///
    /// # Panics
    ///
    /// If `connections` is 0.
    ///
    /// ```
    /// # use gopark::net::Server;
    /// let server = Server::bind("127.0.0.1:0")?.max_connections(1000);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "LimitListener")]
    pub fn max_connections(mut self, connections: usize) -> Self {
        assert!(connections > 0, "max_connections: the limit is 0");
        self.max_connections = Some(connections);
        self
    }

    /// Sets how long handlers may go on when the server ends, before they are cancelled. Default:
    /// 10 s.
    ///
    /// ```
    /// # use gopark::net::Server;
    /// use std::time::Duration;
    ///
    /// let server = Server::bind("127.0.0.1:0")?.grace(Duration::from_millis(500));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "Shutdown")]
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = time;
        self
    }

    /// Ends the server when `cancel` is cancelled. A cancel of the caller of
    /// [`serve`](Self::serve) ends it, too.
    ///
    /// ```
    /// # use gopark::{net::Server, sync::Cancel};
    /// let stop = Cancel::new();
    /// stop.cancel();
    /// Server::bind("127.0.0.1:0")?.cancel(&stop).serve(|_, _| ())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// Returns the address of the first listener.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if there is no listener.
    ///
    /// ```
    /// # use gopark::net::Server;
    /// assert_ne!(Server::bind("127.0.0.1:0")?.local_addr()?.port(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let none = || Error::new(ErrorKind::InvalidInput, "the server has no listener");
        self.listeners.first().ok_or_else(none)?.local_addr()
    }

    /// Returns the listeners, to pass them on with [`pass_listeners`](super::pass_listeners).
    ///
    /// ```
    /// # use gopark::net::Server;
    /// assert_eq!(Server::bind("127.0.0.1:0")?.listeners().len(), gopark::max_procs());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn listeners(&self) -> &[TcpListener] {
        &self.listeners
    }

    /// Accepts connections, and calls `handler` for each in a goroutine of its own, with the
    /// connection and the address of its peer. Returns when the server was cancelled and all
    /// handlers have returned.
    ///
    /// A panic of a handler ends its connection only. An error that a handler returns is treated as
    /// that of a goroutine that is not joined ([`Builder::on_leak`](crate::Builder::on_leak)).
    ///
    /// While the system refuses connections, as when the process has no free descriptor (`EMFILE`),
    /// the server tries again after 5 ms, doubled up to 1 s, as Go's HTTP server does. A line on
    /// stderr says so, once, unless [reports](crate::Builder::reports) are off.
    ///
    /// # Errors
    ///
    /// If a listener does not work: it is no TCP listener, it does not wait, or its deadline has
    /// passed.
    /// `OutOfMemory` if no stack is available for the goroutines that accept. All listeners are
    /// then closed, and the handlers end as at a cancel. A connection for which there is no stack
    /// is closed.
    ///
    /// ```
    /// use gopark::net::Server;
    /// use gopark::with_timeout;
    /// use std::io::Write;
    /// use std::time::Duration;
    ///
    /// let server = Server::bind("127.0.0.1:0")?;
    /// let late = with_timeout(Duration::from_millis(5), || {
    ///     server.serve(|mut stream, peer| write!(stream, "hello {peer}"))
    /// });
    /// late.unwrap_err().into_inner()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ListenAndServe")]
    #[track_caller]
    pub fn serve<F, T>(self, handler: F) -> Result<()>
    where
        F: Fn(TcpStream, SocketAddr) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        let config = sched().config();
        let stop = match &self.cancel {
            Some(cancel) => cancel.run(Cancel::below_current),
            None => Cancel::below_current(),
        };
        let serving = Arc::new(Serving {
            handler,
            stop,
            grace: self.grace,
            places: self
                .max_connections
                .map(|most| RawSemaphore::new(most, Global)),
            is_local: self.listeners.len() > 1 && !config.migrate,
            seats: Seats::new(self.listeners.len()),
            acceptors: RawWaitGroup::new(Global),
            failure: Mutex::new(None),
            has_reported: AtomicBool::new(false),
            site: Location::caller(),
        });
        for listener in self.listeners {
            serving.acceptors.add(1);
            let acceptor = Acceptor {
                listener,
                serving: Counted(serving.clone()),
            };
            acceptor.start(ATTEMPTS);
        }
        serving.acceptors.wait();
        let failure = serving.failure().take();
        failure.map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listeners", &self.listeners)
            .field("max_connections", &self.max_connections)
            .field("grace", &self.grace)
            .field("cancel", &self.cancel)
            .finish()
    }
}

/// What the goroutines of one call of [`Server::serve`] share.
struct Serving<F> {
    handler: F,
    /// Cancelled when the server ends.
    stop: Cancel,
    grace: Duration,
    places: Option<RawSemaphore<Global>>,
    /// Whether handlers run on the thread of their acceptor.
    is_local: bool,
    seats: Seats,
    /// The acceptors that have not ended.
    acceptors: RawWaitGroup<Global>,
    failure: Mutex<Option<Error>>,
    has_reported: AtomicBool,
    site: &'static Location<'static>,
}

impl<F> Serving<F> {
    /// Ends the server, which returns the first error.
    fn fail(&self, error: Error) {
        self.failure().get_or_insert(error);
        self.stop.cancel();
    }

    fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line on stderr, once.
    #[cold]
    fn report(&self, trouble: &dyn fmt::Display) {
        let is_on = report::SETTINGS.get().is_some_and(|it| it.default_reports);
        if is_on && !self.has_reported.swap(true, Ordering::Relaxed) {
            line_later(format!(
                "gopark: the server at {} cannot take connections for now: {trouble}; if it lacks \
                 descriptors, raise `ulimit -n` or set Server::max_connections\n",
                self.site
            ));
        }
    }
}

/// The handlers of one acceptor.
struct Handlers {
    cancel: Cancel,
    running: RawWaitGroup<Global>,
}

/// A handler that counts as running. Its goroutine drops this last.
struct Running<F> {
    serving: Arc<Serving<F>>,
    handlers: Arc<Handlers>,
    /// Whether it counts for the limit of connections.
    has_place: bool,
}

impl<F> Drop for Running<F> {
    fn drop(&mut self) {
        if let Some(places) = self.serving.places.as_ref().filter(|_| self.has_place) {
            places.release(1);
        }
        self.handlers.running.done();
    }
}

/// How often an acceptor is started again to find a thread of its own.
const ATTEMPTS: usize = 10;

/// A listener, and the goroutine that accepts from it.
struct Acceptor<F> {
    listener: TcpListener,
    /// Dropped after the listener.
    serving: Counted<F>,
}

/// An acceptor that has not ended.
struct Counted<F>(Arc<Serving<F>>);

impl<F> Drop for Counted<F> {
    fn drop(&mut self) {
        self.0.acceptors.done();
    }
}

impl<F, T> Acceptor<F>
where
    F: Fn(TcpStream, SocketAddr) -> T + Send + Sync + 'static,
    T: Send + 'static,
{
    /// Starts the goroutine, which starts another up to `attempts` times if it has no thread of its
    /// own.
    fn start(self, attempts: usize) {
        let serving = self.serving.0.clone();
        let has_started = Arc::new(AtomicBool::new(false));
        let started = has_started.clone();
        let run = move || {
            started.store(true, Ordering::Release);
            let Serving {
                is_local, seats, ..
            } = &*self.serving.0;
            if *is_local && !seats.take(attempts == 0) {
                self.start(attempts - 1);
            } else {
                self.run();
            }
        };
        if let Err(exhausted) = sched().go(reporting(run), serving.site) {
            serving.fail(Error::new(ErrorKind::OutOfMemory, exhausted));
        } else if attempts < ATTEMPTS {
            // The caller is an acceptor without a seat. Another M takes the new goroutine if this
            // one stays busy.
            hold_thread_until(|| has_started.load(Ordering::Acquire));
        }
    }

    /// Accepts until the server ends. Closes the listener, and waits for the handlers.
    fn run(self) {
        let Acceptor { listener, serving } = self;
        let serving = &serving.0;
        let handlers = Arc::new(Handlers {
            cancel: Cancel::new(),
            running: RawWaitGroup::new(Global),
        });
        let accept = || accept_all(serving, &handlers, listener.incoming());
        if let Err(error) = serving.stop.run(accept) {
            serving.fail(error);
        }
        drop(listener);
        handlers.cancel.set_timeout(serving.grace);
        handlers.running.wait();
    }
}

fn accept_all<F, T>(
    serving: &Arc<Serving<F>>,
    handlers: &Arc<Handlers>,
    mut incoming: Incoming<'_>,
) -> Result<()>
where
    F: Fn(TcpStream, SocketAddr) -> T + Send + Sync + 'static,
    T: Send + 'static,
{
    while let Some(accepted) = incoming.accept() {
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) if is_lasting(&error) => return Err(error),
            Err(error) => {
                serving.report(&error);
                continue;
            }
        };
        // A connection that was accepted is served, even if the server ends while it waits.
        let has_place = serving.places.as_ref().is_some_and(|places| {
            places.try_acquire(1) || places.acquire_or_cancel(1, None).is_ok()
        });
        handlers.running.add(1);
        let running = Running {
            serving: serving.clone(),
            handlers: handlers.clone(),
            has_place,
        };
        let handle = move || {
            let Running {
                serving, handlers, ..
            } = &running;
            handlers.cancel.run(|| (serving.handler)(stream, peer))
        };
        let started = match serving.is_local {
            true => sched().go_local(reporting(handle), serving.site),
            false => sched().go(reporting(handle), serving.site),
        };
        if let Err(exhausted) = started {
            serving.report(&exhausted);
        }
    }
    Ok(())
}

/// Whether an error of accept means that the listener will never work. Others concern one
/// connection (accept(2)) or are lacks that can end.
fn is_lasting(error: &Error) -> bool {
    match error.raw_os_error() {
        Some(errno) => matches!(
            errno,
            // EAGAIN: the listener was set to not wait.
            libc::EAGAIN | libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP
        ),
        // Such as a deadline that has passed.
        None => true,
    }
}

/// Gives each acceptor a thread.
struct Seats {
    taken: Mutex<HashSet<ThreadId>>,
    /// Acceptors without a seat.
    missing: AtomicUsize,
}

impl Seats {
    fn new(acceptors: usize) -> Self {
        Seats {
            taken: Mutex::new(HashSet::new()),
            missing: AtomicUsize::new(acceptors),
        }
    }

    /// Takes this thread for the calling acceptor, and holds it until all acceptors have one.
    /// Returns false if another has it, unless the caller `must` share it.
    fn take(&self, must: bool) -> bool {
        let thread = thread::current().id();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = taken.insert(thread);
        drop(taken);
        if is_free || must {
            self.missing.fetch_sub(1, Ordering::AcqRel);
            hold_thread_until(|| self.missing.load(Ordering::Acquire) == 0);
        }
        is_free || must
    }
}

/// Keeps the thread busy, so that other Ms run the goroutines that are ready: until `condition`
/// holds, or for a time that no other goroutine of the thread suffers from.
fn hold_thread_until(condition: impl Fn() -> bool) {
    const LIMIT: Duration = Duration::from_millis(1);
    let start = Instant::now();
    while !condition() && start.elapsed() < LIMIT {
        // The other threads may need this CPU.
        thread::yield_now();
    }
}
