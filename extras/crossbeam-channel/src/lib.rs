//! The crate crossbeam-channel 0.5 over goroutines: the interface is the original's, and a wait
//! parks a goroutine of [gopark](https://docs.rs/gopark) instead of blocking its thread.
//!
//! A dependency that uses crossbeam-channel blocks the thread of the goroutine that calls it. If
//! the goroutine that is to end the wait has started on the same thread, both hang. With this crate
//! in place of the original, all dependencies park, without a change to them. One line in the
//! `Cargo.toml` of the program, or of its workspace:
//!
//! ```toml
//! [patch.crates-io]
//! crossbeam-channel = { path = "path/to/gopark/extras/crossbeam-channel" }
//! ```
//!
//! The program and this crate must use one copy of `gopark`, that of the same checkout: another
//! copy is another runtime. A program that has no goroutines works as before.
//!
//! ```
//! use crossbeam_channel::{bounded, select, tick};
//! use std::time::Duration;
//!
//! // One thread runs both goroutines.
//! gopark::Builder::new().max_procs(1).start().unwrap();
//! gopark::run(|| {
//!     let (sender, receiver) = bounded(0);
//!     let goroutine = gopark::go(move || sender.send("hello"));
//!     let ticks = tick(Duration::from_secs(1));
//!     select! {
//!         recv(receiver) -> message => assert_eq!(message, Ok("hello")),
//!         recv(ticks) -> _ => println!("a second is over"),
//!     }
//!     goroutine.join().unwrap().unwrap();
//! });
//! ```
//!
//! An ordinary thread blocks, and can use a channel together with goroutines. The first wait or
//! select starts gopark's runtime and its threads, unless it runs already.
//!
//! # Differences
//!
//! Signatures, errors and their texts, and the documented behaviour are those of crossbeam-channel
//! 0.5.17, except:
//!
//! - In a goroutine that is cancelled (`gopark::sync::Cancel`, or a scope that ends), an operation
//!   that may wait and can return an error fails as if the channel was disconnected. A send gives
//!   its message back, and no message is lost. `try_send` and `try_recv` do not fail. A select
//!   fails its first channel, and a select of clocks alone its first receive. `default` without
//!   a time, `try_select`, and the methods of [`Select`] about readiness are not affected.
//! - If all goroutines and threads of a program wait for each other, gopark reports a deadlock and
//!   ends the process, where the original hangs.
//! - Each operation may let other goroutines of the thread run, also one that does not wait.
//! - [`bounded`] allocates memory as the channel fills, not at once.
//! - A [`SelectedOperation`] that is dropped panics, as in the original, but not while the thread
//!   panics already: there the original aborts the process. So completion with a wrong handle is a
//!   panic that can be caught. A send that was selected and then not completed, also because its
//!   message's expression panics in [`select!`], sends nothing. In the original, the receiver that
//!   was to get the message waits forever.
//! - In [`select!`] the temporaries of a case's channel are dropped before its body runs, not
//!   after. Ticks that a select waits for stay in phase, as those of `recv` do.
//! - Each send of a select takes an allocation, and one more if it is selected. All other
//!   operations do without, unless the channel grows.
//! - What is not documented does not exist: the module `internal` has other contents, and the
//!   texts of panics and of errors of the compiler are others.
//!
//! Channels of gopark have a lock, and those of the original mostly none. Between ordinary threads,
//! many senders that wait for room in one channel are slower than with the original.

#![cfg_attr(not(feature = "std"), no_std)]
#![cfg(feature = "std")]

mod channel;
mod clock;
mod error;
mod iter;
mod macros;
mod operation;
mod promise;
mod random;
mod ready;
mod select;
mod selected;
mod shared;
mod watch;

pub use channel::{Receiver, Sender, after, at, bounded, never, tick, unbounded};
pub use error::{
    ReadyTimeoutError, RecvError, RecvTimeoutError, SelectTimeoutError, SendError,
    SendTimeoutError, TryReadyError, TryRecvError, TrySelectError, TrySendError,
};
pub use iter::{IntoIter, Iter, TryIter};
pub use select::{Select, SelectedOperation};

/// What the macros expand to.
#[doc(hidden)]
pub mod internal {
    pub use crate::operation::{Limit, Operation, RecvOp, SendOp, within};
    pub use crate::promise::Obtained;
    use crate::{Receiver, Sender, operation};

    /// A receive.
    #[inline]
    pub fn recv<T>(receiver: &Receiver<T>) -> RecvOp<'_, T> {
        RecvOp::new(receiver)
    }

    /// A send.
    #[inline]
    pub fn send<T>(sender: &Sender<T>) -> SendOp<'_, T> {
        SendOp::new(sender)
    }

    /// Waits for one of `ops`. Returns its index, or `None` at the limit.
    #[inline]
    pub fn select(ops: &mut [&mut dyn Operation], biased: bool, limit: Limit) -> Option<usize> {
        operation::select(ops, biased, limit)
    }
}
