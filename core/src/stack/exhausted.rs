//! The error of a spawn that gets no stack.

use crate::os::Errno;
use core::fmt;

/// There is no stack for another goroutine. `Display` names the limit that was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// How many goroutines have a stack of this size.
    pub goroutines: u32,
    /// The size of each in bytes.
    pub stack_size: usize,
    /// What ran out.
    pub cause: Shortage,
}

/// What a new stack could not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Address space: every reserved slot is in use.
    AddressSpace,
    /// Memory, and the system's error.
    Memory(Errno),
    /// A guard, and the system's error.
    Guard(Errno),
}

impl Exhausted {
    /// The system's error, or `ENOMEM` if the arena itself is full.
    pub fn errno(self) -> Errno {
        match self.cause {
            Shortage::AddressSpace => Errno::ENOMEM,
            Shortage::Memory(errno) | Shortage::Guard(errno) => errno,
        }
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exhausted {
            goroutines,
            stack_size,
            cause,
        } = self;
        write!(
            f,
            "no stack for another goroutine: {goroutines} have one of {} KiB each, ",
            stack_size / 1024
        )?;
        match cause {
            Shortage::AddressSpace => f.write_str(
                "which is all the address space that was reserved \
                 (raise `ulimit -v` or lower Builder::stack_size)",
            ),
            Shortage::Memory(errno) => {
                write!(
                    f,
                    "and memory for more was refused \
                     ({errno}; `ulimit -d` and vm.overcommit_memory=2 limit it)"
                )
            }
            Shortage::Guard(errno) => {
                write!(
                    f,
                    "and a guard was refused ({errno}; without MADV_GUARD_INSTALL, \
                     Linux 6.13, vm.max_map_count is the limit)"
                )
            }
        }
    }
}

impl core::error::Error for Exhausted {}
