//! Errors as people meet them: what kind it is, what failed and why, and what to do about it.
//!
//! Inside a module, errors are `thiserror` enums with what a caller can act on. Where they leave the module for a
//! door they become this type. One table, [`Kind`], gives every kind its exit code and HTTP status.

use std::fmt;

use flyloft_core::harmless;
use serde::{Deserialize, Serialize};

/// An error at a door. Reads as: `error: WHAT`, then each cause indented, then the hints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub kind: Kind,
    /// What failed: lower case, no final period, names in backticks.
    pub what: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do, one sentence or command a line.
    pub hints: Vec<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What was asked for was tried and did not work.
    Failed,
    /// The arguments make no sense, or a name is malformed.
    Usage,
    /// There is no such app, environment, release or key.
    NotFound,
    /// It contradicts what is there: a name that is taken, a deploy that is under way.
    Conflict,
    /// The caller may not do this.
    Forbidden,
    /// The daemon cannot be reached, or ends: the same may work in a moment.
    Unavailable,
}

impl Kind {
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed | Kind::Conflict | Kind::Forbidden => 1,
            Kind::Usage => 2,
            Kind::NotFound => 20,
            // EX_TEMPFAIL of sysexits(3head).
            Kind::Unavailable => 75,
        }
    }
}

impl Error {
    pub fn new(kind: Kind, what: impl fmt::Display) -> Self {
        Self { kind, what: what.to_string(), causes: Vec::new(), hints: Vec::new() }
    }

    pub fn failed(what: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, what)
    }

    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, what)
    }

    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(Kind::NotFound, what)
    }

    pub fn conflict(what: impl fmt::Display) -> Self {
        Self::new(Kind::Conflict, what)
    }

    /// What is told to whose command, or push, the daemon does not wait for.
    pub fn ending() -> Self {
        Self::new(Kind::Unavailable, "the daemon ends, or a newer version takes over")
            .hint("it is there again in a moment: do the same once more")
    }

    /// What is told to who wants an upgrade beside another.
    pub fn upgrading() -> Self {
        Self::conflict("an upgrade is under way already")
    }

    pub fn forbidden(what: impl fmt::Display) -> Self {
        Self::new(Kind::Forbidden, what)
    }

    /// `what` failed because of `error`, whose own sources become the causes.
    pub fn because(what: impl fmt::Display, error: impl std::error::Error) -> Self {
        Self::failed(what).cause(error)
    }

    pub fn cause(mut self, error: impl std::error::Error) -> Self {
        self.causes.push(error.to_string());
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            // Some errors end with what their source says.
            if !self.causes.last().is_some_and(|last| last.ends_with(&text)) {
                self.causes.push(text);
            }
            source = error.source();
        }
        self
    }

    /// What failed, and the first line of each cause. What follows in a cause may be an app's output, which is nobody's
    /// but its reader's.
    pub fn brief(&self) -> String {
        let causes = self.causes.iter().filter_map(|cause| cause.lines().next()).filter(|line| !line.ends_with(':'));
        std::iter::once(self.what.as_str()).chain(causes).collect::<Vec<_>>().join(": ")
    }

    /// As a terminal shows it: the error, its causes, then the hints; each line ends with a newline. Much of it may
    /// quote what others have written.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.what);
        for cause in &self.causes {
            text.push_str(&format!("  because: {}\n", cause.replace('\n', "\n    ")));
        }
        for hint in &self.hints {
            text.push_str(&format!("  hint: {hint}\n"));
        }
        harmless::text(&text)
    }

    /// As `--json` prints it, on one line.
    pub fn json(&self) -> String {
        harmless::json(&format!("{}\n", serde_json::json!({ "error": self })))
    }

    /// The same in the manner of a push: ` !     WHAT`, then the rest as detail.
    pub fn push_text(&self) -> String {
        let mut text: String = self.what.lines().map(|line| format!(" !     {line}\n")).collect();
        let causes = self.causes.iter().map(|cause| format!("because: {cause}"));
        for rest in causes.chain(self.hints.iter().map(|hint| format!("hint: {hint}"))) {
            text.extend(rest.lines().map(|line| format!("       {line}\n")));
        }
        harmless::text(&text)
    }

    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hints.push(hint.to_string());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// `result.or_failed(|| format!("failed to …"))?`: the short way from a module's error to one at a door.
pub trait OrFailed<T> {
    fn or_failed<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: std::error::Error> OrFailed<T> for std::result::Result<T, E> {
    fn or_failed<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::because(what(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_quotes_does_nothing_to_a_terminal() {
        let mut error = Error::failed("failed to find `\u{1b}[2Jmain`").hint("\u{202e}push");
        error.causes.push("git: \u{1b}]0;owned\u{7}no\r\n=====> Deployed".to_owned());
        assert_eq!(
            error.text(),
            "error: failed to find `main`\n  because: git: no\n    =====> Deployed\n  hint: push\n"
        );
        let pushed =
            " !     failed to find `main`\n       because: git: no\n       =====> Deployed\n       hint: push\n";
        assert_eq!(error.push_text(), pushed);
        assert!(error.json().contains("\\u202epush"), "{}", error.json());
    }
}
