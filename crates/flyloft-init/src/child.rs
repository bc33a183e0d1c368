//! Starting a process as the app's user.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, setgid, setgroups, setsid, setuid};

use crate::Env;

/// Apps are killed for want of memory before this program is, and before anything of the host.
const OOM_SCORE: &str = "500";

#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// What a process is beside its program: each has a session of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bond {
    /// Its standard input is the terminal of its session.
    pub terminal: bool,
    /// It is killed when this process dies.
    pub mortal: bool,
}

/// A command that sees only `env`, and gains no privileges later, whatever it executes.
#[allow(clippy::disallowed_methods, reason = "this program runs inside the container, where exec.rs is not")]
pub fn command(program: &std::ffi::OsStr, env: Env, dir: &Path, who: Identity, bond: Bond) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(env).current_dir(dir);
    // SAFETY: this program has one thread, so what runs between fork and exec may do what it likes.
    unsafe { command.pre_exec(move || become_app(who, bond).map_err(Into::into)) };
    command
}

fn become_app(who: Identity, bond: Bond) -> Result<(), Errno> {
    // While still root: the file is not the app's. Where it cannot be raised the process runs all the same.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    setsid()?;
    if bond.terminal {
        // SAFETY: TIOCSCTTY takes a number.
        Errno::result(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) })?;
    }
    setgroups(&[])?;
    setgid(Gid::from_raw(who.gid))?;
    setuid(Uid::from_raw(who.uid))?;
    nix::sys::prctl::set_no_new_privs()?;
    // Else what this program waits for could not end the process.
    SigSet::empty().thread_set_mask()?;
    if bond.mortal {
        // Last, since a change of user clears it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    Ok(())
}
