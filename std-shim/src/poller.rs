//! Which poller the runtime has: the one that the program or the environment names, or else the
//! best one that the system permits.

use crate::environment;
use gopark_backends::Poller;
use gopark_core::os::{Errno, Netpoll};
use std::io::{self, ErrorKind};

const VARIABLE: &str = "GOPARK_POLLER";

/// Makes the pollers of a start. All of them are of one kind, which the first one decides.
pub(crate) struct Choice {
    /// What to try, best first. Once a poller is made, its kind only. Never empty.
    candidates: Vec<Poller>,
    /// The kinds that the system did not give, and what it said.
    failed: Vec<(Poller, Errno)>,
}

impl Choice {
    /// The poller of `setting`, or of the environment, or else all that are compiled in.
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

    /// The kind of the pollers that were made.
    pub(crate) fn made(&self) -> Poller {
        self.candidates[0]
    }

    /// The error of a start without a poller: what was tried, what the system said, and the remedy.
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

/// Whether `errno` says that the kernel is too old for a poller or that a sandbox forbids it.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno.raw(),
        libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL
    )
}

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
