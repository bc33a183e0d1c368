//! The client's side of the unix socket: sends one command, and stands between its streams and the terminal's.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::codec::{FramedWrite, LengthDelimitedCodec};

use crate::command::{Command, Invocation};
use crate::door::frame::{self, Hello, PIECE, Size, Tag};
use crate::error::{Error, Kind};
use crate::exec::Cmd;

/// Hands the command to the daemon at `socket`, and gives the exit code that it ends with.
pub async fn send(socket: &Path, mut invocation: Invocation) -> anyhow::Result<ExitCode> {
    let file = invocation.command.take_file();
    let mut input = open(&invocation.command, file.as_deref()).await?;
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let (read, write) = stream.into_split();
    let (mut read, mut write) = (frame::reader(read), frame::writer(write));

    let terminal = terminal_size();
    let raw = match &invocation.command {
        Command::Shell(_) | Command::Run(_) if terminal.is_some() => Raw::enter(),
        _ => None,
    };
    let hello = Hello { version: frame::VERSION, invocation, terminal };
    write.send(frame::encode(Tag::Invocation, &serde_json::to_vec(&hello)?)).await?;

    let feeding = async {
        // When the daemon ends the command first, the rest of the input is nobody's any more.
        let _ = feed(&mut input, &mut write).await;
        std::future::pending::<()>().await;
    };
    let code = tokio::select! {
        code = show(&mut read) => code,
        () = feeding => unreachable!("feeding never ends"),
    };
    drop(raw);
    code.map(ExitCode::from)
}

/// Opens what becomes the command's standard input: the file or directory that it names, or the client's own.
async fn open(command: &Command, file: Option<&Path>) -> anyhow::Result<Box<dyn AsyncRead + Unpin>> {
    match (command, file) {
        (Command::Up(_), Some(dir)) => archive(dir).await,
        (_, Some(file)) => {
            let file =
                tokio::fs::File::open(file).await.with_context(|| format!("failed to open `{}`", file.display()));
            Ok(Box::new(file?))
        }
        (_, None) if command.reads_stdin() => Ok(Box::new(tokio::io::stdin())),
        (_, None) => Ok(Box::new(tokio::io::empty())),
    }
}

/// A tar archive of a directory: of what git tracks or would track there, or of everything where git is not used.
async fn archive(dir: &Path) -> anyhow::Result<Box<dyn AsyncRead + Unpin>> {
    if !dir.is_dir() {
        return Err(Error::usage(format!("`{}` is not a directory", dir.display())).into());
    }
    let listing = Cmd::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z"])
        .dir(dir)
        .run()
        .await;
    let tar = Cmd::new("tar").args(["--create", "--exclude-vcs", "--file=-"]);
    let (tar, names) = match listing {
        Ok(listing) => {
            let there = |name: &&[u8]| {
                use std::os::unix::ffi::OsStrExt;
                !name.is_empty() && dir.join(std::ffi::OsStr::from_bytes(name)).symlink_metadata().is_ok()
            };
            let names: Vec<u8> =
                listing.stdout.split(|byte| *byte == 0).filter(there).flat_map(|name| [name, b"\0"].concat()).collect();
            (tar.args(["--null", "--verbatim-files-from", "--no-recursion", "--files-from=-"]), Some(names))
        }
        Err(_) => (tar.arg("."), None),
    };
    let stdin = if names.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = tar.dir(dir).spawn(stdin, Stdio::piped(), Stdio::inherit())?;
    if let (Some(mut stdin), Some(names)) = (child.stdin.take(), names) {
        tokio::spawn(async move { stdin.write_all(&names).await });
    }
    let output = child.stdout.take().context("tar has no output")?;
    // Keeps the child until the archive is read, since it is killed when its handle is dropped.
    tokio::spawn(async move { child.wait().await });
    Ok(Box::new(output))
}

type Frames = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

async fn feed(input: &mut (impl AsyncRead + Unpin), write: &mut Frames) -> anyhow::Result<()> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut piece = vec![0; PIECE];
    let mut ended = false;
    loop {
        tokio::select! {
            read = input.read(&mut piece), if !ended => match read? {
                0 => {
                    ended = true;
                    write.send(frame::encode(Tag::EndOfStdin, &[])).await?;
                }
                count => write.send(frame::encode(Tag::Stdin, &piece[..count])).await?,
            },
            _ = resized.recv() => if let Some(size) = terminal_size() {
                write.send(frame::encode(Tag::Window, &serde_json::to_vec(&size)?)).await?;
            },
        }
    }
}

/// Prints what comes until the exit code does.
async fn show<R: AsyncRead + Unpin>(
    read: &mut tokio_util::codec::FramedRead<R, LengthDelimitedCodec>,
) -> anyhow::Result<u8> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(frame) = read.next().await.transpose()? {
        match frame::decode(frame) {
            Some((Tag::Stdout, data)) => {
                stdout.write_all(&data).await?;
                stdout.flush().await?;
            }
            Some((Tag::Stderr, data)) => {
                stderr.write_all(&data).await?;
                stderr.flush().await?;
            }
            Some((Tag::Exit, code)) => return Ok(code.first().copied().unwrap_or(1)),
            _ => break,
        }
    }
    Err(Error::new(Kind::Unavailable, "the daemon went away before the command ended").into())
}

fn unreachable(socket: &Path, error: &io::Error) -> Error {
    let failed = Error::new(Kind::Unavailable, format!("failed to reach the daemon at `{}`", socket.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failed.cause(error).hint("be root or a member of the group `flyloft`"),
        _ => failed
            .cause(error)
            .hint("start it with `flyloft serve`, or `systemctl start flyloft`")
            .hint("name another socket with --socket or FLYLOFT_SOCKET"),
    }
}

/// None unless both input and output are a terminal.
fn terminal_size() -> Option<Size> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ (ioctl_tty(2)) fills in the structure that it is given.
    let status = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    let (columns, rows) = if status == 0 && size.ws_col > 0 { (size.ws_col, size.ws_row) } else { (80, 24) };
    Some(Size { columns, rows, term: std::env::var("TERM").unwrap_or_default() })
}

/// The terminal hands over every key as it is; put back when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin().as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}
