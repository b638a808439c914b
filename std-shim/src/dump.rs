//! The dump: a text that says for every goroutine what it does.

use crate::backtraces::Backtraces;
use crate::runtime::{LINUX, running};
use crate::std_locks;
use gopark_core::futex::LockKind;
use gopark_core::os::{Nanos, ThreadState};
use gopark_core::sched::Sched;
use gopark_core::watch::{Behind, Descriptor, Goroutine, LockBlock, Owner, State, Wait};
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

/// Writes the state of every goroutine to `out`.
pub(crate) fn write(sched: &'static Sched, out: &mut impl Write) -> io::Result<()> {
    let (text, pieces) = mpsc::sync_channel(1);
    thread::scope(move |scope| {
        // A thread makes the text: reading debug information may take more stack than a goroutine
        // has. The caller writes it, because `out` may park.
        let thread = thread::Builder::new().name("gopark-dump".into());
        thread.spawn_scoped(scope, move || {
            write_all(sched, BufWriter::with_capacity(PIECE, Pieces(text)))
        })?;
        pieces
            .into_iter()
            .try_for_each(|piece: Vec<u8>| out.write_all(&piece))?;
        out.flush()
    })
}

/// Bytes of a piece, which the thread that makes the dump sends to the caller: large enough that
/// switching between the two costs little.
const PIECE: usize = 64 * 1024;

/// Sends what is written to it to the caller of [`write`].
struct Pieces(SyncSender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0
            .send(text.to_vec())
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the dump to `out`. Returns the first error of `out`.
fn write_all(sched: &'static Sched, mut out: impl Write) -> io::Result<()> {
    let mut backtraces = Backtraces::new();
    let mut result = Ok(());
    let mut listed = 0;
    if let Some(runtime) = running() {
        let procs = sched.config().procs;
        write!(out, "gopark: {procs} procs, poller {}", runtime.poller)?;
        // A thread in `run` waits for a goroutine that is listed.
        match sched.num_waiting_threads() {
            0 => {}
            1 => write!(out, ", 1 thread waits in gopark")?,
            threads => write!(out, ", {threads} threads wait in gopark")?,
        }
        writeln!(out, "\n")?;
    }
    sched.snapshot(Some(&LINUX), |goroutine| {
        listed += 1;
        if result.is_ok() {
            result = write_one(&mut out, goroutine, sched.now(), &mut backtraces);
        }
    });
    result?;
    let idle = sched.num_idle_connections();
    match idle {
        0 => {}
        1 => writeln!(out, "1 goroutine waits without a stack for a socket")?,
        idle => writeln!(out, "{idle} goroutines wait without a stack for a socket")?,
    }
    let rest = sched.num_goroutines().saturating_sub(listed + idle);
    if rest > 0 {
        writeln!(
            out,
            "{rest} more goroutines are new, or have yet to start on a thread that is busy"
        )?;
    }
    out.flush()
}

fn write_one(
    out: &mut impl Write,
    goroutine: &Goroutine<'_>,
    now: Nanos,
    backtraces: &mut Backtraces,
) -> io::Result<()> {
    write!(out, "{}", Entry { goroutine, now })?;
    if let Some(stopped) = &goroutine.stopped {
        backtraces.write(stopped, out)?;
    }
    let site = goroutine.site;
    match goroutine.owner {
        Owner::Handle => writeln!(out, "created at {site}\n"),
        Owner::Scope => writeln!(out, "created in a scope at {site}\n"),
        Owner::Nothing => writeln!(out, "created at {site}, detached\n"),
    }
}

/// The entry of one goroutine, without its backtrace.
struct Entry<'a> {
    goroutine: &'a Goroutine<'a>,
    now: Nanos,
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Goroutine {
            id,
            name,
            state,
            cancelled,
            behind,
            stack,
            touched,
            ..
        } = self.goroutine;
        write!(f, "goroutine {id}")?;
        if let Some(name) = name {
            write!(f, " \"{name}\"")?;
        }
        write!(f, " [")?;
        match state {
            State::New => write!(f, "runnable, not started")?,
            State::Runnable => {
                write!(f, "runnable")?;
                if let Some(Behind {
                    id,
                    name,
                    doing,
                    since,
                }) = behind
                {
                    write!(
                        f,
                        ", {}, its thread is kept by goroutine {id}",
                        Span(self.now - since)
                    )?;
                    name.iter().try_for_each(|name| write!(f, " \"{name}\""))?;
                    match doing {
                        ThreadState::Blocked(Some(call)) => write!(f, " in {}", SystemCall(*call))?,
                        doing => write!(f, " {}", ThreadActivity(*doing))?,
                    }
                }
            }
            State::Running {
                thread,
                doing,
                lock,
            } => {
                write!(f, "running, thread {thread} {}", ThreadActivity(*doing))?;
                lock.iter().try_for_each(|lock| self.write_lock(f, lock))?;
            }
            State::Waiting { wait, since } => {
                write!(f, "{wait}")?;
                if let Some(since) = since {
                    write!(f, ", {}", Span(self.now - since))?;
                }
                self.write_object(f, wait)?;
            }
        }
        if let Some(cancelled) = cancelled {
            write!(f, ", {cancelled}")?;
        }
        writeln!(f, "]:")?;
        if *stack > 0 {
            write!(f, "    stack: {stack} bytes")?;
            match touched {
                Some(touched) => writeln!(f, ", {} KiB touched", touched / 1024)?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

impl Entry<'_> {
    fn write_object(&self, f: &mut fmt::Formatter<'_>, wait: &Wait) -> fmt::Result {
        match *wait {
            Wait::Read(descriptor) => self.write_descriptor(f, "read", descriptor),
            Wait::Write(descriptor) => self.write_descriptor(f, "write", descriptor),
            Wait::Sleep(until) => write!(f, ", until in {}", Span(until - self.now)),
            Wait::Join(id) => write!(f, ", goroutine {id}"),
            Wait::Mutex(0) => f.write_str(", locked by a thread"),
            Wait::Mutex(id) => write!(f, ", locked by goroutine {id}"),
            Wait::StdLock(address) => {
                write!(f, " at {address:#x}")?;
                match std_locks::last_waker(address) {
                    Some(id) => write!(f, ", last unlocked by goroutine {id}"),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn write_lock(&self, f: &mut fmt::Formatter<'_>, lock: &LockBlock) -> fmt::Result {
        let kind = match lock.kind {
            LockKind::Std | LockKind::Forbidden => "std lock",
            LockKind::ThreadPark => "std::thread::park",
            LockKind::Other => "lock",
        };
        let since = Span(self.now - lock.since);
        write!(f, ", {kind} at {:#x}, {since}", lock.address)
    }

    fn write_descriptor(
        &self,
        f: &mut fmt::Formatter<'_>,
        mode: &str,
        Descriptor { fd, deadline }: Descriptor,
    ) -> fmt::Result {
        write!(f, ", fd {fd} {mode}")?;
        deadline.map_or(Ok(()), |when| {
            write!(f, ", deadline in {}", Span(when - self.now))
        })
    }
}

/// A duration in a unit that suits its length. A negative one counts as zero.
struct Span(Nanos);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.max(0) / 1_000_000_000;
        match seconds {
            0 => write!(f, "{}ms", self.0.max(0) / 1_000_000),
            1..=99 => write!(f, "{seconds}s"),
            100..=5999 => write!(f, "{} minutes", seconds / 60),
            _ => write!(f, "{} hours", seconds / 3600),
        }
    }
}

/// What a thread does, as text.
pub(crate) struct ThreadActivity(pub(crate) ThreadState);

impl fmt::Display for ThreadActivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ThreadState::Running => f.write_str("computing"),
            ThreadState::Unknown => f.write_str("busy"),
            ThreadState::Blocked(Some(number)) => {
                write!(f, "in system call {}", SystemCall(number))
            }
            ThreadState::Blocked(None) => f.write_str("in a system call"),
        }
    }
}

/// A system call, shown by its name, or by its number if the name is not known.
pub(crate) struct SystemCall(pub(crate) u32);

impl SystemCall {
    pub(crate) fn name(&self) -> Option<&'static str> {
        syscalls::Sysno::new(self.0 as usize).map(|call| call.name())
    }
}

impl fmt::Display for SystemCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}
