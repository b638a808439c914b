//! Sockets as arms of `select!`.

use super::{
    Descriptor, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixSeqpacket,
    UnixSeqpacketListener, UnixStream,
};
use crate::error::io_error;
use gopark_backends::linux::io::is_ready;
use gopark_core::fd::{Fd, ReadyArm};
use gopark_core::os::Mode;
use gopark_core::select::Case;
use std::io::Result;
use std::os::fd::AsFd;
use std::sync::Arc;

/// A socket that `select!` can wait for with `readable` and `writable`, and that
/// [`on_readable`](super::on_readable) takes: every socket that sends and receives, any
/// [`Descriptor`], or a pipe to a child ([`process`](crate::process)).
///
/// The trait is sealed.
pub trait Readiness: sealed::SealedReadiness {}

/// A listener that `select!` can wait for with `acceptable`.
///
/// The trait is sealed.
pub trait Acceptable: sealed::SealedAcceptable {}

pub(crate) mod sealed {
    use super::Fd;

    pub trait SealedReadiness {
        #[doc(hidden)]
        fn fd(&self) -> &Fd;
    }

    pub trait SealedAcceptable {
        #[doc(hidden)]
        fn fd(&self) -> &Fd;
    }
}

macro_rules! implement {
    ($name:ident, $sealed:ident for $($socket:ident),*) => {
        $(
            impl sealed::$sealed for $socket {
                fn fd(&self) -> &Fd {
                    self.socket.fd()
                }
            }
            impl $name for $socket {}
        )*

        impl<S: $name> sealed::$sealed for &S {
            fn fd(&self) -> &Fd {
                S::fd(self)
            }
        }
        impl<S: $name> $name for &S {}

        impl<S: $name> sealed::$sealed for Arc<S> {
            fn fd(&self) -> &Fd {
                S::fd(self)
            }
        }
        impl<S: $name> $name for Arc<S> {}
    };
}

implement!(
    Readiness, SealedReadiness for TcpStream, UdpSocket, UnixDatagram, UnixSeqpacket, UnixStream
);
implement!(
    Acceptable, SealedAcceptable for TcpListener, UnixListener, UnixSeqpacketListener
);

impl<T: AsFd> sealed::SealedReadiness for Descriptor<T> {
    fn fd(&self) -> &Fd {
        self.fd()
    }
}
impl<T: AsFd> Readiness for Descriptor<T> {}

/// Readiness for one select.
#[doc(hidden)]
pub struct SocketArm<'a>(ReadyArm<'a>);

impl SocketArm<'_> {
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
pub fn readable<S: Readiness>(socket: &S) -> SocketArm<'_> {
    SocketArm(socket.fd().ready_arm(Mode::Read, is_ready))
}

/// The arm `writable`.
#[doc(hidden)]
pub fn writable<S: Readiness>(socket: &S) -> SocketArm<'_> {
    SocketArm(socket.fd().ready_arm(Mode::Write, is_ready))
}

/// The arm `acceptable`.
#[doc(hidden)]
pub fn acceptable<S: Acceptable>(listener: &S) -> SocketArm<'_> {
    SocketArm(listener.fd().ready_arm(Mode::Read, is_ready))
}
