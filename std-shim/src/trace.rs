//! `GOPARK_TRACE`: a timeline of the scheduler, which Perfetto and chrome://tracing draw.
//!
//! A thread drains the scheduler's records every few milliseconds and appends trace events to the
//! file. The format is Chrome's JSON array of trace events. Its closing bracket is optional, so the
//! file can be opened while it grows and after a crash. At exit, the process completes it.
//!
//! | event | drawn as |
//! |---|---|
//! | a goroutine's turn | a slice on the row of its P |
//! | a goroutine that keeps its thread after its P was taken | a slice on the row of the thread |
//! | a goroutine becomes ready, and then runs | an arrow from the row that readied or spawned it |
//! | a poll that wakes goroutines, timers that fire | a slice between those of goroutines |
//! | a spawn, a hand-off, a P that becomes idle | an instant |
//! | a cancel that reaches a goroutine | an instant on the row of the canceller |
//! | records lost because they came too fast | a slice with their number |
#![allow(
    unsafe_code,
    reason = "a function to call at exit is registered through libc"
)]

use crate::environment;
use gopark_core::os::{Nanos, Os};
use gopark_core::sched::Sched;
use gopark_core::trace::{Identity, Reader, Readied, Record, Row, Source, StopReason, TraceEvent};
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The file that `GOPARK_TRACE` names, and the thread that will write it. A drop before `begin`
/// ends the thread, and removes the file if this start has created it.
pub(crate) struct Request {
    /// `None` after `begin`.
    prepared: Option<Prepared>,
    limit: u64,
}

struct Prepared {
    /// The thread waits for the timeline, and ends if this is dropped.
    timeline: Sender<Timeline>,
    thread: JoinHandle<()>,
    file: File,
    /// The path of the file if this start has created it.
    created: Option<PathBuf>,
}

const FILE: &str = "GOPARK_TRACE";
const LIMIT: &str = "GOPARK_TRACE_LIMIT";

/// How often the thread drains the records: before the rings of busy Ps are full.
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes of the file: minutes of a busy server, and a size that a browser can still load.
const DEFAULT_LIMIT: u64 = 256 << 20;

/// Bytes reserved for the event that ends the file: several times its length.
const END_RESERVE: usize = 512;

/// The timeline that [`finish`] has to complete at exit.
static WRITING: Mutex<Option<Writing>> = Mutex::new(None);

struct Writing {
    /// The process in which the thread runs. A child made by `fork` has a copy of this, but no
    /// thread.
    process: u32,
    /// Dropping it tells the thread to complete the file and end.
    end: Sender<Timeline>,
    thread: JoinHandle<()>,
}

impl Request {
    /// Opens the file that `GOPARK_TRACE` names and starts the thread. Returns `None` if the
    /// variable is not set.
    pub(crate) fn from_environment() -> io::Result<Option<Self>> {
        let Some(path) = environment::nonempty(FILE) else {
            return Ok(None);
        };
        let limit = limit()?;
        let refused = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("{FILE}: {}: {error}", Path::new(&path).display()),
            )
        };
        let (timeline, control) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("gopark-trace".into())
            .spawn(move || write(&control))
            .map_err(refused)?;
        // An existing file is not truncated yet: the thread does that when the timeline begins.
        let (file, created) = open(Path::new(&path)).map_err(refused)?;
        Ok(Some(Request {
            prepared: Some(Prepared {
                timeline,
                thread,
                file,
                created,
            }),
            limit,
        }))
    }

    /// Begins the timeline of `sched`, to which no other reader of records may exist.
    pub(crate) fn begin(mut self, sched: &'static Sched) {
        let Some(Prepared {
            timeline: sender,
            thread,
            file,
            ..
        }) = self.prepared.take()
        else {
            return;
        };
        let start = sched.now();
        let reader = sched.trace().expect("the records have no other reader");
        let timeline = Timeline {
            os: sched.os(),
            reader,
            writer: TraceWriter {
                file,
                text: String::new(),
                committed: 0,
                written: 0,
                limit: self.limit,
                full: false,
                start,
            },
            turns: (0..sched.config().procs).map(|_| None).collect(),
            named_threads: HashSet::new(),
            arrows: 0,
            lost: 0,
        };
        // This cannot fail: the thread waits for the timeline.
        let _ = sender.send(timeline);
        *WRITING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Writing {
            process: std::process::id(),
            end: sender,
            thread,
        });
        // SAFETY: `finish` is safe to call at any time. If registering it fails, the file lacks its
        // end.
        unsafe { libc::atexit(finish) };
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(Prepared {
            timeline,
            thread,
            created,
            ..
        }) = self.prepared.take()
        {
            drop(timeline);
            let _ = thread.join();
            created
                .into_iter()
                .for_each(|path| _ = fs::remove_file(path));
        }
    }
}

/// Opens `path` for writing. If it does not exist, creates a file that only its owner may read,
/// and returns its path as well.
///
/// A symbolic link is not followed. In a directory that other users can write to, such as `/tmp`,
/// it could lead to a file that this process can write and those users cannot.
fn open(path: &Path) -> io::Result<(File, Option<PathBuf>)> {
    let mut options = File::options();
    options
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    match options.clone().create_new(true).open(path) {
        Ok(file) => return Ok((file, Some(path.into()))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    options
        .open(path)
        .map(|file| (file, None))
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => io::Error::new(
                error.kind(),
                "a symbolic link, which is not followed: name the file itself, or a FIFO",
            ),
            _ => error,
        })
}

/// Returns the limit that `GOPARK_TRACE_LIMIT` sets, or the default.
fn limit() -> io::Result<u64> {
    let Some(text) = environment::nonempty(LIMIT) else {
        return Ok(DEFAULT_LIMIT);
    };
    let number = text
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|&limit| limit >= 2 * END_RESERVE as u64);
    number.ok_or_else(|| {
        environment::invalid(
            LIMIT,
            &text,
            format_args!("a number of bytes, {} or more", 2 * END_RESERVE),
        )
    })
}

/// Called at exit: tells the thread to complete the file, and waits for it.
extern "C" fn finish() {
    let mut writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    // A child made by `fork` has no such thread.
    if let Some(Writing { end, thread, .. }) =
        writing.take_if(|writing| writing.process == std::process::id())
    {
        drop(end);
        let _ = thread.join();
    }
}

/// The body of the thread: waits for the timeline, and writes it until it is full or the sender is
/// dropped.
fn write(control: &Receiver<Timeline>) {
    let Ok(mut timeline) = control.recv() else {
        return;
    };
    // The file may contain the timeline of an earlier process. A FIFO cannot be truncated.
    let truncated = match timeline.writer.file.metadata() {
        Ok(file) if file.is_file() => timeline.writer.file.set_len(0),
        _ => Ok(()),
    };
    if let Err(error) = truncated {
        return report_end(&error);
    }
    timeline.begin();
    loop {
        let over = control
            .recv_timeout(DRAIN_INTERVAL)
            .is_err_and(|error| error == RecvTimeoutError::Disconnected);
        timeline.draw_all();
        if over || timeline.writer.full {
            timeline.end();
        }
        if let Err(error) = timeline.writer.flush() {
            return report_end(&error);
        }
        if over || timeline.writer.full {
            return;
        }
    }
}

fn report_end(error: &io::Error) {
    let _ = writeln!(
        io::stderr(),
        "gopark: {FILE}: cannot write to the file, which ends here: {error}"
    );
}

/// A turn in progress: a goroutine that runs on a P.
struct Turn {
    g: Identity,
    m: u32,
    since: Nanos,
    readied: Option<Readied>,
}

struct Timeline {
    os: &'static dyn Os,
    reader: Reader,
    writer: TraceWriter,
    /// The turn in progress on each P.
    turns: Vec<Option<Turn>>,
    /// The threads whose rows have been named.
    named_threads: HashSet<u32>,
    /// How many arrows have been drawn. Each has a number.
    arrows: u64,
    /// How many records were lost, as `TraceEvent::Lost` has reported.
    lost: u64,
}

impl Timeline {
    fn begin(&mut self) {
        self.writer.text.push_str("[\n");
        for (pid, name) in [(PID_PROCS, "gopark"), (PID_THREADS, "threads without a P")] {
            self.writer.line(format_args!(
                r#""ph":"M","name":"process_name","pid":{pid},"tid":0,"args":{{"name":"{name}"}}"#
            ));
        }
        for p in 0..self.turns.len() as u32 {
            let row = RowId(Row::P(p));
            self.writer.line(format_args!(
                r#""ph":"M","name":"thread_name",{row},"args":{{"name":"P{p}"}}"#
            ));
            self.writer.line(format_args!(
                r#""ph":"M","name":"thread_sort_index",{row},"args":{{"sort_index":{p}}}"#
            ));
            self.writer.commit();
        }
    }

    fn draw_all(&mut self) {
        let mut records = Vec::new();
        self.reader.drain(|record| records.push(record));
        // Sorted, so that the limit of the file ends all rows at the same time.
        records.sort_by_key(|record| record.time);
        for record in records {
            self.draw(record);
            self.writer.commit();
        }
    }

    fn draw(&mut self, Record { time, row, event }: Record) {
        self.name_row(row);
        match event {
            TraceEvent::Run { g, m, readied } => {
                self.begin_turn(
                    row,
                    Turn {
                        g,
                        m,
                        since: time,
                        readied,
                    },
                );
            }
            TraceEvent::Named(name) => {
                if let Some(turn) = self.turn(row) {
                    turn.g.name = Some(name);
                }
            }
            TraceEvent::Stop(StopReason::Blocked(why)) => {
                self.end_turn(row, time, format_args!("blocked: {why}"))
            }
            TraceEvent::Stop(StopReason::Yielded) => self.end_turn(row, time, "yielded"),
            TraceEvent::Stop(StopReason::Returned) => self.end_turn(row, time, "returned"),
            TraceEvent::Taken { from, to } => {
                self.end_turn(row, time, "lost its P");
                self.writer.moved(row, time, "hand-off", from, to);
            }
            TraceEvent::GaveWay { from, to } => self.writer.moved(row, time, "gave way", from, to),
            TraceEvent::Outstayed { g, since } => {
                let args = GoroutineArgs(&g);
                self.writer.slice(
                    row,
                    since,
                    time,
                    SliceName(&g),
                    format_args!(r#"{args},"end":"came back""#),
                );
            }
            TraceEvent::Batch {
                source,
                count,
                since,
            } => {
                let name = match source {
                    Source::Poll => "netpoll",
                    Source::Timers => "timers",
                };
                self.writer
                    .slice(row, since, time, name, format_args!(r#""woken":{count}"#));
            }
            TraceEvent::Spawn { g } => {
                let args = GoroutineArgs(&g);
                self.writer
                    .instant(row, time, "spawn", format_args!("{args}"));
            }
            TraceEvent::Cancel { g, by } => {
                let (args, by) = (GoroutineArgs(&g), Escaped(by));
                self.writer
                    .instant(row, time, "cancel", format_args!(r#"{args},"by":"{by}""#));
            }
            TraceEvent::Idle { in_poller } => {
                let place = if in_poller { "poller" } else { "futex" };
                self.writer
                    .instant(row, time, "idle", format_args!(r#""in":"{place}""#));
            }
            TraceEvent::Lost { count, since } => self.lose(row, since, time, count),
            _ => {}
        }
    }

    /// Draws that `row` lost `count` records between `since` and `until`.
    fn lose(&mut self, row: Row, since: Nanos, until: Nanos, count: u64) {
        self.end_turn(row, since, "unknown");
        self.lost += count;
        if let Row::P(_) = row {
            self.writer.slice(
                row,
                since,
                until,
                "records lost",
                format_args!(r#""records":{count}"#),
            );
        }
    }

    fn begin_turn(&mut self, row: Row, turn: Turn) {
        self.end_turn(row, turn.since, "unknown");
        if let Some(readied) = turn.readied {
            self.name_row(readied.row);
        }
        if let Row::P(p) = row {
            self.turns[p as usize] = Some(turn);
        }
    }

    /// Draws the turn that the P of `row` has had until `until`, and the arrow that leads to it.
    fn end_turn(&mut self, row: Row, until: Nanos, end: impl fmt::Display) {
        let Row::P(p) = row else { return };
        let Some(Turn {
            g,
            m,
            since,
            readied,
        }) = self.turns[p as usize].take()
        else {
            return;
        };
        let args = GoroutineArgs(&g);
        let Some(Readied {
            time,
            row: from,
            by,
        }) = readied
        else {
            return self.writer.slice(
                row,
                since,
                until,
                SliceName(&g),
                format_args!(r#"{args},"m":{m},"end":"{end}""#),
            );
        };
        let waited = Micros(since - time);
        self.writer.slice(
            row,
            since,
            until,
            SliceName(&g),
            format_args!(r#"{args},"m":{m},"end":"{end}","readied_by":{by},"ready_us":{waited}"#),
        );
        if let Row::Thread(_) = from {
            // The format draws an arrow only between slices.
            self.writer.slice(
                from,
                time,
                time,
                format_args!("readies G{}", g.id),
                format_args!(""),
            );
        }
        self.arrows += 1;
        self.writer.arrow(self.arrows, (from, time), (row, since));
    }

    fn turn(&mut self, row: Row) -> Option<&mut Turn> {
        let Row::P(p) = row else { return None };
        self.turns[p as usize].as_mut()
    }

    /// Names the row of a thread when the thread first occurs.
    fn name_row(&mut self, row: Row) {
        let Row::Thread(thread) = row else { return };
        if self.named_threads.insert(thread) {
            let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm"))
                .unwrap_or_else(|_| "ended".into());
            let row = RowId(row);
            let name = Escaped(name.trim_end());
            self.writer.line(format_args!(
                r#""ph":"M","name":"thread_name",{row},"args":{{"name":"{name} ({thread})"}}"#
            ));
        }
    }

    /// Writes the end of the file, with the reason and the number of lost records.
    fn end(&mut self) {
        let now = self.os.now();
        for p in 0..self.turns.len() as u32 {
            self.end_turn(Row::P(p), now, "still running");
            self.writer.commit();
        }
        let lost = self.lost + self.reader.lost();
        let limit = self.writer.limit;
        let why = if self.writer.full {
            format!("the limit of {limit} bytes (GOPARK_TRACE_LIMIT)")
        } else {
            "exit of the process".into()
        };
        self.writer
            .end(now, format_args!(r#""why":"{why}","lost_records":{lost}"#));
    }
}

/// The group of the rows of Ps. The format calls groups processes.
const PID_PROCS: u32 = 1;
/// The group of the rows of threads.
const PID_THREADS: u32 = 2;

/// Appends events to the file, up to its limit.
struct TraceWriter {
    file: File,
    /// Lines that have not been written to the file.
    text: String,
    /// The length of the part of `text` that `commit` has accepted.
    committed: usize,
    /// Bytes written to the file.
    written: u64,
    limit: u64,
    /// Set when lines were dropped because of the limit.
    full: bool,
    /// The time that is zero in the file.
    start: Nanos,
}

impl TraceWriter {
    fn line(&mut self, event: fmt::Arguments<'_>) {
        writeln!(self.text, "{{{event}}},").expect("writing to a String does not fail");
    }

    fn slice(
        &mut self,
        row: Row,
        since: Nanos,
        until: Nanos,
        name: impl fmt::Display,
        args: fmt::Arguments<'_>,
    ) {
        let (row, ts, dur) = (
            RowId(row),
            Micros(since - self.start),
            Micros(until - since),
        );
        self.line(format_args!(
            r#""ph":"X",{row},"ts":{ts},"dur":{dur},"name":"{name}","args":{{{args}}}"#
        ));
    }

    fn instant(&mut self, row: Row, time: Nanos, name: &str, args: fmt::Arguments<'_>) {
        let (row, ts) = (RowId(row), Micros(time - self.start));
        self.line(format_args!(
            r#""ph":"i","s":"t",{row},"ts":{ts},"name":"{name}","args":{{{args}}}"#
        ));
    }

    /// Writes an instant at which a goroutine or a P moved between two Ms.
    fn moved(&mut self, row: Row, time: Nanos, name: &str, from: u32, to: u32) {
        self.instant(
            row,
            time,
            name,
            format_args!(r#""from":"m{from}","to":"m{to}""#),
        );
    }

    fn arrow(&mut self, id: u64, (from, left): (Row, Nanos), (to, arrived): (Row, Nanos)) {
        let (from, left) = (RowId(from), Micros(left - self.start));
        let (to, arrived) = (RowId(to), Micros(arrived - self.start));
        self.line(format_args!(
            r#""ph":"s","id":{id},{from},"ts":{left},"cat":"ready","name":"ready""#
        ));
        self.line(format_args!(
            r#""ph":"f","bp":"e","id":{id},{to},"ts":{arrived},"cat":"ready","name":"ready""#
        ));
    }

    /// Accepts the lines added since the last call, or drops all of them if they would leave no
    /// room for the end.
    fn commit(&mut self) {
        self.full |= self.written + (self.text.len() + END_RESERVE) as u64 > self.limit;
        if self.full {
            self.text.truncate(self.committed);
        }
        self.committed = self.text.len();
    }

    fn end(&mut self, now: Nanos, args: fmt::Arguments<'_>) {
        let (row, ts) = (RowId(Row::P(0)), Micros(now - self.start));
        writeln!(
            self.text,
            r#"{{"ph":"i","s":"g",{row},"ts":{ts},"name":"end of the trace","args":{{{args}}}}}"#
        )
        .expect("writing to a String does not fail");
        self.text.push_str("]\n");
    }

    fn flush(&mut self) -> io::Result<()> {
        self.written += self.text.len() as u64;
        self.file.write_all(self.text.as_bytes())?;
        self.text.clear();
        self.committed = 0;
        Ok(())
    }
}

/// The JSON members that select the row of an event.
struct RowId(Row);

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Perfetto treats thread 0 as an idle CPU.
            Row::P(p) => write!(f, r#""pid":{PID_PROCS},"tid":{}"#, p + 1),
            Row::Thread(thread) => write!(f, r#""pid":{PID_THREADS},"tid":{thread}"#),
        }
    }
}

/// A time in microseconds, the unit of the format, with nanoseconds as the fraction.
struct Micros(Nanos);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.max(0);
        write!(f, "{}.{:03}", nanos / 1000, nanos % 1000)
    }
}

/// The name of a goroutine's slices.
struct SliceName<'a>(&'a Identity);

impl fmt::Display for SliceName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { id, name, site } = self.0;
        match name {
            Some(name) => write!(f, "G{id} {}", Escaped(name)),
            None => write!(
                f,
                "G{id} {}:{}",
                Escaped(site.file().rsplit('/').next().unwrap_or_default()),
                site.line()
            ),
        }
    }
}

/// The JSON members that identify a goroutine.
struct GoroutineArgs<'a>(&'a Identity);

impl fmt::Display for GoroutineArgs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { id, name, site } = self.0;
        write!(f, r#""goroutine":{id},"site":"{}""#, Escaped(site))?;
        name.iter()
            .try_for_each(|name| write!(f, r#","name":"{}""#, Escaped(name)))
    }
}

/// Writes a text escaped for a JSON string.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

        impl fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '"' | '\\' => write!(self.0, "\\{c}"),
                    c if c < ' ' => write!(self.0, "\\u{:04x}", u32::from(c)),
                    c => self.0.write_char(c),
                })
            }
        }

        write!(Escaping(f), "{}", self.0)
    }
}

#[cfg(test)]
mod tests;
