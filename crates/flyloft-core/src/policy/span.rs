//! Spans of time as people write them: `15m`, `4h`, `14d`, `1h30m`, `never`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::excerpt;

/// A span of whole seconds, or none: `never`. It prints as it is written, so that printing and parsing are inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Option<Duration>);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpanError {
    #[error("`{0}` is not a span of time such as `15m`, `1h30m`, `14d` or `never`")]
    Malformed(String),
    #[error("`{0}` has no unit: write `{0}s`, `{0}m`, `{0}h` or `{0}d`")]
    NoUnit(String),
    #[error("the units of `{0}` do not go from the largest to the smallest")]
    Order(String),
    #[error("`{0}` is longer than 100 years: write `never`")]
    TooLong(String),
}

/// Units and their seconds, the largest first.
const UNITS: [(char, u64); 5] = [('w', 7 * 86_400), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

const LONGEST: u64 = 100 * 365 * 86_400;

impl Span {
    pub const NEVER: Span = Span(None);

    pub fn parse(text: &str) -> Result<Self, SpanError> {
        if text == "never" {
            return Ok(Self::NEVER);
        }
        if text.is_empty() {
            return Err(SpanError::Malformed(excerpt(text)));
        }
        let mut seconds: u64 = 0;
        let mut smaller = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, after) = rest.split_at(digits);
            let Some(unit) = after.chars().next() else { return Err(SpanError::NoUnit(excerpt(text))) };
            let Some(index) = UNITS.iter().position(|(name, _)| *name == unit).filter(|_| digits > 0) else {
                return Err(SpanError::Malformed(excerpt(text)));
            };
            if index < smaller {
                return Err(SpanError::Order(excerpt(text)));
            }
            seconds = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(UNITS[index].1))
                .and_then(|part| seconds.checked_add(part))
                .filter(|seconds| *seconds <= LONGEST)
                .ok_or_else(|| SpanError::TooLong(excerpt(text)))?;
            smaller = index + 1;
            rest = &after[1..];
        }
        Ok(Self(Some(Duration::from_secs(seconds))))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(duration) = self.0 else { return f.write_str("never") };
        let mut left = duration.as_secs();
        if left == 0 {
            return f.write_str("0s");
        }
        // Weeks are understood but not written: `14d` is what people say.
        for (name, seconds) in &UNITS[1..] {
            if left >= *seconds {
                write!(f, "{}{name}", left / seconds)?;
                left %= seconds;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = SpanError;
    fn from_str(text: &str) -> Result<Self, SpanError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;
    fn try_from(text: String) -> Result<Self, SpanError> {
        Self::parse(&text)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, seconds: u64) {
        assert_eq!(Span::parse(text), Ok(Span(Some(Duration::from_secs(seconds)))));
    }

    #[track_caller]
    fn refuse(text: &str, error: &str) {
        assert_eq!(Span::parse(text).unwrap_err().to_string(), error);
    }

    #[test]
    fn spans_are_read_as_people_write_them() {
        check("15m", 900);
        check("4h", 14_400);
        check("14d", 1_209_600);
        check("2w", 1_209_600);
        check("1h30m", 5400);
        check("90s", 90);
        check("0s", 0);
        assert_eq!(Span::parse("never"), Ok(Span::NEVER));
    }

    #[test]
    fn what_is_not_a_span_is_refused_with_what_would_be_one() {
        refuse("", "`` is not a span of time such as `15m`, `1h30m`, `14d` or `never`");
        refuse("15", "`15` has no unit: write `15s`, `15m`, `15h` or `15d`");
        refuse("15 m", "`15 m` is not a span of time such as `15m`, `1h30m`, `14d` or `never`");
        refuse("-5m", "`-5m` is not a span of time such as `15m`, `1h30m`, `14d` or `never`");
        refuse("5µ", "`5µ` is not a span of time such as `15m`, `1h30m`, `14d` or `never`");
        refuse("h", "`h` is not a span of time such as `15m`, `1h30m`, `14d` or `never`");
        refuse("30m1h", "the units of `30m1h` do not go from the largest to the smallest");
        refuse("1m1m", "the units of `1m1m` do not go from the largest to the smallest");
        refuse("99999999999999999999999s", "`99999999999999999999999s` is longer than 100 years: write `never`");
        refuse("36501d", "`36501d` is longer than 100 years: write `never`");
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(seconds in 0..=LONGEST) {
            let span = Span(Some(Duration::from_secs(seconds)));
            prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}|[0-9smhdw]{0,40}") {
            let _ = Span::parse(&text);
        }
    }
}
