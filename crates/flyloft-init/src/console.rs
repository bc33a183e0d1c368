//! Where the lines go: the console, which LXC writes to a bounded log.
//!
//! Nothing here blocks. What the console does not take waits in a buffer; while that is full, nobody's output is read,
//! so that a flood is only as fast as the log takes it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{self, SetArg};

use crate::allowance::Allowance;
use crate::{clock, spec};

/// Above this many waiting bytes no more output is read.
const FULL: usize = 32 * 1024;

pub struct Console {
    /// `None` when there is no console, or nobody behind it any more.
    to: Option<File>,
    waiting: Vec<u8>,
    allowance: Allowance,
}

impl Console {
    pub fn open() -> Self {
        let to = open_console().or_else(|| std::io::stdout().as_fd().try_clone_to_owned().ok().map(File::from));
        if let Some(to) = &to
            && let Ok(flags) = fcntl(to, FcntlArg::F_GETFL)
        {
            let _ = fcntl(to, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK));
        }
        Self { to, waiting: Vec::new(), allowance: Allowance::new(Instant::now()) }
    }

    /// A line of a process.
    pub fn line(&mut self, name: &str, text: &[u8]) {
        let before = self.waiting.len();
        let _ = write!(self.waiting, "{} {name} | ", clock::now());
        self.waiting.extend_from_slice(text);
        self.waiting.push(b'\n');
        self.allowance.spend(self.waiting.len() - before);
    }

    /// A line of this program.
    pub fn say(&mut self, text: &str) {
        self.line(spec::SELF, text.as_bytes());
    }

    /// How long no more output is to be read, because there was too much of it.
    pub fn pause(&mut self) -> Option<Duration> {
        self.allowance.pause(Instant::now())
    }

    pub fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    /// What to poll for writing, if something waits.
    pub fn wants(&self) -> Option<BorrowedFd<'_>> {
        if self.waiting.is_empty() { None } else { self.to.as_ref().map(|to| to.as_fd()) }
    }

    /// Writes as much as is taken now.
    pub fn flush(&mut self) {
        while let Some(to) = &mut self.to
            && !self.waiting.is_empty()
        {
            match to.write(&self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.to = None,
            }
        }
        // What a flood has grown is given back.
        self.waiting.clear();
        self.waiting.shrink_to(FULL / 4);
    }

    /// Says why there is nothing to be run, and ends.
    pub fn last_words(mut self, text: &str) -> ExitCode {
        self.say(text);
        self.flush();
        ExitCode::FAILURE
    }
}

/// The console as a plain channel: for root alone, and with every byte as it is.
fn open_console() -> Option<File> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let console = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/console").ok()?;
    if !console.is_terminal() {
        return None;
    }
    let _ = console.set_permissions(PermissionsExt::from_mode(0o600));
    if let Ok(mut settings) = termios::tcgetattr(&console) {
        termios::cfmakeraw(&mut settings);
        let _ = termios::tcsetattr(&console, SetArg::TCSANOW, &settings);
    }
    Some(console)
}
