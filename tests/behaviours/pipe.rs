//! Connections in memory: what TCP does not do so. What they have in common is in `conn`.

use crate::check;
use gopark::net::pipe;
use gopark::sync::Cancel;
use gopark::{go, yield_now};
use gopark_tests::join;
use gopark_tests::sockets::{assert_closing, assert_timeout};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

#[test]
fn a_write_returns_when_its_last_byte_is_read() {
    check(|| {
        let (mut near, mut far) = pipe();
        let returned = Arc::new(AtomicBool::new(false));
        let writer = {
            let returned = returned.clone();
            go(move || {
                let n = near.write(&[7; 100]);
                returned.store(true, SeqCst);
                n
            })
        };
        let mut buffer = [0; 33];
        for n in [33, 33, 33, 1] {
            (0..5).for_each(|_| yield_now());
            assert!(!returned.load(SeqCst));
            assert_eq!(far.read(&mut buffer).unwrap(), n);
        }
        assert_eq!(join(writer).unwrap(), 100);
    });
}

#[test]
fn a_write_that_ends_early_returns_what_was_read() {
    let cases: [fn(&gopark::net::Pipe, &gopark::net::Pipe, &Cancel); 4] = [
        |near, _, _| near.set_write_deadline(Some(Instant::now())).unwrap(),
        |near, _, _| near.close().unwrap(),
        |_, far, _| far.close().unwrap(),
        |_, _, cancel| _ = cancel.cancel(),
    ];
    for end in cases {
        check(move || {
            let (near, mut far) = pipe();
            let cancel = Cancel::new();
            let writer = {
                let (mut near, cancel) = (near.try_clone().unwrap(), cancel.clone());
                go(move || cancel.run(|| [near.write(&[7; 100]), near.write(&[8; 100])]))
            };
            far.read_exact(&mut [0; 40]).unwrap();
            end(&near, &far, &cancel);
            let [first, second] = join(writer);
            assert_eq!(first.unwrap(), 40);
            assert!(second.is_err());
        });
    }
}

#[test]
fn a_closed_end_and_its_peer_fail_differently() {
    check(|| {
        let (mut near, mut far) = pipe();
        near.close().unwrap();
        assert_closing(near.write(b"x"));
        assert_closing(near.write(b""));
        assert_closing(near.read(&mut [0]));
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        assert_eq!(far.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        far.set_deadline(None).unwrap();
        far.close().unwrap();
        assert_closing(far.read(&mut [0]));
    });
}

#[test]
fn empty_operations_do_not_wait() {
    check(|| {
        let (mut near, mut far) = pipe();
        assert_eq!(near.read(&mut []).unwrap(), 0);
        assert_eq!(near.write(&[]).unwrap(), 0);
        near.write_all(&[]).unwrap();
        near.set_deadline(Some(Instant::now())).unwrap();
        assert_timeout(near.write(&[]));
        // A reader does not take an empty write for the end of the stream.
        let reader = go(move || {
            let mut buffer = [0; 4];
            far.read(&mut buffer)
        });
        near.set_deadline(None).unwrap();
        assert_eq!(near.write(&[]).unwrap(), 0);
        near.write_all(b"abcd").unwrap();
        assert_eq!(join(reader).unwrap(), 4);
    });
}

#[test]
fn one_write_serves_two_readers_that_wait() {
    check(|| {
        let (near, mut far) = pipe();
        for round in 0..100 {
            let readers = [(); 2].map(|()| {
                let mut near = near.try_clone().unwrap();
                go(move || near.read(&mut [0]).unwrap())
            });
            (0..round % 4).for_each(|_| yield_now());
            assert_eq!(far.write(&[1, 2]).unwrap(), 2);
            assert_eq!(readers.map(join), [1, 1]);
        }
    });
}

#[test]
fn a_reader_that_gives_up_leaves_its_bytes_to_the_next() {
    check(|| {
        let (near, mut far) = pipe();
        for round in 0..200 {
            let cancel = Cancel::new();
            let impatient = {
                let (mut near, cancel) = (near.try_clone().unwrap(), cancel.clone());
                go(move || cancel.run(|| near.read(&mut [0])).unwrap_or(0))
            };
            let patient = {
                let mut near = near.try_clone().unwrap();
                go(move || near.read(&mut [0]).unwrap())
            };
            (0..round % 4).for_each(|_| yield_now());
            let canceller = go(move || cancel.cancel());
            far.write_all(&[1]).unwrap();
            join(canceller);
            let first = join(impatient);
            if first == 1 {
                far.write_all(&[2]).unwrap();
            }
            assert_eq!(join(patient), 1);
        }
    });
}

#[test]
fn a_goroutine_that_unwinds_does_not_wait() {
    check(|| {
        struct OnDrop(gopark::net::Pipe);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                let pipe = &mut self.0;
                for error in [
                    pipe.read(&mut [0]).unwrap_err(),
                    pipe.write(&[0]).unwrap_err(),
                ] {
                    assert_eq!(
                        gopark::poll_error(&error),
                        Some(gopark::PollError::Unwinding)
                    );
                }
            }
        }
        let (near, _far) = pipe();
        let panics = go(move || {
            let _on_drop = OnDrop(near);
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(panics.join().unwrap_err().is::<&str>());
    });
}
