//! Selects the poller of the runtime: that of [`Builder::poller`](crate::Builder::poller) or
//! `GOPARK_POLLER`, or else the best that the system permits.
#![allow(unsafe_code, reason = "a limit is read through libc")]

use crate::{environment, error};
use gopark_backends::Poller;
use gopark_core::os::{Errno, Netpoll};
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;

const VARIABLE: &str = "GOPARK_POLLER";

/// Makes the pollers of a start. All of them are of the same kind, that of the first.
pub(crate) struct Choice {
    /// The kinds to try, best first. After a poller was made, only its kind. Never empty.
    candidates: Vec<Poller>,
    /// The kinds that the system has refused, with its errors.
    failed: Vec<(Poller, Errno)>,
}

impl Choice {
    /// Returns the choice of `setting`, or else of `GOPARK_POLLER`, or else of all pollers that are
    /// compiled in. Fails if a named poller is not compiled in, or if none is.
    pub(crate) fn new(setting: Option<Poller>) -> io::Result<Choice> {
        let unsupported = |text| Err(io::Error::new(ErrorKind::Unsupported, text));
        let named = match setting {
            Some(poller) => Some(("poller", poller)),
            None => from_environment()?.map(|poller| (VARIABLE, poller)),
        };
        let compiled: Vec<Poller> = Poller::compiled().collect();
        let candidates = match named {
            Some((source, poller)) if !compiled.contains(&poller) => {
                let alternative = if compiled.is_empty() {
                    String::new()
                } else {
                    format!(", or choose one of these: {}", names(compiled))
                };
                return unsupported(format!(
                    "{source}: {poller} is not compiled in: turn on gopark's feature \
                     `{poller}`{alternative}"
                ));
            }
            Some((_, poller)) => vec![poller],
            None if compiled.is_empty() => {
                return unsupported(format!(
                    "no poller is compiled in: turn on one of gopark's features {}",
                    names(Poller::ALL)
                ));
            }
            None => compiled,
        };
        Ok(Choice {
            candidates,
            failed: Vec::new(),
        })
    }

    /// Makes a poller. If the system refuses a kind, tries the next one. A lack of descriptors or
    /// memory is an error: an operator can raise a limit, and a slower poller would hide that it
    /// was reached.
    pub(crate) fn make(&mut self) -> Result<Box<dyn Netpoll>, Errno> {
        let mut last = Errno::new(libc::ENOSYS);
        for &poller in &self.candidates {
            match poller.init() {
                Ok(made) => {
                    self.candidates = vec![poller];
                    return Ok(made);
                }
                Err(errno) => {
                    self.failed.push((poller, errno));
                    last = errno;
                    if !is_refusal(errno) {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Returns the kind of the pollers that were made.
    pub(crate) fn made(&self) -> Poller {
        self.candidates[0]
    }

    /// Returns the error of a start that needs `count` pollers and did not get them: the kinds
    /// tried, the errors of the system, and the remedies. Its source is the last of these errors.
    pub(crate) fn error(&self, count: usize) -> io::Error {
        let errno = self.failed.last().map_or(libc::ENOSYS, |last| last.1.raw());
        let cause = io::Error::from_raw_os_error(errno);
        error::with_cause(cause, format!("no poller: {}", self.tried(count)))
    }

    /// Returns the report of a start that has passed over pollers which the system refuses: their
    /// errors and remedies, which poller runs, and what that costs.
    pub(crate) fn passed_over(&self) -> Option<String> {
        let cost = match self.made() {
            Poller::EpollLevel => "one more system call for each wait",
            Poller::Poll => "each poll takes time in proportion to the sockets that are waited for",
            _ => "about as fast",
        };
        (!self.failed.is_empty()).then(|| {
            format!(
                "the system refuses a poller: {}; the runtime uses {} instead ({cost})",
                self.tried(1),
                self.made()
            )
        })
    }

    /// Returns the kinds that the system has refused, each with its error and the remedy.
    fn tried(&self, count: usize) -> String {
        let tried = self.failed.iter().map(|&(poller, errno)| {
            let cause = io::Error::from_raw_os_error(errno.raw());
            format!("{poller}: {cause}{}", remedy(poller, errno, count))
        });
        tried.collect::<Vec<_>>().join("; ")
    }
}

/// Returns what to do if the system answers with `errno` to a start that needs `count` pollers.
fn remedy(poller: Poller, errno: Errno, count: usize) -> String {
    match errno.raw() {
        libc::EMFILE => {
            let each = poller.descriptors();
            format!(
                ": the pollers need {} descriptors, {each} for each of {count}, more than are left \
                 of the {} that the process may have: raise `ulimit -n`, or lower \
                 Builder::pollers or GOPARK_MAXPROCS",
                each * count,
                descriptor_limit()
            )
        }
        libc::ENFILE => ": raise fs.file-max, the limit of the whole system".into(),
        libc::ENOMEM => ": raise `ulimit -v` or the cgroup's memory.max, or lower \
                         Builder::pollers"
            .into(),
        _ if is_refusal(errno) => format!(": permit {}", poller.needs()),
        _ => String::new(),
    }
}

/// Returns how many descriptors this process may have open: `ulimit -n`.
#[doc(alias = "RLIMIT_NOFILE")]
fn descriptor_limit() -> u64 {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: `limit` is writable. It is valid whether or not the call fills it, because it holds
    // integers only and was zeroed.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr());
        limit.assume_init().rlim_cur
    }
}

/// Returns whether `errno` means that the kernel is too old for a poller, or that a sandbox forbids
/// it.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno.raw(),
        libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL
    )
}

/// Returns the poller that `GOPARK_POLLER` names, compiled in or not. Fails if the value is the
/// name of no poller.
fn from_environment() -> io::Result<Option<Poller>> {
    let Some(value) = environment::nonempty(VARIABLE) else {
        return Ok(None);
    };
    let named = value.to_str().and_then(Poller::from_name);
    match named {
        Some(poller) => Ok(Some(poller)),
        None => Err(environment::invalid(
            VARIABLE,
            &value,
            format_args!("the name of a poller: {}", names(Poller::ALL)),
        )),
    }
}

fn names(pollers: impl IntoIterator<Item = Poller>) -> String {
    let names = pollers.into_iter().map(Poller::name);
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poller_that_is_not_compiled_in_is_unsupported_and_its_error_ends_in_no_empty_list() {
        let compiled: Vec<Poller> = Poller::compiled().collect();
        for poller in Poller::ALL {
            match Choice::new(Some(poller)) {
                Ok(choice) => assert_eq!(choice.made(), poller),
                Err(error) => {
                    assert!(!compiled.contains(&poller));
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    let text = error.to_string();
                    assert_eq!(text.ends_with('`'), compiled.is_empty(), "{text}");
                }
            }
        }
    }

    #[test]
    fn each_refusal_has_its_remedy() {
        let remedy = |errno| remedy(Poller::Epoll, Errno::new(errno), 64);
        let full = remedy(libc::EMFILE);
        assert!(full.contains("128 descriptors, 2 for each of 64"), "{full}");
        let may = format!("of the {} that the process may have", descriptor_limit());
        assert!(full.contains(&may), "{full}");
        assert!(remedy(libc::ENFILE).contains("fs.file-max"));
        assert!(remedy(libc::ENOMEM).contains("memory.max"));
        assert!(remedy(libc::EPERM).contains("permit epoll_create1, epoll_ctl, epoll_wait"));
    }
}
