//! Options that are `None` only if this crate has a bug.
//!
//! `Option::expect` would do, but makes a small program 200 bytes larger (`ci/sizes.sh`). The
//! message tells where it comes from: the location in the panic is this file.

pub(crate) trait Must<T> {
    /// The value. Panics with `broken`, the rule that does not hold, if there is none.
    fn must(self, broken: &'static str) -> T;
}

impl<T> Must<T> for Option<T> {
    #[inline]
    fn must(self, broken: &'static str) -> T {
        match self {
            Some(value) => value,
            None => missing(broken),
        }
    }
}

#[cold]
fn missing(broken: &'static str) -> ! {
    panic!("{broken}")
}
