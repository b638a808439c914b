//! The standard streams of `gopark::io`: the programs of `src/bin/stdio.rs` over pipes, sockets,
//! files and a terminal.
#![allow(unsafe_code, reason = "terminals are opened through libc")]

use gopark::Poller;
use gopark_tests::on_thread;
use gopark_tests::process::run;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const OTHER: &str = "another goroutine runs\n";

fn stdio(program: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stdio"));
    command
        .arg(program)
        .env_remove("GOPARK_MAXPROCS")
        .env("RUST_BACKTRACE", "0");
    command
}

/// Calls `check` with the program `program` over each poller that is compiled in.
fn over_each_poller(program: &str, check: impl Fn(&mut Command)) {
    for poller in Poller::compiled() {
        check(stdio(program).env("GOPARK_POLLER", poller.name()));
    }
}

/// Spawns `command` with three pipes.
fn piped(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line
}

fn rest(mut from: impl Read) -> String {
    let mut all = String::new();
    from.read_to_string(&mut all).unwrap();
    all
}

fn flags(fd: &impl AsRawFd) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }
}

/// A new path in the folder for temporary files.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gopark-stdio-{}-{name}", std::process::id()))
}

fn exits(mut child: Child) {
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_goroutine_that_waits_for_a_pipe_lets_others_run() {
    on_thread(|| {
        over_each_poller("upper", |command| {
            let mut child = piped(command);
            let mut stdin = child.stdin.take().unwrap();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            // The program has no input yet.
            assert_eq!(line(&mut stderr), OTHER);
            stdin.write_all(b"one\ntw").unwrap();
            assert_eq!(line(&mut stdout), "ONE\n");
            stdin.write_all(b"o\nthree").unwrap();
            assert_eq!(line(&mut stdout), "TWO\n");
            drop(stdin);
            assert_eq!(rest(stdout), "THREE\n");
            exits(child);
        });
    });
}

#[test]
fn ordinary_threads_wait_for_a_pipe() {
    on_thread(|| {
        for program in ["upper-on-a-thread", "without-a-runtime"] {
            let mut child = piped(&mut stdio(program));
            let mut stdin = child.stdin.take().unwrap();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            for _ in 0..3 {
                stdin.write_all(b"again\n").unwrap();
                assert_eq!(line(&mut stdout), "AGAIN\n");
            }
            drop(stdin);
            exits(child);
        }
    });
}

#[test]
fn a_goroutine_that_fills_a_pipe_lets_others_run() {
    on_thread(|| {
        over_each_poller("flood", |command| {
            let mut child = piped(command);
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            // No output is read yet.
            assert_eq!(line(&mut stderr), OTHER);
            assert_eq!(rest(child.stdout.take().unwrap()).len(), 1 << 20);
            exits(child);
        });
    });
}

#[test]
fn sockets_are_standard_streams() {
    on_thread(|| {
        for program in ["upper", "flood"] {
            let (near, far) = UnixStream::pair().unwrap();
            let far = OwnedFd::from(far);
            let mut command = stdio(program);
            command
                .stdin(far.try_clone().unwrap())
                .stdout(far.try_clone().unwrap())
                .stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            drop(command);
            let before = flags(&far);
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            assert_eq!(line(&mut stderr), OTHER);
            if program == "upper" {
                (&near).write_all(b"one\n").unwrap();
                assert_eq!(line(&mut BufReader::new(&near)), "ONE\n");
                near.shutdown(std::net::Shutdown::Write).unwrap();
            } else {
                let mut all = vec![0; 1 << 20];
                (&near).read_exact(&mut all).unwrap();
                assert!(all.iter().all(|&byte| byte == b'x'));
            }
            exits(child);
            assert_eq!(flags(&far), before);
        }
    });
}

#[test]
fn regular_files_are_standard_streams() {
    on_thread(|| {
        over_each_poller("copy", |command| {
            let (from, to) = (path("from"), path("to"));
            let text: Vec<u8> = (0..300_000_u32).map(|i| (i % 253) as u8).collect();
            fs::write(&from, &text).unwrap();
            command
                .stdin(File::open(&from).unwrap())
                .stdout(File::create(&to).unwrap());
            exits(command.spawn().unwrap());
            assert!(fs::read(&to).unwrap() == text);
            fs::remove_file(from).unwrap();
            fs::remove_file(to).unwrap();
        });
    });
}

#[test]
fn the_null_device_has_no_input_and_takes_all_output() {
    on_thread(|| {
        for program in ["copy", "flood", "lines"] {
            let mut command = stdio(program);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            exits(command.spawn().unwrap());
        }
    });
}

#[test]
fn a_closed_output_discards_and_a_closed_input_has_ended() {
    on_thread(|| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$0\" upper <&- && \"$0\" flood >&-"]);
        let ended = run(shell.arg(env!("CARGO_BIN_EXE_stdio")));
        ended.assert_success();
        assert_eq!(ended.output, OTHER.repeat(2));
    });
}

#[test]
fn deadlines_and_cancels_end_reads_and_the_input_is_read_afterwards() {
    on_thread(|| {
        for (program, said) in [("deadline", "timeouts\n"), ("cancel", "cancelled\n")] {
            over_each_poller(program, |command| {
                let mut child = piped(command);
                let mut stdout = BufReader::new(child.stdout.take().unwrap());
                assert_eq!(line(&mut stdout), said);
                child.stdin.take().unwrap().write_all(b"a line\n").unwrap();
                assert_eq!(rest(stdout), "a line\n");
                exits(child);
            });
        }
    });
}

#[test]
fn a_deadline_ends_a_write_to_a_full_pipe() {
    on_thread(|| {
        let mut child = piped(&mut stdio("write-deadline"));
        assert_eq!(rest(child.stderr.take().unwrap()), "timeout\n");
        exits(child);
    });
}

#[test]
fn lines_of_goroutines_are_not_mixed() {
    on_thread(|| {
        let ended = run(&mut stdio("lines"));
        ended.assert_success();
        let mut next = [0; 8];
        for line in ended.output.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [writer, number, again, text] = words[..] else {
                panic!("{line}")
            };
            assert_eq!((writer, text.len()), (again, 100));
            let next = &mut next[writer.parse::<usize>().unwrap()];
            assert_eq!(number.parse(), Ok(*next));
            *next += 1;
        }
        assert_eq!(next, [200; 8]);
    });
}

#[test]
fn a_line_without_an_end_is_written_at_the_end_of_the_process() {
    on_thread(|| {
        for program in ["partial", "partial-and-exit"] {
            let ended = run(&mut stdio(program));
            ended.assert_success();
            assert_eq!(ended.output, "a line\nno end of line", "{program}");
        }
    });
}

/// The controlling and the program's end of a terminal.
fn terminal() -> (File, OwnedFd) {
    // SAFETY: no memory is passed, the descriptors are new, and the name is copied before the next
    // call of its kind.
    unsafe {
        let main = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(main >= 0 && libc::grantpt(main) == 0 && libc::unlockpt(main) == 0);
        let mut name = [0; 128];
        assert_eq!(libc::ptsname_r(main, name.as_mut_ptr(), name.len()), 0);
        let name = CStr::from_ptr(name.as_ptr());
        let other = libc::open(
            name.as_ptr(),
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        );
        assert!(other >= 0);
        (File::from_raw_fd(main), OwnedFd::from_raw_fd(other))
    }
}

#[test]
fn a_goroutine_that_waits_for_a_terminal_lets_others_run_and_leaves_its_flags() {
    on_thread(|| {
        over_each_poller("upper", |command| {
            let (main, other) = terminal();
            command
                .stdin(other.try_clone().unwrap())
                .stdout(other.try_clone().unwrap())
                .stderr(Stdio::piped());
            let before = flags(&other);
            let mut child = command.spawn().unwrap();
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            assert_eq!(line(&mut stderr), OTHER);
            let mut screen = BufReader::new(&main);
            for text in ["one", "two"] {
                (&main).write_all(format!("{text}\n").as_bytes()).unwrap();
                assert_eq!(line(&mut screen), format!("{text}\r\n"), "the echo");
                assert_eq!(line(&mut screen), format!("{}\r\n", text.to_uppercase()));
            }
            assert_eq!(flags(&other), before);
            // Ctrl-D at the begin of a line.
            (&main).write_all(&[4]).unwrap();
            exits(child);
            assert_eq!(flags(&other), before);
        });
    });
}

#[test]
fn a_goroutine_that_fills_a_terminal_lets_others_run() {
    on_thread(|| {
        let (main, other) = terminal();
        let mut command = stdio("flood");
        command
            .stdin(Stdio::null())
            .stdout(other)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // So that the terminal ends with the child.
        drop(command);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        assert_eq!(line(&mut stderr), OTHER);
        let mut count = 0;
        let mut buffer = [0; 4096];
        while count < 1 << 20 {
            count += (&main).read(&mut buffer).unwrap();
        }
        assert_eq!(count, 1 << 20);
        exits(child);
    });
}
