//! Whether the program has thread-locals, and where.
//!
//! Source: dl_iterate_phdr(3); `PT_TLS` in elf(5).

#![allow(unsafe_code, reason = "dl_iterate_phdr")]

use core::ffi::c_void;
use core::ops::Range;
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

/// The thread-locals of the calling thread among which `address` is, as far as they belong to one
/// object and lie side by side. `None` if it is among none.
pub fn thread_locals_around(address: usize) -> Option<Range<usize>> {
    let mut search = (address, None::<Range<usize>>);
    // SAFETY: `has_address` gets the address of `search`, of the type that it expects.
    unsafe { libc::dl_iterate_phdr(Some(has_address), (&raw mut search).cast()) };
    search.1
}

/// Ends the search with 1 at an object that has thread-locals.
unsafe extern "C" fn has_tls_segment(
    object: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut c_void,
) -> libc::c_int {
    // SAFETY: libc passes a valid description, which stays valid during this call.
    libc::c_int::from(unsafe { tls_size(&*object) } != 0)
}

/// Ends the search with 1 at the object with the thread-local at an address.
unsafe extern "C" fn has_address(
    object: *mut libc::dl_phdr_info,
    _: usize,
    search: *mut c_void,
) -> libc::c_int {
    // SAFETY: as above; `thread_locals_around` passes the search.
    let (object, search) = unsafe {
        (
            &*object,
            &mut *search.cast::<(usize, Option<Range<usize>>)>(),
        )
    };
    // SAFETY: as above.
    let size = unsafe { tls_size(object) };
    // Null if the thread has none of them yet.
    let start = object.dlpi_tls_data.addr();
    let block = start..start + size;
    if start == 0 || !block.contains(&search.0) {
        return 0;
    }
    search.1 = Some(block);
    1
}

/// How many bytes of thread-locals an object has for each thread.
///
/// # Safety
///
/// libc has passed the description.
unsafe fn tls_size(object: &libc::dl_phdr_info) -> usize {
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: `dlpi_phnum` counts the headers at `dlpi_phdr`.
    let headers =
        unsafe { core::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    headers
        .iter()
        .filter(|header| header.p_type == libc::PT_TLS)
        .map(|header| header.p_memsz as usize)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ci/sizes.sh` has the other half: minimal-echo, static, has none.
    #[test]
    fn a_program_with_std_has_thread_locals() {
        assert!(has_thread_locals());
    }

    #[test]
    fn the_thread_locals_around_one_include_it_and_its_neighbours() {
        std::thread_local! {
            static ONE: u64 = const { 1 };
            static OTHER: [u64; 9] = const { [2; 9] };
        }
        let address = |value: *const u64| value.addr();
        let around = |of: usize| thread_locals_around(of).expect("it is a thread-local");
        let one = ONE.with(|one| address(one));
        let other = OTHER.with(|other| address(&other[8]));
        assert!(around(one).contains(&other) && around(one) == around(other));
        assert!(
            std::thread::spawn(move || thread_locals_around(one).is_none())
                .join()
                .unwrap()
        );
        assert!(thread_locals_around(address(&0)).is_none());
        static SHARED: u64 = 3;
        assert!(thread_locals_around(address(&SHARED)).is_none());
    }
}
