//! Whether the program has thread-locals.

#![allow(unsafe_code, reason = "dl_iterate_phdr")]

use core::ffi::c_void;
use core::ptr;

/// Whether anything that is loaded has thread-local variables: the program, its libraries, libc.
///
/// Where goroutines move between threads, code that keeps the address of such a variable across a call that parks goes on with another thread's.
/// Without any, there is none to keep: a program linked static with musl, say, that has no `thread_local!`. (Its `errno` is each thread's own all the same; the
/// calls of this crate are made so that nobody keeps the address.) Ask before threads start: a library that is
/// loaded later may bring some.
#[doc(alias = "PT_TLS")]
pub fn has_thread_locals() -> bool {
    // SAFETY: `look` takes what the call passes to it.
    unsafe { libc::dl_iterate_phdr(Some(look), ptr::null_mut()) != 0 }
}

/// Ends the search with 1 at an object that has thread-locals.
unsafe extern "C" fn look(
    object: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut c_void,
) -> libc::c_int {
    // SAFETY: says what is loaded, for as long as this call lasts.
    let object = unsafe { &*object };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: so many headers are there.
    let headers =
        unsafe { core::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    libc::c_int::from(
        headers
            .iter()
            .any(|header| header.p_type == libc::PT_TLS && header.p_memsz != 0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That a program without any has none is for ci/sizes.sh to see: std has thread-locals.
    #[test]
    fn a_program_with_std_has_thread_locals() {
        assert!(has_thread_locals());
    }
}
