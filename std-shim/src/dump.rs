//! What every goroutine does: the dump, for people.

use crate::backtraces::Backtraces;
use crate::runtime::{LINUX, sched};
use gopark_core::os::{Nanos, ThreadState};
use gopark_core::sched::{Behind, Descriptor, Goroutine, Sched, State, Wait};
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

/// Writes what every goroutine does: number, name, state, what it waits for and since when, where it was spawned, and the calls that led it
/// there.
///
/// The text is for people and close to Go's. Nobody is stopped for it: a goroutine that runs meanwhile is shown as it was when it was looked at, and one
/// that runs on another thread without its calls. It works while goroutines keep all threads; so does [`Builder::dump_on`](crate::Builder::dump_on),
/// which does the same when a signal comes.
///
/// Calls are shown with the feature `backtrace`, a default one, on x86-64 and aarch64: as names if the program has symbols, and with inlined functions,
/// files and lines if it has debug information (`debug = "line-tables-only"` in the profile is enough). How gopark itself parks is left out.
///
/// A goroutine that could run, but whose thread another one keeps, says so:
/// `[runnable, 2s, its thread is kept by goroutine 2 "logger" in futex]`.
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
#[track_caller]
pub fn dump(out: &mut impl Write) -> io::Result<()> {
    let sched = sched();
    let (text, pieces) = mpsc::sync_channel(1);
    thread::scope(move |scope| {
        // On a thread of its own: reading debug information takes more stack than a goroutine may have, and `out` may park.
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

/// Bytes that go from the thread that makes a dump to the one that writes it at once.
const PIECE: usize = 64 * 1024;

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

/// Fails if nobody wants to know any more.
fn write_all(sched: &'static Sched, mut out: impl Write) -> io::Result<()> {
    let mut backtraces = Backtraces::new();
    let mut result = Ok(());
    let mut listed = 0;
    sched.snapshot(Some(&LINUX), |goroutine| {
        listed += 1;
        if result.is_ok() {
            result = write_one(&mut out, goroutine, sched.now(), &mut backtraces);
        }
    });
    result?;
    let rest = sched.num_goroutines().saturating_sub(listed);
    if rest > 0 {
        writeln!(
            out,
            "{rest} more goroutines have come meanwhile, or have yet to start on a thread that is busy"
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
    writeln!(out, "created at {}\n", goroutine.site)
}

/// One goroutine in a dump, without its calls.
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
                        ThreadState::Blocked(Some(call)) => write!(f, " in {}", Call(*call))?,
                        doing => write!(f, " {}", Does(*doing))?,
                    }
                }
            }
            State::Running { thread, doing } => {
                write!(f, "running, thread {thread} {}", Does(*doing))?
            }
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
            _ => Ok(()),
        }
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

/// A time to be read; none is negative.
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

/// What a thread does, in words.
pub(crate) struct Does(pub(crate) ThreadState);

impl fmt::Display for Does {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ThreadState::Running => f.write_str("computing"),
            ThreadState::Unknown => f.write_str("somehow busy"),
            ThreadState::Blocked(Some(number)) => write!(f, "in system call {}", Call(number)),
            ThreadState::Blocked(None) => f.write_str("in a system call"),
        }
    }
}

/// A system call, by name if it has one.
pub(crate) struct Call(pub(crate) u32);

impl Call {
    pub(crate) fn name(&self) -> Option<&'static str> {
        syscalls::Sysno::new(self.0 as usize).map(|call| call.name())
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}
