//! Ring: an io_uring instance, as far as a poller needs it. It submits one entry at a time, and
//! hands out completions one at a time.
//!
//! Refused: the `io-uring` crate, which needs `std`; a submission queue that collects entries,
//! since a poller submits rarely and each submission must take effect at once.
//!
//! The rule: one thread at a time submits, and one at a time consumes completions. [`Ring::submit`]
//! holds a lock across the system call, so that it can take back what a refused call has left in
//! the queue. Consuming needs the ring's only [`Completions`].
//!
//! Source: io_uring_setup(2), io_uring_enter(2); Linux `include/uapi/linux/io_uring.h`.

#![allow(
    unsafe_code,
    reason = "the io_uring system calls, and queues shared with the kernel"
)]

use crate::linux::{OwnedFd, check, retry_or_abort};
use crate::lock::Lock;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};
use gopark_core::os::{Errno, Nanos};

/// The queues shared with the kernel, and the ring's descriptor.
pub(crate) struct Ring {
    fd: OwnedFd,
    queues: Mapping,
    submissions: Mapping,
    params: Params,
    submit: Lock<()>,
}

// SAFETY: threads reach the mappings by atomics, or under a lock (submissions), or through the only
// `Completions`.
unsafe impl Send for Ring {}
// SAFETY: as for `Send`.
unsafe impl Sync for Ring {}

/// The right to consume completions.
pub(crate) struct Completions(());

/// What the kernel says about a submission: `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Completion {
    /// The word of the submission.
    pub(crate) word: u64,
    /// Zero or more, or a negative error number.
    pub(crate) result: i32,
    flags: u32,
}

impl Completion {
    /// Whether this is the submission's last completion.
    pub(crate) fn is_last(&self) -> bool {
        self.flags & CQE_F_MORE == 0
    }
}

/// The kernel's `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Submission {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    len: u32,
    events: u32,
    word: u64,
    unused: [u64; 3],
}

/// The kernel's `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread: [u32; 2],
    features: u32,
    reserved: [u32; 4],
    sq: SqOffsets,
    cq: CqOffsets,
}

#[repr(C)]
#[derive(Default)]
struct SqOffsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: [u32; 3],
}

#[repr(C)]
#[derive(Default)]
struct CqOffsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: [u32; 3],
}

/// The kernel's `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_size: u32,
    unused: u32,
    timeout: u64,
}

static_assertions::assert_eq_size!(Submission, [u8; 64]);
static_assertions::assert_eq_size!(Completion, [u8; 16]);
static_assertions::assert_eq_size!(Params, [u8; 120]);
static_assertions::assert_eq_size!(WaitArgument, [u8; 24]);

const SETUP_CQSIZE: u32 = 1 << 3;
const SETUP_CLAMP: u32 = 1 << 4;
const FEAT_SINGLE_MMAP: u32 = 1 << 0;
const FEAT_NODROP: u32 = 1 << 1;
const FEAT_EXT_ARG: u32 = 1 << 8;
/// Multishot polls came with Linux 5.13 and have no flag of their own. This feature came with the
/// same release and is not used here otherwise.
const FEAT_RSRC_TAGS: u32 = 1 << 10;
const FEAT_CQE_SKIP: u32 = 1 << 11;
const NEEDED: u32 = FEAT_SINGLE_MMAP | FEAT_NODROP | FEAT_EXT_ARG | FEAT_RSRC_TAGS;

const OFF_SQ_RING: i64 = 0;
const OFF_SQES: i64 = 0x1000_0000;
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const SQ_CQ_OVERFLOW: u32 = 1 << 1;
const CQE_F_MORE: u32 = 1 << 1;
const SQE_CQE_SKIP_SUCCESS: u8 = 1 << 6;
const OP_NOP: u8 = 0;
const OP_POLL_ADD: u8 = 6;
const OP_ASYNC_CANCEL: u8 = 14;
const POLL_ADD_MULTI: u32 = 1 << 0;

/// Entries in the submission queue. Each is submitted alone, so the smallest queue will do.
const SUBMISSIONS: u32 = 4;

impl Ring {
    /// Creates a ring whose queue holds `completions` entries; the kernel keeps the others
    /// elsewhere. Fails with `ENOSYS` on a kernel that is too old.
    pub(crate) fn new(completions: u32) -> Result<(Ring, Completions), Errno> {
        let mut params = Params {
            cq_entries: completions,
            flags: SETUP_CQSIZE | SETUP_CLAMP,
            ..Params::default()
        };
        // SAFETY: the kernel reads and writes `params`.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, SUBMISSIONS, &raw mut params) };
        let fd = OwnedFd(check(fd as isize)? as i32);
        if params.features & NEEDED != NEEDED {
            return Err(Errno::new(libc::ENOSYS));
        }
        let sq_len = params.sq.array as usize + params.sq_entries as usize * size_of::<u32>();
        let cq_len = params.cq.cqes as usize + params.cq_entries as usize * size_of::<Completion>();
        let queues = Mapping::new(&fd, sq_len.max(cq_len), OFF_SQ_RING)?;
        let submissions = Mapping::new(
            &fd,
            params.sq_entries as usize * size_of::<Submission>(),
            OFF_SQES,
        )?;
        let ring = Ring {
            fd,
            queues,
            submissions,
            params,
            submit: Lock::new(()),
        };
        // A seccomp filter may allow a program to create rings and not to use them.
        ring.enter(0, 0, 0, None)?;
        Ok((ring, Completions(())))
    }

    /// A word of the queues, at an offset from the kernel.
    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets are inside the mapping and aligned, and both sides use the
        // words atomically.
        unsafe { self.queues.at::<AtomicU32>(offset as usize).as_ref() }
    }

    /// A no-op, which completes at once with `word`.
    pub(crate) fn no_op(&self, word: u64) -> Submission {
        Submission {
            opcode: OP_NOP,
            word,
            ..Submission::default()
        }
    }

    /// A multishot poll: reports present readiness of `fd` and each change of it, each time with
    /// `word`.
    pub(crate) fn watch(&self, fd: i32, events: u32, word: u64) -> Submission {
        // On big-endian machines the kernel takes the two halves of this word swapped
        // (`io_uring/poll.c`, `io_poll_parse_events`).
        let events = if cfg!(target_endian = "big") {
            events.rotate_left(16)
        } else {
            events
        };
        Submission {
            opcode: OP_POLL_ADD,
            fd,
            len: POLL_ADD_MULTI,
            events,
            word,
            ..Submission::default()
        }
    }

    /// Ends the submission of `target`, which then has its last completion. This submission
    /// completes with `word`; on kernels with `FEAT_CQE_SKIP` only if there was nothing to end.
    pub(crate) fn cancel(&self, target: u64, word: u64) -> Submission {
        let flags = if self.params.features & FEAT_CQE_SKIP != 0 {
            SQE_CQE_SKIP_SUCCESS
        } else {
            0
        };
        Submission {
            opcode: OP_ASYNC_CANCEL,
            flags,
            fd: -1,
            address: target,
            word,
            ..Submission::default()
        }
    }

    /// Hands one submission to the kernel. `ENOMEM` if the kernel has no memory for it.
    pub(crate) fn submit(&self, submission: Submission) -> Result<(), Errno> {
        let _guard = self.submit.lock();
        let tail = self.word(self.params.sq.tail);
        let end = tail.load(Ordering::Relaxed);
        let index = end & self.word(self.params.sq.mask).load(Ordering::Relaxed);
        // SAFETY: the masked index is inside the mapping, and the kernel reads there only after the
        // store to the tail.
        unsafe {
            self.submissions
                .at::<Submission>(index as usize * size_of::<Submission>())
                .write(submission)
        };
        self.word(self.params.sq.array + index * size_of::<u32>() as u32)
            .store(index, Ordering::Relaxed);
        // Release: it pairs with the kernel's acquire of the tail. `enter` below runs on this
        // thread, but a polling kernel thread could read the queue as well.
        tail.store(end.wrapping_add(1), Ordering::Release);
        let errno = match self.enter(1, 0, 0, None) {
            Ok(1) => return Ok(()),
            Ok(_) => libc::ENOMEM,
            Err(errno) if errno.raw() == libc::EAGAIN => libc::ENOMEM,
            Err(errno) => errno.raw(),
        };
        // The kernel reads the queue only in `enter`, so the submission can be taken back.
        tail.store(end, Ordering::Release);
        Err(Errno::new(errno))
    }

    /// Sleeps until there is a completion that was not consumed before the call. `ETIME` after
    /// `limit` nanoseconds.
    pub(crate) fn wait(&self, limit: Option<Nanos>) -> Result<(), Errno> {
        let timeout = limit.map(|limit| [limit / 1_000_000_000, limit % 1_000_000_000]);
        let timeout = timeout
            .as_ref()
            .map_or(0, |timeout| timeout.as_ptr().expose_provenance() as u64);
        let argument = WaitArgument {
            sigmask: 0,
            sigmask_size: 0,
            unused: 0,
            timeout,
        };
        self.enter(0, 1, ENTER_GETEVENTS | ENTER_EXT_ARG, Some(&argument))
            .map(drop)
    }

    /// Moves completions that the kernel had to keep elsewhere into the queue, as many as fit.
    pub(crate) fn flush(&self) {
        let mut failures = 0;
        while let Err(errno) = self.enter(0, 0, ENTER_GETEVENTS, None) {
            match errno.raw() {
                libc::EAGAIN | libc::EBUSY | libc::EINTR => return,
                _ => retry_or_abort(format_args!("io_uring_enter"), errno, &mut failures),
            }
        }
    }

    /// Waits until the kernel has released the file of every submission whose last completion is in
    /// the queue.
    ///
    /// Linux 6.18 posts the completion and releases the file under one mutex, which each submission
    /// takes, even of nothing. Older kernels may release the file a moment later, too short for a
    /// test.
    pub(crate) fn wait_for_release(&self) {
        let _guard = self.submit.lock();
        let _ = self.enter(1, 0, 0, None);
    }

    fn enter(
        &self,
        submit: u32,
        complete: u32,
        flags: u32,
        argument: Option<&WaitArgument>,
    ) -> Result<usize, Errno> {
        let size = argument.map_or(0, size_of_val);
        let argument = argument.map_or(ptr::null(), ptr::from_ref);
        // SAFETY: submissions in the queue are whole, and `argument` is null or lives through the
        // call, as does the timeout that it points to.
        check(unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd.0,
                submit,
                complete,
                flags,
                argument,
                size,
            )
        } as isize)
    }

    /// Whether the kernel keeps completions that did not fit in the queue. `flush` fetches them.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.word(self.params.sq.flags).load(Ordering::Relaxed) & SQ_CQ_OVERFLOW != 0
    }

    /// Consumes the next completion.
    pub(crate) fn next(&self, _: &mut Completions) -> Option<Completion> {
        let head = self.word(self.params.cq.head);
        let next = head.load(Ordering::Relaxed);
        // Acquire: it pairs with the kernel's release of the tail, so the entries before it are
        // written.
        if next == self.word(self.params.cq.tail).load(Ordering::Acquire) {
            return None;
        }
        let index = (next & self.word(self.params.cq.mask).load(Ordering::Relaxed)) as usize;
        let entry = self
            .queues
            .at::<Completion>(self.params.cq.cqes as usize + index * size_of::<Completion>());
        // SAFETY: the entry is inside the mapping, and the kernel does not write it while it lies
        // between head and tail. Only this method moves the head, and the caller has the only
        // `Completions`.
        let completion = unsafe { entry.read() };
        // Release: the entry has been read before the kernel may write it again.
        head.store(next.wrapping_add(1), Ordering::Release);
        Some(completion)
    }
}

/// Memory shared with the kernel.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(fd: &OwnedFd, len: usize, offset: i64) -> Result<Self, Errno> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses a free range, so no memory in use is touched.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                access,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.0,
                offset as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            check(-1)?;
        }
        Ok(Mapping {
            start: NonNull::new(start.cast())
                .unwrap_or_else(|| panic!("mmap returned a null address")),
            len,
        })
    }

    fn at<T>(&self, offset: usize) -> NonNull<T> {
        assert!(
            offset + size_of::<T>() <= self.len,
            "io_uring: the kernel's offset {offset} is outside the mapping of {} bytes",
            self.len
        );
        // SAFETY: the assertion above holds, so the result is inside the mapping.
        unsafe { self.start.add(offset).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: references into the mapping borrow it, so none outlives it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
