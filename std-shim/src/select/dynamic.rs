//! A select over a list that is made at run time.

use super::arms::{AtArm, CallerArm, JoinArm, cancelled, until};
use super::{Limit, acceptable, at, join, pick, readable, recv, send, within, writable};
use crate::chan::{Receiver, RecvError, SendError, Sender};
use crate::global::Global;
use crate::goroutine::JoinHandle;
use crate::net::{Acceptable, Readiness, SocketArm};
use gopark_core::chan::{RecvArm, SendArm};
use gopark_core::select::Case;
use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// A select over cases that a program adds at run time. See [`select!`](crate::select!) for a fixed
/// list.
///
/// Each case has a closure, which gets the result of its operation. The wait calls the closure of
/// the one case that happens, and returns what that returns. Go has `reflect.Select`.
///
/// Cases are sends and receives. For many sockets, start a goroutine for each, which reads and
/// sends what it has read to one channel.
///
/// ```
/// use gopark::chan;
/// use gopark::Select;
///
/// let channels: Vec<_> = (0..20).map(|_| chan::bounded(1)).collect();
/// channels[13].0.send("hello").unwrap();
///
/// let mut select = Select::new();
/// for (i, (_, receiver)) in channels.iter().enumerate() {
///     select.recv(receiver, move |result| (i, result));
/// }
/// assert_eq!(select.wait(), (13, Ok("hello")));
/// ```
#[must_use = "a select does nothing until it waits"]
pub struct Select<'a, O> {
    cases: Vec<Box<dyn Operation<'a, O> + 'a>>,
    biased: bool,
}

/// A case, with what is done when it happens.
trait Operation<'a, O> {
    fn case(&self) -> Case<'_>;
    fn finish(self: Box<Self>) -> O;
}

struct With<A, F> {
    arm: A,
    then: F,
}

impl<'a, A: Arm + 'a, O, F: FnOnce(A::Result) -> O + 'a> Operation<'a, O> for With<A, F> {
    fn case(&self) -> Case<'_> {
        self.arm.case()
    }

    fn finish(self: Box<Self>) -> O {
        (self.then)(self.arm.finish())
    }
}

/// What all kinds of arms have.
trait Arm {
    type Result;
    fn case(&self) -> Case<'_>;
    fn finish(self) -> Self::Result;
}

macro_rules! arm {
    ([$($generics:tt)*] $arm:ty, $result:ty) => {
        impl<$($generics)*> Arm for $arm {
            type Result = $result;

            fn case(&self) -> Case<'_> {
                self.case()
            }

            fn finish(self) -> $result {
                self.finish()
            }
        }
    };
}

arm!([T] RecvArm<'_, T, Global>, Result<T, RecvError>);
arm!([T] SendArm<'_, T, Global>, Result<(), SendError<T>>);
arm!([T: Send] JoinArm<'_, JoinHandle<T>>, thread::Result<T>);
arm!([] SocketArm<'_>, io::Result<()>);
arm!([] AtArm, ());
arm!([] CallerArm, ());

impl<O> Default for Select<'_, O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a, O> Select<'a, O> {
    /// A select without cases.
    ///
    /// ```
    /// use gopark::Select;
    ///
    /// assert_eq!(Select::<()>::new().try_wait(), None);
    /// ```
    pub fn new() -> Self {
        Select {
            cases: Vec::new(),
            biased: false,
        }
    }

    /// Selects the first case that was added if several are possible, not one at random.
    ///
    /// ```
    /// use gopark::{Select, chan};
    ///
    /// let (_, closed) = chan::bounded::<u8>(0);
    /// let mut select = Select::new();
    /// select.biased().recv(&closed, |_| "first").recv(&closed, |_| "second");
    /// assert_eq!(select.wait(), "first");
    /// ```
    pub fn biased(&mut self) -> &mut Self {
        self.biased = true;
        self
    }

    fn add<A: Arm + 'a>(&mut self, arm: A, then: impl FnOnce(A::Result) -> O + 'a) -> &mut Self {
        self.cases.push(Box::new(With { arm, then }));
        self
    }

    /// Adds a receive. If it happens, `then` gets what [`recv`](Receiver::recv) returns.
    ///
    /// ```
    /// use gopark::{Select, chan};
    ///
    /// let (sender, receiver) = chan::unbounded();
    /// sender.send(6).unwrap();
    /// let mut select = Select::new();
    /// select.recv(&receiver, |result| result.unwrap() * 7);
    /// assert_eq!(select.wait(), 42);
    /// ```
    pub fn recv<T>(
        &mut self,
        receiver: &'a Receiver<T>,
        then: impl FnOnce(Result<T, RecvError>) -> O + 'a,
    ) -> &mut Self {
        self.add(recv(receiver), then)
    }

    /// Adds a send. If it happens, `then` gets what [`send`](Sender::send) returns. If not, the
    /// value is dropped.
    ///
    /// ```
    /// use gopark::{Select, chan};
    ///
    /// let (sender, receiver) = chan::bounded(1);
    /// let mut select = Select::new();
    /// select.send(&sender, 'x', |result| result.is_ok());
    /// assert!(select.wait());
    /// assert_eq!(receiver.recv(), Ok('x'));
    /// ```
    pub fn send<T>(
        &mut self,
        sender: &'a Sender<T>,
        value: T,
        then: impl FnOnce(Result<(), SendError<T>>) -> O + 'a,
    ) -> &mut Self {
        self.add(send(sender, value), then)
    }

    /// Adds the return of a goroutine. If it happens, `then` gets what
    /// [`join`](JoinHandle::join) returns. It happens once: as in `select!`.
    ///
    /// ```
    /// use gopark::Select;
    ///
    /// let goroutines: Vec<_> = (0..3).map(|i| gopark::go(move || i)).collect();
    /// let mut sum = 0;
    /// for _ in &goroutines {
    ///     let mut select = Select::new();
    ///     for goroutine in &goroutines {
    ///         select.join(goroutine, |result| result.unwrap());
    ///     }
    ///     sum += select.wait();
    /// }
    /// assert_eq!(sum, 3);
    /// ```
    pub fn join<T: Send>(
        &mut self,
        goroutine: &'a JoinHandle<T>,
        then: impl FnOnce(thread::Result<T>) -> O + 'a,
    ) -> &mut Self {
        self.add(join(goroutine), then)
    }

    /// Adds a wait until a read from a socket would not wait. `then` gets an error if the socket is
    /// closed.
    ///
    /// ```
    /// use gopark::Select;
    /// use gopark::net::{TcpListener, TcpStream};
    /// use std::io::Write;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let addr = listener.local_addr()?;
    /// let mut near = [TcpStream::connect(addr)?, TcpStream::connect(addr)?];
    /// let far = [listener.accept()?.0, listener.accept()?.0];
    /// near[1].write_all(b"hello")?;
    ///
    /// let mut select = Select::new();
    /// for (i, conn) in far.iter().enumerate() {
    ///     select.readable(conn, move |ready| ready.map(|()| i));
    /// }
    /// assert_eq!(select.wait()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn readable<S: Readiness>(
        &mut self,
        socket: &'a S,
        then: impl FnOnce(io::Result<()>) -> O + 'a,
    ) -> &mut Self {
        self.add(readable(socket), then)
    }

    /// Adds a wait until a write to a socket would not wait, as [`readable`](Self::readable).
    ///
    /// ```
    /// use gopark::Select;
    /// use gopark::net::{TcpListener, TcpStream};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let conn = TcpStream::connect(listener.local_addr()?)?;
    /// let mut select = Select::new();
    /// select.writable(&conn, |ready| ready);
    /// select.wait()
    /// # }
    /// ```
    pub fn writable<S: Readiness>(
        &mut self,
        socket: &'a S,
        then: impl FnOnce(io::Result<()>) -> O + 'a,
    ) -> &mut Self {
        self.add(writable(socket), then)
    }

    /// Adds the case that the goroutine is [cancelled](crate::sync::Cancel).
    ///
    /// ```
    /// use gopark::Select;
    /// use gopark::sync::Cancel;
    ///
    /// let cancel = Cancel::new();
    /// cancel.cancel();
    /// let mut select = Select::new();
    /// select.cancelled(|| "cancelled");
    /// assert_eq!(cancel.run(|| select.wait()), "cancelled");
    /// ```
    pub fn cancelled(&mut self, then: impl FnOnce() -> O + 'a) -> &mut Self {
        self.add(cancelled(), |()| then())
    }

    /// Adds a wait until an accept would not wait, as [`readable`](Self::readable).
    ///
    /// ```
    /// use gopark::Select;
    /// use gopark::net::{TcpListener, TcpStream};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let _conn = TcpStream::connect(listener.local_addr()?)?;
    /// let mut select = Select::new();
    /// select.acceptable(&listener, |ready| ready);
    /// select.wait()
    /// # }
    /// ```
    pub fn acceptable<S: Acceptable>(
        &mut self,
        listener: &'a S,
        then: impl FnOnce(io::Result<()>) -> O + 'a,
    ) -> &mut Self {
        self.add(acceptable(listener), then)
    }

    /// Adds a time. It happens once the clock shows it.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// let mut select = gopark::Select::new();
    /// select.at(Instant::now(), |()| "now");
    /// assert_eq!(select.wait(), "now");
    /// ```
    pub fn at(&mut self, when: Instant, then: impl FnOnce(()) -> O + 'a) -> &mut Self {
        self.add(at(when), then)
    }

    /// Waits until a case happens.
    ///
    /// # Panics
    ///
    /// If there are no cases: it would wait forever.
    ///
    /// ```should_panic
    /// gopark::Select::<()>::new().wait();
    /// ```
    #[track_caller]
    pub fn wait(self) -> O {
        assert!(
            !self.cases.is_empty(),
            "Select::wait: a select without cases would wait forever"
        );
        self.pick(Limit::Never)
            .expect("a select without a limit ended without an event")
    }

    /// Waits until a case happens, but no longer than `timeout`. `None` if the time is over first.
    ///
    /// ```
    /// use gopark::{Select, chan};
    /// use std::time::Duration;
    ///
    /// let (_sender, receiver) = chan::bounded::<u8>(0);
    /// let mut select = Select::new();
    /// select.recv(&receiver, |result| result);
    /// assert_eq!(select.wait_timeout(Duration::from_millis(5)), None);
    /// ```
    pub fn wait_timeout(self, timeout: Duration) -> Option<O> {
        self.pick(within(timeout))
    }

    /// Waits until a case happens, but no longer than until `deadline`. `None` if that comes first.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// assert_eq!(gopark::Select::<()>::new().wait_deadline(Instant::now()), None);
    /// ```
    pub fn wait_deadline(self, deadline: Instant) -> Option<O> {
        self.pick(until(Some(deadline)))
    }

    /// Does one of the cases if that needs no wait. `None` if each would have to wait.
    ///
    /// ```
    /// use gopark::{Select, chan};
    ///
    /// let (_sender, receiver) = chan::bounded::<u8>(0);
    /// let mut select = Select::new();
    /// select.recv(&receiver, |result| result);
    /// assert_eq!(select.try_wait(), None);
    /// ```
    pub fn try_wait(self) -> Option<O> {
        self.pick(Limit::Now)
    }

    fn pick(mut self, limit: Limit) -> Option<O> {
        let cases = self.cases.iter();
        let cases: Vec<_> = cases.map(|operation| operation.case()).collect();
        let picked = pick(&cases, self.biased, limit)?;
        drop(cases);
        let done = self.cases.swap_remove(picked);
        // The values of the others are dropped before the closure runs.
        drop(self);
        Some(done.finish())
    }
}

impl<O> fmt::Debug for Select<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Select")
            .field("cases", &self.cases.len())
            .field("biased", &self.biased)
            .finish()
    }
}
