//! What all sockets have in common, as macros: a type with a field `socket` gets the methods and
//! conversions that concern its descriptor, its deadlines and its timeouts.
//!
//! The literals are lines of the examples: `setup` makes a `socket` on which nothing arrives, and
//! `wait` is an operation of it that waits.
#![allow(unsafe_code, reason = "descriptors are taken over by number")]

/// The descriptor: `set_nonblocking`, `take_error`, and the conversions from and to owned
/// and borrowed descriptors. The type has a function `adopt(OwnedFd)` and a method
/// `into_fd(self) -> OwnedFd`.
macro_rules! descriptor {
    ($type:ident, [$($setup:literal)*], $wait:literal) => {
        impl $type {
            /// Sets whether operations fail with `WouldBlock` (`EAGAIN`) instead of a wait, for all
            /// handles. The descriptor itself is always non-blocking.
            ///
            /// An operation in progress goes on waiting. While the mode is on, an operation also
            /// fails with `WouldBlock` if another one in its direction is in progress. Deadlines
            /// and timeouts do not count. `std`'s method of this name.
            ///
            /// # Errors
            ///
            /// [`PollError::Closing`](crate::PollError::Closing) if the socket is closed.
            ///
            /// ```
            /// # use std::io::{ErrorKind, Read};
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_nonblocking(true)?;
            #[doc = concat!("let error = ", $wait, ".unwrap_err();")]
            /// assert_eq!(error.kind(), ErrorKind::WouldBlock);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "O_NONBLOCK")]
            pub fn set_nonblocking(&self, nonblocking: bool) -> std::io::Result<()> {
                self.socket.set_nonblocking(nonblocking)
            }

            /// Returns and clears the error that the kernel has stored for the next operation
            /// (`SO_ERROR`).
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert!(socket.take_error()?.is_none());
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_ERROR")]
            pub fn take_error(&self) -> std::io::Result<Option<std::io::Error>> {
                self.socket.with(|socket| socket.take_error())
            }
        }

        /// Borrows the descriptor, which is non-blocking.
        ///
        /// While it is borrowed, the system does not give its number to another file, even if the
        /// socket is closed with `close`.
        ///
        /// # Panics
        ///
        /// If the socket has been closed with `close`.
        impl std::os::fd::AsFd for $type {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.socket.as_fd()
            }
        }

        /// The descriptor's number. It is valid until the socket is closed.
        impl std::os::fd::AsRawFd for $type {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.socket.raw()
            }
        }

        /// Takes a descriptor into the runtime and makes it non-blocking. It should be a socket of
        /// this kind: the operations of others fail with an error of the system.
        ///
        /// # Panics
        ///
        /// If the runtime is not running and cannot be started.
        impl From<std::os::fd::OwnedFd> for $type {
            fn from(fd: std::os::fd::OwnedFd) -> Self {
                Self::adopt(fd)
            }
        }

        /// As `From<OwnedFd>`.
        impl std::os::fd::FromRawFd for $type {
            #[allow(unsafe_code, reason = "the trait's method is unsafe")]
            unsafe fn from_raw_fd(fd: std::os::fd::RawFd) -> Self {
                // SAFETY: the caller passes an open descriptor and its ownership.
                Self::adopt(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
            }
        }

        /// Takes the descriptor out of the runtime. It stays non-blocking. If other handles from
        /// `try_clone` exist, the result is a duplicate of the descriptor.
        ///
        /// # Panics
        ///
        /// If the socket has been closed with `close`, or if the system cannot duplicate the
        /// descriptor.
        impl From<$type> for std::os::fd::OwnedFd {
            fn from(socket: $type) -> Self {
                socket.into_fd()
            }
        }

        /// As the conversion to [`OwnedFd`](std::os::fd::OwnedFd).
        impl std::os::fd::IntoRawFd for $type {
            fn into_raw_fd(self) -> std::os::fd::RawFd {
                self.into_fd().into_raw_fd()
            }
        }
    };
}

/// The deadlines and timeouts of a socket that sends and receives.
macro_rules! deadlines {
    ($type:ident, [$($setup:literal)*], $wait:literal) => {
        impl $type {
            /// Sets the time at which operations in both directions fail with
            /// [`PollError::Timeout`](crate::PollError::Timeout). `None` removes it.
            ///
            /// The deadline applies to operations in progress and to all later ones, until it is
            /// changed: after it has passed, each operation fails at once. It replaces a timeout of
            /// [`set_read_timeout`](Self::set_read_timeout) or
            /// [`set_write_timeout`](Self::set_write_timeout).
            ///
            /// # Errors
            ///
            /// [`PollError::Closing`](crate::PollError::Closing) if the socket is closed.
            ///
            /// ```
            /// # use std::io::{ErrorKind, Read};
            /// # use std::time::{Duration, Instant};
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_deadline(Some(Instant::now() + Duration::from_millis(5)))?;
            #[doc = concat!("let error = ", $wait, ".unwrap_err();")]
            /// assert_eq!(error.kind(), ErrorKind::TimedOut);
            /// assert_eq!(error.to_string(), "i/o timeout");
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SetDeadline")]
            pub fn set_deadline(
                &self,
                deadline: Option<std::time::Instant>,
            ) -> std::io::Result<()> {
                self.socket.set_deadline(None, deadline)
            }

            /// Sets the deadline of reads only, as [`set_deadline`](Self::set_deadline) does for
            /// both directions.
            ///
            /// ```
            /// # use std::io::Read;
            /// # use std::time::Instant;
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_read_deadline(Some(Instant::now()))?;
            #[doc = concat!("assert!(", $wait, ".is_err());")]
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SetReadDeadline")]
            pub fn set_read_deadline(
                &self,
                deadline: Option<std::time::Instant>,
            ) -> std::io::Result<()> {
                self.socket
                    .set_deadline(Some(gopark_core::os::Mode::Read), deadline)
            }

            /// Sets the deadline of writes only, as [`set_deadline`](Self::set_deadline) does for
            /// both directions. A `write_all` that fails may have sent a part of its data.
            ///
            /// ```
            /// # use std::time::Instant;
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_write_deadline(Some(Instant::now()))?;
            /// // Writes fail at once from now on.
            /// socket.set_write_deadline(None)?;
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SetWriteDeadline")]
            pub fn set_write_deadline(
                &self,
                deadline: Option<std::time::Instant>,
            ) -> std::io::Result<()> {
                self.socket
                    .set_deadline(Some(gopark_core::os::Mode::Write), deadline)
            }

            /// Limits the time of each later read, which then fails with
            /// [`PollError::Timeout`](crate::PollError::Timeout), of kind `TimedOut`. `None` is no
            /// limit.
            ///
            /// The timeout replaces a deadline. A read in progress, on another handle of this
            /// socket, keeps the limit that it started with;
            /// [`set_read_deadline`](Self::set_read_deadline) changes that, too. Reads of one
            /// socket take turns, and the time of a read begins with its turn: use a deadline where
            /// several goroutines read.
            ///
            /// # Errors
            ///
            /// `InvalidInput` if `timeout` is zero.
            /// [`PollError::Closing`](crate::PollError::Closing) if the socket is closed.
            ///
            /// ```
            /// # use std::io::{ErrorKind, Read};
            /// # use std::time::Duration;
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_read_timeout(Some(Duration::from_millis(5)))?;
            /// for _ in 0..2 {
            #[doc = concat!("    let error = ", $wait, ".unwrap_err();")]
            ///     assert_eq!(error.kind(), ErrorKind::TimedOut);
            /// }
            /// assert!(socket.set_read_timeout(Some(Duration::ZERO)).is_err());
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn set_read_timeout(
                &self,
                timeout: Option<std::time::Duration>,
            ) -> std::io::Result<()> {
                self.socket
                    .set_timeout(gopark_core::os::Mode::Read, timeout)
            }

            /// Limits the time of each later write, as
            /// [`set_read_timeout`](Self::set_read_timeout) does for reads. A `write_all` counts as
            /// one write.
            ///
            /// ```
            /// # use std::time::Duration;
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_write_timeout(Some(Duration::from_secs(5)))?;
            /// assert_eq!(socket.write_timeout()?, Some(Duration::from_secs(5)));
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn set_write_timeout(
                &self,
                timeout: Option<std::time::Duration>,
            ) -> std::io::Result<()> {
                self.socket
                    .set_timeout(gopark_core::os::Mode::Write, timeout)
            }

            /// Returns the limit of [`set_read_timeout`](Self::set_read_timeout). `None` if there
            /// is none, or if a deadline set later has replaced it.
            ///
            /// ```
            /// # use std::time::{Duration, Instant};
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            /// assert_eq!(socket.read_timeout()?, Some(Duration::from_secs(5)));
            /// socket.set_read_deadline(Some(Instant::now()))?;
            /// assert_eq!(socket.read_timeout()?, None);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn read_timeout(&self) -> std::io::Result<Option<std::time::Duration>> {
                Ok(self.socket.timeout(gopark_core::os::Mode::Read))
            }

            /// Returns the limit of [`set_write_timeout`](Self::set_write_timeout). `None` if there
            /// is none, or if a deadline set later has replaced it.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert_eq!(socket.write_timeout()?, None);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn write_timeout(&self) -> std::io::Result<Option<std::time::Duration>> {
                Ok(self.socket.timeout(gopark_core::os::Mode::Write))
            }
        }
    };
}

/// The deadline of a listener.
macro_rules! accept_deadline {
    ($type:ident, [$($setup:literal)*]) => {
        impl $type {
            /// Sets the time at which [`accept`](Self::accept) fails with
            /// [`PollError::Timeout`](crate::PollError::Timeout). `None` removes it.
            ///
            /// The deadline applies to calls in progress and to all later calls, until it is
            /// changed.
            ///
            /// # Errors
            ///
            /// [`PollError::Closing`](crate::PollError::Closing) if the listener is closed.
            ///
            /// ```
            /// # use std::io::ErrorKind;
            /// # use std::time::{Duration, Instant};
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_deadline(Some(Instant::now() + Duration::from_millis(5)))?;
            /// assert_eq!(socket.accept().unwrap_err().kind(), ErrorKind::TimedOut);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SetDeadline")]
            pub fn set_deadline(
                &self,
                deadline: Option<std::time::Instant>,
            ) -> std::io::Result<()> {
                self.socket
                    .set_deadline(Some(gopark_core::os::Mode::Read), deadline)
            }
        }
    };
}

/// `Read` and `Write` of a stream, and what `std` lacks: operations that never wait.
macro_rules! stream {
    ($type:ident, [$($setup:literal)*]) => {
        impl $type {
            /// Reads what has arrived, without a wait. Returns how many bytes it has copied: 0 at
            /// the end of the stream.
            ///
            /// # Errors
            ///
            /// `WouldBlock` if nothing has arrived, or if another read is in progress. Deadlines
            /// and timeouts do not count.
            ///
            /// ```
            /// # use std::io::ErrorKind;
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// let error = socket.try_read(&mut [0]).unwrap_err();
            /// assert_eq!(error.kind(), ErrorKind::WouldBlock);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn try_read(&self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.socket.try_read(buf)
            }

            /// Sends as much as the kernel accepts, without a wait. Returns how many bytes.
            ///
            /// # Errors
            ///
            /// `WouldBlock` if the kernel accepts nothing, or if another write is in progress.
            /// Deadlines and timeouts do not count.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert_eq!(socket.try_write(b"hello")?, 5);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn try_write(&self, buf: &[u8]) -> std::io::Result<usize> {
                self.socket.try_write(buf)
            }

            /// As [`try_read`](Self::try_read), but leaves the data queued: the next read returns
            /// it again (`MSG_PEEK`).
            ///
            /// ```
            /// # use std::io::ErrorKind;
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// let error = socket.try_peek(&mut [0]).unwrap_err();
            /// assert_eq!(error.kind(), ErrorKind::WouldBlock);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn try_peek(&self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.socket.try_peek(buf)
            }
        }

        /// `read` waits for data and returns how many bytes it has copied: 0 at the end of the
        /// stream, or if `buf` is empty.
        impl std::io::Read for &$type {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.socket.read(buf)
            }

            fn read_vectored(
                &mut self,
                bufs: &mut [std::io::IoSliceMut<'_>],
            ) -> std::io::Result<usize> {
                self.socket.read_vectored(bufs)
            }
        }

        /// `write` waits for room and sends as much as the kernel accepts at once. `write_all`
        /// sends everything, without bytes of other writers in between. `flush` does nothing.
        impl std::io::Write for &$type {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.socket.write(buf)
            }

            fn write_vectored(&mut self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
                self.socket.write_vectored(bufs)
            }

            fn write_all(&mut self, buf: &[u8]) -> std::io::Result<()> {
                self.socket.write_all(buf)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        #[doc = concat!("As for `&", stringify!($type), "`.")]
        impl std::io::Read for $type {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.socket.read(buf)
            }

            fn read_vectored(
                &mut self,
                bufs: &mut [std::io::IoSliceMut<'_>],
            ) -> std::io::Result<usize> {
                self.socket.read_vectored(bufs)
            }
        }

        #[doc = concat!("As for `&", stringify!($type), "`.")]
        impl std::io::Write for $type {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.socket.write(buf)
            }

            fn write_vectored(&mut self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
                self.socket.write_vectored(bufs)
            }

            fn write_all(&mut self, buf: &[u8]) -> std::io::Result<()> {
                self.socket.write_all(buf)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
    };
}

pub(super) use {accept_deadline, deadlines, descriptor, stream};
