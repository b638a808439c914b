//! What ends a process or changes its limits: the programs of `src/bin/alone.rs`,
//! `src/bin/crowd.rs`, `src/bin/poller.rs` and `src/bin/children.rs`, each in a process of its own.
#![allow(unsafe_code, reason = "signals are sent through libc")]

use gopark::{Builder, Poller, StdLocks};
use gopark_tests::process::{Ended, run};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

fn alone(program: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alone"));
    command
        .arg(program)
        .env_remove("GOPARK_MAXPROCS")
        .env("RUST_BACKTRACE", "0");
    command
}

/// Runs a program of `src/bin/poller.rs` over each poller that is compiled in.
fn over_each_poller(arguments: &[&str]) {
    for poller in Poller::compiled() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poller"));
        run(command.args(arguments).env("GOPARK_POLLER", poller.name())).assert_success();
    }
}

#[test]
fn an_overflow_names_goroutine_spawn_site_and_size_before_the_process_dies() {
    let ended = run(&mut alone("overflow"));
    ended.assert_killed_by(libc::SIGSEGV);
    let (_, id) = ended
        .output
        .split_once("the doomed one is goroutine ")
        .unwrap();
    let (id, _) = id.split_once('.').unwrap();
    ended.assert_said(&format!(
        "gopark: goroutine {id} (spawned at tests/src/bin/alone.rs:"
    ));
    ended.assert_said(
        ") has overflowed its stack of 128 KiB (94 KiB usable): raise Builder::stack_size, or \
         thread::Builder::stack_size for this goroutine alone\n",
    );
}

#[test]
fn an_overflow_of_an_ordinary_thread_is_still_reported_by_std() {
    let ended = run(&mut alone("overflow-of-a-thread"));
    ended.assert_killed_by(libc::SIGABRT);
    ended.assert_said("thread 'an ordinary thread'");
    ended.assert_said("has overflowed its stack");
    assert!(!ended.output.contains("gopark"), "{}", ended.output);
}

#[test]
fn another_fault_in_a_goroutine_is_not_called_an_overflow() {
    let ended = run(&mut alone("null-pointer"));
    ended.assert_killed_by(libc::SIGSEGV);
    assert!(!ended.output.contains("overflowed"), "{}", ended.output);
}

/// Profilers interrupt a process in the same way.
#[test]
#[cfg_attr(
    any(gopark_sanitize = "thread", gopark_sanitize = "address"),
    ignore = "other code switches there, or a handler has more to do"
)]
fn every_instruction_of_a_yield_a_spawn_a_join_and_a_park_can_be_unwound() {
    let ended = run(&mut Command::new(env!("CARGO_BIN_EXE_stepped")));
    ended.assert_success();
}

#[test]
fn a_panic_without_a_join_is_printed_and_ends_only_its_goroutine() {
    let ended = run(&mut alone("panic-without-join"));
    ended.assert_success();
    ended.assert_said("no goroutine joins this");
    ended.assert_said("the others go on");
}

#[test]
fn a_goroutine_that_blocks_starts_away_from_goroutines_bound_to_a_thread() {
    run(&mut alone("blocks-elsewhere")).assert_success();
}

#[test]
fn running_out_of_address_space_fails_the_spawn_and_nothing_else() {
    run(&mut alone("address-space")).assert_success();
}

#[test]
fn running_out_of_descriptors_fails_the_accept_and_loses_no_connection() {
    run(&mut alone("descriptors")).assert_success();
}

#[test]
fn a_start_that_the_system_refuses_names_the_limit() {
    run(&mut alone("start-without-descriptors")).assert_success();
}

#[test]
fn a_chosen_poller_that_the_system_forbids_is_an_error_of_the_start_and_another_works() {
    for call in [
        "io_uring_setup",
        "io_uring_enter",
        "epoll_create1",
        "epoll_pwait2",
    ] {
        over_each_poller(&["forbidden", call]);
    }
}

/// manticore #4057.
#[test]
fn a_closed_descriptor_reports_nothing_although_a_child_has_it_open() {
    over_each_poller(&["fork"]);
}

#[test]
fn a_descriptor_closes_while_the_thread_that_opened_it_is_blocked() {
    over_each_poller(&["stuck-thread"]);
}

#[test]
fn a_dropped_poller_releases_descriptors_files_and_memory() {
    over_each_poller(&["dropped"]);
}

#[track_caller]
fn schedtrace(value: &str, sysmon: &str) -> Ended {
    let ended = run(alone("schedtrace")
        .arg(sysmon)
        .env("GOPARK_SCHEDTRACE", value));
    ended.assert_success();
    ended
}

#[test]
fn schedtrace_prints_gos_line_for_as_long_as_the_process_lives() {
    let ended = run(alone("schedtrace-lines").env("GOPARK_SCHEDTRACE", "10"));
    ended.assert_success();
    let mut last = None;
    for line in ended.output.lines() {
        let millis = line
            .strip_prefix("SCHED ")
            .and_then(|rest| rest.split_once("ms: "))
            .expect(line)
            .0;
        let millis: u64 = millis.parse().expect(line);
        assert!(last.is_none_or(|last| millis > last), "{}", ended.output);
        last = Some(millis);
        let names: Vec<_> = line
            .split(' ')
            .filter_map(|word| word.split_once('='))
            .map(|(name, _)| name)
            .collect();
        let gos = [
            "gomaxprocs",
            "idleprocs",
            "threads",
            "spinningthreads",
            "needspinning",
            "idlethreads",
            "runqueue",
            "schedticks",
        ];
        assert_eq!(names, gos, "{line}");
        assert!(
            line.contains("gomaxprocs=2 ")
                && line.contains(" threads=3 ")
                && line.contains(" runqueue=0 [ 0 0 ] "),
            "{line}"
        );
    }
    // The last line is from 200 ms after the start. Without `schedtrace`, sysmon would sleep by
    // then.
    ended.assert_said(" idleprocs=2 ");
}

#[test]
fn schedtrace_reports_what_is_wrong_with_its_variable() {
    for value in ["often", "-1", "1.5"] {
        schedtrace(value, "with-sysmon").assert_said(&format!(
            "InvalidInput: GOPARK_SCHEDTRACE: {value:?} is not a number of milliseconds"
        ));
    }
    let said = "InvalidInput: GOPARK_SCHEDTRACE: sysmon prints these lines, \
                and Builder::sysmon(false) turns it off";
    schedtrace("1000", "without-sysmon").assert_said(said);
    for sysmon in ["with-sysmon", "without-sysmon"] {
        assert_eq!(schedtrace("0", sysmon).output, "");
    }
}

#[test]
fn the_process_ends_when_main_returns() {
    let ended = run(&mut alone("leave"));
    ended.assert_success();
    ended.assert_said("left");
}

#[test]
fn the_stress_loses_no_byte_no_goroutine_and_no_descriptor() {
    run(Command::new(env!("CARGO_BIN_EXE_stress")).arg("2")).assert_success();
}

#[test]
fn the_stress_loses_nothing_where_goroutines_migrate() {
    run(Command::new(env!("CARGO_BIN_EXE_stress")).args(["2", "migrate"])).assert_success();
}

#[test]
fn other_goroutines_run_while_a_name_server_does_not_answer() {
    let ended = run(&mut Command::new(env!("CARGO_BIN_EXE_names")));
    ended.assert_success();
    println!("{}", ended.output);
    assert!(
        ended.output.contains("queries answered") || ended.output.contains("skipped"),
        "{}",
        ended.output
    );
}

#[test]
fn a_second_start_is_refused() {
    run(&mut alone("start-twice")).assert_success();
}

/// Fails unless the start refuses `settings`. No thread is started, so no process of its own is
/// needed.
#[track_caller]
fn assert_refused(settings: Builder, said: &str) {
    let error = settings.start().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), said);
}

#[test]
fn settings_that_sysmon_would_serve_are_refused_without_it() {
    let second = Duration::from_secs(1);
    for settings in [
        Builder::new().stall_after(second),
        Builder::new().on_stall(|_| ()),
        Builder::new().shrink_stacks(second, second),
        Builder::new().std_locks(StdLocks::Rescue),
    ] {
        assert_refused(
            settings.sysmon(false),
            "stall_after, on_stall, shrink_stacks and StdLocks::Rescue need sysmon, which \
             Builder::sysmon(false) turns off",
        );
    }
}

#[test]
fn procs_are_1_to_1024() {
    for n in [0, 1025, usize::MAX] {
        assert_refused(
            Builder::new().max_procs(n),
            &format!("max_procs is {n}: set it to 1 to 1024"),
        );
    }
}

#[test]
fn pollers_are_1_to_max_procs() {
    for n in [0, 3, usize::MAX] {
        assert_refused(
            Builder::new().max_procs(2).pollers(n),
            &format!("pollers is {n}: set it to 1 to 2 (max_procs)"),
        );
    }
}

#[test]
fn stacks_are_16_kib_to_1_gib() {
    for n in [0, 1, 16 * 1024 - 1, (1 << 30) + 1, usize::MAX] {
        assert_refused(
            Builder::new().stack_size(n),
            &format!("stack_size is {n} bytes: set it to 16384 to 1073741824"),
        );
    }
}

fn max_procs(setting: &str) -> Ended {
    run(alone("max-procs").env("GOPARK_MAXPROCS", setting))
}

#[test]
fn the_environment_overrides_the_number_of_procs() {
    for n in ["1", "3", "64"] {
        let ended = max_procs(n);
        ended.assert_success();
        assert_eq!(ended.output.trim(), n);
    }
}

#[test]
fn nonsense_in_the_environment_is_refused() {
    for setting in [
        "two",
        "-1",
        "1.5",
        " 2",
        "0",
        "1025",
        "99999999999999999999",
    ] {
        let ended = max_procs(setting);
        assert!(!ended.status.success());
        ended.assert_said(&format!(
            "GOPARK_MAXPROCS: {setting:?} is not a number from 1 to 1024"
        ));
    }
}

#[test]
fn an_empty_variable_counts_as_none() {
    let mut command = alone("max-procs");
    let variables = [
        "DUMP",
        "MAXPROCS",
        "POLLER",
        "REPORTS",
        "SCHEDTRACE",
        "TRACE",
        "TRACE_LIMIT",
    ];
    variables
        .iter()
        .for_each(|name| _ = command.env(format!("GOPARK_{name}"), ""));
    let unset = run(alone("max-procs").env_remove("GOPARK_MAXPROCS"));
    let ended = run(&mut command);
    ended.assert_success();
    assert_eq!(ended.output, unset.output);
}

#[test]
fn a_start_that_fails_panics_where_the_program_calls() {
    for first in ["max-procs", "bind", "connect"] {
        let ended = run(alone(first).env("GOPARK_MAXPROCS", "two"));
        ended.assert_said("panicked at tests/src/bin/alone.rs:");
        ended.assert_said("cannot start the gopark runtime: GOPARK_MAXPROCS: ");
    }
}

#[test]
fn the_default_is_what_affinity_allows() {
    let one_cpu = run(Command::new("taskset")
        .args(["-c", "0", env!("CARGO_BIN_EXE_alone"), "max-procs"])
        .env_remove("GOPARK_MAXPROCS"));
    one_cpu.assert_success();
    assert_eq!(one_cpu.output.trim(), "1");
}

/// Cancels a crowd that waits in every way, in a process of its own.
#[track_caller]
fn crowd(by: &str) {
    let count = if cfg!(any(gopark_sanitize = "thread", gopark_sanitize = "address")) {
        "500"
    } else {
        "4000"
    };
    for migrate in [None, Some("migrate")] {
        let ended = run(Command::new(env!("CARGO_BIN_EXE_crowd"))
            .args([count, by])
            .args(migrate));
        ended.assert_success();
        ended.assert_said(&format!("cancelled by a {by}: "));
    }
}

#[test]
fn a_crowd_that_a_goroutine_cancels_leaves_nothing_behind() {
    crowd("goroutine");
}

#[test]
fn a_crowd_that_a_thread_cancels_leaves_nothing_behind() {
    crowd("thread");
}

#[test]
fn a_crowd_that_a_deadline_cancels_leaves_nothing_behind() {
    crowd("deadline");
}

fn children(program: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_children"));
    command
        .arg(program)
        .env_remove("GOPARK_DUMP")
        .env("RUST_BACKTRACE", "0");
    command
}

#[test]
fn a_child_whose_status_the_kernel_has_fetched_is_an_error_of_the_wait() {
    for poller in Poller::compiled() {
        run(children("sigchld-ignored").env("GOPARK_POLLER", poller.name())).assert_success();
    }
}

#[test]
fn a_thread_of_the_pool_waits_for_a_child_if_no_pidfd_can_be_opened() {
    // poll(2) itself refuses more entries than the limit of descriptors.
    run(children("no-descriptors").env("GOPARK_POLLER", "epoll")).assert_success();
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer runs no handler in the child before `_exit`"
)]
fn a_forked_child_has_the_default_action_for_a_notified_signal() {
    run(&mut children("fork")).assert_success();
}

/// Runs a program that writes `dumps` dumps, and tells it when each has been read.
fn dumps(program: &str, dumps: usize) {
    let mut child = children(program)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for _ in 0..dumps {
        assert!(lines.any(|line| line.unwrap().starts_with("gopark: 1 procs")));
        stdin.write_all(b"\n").unwrap();
    }
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}

#[test]
fn a_signal_that_requests_dumps_can_be_notified_too() {
    dumps("notify-and-dump", 2);
    dumps("starts-later", 1);
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer runs no handler while the scheduler sleeps"
)]
fn a_program_that_waits_for_a_signal_only_is_not_dead() {
    let mut child = children("waits-for-a-signal")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    // A deadlock would be reported long before.
    std::thread::sleep(Duration::from_millis(300));
    // SAFETY: no memory is passed.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    assert_eq!(lines.next().unwrap().unwrap(), "SIGTERM");
    assert!(child.wait().unwrap().success());
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_deadlock_is_reported_after_the_last_notification() {
    let ended = run(&mut children("deadlock-afterwards"));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("all goroutines are asleep - deadlock!");
}
