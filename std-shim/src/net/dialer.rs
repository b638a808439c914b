//! [`Dialer`].

use super::dial::{Settings, dial};
use super::names::Resolver;
use super::{SocketAddr, TcpStream, ToSocketAddrs, resolve};
use crate::PollError;
use crate::builder::sched;
use crate::cancel::{Cancel, Cause, shield};
use crate::error::{io_error, poll_error, with_cause};
use crate::global::Global;
use crate::runtime::time_limit;
use crate::scope::scope;
use gopark_core::chan::bounded;
use gopark_core::fd::FdError;
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connects to addresses and host names with settings: Go's `net.Dialer`.
///
/// ```
/// use gopark::net::{Dialer, TcpListener};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// # gopark::run(|| {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let dialer = Dialer::new().timeout(Duration::from_secs(5)).keep_alive(None);
/// let stream = dialer.dial(("localhost", listener.local_addr()?.port()))?;
/// assert!(stream.nodelay()?);
/// # Ok(())
/// # })
/// # }
/// ```
///
/// **Limits.** The earliest of [`timeout`](Self::timeout), [`deadline`](Self::deadline),
/// [`cancel`](Self::cancel) and a [cancel](crate::sync::Cancel) of the caller ends the dial. All of
/// them include the look-up of a host name. None affects the connection after
/// [`dial`](Self::dial) has returned it. A connection that is established when a limit ends the
/// dial is closed.
///
/// **Several addresses.** A name can have addresses of IPv6 and of IPv4. As in Go (RFC 8305,
/// "happy eyeballs"), those of the first address's family are tried one after another. When none
/// has connected after [`fallback_delay`](Self::fallback_delay), or all have failed, the others are
/// tried beside them, one after another. The first connection wins, and the other is closed. With
/// a time limit, each address gets an equal share of the time that is left, but at least 2 s of it.
#[derive(Clone)]
#[must_use = "a dialler does nothing until `dial`"]
pub struct Dialer {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    fallback_delay: Option<Duration>,
    cancel: Option<Cancel>,
    resolver: Option<Arc<dyn Resolver>>,
    settings: Settings,
}

static_assertions::assert_impl_all!(Dialer: Send, Sync);

impl Default for Dialer {
    fn default() -> Self {
        Self::new()
    }
}

/// The least time for one address, if there is as much. Go's value.
#[doc(alias = "saneMinimum")]
const LEAST_SHARE: Duration = Duration::from_secs(2);

impl Dialer {
    /// Returns a dialler that connects as [`TcpStream::connect`] does, and that tries both families
    /// of addresses at once.
    ///
    /// ```
    /// let dialer = gopark::net::Dialer::new();
    /// assert!(format!("{dialer:?}").contains("fallback_delay: Some(300ms)"));
    /// ```
    pub fn new() -> Self {
        Dialer {
            timeout: None,
            deadline: None,
            fallback_delay: Some(Duration::from_millis(300)),
            cancel: None,
            resolver: None,
            settings: Settings::DEFAULT,
        }
    }

    /// Limits each dial to `timeout`. Zero: a dial fails at once.
    ///
    /// ```
    /// # use gopark::net::Dialer;
    /// # use std::{io::ErrorKind, time::Duration};
    /// let error = Dialer::new().timeout(Duration::ZERO).dial("127.0.0.1:1").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Ends each dial at `deadline`.
    ///
    /// ```
    /// # use gopark::net::Dialer;
    /// # use std::{io::ErrorKind, time::Instant};
    /// let error = Dialer::new().deadline(Instant::now()).dial("127.0.0.1:1").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// ```
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the address of this end. Port 0: the kernel chooses a port. Only addresses of the same
    /// family are tried.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{Dialer, TcpListener};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let dialer = Dialer::new().local_addr("127.0.0.2:0".parse().unwrap());
    /// let stream = dialer.dial(listener.local_addr()?)?;
    /// assert_eq!(stream.local_addr()?.ip().to_string(), "127.0.0.2");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "LocalAddr")]
    pub fn local_addr(mut self, addr: SocketAddr) -> Self {
        self.settings.local = Some(addr);
        self
    }

    /// Sets the time without data before the first keep-alive probe, and between two. Nine probes
    /// without a reply end the connection. The kernel counts whole seconds, so a part of a second
    /// becomes a whole one. Default: 15 s. `None`: no probes.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{Dialer, TcpListener};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = Dialer::new().keep_alive(None).dial(listener.local_addr()?)?;
    /// assert!(!socket2::SockRef::from(&stream).keepalive()?);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "KeepAlive")]
    pub fn keep_alive(mut self, interval: Option<Duration>) -> Self {
        self.settings.keep_alive = interval;
        self
    }

    /// Sets how long the addresses of the first family are tried alone. Default: 300 ms. `None`:
    /// all addresses are tried one after another, in their order.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// gopark::net::Dialer::new().fallback_delay(Some(Duration::from_millis(50)));
    /// ```
    #[doc(alias = "FallbackDelay")]
    pub fn fallback_delay(mut self, delay: Option<Duration>) -> Self {
        self.fallback_delay = delay;
        self
    }

    /// Ends dials when `cancel` is cancelled, beside the cancels that the caller is a member of.
    ///
    /// ```
    /// # use gopark::net::Dialer;
    /// # use gopark::{PollError, poll_error, sync::Cancel};
    /// let cancel = Cancel::new();
    /// cancel.cancel();
    /// let error = Dialer::new().cancel(&cancel).dial("127.0.0.1:1").unwrap_err();
    /// assert_eq!(poll_error(&error), Some(PollError::Cancelled));
    /// ```
    #[doc(alias = "DialContext")]
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// Calls `control` with each socket after it is made and before it is bound or connected, and
    /// with the address that it is for: Go's `Control`. It can set options of the socket.
    ///
    /// If it fails, its error is that of the address. Calls for two families can run at once.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{Dialer, TcpListener};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let dialer = Dialer::new().control(|fd, _| socket2::SockRef::from(&fd).set_tos_v4(0x10));
    /// let stream = dialer.dial(listener.local_addr()?)?;
    /// assert_eq!(socket2::SockRef::from(&stream).tos_v4()?, 0x10);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "ControlContext")]
    pub fn control<F>(mut self, control: F) -> Self
    where
        F: Fn(BorrowedFd<'_>, SocketAddr) -> Result<()> + Send + Sync + 'static,
    {
        self.settings.control = Some(Arc::new(control));
        self
    }

    /// Sets whether connections use Multipath TCP (RFC 8684), if the kernel has it, and otherwise
    /// TCP. Default: false, as in Go.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{Dialer, TcpListener};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// Dialer::new().mptcp(true).dial(listener.local_addr()?)?;
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "SetMultipathTCP")]
    pub fn mptcp(mut self, on: bool) -> Self {
        self.settings.mptcp = on;
        self
    }

    /// Sets the resolver of host names. Default: that of [`set_resolver`](super::set_resolver), or
    /// else the C library.
    ///
    /// ```
    /// # use gopark::net::{Dialer, SocketAddr};
    /// # use std::io::{Error, Result};
    /// # use std::sync::Arc;
    /// fn nothing(_: &str, _: u16) -> Result<Vec<SocketAddr>> {
    ///     Err(Error::other("names are off"))
    /// }
    /// let error = Dialer::new().resolver(Arc::new(nothing)).dial("gopark.test:80").unwrap_err();
    /// assert_eq!(error.to_string(), "lookup gopark.test: names are off");
    /// ```
    #[doc(alias = "Resolver")]
    pub fn resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Connects to an address of `addr`, and waits until the connection is established.
    ///
    /// The goroutine parks; an ordinary thread blocks. Host names are recognized as in
    /// [`TcpStream::connect`]. A failed dial leaves no descriptor open.
    ///
    /// # Errors
    ///
    /// The error of the first address that has failed, of the family that was tried first. It has
    /// the kind of the system's error and names the address: `dial tcp 127.0.0.1:1: Connection
    /// refused (os error 111)`. Its [`source`](std::error::Error::source) is the system's error,
    /// with its [number](Error::raw_os_error). A look-up names the host in the same way.
    ///
    /// [`PollError::Timeout`](crate::PollError::Timeout) after a timeout or deadline of the
    /// dialler, and [`PollError::Cancelled`](crate::PollError::Cancelled) after a cancel, as other
    /// operations return them.
    ///
    /// `InvalidInput` if `addr` resolves to no address, or to none of the family of
    /// [`local_addr`](Self::local_addr).
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started. If there are addresses of both families
    /// and no stack is available for a goroutine.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{Dialer, TcpListener};
    /// let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?; // Closed at once.
    /// let error = Dialer::new().dial(addr).unwrap_err();
    /// assert!(error.to_string().starts_with(&format!("dial tcp {addr}: ")));
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[track_caller]
    pub fn dial<A: ToSocketAddrs>(&self, addr: A) -> Result<TcpStream> {
        // Starts the runtime here, so that a failed start panics with the location of the caller.
        sched();
        match &self.cancel {
            Some(cancel) => cancel.run(|| self.dial_in_time(addr)),
            None => self.dial_in_time(addr),
        }
    }

    fn dial_in_time<A: ToSocketAddrs>(&self, addr: A) -> Result<TcpStream> {
        let until = self.timeout.and_then(time_limit);
        let until = until.into_iter().chain(self.deadline).min();
        if until.is_some_and(|until| until <= Instant::now()) {
            return Err(poll(PollError::Timeout));
        }
        let limits = Cancel::below_current();
        limits.set_deadline(until);
        let attempt = Attempt {
            dialer: self,
            until,
            limits: &limits,
        };
        let stream = limits.run(|| attempt.dial_all(&attempt.addresses(&addr)?))?;
        // A connection that came just when a limit did is closed.
        attempt.ended().map_or(Ok(stream), |why| Err(poll(why)))
    }
}

/// One call of [`Dialer::dial`].
#[derive(Clone, Copy)]
struct Attempt<'a> {
    dialer: &'a Dialer,
    /// The earlier of the timeout and the deadline.
    until: Option<Instant>,
    /// Cancelled at `until`, and with the caller.
    limits: &'a Cancel,
}

impl Attempt<'_> {
    /// Why the attempt must end, if it must.
    fn ended(&self) -> Option<PollError> {
        self.limits.cause().map(|cause| match cause {
            Cause::Deadline => PollError::Timeout,
            _ => PollError::Cancelled,
        })
    }

    /// Returns `error`, or a timeout if it is a cancel that the time limit has caused.
    fn explain(&self, error: Error) -> Error {
        match (poll_error(&error), self.ended()) {
            (Some(PollError::Cancelled), Some(why)) => poll(why),
            _ => error,
        }
    }

    /// Returns the addresses that `addr` resolves to, of the family of the local address.
    fn addresses<A: ToSocketAddrs>(&self, addr: &A) -> Result<Vec<SocketAddr>> {
        let resolver = self.dialer.resolver.as_deref();
        // Whatever a resolver makes of the cancel at the limit, the limit is the reason.
        let explain = |error| self.ended().map_or(error, poll);
        let mut addrs = match resolve::look_up(addr, resolver, explain) {
            Some(found) => found?,
            None => addr.to_socket_addrs()?.collect(),
        };
        let invalid = |text| Error::new(ErrorKind::InvalidInput, text);
        if addrs.is_empty() {
            let error = invalid("could not resolve to any addresses".to_owned());
            return Err(self.ended().map_or(error, poll));
        }
        if let Some(local) = self.dialer.settings.local {
            addrs.retain(|addr| addr.is_ipv4() == local.is_ipv4());
            if addrs.is_empty() {
                let text = format!("no address is of the family of the local address {local}");
                return Err(invalid(text));
            }
        }
        Ok(addrs)
    }

    fn dial_all(&self, addrs: &[SocketAddr]) -> Result<TcpStream> {
        let Some(delay) = self.dialer.fallback_delay else {
            return self.dial_each(addrs);
        };
        let is_primary = |addr: &&SocketAddr| addr.is_ipv4() == addrs[0].is_ipv4();
        let (primaries, fallbacks): (Vec<_>, Vec<_>) = addrs.iter().partition(is_primary);
        if fallbacks.is_empty() {
            self.dial_each(&primaries)
        } else {
            self.race(&primaries, &fallbacks, delay)
        }
    }

    /// Dials the addresses one after another.
    #[doc(alias = "dialSerial")]
    fn dial_each(&self, addrs: &[SocketAddr]) -> Result<TcpStream> {
        let mut first = None;
        for (at, &addr) in addrs.iter().enumerate() {
            let until = self.until.map(|until| share(until, addrs.len() - at));
            let error = match dial(&self.dialer.settings, addr, until) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            // Cancelled: from outside, or because another racer has won.
            let is_last = poll_error(&error) == Some(PollError::Cancelled);
            let error = self.explain(error);
            let text = format!("dial tcp {addr}: {error}");
            let error = with_cause(error, text);
            if is_last {
                return Err(error);
            }
            first.get_or_insert(error);
        }
        Err(first.expect("there is an address"))
    }

    /// Dials `primaries`, and after `delay`, or when they have failed, also `fallbacks`.
    #[doc(alias = "dialParallel")]
    fn race(
        &self,
        primaries: &[SocketAddr],
        fallbacks: &[SocketAddr],
        delay: Duration,
    ) -> Result<TcpStream> {
        let (outcomes, outcome) = bounded(2, Global);
        // The end of the scope waits for the loser, which is cancelled.
        scope(|racers| {
            let start = |addrs, is_primary| {
                let outcomes = outcomes.clone();
                // A cancelled goroutine cannot `send`, but `try_send`. There is room for both.
                racers.go(move || _ = outcomes.try_send((is_primary, self.dial_each(addrs))));
            };
            start(primaries, true);
            let mut next = match time_limit(delay) {
                Some(end) => outcome.recv_deadline(end).ok(),
                None => outcome.recv().ok(),
            };
            if next.as_ref().is_none_or(|(_, result)| result.is_err()) && self.ended().is_none() {
                start(fallbacks, false);
            }
            drop(outcomes);
            let mut failed = None;
            loop {
                match next {
                    Some((_, Ok(stream))) => {
                        racers.cancel();
                        return Ok(stream);
                    }
                    Some((is_primary, Err(error))) if is_primary || failed.is_none() => {
                        failed = Some(error)
                    }
                    _ => {}
                }
                // A cancel ends the racers, whose errors say what was dialled. Then the channel is
                // closed.
                next = match shield(|| outcome.recv()) {
                    Ok(another) => Some(another),
                    Err(_) => return Err(failed.expect("a racer has failed")),
                };
            }
        })
    }
}

/// Returns the end of the time for the first of `addrs` addresses, which have until `until`.
#[doc(alias = "partialDeadline")]
fn share(until: Instant, addrs: usize) -> Instant {
    let now = Instant::now();
    let left = until.saturating_duration_since(now);
    let addrs = u32::try_from(addrs).unwrap_or(u32::MAX);
    now + (left / addrs).max(LEAST_SHARE).min(left)
}

fn poll(error: PollError) -> Error {
    io_error(FdError::Poll(error))
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dialer {
            timeout,
            deadline,
            fallback_delay,
            cancel,
            resolver: _,
            settings,
        } = self;
        f.debug_struct("Dialer")
            .field("timeout", timeout)
            .field("deadline", deadline)
            .field("local_addr", &settings.local)
            .field("keep_alive", &settings.keep_alive)
            .field("fallback_delay", fallback_delay)
            .field("cancel", cancel)
            .field("mptcp", &settings.mptcp)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_share_the_time_with_a_floor_of_two_seconds() {
        let check = |left: u64, addrs, expected: u64| {
            let until = Instant::now() + Duration::from_secs(left);
            let start = Instant::now();
            let end = share(until, addrs);
            let expected = Duration::from_secs(expected);
            let late = (Instant::now() - start) * 2;
            assert!(end + late >= start + expected && end <= start + expected + late);
        };
        check(30, 3, 10);
        check(30, 1, 30);
        check(9, 9, 2);
        check(1, 3, 1);
        check(0, 3, 0);
    }
}
