//! The status page, and the two requests that have an effect: fork a child, power off.

use crate::{Init, LINUX, children, send, system};
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;
use gopark_backends::linux::{Guards, io};
use gopark_core::fd::{Fd, FdError};
use gopark_core::os::{Mode, Os};

/// Bytes of the longest request that is read.
const REQUEST: usize = 1024;
/// Bytes of the longest page.
const PAGE: usize = 512;

type Page = heapless::String<PAGE>;

/// Answers one request.
pub fn answer(init: &Init, connection: &Fd) -> Result<(), FdError> {
    connection.set_timeout(Mode::Read, init.idle)?;
    let mut buffer = [0; REQUEST];
    let mut len = 0;
    while !buffer[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        let room = REQUEST - len;
        match connection.transfer(Mode::Read, room, |fd| io::recv(fd, &mut buffer[len..]))? {
            // The peer has ended the connection, or the request is too long.
            0 => return Ok(()),
            count => len += count,
        }
    }
    let mut words = buffer[..len].split(|&byte| byte == b' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut page = Page::new();
    let mut power_off = false;
    let result = match (method, path) {
        (b"GET", b"/") => {
            write(init, &mut page)
                .unwrap_or_else(|_| unreachable!("a page has room for all lines"));
            "200 OK"
        }
        (b"POST", b"/child") if children::fork_orphan() => "200 OK",
        (b"POST", b"/child") => "500 Internal Server Error",
        (b"POST", b"/poweroff") => {
            power_off = true;
            "200 OK"
        }
        (b"GET" | b"POST", _) => "404 Not Found",
        _ => "405 Method Not Allowed",
    };
    let mut head = heapless::String::<160>::new();
    let length = page.len();
    let _ = write!(
        head,
        "HTTP/1.1 {result}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    send(connection, head.as_bytes())?;
    send(connection, page.as_bytes())?;
    if power_off {
        // The read below ends when the peer closes, so it has the answer by then.
        let _ = connection.with(system::shutdown_write);
        let _ = connection.transfer(Mode::Read, REQUEST, |fd| io::recv(fd, &mut buffer));
        init.power_off.release(1);
    }
    Ok(())
}

fn write(init: &Init, page: &mut Page) -> fmt::Result {
    let (now, relaxed) = (LINUX.now() / 1_000_000, Ordering::Relaxed);
    writeln!(page, "process: {}", system::pid())?;
    writeln!(
        page,
        "seconds since the machine started: {}.{:03}",
        now / 1000,
        now % 1000
    )?;
    writeln!(page, "goroutines: {}", init.sched.num_goroutines())?;
    writeln!(page, "goroutines move: {}", init.sched.config().migrate)?;
    writeln!(
        page,
        "connections served: {}",
        init.counts.served.load(relaxed)
    )?;
    writeln!(
        page,
        "connections dropped: {}",
        init.counts.silent.load(relaxed)
    )?;
    writeln!(
        page,
        "KiB of memory: {}",
        system::resident().unwrap_or_default()
    )?;
    match LINUX.guard_kind() {
        Guards::Lightweight => writeln!(page, "guards: lightweight")?,
        Guards::Mprotect { limit } => writeln!(page, "guards: mprotect, at most {limit}")?,
    }
    writeln!(
        page,
        "children started: {}",
        children::STARTED.load(relaxed)
    )?;
    writeln!(page, "processes reaped: {}", children::REAPED.load(relaxed))?;
    writeln!(page, "children left: {}", children::SOME_LEFT.load(relaxed))
}
