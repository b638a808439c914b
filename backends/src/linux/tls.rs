//! Whether the program has thread-locals.
//!
//! Source: dl_iterate_phdr(3); `PT_TLS` in elf(5).

#![allow(unsafe_code, reason = "dl_iterate_phdr")]

use core::ffi::c_void;
use core::ptr;

/// Whether any loaded object has thread-local variables: the program, its libraries, libc.
///
/// If goroutines may move between threads, code that keeps the address of such a variable across a
/// call that parks resumes with another thread's variable. A program without thread-locals cannot
/// do so: a static musl program without `thread_local!`, for example. (Its `errno` is still one for
/// each thread; the calls of this crate never keep its address.) Ask before threads start, because
/// a library that is loaded later may bring some.
#[doc(alias = "PT_TLS")]
pub fn has_thread_locals() -> bool {
    // SAFETY: `has_tls_segment` has the signature of the callback, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(has_tls_segment), ptr::null_mut()) != 0 }
}

/// Ends the search with 1 at an object that has thread-locals.
unsafe extern "C" fn has_tls_segment(
    object: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut c_void,
) -> libc::c_int {
    // SAFETY: libc passes a valid description, which stays valid during this call.
    let object = unsafe { &*object };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: `dlpi_phnum` counts the headers at `dlpi_phdr`.
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

    /// `ci/sizes.sh` has the other half: minimal-echo, static, has none.
    #[test]
    fn a_program_with_std_has_thread_locals() {
        assert!(has_thread_locals());
    }
}
