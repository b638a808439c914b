//! Programs that fork, for `suites/forks.rs`. An alarm kills a child that hangs, and the parent
//! prints how the child ended.
#![allow(
    unsafe_code,
    reason = "fork, exec and what goes with them are calls of libc"
)]

use gopark::chan::{self, Receiver, Sender};
use gopark::net::{TcpListener, TcpStream};
use gopark::{Builder, JoinHandle, go, select};
use gopark_tests::{join, until};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{env, io, ptr};

/// Seconds after which a child counts as hung.
const HUNG: u32 = 20;

fn main() {
    let mut arguments = env::args().skip(1);
    let (place, deed) = (
        arguments.next().expect("where to fork"),
        arguments.next().expect("what to do in the child"),
    );
    if place == "before-the-start" {
        return before_the_start();
    }
    Builder::new().max_procs(2).start().unwrap();
    match (place.as_str(), deed.as_str()) {
        ("thread", deed) => fork_and_do(deed),
        ("goroutine", deed) => gopark::run(|| fork_and_do(deed)),
        ("command", _) => gopark::run(command),
        _ => panic!("there is no place {place}"),
    }
}

/// Forks while a goroutine waits for a connection's bytes, and uses both afterwards: the child must
/// not affect them.
fn fork_and_do(deed: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    // It is registered with a poller, and no operation waits for it when the process forks.
    listener
        .set_deadline(Some(Instant::now() + Duration::from_millis(5)))
        .unwrap();
    listener.accept().unwrap_err();
    listener.set_deadline(None).unwrap();
    let waiting = {
        let mut server = server.try_clone().unwrap();
        go(move || {
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).map(|()| bytes)
        })
    };
    until("the reader is parked in a poller", || {
        gopark::metrics().goroutines_waiting > 0
    });
    let inherited = Inherited {
        client: client.try_clone().unwrap(),
        server,
        listener,
        waiting,
        channel: chan::bounded(1),
    };
    match fork() {
        None => return child(deed, inherited),
        Some(pid) => println!("the child: {}", gopark::blocking(|| wait(pid))),
    }
    client.write_all(b"safe").unwrap();
    assert_eq!(&join(inherited.waiting).unwrap(), b"safe");
    let listener = inherited.listener;
    let addr = listener.local_addr().unwrap();
    let acceptor = go(move || listener.accept().map(drop));
    until("the acceptor is parked in a poller", || {
        gopark::metrics().goroutines_waiting > 0
    });
    TcpStream::connect(addr).unwrap();
    join(acceptor).unwrap();
    println!("the parent goes on");
}

struct Inherited {
    client: TcpStream,
    server: TcpStream,
    listener: TcpListener,
    waiting: JoinHandle<io::Result<[u8; 4]>>,
    channel: (Sender<u8>, Receiver<u8>),
}

/// Performs `deed`, which must fail if it needs the parent's runtime. Returns only if `deed` is
/// `return`.
fn child(deed: &str, inherited: Inherited) {
    let Inherited {
        client,
        server,
        listener,
        waiting,
        channel,
    } = inherited;
    let deed = || match deed {
        "go" => _ = go(|| ()),
        "run" => gopark::run(|| ()),
        "yield" => gopark::yield_now(),
        "sleep" => gopark::sleep(Duration::from_millis(1)),
        "start" => _ = Builder::new().start().map_err(|error| panic!("{error}")),
        "read" => _ = (&client).read(&mut [0]),
        "connect" => _ = TcpStream::connect("127.0.0.1:1"),
        "join" => _ = waiting.join(),
        "write" => assert_eq!((&server).write(b"x").unwrap(), 1),
        "drop" => drop((client, server, listener, waiting)),
        "close" => listener.close().unwrap(),
        "close-under-a-reader" => server.close().unwrap(),
        "channel" => {
            let (sender, receiver) = channel;
            for i in 0..100 {
                sender.send(i).unwrap();
                assert_eq!(receiver.recv(), Ok(i));
            }
            assert!(receiver.try_recv().is_err());
            drop(sender);
            assert!(receiver.recv().is_err());
        }
        "recv" => _ = channel.1.recv(),
        "select" => select! { recv(channel.1) -> _ => {} },
        "exec" => panic!("{}", Command::new("true").exec()),
        "return" => {}
        _ => panic!("there is no deed {deed}"),
    };
    let done = panic::catch_unwind(AssertUnwindSafe(deed)).is_ok();
    if env::args().nth(2).is_some_and(|deed| deed != "return") {
        exit(if done { 0 } else { 101 });
    }
}

fn before_the_start() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    let pid = fork();
    gopark::run(|| {
        assert_eq!(join(go(|| 6 * 7)), 42);
        STARTED.store(true, SeqCst);
    });
    match pid {
        None => exit(if STARTED.load(SeqCst) { 0 } else { 101 }),
        Some(pid) => println!("the child: {}", wait(pid)),
    }
}

/// With and without a closure before the exec: std forks if there is one and uses `posix_spawn`
/// otherwise.
fn command() {
    let mut plain = Command::new("echo");
    let mut forked = Command::new("echo");
    // SAFETY: the closure makes no call.
    unsafe { forked.pre_exec(|| Ok(())) };
    for command in [plain.arg("hello"), forked.arg("hello")] {
        let output = gopark::blocking(|| command.output()).unwrap();
        assert!(
            output.status.success() && output.stdout == b"hello\n",
            "{output:?}"
        );
    }
    println!("the parent goes on");
}

/// Returns `None` in the child, and sets its alarm.
fn fork() -> Option<i32> {
    // SAFETY: the child does what the tests check, and nothing else.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: no memory is passed.
            unsafe { libc::alarm(HUNG) };
            None
        }
        pid => Some(pid)
            .filter(|&pid| pid > 0)
            .or_else(|| panic!("fork: {}", io::Error::last_os_error())),
    }
}

fn wait(pid: i32) -> ExitStatus {
    let mut status = 0;
    // SAFETY: `status` is writable, and no usage is asked for.
    let ended = unsafe { libc::wait4(pid, &mut status, 0, ptr::null_mut()) };
    assert_eq!(ended, pid, "{}", io::Error::last_os_error());
    ExitStatus::from_raw(status)
}

fn exit(status: i32) -> ! {
    // SAFETY: the process ends here, without running destructors of what it copied from its parent.
    unsafe { libc::_exit(status) }
}
