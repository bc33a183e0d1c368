//! The client's side of the unix socket: sends one command, and stands between its streams and the terminal's.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use nix::sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::codec::{FramedWrite, LengthDelimitedCodec};

use super::archive::Archive;
use super::output::Output;
use super::progress::Progress;
use crate::command::{Command, Invocation};
use crate::door::frame::{self, Hello, PIECE, Request, Size, Tag};
use crate::error::{Error, Kind};

/// Hands the command to the daemon at `socket`, and gives the exit code that it ends with.
pub async fn send(socket: &Path, mut invocation: Invocation) -> anyhow::Result<ExitCode> {
    let file = invocation.command.take_file();
    let mut output = invocation.command.take_output().map(Output::open).transpose()?;
    let is_backup = matches!(invocation.command, Command::Backup(_));
    let json = invocation.json;
    let mut input = Input::open(&invocation.command, file).await?;
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let (read, write) = stream.into_split();
    let (mut read, mut write) = (frame::reader(read), frame::writer(write));

    let terminal = if output.is_some() { None } else { terminal_size() };
    let changed = match &invocation.command {
        _ if terminal.is_none() => None,
        command if command.hands_terminal_over() => Changed::raw(),
        command if command.conceals_input() => Changed::silent(),
        _ => None,
    };
    let progress = Progress::of(&invocation.command, invocation.json);
    let request = Request { invocation, terminal };
    for (tag, json) in
        [(Tag::Hello, serde_json::to_vec(&Hello::own())?), (Tag::Invocation, serde_json::to_vec(&request)?)]
    {
        // A daemon that refuses the client closes early, and has said why.
        let _ = write.send(frame::encode(tag, &json)).await;
    }

    let feeding = async {
        match feed(&mut input, &mut write).await {
            // When the daemon ends the command first, the rest of the input is nobody's any more.
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    let code = tokio::select! {
        code = show(&mut read, progress, output.as_mut()) => code,
        error = feeding => Err(error),
    };
    drop(changed);
    let code = code?;
    if code == 0
        && let Some(output) = output
    {
        if is_backup { output.finish(json)? } else { output.keep(json)? }
    }
    Ok(ExitCode::from(code))
}

/// What becomes the command's standard input: the file or directory that it names, or the client's own.
struct Input {
    from: Box<dyn AsyncRead + Unpin>,
    name: String,
    /// Says at the end whether that was all.
    archive: Option<Archive>,
}

impl Input {
    async fn open(command: &Command, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let name = file.as_ref().map_or("standard input".to_owned(), |file| format!("`{}`", file.display()));
        let (from, archive): (Box<dyn AsyncRead + Unpin>, _) = match (command, file) {
            (Command::Up(_), Some(dir)) => {
                let (archive, output) = Archive::of(&dir).await?;
                (Box::new(output), Some(archive))
            }
            (Command::Services(services), Some(file)) if services.reads_url() => {
                let file = tokio::fs::File::open(file).await.with_context(|| format!("failed to open {name}"))?;
                // The URL is a line of its own, whether or not it ends as one.
                (Box::new(tokio::io::stdin().chain(&b"\n"[..]).chain(file)), None)
            }
            (_, Some(file)) => {
                let file = tokio::fs::File::open(file).await.with_context(|| format!("failed to open {name}"))?;
                (Box::new(file), None)
            }
            (_, None) if command.reads_stdin() => (Box::new(tokio::io::stdin()), None),
            (_, None) => (Box::new(tokio::io::empty()), None),
        };
        Ok(Self { from, name, archive })
    }

    /// The next piece; 0 when that was all of it.
    async fn read(&mut self, piece: &mut [u8]) -> anyhow::Result<usize> {
        let count = self.from.read(piece).await.with_context(|| format!("failed to read {}", self.name))?;
        if count == 0
            && let Some(archive) = &mut self.archive
        {
            archive.end().await?;
        }
        Ok(count)
    }
}

type Frames = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

/// Sends the input, and the sizes of the terminal. An error is one of the input: what was sent of it is then worth
/// nothing, and its end is never sent.
async fn feed(input: &mut Input, write: &mut Frames) -> anyhow::Result<()> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut piece = vec![0; PIECE];
    let mut ended = false;
    loop {
        let frame = tokio::select! {
            read = input.read(&mut piece), if !ended => match read? {
                0 => {
                    ended = true;
                    frame::encode(Tag::EndOfStdin, &[])
                }
                count => frame::encode(Tag::Stdin, &piece[..count]),
            },
            _ = resized.recv() => match terminal_size() {
                Some(size) => frame::encode(Tag::Window, &serde_json::to_vec(&size)?),
                None => continue,
            },
        };
        if write.send(frame).await.is_err() {
            return Ok(());
        }
    }
}

/// Prints what comes, or writes it to the `output`, until the exit code comes.
async fn show<R: AsyncRead + Unpin>(
    read: &mut tokio_util::codec::FramedRead<R, LengthDelimitedCodec>,
    mut progress: Option<Progress>,
    mut output: Option<&mut Output>,
) -> anyhow::Result<u8> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        let frame = tokio::select! {
            // How the connection broke tells nothing more.
            frame = read.next() => frame.transpose().ok().flatten().and_then(frame::decode),
            _ = ticks.tick(), if progress.is_some() => {
                if let Some(line) = progress.as_mut().and_then(|progress| progress.draw(Instant::now(), columns())) {
                    stderr.write_all(line.as_bytes()).await?;
                    stderr.flush().await?;
                }
                continue;
            }
        };
        if let Some(progress) = &mut progress {
            stderr.write_all(progress.clear().as_bytes()).await?;
            stderr.flush().await?;
        }
        match frame {
            Some((Tag::Stdout, data)) if let Some(output) = &mut output => output.write(&data)?,
            Some((Tag::Stdout, data)) => {
                stdout.write_all(&data).await?;
                stdout.flush().await?;
                if let Some(progress) = &mut progress {
                    progress.printed(&data, Instant::now());
                }
            }
            Some((Tag::Stderr, data)) => {
                stderr.write_all(&data).await?;
                stderr.flush().await?;
            }
            Some((Tag::Exit, code)) => return Ok(code.first().copied().unwrap_or(1)),
            _ => {
                return Err(Error::new(Kind::Unavailable, "the daemon went away before the command ended")
                    .hint("look what became of it, and do the same once more")
                    .into());
            }
        }
    }
}

pub fn unreachable(socket: &Path, error: &io::Error) -> Error {
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
    let (columns, rows) = size_of(libc::STDOUT_FILENO);
    Some(Size { columns, rows, term: std::env::var("TERM").unwrap_or_default() })
}

/// Of the terminal that progress is shown on.
fn columns() -> u16 {
    size_of(libc::STDERR_FILENO).0
}

/// Columns and rows of a terminal; the usual ones if it does not say.
fn size_of(terminal: RawFd) -> (u16, u16) {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ (ioctl_tty(2)) fills in the structure that it is given.
    let status = unsafe { libc::ioctl(terminal, libc::TIOCGWINSZ, &mut size) };
    if status == 0 && size.ws_col > 0 { (size.ws_col, size.ws_row) } else { (80, 24) }
}

/// A terminal that is put back to what it was when this is dropped.
struct Changed(Termios);

impl Changed {
    /// It hands over every key as it is.
    fn raw() -> Option<Self> {
        Self::to(cfmakeraw)
    }

    /// It does not show what is typed.
    fn silent() -> Option<Self> {
        Self::to(|terminal| {
            terminal.local_flags.remove(LocalFlags::ECHO);
            terminal.local_flags.insert(LocalFlags::ECHONL);
        })
    }

    fn to(change: impl FnOnce(&mut Termios)) -> Option<Self> {
        let before = tcgetattr(io::stdin().as_fd()).ok()?;
        let mut after = before.clone();
        change(&mut after);
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &after).ok()?;
        Some(Self(before))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}
