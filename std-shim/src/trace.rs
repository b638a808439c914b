//! `GOPARK_TRACE`: what the scheduler did, as a timeline that Perfetto and chrome://tracing draw.
//!
//! A thread empties the scheduler's records now and then and appends what is to be drawn to the file. The format is Chrome's array of trace
//! events, which may lack its end: the file can be opened while it grows, and after a crash. At the exit of the process it gets its end.
//!
//! | event | drawn as |
//! |---|---|
//! | a goroutine runs | a slice on the row of its P; if it outstays its P, another one on the row of its thread |
//! | it goes on after it was readied, or begins | an arrow from whoever readied or spawned it |
//! | a poll that wakes somebody, timers that fire | a slice between those of goroutines |
//! | a spawn, a hand-off, a P that goes idle | an instant |
//! | records that came too fast to be kept | a slice that says how many |
#![allow(
    unsafe_code,
    reason = "the exit of the process is announced through libc"
)]

use crate::environment;
use gopark_core::os::{Nanos, Os};
use gopark_core::sched::Sched;
use gopark_core::trace::{Event, Reader, Readied, Record, Row, Source, Stopped, Subject};
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

/// The file that the environment asks for, and the thread that will write it. A drop before `begin`
/// ends the thread and removes the file, if this start has made it.
pub(crate) struct Request {
    /// Taken when the timeline begins.
    prepared: Option<Prepared>,
    limit: u64,
}

struct Prepared {
    begin: Sender<Timeline>,
    thread: JoinHandle<()>,
    file: File,
    /// The path of the file, if there was none before.
    made: Option<PathBuf>,
}

const FILE: &str = "GOPARK_TRACE";
const LIMIT: &str = "GOPARK_TRACE_LIMIT";

/// How often the records are emptied: well before the rings of busy Ps are full.
const PERIOD: Duration = Duration::from_millis(10);

const DEFAULT_LIMIT: u64 = 256 << 20;

/// Room for the last event, and more than enough.
const END: usize = 512;

/// What the exit of the process has to end.
static WRITING: Mutex<Option<Writing>> = Mutex::new(None);

struct Writing {
    process: u32,
    /// Dropped when the timeline is to end.
    end: Sender<Timeline>,
    thread: JoinHandle<()>,
}

impl Request {
    /// What `GOPARK_TRACE` and `GOPARK_TRACE_LIMIT` ask for.
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
        let (begin, begun) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("gopark-trace".into())
            .spawn(move || write(&begun))
            .map_err(refused)?;
        // Opening changes nothing of a file that is there: the thread empties it when it begins.
        let (file, made) = open(Path::new(&path)).map_err(refused)?;
        Ok(Some(Request {
            prepared: Some(Prepared {
                begin,
                thread,
                file,
                made,
            }),
            limit,
        }))
    }

    /// Begins the timeline of a scheduler.
    pub(crate) fn begin(mut self, sched: &'static Sched) {
        let Some(Prepared {
            begin,
            thread,
            file,
            ..
        }) = self.prepared.take()
        else {
            return;
        };
        let start = sched.now();
        let reader = sched.trace().expect("nobody else asks for it");
        let timeline = Timeline {
            os: sched.os(),
            reader,
            writer: TraceWriter {
                file,
                text: String::new(),
                begun: 0,
                written: 0,
                limit: self.limit,
                full: false,
                start,
            },
            open: (0..sched.config().procs).map(|_| None).collect(),
            threads: HashSet::new(),
            flows: 0,
            lost: 0,
        };
        // It cannot have ended: it waits for this.
        let _ = begin.send(timeline);
        *WRITING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Writing {
            process: std::process::id(),
            end: begin,
            thread,
        });
        // SAFETY: the function may be called at any time. Without room for it the file lacks its end.
        unsafe { libc::atexit(finish) };
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(Prepared {
            begin,
            thread,
            made,
            ..
        }) = self.prepared.take()
        {
            drop(begin);
            let _ = thread.join();
            made.into_iter().for_each(|path| _ = fs::remove_file(path));
        }
    }
}

/// Opens a file to write to. If there is none, makes one that only its owner may read, and returns
/// its path as well.
///
/// A link is not followed: in a directory that other users may write to, such as `/tmp`, it could
/// lead to a file that this process may write and those users may not.
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

fn limit() -> io::Result<u64> {
    let Some(text) = environment::nonempty(LIMIT) else {
        return Ok(DEFAULT_LIMIT);
    };
    let number = text
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|&limit| limit >= 2 * END as u64);
    number.ok_or_else(|| {
        environment::invalid(
            LIMIT,
            &text,
            format_args!("a number of bytes from {} on", 2 * END),
        )
    })
}

/// At the exit of the process: has the thread write the end of the file, and waits for that.
extern "C" fn finish() {
    let mut writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    // A forked child has no such thread.
    if let Some(Writing { end, thread, .. }) =
        writing.take_if(|writing| writing.process == std::process::id())
    {
        drop(end);
        let _ = thread.join();
    }
}

/// What the thread does.
fn write(begun: &Receiver<Timeline>) {
    let Ok(mut timeline) = begun.recv() else {
        return;
    };
    // Cuts off what an earlier process has written. A FIFO has no length.
    let emptied = match timeline.writer.file.metadata() {
        Ok(file) if file.is_file() => timeline.writer.file.set_len(0),
        _ => Ok(()),
    };
    if let Err(error) = emptied {
        return tell_end(&error);
    }
    timeline.begin();
    loop {
        let over = begun
            .recv_timeout(PERIOD)
            .is_err_and(|error| error == RecvTimeoutError::Disconnected);
        timeline.draw_all();
        if over || timeline.writer.full {
            timeline.end();
        }
        if let Err(error) = timeline.writer.flush() {
            return tell_end(&error);
        }
        if over || timeline.writer.full {
            return;
        }
    }
}

fn tell_end(error: &io::Error) {
    let _ = writeln!(
        io::stderr(),
        "gopark: the file of {FILE} ends here: {error}"
    );
}

/// A goroutine that runs on a P.
struct Running {
    g: Subject,
    m: u32,
    since: Nanos,
    readied: Option<Readied>,
}

struct Timeline {
    os: &'static dyn Os,
    reader: Reader,
    writer: TraceWriter,
    /// For each P.
    open: Vec<Option<Running>>,
    /// Those whose rows have names.
    threads: HashSet<u32>,
    flows: u64,
    lost: u64,
}

impl Timeline {
    fn begin(&mut self) {
        self.writer.text.push_str("[\n");
        for (pid, name) in [(PS, "gopark"), (THREADS, "threads without a P")] {
            self.writer.line(format_args!(
                r#""ph":"M","name":"process_name","pid":{pid},"tid":0,"args":{{"name":"{name}"}}"#
            ));
        }
        for p in 0..self.open.len() as u32 {
            let place = Place(Row::P(p));
            self.writer.line(format_args!(
                r#""ph":"M","name":"thread_name",{place},"args":{{"name":"P{p}"}}"#
            ));
            self.writer.line(format_args!(
                r#""ph":"M","name":"thread_sort_index",{place},"args":{{"sort_index":{p}}}"#
            ));
            self.writer.keep();
        }
    }

    fn draw_all(&mut self) {
        let mut records = Vec::new();
        self.reader.drain(|record| records.push(record));
        // Where the file ends for its limit, all rows end.
        records.sort_by_key(|record| record.time);
        for record in records {
            self.draw(record);
            self.writer.keep();
        }
    }

    fn draw(&mut self, Record { time, row, event }: Record) {
        self.name(row);
        match event {
            Event::Run { g, m, readied } => {
                self.close(row, time, "unknown");
                self.name_readier(readied);
                if let Row::P(p) = row {
                    self.open[p as usize] = Some(Running {
                        g,
                        m,
                        since: time,
                        readied,
                    });
                }
            }
            Event::Named(name) => {
                if let Some(running) = self.running(row) {
                    running.g.name = Some(name);
                }
            }
            Event::Stop(Stopped::Blocked(why)) => {
                self.close(row, time, format_args!("blocked: {why}"))
            }
            Event::Stop(Stopped::Yielded) => self.close(row, time, "yielded"),
            Event::Stop(Stopped::Returned) => self.close(row, time, "returned"),
            Event::Taken { from, to } => {
                self.close(row, time, "lost its P");
                self.writer.instant(
                    row,
                    time,
                    "hand-off",
                    format_args!(r#""from":"m{from}","to":"m{to}""#),
                );
            }
            Event::GaveWay { from, to } => {
                self.writer.instant(
                    row,
                    time,
                    "gave way",
                    format_args!(r#""from":"m{from}","to":"m{to}""#),
                );
            }
            Event::Outstayed { g, since } => {
                self.writer.slice(
                    row,
                    since,
                    time,
                    Label(&g),
                    format_args!(r#"{},"end":"came back""#, Identity(&g)),
                );
            }
            Event::Batch {
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
            Event::Spawn { g } => {
                self.writer
                    .instant(row, time, "spawn", format_args!("{}", Identity(&g)));
            }
            Event::Idle { in_poller } => {
                let place = if in_poller { "poller" } else { "futex" };
                self.writer
                    .instant(row, time, "idle", format_args!(r#""in":"{place}""#));
            }
            Event::Lost { count, since } => {
                self.close(row, since, "unknown");
                self.lost += count;
                if let Row::P(_) = row {
                    self.writer.slice(
                        row,
                        since,
                        time,
                        "records lost",
                        format_args!(r#""records":{count}"#),
                    );
                }
            }
            _ => {}
        }
    }

    /// Draws the goroutine that has run on a P until now, and the arrow that led to it.
    fn close(&mut self, row: Row, until: Nanos, end: impl fmt::Display) {
        let Row::P(p) = row else { return };
        let Some(Running {
            g,
            m,
            since,
            readied,
        }) = self.open[p as usize].take()
        else {
            return;
        };
        let identity = Identity(&g);
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
                Label(&g),
                format_args!(r#"{identity},"m":{m},"end":"{end}""#),
            );
        };
        let waited = Micros(since - time);
        self.writer.slice(
            row,
            since,
            until,
            Label(&g),
            format_args!(
                r#"{identity},"m":{m},"end":"{end}","readied_by":{by},"ready_us":{waited}"#
            ),
        );
        if let Row::Thread(_) = from {
            // An arrow has to begin at a slice.
            self.writer.slice(
                from,
                time,
                time,
                format_args!("readies G{}", g.id),
                format_args!(""),
            );
        }
        self.flows += 1;
        self.writer.arrow(self.flows, (from, time), (row, since));
    }

    fn running(&mut self, row: Row) -> Option<&mut Running> {
        let Row::P(p) = row else { return None };
        self.open[p as usize].as_mut()
    }

    fn name_readier(&mut self, readied: Option<Readied>) {
        if let Some(readied) = readied {
            self.name(readied.row);
        }
    }

    /// Names the row of a thread that is seen for the first time.
    fn name(&mut self, row: Row) {
        let Row::Thread(thread) = row else { return };
        if self.threads.insert(thread) {
            let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm"))
                .unwrap_or_else(|_| "ended".into());
            let place = Place(row);
            let name = Escaped(name.trim_end());
            self.writer.line(format_args!(
                r#""ph":"M","name":"thread_name",{place},"args":{{"name":"{name} ({thread})"}}"#
            ));
        }
    }

    /// Ends the file: says why, and how much is missing.
    fn end(&mut self) {
        let now = self.os.now();
        for p in 0..self.open.len() as u32 {
            self.close(Row::P(p), now, "still running");
            self.writer.keep();
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

/// The groups of rows, which the format calls processes.
const PS: u32 = 1;
const THREADS: u32 = 2;

/// The file, and what will be appended to it.
struct TraceWriter {
    file: File,
    text: String,
    /// Where in `text` lines begin that are kept together or not at all.
    begun: usize,
    written: u64,
    limit: u64,
    full: bool,
    /// What the timeline calls zero.
    start: Nanos,
}

impl TraceWriter {
    fn line(&mut self, event: fmt::Arguments<'_>) {
        writeln!(self.text, "{{{event}}},").expect("strings grow");
    }

    fn slice(
        &mut self,
        row: Row,
        since: Nanos,
        until: Nanos,
        name: impl fmt::Display,
        args: fmt::Arguments<'_>,
    ) {
        let (place, ts, dur) = (
            Place(row),
            Micros(since - self.start),
            Micros(until - since),
        );
        self.line(format_args!(
            r#""ph":"X",{place},"ts":{ts},"dur":{dur},"name":"{name}","args":{{{args}}}"#
        ));
    }

    fn instant(&mut self, row: Row, time: Nanos, name: &str, args: fmt::Arguments<'_>) {
        let (place, ts) = (Place(row), Micros(time - self.start));
        self.line(format_args!(
            r#""ph":"i","s":"t",{place},"ts":{ts},"name":"{name}","args":{{{args}}}"#
        ));
    }

    fn arrow(&mut self, id: u64, (from, left): (Row, Nanos), (to, arrived): (Row, Nanos)) {
        let (from, left) = (Place(from), Micros(left - self.start));
        let (to, arrived) = (Place(to), Micros(arrived - self.start));
        self.line(format_args!(
            r#""ph":"s","id":{id},{from},"ts":{left},"cat":"ready","name":"ready""#
        ));
        self.line(format_args!(
            r#""ph":"f","bp":"e","id":{id},{to},"ts":{arrived},"cat":"ready","name":"ready""#
        ));
    }

    /// Keeps the lines since the last call, if they leave room for the end.
    fn keep(&mut self) {
        self.full |= self.written + (self.text.len() + END) as u64 > self.limit;
        if self.full {
            self.text.truncate(self.begun);
        }
        self.begun = self.text.len();
    }

    fn end(&mut self, now: Nanos, args: fmt::Arguments<'_>) {
        let ts = Micros(now - self.start);
        writeln!(self.text, r#"{{"ph":"i","s":"g","pid":{PS},"tid":1,"ts":{ts},"name":"end of the trace","args":{{{args}}}}}"#)
            .expect("strings grow");
        self.text.push_str("]\n");
    }

    fn flush(&mut self) -> io::Result<()> {
        self.written += self.text.len() as u64;
        self.file.write_all(self.text.as_bytes())?;
        self.text.clear();
        self.begun = 0;
        Ok(())
    }
}

/// The members that say on which row an event is.
struct Place(Row);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Perfetto takes thread 0 for an idle CPU.
            Row::P(p) => write!(f, r#""pid":{PS},"tid":{}"#, p + 1),
            Row::Thread(thread) => write!(f, r#""pid":{THREADS},"tid":{thread}"#),
        }
    }
}

/// The format's unit, and ours behind the point.
struct Micros(Nanos);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.max(0);
        write!(f, "{}.{:03}", nanos / 1000, nanos % 1000)
    }
}

/// What a goroutine's slices are called.
struct Label<'a>(&'a Subject);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { id, name, site } = self.0;
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

/// The members that say which goroutine it is.
struct Identity<'a>(&'a Subject);

impl fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { id, name, site } = self.0;
        write!(f, r#""goroutine":{id},"site":"{}""#, Escaped(site))?;
        name.iter()
            .try_for_each(|name| write!(f, r#","name":"{}""#, Escaped(name)))
    }
}

/// As the inside of a JSON string.
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
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_json_wants_it() {
        assert_eq!(
            Escaped("a\"b\\c\n\u{1}d\u{e9}").to_string(),
            "a\\\"b\\\\c\\u000a\\u0001d\u{e9}"
        );
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        for (nanos, text) in [
            (0, "0.000"),
            (999, "0.999"),
            (1_000_007, "1000.007"),
            (-5, "0.000"),
        ] {
            assert_eq!(Micros(nanos).to_string(), text);
        }
    }
}
