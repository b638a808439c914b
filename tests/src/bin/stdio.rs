//! Programs that use the standard streams of `gopark::io`, for `suites/stdio.rs`. Each runs with
//! one P, so a stream that blocked its thread would hold up the other goroutines.
#![allow(unsafe_code, reason = "the process is ended through libc")]

use gopark::sync::Cancel;
use gopark::{Builder, PollError, go, go_local, io, poll_error, yield_now};
use gopark_tests::join;
use std::io::{BufRead, Read, Write};
use std::time::{Duration, Instant};

fn main() {
    let program = std::env::args().nth(1).expect("the name of a program");
    if program == "without-a-runtime" {
        return upper();
    }
    Builder::new().max_procs(1).start().unwrap();
    match program.as_str() {
        "upper" => gopark::run(|| {
            // It stays with the thread of this goroutine, and so runs only when that waits.
            let other = go_local(|| writeln!(io::stderr(), "another goroutine runs"));
            upper();
            join(other).unwrap();
        }),
        "upper-on-a-thread" => upper(),
        "copy" => gopark::run(|| {
            let mut all = Vec::new();
            io::stdin().read_to_end(&mut all).unwrap();
            io::stdout().write_all(&all).unwrap();
        }),
        "flood" => gopark::run(|| {
            let other = go_local(|| writeln!(io::stderr(), "another goroutine runs"));
            io::stdout().write_all(&[b'x'; 1 << 20]).unwrap();
            join(other).unwrap();
        }),
        "deadline" => gopark::run(deadline),
        "write-deadline" => gopark::run(write_deadline),
        "cancel" => gopark::run(cancel),
        "lines" => gopark::run(lines),
        "partial" => gopark::run(|| write!(io::stdout(), "a line\nno end of line").unwrap()),
        "partial-and-exit" => gopark::run(|| {
            write!(io::stdout(), "a line\nno end of line").unwrap();
            std::process::exit(0);
        }),
        _ => panic!("there is no program {program}"),
    }
}

fn upper() {
    for line in io::stdin().lines() {
        writeln!(io::stdout(), "{}", line.unwrap().to_uppercase()).unwrap();
    }
}

/// Reads that end by a deadline, and go on without it.
fn deadline() {
    let stdin = io::stdin();
    stdin.set_read_deadline(Some(Instant::now())).unwrap();
    let timeout = |result: std::io::Result<usize>| {
        assert_eq!(poll_error(&result.unwrap_err()), Some(PollError::Timeout));
    };
    timeout(stdin.read_line(&mut String::new()));
    let soon = Instant::now() + Duration::from_millis(2);
    stdin.set_read_deadline(Some(soon)).unwrap();
    timeout(stdin.read_line(&mut String::new()));
    assert!(Instant::now() >= soon);
    stdin.set_read_deadline(None).unwrap();
    let reader = go(|| io::stdin().read_line(&mut String::new()));
    yield_now();
    stdin.set_read_deadline(Some(Instant::now())).unwrap();
    timeout(join(reader));
    stdin.set_read_deadline(None).unwrap();
    writeln!(io::stdout(), "timeouts").unwrap();
    let mut line = String::new();
    stdin.read_line(&mut line).unwrap();
    write!(io::stdout(), "{line}").unwrap();
}

/// A write that fills the output and ends by a deadline.
fn write_deadline() {
    let soon = Instant::now() + Duration::from_millis(2);
    io::stdout().set_write_deadline(Some(soon)).unwrap();
    let error = io::stdout().write_all(&[b'x'; 1 << 20]).unwrap_err();
    assert_eq!(poll_error(&error), Some(PollError::Timeout));
    writeln!(io::stderr(), "timeout").unwrap();
    // Without the end of the process, which would wait for room.
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// A read that ends by a cancel. The next one reads the line.
fn cancel() {
    let cancel = Cancel::new();
    let theirs = cancel.clone();
    let reader = go(move || theirs.run(|| io::stdin().read_line(&mut String::new())));
    yield_now();
    cancel.cancel();
    let error = join(reader).unwrap_err();
    assert_eq!(poll_error(&error), Some(PollError::Cancelled));
    writeln!(io::stdout(), "cancelled").unwrap();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).unwrap();
    write!(io::stdout(), "{line}").unwrap();
}

/// Lines that goroutines write in pieces.
fn lines() {
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            go(move || {
                for line in 0..200 {
                    writeln!(io::stdout(), "{writer} {line} {writer} {}", "x".repeat(100)).unwrap();
                    if line % 16 == 0 {
                        yield_now();
                    }
                }
            })
        })
        .collect();
    writers.into_iter().for_each(join);
}
