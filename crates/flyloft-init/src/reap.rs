//! Children that have ended, orphans included.

use std::fmt;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Code(i32),
    Signal(i32),
}

impl Ending {
    /// As a shell reports it: 128 and the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Ending::Code(code) => code as u8,
            Ending::Signal(signal) => 128u8.saturating_add(signal as u8),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "exited with code {code}"),
            Ending::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// A child that has ended, not yet reaped: its process id, and so that of its group, is still its own.
pub fn ended() -> Option<(i32, Ending)> {
    // SAFETY: zero is a valid `siginfo_t`; waitid(2) leaves it so when no child has ended.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // nix knows no real-time signals and fails on a child that was killed by one, hence the call itself.
    // SAFETY: `info` lives across the call, and its fields are those of SIGCHLD.
    let (pid, status) = unsafe {
        if libc::waitid(libc::P_ALL, 0, &raw mut info, options) != 0 {
            return None;
        }
        (info.si_pid(), info.si_status())
    };
    let ending = if info.si_code == libc::CLD_EXITED { Ending::Code(status) } else { Ending::Signal(status) };
    (pid != 0).then_some((pid, ending))
}

/// Takes away what is left of a child that [`ended`] told of.
pub fn reap(pid: i32) {
    // SAFETY: waitpid(2) takes a null status.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}
