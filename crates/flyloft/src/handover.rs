//! A newer version of this program takes over, or the same one with a newer configuration.
//!
//! ```text
//!   flyloft upgrade ─► would it start? ─ no ──► this one goes on
//!                            └ yes ─► what is under way comes to its end ─► exec: the same process, the new program
//!                                                                             │ fails before it serves
//!                                          this program, as it was started ◄──┘ exec
//! ```
//!
//! The process keeps its id and its listening sockets, so that whoever watches it sees no end, and no connection is
//! refused. Containers do not belong to it in any case.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::{Error, OrFailed, Result};
use crate::exec::{Cmd, ExecError, Passed, replace};
use crate::sockets::Sockets;

/// How long the new program may take to look at everything.
const CHECK: Duration = Duration::from_secs(30);

/// How long what this process has started may take to end, once it has been killed.
const ENDING: Duration = Duration::from_secs(1);

/// What is passed on beside sockets: the program before, the text of its configuration, and to that program, when it is
/// back, what kept the other from starting.
const PROGRAM: &str = "program";
const CONFIGURATION: &str = "configuration";
const FAILURE: &str = "failure";

/// What this process was started as.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    argv: Vec<OsString>,
    /// Where this daemon has what it keeps.
    state: PathBuf,
}

/// What a program that is looked at is told: the state directory of the daemon that asks.
const ASKING: &str = "FLYLOFT_ASKING";

/// The state directory of the daemon that asks whether this program would start, if one does.
pub fn asking() -> Option<PathBuf> {
    std::env::var_os(ASKING).map(PathBuf::from)
}

impl Program {
    /// Must be asked before a newer file takes the place of this one.
    pub fn own(state: &Path) -> Result<Self> {
        let mut argv: Vec<OsString> = std::env::args_os().collect();
        // What a link leads to may be another file by then.
        let named = argv.first().map(PathBuf::from).filter(|path| path.is_absolute());
        let path = match named {
            Some(path) => path,
            None => std::env::current_exe().or_failed(|| "failed to find this program's file")?,
        };
        // So that whoever follows need not look for it.
        argv.splice(..1.min(argv.len()), [path.clone().into()]);
        Ok(Self { path, argv, state: state.to_owned() })
    }

    /// One that takes no arguments.
    #[cfg(test)]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), argv: vec![path.into()], state: "/".into() }
    }

    /// Takes the file that is there now, and asks whether it would start: as `flyloft serve --check`.
    pub async fn check(&self) -> Result<Checked> {
        let path = self.path.display();
        let goes_on = || format!("`{path}` would not start, and the daemon goes on as it was");
        let program = Opened::open(&self.path).or_failed(goes_on)?;
        let args = self.argv.iter().skip(1);
        let check = Cmd::new(program.place()).named(&self.path).args(args).arg("--check");
        let check = check.env(ASKING, &self.state).timeout(CHECK);
        let refused = |error: ExecError| {
            let mut refused = Error::failed(goes_on());
            match error.tail().trim() {
                "" => refused = refused.cause(error),
                said => refused.causes.push(said.strip_prefix("error: ").unwrap_or(said).to_owned()),
            }
            refused
        };
        check.run().await.map_err(refused)?;
        Ok(Checked { program, argv: self.argv.clone() })
    }
}

/// A program's file, which stays the same whatever takes its place.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    is_binary: bool,
}

impl Opened {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut magic = Vec::new();
        (&file).take(4).read_to_end(&mut magic)?;
        Ok(Self { path: path.to_owned(), file, is_binary: magic == b"\x7fELF" })
    }

    /// What execve(2) is given. An interpreter opens its script itself, when this descriptor is closed.
    fn place(&self) -> PathBuf {
        if self.is_binary { in_proc(&self.file) } else { self.path.clone() }
    }
}

fn in_proc(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// A program that would start.
#[derive(Debug)]
pub struct Checked {
    program: Opened,
    argv: Vec<OsString>,
}

/// What this process is about to become.
pub struct Successor {
    pub program: Checked,
    pub sockets: Sockets,
    /// The text of this program's configuration, should it be needed again.
    pub configuration: String,
}

impl Successor {
    /// Comes back only if it fails, and this program cannot be started anew either. Nothing must be under way in this
    /// process any more.
    pub fn take_over(self) -> io::Error {
        crate::exec::reap(Instant::now() + ENDING);
        let Checked { program, argv } = self.program;
        let mut passed = Passed::default();
        self.sockets.pass(&mut passed);
        // The file that runs, whatever lies at its path by now.
        let own = File::open("/proc/self/exe").map(|own| passed.add(PROGRAM, own));
        if let Err(error) = own.and_then(|()| passed.add_text(CONFIGURATION, &self.configuration)) {
            tracing::warn!(%error, "there is no way back");
        }
        let error = replace(&program.place(), &argv, &passed);
        tracing::error!(%error, "no other version takes over: it cannot be executed");
        come_back(&argv, passed, &error.to_string())
    }
}

/// Has the program before run once more, with what it left, and be told what failed.
fn come_back(argv: &[OsString], mut passed: Passed, failure: &str) -> io::Error {
    let Some(program) = passed.take(PROGRAM).pop() else { return io::ErrorKind::NotFound.into() };
    match passed.add_text(FAILURE, failure) {
        Ok(()) => replace(&in_proc(&program), argv, &passed),
        Err(error) => error,
    }
}

/// What the program before has left to this one.
#[derive(Default)]
pub struct Inheritance {
    pub sockets: Sockets,
    pub way_back: Option<WayBack>,
    pub back: Option<Back>,
}

/// This is the program before, which is back: the other one has failed.
#[derive(Clone, Debug)]
pub struct Back {
    /// The text of the configuration with which it started.
    pub configuration: String,
    pub failure: String,
}

impl Inheritance {
    /// Must be asked once.
    pub fn take() -> Self {
        let mut passed = Passed::inherited();
        let sockets = Sockets::inherited(passed.as_mut());
        let Some(mut passed) = passed else { return Self { sockets, ..Self::default() } };
        be_called_as_before();
        if let Some(failure) = passed.take_text(FAILURE) {
            let back = passed.take_text(CONFIGURATION).map(|configuration| Back { configuration, failure });
            return Self { sockets, back, ..Self::default() };
        }
        let copied = sockets.copy().inspect_err(|error| tracing::warn!(%error, "there is no way back"));
        let way_back = copied.ok().filter(|_| passed.has(PROGRAM)).map(|sockets| WayBack { sockets, passed });
        Self { sockets, way_back, ..Self::default() }
    }
}

/// Who is executed by a descriptor is called by its number (`comm` in proc(5)).
fn be_called_as_before() {
    let path = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = path.file_name().and_then(|name| CString::new(name.as_encoded_bytes()).ok());
    name.map(|name| nix::sys::prctl::set_name(&name));
}

/// The program before, and what it needs to go on. Must be dropped as soon as this one serves: in sockets that this one
/// does not use, clients would wait for ever.
pub struct WayBack {
    sockets: Sockets,
    passed: Passed,
}

impl WayBack {
    /// The program before has to open anew what is not meant by this configuration: it is in this program's way.
    pub fn suit(&mut self, config: &Config) {
        self.sockets.suit(config);
    }

    /// Has the program before go on. Comes back only if that fails. Nothing must be under way in this process any more.
    pub fn go(mut self, failure: &Error) -> io::Error {
        crate::exec::reap(Instant::now() + ENDING);
        self.sockets.pass(&mut self.passed);
        let argv: Vec<OsString> = std::env::args_os().collect();
        come_back(&argv, self.passed, &failure.to_string())
    }
}
