//! How a runtime starts, and how it reads its environment: the programs of `src/bin/starts.rs`.
#![allow(
    unsafe_code,
    reason = "files get privileges, and FIFOs are made, through libc"
)]

use gopark::Poller;
use gopark_tests::process::{Ended, copy_program, run};
use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

const PROGRAM: &str = env!("CARGO_BIN_EXE_starts");
const VARIABLES: [&str; 6] = [
    "GOPARK_DUMP",
    "GOPARK_MAXPROCS",
    "GOPARK_REPORTS",
    "GOPARK_SCHEDTRACE",
    "GOPARK_TRACE",
    "GOPARK_TRACE_LIMIT",
];

/// A folder that other users can reach and that is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("gopark-starts-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn starts(path: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    VARIABLES
        .iter()
        .for_each(|name| _ = command.env_remove(name));
    command.args(args).env("RUST_BACKTRACE", "0");
    command
}

#[test]
fn signals_that_cannot_ask_for_a_dump_are_refused_before_anything_runs() {
    let faults = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGSYS,
    ];
    let writes = [libc::SIGPIPE, libc::SIGTTOU, libc::SIGXFSZ];
    for signal in [libc::SIGKILL, libc::SIGSTOP, 0, -1, 33, 65, 1000]
        .into_iter()
        .chain(faults)
        .chain(writes)
    {
        let ended = run(&mut starts(
            PROGRAM.as_ref(),
            &["dump-on", &signal.to_string()],
        ));
        ended.assert_success();
        ended.assert_said("InvalidInput: dump_on: ");
    }
    let ended = run(&mut starts(PROGRAM.as_ref(), &["dump-on", "11"]));
    ended.assert_said("InvalidInput: dump_on: SIGSEGV comes from the instruction that faulted");
}

#[test]
fn a_start_that_fails_leaves_no_handler_no_file_no_thread_and_no_setting() {
    let folder = Folder::new("fails-first");
    for contents in [
        None,
        Some("of an earlier process, longer than what will be written\n".repeat(5000)),
    ] {
        let trace = folder.file("timeline.json");
        if let Some(contents) = &contents {
            fs::write(&trace, contents).unwrap();
        }
        let ended = run(starts(PROGRAM.as_ref(), &["fails-first"])
            .env("GOPARK_TRACE", &trace)
            .env("GOPARK_DUMP", "SIGUSR2"));
        ended.assert_success();
        ended.assert_said("ulimit -n");
        let written = fs::read_to_string(&trace).unwrap();
        assert!(
            written.starts_with('[') && written.ends_with("]\n") && !written.contains("earlier"),
            "{written}"
        );
    }
}

#[test]
fn failed_starts_take_no_address_space_from_the_one_that_succeeds() {
    // glibc keeps an arena of 64 MiB for a thread of an earlier start, so a later start finds less
    // address space.
    run(starts(PROGRAM.as_ref(), &["fails-often"]).env("MALLOC_ARENA_MAX", "1")).assert_success();
}

#[test]
fn a_variable_turns_dumps_on_without_code() {
    for signal in ["USR1", "SIGUSR1", "usr1", "10"] {
        let ended = run(starts(PROGRAM.as_ref(), &["dumped"]).env("GOPARK_DUMP", signal));
        ended.assert_success();
        ended.assert_said("dumped: true");
    }
    for (value, said) in [
        (
            "USR3",
            "GOPARK_DUMP: \"USR3\" is not the name or number of a signal",
        ),
        ("KILL", "SIGKILL cannot be caught"),
    ] {
        let ended = run(starts(PROGRAM.as_ref(), &["environment"]).env("GOPARK_DUMP", value));
        assert!(!ended.status.success());
        ended.assert_said(said);
    }
}

#[test]
fn a_timeline_follows_no_link_may_be_a_fifo_and_is_its_owners() {
    let folder = Folder::new("links");
    let (target, link, made) = (
        folder.file("target"),
        folder.file("link"),
        folder.file("made"),
    );
    fs::write(&target, "precious").unwrap();
    symlink(&target, &link).unwrap();
    let trace =
        |path: &Path| run(starts(PROGRAM.as_ref(), &["environment"]).env("GOPARK_TRACE", path));
    let ended = trace(&link);
    assert!(!ended.status.success());
    ended.assert_said(&format!(
        "GOPARK_TRACE: {}: a symbolic link, which is not followed",
        link.display()
    ));
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");

    trace(&made).assert_success();
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o600);

    let fifo = folder.file("fifo");
    let name = CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: `name` is a C string.
    let result = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    let reader = thread::spawn(move || fs::read_to_string(fifo).unwrap());
    trace(&folder.file("fifo")).assert_success();
    assert!(reader.join().unwrap().ends_with("]\n"));
}

/// Runs a program of `root`'s as another user, with a full environment.
fn as_ordinary_user(program: &Path, trace: &Path) -> Ended {
    const ORDINARY_USER: u32 = 65534;
    let mut command = starts(program, &["environment"]);
    command
        .env("GOPARK_MAXPROCS", "61")
        .env("GOPARK_DUMP", "USR1")
        .env("GOPARK_TRACE", trace);
    run(command
        .uid(ORDINARY_USER)
        .gid(ORDINARY_USER)
        .current_dir("/"))
}

/// Gives a program the capability to use low ports, as `setcap cap_net_bind_service=ep` does.
fn give_capability(program: &Path) -> io::Result<()> {
    const VERSION_2_EFFECTIVE: u32 = 0x0200_0001;
    const NET_BIND_SERVICE: u32 = 1 << 10;
    let data: Vec<u8> = [VERSION_2_EFFECTIVE, NET_BIND_SERVICE, 0, 0, 0]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    let path = CString::new(program.to_str().unwrap()).unwrap();
    // SAFETY: two C strings, and a buffer whose length is passed.
    match unsafe {
        libc::setxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            data.as_ptr().cast(),
            data.len(),
            0,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
#[cfg_attr(
    gopark_sanitize = "address",
    ignore = "its leak check may not look at a process with privileges"
)]
fn a_program_with_privileges_takes_no_setting_from_the_environment() {
    // SAFETY: the call only returns a number.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root can make programs that run with privileges");
    }
    let folder = Folder::new("privileged");
    let (program, secret) = (folder.file("program"), folder.file("secret"));
    copy_program(PROGRAM.as_ref(), &program);
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();

    // The same user runs an ordinary program: its variables are read.
    let ended = as_ordinary_user(&program, &secret);
    ended.assert_said("Permission denied");

    let setuid = |program: &Path| fs::set_permissions(program, Permissions::from_mode(0o4755));
    let setgid = |program: &Path| fs::set_permissions(program, Permissions::from_mode(0o2755));
    type Give<'a> = &'a dyn Fn(&Path) -> io::Result<()>;
    let kinds: [(&str, Give<'_>); 3] = [
        ("setuid", &setuid),
        ("setgid", &setgid),
        ("setcap", &give_capability),
    ];
    for (kind, give) in kinds {
        let program = folder.file(kind);
        copy_program(PROGRAM.as_ref(), &program);
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        if let Err(error) = give(&program) {
            eprintln!("skipped: {kind}: {error}");
            continue;
        }
        let ended = as_ordinary_user(&program, &secret);
        if ended.output.contains("privileged: false") {
            eprintln!(
                "skipped: {kind}: {} is mounted without privileges for programs",
                folder.0.display()
            );
            continue;
        }
        ended.assert_success();
        ended.assert_said("privileged: true");
        assert!(
            !ended.output.contains("procs: 61"),
            "{kind}: {}",
            ended.output
        );
        ended.assert_said("handler: false");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret", "{kind}");
    }
}

/// The command for a program of `src/bin/poller.rs`, without the variable that chooses a poller.
fn poller(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poller"));
    command
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        .env("GOPARK_REPORTS", "off")
        .env_remove("GOPARK_POLLER");
    command
}

fn names(pollers: impl Iterator<Item = Poller>) -> Vec<&'static str> {
    pollers.map(Poller::name).collect()
}

#[test]
fn the_best_poller_that_is_compiled_in_runs_unless_the_program_or_a_variable_chooses() {
    let best = Poller::compiled().next().unwrap();
    assert_eq!(
        run(&mut poller(&["which"])).output,
        format!("runs with {best}\n")
    );
    let permitted = Poller::compiled().filter(|&poller| poller.init().is_ok());
    for name in names(permitted) {
        let runs = format!("runs with {name}\n");
        assert_eq!(
            run(poller(&["which"]).env("GOPARK_POLLER", name)).output,
            runs
        );
        // The program's choice overrides the environment's, even a wrong one.
        for variable in [best.name(), "kqueue"] {
            let ended = run(poller(&["chosen", name]).env("GOPARK_POLLER", variable));
            assert_eq!(ended.output, runs);
        }
    }
}

#[test]
fn a_poller_that_is_unknown_or_not_compiled_in_is_refused_with_a_list_of_those_that_are() {
    let compiled = names(Poller::compiled()).join(", ");
    let absent = Poller::ALL
        .into_iter()
        .filter(|poller| !Poller::compiled().any(|compiled| compiled == *poller));
    let absent = names(absent);
    for value in ["kqueue", "Epoll", "epoll,poll"] {
        let ended = run(poller(&["which"]).env("GOPARK_POLLER", value));
        assert!(!ended.status.success());
        ended.assert_said(&format!(
            "GOPARK_POLLER: {value:?} is not the name of a poller: epoll, io-uring, epoll-level, \
             poll"
        ));
    }
    for name in absent {
        let said = format!(
            "{name} is not compiled in: turn on gopark's feature `{name}`, or choose one of these: \
             {compiled}\n"
        );
        let ended = run(&mut poller(&["chosen", name]));
        assert_eq!(ended.output, format!("Unsupported: poller: {said}"));
        let ended = run(poller(&["which"]).env("GOPARK_POLLER", name));
        assert!(!ended.status.success());
        ended.assert_said(&format!("GOPARK_POLLER: {said}"));
    }
}

#[test]
fn the_runtime_starts_with_poll_if_a_sandbox_refuses_epoll() {
    if !Poller::compiled().any(|poller| poller == Poller::Poll) {
        return eprintln!("skipped: the poller `poll` is not compiled in");
    }
    for errno in [libc::ENOSYS, libc::EPERM] {
        let ended = run(&mut poller(&["fallback", &errno.to_string()]));
        ended.assert_success();
        assert_eq!(ended.output, "runs with poll\n");
    }
}

#[test]
fn the_runtime_starts_with_poll_if_a_sandbox_refuses_only_the_wait_in_epoll() {
    if !Poller::compiled().any(|poller| poller == Poller::Poll) {
        return eprintln!("skipped: the poller `poll` is not compiled in");
    }
    for errno in [libc::ENOSYS, libc::EPERM, libc::EACCES] {
        let ended = run(&mut poller(&["wait-refused", &errno.to_string()]));
        ended.assert_success();
        assert_eq!(ended.output, "runs with poll\n");
    }
}

#[test]
fn a_start_that_passes_over_a_refused_poller_says_so_unless_reports_are_off() {
    if !Poller::compiled().any(|poller| poller == Poller::Poll) {
        return eprintln!("skipped: the poller `poll` is not compiled in");
    }
    let refused = Poller::compiled().filter(|&poller| poller != Poller::Poll);
    let refused: Vec<_> = refused
        .map(|poller| {
            format!(
                "{poller}: Operation not permitted (os error 1): permit {}; ",
                poller.needs()
            )
        })
        .collect();
    let ended = run(poller(&["fallback", "1"]).env("GOPARK_REPORTS", "on"));
    ended.assert_success();
    if !refused.is_empty() {
        ended.assert_said(&format!(
            "gopark: the system refuses a poller: {}the runtime uses poll instead (each poll takes \
             time in proportion to the sockets that are waited for) (GOPARK_REPORTS=off silences \
             this)\n",
            refused.concat()
        ));
    }
}

#[test]
fn what_std_can_do_on_an_ordinary_thread_does_not_start_the_runtime() {
    let ended = run(starts(PROGRAM.as_ref(), &["ordinary"]).env("GOPARK_POLLER", "nonsense"));
    ended.assert_success();
    ended.assert_said("nothing was started\n");
    ended.assert_said("go_local: an ordinary thread runs no goroutines");
}

#[test]
fn a_dump_names_the_poller() {
    let ended = run(&mut starts(PROGRAM.as_ref(), &["dump"]));
    ended.assert_success();
    ended.assert_said("gopark: 2 procs, poller ");
}

#[test]
fn a_system_that_refuses_every_poller_is_an_error_that_names_each() {
    for (errno, said) in [
        (libc::ENOSYS, "Function not implemented (os error 38)"),
        (libc::EPERM, "Operation not permitted (os error 1)"),
    ] {
        let ended = run(&mut poller(&["none-permitted", &errno.to_string()]));
        ended.assert_success();
        let tried: Vec<_> = Poller::compiled()
            .map(|poller| format!("{poller}: {said}: permit {}", poller.needs()))
            .collect();
        ended.assert_said(&format!("no poller: {}", tried.join("; ")));
    }
}

#[test]
fn a_lack_of_descriptors_is_no_reason_to_take_another_poller() {
    let ended = run(&mut poller(&["without-descriptors"]));
    ended.assert_success();
    let best = Poller::compiled().next().unwrap();
    let each = best.descriptors();
    assert_eq!(
        ended.output,
        format!(
            "no poller: {best}: Too many open files (os error 24): the pollers need {each} \
             descriptors, {each} for each of 1, more than are left of the 3 that the process may \
             have: raise `ulimit -n`, or lower Builder::pollers or GOPARK_MAXPROCS\n"
        )
    );
}
