//! Backtraces of goroutines that have stopped, as text. Without the feature `backtrace`, and on processors that nobody unwinds here, there are none.

use gopark_core::sched::StackCopy;
use std::io::{self, Write};

cfg_if::cfg_if! {
    if #[cfg(all(feature = "backtrace", any(target_arch = "x86_64", target_arch = "aarch64")))] {
        mod symbols;
        mod unwind;

        #[cfg(test)]
        mod tests;

        /// Makes backtraces. It keeps what it finds out, so one for a whole dump is fast; one for each dump knows what is loaded by then.
        ///
        /// Not for use on a goroutine's stack, which it may be too large for.
        pub(crate) struct Backtraces {
            unwinder: unwind::Unwinder,
            symbols: symbols::Symbols,
        }

        impl Backtraces {
            pub(crate) fn new() -> Self {
                Backtraces { unwinder: unwind::Unwinder::new(), symbols: symbols::Symbols::default() }
            }

            /// Writes two lines for each function, the innermost first: its name, and file and line. The first is what the goroutine called of
            /// gopark, if that is where it is parked.
            pub(crate) fn write(&mut self, stack: &StackCopy<'_>, out: &mut impl Write) -> io::Result<()> {
                self.symbols.write(&self.unwinder.frames(stack), out)
            }
        }
    } else {
        /// Makes none.
        pub(crate) struct Backtraces;

        impl Backtraces {
            pub(crate) fn new() -> Self {
                Backtraces
            }

            pub(crate) fn write(&mut self, _: &StackCopy<'_>, _: &mut impl Write) -> io::Result<()> {
                Ok(())
            }
        }
    }
}
