//! The trait implementations that every socket type has. Each type keeps its
//! [`Socket`](super::socket::Socket) in a field `socket`, to which they forward.

/// Implements [`AsFd`](std::os::fd::AsFd) and [`AsRawFd`](std::os::fd::AsRawFd).
macro_rules! descriptor {
    ($socket:ty) => {
        /// Borrows the descriptor, which is non-blocking.
        ///
        /// While it is borrowed, the system does not give its number to another file, even if the
        /// socket is closed with `close`.
        ///
        /// # Panics
        ///
        /// If the socket has been closed with `close`.
        impl std::os::fd::AsFd for $socket {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.socket.as_fd()
            }
        }

        /// The descriptor's number. It is valid until the socket is closed.
        impl std::os::fd::AsRawFd for $socket {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.socket.raw()
            }
        }
    };
}

/// Implements [`Read`](std::io::Read) and [`Write`](std::io::Write) for a stream socket and for a
/// shared reference to it.
macro_rules! byte_stream {
    ($socket:ty) => {
        byte_stream!(impl $socket);
        byte_stream!(impl &$socket);
    };
    (impl $stream:ty) => {
        /// `read` waits for data and returns how many bytes it has copied: 0 at the end of the
        /// stream, or if `buf` is empty.
        impl std::io::Read for $stream {
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
        impl std::io::Write for $stream {
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

pub(super) use {byte_stream, descriptor};
