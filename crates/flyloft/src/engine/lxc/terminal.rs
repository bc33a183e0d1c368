//! A terminal for shells and commands that want one: the container's own, of which the daemon holds one end.
//!
//! ```text
//!   caller ── Terminal (master) ═══ slave, /dev/pts/N in the container ── the command
//! ```
//!
//! `lxc-attach` would make a terminal of its own if it were given one, which then belongs to an id that the container
//! does not have, so that the command could not open it by name (`/dev/stdout` does that). Here the terminal comes out
//! of the container's devpts and goes to the app's user, past `lxc-attach`, as one more open file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::pty::Winsize;
use nix::sys::statfs::{FsType, fstatfs};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The master's end. Its clones are the same terminal; the last one that goes hangs it up.
#[derive(Clone, Debug)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

/// What a terminal takes for the end of input (Ctrl-D).
const END_OF_INPUT: u8 = 0x04;

/// `DEVPTS_SUPER_MAGIC`, statfs(2).
const DEVPTS: FsType = FsType(0x1cd1);

impl Terminal {
    /// The two ends of a new terminal of the devpts that `ptmx` belongs to, with a window of this size. The slave's is
    /// `owner`'s.
    pub fn open(ptmx: &Path, owner: u32, columns: u16, rows: u16) -> io::Result<(Self, OwnedFd)> {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let master = OpenOptions::new().read(true).write(true).custom_flags(flags).open(ptmx)?;
        // The path leads through a container's root directory, whose content is not ours.
        if fstatfs(&master)?.filesystem_type() != DEVPTS {
            return Err(io::Error::other("the container has no terminals"));
        }
        let slave = File::from(slave(&master)?);
        fchown(&slave, Some(owner), None)?;
        // SAFETY: an `OwnedFd` is the same open file until it is dropped.
        let terminal = Self(Arc::new(unsafe { AsyncFd::register(OwnedFd::from(master)) }?));
        terminal.resize(columns, rows)?;
        Ok((terminal, slave.into()))
    }

    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads a `winsize`, which lives across the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        Errno::result(done)?;
        Ok(())
    }

    fn poll_write_bytes(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
                return Poll::Ready(result);
            }
        }
    }
}

/// Not by its name, which means another file where the container's `/dev/pts` is not mounted.
fn slave(master: &File) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads a number, which lives across the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags, and gives a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(Errno::result(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))?)) }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let read = guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), buffer.initialize_unfilled())?));
            return Poll::Ready(match read {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    Ok(())
                }
                // Nobody has the other end open any more: that is its end.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
                Ok(Err(error)) => Err(error),
                Err(_would_block) => continue,
            });
        }
    }
}

/// What is typed at the terminal.
#[derive(Debug)]
pub struct Keyboard {
    terminal: Terminal,
    ended: bool,
}

impl Keyboard {
    pub fn of(terminal: &Terminal) -> Self {
        Self { terminal: terminal.clone(), ended: false }
    }
}

impl AsyncWrite for Keyboard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.terminal.poll_write_bytes(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal has no end of input but this character.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            ready!(self.terminal.poll_write_bytes(cx, &[END_OF_INPUT]))?;
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// As with a pipe, the end of the writer is the end of the input.
impl Drop for Keyboard {
    fn drop(&mut self) {
        if !self.ended {
            let _ = nix::unistd::write(self.terminal.0.get_ref(), &[END_OF_INPUT]);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn read(from: &mut (impl AsyncRead + Unpin), count: usize) -> String {
        let mut bytes = vec![0; count];
        from.read_exact(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_of_the_keyboard_is_the_end_of_the_input() {
        let (mut terminal, slave) = Terminal::open("/dev/pts/ptmx".as_ref(), 0, 80, 24).unwrap();
        let mut inside = tokio::fs::File::from_std(File::from(slave));
        let mut keyboard = Keyboard::of(&terminal);
        keyboard.write_all(b"typed\n").await.unwrap();
        assert_eq!(read(&mut inside, 6).await, "typed\n");
        assert_eq!(read(&mut terminal, 7).await, "typed\r\n", "the echo");
        drop(keyboard);
        assert_eq!(inside.read(&mut [0; 8]).await.unwrap(), 0);
        inside.write_all(b"answer").await.unwrap();
        inside.flush().await.unwrap();
        drop(inside);
        let mut rest = String::new();
        terminal.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("answer"), "{rest:?}");
    }

    #[tokio::test]
    async fn what_is_no_terminal_multiplexer_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Terminal::open(file.path(), 0, 80, 24).unwrap_err();
        assert_eq!(error.to_string(), "the container has no terminals");
    }
}
