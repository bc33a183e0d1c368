//! `init exec`: a command in a running container, for shells, one-off commands and build steps.
//!
//! ```text
//!   lxc-attach ── init exec (root in the container) ── the command (the app's user, a session of its own)
//! ```
//!
//! The one in the middle reports 128 + the signal's number, and ends the command's whole group when `lxc-attach` dies:
//! that is how the engine takes back a command whose caller has gone. The command's variables come in an open file:
//! `lxc-attach` has an environment of its own, and its arguments are for everybody to read.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::Pid;

use crate::child::{self, Bond, Identity};
use crate::reap;
use crate::spec::Spec;
use crate::{Env, SPEC};

/// As shells have it.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// How long a command has between the hang-up and its end.
const PARTING: Duration = Duration::from_millis(200);

#[derive(Debug, PartialEq, Eq)]
struct Request {
    root: bool,
    dir: Option<PathBuf>,
    /// An open file with the command's variables beside the container's: `NAME=value`, each ended by a NUL.
    variables: Option<RawFd>,
    /// An open file that is the command's terminal.
    terminal: Option<RawFd>,
    argv: Vec<OsString>,
}

pub fn run(args: Vec<OsString>) -> ExitCode {
    let Some(request) = parse(args) else {
        eprintln!("usage: init exec [--root] [--dir DIR] [--variables FD] [--terminal FD] -- COMMAND [ARGUMENT]…");
        return ExitCode::from(2);
    };
    if let Some(Err(error)) = request.terminal.map(use_terminal) {
        return refuse(NOT_EXECUTABLE, &format!("failed to use the terminal: {error}"));
    }
    let variables = match request.variables.map_or(Ok(Env::new()), read_variables) {
        Ok(variables) => variables,
        Err(error) => return refuse(NOT_EXECUTABLE, &format!("failed to read the variables: {error}")),
    };
    let spec = match Spec::read(SPEC.as_ref()) {
        Ok(spec) => spec,
        Err(error) => return refuse(NOT_EXECUTABLE, &error.to_string()),
    };
    match start(&request, &spec, variables) {
        Ok(pid) => follow(pid),
        Err(code) => code,
    }
}

/// Makes the terminal all three streams, for the command and for what is said here.
fn use_terminal(number: RawFd) -> Result<(), Errno> {
    // SAFETY: whoever passed the number gave the file that goes with it to this process.
    let terminal = unsafe { OwnedFd::from_raw_fd(number) };
    nix::unistd::dup2_stdin(&terminal)?;
    nix::unistd::dup2_stdout(&terminal)?;
    nix::unistd::dup2_stderr(&terminal)
}

/// Reads the file to its end and closes it: the command does not get it.
fn read_variables(number: RawFd) -> io::Result<Env> {
    let mut text = Vec::new();
    // SAFETY: whoever passed the number gave the file that goes with it to this process.
    unsafe { File::from_raw_fd(number) }.read_to_end(&mut text)?;
    Ok(variables(&text))
}

fn variables(text: &[u8]) -> Env {
    let variable = |entry: &[u8]| {
        let end = entry.iter().position(|byte| *byte == b'=')?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_owned());
        Some((part(&entry[..end]), part(&entry[end + 1..])))
    };
    text.split(|byte| *byte == 0).filter_map(variable).collect()
}

fn parse(args: Vec<OsString>) -> Option<Request> {
    let mut request = Request { root: false, dir: None, variables: None, terminal: None, argv: Vec::new() };
    let mut args = args.into_iter();
    loop {
        let arg = args.next()?;
        match arg.to_str() {
            Some("--root") => request.root = true,
            Some("--dir") => request.dir = Some(args.next()?.into()),
            Some("--variables") => request.variables = Some(file_number(&args.next()?)?),
            Some("--terminal") => request.terminal = Some(file_number(&args.next()?)?),
            Some("--") => break,
            _ => return None,
        }
    }
    request.argv = args.collect();
    (!request.argv.is_empty()).then_some(request)
}

/// Beside the three streams, which are the command's.
fn file_number(text: &OsStr) -> Option<RawFd> {
    text.to_str()?.parse().ok().filter(|number| *number > libc::STDERR_FILENO)
}

fn start(request: &Request, spec: &Spec, variables: Env) -> Result<Pid, ExitCode> {
    let dir = request.dir.as_deref().unwrap_or(if request.root { Path::new("/") } else { &spec.dir });
    let who = if request.root { Identity { uid: 0, gid: 0 } } else { Identity { uid: spec.uid, gid: spec.gid } };
    if let Err(error) = std::fs::metadata(dir) {
        return Err(refuse(NOT_EXECUTABLE, &format!("failed to enter `{}`: {error}", dir.display())));
    }
    let bond = Bond { terminal: request.terminal.is_some(), mortal: true };
    watch();
    let env = spec.command_env(variables, request.root);
    let mut command = child::command(&request.argv[0], searched(env), dir, who, bond);
    command.args(&request.argv[1..]);
    match command.spawn() {
        Ok(child) => Ok(Pid::from_raw(child.id() as i32)),
        Err(error) => Err(explain(&request.argv[0], &error)),
    }
}

/// An empty `PATH` would have commands looked for in the app's directory.
fn searched(mut env: Env) -> Env {
    if env.get(OsStr::new("PATH")).is_some_and(|path| path.is_empty()) {
        env.remove(OsStr::new("PATH"));
    }
    env
}

fn explain(program: &OsStr, error: &io::Error) -> ExitCode {
    let program = program.to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound => refuse(NOT_FOUND, &format!("`{program}` was not found")),
        ErrorKind::PermissionDenied => refuse(NOT_EXECUTABLE, &format!("`{program}` may not be executed")),
        _ => refuse(NOT_EXECUTABLE, &format!("failed to start `{program}`: {error}")),
    }
}

fn refuse(code: u8, text: &str) -> ExitCode {
    eprintln!("flyloft: {text}");
    ExitCode::from(code)
}

/// The signals that this process waits for instead of dying of them; what it starts does not inherit that.
fn awaited() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM].into_iter().collect()
}

/// From here on nothing is missed: neither the command's end nor that of `lxc-attach`.
fn watch() {
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&awaited()), None);
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
}

/// Waits for the command, whose exit code becomes our own.
fn follow(command: Pid) -> ExitCode {
    release_streams();
    loop {
        match awaited().wait() {
            Ok(Signal::SIGCHLD) => {
                while let Some((pid, ending)) = reap::ended() {
                    let is_command = pid == command.as_raw();
                    if is_command {
                        // Or whoever reads its output would wait for what it left in the background.
                        end(command);
                    }
                    reap::reap(pid);
                    if is_command {
                        return ExitCode::from(ending.code());
                    }
                }
            }
            Ok(signal @ (Signal::SIGTERM | Signal::SIGHUP)) => return part(command, signal),
            // From the keyboard, and meant for the command, which gets them itself.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return part(command, Signal::SIGTERM),
        }
    }
}

/// The caller has gone: a hang-up, as a terminal's end would be, and then the end.
fn part(command: Pid, signal: Signal) -> ExitCode {
    signal_all(command, Signal::SIGHUP);
    signal_all(command, Signal::SIGCONT);
    std::thread::sleep(PARTING);
    end(command);
    ExitCode::from(128 + signal as u8)
}

/// Ends what is left of a command.
fn end(command: Pid) {
    signal_all(command, Signal::SIGKILL);
}

/// Signals the whole session that this process leads or led: a shell's jobs are groups of their own.
fn signal_all(leader: Pid, signal: Signal) {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    for pid in pids.filter(|pid| nix::unistd::getsid(Some(*pid)) == Ok(leader)) {
        // It may have ended just now.
        let _ = kill(pid, signal);
    }
}

/// The command's streams end when the command closes them, and not with us.
fn release_streams() {
    let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    let _ = nix::unistd::dup2_stdin(&null);
    let _ = nix::unistd::dup2_stdout(&null);
    let _ = nix::unistd::dup2_stderr(&null);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Option<Request> {
        parse(args.iter().map(Into::into).collect())
    }

    #[test]
    fn what_follows_the_dashes_is_the_command_whatever_it_looks_like() {
        let request = parsed(&["--root", "--dir", "/srv", "--", "--root", "--"]).unwrap();
        assert!(request.root);
        assert_eq!(request.dir.as_deref(), Some(Path::new("/srv")));
        assert_eq!(request.argv, ["--root", "--"]);
    }

    #[test]
    fn a_variable_holds_every_byte_but_nul() {
        let found = variables(b"A=x=1\ny\0B=\0C=\xff\xfe\0");
        let bytes = |text: &[u8]| OsString::from_vec(text.to_owned());
        let expected = [("A", &b"x=1\ny"[..]), ("B", b""), ("C", b"\xff\xfe")];
        assert_eq!(found, expected.map(|(name, value)| (name.into(), bytes(value))).into());
    }

    #[test]
    fn a_request_without_a_command_is_refused() {
        for args in [
            &[][..],
            &["--"],
            &["ls"],
            &["--dir"],
            &["--dir", "/", "ls"],
            &["--uid", "0", "--", "ls"],
            &["--terminal", "1", "--", "ls"],
            &["--variables", "2", "--", "ls"],
        ] {
            assert_eq!(parsed(args), None, "{args:?}");
        }
    }
}
