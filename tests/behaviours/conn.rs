//! What every connection with deadlines does, whatever carries its bytes. The cases are those of
//! Go's `nettest.TestConn`.

use crate::check;
use gopark::net::{Pipe, TcpStream, pipe};
use gopark::{PollError, go, yield_now};
use gopark_tests::sockets::{assert_closing, assert_timeout, narrow_pair, pattern, poll_error};
use gopark_tests::{Dice, join, until};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// An end of a connection.
trait Conn: Send + Sync + 'static {
    /// Both ends of a connection that holds less than a megabyte.
    fn pair() -> (Arc<Self>, Arc<Self>);
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn write(&self, data: &[u8]) -> io::Result<usize>;
    fn write_all(&self, data: &[u8]) -> io::Result<()>;
    fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()>;
    fn set_read_deadline(&self, deadline: Option<Instant>) -> io::Result<()>;
    fn set_write_deadline(&self, deadline: Option<Instant>) -> io::Result<()>;
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn close(&self) -> io::Result<()>;
}

macro_rules! conn {
    ($($module:ident: $type:ty = $pair:expr;)*) => {$(
        impl Conn for $type {
            fn pair() -> (Arc<Self>, Arc<Self>) {
                let (near, far) = $pair;
                (Arc::new(near), Arc::new(far))
            }
            fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
                Read::read(&mut &*self, buffer)
            }
            fn write(&self, data: &[u8]) -> io::Result<usize> {
                Write::write(&mut &*self, data)
            }
            fn write_all(&self, data: &[u8]) -> io::Result<()> {
                Write::write_all(&mut &*self, data)
            }
            fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
                <$type>::set_deadline(self, deadline)
            }
            fn set_read_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
                <$type>::set_read_deadline(self, deadline)
            }
            fn set_write_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
                <$type>::set_write_deadline(self, deadline)
            }
            fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                <$type>::set_read_timeout(self, timeout)
            }
            fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                <$type>::set_write_timeout(self, timeout)
            }
            fn close(&self) -> io::Result<()> {
                <$type>::close(self)
            }
        }

        mod $module {
            use super::*;

            conn_tests! { $type:
                all_bytes_arrive_in_order_and_then_the_end,
                a_ping_is_answered_by_a_pong,
                readers_in_a_race_with_deadlines_lose_nothing,
                writers_in_a_race_with_deadlines_count_what_was_read,
                a_reader_and_a_writer_wait_no_longer_than_their_deadlines,
                a_past_deadline_fails_at_once_until_it_is_cleared,
                a_deadline_of_now_ends_operations_in_progress,
                a_later_deadline_prolongs_an_operation_in_progress,
                a_timeout_limits_each_operation_that_begins_later,
                a_close_ends_operations_with_deadlines,
                all_methods_can_be_called_at_once,
                the_bytes_of_one_write_all_stay_together,
                a_cancel_ends_a_read_and_a_write,
                ordinary_threads_are_served,
            }
        }
    )*};
}

macro_rules! conn_tests {
    ($type:ty: $($name:ident,)*) => {$(
        #[test]
        fn $name() {
            check(super::$name::<$type>);
        }
    )*};
}

conn! {
    tcp: TcpStream = narrow_pair();
    memory: Pipe = pipe();
}

/// More than any connection under test holds.
const MUCH: usize = 4 << 20;

fn read_exact<C: Conn>(conn: &C, mut buffer: &mut [u8]) {
    while !buffer.is_empty() {
        let n = conn.read(buffer).unwrap();
        assert_ne!(n, 0, "the stream ends too early");
        buffer = &mut buffer[n..];
    }
}

fn read_to_end<C: Conn>(conn: &C) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 10_000];
    loop {
        match conn.read(&mut buffer).unwrap() {
            0 => return all,
            n => all.extend_from_slice(&buffer[..n]),
        }
    }
}

/// The connection is in order: a message passes each way.
fn pass_both_ways<C: Conn>(near: &Arc<C>, far: &Arc<C>) {
    for (from, to) in [(near, far), (far, near)] {
        let from = from.clone();
        let writer = go(move || from.write_all(b"resynchronized"));
        let mut message = [0; 14];
        read_exact(&**to, &mut message);
        assert_eq!(&message, b"resynchronized");
        join(writer).unwrap();
    }
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(3))
}

fn past() -> Option<Instant> {
    Some(Instant::now() - Duration::from_millis(1))
}

fn all_bytes_arrive_in_order_and_then_the_end<C: Conn>() {
    let data = Arc::new(pattern(3 << 20));
    let (near, far) = C::pair();
    let writer = {
        let (data, near) = (data.clone(), near.clone());
        go(move || {
            data.chunks(70_001)
                .for_each(|it| near.write_all(it).unwrap())
        })
    };
    let back = {
        let (data, far) = (data.clone(), far.clone());
        go(move || {
            let mut echo = vec![0; data.len()];
            read_exact(&*far, &mut echo);
            far.write_all(&echo).unwrap();
            far.close().unwrap();
        })
    };
    assert!(read_to_end(&*near) == *data, "the bytes differ");
    assert_eq!(near.read(&mut [0]).unwrap(), 0);
    join(writer);
    join(back);
}

fn a_ping_is_answered_by_a_pong<C: Conn>() {
    let (near, far) = C::pair();
    let pong = go(move || {
        let mut count = [0; 8];
        for _ in 0..300 {
            read_exact(&*far, &mut count);
            far.write_all(&(u64::from_le_bytes(count) + 1).to_le_bytes())
                .unwrap();
        }
    });
    let mut count = 0_u64;
    for round in 0..300 {
        assert_eq!(count, round);
        let mut answer = [0; 8];
        near.write_all(&count.to_le_bytes()).unwrap();
        read_exact(&*near, &mut answer);
        count = u64::from_le_bytes(answer);
    }
    join(pong);
}

fn readers_in_a_race_with_deadlines_lose_nothing<C: Conn>() {
    const LEN: usize = 200_000;
    let (near, far) = C::pair();
    let taken = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..8)
        .map(|seed| {
            let (near, taken) = (near.clone(), taken.clone());
            go(move || {
                let dice = Dice::new(seed);
                let mut buffer = [0; 100];
                loop {
                    if dice.below(4) == 0 {
                        near.set_read_deadline(past()).unwrap();
                        yield_now();
                        near.set_read_deadline(None).unwrap();
                    }
                    match near.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(n) => _ = taken.fetch_add(n, SeqCst),
                        error => assert_timeout(error),
                    }
                }
            })
        })
        .collect();
    for chunk in vec![1; LEN].chunks(777) {
        far.write_all(chunk).unwrap();
    }
    drop(far);
    readers.into_iter().for_each(join);
    assert_eq!(taken.load(SeqCst), LEN);
}

fn writers_in_a_race_with_deadlines_count_what_was_read<C: Conn>() {
    let (near, far) = C::pair();
    let reader = go(move || read_to_end(&*far).len());
    let written = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..8)
        .map(|seed| {
            let (near, written) = (near.clone(), written.clone());
            go(move || {
                let dice = Dice::new(seed);
                for _ in 0..100 {
                    if dice.below(4) == 0 {
                        near.set_write_deadline(past()).unwrap();
                        yield_now();
                        near.set_write_deadline(None).unwrap();
                    }
                    match near.write(&vec![1; 1 + dice.below(50_000) as usize]) {
                        Ok(n) => _ = written.fetch_add(n, SeqCst),
                        error => assert_timeout(error),
                    }
                }
            })
        })
        .collect();
    writers.into_iter().for_each(join);
    near.close().unwrap();
    assert_eq!(join(reader), written.load(SeqCst));
}

fn a_reader_and_a_writer_wait_no_longer_than_their_deadlines<C: Conn>() {
    let (near, far) = C::pair();
    let (until_read, until_write) = (soon(), soon());
    near.set_read_deadline(until_read).unwrap();
    assert_timeout(near.read(&mut [0]));
    assert!(Some(Instant::now()) >= until_read);
    near.set_write_deadline(until_write).unwrap();
    assert_timeout(near.write_all(&vec![0; MUCH]));
    assert!(Some(Instant::now()) >= until_write);
    // The deadline lasts.
    assert_timeout(near.read(&mut [0]));
    assert_timeout(near.write_all(&vec![0; MUCH]));
    assert_eq!(far.set_deadline(None).ok(), Some(()));
}

fn a_past_deadline_fails_at_once_until_it_is_cleared<C: Conn>() {
    let (near, far) = C::pair();
    let writer = {
        let far = far.clone();
        go(move || far.write_all(b"early"))
    };
    yield_now();
    near.set_deadline(past()).unwrap();
    for _ in 0..3 {
        // Also if there is data, and room.
        assert_timeout(near.read(&mut [0; 10]));
        assert_timeout(near.write(b"x"));
    }
    near.set_deadline(None).unwrap();
    let mut early = [0; 5];
    read_exact(&*near, &mut early);
    assert_eq!(&early, b"early");
    join(writer).unwrap();
    pass_both_ways(&near, &far);
}

fn a_deadline_of_now_ends_operations_in_progress<C: Conn>() {
    let (near, far) = C::pair();
    for round in 0..30 {
        let begun = Arc::new(AtomicUsize::new(0));
        let reader = {
            let (near, begun) = (near.clone(), begun.clone());
            go(move || {
                begun.fetch_add(1, SeqCst);
                near.read(&mut [0])
            })
        };
        until("the read begins", || begun.load(SeqCst) == 1);
        (0..round % 4).for_each(|_| yield_now());
        near.set_deadline(Some(Instant::now())).unwrap();
        assert_timeout(join(reader));
        near.set_deadline(None).unwrap();
    }
    pass_both_ways(&near, &far);
    let writer = {
        let near = near.clone();
        go(move || near.write_all(&vec![0; MUCH]))
    };
    let mut first = [1];
    read_exact(&*far, &mut first);
    near.set_deadline(Some(Instant::now())).unwrap();
    assert_timeout(join(writer));
}

fn a_later_deadline_prolongs_an_operation_in_progress<C: Conn>() {
    let (near, far) = C::pair();
    near.set_read_deadline(Some(Instant::now() + Duration::from_millis(20)))
        .unwrap();
    let reader = {
        let near = near.clone();
        go(move || near.read(&mut [0]))
    };
    yield_now();
    near.set_read_deadline(None).unwrap();
    gopark::sleep(Duration::from_millis(25));
    far.write_all(b"x").unwrap();
    match join(reader) {
        Ok(n) => assert_eq!(n, 1),
        // The goroutine had no turn before the first deadline.
        error => assert_timeout(error),
    }
}

fn a_timeout_limits_each_operation_that_begins_later<C: Conn>() {
    let (near, far) = C::pair();
    let limit = Some(Duration::from_millis(2));
    near.set_read_timeout(limit).unwrap();
    near.set_write_timeout(limit).unwrap();
    for _ in 0..2 {
        assert_timeout(near.read(&mut [0]));
        assert_timeout(near.write_all(&vec![0; MUCH]));
    }
    for zero in [
        near.set_read_timeout(Some(Duration::ZERO)),
        near.set_write_timeout(Some(Duration::ZERO)),
    ] {
        assert_eq!(zero.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    // A deadline replaces it, and the other way round.
    near.set_read_deadline(past()).unwrap();
    assert_timeout(near.read(&mut [0]));
    near.set_read_timeout(None).unwrap();
    let writer = go(move || far.write_all(b"x"));
    assert_eq!(near.read(&mut [0]).unwrap(), 1);
    join(writer).unwrap();
}

fn a_close_ends_operations_with_deadlines<C: Conn>() {
    for round in 0..20 {
        let (near, far) = C::pair();
        let hour = Some(Instant::now() + Duration::from_secs(3600));
        near.set_deadline(hour).unwrap();
        let reader = {
            let near = near.clone();
            go(move || near.read(&mut [0]))
        };
        let writer = {
            let near = near.clone();
            go(move || near.write_all(&vec![0; MUCH]))
        };
        (0..round % 5).for_each(|_| yield_now());
        near.close().unwrap();
        assert_closing(join(reader));
        assert_closing(join(writer));
        assert_closing(near.close());
        assert_closing(near.set_deadline(None));
        assert_closing(near.read(&mut [0]));
        assert_closing(near.write(b"x"));
        // The other end is not closed.
        far.set_deadline(hour).unwrap();
        far.close().unwrap();
    }
}

fn all_methods_can_be_called_at_once<C: Conn>() {
    let (near, far) = C::pair();
    let stop = Arc::new(AtomicBool::new(false));
    let echo = {
        let (far, stop) = (far.clone(), stop.clone());
        go(move || {
            while !stop.load(SeqCst) {
                far.set_deadline(soon()).unwrap();
                _ = far.read(&mut [0; 1024]);
                _ = far.write(&[0; 1024]);
            }
        })
    };
    let callers: Vec<_> = (0..7)
        .map(|kind| {
            let near = near.clone();
            go(move || {
                for _ in 0..100 {
                    match kind {
                        0 => _ = near.read(&mut [0; 1024]),
                        1 => _ = near.write(&[0; 1024]),
                        2 => near.set_deadline(soon()).unwrap(),
                        3 => near.set_read_deadline(past()).unwrap(),
                        4 => near.set_write_deadline(past()).unwrap(),
                        5 => near
                            .set_read_timeout(Some(Duration::from_millis(1)))
                            .unwrap(),
                        _ => near
                            .set_write_timeout(Some(Duration::from_millis(1)))
                            .unwrap(),
                    }
                    yield_now();
                }
                // None is left waiting without a limit.
                near.set_deadline(past()).unwrap();
            })
        })
        .collect();
    callers.into_iter().for_each(join);
    stop.store(true, SeqCst);
    join(echo);
}

fn the_bytes_of_one_write_all_stay_together<C: Conn>() {
    const LEN: usize = 10_000;
    let (near, far) = C::pair();
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let near = near.clone();
            go(move || {
                for _ in 0..10 {
                    near.write_all(&[n; LEN]).unwrap();
                }
            })
        })
        .collect();
    let mut block = vec![0; LEN];
    for _ in 0..80 {
        read_exact(&*far, &mut block);
        assert!(block.iter().all(|it| *it == block[0]), "blocks are mixed");
    }
    writers.into_iter().for_each(join);
}

fn a_cancel_ends_a_read_and_a_write<C: Conn>() {
    let (near, far) = C::pair();
    for round in 0..20 {
        let cancel = gopark::sync::Cancel::new();
        let reader = {
            let (near, cancel) = (near.clone(), cancel.clone());
            go(move || cancel.run(|| near.read(&mut [0])))
        };
        (0..round % 4).for_each(|_| yield_now());
        cancel.cancel();
        let error = join(reader).unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Cancelled));
    }
    // Both the writer whose turn it is, and one behind it.
    let cancel = gopark::sync::Cancel::new();
    let writers = [(); 2].map(|()| {
        let (near, cancel) = (near.clone(), cancel.clone());
        go(move || cancel.run(|| near.write_all(&vec![0; MUCH])))
    });
    read_exact(&*far, &mut [0]);
    cancel.cancel();
    for writer in writers {
        let error = join(writer).unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Cancelled));
    }
}

fn ordinary_threads_are_served<C: Conn>() {
    let (near, far) = C::pair();
    let theirs = near.clone();
    let thread = std::thread::spawn(move || {
        let mut message = [0; 100];
        read_exact(&*theirs, &mut message);
        theirs.write_all(&message).unwrap();
        theirs.set_read_deadline(soon()).unwrap();
        assert_timeout(theirs.read(&mut [0]));
    });
    far.write_all(&[7; 100]).unwrap();
    let mut answer = [0; 100];
    read_exact(&*far, &mut answer);
    assert_eq!(answer, [7; 100]);
    gopark::blocking(|| thread.join().unwrap());
}
