//! Selects the poller of the runtime: that of [`Builder::poller`](crate::Builder::poller) or
//! `GOPARK_POLLER`, or else the best that the system permits.

use crate::environment;
use gopark_backends::Poller;
use gopark_core::os::{Errno, Netpoll};
use std::io::{self, ErrorKind};

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
            Some(poller) if !is_compiled(poller) => {
                return unsupported(format!(
                    "poller: {poller} is not compiled in: turn on gopark's feature `{poller}`, \
                     or choose one of these: {}",
                    names(Poller::compiled())
                ));
            }
            Some(poller) => Some(poller),
            None => from_environment()?,
        };
        let candidates = named.map_or_else(|| Poller::compiled().collect(), |poller| vec![poller]);
        if candidates.is_empty() {
            return unsupported(format!(
                "no poller is compiled in: turn on one of gopark's features {}",
                names(Poller::ALL)
            ));
        }
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

    /// Returns the error of a start that got no poller: the kinds tried, the errors of the system,
    /// and the remedies.
    pub(crate) fn error(&self) -> io::Error {
        let mut kind = ErrorKind::Unsupported;
        let tried = self.failed.iter().map(|&(poller, errno)| {
            let cause = io::Error::from_raw_os_error(errno.raw());
            kind = cause.kind();
            match errno.raw() {
                libc::EMFILE => format!("{poller}: {cause}: raise `ulimit -n`"),
                libc::ENFILE => format!("{poller}: {cause}: raise fs.file-max"),
                _ if is_refusal(errno) => format!("{poller}: {cause}: permit {}", poller.needs()),
                _ => format!("{poller}: {cause}"),
            }
        });
        let tried = tried.collect::<Vec<_>>().join("; ");
        io::Error::new(kind, format!("no poller: {tried}"))
    }
}

fn is_compiled(poller: Poller) -> bool {
    Poller::compiled().any(|compiled| compiled == poller)
}

/// Returns whether `errno` means that the kernel is too old for a poller, or that a sandbox forbids
/// it.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno.raw(),
        libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL
    )
}

/// Returns the poller that `GOPARK_POLLER` names. Fails if it is not compiled in.
fn from_environment() -> io::Result<Option<Poller>> {
    let Some(value) = environment::nonempty(VARIABLE) else {
        return Ok(None);
    };
    let named = value.to_str().and_then(Poller::from_name);
    match named.filter(|&poller| is_compiled(poller)) {
        Some(poller) => Ok(Some(poller)),
        None => Err(environment::invalid(
            VARIABLE,
            &value,
            format_args!(
                "one of the pollers that are compiled in: {}",
                names(Poller::compiled())
            ),
        )),
    }
}

fn names(pollers: impl IntoIterator<Item = Poller>) -> String {
    let names = pollers.into_iter().map(Poller::name);
    names.collect::<Vec<_>>().join(", ")
}
