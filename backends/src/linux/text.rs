//! Text in fixed buffers, without an allocator.

use core::fmt::{self, Write};

/// Text in the caller's buffer, cut where the buffer ends.
pub(super) struct Text<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Text<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Text { buffer, len: 0 }
    }

    // Without indexing: a slice range that can fail links four panic messages.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// The text and a newline, which replaces the last byte if the buffer is full.
    pub(super) fn as_line(&mut self) -> &[u8] {
        self.len = self.len.min(self.buffer.len() - 1);
        let _ = self.write_str("\n");
        self.as_bytes()
    }
}

impl Write for Text<'_> {
    /// Fails if the text was cut.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.buffer.get_mut(self.len).ok_or(fmt::Error)? = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// The decimal number at the start of `text`.
pub(super) fn number(text: &[u8]) -> Option<u32> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number, digit| {
        Some(
            number
                .unwrap_or(0u32)
                .wrapping_mul(10)
                .wrapping_add(u32::from(digit - b'0')),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_where_the_buffer_ends() {
        let mut buffer = [0; 4];
        let mut text = Text::new(&mut buffer);
        assert_eq!(text.write_str("abc"), Ok(()));
        assert_eq!(text.write_str("de"), Err(fmt::Error));
        assert_eq!(text.as_bytes(), b"abcd");
        assert_eq!(text.as_line(), b"abc\n");
    }

    #[test]
    fn a_number_ends_where_its_digits_do() {
        let numbers = [
            &b"0"[..],
            b"4294967295\n",
            b"281 0x5",
            b"-1",
            b"running",
            b"",
        ]
        .map(number);
        assert_eq!(
            numbers,
            [Some(0), Some(u32::MAX), Some(281), None, None, None]
        );
    }
}
