//! Kernels and containers that lack a system call, simulated by a filter that the subject installs.
#![allow(
    unsafe_code,
    reason = "a filter is installed through prctl, and tried by a raw system call"
)]

use super::{THIS_PROGRAM, Tally};
use crate::process;
use gopark::Poller;
use std::io;
use std::process::Command;

/// System calls that are refused.
struct Profile {
    name: &'static str,
    calls: Vec<Refused>,
    outcome: Outcome,
}

/// A system call that is refused: always, or with this third argument only.
struct Refused {
    call: libc::c_long,
    third: Option<u32>,
    errno: i32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Everything works by other means, without a failed operation.
    Survives,
    /// `Builder::start` fails with this message.
    NoStart(&'static str),
}

use Outcome::{NoStart, Survives};

const fn all(call: libc::c_long, errno: i32) -> Refused {
    Refused {
        call,
        third: None,
        errno,
    }
}

const MADV_GUARD_INSTALL: u32 = 102;

const NO_POLLER: &str = "no poller: ";

fn profile(name: &'static str, calls: Vec<Refused>, outcome: Outcome) -> Profile {
    Profile {
        name,
        calls,
        outcome,
    }
}

fn profiles() -> Vec<Profile> {
    let mut profiles = profiles_of_pollers();
    profiles.extend(profiles_of_threads());
    profiles
}

/// Without the system calls of pollers.
fn profiles_of_pollers() -> Vec<Profile> {
    let io_uring = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    let poller = crate::poller();
    let needs = |pollers: &[Poller]| {
        if pollers.contains(&poller) {
            NoStart(NO_POLLER)
        } else {
            Survives
        }
    };
    vec![
        profile(
            "no-io-uring",
            io_uring.map(|call| all(call, libc::ENOSYS)).into(),
            needs(&[Poller::IoUring]),
        ),
        profile(
            "forbidden-io-uring",
            io_uring.map(|call| all(call, libc::EPERM)).into(),
            needs(&[Poller::IoUring]),
        ),
        profile(
            "no-epoll",
            vec![all(libc::SYS_epoll_create1, libc::ENOSYS)],
            needs(&[Poller::Epoll, Poller::EpollLevel]),
        ),
        profile(
            "no-eventfd",
            vec![all(libc::SYS_eventfd2, libc::ENOSYS)],
            needs(&[Poller::Epoll, Poller::EpollLevel, Poller::Poll]),
        ),
        profile(
            "no-epoll-pwait2",
            vec![all(libc::SYS_epoll_pwait2, libc::ENOSYS)],
            Survives,
        ),
        profile(
            "forbidden-epoll-pwait2",
            vec![all(libc::SYS_epoll_pwait2, libc::EPERM)],
            Survives,
        ),
    ]
}

/// Without the system calls for threads and their memory.
fn profiles_of_threads() -> Vec<Profile> {
    vec![
        profile(
            "no-membarrier",
            vec![all(libc::SYS_membarrier, libc::ENOSYS)],
            Survives,
        ),
        profile(
            "forbidden-membarrier",
            vec![all(libc::SYS_membarrier, libc::EPERM)],
            Survives,
        ),
        profile(
            "no-guard-regions",
            vec![Refused {
                call: libc::SYS_madvise,
                third: Some(MADV_GUARD_INSTALL),
                errno: libc::EINVAL,
            }],
            Survives,
        ),
        profile(
            "no-clone3",
            vec![all(libc::SYS_clone3, libc::ENOSYS)],
            Survives,
        ),
        profile(
            "forbidden-prctl",
            vec![all(libc::SYS_prctl, libc::EPERM)],
            Survives,
        ),
        profile(
            "forbidden-affinity",
            vec![all(libc::SYS_sched_getaffinity, libc::EPERM)],
            Survives,
        ),
        profile(
            "forbidden-sigaltstack",
            vec![all(libc::SYS_sigaltstack, libc::EPERM)],
            Survives,
        ),
        profile(
            "forbidden-sched-yield",
            vec![all(libc::SYS_sched_yield, libc::EPERM)],
            Survives,
        ),
        profile(
            "no-threads",
            vec![
                all(libc::SYS_clone3, libc::EPERM),
                all(libc::SYS_clone, libc::EAGAIN),
            ],
            NoStart("the system refused thread number 1: "),
        ),
    ]
}

/// Puts this process under the profile `name`, and checks that the calls are refused.
pub fn enter(name: &str) {
    let profiles = profiles();
    let profile = profiles
        .iter()
        .find(|profile| profile.name == name)
        .expect("the name of a profile");
    if let Err(error) = install(&profile.calls) {
        println!("skip: no seccomp filter: {error}");
        std::process::exit(0);
    }
    for refused in profile
        .calls
        .iter()
        .filter(|refused| refused.call != libc::SYS_prctl)
    {
        let nowhere = 0usize;
        // SAFETY: the filter refuses the call; without it, these arguments would make the call fail
        // or do nothing.
        let result = unsafe {
            libc::syscall(
                refused.call,
                nowhere,
                nowhere,
                refused.third.unwrap_or(u32::MAX),
                nowhere,
                nowhere,
                nowhere,
            )
        };
        let errno = io::Error::last_os_error().raw_os_error();
        assert_eq!(
            (result, errno),
            (-1, Some(refused.errno)),
            "system call {}",
            refused.call
        );
    }
}

fn install(calls: &[Refused]) -> io::Result<()> {
    // Offsets in `seccomp_data`: the number, and the low half of the third argument.
    const NUMBER: u32 = 0;
    const THIRD: u32 = 16 + 2 * 8 + if cfg!(target_endian = "big") { 4 } else { 0 };
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, skip_unless| libc::sock_filter {
        code,
        jt: 0,
        jf: skip_unless,
        k,
    };
    let mut program = Vec::new();
    for refused in calls {
        let answer = step(RETURN, libc::SECCOMP_RET_ERRNO | refused.errno as u32, 0);
        program.push(step(LOAD, NUMBER, 0));
        match refused.third {
            None => program.push(step(IF_EQUAL, refused.call as u32, 1)),
            Some(third) => {
                program.push(step(IF_EQUAL, refused.call as u32, 3));
                program.extend([step(LOAD, THIRD, 0), step(IF_EQUAL, third, 1)]);
            }
        }
        program.push(answer);
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0));
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter is readable, and the kernel copies it.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            ) == 0
    };
    if installed {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs the subject under each profile.
pub fn cases(tally: &mut Tally) {
    for profile in profiles() {
        for arrangement in ["one", "two", "shared"] {
            let name = format!("{} {arrangement}", profile.name);
            let mut command = Command::new(THIS_PROGRAM);
            command
                .args(["subject", arrangement, profile.name])
                .env("RUST_BACKTRACE", "0");
            // The suite `blind` checks what a start reports about refusals.
            command.env("GOPARK_REPORTS", "off");
            // Without this, another poller would take the place of one that is refused.
            command.env("GOPARK_POLLER", crate::poller().name());
            let ended = match process::attempt(&mut command) {
                Ok(ended) => ended,
                Err(hung) => {
                    tally.count(&name, Err(hung));
                    continue;
                }
            };
            if let Some(reason) = ended.output.strip_prefix("skip: ") {
                tally.skip(&name, reason.trim_end());
                continue;
            }
            let as_it_must = ended.status.success()
                && match profile.outcome {
                    Survives => ended.output == "survived\n",
                    NoStart(text) => {
                        ended.output.contains(text)
                            && ended.output.ends_with("no start\n")
                            && !ended.output.contains("broken")
                    }
                };
            let remark = match profile.outcome {
                Survives => String::new(),
                NoStart(_) => ended.output.lines().next().unwrap_or_default().into(),
            };
            tally.count(
                &name,
                if as_it_must {
                    Ok(remark)
                } else {
                    Err(format!("{}\n{}", ended.status, ended.output))
                },
            );
        }
    }
}
