//! What every goroutine does: the dump, for people, and on a signal.
#![allow(unsafe_code, reason = "a signal handler is installed")]

use crate::runtime::{sched, started};
use gopark_core::os::{Doing, Mode, Nanos};
use gopark_core::sched::{Goroutine, State, Wait};
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;
use std::time::Duration;

/// Writes what every goroutine does: number, name, state, what it waits for and since when, where it was spawned, and the calls that led it
/// there.
///
/// The text is for people and close to Go's. Nobody is stopped for it: a goroutine that runs meanwhile is shown as it was when it was looked at, and one
/// that runs on another thread without its calls. It works while goroutines keep all threads; so does [`Builder::dump_on`](crate::Builder::dump_on),
/// which does the same when a signal comes.
///
/// Goroutines that have not started yet on a thread that another keeps busy are only counted. How long a goroutine waits is known to a
/// millisecond, and not at all without [`sysmon`](crate::Builder::sysmon).
///
/// # Errors
///
/// What `out` fails with.
///
/// ```
/// gopark::run(|| {
///     let sleeper = gopark::go(|| {
///         gopark::set_name("sleeper");
///         gopark::sleep(std::time::Duration::from_millis(50));
///     });
///     gopark::yield_now();
///     let mut text = Vec::new();
///     gopark::dump(&mut text).unwrap();
///     assert!(String::from_utf8(text).unwrap().contains("goroutine"));
///     sleeper.join().unwrap();
/// });
/// ```
#[doc(alias = "Stack")]
#[doc(alias = "pprof")]
pub fn dump(out: &mut impl Write) -> io::Result<()> {
    let sched = sched();
    let mut out = BufWriter::new(out);
    let mut result = Ok(());
    let mut listed = 0;
    sched.census(true, |goroutine| {
        listed += 1;
        if result.is_ok() {
            result = write!(out, "{}", Entry { goroutine, now: sched.now() });
        }
    });
    result?;
    let rest = sched.num_goroutines().saturating_sub(listed);
    if rest > 0 {
        writeln!(out, "{rest} more goroutines have come meanwhile, or have yet to start on a thread that is busy")?;
    }
    out.flush()
}

/// One goroutine in a dump.
struct Entry<'a> {
    goroutine: &'a Goroutine<'a>,
    now: Nanos,
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Goroutine { id, name, site, state, stack, .. } = self.goroutine;
        write!(f, "goroutine {id}")?;
        if let Some(name) = name {
            write!(f, " \"{name}\"")?;
        }
        write!(f, " [")?;
        match state {
            State::New => write!(f, "runnable, not started")?,
            State::Runnable => write!(f, "runnable")?,
            State::Running { thread, doing } => write!(f, "running, thread {thread} {}", Does(*doing))?,
            State::Waiting { wait, since } => {
                write!(f, "{wait}")?;
                if let Some(since) = since {
                    write!(f, ", {}", Span(self.now - since))?;
                }
                self.write_object(f, wait)?;
            }
        }
        writeln!(f, "]:")?;
        if *stack > 0 {
            writeln!(f, "    stack: {stack} bytes")?;
        }
        writeln!(f, "created at {site}\n")
    }
}

impl Entry<'_> {
    fn write_object(&self, f: &mut fmt::Formatter<'_>, wait: &Wait) -> fmt::Result {
        match *wait {
            Wait::Io { fd, mode, deadline } => {
                let mode = if mode == Mode::Read { "read" } else { "write" };
                write!(f, ", fd {fd} {mode}")?;
                deadline.map_or(Ok(()), |when| write!(f, ", deadline in {}", Span(when - self.now)))
            }
            Wait::Sleep { until } => write!(f, ", until in {}", Span(until - self.now)),
            Wait::Join { id } => write!(f, ", goroutine {id}"),
            Wait::Semaphore | Wait::Blocking => Ok(()),
        }
    }
}

/// A time to be read; none is negative.
struct Span(Nanos);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.max(0) / 1_000_000_000;
        match seconds {
            0 => write!(f, "{:?}", Duration::from_millis(self.0.max(0) as u64 / 1_000_000)),
            1..=99 => write!(f, "{seconds}s"),
            100..=5999 => write!(f, "{} minutes", seconds / 60),
            _ => write!(f, "{} hours", seconds / 3600),
        }
    }
}

/// What a thread does, in words.
pub(crate) struct Does(pub(crate) Doing);

impl fmt::Display for Does {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Doing::Running => f.write_str("computing"),
            Doing::Unknown => f.write_str("somehow busy"),
            Doing::Blocked(number) => match syscalls::Sysno::new(number as usize) {
                Some(call) => write!(f, "in system call {call}"),
                None => write!(f, "in system call {number}"),
            },
        }
    }
}

/// Has the process dump to stderr whenever `signal` comes.
pub(crate) fn on_signal(signal: i32) -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction, and the handler does what handlers may.
    let result = unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = ask as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(signal, &action, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The signal handler. What it asks for comes back as a report.
extern "C" fn ask(_: libc::c_int) {
    // SAFETY: errno, which the interrupted code may be about to read, is put back.
    unsafe {
        let errno = *libc::__errno_location();
        if let Some(sched) = started() {
            sched.ask();
        }
        *libc::__errno_location() = errno;
    }
}

/// Dumps to stderr, on a thread of its own: nobody waits for a slow reader.
pub(crate) fn in_background() {
    // There is nobody to tell that stderr is closed, or that there is no thread.
    let _ = thread::Builder::new().name("gopark-dump".into()).spawn(|| dump(&mut io::stderr().lock()));
}
