//! Bytes of a pipe become lines of a log.
//!
//! A carriage return ends a line as well: what an app prints must not be able to write over the prefix that says who
//! printed it. A line without end is cut into pieces, so that it cannot fill the memory.

/// Bytes of one piece at most.
pub const LONGEST: usize = 8192;

#[derive(Debug, Default)]
pub struct Lines {
    /// The line that has not ended yet, shorter than [`LONGEST`].
    pending: Vec<u8>,
    /// The last byte was a carriage return; a line feed right after it belongs to it.
    returned: bool,
}

impl Lines {
    /// Takes bytes, and gives every line that they complete to `each`, without its end.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.returned) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|&b| b == b'\n' || b == b'\r');
            self.extend(&bytes[..end.unwrap_or(bytes.len())], &mut each);
            let Some(end) = end else { return };
            self.returned = bytes[end] == b'\r';
            // A progress bar returns again and again; that alone is no line.
            if !self.returned || !self.pending.is_empty() {
                each(&std::mem::take(&mut self.pending));
            }
            bytes = &bytes[end + 1..];
        }
    }

    /// There will be no more bytes: what is left is a line.
    pub fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            each(&std::mem::take(&mut self.pending));
        }
    }

    fn extend(&mut self, bytes: &[u8], each: &mut impl FnMut(&[u8])) {
        self.pending.extend_from_slice(bytes);
        while self.pending.len() > LONGEST {
            let cut = cut(&self.pending);
            each(&self.pending[..cut]);
            self.pending.drain(..cut);
        }
    }
}

/// Where a line that is too long is cut: not inside a UTF-8 character, if it is one.
fn cut(bytes: &[u8]) -> usize {
    let continues = |at: usize| bytes[at] & 0xc0 == 0x80;
    (LONGEST - 3..=LONGEST).rev().find(|&at| !continues(at)).unwrap_or(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        let mut each = |line: &[u8]| out.push(String::from_utf8_lossy(line).into_owned());
        for chunk in chunks {
            lines.feed(chunk, &mut each);
        }
        lines.finish(&mut each);
        out
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive() {
        let text = b"one\ntwo\r\n\n\xffthree\rfour\r\r\nlast";
        let whole = lines(&[text]);
        assert_eq!(whole, ["one", "two", "", "\u{fffd}three", "four", "last"]);
        for at in 0..text.len() {
            assert_eq!(lines(&[&text[..at], &text[at..]]), whole, "cut at {at}");
        }
    }

    #[test]
    fn a_carriage_return_cannot_hide_the_prefix() {
        assert_eq!(lines(&[b"innocent\rflyloft | all is well\n"]), ["innocent", "flyloft | all is well"]);
    }

    #[test]
    fn a_line_without_end_comes_in_pieces() {
        let long = vec![b'x'; 3 * LONGEST + 5];
        let lengths: Vec<usize> = lines(&[&long[..100], &long[100..], b"\n"]).iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST, LONGEST, LONGEST, 5]);
    }

    #[test]
    fn a_cut_leaves_characters_whole() {
        let long = "a".to_owned() + &"é".repeat(LONGEST);
        let pieces = lines(&[long.as_bytes()]);
        assert!(pieces.len() > 2);
        assert_eq!(pieces.concat(), long);
    }
}
