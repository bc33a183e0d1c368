//! The ways in for a command. A door reads and prints; what is behind it, it knows only as a [`Backend`].

pub mod frame;
pub mod hook;
pub mod socket;
pub mod ssh;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use flyloft_core::name::AppName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::exec::Cmd;
use crate::principal::Principal;
use crate::source::{Push, ReceivePack};

pub type Input = Box<dyn AsyncRead + Send + Unpin>;
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// What the SSH door needs of the daemon. Dropping one of these futures means that the client has gone away: what it
/// asked for and is not finished is then called off.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Whose key this is, or nobody's.
    async fn authenticate(&self, key: &PublicKey) -> Option<Principal>;

    /// Changes whenever a key was removed: who is connected with which key is then looked up again.
    fn keys_changed(&self) -> watch::Receiver<()>;

    /// Runs one of flyloft's commands, and gives its exit code.
    async fn command(&self, principal: &Principal, argv: Vec<String>, io: CommandIo) -> i32;

    /// The `git receive-pack` for an app. Makes the app if it is not there yet and `principal` may make it.
    async fn receive(&self, principal: &Principal, app: &AppName) -> Result<ReceivePack>;

    /// The `git upload-pack` for an app.
    async fn upload(&self, principal: &Principal, app: &AppName) -> Result<Cmd>;

    /// Stages what a push brings, all of it or nothing, and writes what goes on to `output`. An error rejects the
    /// push, and must not have been written to `output` already.
    async fn push(&self, principal: &Principal, app: &AppName, push: Push, output: Output) -> Result<()>;
}

/// A public key that a client has shown to own, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// OpenSSH's one-line form: type and base64, no comment.
    pub line: String,
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
}

/// Streams of a command.
pub struct CommandIo {
    pub stdin: Input,
    pub stdout: Output,
    pub stderr: Output,
    pub terminal: Option<Terminal>,
}

/// The terminal that a client asked for.
#[derive(Clone, Debug)]
pub struct Terminal {
    /// `xterm-256color`; letters, digits and `-+._` only.
    pub term: String,
    pub columns: u16,
    pub rows: u16,
    /// The client shows what comes as it is: a line must end with `\r\n`.
    pub raw: bool,
    /// Columns and rows, whenever they change.
    pub resize: watch::Receiver<(u16, u16)>,
    pub lines: LineMode,
}

/// Keys go to a command as they are pressed, unless it asks for lines: then they are echoed and can be corrected, and
/// Ctrl-C ends the command.
#[derive(Clone, Debug, Default)]
pub struct LineMode(Arc<AtomicBool>);

impl LineMode {
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl PublicKey {
    /// Reads a line of an `authorized_keys` file or the content of a `.pub` file.
    pub fn parse(text: &str) -> Result<Self> {
        if text.contains("PRIVATE KEY-----") {
            return Err(Error::usage("that is a private key, which nobody but its owner should have")
                .hint("give the public one: the file beside it whose name ends with .pub"));
        }
        let key = russh::keys::PublicKey::from_openssh(text.trim()).map_err(|error| {
            Error::usage("that is not a public SSH key")
                .cause(error)
                .hint("give the content of a file such as ~/.ssh/id_ed25519.pub")
        })?;
        Ok(Self::of(&key))
    }

    pub(crate) fn of(key: &russh::keys::PublicKey) -> Self {
        let bare = russh::keys::PublicKey::new(key.key_data().clone(), "");
        Self {
            line: bare.to_openssh().unwrap_or_default().trim().to_owned(),
            fingerprint: key.fingerprint(russh::keys::HashAlg::Sha256).to_string(),
        }
    }
}
