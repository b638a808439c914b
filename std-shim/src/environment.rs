//! The environment, `GOPARK_…` variables and `RUST_BACKTRACE`: the one place that reads it.
#![allow(
    unsafe_code,
    reason = "the kernel's auxiliary vector is read through libc"
)]

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};

/// The value of the variable `name`. `None` if it is not set, and in a privileged process.
pub(crate) fn var(name: &str) -> Option<OsString> {
    if is_privileged() {
        None
    } else {
        env::var_os(name)
    }
}

/// As [`var`]; an empty value counts as none.
pub(crate) fn nonempty(name: &str) -> Option<OsString> {
    var(name).filter(|value| !value.is_empty())
}

/// The error of a variable whose value is not `wanted`.
pub(crate) fn invalid(name: &str, value: &OsString, wanted: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("{name}: {value:?} is not {wanted}"),
    )
}

/// Whether the program file is setuid or setgid or has capabilities. The environment then comes from
/// a user who may lack the rights that the process has, such as to write a file.
#[doc(alias = "AT_SECURE")]
fn is_privileged() -> bool {
    // SAFETY: asks for a number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
