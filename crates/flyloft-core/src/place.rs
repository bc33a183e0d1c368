//! Where in a text something is, for errors that point at it.

use std::fmt;

/// Line and column, both counted from 1; the column in characters, a byte order mark not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// The place of the byte at `offset`, which may be the end of the text.
    pub fn of(text: &[u8], offset: usize) -> Self {
        let before = &text[..offset.min(text.len())];
        let before = String::from_utf8_lossy(before.strip_prefix(b"\xef\xbb\xbf").unwrap_or(before));
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { line, column }
    }
}

/// `3:14`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
