//! Sockets as arms of `select!`.

use super::{TcpListener, TcpStream};
use crate::error::io_error;
use gopark_backends::linux::io::is_ready;
use gopark_core::fd::{self, Fd};
use gopark_core::os::Mode;
use gopark_core::select::Case;
use std::io::Result;
use std::sync::Arc;

/// A socket that `select!` can wait for with `readable` and `writable`: a [`TcpStream`].
///
/// The trait is sealed.
pub trait Readiness: sealed::Readiness {}

/// A listener that `select!` can wait for with `acceptable`: a [`TcpListener`].
///
/// The trait is sealed.
pub trait Acceptable: sealed::Acceptable {}

mod sealed {
    use super::Fd;

    pub trait Readiness {
        #[doc(hidden)]
        fn fd(&self) -> &Fd;
    }

    pub trait Acceptable {
        #[doc(hidden)]
        fn fd(&self) -> &Fd;
    }
}

macro_rules! implement {
    ($name:ident for $socket:ident) => {
        impl sealed::$name for $socket {
            fn fd(&self) -> &Fd {
                self.socket.fd()
            }
        }
        impl $name for $socket {}

        impl<S: $name> sealed::$name for &S {
            fn fd(&self) -> &Fd {
                S::fd(self)
            }
        }
        impl<S: $name> $name for &S {}

        impl<S: $name> sealed::$name for Arc<S> {
            fn fd(&self) -> &Fd {
                S::fd(self)
            }
        }
        impl<S: $name> $name for Arc<S> {}
    };
}

implement!(Readiness for TcpStream);
implement!(Acceptable for TcpListener);

/// Readiness for one select.
#[doc(hidden)]
pub struct ReadyArm<'a>(fd::ReadyArm<'a>);

impl ReadyArm<'_> {
    /// The case for the select.
    pub fn case(&self) -> Case<'_> {
        self.0.case()
    }

    /// What the wait returns.
    pub fn finish(self) -> Result<()> {
        self.0.finish().map_err(io_error)
    }
}

/// The arm `readable`.
#[doc(hidden)]
pub fn readable<S: Readiness>(socket: &S) -> ReadyArm<'_> {
    ReadyArm(socket.fd().ready_arm(Mode::Read, is_ready))
}

/// The arm `writable`.
#[doc(hidden)]
pub fn writable<S: Readiness>(socket: &S) -> ReadyArm<'_> {
    ReadyArm(socket.fd().ready_arm(Mode::Write, is_ready))
}

/// The arm `acceptable`.
#[doc(hidden)]
pub fn acceptable<S: Acceptable>(listener: &S) -> ReadyArm<'_> {
    ReadyArm(listener.fd().ready_arm(Mode::Read, is_ready))
}
