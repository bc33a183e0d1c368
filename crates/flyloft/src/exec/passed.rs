//! Open files that this process leaves to the program that it becomes.
//!
//! Each keeps the number that it has: threads of this process still run until then, and would work on or close whatever
//! took another number. The names never change, since both programs must know them, and one that is unknown is closed.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Files, and what each is.
#[derive(Debug, Default)]
pub struct Passed(Vec<(String, OwnedFd)>);

/// The process that they are for, and what each is with its number: `4711 http=12 ssh=14 program=20`.
const VARIABLE: &str = "FLYLOFT_SOCKETS";

impl Passed {
    /// Those that the program before left to this one, if there was one. Must be asked once.
    pub fn inherited() -> Option<Self> {
        std::env::var(VARIABLE).ok().and_then(|text| Self::parse(std::process::id(), &text))
    }

    /// A child has its parent's variable and none of its files.
    fn parse(own: u32, text: &str) -> Option<Self> {
        let (pid, files) = text.split_once(' ')?;
        if pid.parse() != Ok(own) {
            return None;
        }
        let file = |named: &str| {
            let (name, number) = named.split_once('=')?;
            let number: RawFd = number.parse().ok()?;
            let close = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
            // SAFETY: it is borrowed for this call, which fails where nothing is open.
            nix::fcntl::fcntl(unsafe { BorrowedFd::borrow_raw(number) }, close).ok()?;
            // SAFETY: the program before has left it open for this one, and nothing else here takes it.
            Some((name.to_owned(), unsafe { OwnedFd::from_raw_fd(number) }))
        };
        Some(Self(files.split(' ').filter_map(file).collect()))
    }

    pub fn add(&mut self, name: &str, file: impl Into<OwnedFd>) {
        self.0.push((name.to_owned(), file.into()));
    }

    /// The same, of a text that has no file.
    pub fn add_text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut file = File::from(memfd_create(c"passed", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        self.add(name, file);
        Ok(())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(its, _)| its == name)
    }

    /// Takes out those of one name.
    pub fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        self.0.extract_if(.., |(its, _)| its == name).map(|(_, file)| file).collect()
    }

    /// Takes out the one of this name, and reads it.
    pub fn take_text(&mut self, name: &str) -> Option<String> {
        io::read_to_string(File::from(self.take(name).pop()?)).ok()
    }

    pub(super) fn variable(&self) -> (&'static str, String) {
        let named = self.0.iter().map(|(name, file)| format!(" {name}={}", file.as_raw_fd()));
        (VARIABLE, format!("{}{}", std::process::id(), named.collect::<String>()))
    }

    pub(super) fn numbers(&self) -> Vec<RawFd> {
        self.0.iter().map(|(_, file)| file.as_raw_fd()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_program_finds_the_files_that_are_for_it_and_a_child_does_not() {
        let mut passed = Passed::default();
        passed.add_text("failure", "said nothing").unwrap();
        let (_, text) = passed.variable();
        let number = passed.take("failure").pop().unwrap().into_raw_fd();
        assert_eq!(text, format!("{} failure={number}", std::process::id()));
        assert!(Passed::parse(std::process::id() + 1, &text).is_none());
        let mut found = Passed::parse(std::process::id(), &format!("{text} http=1048575 other")).unwrap();
        assert_eq!(found.numbers(), [number]);
        assert_eq!(found.take_text("failure").unwrap(), "said nothing");
        assert!(found.take_text("failure").is_none());
    }
}
