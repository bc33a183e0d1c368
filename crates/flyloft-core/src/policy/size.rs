//! Sizes in bytes as people write them: `512M`, `1GiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::excerpt;

/// Bytes. `K`, `M`, `G` and `T`, alone or with `B` or `iB`, are powers of 1024, as systemd and Docker have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    #[error("`{0}` is not a size such as `512M` or `1GiB`")]
    Malformed(String),
    #[error("`{0}` is more than can be")]
    TooLarge(String),
}

/// The largest first.
const UNITS: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

impl Size {
    pub fn parse(text: &str) -> Result<Self, SizeError> {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = &text[..text.len() - unit.len()];
        let upper = unit.to_ascii_uppercase();
        let letter = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
        let factor = match UNITS.iter().find(|(name, _)| *name == letter) {
            Some((_, factor)) => *factor,
            None if upper.is_empty() || upper == "B" => 1,
            None => return Err(SizeError::Malformed(excerpt(text))),
        };
        if number.is_empty() {
            return Err(SizeError::Malformed(excerpt(text)));
        }
        // The largest file or memory that Linux counts is an i64.
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        match bytes.filter(|bytes| i64::try_from(*bytes).is_ok()) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(SizeError::TooLarge(excerpt(text))),
        }
    }

    /// For reading, not for writing down: `33.1 MiB`.
    pub fn about(self) -> String {
        let bytes = self.0;
        match bytes {
            0..1024 => format!("{bytes} B"),
            1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
            1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
            _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}iB", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Size {
    type Error = SizeError;
    fn try_from(text: String) -> Result<Self, SizeError> {
        Self::parse(&text)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("512MB", 512 << 20),
            ("1GiB", 1 << 30),
            ("1gib", 1 << 30),
            ("2T", 2 << 40),
            ("64K", 64 << 10),
            ("4096", 4096),
            ("4096B", 4096),
            ("0", 0),
        ] {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "M", "iB", "4iB", "1.5G", "-1M", "1 G", "1X", "1GG", "１M"] {
            assert_eq!(Size::parse(text), Err(SizeError::Malformed(text.to_owned())));
        }
        for text in ["99999999999999999999", "9999999999T", "8388608T"] {
            assert_eq!(Size::parse(text), Err(SizeError::TooLarge(text.to_owned())));
        }
    }

    #[test]
    fn a_size_prints_in_the_largest_unit_that_holds_it_whole() {
        let printed = [0, 1000, 4096, 1536 << 20, 1 << 30].map(|bytes| Size(bytes).to_string());
        assert_eq!(printed, ["0B", "1000B", "4KiB", "1536MiB", "1GiB"]);
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(bytes in 0..=i64::MAX as u64, zeros in 0..50) {
            let size = Size(bytes >> zeros << zeros);
            prop_assert_eq!(Size::parse(&size.to_string()), Ok(size));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}|[0-9]{0,25}[kmgtibKMGTIB]{0,4}") {
            let _ = Size::parse(&text);
        }
    }
}
