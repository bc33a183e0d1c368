//! Starting a process as the app's user.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Gid, Uid, setgid, setgroups, setsid, setuid};

use crate::Env;

/// Apps are killed for want of memory before this program is, and before anything of the host.
const OOM_SCORE: &str = "500";

#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// How a process stands to the terminal, and to the processes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// A session of its own, without a terminal.
    Session,
    /// The foreground group of the terminal that is our standard input.
    Foreground,
}

/// A command that sees only `env`. It gains no privileges later, whatever it executes, and is killed when this process
/// dies if `bound`.
#[allow(clippy::disallowed_methods, reason = "this program runs inside the container, where exec.rs is not")]
pub fn command(program: &std::ffi::OsStr, env: Env, dir: &Path, who: Identity, group: Group, bound: bool) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(env).current_dir(dir);
    // SAFETY: this program has one thread, so what runs between fork and exec may do what it likes.
    unsafe { command.pre_exec(move || become_app(who, group, bound).map_err(Into::into)) };
    command
}

fn become_app(who: Identity, group: Group, bound: bool) -> Result<(), Errno> {
    // While still root: the file is not the app's. Where it cannot be raised the process runs all the same.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    match group {
        Group::Session => drop(setsid()?),
        Group::Foreground => take_foreground()?,
    }
    setgroups(&[])?;
    setgid(Gid::from_raw(who.gid))?;
    setuid(Uid::from_raw(who.uid))?;
    nix::sys::prctl::set_no_new_privs()?;
    // Else what this program waits for could not end the process.
    SigSet::empty().thread_set_mask()?;
    if bound {
        // Last, since a change of user clears it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    Ok(())
}

/// Stops short of an error when the terminal has gone: the hang-up that follows ends the command.
fn take_foreground() -> Result<(), Errno> {
    let pid = nix::unistd::getpid();
    nix::unistd::setpgid(pid, pid)?;
    // A background group that does this is stopped by SIGTTOU unless it ignores it.
    // SAFETY: no handler runs, neither before nor after.
    let before = unsafe { signal(Signal::SIGTTOU, SigHandler::SigIgn)? };
    let _ = nix::unistd::tcsetpgrp(std::io::stdin(), pid);
    // SAFETY: as above.
    unsafe { signal(Signal::SIGTTOU, before)? };
    Ok(())
}
