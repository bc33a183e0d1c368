//! The one door for processes. Argv only: nothing here ever goes through a shell.
//!
//! An error keeps the argv, the status and the tail of stderr, so that whoever shows it can say what happened.

mod passed;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::harmless::{self, Colours};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

pub use self::passed::Passed;
use crate::transcript::Transcript;

/// A process to be: program, arguments and surroundings.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    /// What it is told that it is called, if that is something else.
    name: Option<OsString>,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    clear_env: bool,
    dir: Option<PathBuf>,
    user: Option<u32>,
    stdin: Vec<u8>,
    passed: Vec<(Arc<OwnedFd>, RawFd)>,
    /// Resources as setrlimit(2) names them, and how much of each there is.
    bounds: Vec<(libc::__rlimit_resource_t, u64)>,
    goes_first: bool,
    most_output: u64,
    timeout: Option<Duration>,
}

/// What a process left behind that ended with status 0.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

#[derive(Debug, Error)]
pub enum ExecError {
    #[error("failed to start `{program}`")]
    Start { program: String, source: std::io::Error },
    #[error("`{argv}` {ending}{}", tail_as_suffix(.tail))]
    Status { argv: String, ending: String, code: Option<i32>, tail: String },
    #[error("`{argv}` was stopped after {seconds} s")]
    Timeout { argv: String, seconds: u64, tail: String },
    #[error("failed to talk to `{argv}`")]
    Pipe { argv: String, source: std::io::Error },
}

impl ExecError {
    /// The exit status, where the process ran and ended with one.
    pub fn code(&self) -> Option<i32> {
        match self {
            ExecError::Status { code, .. } => *code,
            _ => None,
        }
    }

    /// The last lines that it wrote to stderr.
    pub fn tail(&self) -> &str {
        match self {
            ExecError::Status { tail, .. } | ExecError::Timeout { tail, .. } => tail,
            _ => "",
        }
    }
}

/// What [`Cmd::run`] takes of an output before it gives the process up, unless [`Cmd::most_output`] says less.
const MOST_OUTPUT: u64 = 256 << 20;

/// The same of what it says beside that.
const MOST_ERRORS: u64 = 8 << 20;

/// Bytes of stderr that an error keeps.
const TAIL: usize = 4096;

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            name: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            clear_env: false,
            dir: None,
            user: None,
            stdin: Vec::new(),
            passed: Vec::new(),
            bounds: Vec::new(),
            goes_first: false,
            most_output: MOST_OUTPUT,
            timeout: None,
        }
    }

    /// What the process finds as its argument 0.
    pub fn named(mut self, name: impl AsRef<OsStr>) -> Self {
        self.name = Some(name.as_ref().to_owned());
        self
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// The process sees only what [`Cmd::env`] says.
    pub fn clear_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Runs as this user id and the group id of the same number, with no supplementary groups.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The process and what it starts have this file open as descriptor `number`, which is 3 or more.
    pub fn pass(mut self, file: OwnedFd, number: RawFd) -> std::io::Result<Self> {
        self.passed.push((Arc::new(high(&file)?), number));
        Ok(self)
    }

    /// The process, and each that it starts, is killed when it writes a file larger than this (`RLIMIT_FSIZE`).
    pub fn largest_file(mut self, bytes: u64) -> Self {
        self.bounds.push((libc::RLIMIT_FSIZE, bytes));
        self
    }

    /// The process, and each that it starts, gets no more memory of its own than this (`RLIMIT_DATA`; what is mapped
    /// of files does not count). More is refused, so that it can say so. When the machine runs out, it goes first.
    pub fn most_memory(mut self, bytes: u64) -> Self {
        self.bounds.push((libc::RLIMIT_DATA, bytes));
        self.goes_first = true;
        self
    }

    /// [`Cmd::run`] gives the process up when it prints more than this.
    pub fn most_output(mut self, bytes: u64) -> Self {
        self.most_output = bytes;
        self
    }

    /// [`Cmd::run`] and [`Cmd::stream`] kill the process, and what it started in its process group, after this time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Runs to the end and gives what it printed; a status other than 0 is an error.
    pub async fn run(&self) -> Result<Output, ExecError> {
        let mut child = self.spawn(Stdio::piped(), Stdio::piped(), Stdio::piped())?;
        let group = Group(child.id());
        let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut output = Output::default();
        let work = async {
            let feed = async {
                // The process may end without reading: its status tells more than the broken pipe.
                if let Some(mut stdin) = stdin.take() {
                    let _ = stdin.write_all(&self.stdin).await;
                }
            };
            // Whichever is too much ends both: the other may never come to its end.
            let read = async {
                tokio::try_join!(
                    read_all(stdout, self.most_output, &mut output.stdout),
                    read_all(stderr, MOST_ERRORS, &mut output.stderr)
                )
            };
            tokio::join!(feed, read).1?;
            child.wait().await
        };
        let status = self.within(work).await;
        group.settle(status.is_ok());
        let tail = String::from_utf8_lossy(&output.stderr).into_owned();
        self.judge(status, &tail)?;
        Ok(output)
    }

    /// Runs to the end, with each line of stdout and stderr going to the transcript as detail.
    pub async fn stream(&self, transcript: &Transcript) -> Result<(), ExecError> {
        let mut child = self.spawn(Stdio::null(), Stdio::piped(), Stdio::piped())?;
        let group = Group(child.id());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut tail = String::new();
        let work = async {
            let mut ignored = String::new();
            let (out, err) =
                tokio::join!(tell_lines(stdout, transcript, &mut ignored), tell_lines(stderr, transcript, &mut tail));
            out.and(err)?;
            child.wait().await
        };
        let status = self.within(work).await;
        group.settle(status.is_ok());
        self.judge(status, &tail)
    }

    /// Starts the process in a process group of its own and hands it over. It is killed when the handle is dropped.
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    pub fn spawn(&self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Child, ExecError> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).stdin(stdin).stdout(stdout).stderr(stderr).kill_on_drop(true).process_group(0);
        if let Some(name) = &self.name {
            command.arg0(name);
        }
        if self.clear_env {
            command.env_clear();
        }
        command.envs(&self.env);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        if !self.passed.is_empty() {
            let passed: Vec<(RawFd, RawFd)> = self.passed.iter().map(|(file, to)| (file.as_raw_fd(), *to)).collect();
            // SAFETY: between fork and exec the closure only calls dup2 and fcntl, and allocates nothing.
            unsafe { command.pre_exec(move || renumber(&passed)) };
        }
        if !self.bounds.is_empty() {
            let bounds = self.bounds.clone();
            // SAFETY: between fork and exec the closure only calls setrlimit, and allocates nothing.
            unsafe { command.pre_exec(move || bound(&bounds)) };
        }
        if self.goes_first {
            // SAFETY: between fork and exec the closure only makes system calls.
            unsafe { command.pre_exec(go_first) };
        }
        // Last, since another user may not do all of that.
        if let Some(id) = self.user {
            // SAFETY: between fork and exec the closure only makes system calls.
            unsafe { command.pre_exec(move || become_user(id)) };
        }
        command.spawn().map_err(|source| ExecError::Start { program: self.called().into(), source })
    }

    /// What people know it by. The program itself may be an open file without a name.
    fn called(&self) -> Cow<'_, str> {
        self.name.as_ref().unwrap_or(&self.program).to_string_lossy()
    }

    async fn within<T>(&self, work: impl Future<Output = std::io::Result<T>>) -> Result<T, Ended> {
        match self.timeout {
            None => work.await.map_err(Ended::Pipe),
            Some(limit) => match tokio::time::timeout(limit, work).await {
                Ok(done) => done.map_err(Ended::Pipe),
                Err(_) => Err(Ended::Late(limit)),
            },
        }
    }

    fn judge(&self, status: Result<ExitStatus, Ended>, stderr: &str) -> Result<(), ExecError> {
        let argv = || self.to_string();
        let tail = || harmless::lines(last_bytes(stderr.trim_end(), TAIL));
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                Err(ExecError::Status { argv: argv(), ending: ending(status), code: status.code(), tail: tail() })
            }
            Err(Ended::Late(limit)) => Err(ExecError::Timeout { argv: argv(), seconds: limit.as_secs(), tail: tail() }),
            Err(Ended::Pipe(source)) => Err(ExecError::Pipe { argv: argv(), source }),
        }
    }
}

/// As a person would type it, for messages only.
impl std::fmt::Display for Cmd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.called())?;
        for arg in &self.args {
            write!(f, " {}", arg.to_string_lossy())?;
        }
        Ok(())
    }
}

enum Ended {
    Late(Duration),
    Pipe(std::io::Error),
}

/// The process group of a child. What the child started dies with it when it did not end by itself, also when the
/// future that waits for it is dropped.
struct Group(Option<u32>);

impl Group {
    fn settle(mut self, ended: bool) {
        if ended {
            self.0 = None;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(id as i32), nix::sys::signal::SIGKILL);
        }
    }
}

/// Asks the child and what it started to end, waits up to `grace`, and then kills what is left of them.
pub async fn end(child: &mut Child, grace: Duration) {
    let Some(id) = child.id() else { return };
    let group = nix::unistd::Pid::from_raw(id as i32);
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::SIGTERM);
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::SIGKILL);
        let _ = child.wait().await;
    }
}

/// Makes this process run `program`, by the same id and in the same surroundings, with what is `passed` open. Comes back
/// only if that fails.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
pub fn replace(program: &Path, argv: &[OsString], passed: &Passed) -> std::io::Error {
    let mut command = std::process::Command::new(program);
    if let Some((name, args)) = argv.split_first() {
        command.arg0(name).args(args);
    }
    let (name, value) = passed.variable();
    command.env(name, value);
    for of_the_last_start in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(of_the_last_start);
    }
    let numbers = passed.numbers();
    // SAFETY: the closure only calls fcntl, which is async-signal-safe.
    unsafe { command.pre_exec(move || numbers.iter().try_for_each(|number| outlive(*number))) };
    command.exec()
}

/// Has an open file stay open when this process becomes another program.
fn outlive(number: RawFd) -> std::io::Result<()> {
    // SAFETY: F_SETFD changes a flag of a descriptor, and fails where nothing is open.
    done(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })
}

/// Takes notice of children that have ended, until there are none or `until` has come. For a process that is about to be
/// another program, which does not know them.
pub fn reap(until: std::time::Instant) {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while std::time::Instant::now() < until {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(5)),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Gives open files their agreed numbers. None of the originals may have one of these numbers, see [`high`].
fn renumber(passed: &[(RawFd, RawFd)]) -> std::io::Result<()> {
    for (from, to) in passed {
        // SAFETY: dup2 is async-signal-safe; the copy it makes stays open across exec.
        if unsafe { libc::dup2(*from, *to) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

fn bound(bounds: &[(libc::__rlimit_resource_t, u64)]) -> std::io::Result<()> {
    for (resource, most) in bounds {
        let limit = libc::rlimit { rlim_cur: *most, rlim_max: *most };
        // SAFETY: setrlimit is a bare system call, and reads a structure that is this function's own.
        done(unsafe { libc::setrlimit(*resource, &limit) })?;
    }
    Ok(())
}

/// Makes the calling process the first that the kernel ends for want of memory, see proc(5).
fn go_first() -> std::io::Result<()> {
    const HIGHEST: &[u8] = b"1000";
    // SAFETY: open, write and close are async-signal-safe; they read constants, and the descriptor is this function's.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        done(file)?;
        let written = libc::write(file, HIGHEST.as_ptr().cast(), HIGHEST.len());
        done(written as libc::c_int).and_then(|()| done(libc::close(file)))
    }
}

/// See [`Cmd::user`].
fn become_user(id: u32) -> std::io::Result<()> {
    // SAFETY: these are safe after fork, where there is one thread.
    unsafe {
        done(libc::setgroups(0, std::ptr::null()))?;
        done(libc::setgid(id))?;
        done(libc::setuid(id))
    }
}

fn done(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// The same file under a descriptor of at least 10, out of the way of the numbers that children expect.
fn high(file: &OwnedFd) -> std::io::Result<OwnedFd> {
    let copy = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor, nobody else has it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
}

/// "failed with status 2", "was killed by signal 9".
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn tail_as_suffix(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!(": {tail}") }
}

fn last_bytes(text: &str, count: usize) -> &str {
    let mut from = text.len().saturating_sub(count);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

async fn read_all(from: Option<impl AsyncRead + Unpin>, most: u64, to: &mut Vec<u8>) -> std::io::Result<()> {
    match from {
        Some(from) => match from.take(most.saturating_add(1)).read_to_end(to).await? as u64 > most {
            false => Ok(()),
            true => Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it prints without end")),
        },
        None => Ok(()),
    }
}

/// Tells each line as detail, and keeps the last of them in `tail`.
async fn tell_lines(
    from: Option<impl AsyncRead + Unpin>,
    transcript: &Transcript,
    tail: &mut String,
) -> std::io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without end is told in pieces, so that it cannot fill the memory.
        if (&mut from).take(8192).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let text = harmless::line(&String::from_utf8_lossy(&line), Colours::Dropped);
        transcript.detail(if text.is_empty() { " " } else { &text });
        tail.push_str(&text);
        tail.push('\n');
        if tail.len() > 2 * TAIL {
            *tail = last_bytes(tail, TAIL).to_owned();
        }
    }
}

#[cfg(test)]
mod tests;
