//! Environment variables: their names, and what a value may be.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::excerpt;

/// `[A-Za-z_][A-Za-z0-9_]*`, 200 characters at most: what every shell and language can name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VariableName(String);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VariableError {
    #[error("`{0}` is not the name of a variable: letters, digits and `_`, no digit first")]
    Name(String),
    /// The kernel ends a variable at the first NUL (execve(2)).
    #[error("the value of `{0}` contains a NUL character")]
    Nul(VariableName),
    #[error("the value of `{name}` has {length} bytes, {VALUE_MAX} are allowed")]
    TooLong { name: VariableName, length: usize },
}

const NAME_MAX: usize = 200;

/// Linux takes 128 KiB for one `NAME=value` (execve(2), MAX_ARG_STRLEN).
const VALUE_MAX: usize = 128 * 1024 - NAME_MAX - 2;

impl VariableName {
    pub fn parse(name: &str) -> Result<Self, VariableError> {
        let inner = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !inner || name.is_empty() || name.len() > NAME_MAX || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(VariableError::Name(excerpt(name)));
        }
        Ok(Self(name.to_owned()))
    }

    /// Whether this variable can have that value. Newlines are fine: variables never pass through a format of lines.
    pub fn check(&self, value: &str) -> Result<(), VariableError> {
        if value.contains('\0') {
            return Err(VariableError::Nul(self.clone()));
        }
        if value.len() > VALUE_MAX {
            return Err(VariableError::TooLong { name: self.clone(), length: value.len() });
        }
        Ok(())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for VariableName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for VariableName {
    type Err = VariableError;
    fn from_str(name: &str) -> Result<Self, VariableError> {
        Self::parse(name)
    }
}

impl TryFrom<String> for VariableName {
    type Error = VariableError;
    fn try_from(name: String) -> Result<Self, VariableError> {
        Self::parse(&name)
    }
}

impl From<VariableName> for String {
    fn from(name: VariableName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_what_a_shell_can_name() {
        for name in ["PORT", "_", "a1", "DATABASE_URL"] {
            assert_eq!(VariableName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "1A", "A-B", "A B", "A=B", "A\nlxc.hook.start", "Ä", "A\0", &"A".repeat(201)] {
            assert!(VariableName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_value_may_have_several_lines_but_no_nul() {
        let name = VariableName::parse("KEY").unwrap();
        assert_eq!(name.check("-----BEGIN-----\n$(x) `y` 'z'\r\n\u{1b}"), Ok(()));
        assert_eq!(name.check("a\0b").unwrap_err().to_string(), "the value of `KEY` contains a NUL character");
    }

    #[test]
    fn a_value_that_linux_would_not_take_is_refused() {
        let name = VariableName::parse("KEY").unwrap();
        assert_eq!(name.check(&"x".repeat(VALUE_MAX)), Ok(()));
        assert!(matches!(name.check(&"x".repeat(VALUE_MAX + 1)), Err(VariableError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_refused_in_one_line(text in "(?s).{0,300}") {
            if let Err(error) = VariableName::parse(&text) {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }
    }
}
