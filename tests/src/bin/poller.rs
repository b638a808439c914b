//! A poller in a process that forks, whose threads block, or that may not make every system call:
//! programs that `suites/processes.rs` runs by name, because they would disturb other tests.
#![allow(unsafe_code, reason = "children and filters are made by libc")]

use gopark::net::{TcpListener, TcpStream};
use gopark::{Builder, Poller};
use gopark::{go, run};
use gopark_backends::linux::io;
use gopark_core::os::{Delay, Mode, Netpoll, Outcome, Ready};
use gopark_tests::watch::{Watch, lend, nonblocking, poll, state_of, thread_id, token};
use gopark_tests::{join, until_on_thread};
use std::fs;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fork"] => fork(),
        ["stuck-thread"] => stuck_thread(),
        ["dropped"] => dropped(),
        ["forbidden", call] => forbidden(call),
        ["fallback", errno] => fallback(errno.parse().unwrap(), true),
        ["wait-refused", errno] => wait_refused(errno.parse().unwrap()),
        ["none-permitted", errno] => fallback(errno.parse().unwrap(), false),
        ["without-descriptors"] => without_descriptors(),
        ["which"] => println!("runs with {}", gopark::poller()),
        ["chosen", name] => chosen(name),
        _ => panic!("there is no program {arguments:?}"),
    }
}

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (nonblocking(ours), theirs)
}

/// A child inherits every descriptor, and keeps a file open that its parent has closed.
fn fork() {
    let (ours, mut theirs) = pair();
    let watch = Watch::of(gopark_tests::poller(), &ours);
    watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
    watch.poll(Delay::None);
    // SAFETY: this process has one thread. The child only calls `pause`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: no memory is passed.
            unsafe { libc::pause() };
        }
    }
    watch.poller.close(ours.as_raw_fd());
    drop(ours);
    theirs.write_all(b"x").unwrap();
    watch.assert_quiet(0);

    // The number names another file now.
    let (ours, mut theirs) = pair();
    watch.open(&ours, 2);
    theirs.write_all(b"x").unwrap();
    watch.wait(&ours, 2, Mode::Read);
    assert!(!watch.seen(1).contains(Ready::READ));
    // SAFETY: the child is ours, and the null says that its status is not wanted.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}

/// Closes a descriptor that was opened by a thread which blocks in the kernel. The kernel ends a
/// ring's poll on the thread that submitted it.
fn stuck_thread() {
    let poller = Arc::<dyn Netpoll>::from(gopark_tests::poller().init().unwrap());
    let (ours, theirs) = pair();
    let (mut release, stuck) = UnixStream::pair().unwrap();
    let (sender, receiver) = mpsc::channel();
    let opener = {
        let (poller, fd) = (poller.clone(), ours.as_raw_fd());
        thread::spawn(move || {
            poller.open(fd, token(1)).unwrap();
            poller.arm(fd, token(1), Mode::Read);
            sender.send(thread_id()).unwrap();
            sleep_until_readable(&stuck);
        })
    };
    let id = receiver.recv().unwrap();
    until_on_thread("it is stuck", || state_of(id) == Some('D'));
    poller.close(ours.as_raw_fd());
    assert_eq!(state_of(id), Some('D'), "close has waited for it");
    drop(ours);
    release.write_all(b"x").unwrap();
    opener.join().unwrap();
    let theirs = nonblocking(theirs);
    until_on_thread("the peer sees the end", || {
        io::read(lend(&theirs), &mut [0; 8]) == Outcome::Done(0)
    });
    assert!(poll(&poller, Delay::AtMost(1)).is_empty());
}

/// Sleeps as the parent of a vfork does, so that no signal interrupts it.
fn sleep_until_readable(stuck: &UnixStream) {
    let flags = libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: a fork: the child has a copy of the memory, also of the stack, and makes two system
    // calls.
    unsafe {
        let child = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if child == 0 {
            libc::read(stuck.as_raw_fd(), [0u8].as_mut_ptr().cast(), 1);
            libc::_exit(0);
        }
        assert!(child > 0, "{}", Error::last_os_error());
    }
}

/// Drops a poller that watches descriptors.
fn dropped() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mapped = || {
        fs::read_to_string("/proc/self/maps")
            .unwrap()
            .matches("anon_inode:")
            .count()
    };
    let before = (open(), mapped());
    let (ours, mut theirs) = pair();
    let poller = gopark_tests::poller().init().unwrap();
    poller.open(ours.as_raw_fd(), token(1)).unwrap();
    poll(&poller, Delay::None);
    assert!(open() > before.0 + 2);
    drop((poller, ours));
    assert_eq!(theirs.read(&mut [0; 8]).unwrap(), 0, "the file is released");
    drop(theirs);
    assert_eq!((open(), mapped()), before);
}

/// Starts a runtime that may not make the call `name`. The start must fail if the poller needs that
/// call, and the runtime must work otherwise.
fn forbidden(name: &str) {
    let poller = gopark_tests::poller();
    let (call, needed) = match name {
        "io_uring_setup" => (libc::SYS_io_uring_setup, poller == Poller::IoUring),
        "io_uring_enter" => (libc::SYS_io_uring_enter, poller == Poller::IoUring),
        "epoll_create1" => (
            libc::SYS_epoll_create1,
            matches!(poller, Poller::Epoll | Poller::EpollLevel),
        ),
        "epoll_pwait2" => (libc::SYS_epoll_pwait2, false),
        _ => panic!("no filter for {name}"),
    };
    forbid(call, libc::EPERM);
    let started = Builder::new().max_procs(2).poller(poller).start();
    if needed {
        let error = started.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = format!(
            "no poller: {poller}: Operation not permitted (os error 1): permit {}",
            poller.needs()
        );
        assert_eq!(error.to_string(), text);
        println!("{error}");
        return;
    }
    started.unwrap();
    assert_eq!(gopark::poller(), poller);
    serve_one();
}

/// Starts a runtime in a sandbox that refuses epoll, and eventfds unless `may_have_eventfds`: the
/// next poller must take over.
fn fallback(errno: i32, may_have_eventfds: bool) {
    forbid(libc::SYS_epoll_create1, errno);
    forbid(libc::SYS_io_uring_setup, errno);
    if may_have_eventfds {
        Builder::new().max_procs(2).start().unwrap();
        println!("runs with {}", gopark::poller());
        return serve_one();
    }
    forbid(libc::SYS_eventfd2, errno);
    let error = Builder::new().max_procs(2).start().unwrap_err();
    println!("{:?}: {error}", error.kind());
}

/// Starts a runtime in a sandbox that permits epoll instances and rings but refuses the wait in
/// them: the next poller must take over. After that this thread may not call `ppoll` either, and
/// can make no poller.
fn wait_refused(errno: i32) {
    #[cfg(target_arch = "x86_64")]
    forbid(libc::SYS_epoll_wait, errno);
    forbid(libc::SYS_epoll_pwait, errno);
    forbid(libc::SYS_epoll_pwait2, errno);
    forbid(libc::SYS_io_uring_enter, errno);
    Builder::new().max_procs(2).start().unwrap();
    println!("runs with {}", gopark::poller());
    serve_one();
    forbid(libc::SYS_ppoll, errno);
    for poller in Poller::compiled() {
        let refused = poller.init().err().map(|errno| errno.raw());
        assert_eq!(refused, Some(errno), "{poller}");
    }
}

/// Starts a runtime with the poller called `name`.
fn chosen(name: &str) {
    let poller = Poller::from_name(name).unwrap();
    match Builder::new().poller(poller).start() {
        Ok(()) => println!("runs with {}", gopark::poller()),
        Err(error) => println!("{:?}: {error}", error.kind()),
    }
}

/// A start without enough descriptors for epoll must fail, although another poller needs fewer.
fn without_descriptors() {
    let before = soft_limit(3);
    let error = Builder::new().max_procs(1).start().unwrap_err();
    // A check for leaks at exit opens files.
    soft_limit(before);
    println!("{error}");
    let cause = std::error::Error::source(&error).unwrap();
    let cause = cause.downcast_ref::<Error>().unwrap();
    assert_eq!(cause.raw_os_error(), Some(libc::EMFILE));
}

/// Sets how many descriptors this process may have open, and returns how many it could before.
fn soft_limit(most: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid structure, written during the call.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(read, 0);
    let before = std::mem::replace(&mut limit.rlim_cur, most);
    // SAFETY: a valid structure, read during the call.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(set, 0);
    before
}

/// One connection and one timer.
fn serve_one() {
    run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let client = go(move || {
            let mut stream = TcpStream::connect(addr).unwrap();
            gopark::sleep(std::time::Duration::from_micros(300));
            stream.write_all(b"abc").unwrap();
        });
        let mut read = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut read).unwrap();
        join(client);
        assert_eq!(read, b"abc");
    });
}

/// From now on system call `number` fails with `errno`.
fn forbid(number: libc::c_long, errno: i32) {
    let step = |code: u32, value: u32, if_equal: u8, if_not: u8| libc::sock_filter {
        code: code as u16,
        jt: if_equal,
        jf: if_not,
        k: value,
    };
    let mut filter = [
        // The number is the first field of what a filter reads.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            number as u32,
            0,
            1,
        ),
        step(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | errno as u32,
            0,
            0,
        ),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the filter is readable for its length, and the kernel copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let filtered = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program);
        assert_eq!(filtered, 0, "{}", Error::last_os_error());
    }
}
