//! A newer version of this program takes over, or the same one with a newer configuration.
//!
//! ```text
//!   flyloft upgrade ─► would it start? ─ no ──► this one goes on
//!                            └ yes ─► what is under way comes to its end ─► exec: the same process, the new program
//! ```
//!
//! The process keeps its id and its listening sockets, so that whoever watches it sees no end, and no connection is
//! refused. Containers do not belong to it in any case.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, OrFailed, Result};
use crate::exec::{Cmd, ExecError, replace};
use crate::sockets::Sockets;

/// How long the new program may take to look at everything.
const CHECK: Duration = Duration::from_secs(30);

/// How long what this process has started may take to end, once it has been killed.
const ENDING: Duration = Duration::from_secs(1);

/// What this process was started as.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    argv: Vec<OsString>,
}

impl Program {
    /// Must be asked before a newer file takes the place of this one.
    pub fn own() -> Result<Self> {
        let argv: Vec<OsString> = std::env::args_os().collect();
        // What a link leads to may be another file by then.
        let named = argv.first().map(PathBuf::from).filter(|path| path.is_absolute());
        let path = match named {
            Some(path) => path,
            None => std::env::current_exe().or_failed(|| "failed to find this program's file")?,
        };
        Ok(Self { path, argv })
    }

    /// Asks whether it would start now: as `flyloft serve --check`.
    pub async fn check(&self) -> Result<()> {
        let args = self.argv.iter().skip(1);
        let checked = Cmd::new(&self.path).args(args).arg("--check").timeout(CHECK).run().await;
        let refused = |error: ExecError| {
            let mut refused =
                Error::failed(format!("`{}` would not start, and the daemon goes on as it was", self.path.display()));
            match error.tail().trim() {
                "" => refused = refused.cause(error),
                said => refused.causes.push(said.strip_prefix("error: ").unwrap_or(said).to_owned()),
            }
            refused
        };
        checked.map(drop).map_err(refused)
    }
}

/// What this process is about to become.
pub struct Successor {
    pub program: Program,
    pub sockets: Sockets,
}

impl Successor {
    /// Comes back only if it fails. Nothing must be under way in this process any more.
    pub fn take_over(self) -> io::Error {
        crate::exec::reap(Instant::now() + ENDING);
        replace(&self.program.path, &self.program.argv, self.sockets.passed(), self.sockets.into_files())
    }
}
