//! Reads the environment: `GOPARK_…` and `LISTEN_…` variables, and `RUST_BACKTRACE`. No other
//! file does.
#![allow(
    unsafe_code,
    reason = "the kernel's auxiliary vector is read through libc"
)]

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};

/// Returns the value of the variable `name`. `None` if it is not set, or in a privileged process.
pub(crate) fn var(name: &str) -> Option<OsString> {
    if is_privileged() {
        None
    } else {
        env::var_os(name)
    }
}

/// As [`var`], but returns `None` for an empty value.
pub(crate) fn nonempty(name: &str) -> Option<OsString> {
    var(name).filter(|value| !value.is_empty())
}

/// Returns the error of a variable whose `value` is not what is `wanted`.
pub(crate) fn invalid(name: &str, value: &OsString, wanted: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("{name}: {value:?} is not {wanted}"),
    )
}

/// Returns whether the program file is setuid or setgid or has capabilities. The user that set the
/// environment may then lack rights that the process has, such as to write a file.
#[doc(alias = "AT_SECURE")]
fn is_privileged() -> bool {
    // SAFETY: getauxval only reads memory that the C library owns.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
