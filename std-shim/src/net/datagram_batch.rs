//! [`DatagramBatch`]: many datagrams with one system call.

use super::socket::ip;
use super::{SocketAddr, UdpSocket};
use gopark_backends::linux::batch::Batch;
use gopark_core::os::{Mode, Outcome};
use std::fmt;
use std::io::Result;

/// Room for datagrams that one system call receives or sends: see [`UdpSocket::recv_batch`] and
/// [`UdpSocket::send_batch`]. It is used again without another allocation.
///
/// ```
/// use gopark::net::{DatagramBatch, UdpSocket};
///
/// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
/// let mut batch = DatagramBatch::new(8, 1500);
/// for text in ["one", "two", "three"] {
///     assert!(batch.push(text.as_bytes(), far.local_addr()?));
/// }
/// near.send_batch(&mut batch)?;
///
/// far.recv_batch(&mut batch)?;
/// for datagram in batch.iter() {
///     println!("{} from {}", datagram.data.escape_ascii(), datagram.addr);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct DatagramBatch(Batch);

static_assertions::assert_impl_all!(DatagramBatch: Send, Sync);

/// A datagram in a [`DatagramBatch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// The sender of a datagram that was received, or the receiver of one to send.
    pub addr: SocketAddr,
    /// What it contains.
    pub data: &'a [u8],
    /// The data did not fit, and the rest is lost (`MSG_TRUNC`).
    pub truncated: bool,
}

impl DatagramBatch {
    /// Makes room for `count` datagrams of at most `size` bytes each. The kernel moves at most 1024
    /// in one call.
    ///
    /// # Panics
    ///
    /// If that is more memory than there can be.
    ///
    /// ```
    /// let batch = gopark::net::DatagramBatch::new(32, 1500);
    /// assert_eq!((batch.capacity(), batch.len()), (32, 0));
    /// ```
    pub fn new(count: usize, size: usize) -> Self {
        DatagramBatch(Batch::new(count, size))
    }

    /// Returns how many datagrams there is room for.
    ///
    /// ```
    /// assert_eq!(gopark::net::DatagramBatch::new(32, 1500).capacity(), 32);
    /// ```
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Returns how many datagrams are in the batch.
    ///
    /// ```
    /// let mut batch = gopark::net::DatagramBatch::new(1, 8);
    /// assert!(batch.push(b"hello", ([127, 0, 0, 1], 9).into()));
    /// assert_eq!(batch.len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no datagram is in the batch.
    ///
    /// ```
    /// assert!(gopark::net::DatagramBatch::new(1, 8).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes all datagrams.
    ///
    /// ```
    /// let mut batch = gopark::net::DatagramBatch::new(1, 8);
    /// assert!(batch.push(b"hello", ([127, 0, 0, 1], 9).into()));
    /// batch.clear();
    /// assert!(batch.is_empty());
    /// ```
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a datagram to send to `addr`. Returns false, and adds nothing, if there is no room for
    /// another one, or if `data` is longer than the `size` of the batch.
    ///
    /// ```
    /// let mut batch = gopark::net::DatagramBatch::new(1, 8);
    /// let addr = ([127, 0, 0, 1], 9).into();
    /// assert!(!batch.push(b"too long a text", addr));
    /// assert!(batch.push(b"hello", addr));
    /// assert!(!batch.push(b"world", addr));
    /// ```
    #[must_use = "the datagram may not have been added"]
    pub fn push(&mut self, data: &[u8], addr: SocketAddr) -> bool {
        self.0.push(data, &addr.into())
    }

    /// Returns the datagrams in the batch, in order.
    ///
    /// ```
    /// let mut batch = gopark::net::DatagramBatch::new(1, 8);
    /// assert!(batch.push(b"hello", ([127, 0, 0, 1], 9).into()));
    /// assert!(batch.iter().all(|datagram| datagram.data == b"hello"));
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.0.iter().filter_map(|datagram| {
            Some(Datagram {
                addr: ip(&datagram.address).ok()?,
                data: datagram.data,
                truncated: datagram.truncated,
            })
        })
    }
}

impl fmt::Debug for DatagramBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl UdpSocket {
    /// Waits for a datagram, replaces those in `batch` by it and by others that have arrived, and
    /// returns how many these are. It does not wait until the batch is full. `recvmmsg(2)`.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv). The batch is empty then.
    ///
    /// ```
    /// # use gopark::net::{DatagramBatch, UdpSocket};
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.send_to(b"hello", far.local_addr()?)?;
    /// let mut batch = DatagramBatch::new(8, 1500);
    /// assert_eq!(far.recv_batch(&mut batch)?, 1);
    /// // Back to their senders.
    /// far.send_batch(&mut batch)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "recvmmsg")]
    #[doc(alias = "ReadBatch")]
    pub fn recv_batch(&self, batch: &mut DatagramBatch) -> Result<usize> {
        batch.clear();
        self.socket.operate(Mode::Read, |fd| batch.0.recv(fd))
    }

    /// Sends datagrams of `batch` in order, and returns how many the kernel has taken. They leave
    /// the batch. Waits until the socket's buffer has room for the first one. `sendmmsg(2)`.
    ///
    /// To send all of them, call it until the batch is empty.
    ///
    /// # Errors
    ///
    /// Those of [`send_to`](Self::send_to) for the first datagram, which stays in the batch. If
    /// another one fails, the datagrams before it are sent, and the next call returns the error.
    ///
    /// ```
    /// # use gopark::net::{DatagramBatch, UdpSocket};
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// let mut batch = DatagramBatch::new(8, 1500);
    /// while batch.push(b"hello", far.local_addr()?) {}
    /// while !batch.is_empty() {
    ///     near.send_batch(&mut batch)?;
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "sendmmsg")]
    #[doc(alias = "WriteBatch")]
    pub fn send_batch(&self, batch: &mut DatagramBatch) -> Result<usize> {
        self.socket
            .operate(Mode::Write, |fd| match batch.is_empty() {
                true => Outcome::Done(0),
                false => batch.0.send(fd),
            })
    }
}
