//! Random numbers, for fairness alone.

use std::sync::atomic::{AtomicU32, Ordering};

/// A number below `n`: a sequence of Weyl, mixed. Threads that lose an update get the same number,
/// which is random all the same.
///
/// The constants are not those of gopark's selects: two shuffles by equal sequences undo each
/// other.
pub(crate) fn random(n: u32) -> u32 {
    static SEQUENCE: AtomicU32 = AtomicU32::new(0);
    let weyl = SEQUENCE.load(Ordering::Relaxed).wrapping_add(0x6d2b_79f5);
    SEQUENCE.store(weyl, Ordering::Relaxed);
    let mixed = (weyl ^ (weyl >> 16)).wrapping_mul(0x7feb_352d);
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x846c_a68b);
    ((u64::from(mixed ^ (mixed >> 16)) * u64::from(n)) >> 32) as u32
}
