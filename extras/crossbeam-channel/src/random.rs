//! Random numbers, for fairness alone.

use std::sync::atomic::{AtomicU32, Ordering};

/// A number below `n`: a sequence of Weyl, mixed. Threads that lose an update get the same number,
/// which is random all the same.
pub(crate) fn random(n: u32) -> u32 {
    static SEQUENCE: AtomicU32 = AtomicU32::new(0);
    let weyl = SEQUENCE.load(Ordering::Relaxed).wrapping_add(0x9e37_79b9);
    SEQUENCE.store(weyl, Ordering::Relaxed);
    let mixed = (weyl ^ (weyl >> 16)).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    ((u64::from(mixed ^ (mixed >> 16)) * u64::from(n)) >> 32) as u32
}
