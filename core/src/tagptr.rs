//! A pointer and a sequence number packed into 64 bits, for the kernel to keep.
//!
//! ```text
//! 64-bit:  63 ........ 23 | 22 ...... 0          32-bit:  63 .... 32 | 31 .... 0
//!          address >> 7     tag                           address      tag
//! ```
//!
//! A user address of 64-bit Linux has at most 48 bits unless a program asks `mmap` for a higher
//! one, which gopark does not. The pointee is aligned to 128 bytes, so the low 7 bits are zero.
//! That leaves 41 bits of address and 23 of tag.

use core::fmt;

/// The alignment in bytes of what a [`TaggedPtr`] points to.
pub const ALIGN: usize = 128;

/// The width of the tag in bits.
pub const TAG_BITS: u32 = if usize::BITS == 64 { 23 } else { 32 };

const ADDR_SHIFT: u32 = if usize::BITS == 64 {
    ALIGN.trailing_zeros()
} else {
    0
};

/// An address aligned to [`ALIGN`] (or null) with a tag of [`TAG_BITS`] bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct TaggedPtr(u64);

impl TaggedPtr {
    /// Address null, tag 0: the token of a backend's own wake-up descriptor. No descriptor of core
    /// has it.
    pub const NULL: Self = TaggedPtr(0);

    /// Packs an address and a tag. Bits of `tag` above [`TAG_BITS`] are dropped.
    ///
    /// # Panics
    ///
    /// If `addr` is not aligned to [`ALIGN`] or does not fit.
    #[doc(alias = "taggedPointerPack")]
    pub fn pack(addr: usize, tag: u32) -> Self {
        assert!(
            addr % ALIGN == 0,
            "tagged pointer: the address is not aligned to 128 bytes"
        );
        let packed =
            TaggedPtr((addr as u64) >> ADDR_SHIFT << TAG_BITS | u64::from(tag & Self::TAG_MASK));
        assert!(
            packed.addr() == addr,
            "tagged pointer: the address does not fit into 48 bits"
        );
        packed
    }

    const TAG_MASK: u32 = u32::MAX >> (32 - TAG_BITS);

    /// The address.
    pub const fn addr(self) -> usize {
        (self.0 >> TAG_BITS << ADDR_SHIFT) as usize
    }

    /// The tag.
    pub const fn tag(self) -> u32 {
        self.0 as u32 & Self::TAG_MASK
    }

    /// The packed word, which the kernel stores.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Rebuilds the value from [`to_bits`](Self::to_bits).
    pub const fn from_bits(bits: u64) -> Self {
        TaggedPtr(bits)
    }
}

impl fmt::Debug for TaggedPtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}#{}", self.addr(), self.tag())
    }
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/tagptr.rs"]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_tag_survive_packing() {
        for addr in [
            0,
            ALIGN,
            0x7fff_ff00,
            usize::MAX >> 17 << 8 & usize::MAX >> 16,
        ] {
            for tag in [0, 1, 0x002b_cdef, (1u64 << TAG_BITS).wrapping_sub(1) as u32] {
                let packed = TaggedPtr::from_bits(TaggedPtr::pack(addr, tag).to_bits());
                assert_eq!((packed.addr(), packed.tag()), (addr, tag));
            }
        }
    }

    #[test]
    fn a_tag_wraps_without_touching_the_address() {
        let packed = TaggedPtr::pack(ALIGN, u32::MAX);
        assert_eq!(packed.addr(), ALIGN);
        assert_eq!(u64::from(packed.tag()), (1u64 << TAG_BITS) - 1);
    }

    #[test]
    #[should_panic(expected = "is not aligned")]
    fn an_unaligned_address_panics() {
        TaggedPtr::pack(ALIGN + 8, 0);
    }
}
