//! Ring: an io_uring instance, as far as a poller needs one: single submissions, and a completion queue to look through.
//!
//! Refused: the `io-uring` crate, which brings `std`; a submission queue that collects, since what a poller submits is rare and must take
//! effect at once.
//!
//! The rule: one thread at a time submits ([`Ring::submit`] has a lock for it, held over the system call, so that what a refused
//! call leaves in the queue can be taken out again), and one at a time consumes completions ([`Completions`], of which there is one).

#![allow(
    unsafe_code,
    reason = "the io_uring system calls, and queues shared with the kernel"
)]

use crate::linux::{OwnedFd, check, refused};
use crate::lock::Lock;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};
use gopark_core::os::{Errno, Nanos};

/// The queues shared with the kernel, and the descriptor they belong to.
pub(crate) struct Ring {
    fd: OwnedFd,
    queues: Mapping,
    submissions: Mapping,
    params: Params,
    submit: Lock<()>,
}

// SAFETY: the mappings are reached by atomics, or under a lock (submissions), or through `Completions`, of which there is one.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// The right to consume completions.
pub(crate) struct Completions(());

/// What the kernel says about a submission.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Completion {
    /// The submission's.
    pub(crate) word: u64,
    /// Zero or more, or the negative error number.
    pub(crate) result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the submission will have no more of them.
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
/// Nothing of it is used here: it came with Linux 5.13, as multishot polls did, which have no flag of their own.
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

/// Submissions leave one by one.
const SUBMISSIONS: u32 = 4;

impl Ring {
    /// A ring that holds `completions` before the kernel has to keep them elsewhere. `ENOSYS` from a kernel that is too old.
    pub(crate) fn new(completions: u32) -> Result<(Ring, Completions), Errno> {
        let mut params = Params {
            cq_entries: completions,
            flags: SETUP_CQSIZE | SETUP_CLAMP,
            ..Params::default()
        };
        // SAFETY: `params` is what the kernel reads and writes.
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
        // A seccomp filter may allow to make rings and not to use them.
        ring.enter(0, 0, 0, None)?;
        Ok((ring, Completions(())))
    }

    /// A word of the queues, at an offset that the kernel gave.
    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets are inside the mapping and aligned, and both sides use the words atomically.
        unsafe { self.queues.at::<AtomicU32>(offset as usize).as_ref() }
    }

    /// A submission that completes at once, with `word`.
    pub(crate) fn nothing(&self, word: u64) -> Submission {
        Submission {
            opcode: OP_NOP,
            word,
            ..Submission::default()
        }
    }

    /// Reports changes of what `fd` is ready for, and what it is ready for now, with `word` each time.
    pub(crate) fn watch(&self, fd: i32, events: u32, word: u64) -> Submission {
        // The kernel takes this word with its halves in little-endian order.
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

    /// Ends the submission of `target`, which then has its last completion. This one completes with `word`, on newer kernels only if there was
    /// nothing to end.
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

    /// Hands one submission to the kernel. `ENOMEM` if it has no memory for it.
    pub(crate) fn submit(&self, submission: Submission) -> Result<(), Errno> {
        let _alone = self.submit.lock();
        let tail = self.word(self.params.sq.tail);
        let end = tail.load(Ordering::Relaxed);
        let index = end & self.word(self.params.sq.mask).load(Ordering::Relaxed);
        // SAFETY: the masked index is inside the mapping, and the kernel reads there only after the store to the tail.
        unsafe {
            self.submissions
                .at::<Submission>(index as usize * size_of::<Submission>())
                .write(submission)
        };
        self.word(self.params.sq.array + index * size_of::<u32>() as u32)
            .store(index, Ordering::Relaxed);
        // Release, for a kernel thread could read the queue; here `enter` does, on this thread.
        tail.store(end.wrapping_add(1), Ordering::Release);
        let refused = match self.enter(1, 0, 0, None) {
            Ok(1) => return Ok(()),
            Ok(_) => libc::ENOMEM,
            Err(errno) if errno.raw() == libc::EAGAIN => libc::ENOMEM,
            Err(errno) => errno.raw(),
        };
        // The kernel reads the queue in `enter` only, so the submission can be taken back.
        tail.store(end, Ordering::Release);
        Err(Errno::new(refused))
    }

    /// Sleeps until there is a completion that nobody has consumed by the time of the call; `ETIME` when `limit` nanoseconds have passed.
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

    /// Moves completions into the queue that the kernel had to keep elsewhere, as many as fit.
    pub(crate) fn flush(&self) {
        let mut refusals = 0;
        while let Err(errno) = self.enter(0, 0, ENTER_GETEVENTS, None) {
            match errno.raw() {
                libc::EAGAIN | libc::EBUSY | libc::EINTR => return,
                _ => refused(format_args!("io_uring_enter"), errno, &mut refusals),
            }
        }
    }

    /// Returns when the kernel has put away every submission whose last completion is in the queue: the files are released.
    ///
    /// Linux 6.18 does both under one mutex, which it takes for every submission, even of nothing. Older ones may release a moment later.
    /// The moment between the two is too short for a test.
    pub(crate) fn settle(&self) {
        let _alone = self.submit.lock();
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
        // SAFETY: submissions in the queue are whole, and `argument` is null or lives through the call, as does the timeout it points to.
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

    /// Whether the kernel keeps completions for which the queue had no room. `flush` fetches them.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.word(self.params.sq.flags).load(Ordering::Relaxed) & SQ_CQ_OVERFLOW != 0
    }

    /// Consumes the next completion.
    pub(crate) fn next(&self, _: &mut Completions) -> Option<Completion> {
        let head = self.word(self.params.cq.head);
        let next = head.load(Ordering::Relaxed);
        // Acquire pairs with the kernel's release of the tail: the entries before it are written.
        if next == self.word(self.params.cq.tail).load(Ordering::Acquire) {
            return None;
        }
        let index = (next & self.word(self.params.cq.mask).load(Ordering::Relaxed)) as usize;
        let entry = self
            .queues
            .at::<Completion>(self.params.cq.cqes as usize + index * size_of::<Completion>());
        // SAFETY: the entry is inside the mapping, and the kernel leaves it alone while it is between head and tail. The head moves only here,
        // and the caller has the only `Completions`.
        let completion = unsafe { entry.read() };
        // Release: the entry has been read, and the kernel may write it again.
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
        // SAFETY: a new mapping, where nothing is yet.
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
                .unwrap_or_else(|| panic!("mmap chooses another address than null")),
            len,
        })
    }

    fn at<T>(&self, offset: usize) -> NonNull<T> {
        assert!(
            offset + size_of::<T>() <= self.len,
            "the kernel's offset {offset} is not in a mapping of {} bytes",
            self.len
        );
        // SAFETY: inside the mapping.
        unsafe { self.start.add(offset).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody borrows from a mapping that is dropped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
