//! Tagged pointers against a pair of an address and a tag, and against the arithmetic of their
//! bits.

use super::{ALIGN, TAG_BITS, TaggedPtr};
use std::format;

/// Sixteen bytes make two pairs of an address (48 bits, as the kernel gives user space) and a tag.
pub fn run(input: &[u8]) {
    let mut bytes = input.iter().copied();
    let mut number = |len| {
        (0..len).fold(0, |number, _| {
            number << 8 | u64::from(bytes.next().unwrap_or(0))
        })
    };
    let [a, b] = [0; 2].map(|_| pair(number(5), number(3)));
    assert_eq!(
        a.0 == b.0,
        (a.1, a.2) == (b.1, b.2),
        "two pairs have the same word, or one pair has two words"
    );

    let bits = number(8);
    let any = TaggedPtr::from_bits(bits);
    assert_eq!(any.to_bits(), bits);
    if usize::BITS == 64 {
        assert_eq!(
            TaggedPtr::pack(any.addr(), any.tag()).to_bits(),
            bits,
            "the address and tag of a word do not make the same word"
        );
    }
    if bits % 64 == 1 {
        assert_eq!(
            format!("{any:?}"),
            format!("{:#x}#{}", any.addr(), any.tag())
        );
    }
}

/// Packs a pair. Returns the word, and the address and tag that must come out of it.
fn pair(page: u64, tag: u64) -> (u64, usize, u32) {
    let tag_values = 1u128 << TAG_BITS;
    let addr = (page as usize % (1 << (usize::BITS.min(48) - ALIGN.trailing_zeros()))) * ALIGN;
    let kept = (u128::from(tag) % tag_values) as u32;
    let packed = TaggedPtr::pack(addr, tag as u32);
    assert_eq!(
        (packed.addr(), packed.tag()),
        (addr, kept),
        "address or tag changes"
    );
    // Bits of the tag above `TAG_BITS` are dropped.
    assert_eq!(
        TaggedPtr::pack(addr, (tag as u32).wrapping_add(tag_values as u32)),
        packed
    );
    let word = if usize::BITS == 64 {
        (addr / ALIGN) as u128 * tag_values + u128::from(kept)
    } else {
        addr as u128 * tag_values + u128::from(kept)
    };
    assert_eq!(
        u128::from(packed.to_bits()),
        word,
        "the word differs from the layout at the head of tagptr.rs"
    );
    assert_eq!(packed == TaggedPtr::NULL, addr == 0 && kept == 0);
    (packed.to_bits(), addr, kept)
}
