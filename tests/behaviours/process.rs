//! Child processes: their pipes, their ends, and what ends a wait for them.

use super::cancel::{everywhere, is_cancelled, member};
use super::check_on_thread;
use crate::check;
use gopark::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use gopark::sync::Cancel;
use gopark::{go, select, shield, yield_now};
use gopark_tests::sockets::{assert_closing, assert_timeout, pattern};
use gopark_tests::{join, rounds, until};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// A child that ends when its input does, and copies it.
fn cat() -> Child {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// A child that ends by a signal only.
fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("3600");
    command
}

fn output_has_all_that_the_child_writes() {
    let output = shell("echo out; echo err >&2; exit 3").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"out\n"[..], &b"err\n"[..])
    );
}

#[test]
fn output_has_all_that_the_child_writes_in_a_goroutine() {
    check(output_has_all_that_the_child_writes);
}

#[test]
fn output_has_all_that_the_child_writes_on_a_thread() {
    check_on_thread(output_has_all_that_the_child_writes);
}

#[test]
fn a_command_passes_on_what_was_set() {
    check(|| {
        let mut command = shell("printf '%s|%s|%s|%s' \"$0\" \"$GIVEN\" \"$TAKEN\" \"$PWD\"");
        command
            .arg("zero")
            .env("GIVEN", "given")
            .env("TAKEN", "taken")
            .env_remove("TAKEN")
            .current_dir("/");
        assert_eq!(command.get_program(), "sh");
        assert_eq!(command.get_args().count(), 3);
        assert_eq!(command.get_envs().count(), 2);
        assert_eq!(command.get_current_dir(), Some(Path::new("/")));
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "zero|given||/");
        // The streams that `output` has set are as before.
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        assert!(child.stdin.is_none() && child.stdout.is_none() && child.stderr.is_none());
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn output_reads_the_streams_that_are_piped() {
    check(|| {
        let mut both = shell("echo out; echo err >&2");
        let output = both.stdout(Stdio::null()).output().unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 4));
        let converted = std::process::Command::new("echo");
        assert_eq!(Command::from(converted).output().unwrap().stdout, b"\n");
    });
}

#[test]
fn a_program_that_does_not_exist_is_an_error_of_the_spawn() {
    check(|| {
        let error = Command::new("/no/such/program").spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = Command::new("/").output().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn a_child_that_fills_one_pipe_and_then_the_other_comes_to_its_end() {
    check(|| {
        let script = "for i in 1 2 3; do head -c 200000 /dev/zero; \
                      head -c 200000 /dev/zero >&2; done; exec >&-; head -c 200000 /dev/zero >&2";
        let output = shell(script).output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (600_000, 800_000)
        );
    });
}

#[test]
fn a_child_gets_and_returns_every_byte() {
    check(|| {
        let mut child = cat();
        let (stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let sent = pattern(1 << 20);
        let expected = sent.clone();
        let writer = go(move || (&stdin).write_all(&sent));
        let mut got = Vec::new();
        stdout.read_to_end(&mut got).unwrap();
        assert!(got == expected);
        join(writer).unwrap();
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_wait_drops_the_input_and_the_others_go_on() {
    check(|| {
        let mut child = cat();
        let mut stdout = child.stdout.take().unwrap();
        let reader = go(move || stdout.read(&mut [0]));
        assert!(child.try_wait().unwrap().is_none());
        assert!(child.wait().unwrap().success());
        assert_eq!(join(reader).unwrap(), 0);
        // The status stays known.
        assert!(child.wait().unwrap().success());
        assert!(child.try_wait().unwrap().unwrap().success());
        child.kill().unwrap();
    });
}

#[test]
fn a_thousand_children_are_waited_for_at_once() {
    check(|| {
        // All read one pipe, so all end when it does.
        let mut first = Command::new("cat");
        let mut first = first
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = OwnedFd::from(first.stdout.take().unwrap());
        let children: Vec<_> = (0..rounds(1000))
            .map(|_| {
                let mut command = Command::new("cat");
                command.stdin(Stdio::from(input.try_clone().unwrap()));
                command.spawn().unwrap()
            })
            .collect();
        drop(input);
        let waiting: Vec<_> = children
            .into_iter()
            .map(|mut child| go(move || child.wait().unwrap().success()))
            .collect();
        yield_now();
        assert!(waiting.iter().all(|goroutine| !goroutine.is_finished()));
        assert!(first.wait().unwrap().success());
        assert!(waiting.into_iter().all(join));
    });
}

fn a_wait_ends_at_its_deadline_and_the_child_goes_on() {
    let mut child = sleeper().spawn().unwrap();
    assert_timeout(child.wait_timeout(Duration::from_millis(2)));
    assert_timeout(child.wait_deadline(Instant::now()));
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    let status = child.wait_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

#[test]
fn a_wait_ends_at_its_deadline_and_the_child_goes_on_in_a_goroutine() {
    check(a_wait_ends_at_its_deadline_and_the_child_goes_on);
}

#[test]
fn a_wait_ends_at_its_deadline_and_the_child_goes_on_on_a_thread() {
    check_on_thread(a_wait_ends_at_its_deadline_and_the_child_goes_on);
}

#[test]
fn a_cancel_ends_a_wait_and_not_the_child() {
    check(|| {
        let cancel = Cancel::new();
        let mut child = cat();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let waiting = member(&cancel, move || {
            let cancelled = is_cancelled(child.wait());
            (cancelled, shield(|| child.try_wait().unwrap()), child)
        });
        yield_now();
        cancel.cancel();
        let (cancelled, status, mut child) = join(waiting);
        assert!(cancelled && status.is_none());
        stdin.write_all(b"alive").unwrap();
        drop(stdin);
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        assert_eq!(text, "alive");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_cancel_ends_output() {
    check(|| {
        let cancel = Cancel::new();
        let waiting = member(&cancel, || {
            is_cancelled(sleeper().kill_on_drop(true).output())
        });
        yield_now();
        cancel.cancel();
        assert!(join(waiting));
    });
}

#[test]
fn a_pipeline_passes_bytes_from_child_to_child() {
    check(|| {
        let mut first = shell("for i in 1 2 3 4 5; do echo line $i; sleep 0.001; done");
        let mut first = first.stdout(Stdio::piped()).spawn().unwrap();
        // Made non-blocking for this process, and blocking again for the child.
        let mut second = Command::new("grep");
        second.arg("[24]").stdin(first.stdout.take().unwrap());
        let second = second.stdout(Stdio::piped()).spawn().unwrap();
        let output = second.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"line 2\nline 4\n");
        assert!(output.status.success() && first.wait().unwrap().success());
    });
}

#[test]
fn limits_and_a_close_end_reads_and_writes_of_pipes() {
    check(|| {
        let mut child = sleeper();
        let mut child = child
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        stdin
            .set_write_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        assert_timeout((&stdin).write_all(&[0; 1 << 20]));
        let zero = stdin.set_write_timeout(Some(Duration::ZERO)).unwrap_err();
        assert_eq!(zero.kind(), ErrorKind::InvalidInput);

        let stdout = Arc::new(child.stdout.take().unwrap());
        stdout.set_read_deadline(Some(Instant::now())).unwrap();
        assert_timeout((&*stdout).read(&mut [0]));
        stdout.set_read_deadline(None).unwrap();
        let reader = {
            let stdout = stdout.clone();
            go(move || (&*stdout).read(&mut [0]))
        };
        yield_now();
        stdout.close().unwrap();
        assert_closing(join(reader));
        assert_closing(stdout.close());
        child.kill().unwrap();
        child.wait().unwrap();
        // A child that another test forks may have the other end until it calls exec.
        stdin.set_write_timeout(None).unwrap();
        assert_eq!(
            (&stdin).write(b"x").unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
    });
}

#[test]
fn a_closed_input_is_the_end_of_the_childs_input() {
    check(|| {
        let mut child = cat();
        child.stdin.as_ref().unwrap().close().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_select_waits_for_the_pipes_of_a_child() {
    check(|| {
        let mut child = cat();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        select! {
            readable(stdout) -> _ => panic!("it has read nothing"),
            default => {}
        }
        select! { writable(stdin) -> result => result.unwrap() }
        stdin.write_all(b"x").unwrap();
        select! { readable(stdout) -> result => result.unwrap() }
        stdout.read_exact(&mut [0]).unwrap();
        child.wait_timeout(Duration::from_millis(1)).unwrap_err();
        drop(stdin);
        child.wait().unwrap();
    });
}

#[test]
fn pipes_are_converted_from_and_to_std() {
    check(|| {
        let mut command = std::process::Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = ChildStdin::from(child.stdin.take().unwrap());
        let mut stdout = ChildStdout::from(child.stdout.take().unwrap());
        stdin.write_all(b"ab").unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        let mut stdout = std::process::ChildStdout::from(OwnedFd::from(stdout));
        drop(stdin);
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"b");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_dropped_child_goes_on() {
    check(|| {
        let mut child = cat();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        drop(child);
        stdin.write_all(b"x").unwrap();
        stdout.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn a_child_with_kill_on_drop_is_killed_and_fetched() {
    check(|| {
        let mut command = sleeper();
        command.kill_on_drop(true).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let id = child.id();
        drop(child);
        assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
        until("the zombie is fetched", || {
            !Path::new(&format!("/proc/{id}")).exists()
        });
        // One that has ended is left alone.
        let mut child = Command::new("true");
        let mut child = child.kill_on_drop(true).spawn().unwrap();
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_call_that_is_cancelled_leaves_no_zombie() {
    everywhere(|| {
        type Call = fn(&mut Command) -> io::Result<()>;
        let calls: [Call; 2] = [
            |command| command.status().map(drop),
            |command| command.output().map(drop),
        ];
        for call in calls {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, SeqCst);
            let path = std::env::temp_dir()
                .join(format!("gopark-test-pid-{}-{number}", std::process::id()));
            let cancel = Cancel::new();
            let script = format!("echo $$ > {}; exec sleep 0.1", path.display());
            let caller = member(&cancel, move || {
                is_cancelled(call(Command::new("sh").args(["-c", &script])))
            });
            let mut pid = String::new();
            until("the child says its number", || {
                pid = std::fs::read_to_string(&path).unwrap_or_default();
                pid.ends_with('\n')
            });
            cancel.cancel();
            assert!(join(caller));
            let process = std::path::PathBuf::from(format!("/proc/{}", pid.trim()));
            until("the child is gone", || !process.exists());
            std::fs::remove_file(path).unwrap();
        }
    });
}
