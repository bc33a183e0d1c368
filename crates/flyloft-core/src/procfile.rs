//! The Procfile: a line for each process type, `web: gunicorn app:app`.
//!
//! Comments (`#`) and empty lines are skipped, the ends of lines may be those of Windows, a byte order mark is
//! forgiven. Anything else that is not understood is an error with line and column: a line that is silently left out
//! is a process that silently does not run.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::place::Place;

/// `web`, `worker` …: letters, digits, `-` and `_`, 30 characters at most. It is part of log lines and of `DYNO`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProcessType(String);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a process type: letters, digits, `-` and `_`, {TYPE_MAX} at most")]
pub struct NotAProcessType(String);

/// Process types and their commands, in the order of the file, each type once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Procfile {
    lines: Vec<(ProcessType, String)>,
}

/// Where and why a Procfile is not understood. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("Procfile:{line}:{column}: {problem}")]
pub struct ProcfileError {
    pub line: usize,
    pub column: usize,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    #[error("a process type is expected here, such as `web`")]
    NoType,
    #[error("`:` is expected after `{after}`")]
    NoColon { after: String },
    #[error("process type `{0}` has more than {TYPE_MAX} characters")]
    TypeTooLong(String),
    #[error("process type `{name}` has no command")]
    NoCommand { name: ProcessType },
    #[error("this is process type number {}, and {TYPES_MAX} are allowed", TYPES_MAX + 1)]
    TooMany,
    #[error("process type `{name}` is already on line {first}")]
    Duplicate { name: ProcessType, first: usize },
    #[error("the character {0:?} is not allowed here")]
    Control(char),
    #[error("this is not UTF-8")]
    NotUtf8,
}

const TYPE_MAX: usize = 30;
/// In one Procfile.
const TYPES_MAX: usize = 100;

impl ProcessType {
    pub const WEB: &str = "web";
    pub const RELEASE: &str = "release";

    pub fn parse(name: &str) -> Result<Self, NotAProcessType> {
        if name.is_empty() || name.len() > TYPE_MAX || !name.chars().all(is_type_character) {
            return Err(NotAProcessType(name.chars().take(TYPE_MAX + 10).collect()));
        }
        Ok(Self(name.to_owned()))
    }

    pub fn web() -> Self {
        Self(Self::WEB.to_owned())
    }

    /// Answers HTTP at `PORT`.
    pub fn is_web(&self) -> bool {
        self.0 == Self::WEB
    }

    /// Runs once after the build and before the start; its failure fails the deploy.
    pub fn is_release(&self) -> bool {
        self.0 == Self::RELEASE
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_type_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

impl Procfile {
    pub fn parse(bytes: &[u8]) -> Result<Self, ProcfileError> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let Place { line, column } = Place::of(bytes, error.valid_up_to());
            ProcfileError { line, column, problem: Problem::NotUtf8 }
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut procfile = Self::default();
        let mut numbers = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let number = index + 1;
            let place = |(column, problem)| ProcfileError { line: number, column, problem };
            let Some(Line { column, name, command }) = parse_line(line).map_err(place)? else { continue };
            if let Some(first) = procfile.lines.iter().position(|(other, _)| *other == name) {
                return Err(place((column, Problem::Duplicate { name, first: numbers[first] })));
            }
            if procfile.lines.len() == TYPES_MAX {
                return Err(place((column, Problem::TooMany)));
            }
            procfile.lines.push((name, command));
            numbers.push(number);
        }
        Ok(procfile)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(line, _)| line.as_str() == name).map(|(_, command)| command.as_str())
    }

    pub fn web(&self) -> Option<&str> {
        self.get(ProcessType::WEB)
    }

    pub fn release(&self) -> Option<&str> {
        self.get(ProcessType::RELEASE)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ProcessType, &str)> {
        self.lines.iter().map(|(name, command)| (name, command.as_str()))
    }

    /// Sets the command of a process type, at the end if it is new.
    pub fn set(&mut self, name: ProcessType, command: String) {
        match self.lines.iter_mut().find(|(line, _)| *line == name) {
            Some(line) => line.1 = command,
            None => self.lines.push((name, command)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

struct Line {
    column: usize,
    name: ProcessType,
    command: String,
}

/// `None` if there is nothing on the line. An error comes with its column.
fn parse_line(line: &str) -> Result<Option<Line>, (usize, Problem)> {
    let column = |at: usize| line[..at].chars().count() + 1;
    // A tab stands between words like a space; other control characters end up in logs and terminals.
    if let Some((at, c)) = line.char_indices().find(|(_, c)| c.is_control() && *c != '\t') {
        return Err((column(at), Problem::Control(c)));
    }
    let trimmed = line.trim_start();
    let start = line.len() - trimmed.len();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok(None);
    }
    let end = start + trimmed.find(|c| !is_type_character(c)).unwrap_or(trimmed.len());
    let name = &line[start..end];
    if name.is_empty() {
        return Err((column(start), Problem::NoType));
    }
    let Some(command) = line[end..].strip_prefix(':') else {
        return Err((column(end), Problem::NoColon { after: name.chars().take(TYPE_MAX).collect() }));
    };
    let name = ProcessType::parse(name).map_err(|NotAProcessType(name)| (column(start), Problem::TypeTooLong(name)))?;
    match command.trim() {
        "" => Err((column(end + 1), Problem::NoCommand { name })),
        command => Ok(Some(Line { column: column(start), name, command: command.to_owned() })),
    }
}

impl fmt::Display for ProcessType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ProcessType {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProcessType {
    type Err = NotAProcessType;
    fn from_str(name: &str) -> Result<Self, NotAProcessType> {
        Self::parse(name)
    }
}

impl TryFrom<String> for ProcessType {
    type Error = NotAProcessType;
    fn try_from(name: String) -> Result<Self, NotAProcessType> {
        Self::parse(&name)
    }
}

impl From<ProcessType> for String {
    fn from(name: ProcessType) -> String {
        name.0
    }
}

/// A Procfile again, without comments.
impl fmt::Display for Procfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(name, command)| writeln!(f, "{name}: {command}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let procfile = Procfile::parse(text.as_bytes()).unwrap();
        let lines: Vec<(&str, &str)> = procfile.iter().map(|(name, command)| (name.as_str(), command)).collect();
        assert_eq!(lines, expected);
    }

    #[track_caller]
    fn refuse(text: impl AsRef<[u8]>, error: &str) {
        assert_eq!(Procfile::parse(text.as_ref()).unwrap_err().to_string(), error);
    }

    #[test]
    fn process_types_keep_their_order_and_their_commands_to_the_letter() {
        check(
            "web: gunicorn app:app --bind '[::]:$PORT' # not a comment\nworker:python worker.py\nrelease:\t./migrate  \n",
            &[
                ("web", "gunicorn app:app --bind '[::]:$PORT' # not a comment"),
                ("worker", "python worker.py"),
                ("release", "./migrate"),
            ],
        );
    }

    #[test]
    fn windows_line_ends_a_byte_order_mark_comments_and_empty_lines_are_forgiven() {
        check(
            "\u{feff}# staging\r\n\r\nweb: ./run\r\n   \n  worker: ./work",
            &[("web", "./run"), ("worker", "./work")],
        );
        check("", &[]);
        check("# nothing\n", &[]);
    }

    #[test]
    fn web_and_release_are_known_by_name() {
        let procfile = Procfile::parse(b"release: ./migrate\nweb: ./run").unwrap();
        assert_eq!(
            (procfile.web(), procfile.release(), procfile.get("worker")),
            (Some("./run"), Some("./migrate"), None)
        );
    }

    #[test]
    fn errors_say_where() {
        refuse("web gunicorn", "Procfile:1:4: `:` is expected after `web`");
        refuse("web: ./run\n\nworker", "Procfile:3:7: `:` is expected after `worker`");
        refuse("web : ./run", "Procfile:1:4: `:` is expected after `web`");
        refuse("web.1: ./run", "Procfile:1:4: `:` is expected after `web`");
        refuse("# ok\n: ./run", "Procfile:2:1: a process type is expected here, such as `web`");
        refuse("  \"web\": ./run", "Procfile:1:3: a process type is expected here, such as `web`");
        refuse("web:  \r\n", "Procfile:1:5: process type `web` has no command");
        refuse("web: a\nweb: b", "Procfile:2:1: process type `web` is already on line 1");
        refuse("\n\nweb: a\n# b\n web: b", "Procfile:5:2: process type `web` is already on line 3");
        refuse("web: é \u{1b}[2J", "Procfile:1:8: the character '\\u{1b}' is not allowed here");
        refuse("web: a\rworker: b", "Procfile:1:7: the character '\\r' is not allowed here");
        refuse("web: a\0", "Procfile:1:7: the character '\\0' is not allowed here");
        refuse(b"web: a\nw\xffrker: b", "Procfile:2:2: this is not UTF-8");
        refuse(b"\xef\xbb\xbfw\xff", "Procfile:1:2: this is not UTF-8");
        refuse(
            format!("{}: ./run", "w".repeat(31)),
            "Procfile:1:1: process type `wwwwwwwwwwwwwwwwwwwwwwwwwwwwwww` has more than 30 characters",
        );
    }

    #[test]
    fn the_byte_order_mark_has_no_column_of_its_own() {
        refuse("\u{feff}web", "Procfile:1:4: `:` is expected after `web`");
    }

    #[test]
    fn more_process_types_than_anybody_has_are_refused_where_they_begin_to_be_too_many() {
        let lines = |count| (1..=count).map(|number| format!("p{number}: ./run\n")).collect::<String>();
        assert_eq!(Procfile::parse(lines(100).as_bytes()).unwrap().iter().count(), 100);
        refuse(lines(3000), "Procfile:101:1: this is process type number 101, and 100 are allowed");
    }

    #[test]
    fn a_conflict_marker_of_git_is_an_error_where_it_is() {
        refuse("web: ./run\n<<<<<<< HEAD\n", "Procfile:2:1: a process type is expected here, such as `web`");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_at_a_place_that_exists(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "([a-z:# \\t\\r\\n]|\\PC|\u{feff}){0,60}".prop_map(String::into_bytes),
            ],
        ) {
            if let Err(ProcfileError { line, column, .. }) = Procfile::parse(&bytes) {
                let text = String::from_utf8_lossy(&bytes);
                let line = text.split('\n').nth(line - 1);
                prop_assert!(line.is_some_and(|line| column <= line.chars().count() + 1));
            }
        }

        #[test]
        fn what_is_printed_reads_the_same(
            lines in prop::collection::btree_map("[a-zA-Z0-9_-]{1,30}", "[!-~]([ -~é]{0,20}[!-~])?", 0..6),
        ) {
            let mut before = Procfile::default();
            lines.into_iter().for_each(|(name, command)| before.set(ProcessType::parse(&name).unwrap(), command));
            prop_assert_eq!(Procfile::parse(before.to_string().as_bytes()).unwrap(), before);
        }
    }
}
