//! A process with a name server of its own, which answers only after another goroutine has run, and
//! one name only after its look-up was cancelled. `suites/processes.rs` runs it.
#![allow(
    unsafe_code,
    reason = "files of /etc are replaced, for this process, through libc"
)]

use gopark::net::{TcpListener, TcpStream};
use gopark::sync::Cancel;
use gopark::{Builder, PollError, go};
use gopark_tests::{join, until, until_on_thread};
use std::ffi::CString;
use std::net::UdpSocket;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::{env, fs, io, process, thread};

/// The address of the name server: a loopback address that other name servers of this machine do
/// not use.
const SERVER: &str = "127.83.67.53";

/// Queries that have arrived.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// Queries that the other goroutine has seen.
static SEEN: AtomicU32 = AtomicU32::new(0);
/// Whether the look-up of `LEFT_NAME` was left behind.
static IS_LEFT: AtomicBool = AtomicBool::new(false);
const LEFT_NAME: &str = "left.test";

fn main() {
    let socket = match become_lonely().and_then(|()| UdpSocket::bind((SERVER, 53))) {
        Ok(socket) => socket,
        Err(error) => return println!("skipped: a private name server needs root: {error}"),
    };
    thread::spawn(move || serve(&socket));
    Builder::new().max_procs(1).start().unwrap();
    gopark::run(|| {
        let neighbour = gopark::go_local(|| {
            loop {
                until("a query comes", || ASKED.load(SeqCst) > SEEN.load(SeqCst));
                SEEN.store(ASKED.load(SeqCst), SeqCst);
            }
        });
        gopark::yield_now();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        TcpStream::connect(addr.to_string()).unwrap();
        TcpStream::connect(("127.0.0.1", addr.port())).unwrap();
        assert_eq!(
            gopark::metrics().pool_threads,
            0,
            "an address in digits is parsed on the spot"
        );

        let peer = |what: &str, stream: io::Result<TcpStream>| {
            assert_eq!(stream.expect(what).peer_addr().unwrap(), addr)
        };
        let text = format!("text.test:{}", addr.port());
        peer("a str", TcpStream::connect(text.as_str()));
        peer("a String behind a reference", TcpStream::connect(&text));
        peer("a String", TcpStream::connect(text));
        peer("a pair", TcpStream::connect(("pair.test", addr.port())));
        peer(
            "a pair with a String",
            TcpStream::connect((String::from("owned.test"), addr.port())),
        );
        let bound = TcpListener::bind("listener.test:0").expect("a listener");
        assert!(bound.local_addr().unwrap().ip().is_loopback());
        leave();
        peer(
            "a name after that",
            TcpStream::connect(("last.test", addr.port())),
        );
        println!("{} queries answered", SEEN.load(SeqCst));
        drop(neighbour);
    });
}

/// Cancels a look-up that has reached the name server.
fn leave() {
    let asked = ASKED.load(SeqCst);
    let cancel = Cancel::new();
    let theirs = cancel.clone();
    let connect = go(move || theirs.run(|| TcpStream::connect((LEFT_NAME, 80))));
    until("the query comes", || ASKED.load(SeqCst) > asked);
    cancel.cancel();
    let error = join(connect).unwrap_err();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    assert_eq!(inner, Some(&PollError::Cancelled), "{error}");
    IS_LEFT.store(true, SeqCst);
}

/// Makes `SERVER` the only source of names for this process.
fn become_lonely() -> io::Result<()> {
    // SAFETY: only this thread exists, and none of its memory is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: strings that end with 0, or null where the call takes none.
    check(unsafe {
        libc::mount(
            ptr::null(),
            c"/".as_ptr(),
            ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            ptr::null(),
        )
    })?;
    replace(
        "/etc/resolv.conf",
        &format!("nameserver {SERVER}\noptions timeout:3 attempts:1\n"),
    )?;
    if fs::exists("/etc/nsswitch.conf")? {
        replace("/etc/nsswitch.conf", "hosts: dns\n")?;
    }
    Ok(())
}

fn replace(path: &str, text: &str) -> io::Result<()> {
    let file = env::temp_dir().join(format!("gopark-names-{}", process::id()));
    fs::write(&file, text)?;
    let (source, target) = (CString::new(file.to_str().unwrap())?, CString::new(path)?);
    // SAFETY: strings that end with 0, or null where the call takes none.
    let mounted = check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            ptr::null(),
            libc::MS_BIND,
            ptr::null(),
        )
    });
    fs::remove_file(file)?;
    mounted
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Answers that every name has the address 127.0.0.1 and no other.
fn serve(socket: &UdpSocket) {
    let mut query = [0; 512];
    loop {
        let (len, asker) = socket.recv_from(&mut query).unwrap();
        let asked = ASKED.fetch_add(1, SeqCst) + 1;
        until_on_thread("the neighbour sees the query", || {
            SEEN.load(SeqCst) >= asked
        });
        let (label, _) = LEFT_NAME.split_once('.').unwrap();
        if query[..len]
            .windows(label.len())
            .any(|it| it == label.as_bytes())
        {
            until_on_thread("the look-up is left behind", || IS_LEFT.load(SeqCst));
        }
        socket.send_to(&answer(&query[..len]), asker).unwrap();
    }
}

/// RFC 1035, chapter 4.
fn answer(query: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    const ADDRESS: [u8; 2] = [0, 1];
    let name_len = query[HEADER..].iter().position(|&byte| byte == 0).unwrap() + 1;
    let question = &query[HEADER..HEADER + name_len + 4];
    let is_address = question[name_len..].starts_with(&ADDRESS);
    // The query's number; a response without error; one question, perhaps one answer, nothing else.
    let mut answer = [
        &query[..2],
        &[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0],
        question,
    ]
    .concat();
    if is_address {
        // The name of the question, an internet address with a lifetime of 0 seconds and 4 bytes.
        answer.extend([
            0xc0,
            HEADER as u8,
            0,
            1,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            4,
            127,
            0,
            0,
            1,
        ]);
    }
    answer
}
