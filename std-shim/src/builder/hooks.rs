//! Functions of the program that the runtime calls.

use super::Builder;
use crate::leak::Leak;
use crate::report::Stall;
use gopark_core::sched::Switch;
use std::sync::Arc;

impl Builder {
    /// Sets a function that is called with each stall, instead of a report on stderr, even with
    /// [`reports(false)`](Self::reports).
    ///
    /// It runs on sysmon's thread, so it must return soon. It must not wait for a lock that
    /// goroutines hold, such as that of standard error, which `eprintln!` takes: send the stall to
    /// another thread. Needs [`sysmon`](Self::sysmon).
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// let (sender, stalls) = mpsc::channel();
    /// std::thread::spawn(move || {
    ///     for stall in stalls {
    ///         eprintln!("{stall}");
    ///     }
    /// });
    /// gopark::Builder::new()
    ///     .on_stall(move |stall: &gopark::Stall| _ = sender.send(stall.clone()))
    ///     .start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn on_stall(mut self, on_stall: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Arc::new(on_stall));
        self
    }

    /// Sets a function that is called with results of goroutines that are dropped unread: the
    /// [`JoinHandle`](crate::JoinHandle) was dropped, or its `join` was cancelled. So a failure
    /// does not get lost. The function gets
    ///
    /// - every panic,
    /// - every `Err` of type `Result<(), E>` where `E` is [`io::Error`](std::io::Error), `String`,
    ///   `&'static str`, `Box<dyn Error + Send + Sync>` or `Box<dyn Error + Send>`,
    /// - every value of another type `Result<_, _>`, `Ok` or `Err`: only a downcast can tell.
    ///
    /// It gets no value of other types, and nothing of the goroutines of a
    /// [`scope`](crate::scope()), whose panics come out of the scope.
    ///
    /// The function runs at the end of the goroutine, or where the handle is dropped: on any thread
    /// or goroutine, perhaps one that unwinds. A panic in it is caught, and printed.
    ///
    /// Without this setting, a program that is compiled with `debug_assertions` gets a line on
    /// stderr for each `Err` of the second point, unless [`reports`](Self::reports) are off. The
    /// panic hook prints panics in any case.
    ///
    /// [`Metrics::unseen_panics`](crate::Metrics::unseen_panics) and
    /// [`unseen_errors`](crate::Metrics::unseen_errors) count the first two points.
    ///
    /// ```
    /// use gopark::Leaked;
    /// use std::num::ParseIntError;
    /// use std::sync::mpsc;
    ///
    /// let (sender, unread) = mpsc::channel();
    /// gopark::Builder::new()
    ///     .on_leak(move |leak| match leak.result() {
    ///         Leaked::Value(value) => match value.downcast_ref::<Result<i32, ParseIntError>>() {
    ///             Some(Ok(_)) => {}
    ///             Some(Err(error)) => _ = sender.send(format!("{}: {error}", leak.id())),
    ///             None => eprintln!("{leak}"),
    ///         },
    ///         _ => eprintln!("{leak}"),
    ///     })
    ///     .start()?;
    /// drop(gopark::go(|| "7".parse::<i32>()));
    /// let failed = gopark::go(|| "seven".parse::<i32>());
    /// let id = failed.id();
    /// drop(failed);
    /// assert_eq!(unread.recv().unwrap(), format!("{id}: invalid digit found in string"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn on_leak(mut self, on_leak: impl Fn(&Leak<'_>) + Send + Sync + 'static) -> Self {
        self.on_leak = Some(Arc::new(on_leak));
        self
    }

    /// Sets a function that is called when a goroutine begins a turn on a thread and when the turn
    /// ends: for profilers, subscribers of `tracing`, and values that belong to a goroutine but are
    /// kept in a thread-local.
    ///
    /// On each thread of the runtime, [`Switch::In`] and [`Switch::Out`] alternate, and the two of
    /// a turn have the number of the same goroutine. A turn ends when the goroutine parks, yields
    /// or returns. If what the goroutine would wait for comes while it parks, its next turn begins
    /// at once. While a goroutine computes or blocks its thread, its turn goes on, even if another
    /// thread takes over the other goroutines. Work in [`blocking`](crate::blocking) runs on a
    /// thread of the pool, without a turn: its goroutine is parked.
    ///
    /// A goroutine has all its turns on one thread. With [`migrate`](Self::migrate) they are on any
    /// threads, and its `Out` on one returns before its next `In` on another is called.
    ///
    /// The function runs on the thread's own stack, outside of any goroutine, and delays everything
    /// else on that thread. It must neither park nor block. It may take a lock of `std` if no
    /// holder of that lock parks. If it panics, the process aborts.
    ///
    /// ```
    /// use gopark::Switch;
    /// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    ///
    /// static TURNS: AtomicU64 = AtomicU64::new(0);
    ///
    /// gopark::Builder::new()
    ///     .on_switch(|switch| {
    ///         if let Switch::In { .. } = switch {
    ///             TURNS.fetch_add(1, Relaxed);
    ///         }
    ///     })
    ///     .start()?;
    /// gopark::go(gopark::yield_now).join().unwrap();
    /// assert_eq!(TURNS.load(Relaxed), 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn on_switch(mut self, on_switch: impl Fn(Switch) + Send + Sync + 'static) -> Self {
        self.on_switch = Some(Arc::new(on_switch));
        self
    }
}
