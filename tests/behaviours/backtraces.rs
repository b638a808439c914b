//! The calls in a dump of parked goroutines. A dump does not disturb the goroutines that it shows.

use crate::check;
use gopark::net::{TcpListener, TcpStream};
use gopark_tests::join;
use std::hint::black_box;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

/// What the dump says of the goroutine `name`, as soon as it is in this state.
fn paragraph(name: &str, state: &str) -> String {
    loop {
        let mut text = Vec::new();
        gopark::dump(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let found = text
            .split("\n\n")
            .find(|paragraph| paragraph.contains(&format!("\"{name}\" [{state}")));
        if let Some(paragraph) = found {
            return paragraph.into();
        }
        gopark::yield_now();
    }
}

/// The functions in a paragraph, each with file and line.
fn calls(paragraph: &str) -> Vec<(&str, &str)> {
    let lines: Vec<_> = paragraph
        .lines()
        .filter(|line| line.starts_with("    ") && !line.starts_with("    stack: "))
        .collect();
    lines
        .chunks(2)
        .map(|call| (call[0].trim(), call.get(1).map_or("", |place| place.trim())))
        .collect()
}

/// Fails unless these are the calls: the end of each function's name, and its line if given.
fn assert_calls(paragraph: &str, expected: &[(&str, Option<u32>)]) {
    let calls = calls(paragraph);
    assert_eq!(calls.len(), expected.len(), "{paragraph}");
    for ((name, place), (expected, line)) in calls.into_iter().zip(expected) {
        assert!(
            name.ends_with(expected),
            "{name} is not {expected}: {paragraph}"
        );
        if let Some(line) = line {
            assert!(
                place.ends_with(&format!("{}:{line}", file!())),
                "{name} is not at line {line}: {paragraph}"
            );
        }
    }
}

const READ_HEADER: u32 = line!() + 4;
#[inline(never)]
fn read_header(conn: &mut TcpStream) -> bool {
    let mut header = [0; 8];
    let result = conn.read_exact(&mut header);
    black_box(result.is_ok())
}

const SERVE: u32 = line!() + 3;
#[inline(never)]
fn serve(mut conn: TcpStream) -> bool {
    black_box(read_header(&mut conn))
}

#[test]
fn a_dump_of_a_reader_shows_the_read_and_its_callers() {
    check(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let conn = listener.accept().unwrap().0;
        let goroutine = gopark::go(move || {
            gopark::set_name("reader");
            serve(conn)
        });
        let paragraph = paragraph("reader", "IO wait");
        drop(client);
        assert!(!goroutine.join().unwrap());
        let calls = calls(&paragraph);
        // Between the two are frames of std's `read_exact`, which some compilers attribute to the
        // stream.
        let own = calls
            .iter()
            .position(|(name, _)| name.ends_with("read_header"))
            .expect(&paragraph);
        let (name, place) = calls[0];
        assert!(
            name.ends_with("read") && place.contains("/net/handle.rs:")
                || name.ends_with("read_exact"),
            "{paragraph}"
        );
        assert!(
            calls[1..own]
                .iter()
                .all(|(_, place)| place.contains("/library/")),
            "{paragraph}"
        );
        let own: Vec<u32> = calls[own..]
            .iter()
            .map(|(_, place)| place.rsplit_once(':').unwrap().1.parse().unwrap())
            .collect();
        assert_eq!(own[..2], [READ_HEADER, SERVE], "{paragraph}");
        assert_eq!(own.len(), 3, "{paragraph}");
    });
}

#[test]
fn a_dump_of_a_parked_goroutine_shows_the_call_that_parked_it() {
    static AWAKE: AtomicBool = AtomicBool::new(false);
    check(|| {
        let line = line!() + 4;
        let sleeper = gopark::go(|| {
            gopark::set_name("sleeper");
            while !AWAKE.load(Relaxed) {
                gopark::sleep(Duration::from_millis(50));
            }
        });
        assert_calls(
            &paragraph("sleeper", "sleep"),
            &[("sleep", None), ("}", Some(line))],
        );
        let line = line!() + 4;
        gopark::thread::scope(|s| {
            let parked = s.spawn(|| {
                gopark::set_name("scoped");
                gopark::thread::park();
            });
            let paragraph = paragraph("scoped", "park");
            assert_calls(&paragraph, &[("park", None), ("}", Some(line))]);
            parked.thread().unpark();
        });
        let line = line!() + 3;
        let joiner = gopark::go(|| {
            gopark::set_name("joiner");
            sleeper.join().unwrap();
        });
        assert_calls(
            &paragraph("joiner", "join"),
            &[("join", None), ("}", Some(line))],
        );
        let (done, work) = mpsc::channel::<()>();
        let line = line!() + 3;
        let blocked = gopark::go(|| {
            gopark::set_name("blocked");
            gopark::blocking(|| work.into_iter().count());
        });
        assert_calls(
            &paragraph("blocked", "blocking"),
            &[("blocking", None), ("}", Some(line))],
        );
        drop(done);
        AWAKE.store(true, Relaxed);
        join(blocked);
        join(joiner);
    });
}

#[test]
fn a_dump_of_a_deep_stack_shows_its_innermost_frames() {
    static AWAKE: AtomicBool = AtomicBool::new(false);
    #[inline(never)]
    fn recursive(depth: u32) -> u32 {
        if depth > 0 {
            recursive(depth - 1);
        }
        while !AWAKE.load(Relaxed) {
            gopark::sleep(Duration::from_millis(50));
        }
        black_box(depth)
    }
    check(|| {
        let goroutine = gopark::go(|| {
            gopark::set_name("deep");
            recursive(black_box(200))
        });
        let text = paragraph("deep", "sleep");
        AWAKE.store(true, Relaxed);
        assert!(
            text.contains("recursive") && text.contains("\n    ...more frames\n"),
            "{text}"
        );
        assert_eq!(goroutine.join().unwrap(), 200);
    });
}

#[test]
fn goroutines_go_on_while_they_are_dumped() {
    check(|| {
        let goroutines: Vec<_> = (0..50)
            .map(|i| {
                gopark::go(move || {
                    for round in 0..200 {
                        match (i + round) % 3 {
                            0 => gopark::yield_now(),
                            1 => gopark::sleep(Duration::from_micros(50)),
                            _ => join(gopark::go(|| ())),
                        }
                    }
                    i
                })
            })
            .collect();
        let mut dumps = 0;
        while !goroutines.iter().all(|goroutine| goroutine.is_finished()) {
            gopark::dump(&mut Vec::new()).unwrap();
            dumps += 1;
            gopark::yield_now();
        }
        assert!(dumps > 0);
        assert_eq!(
            goroutines
                .into_iter()
                .map(|goroutine| goroutine.join().unwrap())
                .sum::<usize>(),
            (0..50).sum()
        );
    });
}
