//! Listeners from the process that started this one, and for one that this process starts.
//!
//! Both follow systemd's protocol (sd_listen_fds(3)): the sockets have the numbers from 3 on, and
//! variables of the environment say how many and name them. One variable cannot be as systemd has
//! it: `LISTEN_PID`, the number of the process that they are for. It keeps others, which inherit
//! the variables, from taking numbers that mean something else there. [`Command`] fixes the
//! environment before the process exists. So [`pass_listeners`] passes the inodes of the sockets
//! (`LISTEN_INODES`), by which the process recognizes them.
#![allow(
    unsafe_code,
    reason = "descriptors that the environment lists become owned, and are placed in a child"
)]

use super::{TcpListener, UdpSocket, UnixDatagram, UnixListener};
use crate::environment::nonempty;
use socket2::{Domain, SockRef, Type};
use std::fmt;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{self, Command};
use std::sync::atomic::{AtomicBool, Ordering};

/// The number of the first socket. Those below are stdin, stdout and stderr.
#[doc(alias = "SD_LISTEN_FDS_START")]
const FIRST: RawFd = 3;

const COUNT: &str = "LISTEN_FDS";
const PROCESS: &str = "LISTEN_PID";
const NAMES: &str = "LISTEN_FDNAMES";
const INODES: &str = "LISTEN_INODES";

/// What a socket of [`listeners_from_env`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SocketKind {
    /// A TCP socket that listens.
    TcpListener,
    /// A Unix socket that listens, for streams.
    UnixListener,
    /// A UDP socket.
    Udp,
    /// A Unix socket for datagrams.
    UnixDatagram,
    /// Anything else, such as a connection or a pipe.
    Other,
}

/// A socket of [`listeners_from_env`]. It closes the descriptor when it is dropped.
///
/// ```
/// use gopark::net::TcpListener;
/// use std::os::fd::OwnedFd;
///
/// for socket in gopark::net::listeners_from_env()? {
///     match socket.name() {
///         "web" => println!("serving {:?}", TcpListener::try_from(socket)?),
///         _ => drop(OwnedFd::from(socket)),
///     }
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Inherited {
    fd: OwnedFd,
    name: String,
}

impl Inherited {
    /// Returns its name: that of `FileDescriptorName=` in systemd's unit, or the first of the pair
    /// in [`pass_listeners`]. `unknown` if it has none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what it is, as the kernel says.
    pub fn kind(&self) -> SocketKind {
        let socket = SockRef::from(&self.fd);
        let Ok((domain, kind)) = socket.domain().and_then(|it| Ok((it, socket.r#type()?))) else {
            return SocketKind::Other;
        };
        let listens = socket.is_listener().unwrap_or(false);
        let is_ip = domain == Domain::IPV4 || domain == Domain::IPV6;
        match (is_ip, domain == Domain::UNIX) {
            (true, _) if listens && kind == Type::STREAM => SocketKind::TcpListener,
            (true, _) if kind == Type::DGRAM => SocketKind::Udp,
            (_, true) if listens && kind == Type::STREAM => SocketKind::UnixListener,
            (_, true) if kind == Type::DGRAM => SocketKind::UnixDatagram,
            _ => SocketKind::Other,
        }
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inherited")
            .field("name", &self.name)
            .field("kind", &self.kind())
            .field("fd", &self.fd.as_raw_fd())
            .finish()
    }
}

/// The descriptor, for sockets of other kinds: it is non-blocking, and closed on exec.
impl From<Inherited> for OwnedFd {
    fn from(socket: Inherited) -> Self {
        socket.fd
    }
}

macro_rules! inherited {
    ($($type:ident is $kind:ident;)*) => {$(
        /// Takes it into the runtime. The error is `InvalidInput` if it is of another kind.
        ///
        /// # Panics
        ///
        /// If the runtime is not running and cannot be started.
        impl TryFrom<Inherited> for $type {
            type Error = Error;

            fn try_from(socket: Inherited) -> Result<Self> {
                match socket.kind() {
                    SocketKind::$kind => Ok(socket.fd.into()),
                    kind => Err(invalid(format_args!(
                        "the inherited socket {:?} is no {} but {kind:?}",
                        socket.name,
                        stringify!($type)
                    ))),
                }
            }
        }
    )*};
}

inherited! {
    TcpListener is TcpListener;
    UnixListener is UnixListener;
    UdpSocket is Udp;
    UnixDatagram is UnixDatagram;
}

/// Returns the sockets that the process that started this one has passed on: systemd's socket
/// activation (sd_listen_fds(3)), or [`pass_listeners`] of an earlier process of this program.
///
/// | variable | meaning | if it is not set |
/// |---|---|---|
/// | `LISTEN_FDS` | how many sockets: descriptors 3, 4, ... | there are none |
/// | `LISTEN_PID` | the process that they are for | `LISTEN_INODES` decides |
/// | `LISTEN_INODES` | the inodes of the sockets, separated by `:` | see below |
/// | `LISTEN_FDNAMES` | their names, separated by `:` | all are `unknown` |
///
/// If `LISTEN_PID` is another process, there are no sockets for this one. Nor are there if it is
/// not set and the descriptors are not the sockets of `LISTEN_INODES`: the variables were meant for
/// a parent. The result is then empty.
///
/// Each descriptor becomes non-blocking, and is not passed on to children by accident
/// (close-on-exec). The variables stay, for children to ignore.
///
/// A process whose file is setuid or setgid or has capabilities ignores the variables.
///
/// Call it early: it relies on the environment, and the numbers must not have been closed and used
/// again. What another process promises in the environment is not checked further.
///
/// # Errors
///
/// `AlreadyExists` if an earlier call has taken the sockets. `InvalidInput` if a variable is not as
/// above, or a descriptor is not open.
///
/// ```
/// use gopark::net::{self, Server, TcpListener};
///
/// let passed = net::listeners_from_env()?;
/// let listeners = passed.into_iter().map(TcpListener::try_from);
/// let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
/// let server = match listeners.is_empty() {
///     true => Server::bind("127.0.0.1:0")?,
///     false => Server::new(listeners),
/// };
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "sd_listen_fds")]
#[doc(alias = "LISTEN_FDS")]
pub fn listeners_from_env() -> Result<Vec<Inherited>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let Some(count) = number(COUNT)? else {
        return Ok(Vec::new());
    };
    let last = RawFd::try_from(count)
        .ok()
        .and_then(|count| FIRST.checked_add(count));
    let last = last.ok_or_else(|| invalid(format_args!("{COUNT} is too large: {count}")))?;
    if !is_for_this_process(last)? {
        return Ok(Vec::new());
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            "the sockets of LISTEN_FDS are already taken: call listeners_from_env once",
        ));
    }
    let names = text(NAMES)?;
    let mut names = names.iter().flat_map(|names| names.split(':'));
    (FIRST..last)
        .map(|fd| {
            let name = names.next().unwrap_or("unknown").to_owned();
            inherit(fd, name)
        })
        .collect()
}

/// Takes a descriptor that the environment lists.
fn inherit(raw: RawFd, name: String) -> Result<Inherited> {
    if !is_open(raw) {
        return Err(invalid(format_args!(
            "{COUNT} includes descriptor {raw}, which is not open"
        )));
    }
    // SAFETY: it is open. The process that started this one has opened it for this one, as `COUNT`
    // says, and the caller takes each number once.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    SockRef::from(&fd).set_cloexec(true)?;
    SockRef::from(&fd).set_nonblocking(true)?;
    Ok(Inherited { fd, name })
}

/// Whether the sockets up to before `last` are meant for this process.
fn is_for_this_process(last: RawFd) -> Result<bool> {
    if let Some(process) = number(PROCESS)? {
        return Ok(process == process::id());
    }
    let Some(inodes) = text(INODES)? else {
        return Ok(false);
    };
    let mut inodes = inodes.split(':');
    let is_passed = |raw| {
        // SAFETY: it is open, and borrowed until this function returns.
        let fd = is_open(raw).then(|| unsafe { BorrowedFd::borrow_raw(raw) });
        let inode = fd.and_then(|fd| inode(fd).ok());
        inode.is_some_and(|inode| inodes.next() == Some(&inode.to_string()))
    };
    Ok((FIRST..last).all(is_passed))
}

fn is_open(raw: RawFd) -> bool {
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(raw, libc::F_GETFD) >= 0 }
}

fn inode(fd: BorrowedFd<'_>) -> Result<u64> {
    Ok(File::from(fd.try_clone_to_owned()?).metadata()?.ino())
}

fn text(variable: &str) -> Result<Option<String>> {
    let not_text = |_| invalid(format_args!("{variable} is not UTF-8"));
    let value = nonempty(variable).map(|value| value.into_string().map_err(not_text));
    value.transpose()
}

fn number(variable: &str) -> Result<Option<u32>> {
    let parse = |text: String| {
        let number = text.parse();
        number.map_err(|_| invalid(format_args!("{variable} is not a number: {text:?}")))
    };
    text(variable)?.map(parse).transpose()
}

fn invalid(text: fmt::Arguments<'_>) -> Error {
    Error::new(ErrorKind::InvalidInput, text.to_string())
}

/// Lets the process that `command` starts have `sockets`, each with a name, as its descriptors 3,
/// 4, ...: for a restart in which no connection is lost.
///
/// The process calls [`listeners_from_env`]. It shares the sockets with this one, and connections
/// that are queued go to the one that accepts first. So a server restarts like this: it passes its
/// listeners on, waits until the new process says that it accepts, and then ends
/// ([`Server`](super::Server#the-end)). Its queues stay, because the new process has them, too.
///
/// `command` has copies of the sockets. Drop it after the start, or the port stays in use while
/// this process runs.
///
/// For a program that knows systemd's protocol only, which needs `LISTEN_PID`, let a shell set it:
/// start `sh -c 'LISTEN_PID=$$ exec program'`.
///
/// # Errors
///
/// `InvalidInput` if a name contains `:` or a control character. `EMFILE` if there is no free
/// descriptor for the copies.
///
/// ```
/// use gopark::net::{self, TcpListener};
/// use std::os::fd::AsFd;
/// use std::process::Command;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut command = Command::new("sh");
/// command.arg("-c").arg("test $LISTEN_FDS = 1 && readlink /proc/self/fd/3 | grep -q socket");
/// net::pass_listeners(&mut command, &[("web", listener.as_fd())])?;
/// assert!(command.status()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn pass_listeners(command: &mut Command, sockets: &[(&str, BorrowedFd<'_>)]) -> Result<()> {
    let is_name = |name: &str| !name.contains(|c: char| c == ':' || c.is_control());
    if let Some((name, _)) = sockets.iter().find(|(name, _)| !is_name(name)) {
        return Err(invalid(format_args!(
            "the name of a passed socket contains a colon or a control character: {name:?}"
        )));
    }
    let count = RawFd::try_from(sockets.len()).unwrap_or(RawFd::MAX - FIRST);
    let after = FIRST.saturating_add(count);
    let mut copies = Vec::new();
    let mut fillers = Vec::new();
    for (_, fd) in sockets {
        let mut copy = fd.try_clone_to_owned()?;
        // A copy with a number that another socket will get occupies it, and so keeps it from a
        // descriptor that `Command` opens for itself. The next copy has another number.
        while copy.as_raw_fd() < after {
            fillers.push(copy);
            copy = fd.try_clone_to_owned()?;
        }
        copies.push(copy);
    }
    let join = |parts: Vec<String>| parts.join(":");
    let names = sockets.iter().map(|(name, _)| (*name).to_owned());
    let inodes = sockets.iter().map(|(_, fd)| Ok(inode(*fd)?.to_string()));
    command
        .env(COUNT, sockets.len().to_string())
        .env(NAMES, join(names.collect()))
        .env(INODES, join(inodes.collect::<Result<_>>()?))
        .env_remove(PROCESS);
    let place = move || {
        _ = &fillers;
        for (number, copy) in (FIRST..).zip(&copies) {
            // SAFETY: no memory is passed. In this process, which is about to exec, no other code
            // uses the number.
            if unsafe { libc::dup2(copy.as_fd().as_raw_fd(), number) } < 0 {
                return Err(Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure calls `dup2` and reads errno, which a child of a process with threads may
    // do (signal-safety(7)).
    unsafe { command.pre_exec(place) };
    Ok(())
}
