//! System calls of the first process: console, mounts, modules, power off.
#![allow(
    unsafe_code,
    reason = "system calls; each argues that the memory it passes is valid for the call"
)]

use core::ffi::CStr;
use core::fmt::{self, Write};
use gopark_backends::linux::io;
use gopark_core::os::{Borrowed, Errno, Outcome};

/// Prints a line of at most 255 bytes on the console.
pub fn print_line(message: fmt::Arguments<'_>) {
    let mut line = heapless::String::<256>::new();
    let _ = line.write_fmt(message);
    let _ = line.push('\n');
    // SAFETY: the console stays open.
    io::write(
        unsafe { Borrowed::new(libc::STDOUT_FILENO) },
        line.as_bytes(),
    );
}

/// The result of a system call; -1 means an error. Never inlined, because errno's address belongs
/// to a thread.
#[inline(never)]
pub fn check(result: libc::c_long) -> Result<usize, Errno> {
    // SAFETY: libc gives every thread an errno at this address.
    usize::try_from(result).map_err(|_| Errno::new(unsafe { *libc::__errno_location() }))
}

pub fn pid() -> i32 {
    // SAFETY: no memory is passed.
    unsafe { libc::getpid() }
}

pub fn is_first() -> bool {
    pid() == 1
}

/// Mounts `/proc`, which sysmon and the status page read.
pub fn mount_proc() -> Result<(), Errno> {
    let (place, kind) = (c"/proc".as_ptr(), c"proc".as_ptr());
    // SAFETY: a C string. The directory may exist already.
    unsafe { libc::mkdir(place, 0o555) };
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: C strings, and no data.
    check(unsafe { libc::mount(kind, place, kind, flags, core::ptr::null()) }.into()).map(drop)
}

/// Loads a kernel module.
#[doc(alias = "insmod")]
pub fn load(file: &CStr) -> Result<(), Errno> {
    let file = open(file)?;
    // SAFETY: the parameters are an empty C string.
    let loaded = check(unsafe { libc::syscall(libc::SYS_finit_module, file, c"".as_ptr(), 0) });
    close(file);
    loaded.map(drop)
}

/// Resident memory of this process in KiB. `smaps_rollup` walks the page tables; the figures in
/// `statm` and `status` lag behind (proc(5)).
pub fn resident() -> Option<u32> {
    let file = open(c"/proc/self/smaps_rollup").ok()?;
    let mut buffer = [0; 256];
    // SAFETY: opened above, and closed below.
    let read = io::read(unsafe { Borrowed::new(file) }, &mut buffer);
    close(file);
    let Outcome::Done(count) = read else {
        return None;
    };
    // The second line: "Rss:  260 kB".
    let line = buffer[..count]
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Rss:"))?;
    core::str::from_utf8(line.strip_suffix(b"kB")?)
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn open(path: &CStr) -> Result<i32, Errno> {
    // SAFETY: a C string.
    check(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }.into())
        .map(|fd| fd as i32)
}

pub fn close(fd: i32) {
    // SAFETY: no memory is passed.
    unsafe { libc::close(fd) };
}

/// Tells the peer that no more data will come.
pub fn shutdown_write(socket: Borrowed<'_>) {
    // SAFETY: no memory is passed.
    unsafe { libc::shutdown(socket.raw(), libc::SHUT_WR) };
}

/// Powers the machine off, or exits if this is not the first process.
pub fn power_off_or_exit(first: bool) -> ! {
    if first {
        // SAFETY: no memory is passed.
        unsafe {
            libc::sync();
            libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF);
        }
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(i32::from(first)) }
}
