//! [`Batch`]: room for many datagrams, which one system call receives or sends.

#![allow(unsafe_code, reason = "headers name memory by address")]

use super::message::{recv_many, send_many};
use super::socket::Address;
use alloc::vec;
use alloc::vec::Vec;
use core::iter;
use core::mem;
use gopark_core::os::{Borrowed, Outcome};

/// Datagrams of up to a fixed length, each with the address of its sender or receiver.
pub struct Batch {
    /// The data of datagram `i` begins at byte `i * size`.
    bytes: Vec<u8>,
    size: usize,
    slots: Vec<Slot>,
    /// The datagrams from `begin` to `end` are in the batch.
    begin: usize,
    end: usize,
    /// Scratch of a call, as long as `slots`.
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in `vectors` and `headers` are used only by a call that has just written
// them, and calls need `&mut`.
unsafe impl Send for Batch {}
// SAFETY: as above.
unsafe impl Sync for Batch {}

#[derive(Clone, Copy)]
struct Slot {
    address: Address,
    len: usize,
    truncated: bool,
}

/// A datagram in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The sender or receiver.
    pub address: Address,
    /// What it contains.
    pub data: &'a [u8],
    /// The data did not fit, and the rest is lost.
    pub truncated: bool,
}

impl Batch {
    /// Makes room for `count` datagrams of at most `size` bytes.
    ///
    /// # Panics
    ///
    /// If that is more memory than there can be.
    pub fn new(count: usize, size: usize) -> Self {
        let bytes = count.checked_mul(size).expect("a batch fits into memory");
        let slot = Slot {
            address: Address::empty(),
            len: 0,
            truncated: false,
        };
        let vector = libc::iovec {
            iov_base: core::ptr::null_mut(),
            iov_len: 0,
        };
        Batch {
            bytes: vec![0; bytes],
            size,
            slots: vec![slot; count],
            begin: 0,
            end: 0,
            vectors: vec![vector; count],
            // SAFETY: all zeroes is a message without address and data.
            headers: vec![unsafe { mem::zeroed() }; count],
        }
    }

    /// How many datagrams there is room for.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many datagrams are in the batch.
    pub fn len(&self) -> usize {
        self.end - self.begin
    }

    /// Whether no datagram is in the batch.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all datagrams.
    pub fn clear(&mut self) {
        (self.begin, self.end) = (0, 0);
    }

    /// Adds a datagram to send. Returns false if there is no room for another, or if `data` is
    /// longer than a datagram of this batch.
    pub fn push(&mut self, data: &[u8], receiver: &Address) -> bool {
        if data.len() > self.size || self.end == self.slots.len() {
            return false;
        }
        self.bytes[self.end * self.size..][..data.len()].copy_from_slice(data);
        self.slots[self.end] = Slot {
            address: *receiver,
            len: data.len(),
            truncated: false,
        };
        self.end += 1;
        true
    }

    /// The datagrams in the batch, in order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        (self.begin..self.end).map(|at| Entry {
            address: self.slots[at].address,
            data: &self.bytes[at * self.size..][..self.slots[at].len],
            truncated: self.slots[at].truncated,
        })
    }

    /// Replaces the datagrams in the batch by those that wait at `fd`, and returns how many these
    /// are: `recvmmsg(2)`.
    #[doc(alias = "recvmmsg")]
    pub fn recv(&mut self, fd: Borrowed<'_>) -> Outcome<usize> {
        self.clear();
        for slot in &mut self.slots {
            slot.address.make_room();
            slot.len = self.size;
        }
        self.write_headers(0, self.slots.len());
        // SAFETY: the headers name an address and a part of `bytes` each, which are mutably
        // borrowed.
        let received = unsafe { recv_many(fd, &mut self.headers) };
        if let Outcome::Done(count) = received {
            for (slot, header) in self.slots.iter_mut().zip(&self.headers).take(count) {
                slot.address.set_len(header.msg_hdr.msg_namelen);
                slot.len = (header.msg_len as usize).min(self.size);
                slot.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            }
            self.end = count.min(self.slots.len());
        }
        received
    }

    /// Sends datagrams from the front, and returns how many the kernel has taken: `sendmmsg(2)`.
    /// They leave the batch.
    #[doc(alias = "sendmmsg")]
    pub fn send(&mut self, fd: Borrowed<'_>) -> Outcome<usize> {
        self.write_headers(self.begin, self.end);
        let count = self.len();
        // SAFETY: the headers name an address and a part of `bytes` each, which are borrowed.
        let sent = unsafe { send_many(fd, &mut self.headers[..count]) };
        if let Outcome::Done(count) = sent {
            self.begin += count.min(self.len());
        }
        sent
    }

    /// Writes a header for each of the slots from `begin` to `end`, at the front of `headers`.
    fn write_headers(&mut self, begin: usize, end: usize) {
        let bytes = self.bytes.as_mut_ptr();
        for (at, (vector, header)) in
            iter::zip(begin..end, iter::zip(&mut self.vectors, &mut self.headers))
        {
            let slot = &mut self.slots[at];
            *vector = libc::iovec {
                // SAFETY: there are `size` bytes for each slot.
                iov_base: unsafe { bytes.add(at * self.size) }.cast(),
                iov_len: slot.len,
            };
            let message = &mut header.msg_hdr;
            (message.msg_name, message.msg_namelen) = slot.address.room();
            message.msg_iov = vector;
            message.msg_iovlen = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::io;
    use crate::linux::socket::{bind, local_address, udp};
    use crate::linux::tests::lend;
    use core::net::SocketAddr;
    use gopark_core::os::Outcome::{Done, WouldBlock};

    fn bound() -> (i32, Address) {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let fd = udp(any.ip()).unwrap();
        bind(lend(fd), &any.into()).unwrap();
        (fd, local_address(lend(fd)).unwrap())
    }

    #[test]
    fn a_batch_crosses_and_is_cut_where_it_does_not_fit() {
        let ((ours, sender), (theirs, receiver)) = (bound(), bound());
        let mut sent = Batch::new(4, 8);
        for text in ["one", "", "twelve", "fourfour"] {
            assert!(sent.push(text.as_bytes(), &receiver));
        }
        assert!(!sent.push(b"five", &receiver));
        assert_eq!((sent.send(lend(ours)), sent.len()), (Done(4), 0));
        assert_eq!(sent.send(lend(ours)), Done(0));

        let mut received = Batch::new(3, 4);
        assert_eq!(
            (received.capacity(), received.recv(lend(theirs))),
            (3, Done(3))
        );
        let found: Vec<_> = received.iter().map(|it| (it.data, it.truncated)).collect();
        let expected: [(&[u8], _); 3] = [(b"one", false), (b"", false), (b"twel", true)];
        assert_eq!(found, expected);
        assert!(received.iter().all(|it| it.address.ip() == sender.ip()));
        assert_eq!((received.recv(lend(theirs)), received.len()), (Done(1), 1));
        assert_eq!(received.iter().next().unwrap().data, b"four");
        assert_eq!(
            (received.recv(lend(theirs)), received.len()),
            (WouldBlock, 0)
        );
        io::close(ours);
        io::close(theirs);
    }

    #[test]
    fn a_batch_goes_on_after_the_datagram_that_failed() {
        let ((ours, _), (theirs, receiver)) = (bound(), bound());
        let wrong = Address::unix_unnamed();
        let mut batch = Batch::new(3, 4);
        assert!(batch.push(b"a", &receiver) && batch.push(b"b", &wrong));
        assert!(!batch.push(b"longer", &receiver));
        assert_eq!(batch.send(lend(ours)), Done(1));
        assert!(matches!(batch.send(lend(ours)), Outcome::Failed(_)));
        assert_eq!(batch.iter().map(|it| it.data).collect::<Vec<_>>(), [b"b"]);
        batch.clear();
        assert!(batch.is_empty());
        io::close(ours);
        io::close(theirs);
    }
}
