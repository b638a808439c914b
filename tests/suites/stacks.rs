//! What stacks take from the system, and what happens at its limits: programs of
//! `src/bin/stacks.rs`, each in a process of its own. Not under sanitizers, which need address
//! space and larger frames themselves.
#![cfg(not(any(gopark_sanitize = "thread", gopark_sanitize = "address")))]

use gopark::Builder;
use gopark_tests::process::{Ended, run};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

fn stacks(program: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stacks"));
    command
        .arg(program)
        .env_remove("GOPARK_MAXPROCS")
        .env("RUST_BACKTRACE", "0");
    command
}

#[track_caller]
fn succeeds(program: &str) -> Ended {
    let ended = run(&mut stacks(program));
    ended.assert_success();
    ended
}

#[test]
fn a_core_dump_contains_used_stacks_and_no_reservation() {
    let dumped: u64 = succeeds("dumped").output.trim().parse().unwrap();
    let used = 300 * (256 << 10);
    assert!((used..1 << 30).contains(&dumped), "{dumped} bytes");
}

/// Where the kernel writes core files to the working directory.
#[test]
fn a_core_file_is_small() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if !pattern.starts_with("core") {
        return eprintln!("not tried: core dumps go to {pattern}");
    }
    let directory = std::env::temp_dir().join(format!("gopark-core-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let ended = run(stacks("crash").current_dir(&directory));
    let files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap())
        .collect();
    fs::remove_dir_all(&directory).unwrap();
    ended.assert_killed_by(libc::SIGABRT);
    for file in files {
        assert!(
            file.size() < 1 << 30,
            "{} bytes, {} of them on disk",
            file.size(),
            file.blocks() * 512
        );
    }
}

#[test]
fn most_of_a_limited_address_space_is_left_to_the_program() {
    succeeds("limited-address-space");
}

#[test]
fn stacks_count_as_memory_when_they_are_opened_and_running_out_names_the_limit() {
    let ended = succeeds("limited-data");
    ended.assert_said("no stack for another goroutine: ");
    ended.assert_said(
        "and memory for more was refused \
         (errno 12; `ulimit -d` and vm.overcommit_memory=2 limit it)",
    );
}

#[test]
fn memory_may_be_locked_before_the_start_and_after_it() {
    for program in ["locked-before", "locked-after"] {
        succeeds(program);
    }
}

#[test]
fn locked_memory_that_is_used_up_names_its_limit() {
    let ended = succeeds("little-locked");
    ended.assert_said("no address space for stacks: ");
    ended.assert_said("; after mlockall(MCL_FUTURE): raise `ulimit -l`)");
    ended.assert_said("small stacks are no trouble");
}

#[test]
fn goroutines_beyond_the_initial_array_of_stacks_have_stacks() {
    succeeds("crowd");
}

/// C code does not touch its frames page by page: a frame of 33 KiB skips a guard of one page.
#[test]
fn a_large_frame_of_c_code_near_the_end_of_a_stack_is_an_overflow() {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return;
    }
    let ended = run(stacks("large-frame").arg("64"));
    ended.assert_killed_by(libc::SIGSEGV);
    ended.assert_said(
        "has overflowed its stack of 256 KiB (190 KiB usable): raise Builder::stack_size,",
    );
    let stepped_over = run(stacks("large-frame").arg("4"));
    stepped_over.assert_success();
    stepped_over.assert_said("it has returned");
}

#[test]
fn an_overflow_on_a_thread_of_the_pool_names_it_and_the_calling_goroutine() {
    let ended = run(&mut stacks("overflow-in-pool"));
    ended.assert_killed_by(libc::SIGSEGV);
    let (_, id) = ended
        .output
        .split_once("the doomed one is goroutine ")
        .unwrap();
    let (id, _) = id.split_once('.').unwrap();
    ended.assert_said(
        "gopark: thread gopark-b1 has overflowed its stack of 2048 KiB \
         in gopark::blocking for goroutine ",
    );
    ended.assert_said(&format!(
        "goroutine {id} \"deep\" (spawned at tests/src/bin/stacks.rs:"
    ));
}

#[test]
fn an_overflow_of_another_thread_of_the_runtime_names_it() {
    let ended = run(&mut stacks("overflow-of-sysmon"));
    ended.assert_killed_by(libc::SIGSEGV);
    ended.assert_said("gopark: thread gopark-sysmon has overflowed its stack of 2048 KiB\n");
}

#[test]
fn guards_are_at_least_a_byte_and_at_most_a_quarter_of_the_stack() {
    let refused = |settings: Builder, said: &str| {
        let error = settings.start().unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::InvalidInput, said)
        );
    };
    let settings = || Builder::new().stack_size(100 << 10);
    for bytes in [0, (32 << 10) + 1, usize::MAX] {
        refused(
            settings().guard_size(bytes),
            &format!("guard_size is {bytes} bytes: set it to 1 to 32768 (a quarter of stack_size)"),
        );
    }
}

#[test]
fn a_hundred_goroutines_have_larger_stacks_and_their_memory_comes_back() {
    succeeds("deep");
}

#[test]
fn an_overflow_of_a_larger_stack_names_goroutine_and_size() {
    let ended = run(&mut stacks("deep-overflow"));
    ended.assert_killed_by(libc::SIGSEGV);
    let (_, id) = ended
        .output
        .split_once("the doomed one is goroutine ")
        .unwrap();
    let (id, _) = id.split_once('.').unwrap();
    ended.assert_said(&format!(
        "gopark: goroutine {id} \"deep\" (spawned at tests/src/bin/stacks.rs:"
    ));
    ended.assert_said(") has overflowed its stack of 8192 KiB: raise ");
}

#[test]
fn a_stack_larger_than_an_ordinary_one_is_a_larger_stack() {
    let ended = succeeds("deep-beside-small");
    ended.assert_said("InvalidInput: stack_size: 1073741825 bytes is more than 1073741824");
}

#[test]
fn running_out_of_larger_stacks_names_the_limit_and_passes() {
    let ended = succeeds("deep-without-room");
    assert_eq!(
        ended
            .output
            .matches(": OutOfMemory: no stack for another goroutine: ")
            .count(),
        3,
        "{}",
        ended.output
    );
    ended.assert_said(
        "have one of 1048576 KiB each, which is all the address space that was reserved \
         (raise `ulimit -v`",
    );
    ended.assert_said("ordinary ones go on");
}

#[test]
fn larger_stacks_of_several_sizes_leave_most_of_a_limited_address_space_to_the_program() {
    succeeds("deep-in-four-sizes");
}

#[test]
fn a_wild_pointer_into_the_reservation_is_no_overflow() {
    let ended = succeeds("wild");
    ended.assert_said("the program's own handler");
    assert!(!ended.output.contains("overflowed"), "{}", ended.output);
}
