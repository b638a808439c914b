//! Options that are `None` only if this crate has a bug.
//!
//! `Option::expect` would do, but makes a small program 180 bytes larger (`ci/sizes.sh`).

pub(crate) trait Must<T> {
    /// The value. Panics with `broken`, the rule that does not hold, if there is none.
    fn must(self, broken: &'static str) -> T;
}

impl<T> Must<T> for Option<T> {
    #[inline]
    #[track_caller]
    fn must(self, broken: &'static str) -> T {
        match self {
            Some(value) => value,
            None => missing(broken),
        }
    }
}

#[cold]
#[track_caller]
fn missing(broken: &'static str) -> ! {
    panic!("{broken}")
}
