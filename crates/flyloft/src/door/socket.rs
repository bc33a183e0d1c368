//! The unix socket, where the command line reaches the daemon. For root and the group that the socket belongs to.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use nix::unistd::{Gid, Group, Uid, User};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::codec::{FramedWrite, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::frame::{self, Hello, PIECE, Request, Tag};
use super::{CommandIo, LineMode, Terminal};
use crate::api::Api;
use crate::error::{Error, Result};
use crate::principal::{Principal, Role};

#[derive(Debug, Error)]
pub enum SocketError {
    #[error("another daemon answers at `{}`", .0.display())]
    Taken(PathBuf),
    #[error("failed to listen at `{}`", path.display())]
    Listen { path: PathBuf, source: io::Error },
}

type Frames<R> = tokio_util::codec::FramedRead<R, LengthDelimitedCodec>;
type Answers = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

/// Listens at `path`, with what was `inherited` if there is such a socket, which must lead there. It is root's and
/// `group`'s, if there is such a group; otherwise root's alone.
pub fn listen(path: &Path, group: &str, inherited: Vec<OwnedFd>) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Listen { path: path.to_owned(), source };
    if let Some(socket) = inherited.into_iter().next() {
        let socket = StdUnixListener::from(socket);
        grant(path, group).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        return UnixListener::from_std(socket).map_err(failed);
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            // A socket that nobody listens on was left by a daemon that was killed.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(SocketError::Taken(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "something else is there"))),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    grant(path, group).map_err(failed)?;
    Ok(listener)
}

fn grant(path: &Path, group: &str) -> io::Result<()> {
    let group = Group::from_name(group).ok().flatten().map(|group| group.gid);
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    group.map_or(Ok(()), |group| Ok(nix::unistd::chown(path, None, Some(group))?))
}

/// Somebody wants a newer version of the daemon to take over.
pub struct Upgrade {
    /// Whether it will. Whoever asked then waits until this process is another program.
    pub answer: oneshot::Sender<Result<()>>,
}

/// The socket as a door.
#[derive(Clone)]
pub struct SocketDoor {
    pub api: Arc<Api>,
    /// Whose members may come in.
    pub group: String,
    pub upgrades: mpsc::Sender<Upgrade>,
    /// Cancelled when what is under way is cut.
    pub closing: CancellationToken,
    /// Whoever was let in and is to be answered.
    pub clients: TaskTracker,
    /// What kept another version from taking over.
    pub failure: Option<String>,
}

impl SocketDoor {
    /// Takes connections for ever, one command each.
    pub async fn serve(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (door, client) = (self.clone(), self.clients.token());
                    tokio::spawn(async move {
                        // The other side went away in the middle, or is not our client: nobody is there to be told.
                        if let Err(error) = door.answer(stream, client).await {
                            tracing::debug!(%error, "a client of the socket failed");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept on the socket");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn answer(&self, stream: UnixStream, client: TaskTrackerToken) -> io::Result<()> {
        let principal = peer(&stream, &self.group);
        let (read, write) = stream.into_split();
        let (mut read, mut write) = (frame::reader(read), frame::writer(write));
        let admitted = match principal {
            None => Err(Error::forbidden("this user may not command flyloft")
                .hint("root and members of the socket's group may")),
            Some(principal) => tokio::select! {
                asked = listen_to(&mut read) => asked?.map(|asked| (principal, asked)),
                () = self.closing.cancelled() => Err(Error::ending()),
            },
        };
        match admitted {
            Ok((principal, Asked::Command(request))) => self.run(&principal, request, &mut read, &mut write).await,
            Ok((_, Asked::Version)) => {
                let hello = Hello { failure: self.failure.clone(), ..Hello::own() };
                write.send(frame::encode(Tag::Hello, &serde_json::to_vec(&hello)?)).await
            }
            Ok((principal, Asked::Upgrade)) => {
                tracing::info!(by = principal.name, "asked to let a newer version take over");
                let (answer, told) = oneshot::channel();
                let told = match self.upgrades.try_send(Upgrade { answer }) {
                    Ok(()) => tokio::select! {
                        biased;
                        told = told => told.unwrap_or_else(|_| Err(Error::ending())),
                        () = self.closing.cancelled() => Err(Error::ending()),
                    },
                    Err(TrySendError::Full(_)) => Err(Error::upgrading()),
                    Err(TrySendError::Closed(_)) => Err(Error::ending()),
                };
                match told {
                    Ok(()) => {
                        write.send(frame::encode(Tag::Exit, &[0])).await?;
                        // The daemon ends only when this is answered.
                        drop(client);
                        // The client sees by the end of the connection that it has happened.
                        read.next().await.transpose().map(drop)
                    }
                    Err(error) => refuse(&mut write, &error).await,
                }
            }
            Err(error) => refuse(&mut write, &error).await,
        }
    }

    async fn run(
        &self,
        principal: &Principal,
        request: Request,
        read: &mut Frames<OwnedReadHalf>,
        write: &mut Answers,
    ) -> io::Result<()> {
        let api = &self.api;
        // Done is what the client has been told.
        let _errand = api.errand(&request.invocation.command);
        let (to_stdin, stdin) = duplex(PIECE);
        let (stdout, from_stdout) = duplex(PIECE);
        let (stderr, from_stderr) = duplex(PIECE);
        let size = request.terminal.as_ref().map_or((80, 24), |size| (size.columns, size.rows));
        let (window, resize) = watch::channel(size);
        let terminal = request.terminal.map(|size| {
            let frame::Size { columns, rows, term } = size;
            // The client's terminal gives lines by itself, and ends them, but for shells.
            let raw = request.invocation.command.hands_terminal_over();
            Terminal { columns, rows, term, raw, resize, lines: LineMode::default() }
        });
        let io = CommandIo { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), terminal };

        let (frames, mut outgoing) = mpsc::channel(4);
        let output = pump(from_stdout, Tag::Stdout, frames.clone());
        let errors = pump(from_stderr, Tag::Stderr, frames);
        let work = async {
            let run = api.command(principal, request.invocation, io);
            tokio::join!(run, output, errors).0
        };
        let sending = async {
            while let Some(frame) = outgoing.recv().await {
                write.send(frame).await?;
            }
            Ok::<_, io::Error>(())
        };
        // Ends when the client does, and then drops the work: a command ends with whoever gave it.
        let code = tokio::select! {
            (code, sent) = async { tokio::join!(work, sending) } => { sent?; code }
            gone = feed(read, to_stdin, window) => return gone,
            () = self.closing.cancelled() => return refuse(write, &Error::ending()).await,
        };
        write.send(frame::encode(Tag::Exit, &[code])).await
    }
}

async fn refuse(write: &mut Answers, error: &Error) -> io::Result<()> {
    write.send(frame::encode(Tag::Stderr, error.text().as_bytes())).await?;
    write.send(frame::encode(Tag::Exit, &[error.kind.exit_code()])).await
}

/// What a client wants.
#[derive(Debug, PartialEq)]
enum Asked {
    Command(Request),
    Upgrade,
    Version,
}

/// Reads who speaks, and only then, in the same language, what is wanted.
async fn listen_to<R: tokio::io::AsyncRead + Unpin>(read: &mut Frames<R>) -> io::Result<Result<Asked>> {
    let own = Hello::own();
    let hello = match read.next().await.transpose()?.and_then(frame::decode) {
        Some((Tag::Hello, json)) => serde_json::from_slice::<Hello>(&json).map_err(io::Error::other)?,
        // As the first version did it.
        Some((Tag::Invocation, _)) => {
            let hello = Hello { protocol: 1, version: "0.1.0, before its release".to_owned(), failure: None };
            return Ok(Err(strangers(&hello, &own)));
        }
        _ => return Err(io::Error::other("the first frame is no hello")),
    };
    match read.next().await.transpose()?.and_then(frame::decode) {
        Some((Tag::Upgrade, _)) => Ok(Ok(Asked::Upgrade)),
        Some((Tag::Version, _)) => Ok(Ok(Asked::Version)),
        Some((Tag::Invocation, _)) if hello.protocol != own.protocol => Ok(Err(strangers(&hello, &own))),
        Some((Tag::Invocation, json)) => {
            let request = serde_json::from_slice(&json).map(Asked::Command);
            Ok(request.map_err(|error| strangers(&hello, &own).cause(error)))
        }
        _ => Err(io::Error::other("the second frame asks for nothing")),
    }
}

fn strangers(client: &Hello, daemon: &Hello) -> Error {
    let speaks = |hello: &Hello| format!("version {} (protocol {})", hello.version, hello.protocol);
    Error::failed(format!("the daemon is {}, this client is {}", speaks(daemon), speaks(client)))
        .hint("if it was updated, let the new version take over: flyloft upgrade")
        .hint("or use the client that was installed with the daemon")
}

/// Passes on what the client sends. Comes back only when the client is gone.
async fn feed<R: tokio::io::AsyncRead + Unpin>(
    read: &mut Frames<R>,
    stdin: DuplexStream,
    window: watch::Sender<(u16, u16)>,
) -> io::Result<()> {
    let mut stdin = Some(stdin);
    while let Some(frame) = read.next().await.transpose()? {
        match frame::decode(frame) {
            Some((Tag::Stdin, data)) => {
                if let Some(open) = &mut stdin
                    && open.write_all(&data).await.is_err()
                {
                    stdin = None;
                }
            }
            Some((Tag::EndOfStdin, _)) => stdin = None,
            Some((Tag::Window, json)) => {
                if let Ok(size) = serde_json::from_slice::<frame::Size>(&json) {
                    window.send_replace((size.columns, size.rows));
                }
            }
            _ => return Err(io::Error::other("a frame that only the daemon sends")),
        }
    }
    Ok(())
}

async fn pump(mut from: DuplexStream, tag: Tag, frames: mpsc::Sender<bytes::Bytes>) {
    let mut piece = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if frames.send(frame::encode(tag, &piece[..count])).await.is_err() {
            return;
        }
    }
}

/// Who is at the other end, if it is somebody who may command: root, the daemon's own user, or the group.
fn peer(stream: &UnixStream, group: &str) -> Option<Principal> {
    let peer = stream.peer_cred().ok()?;
    let uid = Uid::from_raw(peer.uid());
    let group = Group::from_name(group).ok().flatten().map(|group| group.gid);
    let member = group.is_some_and(|group| peer.gid() == group.as_raw() || peer_groups(stream).contains(&group));
    if !(uid.is_root() || uid == nix::unistd::geteuid() || member) {
        return None;
    }
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name);
    Some(Principal { name, role: Role::Admin })
}

/// The peer's supplementary groups when it connected (`SO_PEERGROUPS`, socket(7)).
fn peer_groups(stream: &UnixStream) -> Vec<Gid> {
    let mut groups = vec![0 as libc::gid_t; 1024];
    let mut bytes = std::mem::size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `groups`, which outlives the call.
    let status = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut bytes,
        )
    };
    if status != 0 {
        return Vec::new();
    }
    groups.truncate(bytes as usize / size_of::<libc::gid_t>());
    groups.into_iter().map(Gid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Invocation, Ls};

    /// What the daemon says to a client that begins with these frames.
    async fn said(frames: &[(Tag, &str)]) -> io::Result<Result<Asked>> {
        let (client, daemon) = duplex(PIECE);
        let mut write = frame::writer(client);
        for (tag, json) in frames {
            write.send(frame::encode(*tag, json.as_bytes())).await.unwrap();
        }
        drop(write);
        listen_to(&mut frame::reader(daemon)).await
    }

    fn own_hello() -> String {
        serde_json::to_string(&Hello::own()).unwrap()
    }

    #[tokio::test]
    async fn a_client_of_another_version_is_told_both_versions_whatever_else_it_says() {
        let hello = r#"{"protocol": 900, "version": "9.0.0", "colour": "green"}"#;
        let refusal = said(&[(Tag::Hello, hello), (Tag::Invocation, "anything")]).await.unwrap().unwrap_err();
        let own = Hello::own();
        let what = format!(
            "the daemon is version {} (protocol {}), this client is version 9.0.0 (protocol 900)",
            own.version, own.protocol
        );
        assert_eq!(refusal.what, what);
        let old = r#"{"version": 1, "invocation": {"json": false, "command": "Ls"}}"#;
        let refusal = said(&[(Tag::Invocation, old)]).await.unwrap().unwrap_err();
        assert!(refusal.what.ends_with("(protocol 1)"), "{}", refusal.what);
    }

    #[tokio::test]
    async fn a_command_that_is_not_understood_is_told_so_with_both_versions() {
        let refusal = said(&[(Tag::Hello, &own_hello()), (Tag::Invocation, r#"{"command": "Fly"}"#)]).await.unwrap();
        let refusal = refusal.unwrap_err();
        assert!(refusal.what.starts_with("the daemon is version"), "{}", refusal.what);
        assert_eq!(refusal.causes.len(), 1);
    }

    #[tokio::test]
    async fn a_client_of_the_same_version_is_understood() {
        let invocation = Invocation { json: true, command: Command::Ls(Ls { app: None }) };
        let request = Request { invocation, terminal: None };
        let json = serde_json::to_string(&request).unwrap();
        let heard = said(&[(Tag::Hello, &own_hello()), (Tag::Invocation, &json)]).await.unwrap();
        assert_eq!(heard.unwrap(), Asked::Command(request));
    }

    #[tokio::test]
    async fn a_client_of_any_version_may_ask_for_the_version_and_for_an_upgrade() {
        let hello = r#"{"protocol": 900, "version": "9.0.0"}"#;
        assert_eq!(said(&[(Tag::Hello, hello), (Tag::Upgrade, "")]).await.unwrap().unwrap(), Asked::Upgrade);
        assert_eq!(said(&[(Tag::Hello, hello), (Tag::Version, "")]).await.unwrap().unwrap(), Asked::Version);
    }
}
