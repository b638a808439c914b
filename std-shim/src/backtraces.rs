//! Backtraces of stopped goroutines, as text. There are none without the feature `backtrace`, nor
//! on processors other than x86-64 and aarch64.

use gopark_core::watch::StackCopy;
use std::io::{self, Write};

cfg_if::cfg_if! {
    if #[cfg(all(feature = "backtrace", any(target_arch = "x86_64", target_arch = "aarch64")))] {
        mod symbols;
        mod unwind;

        #[cfg(test)]
        mod tests;

        /// Makes backtraces. It caches unwind tables and symbols, so one value for a whole dump is
        /// fast. A new value for each dump sees the libraries loaded by then.
        ///
        /// Reading debug information may take more stack than a goroutine has, so use it on a
        /// thread.
        pub(crate) struct Backtraces {
            unwinder: unwind::Unwinder,
            symbols: symbols::Symbols,
        }

        impl Backtraces {
            pub(crate) fn new() -> Self {
                Backtraces {
                    unwinder: unwind::Unwinder::new(),
                    symbols: symbols::Symbols::default(),
                }
            }

            /// Writes two lines for each function, the innermost first: its name, then file and
            /// line. If the goroutine is parked in gopark, the first is the function of gopark that
            /// it has called.
            pub(crate) fn write(
                &mut self,
                stack: &StackCopy<'_>,
                out: &mut impl Write,
            ) -> io::Result<()> {
                self.symbols.write(&self.unwinder.frames(stack), out)
            }
        }
    } else {
        /// Writes nothing.
        pub(crate) struct Backtraces;

        impl Backtraces {
            pub(crate) fn new() -> Self {
                Backtraces
            }

            pub(crate) fn write(
                &mut self,
                _: &StackCopy<'_>,
                _: &mut impl Write,
            ) -> io::Result<()> {
                Ok(())
            }
        }
    }
}
