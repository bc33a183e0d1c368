//! What a container printed: the console log that LXC writes, bounds and rotates, and that outlives the daemon.
//!
//! LXC renames a full `console.log` to `console.log.1`, over the one before, and begins anew.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream};

use super::container::Running;
use super::places::Home;

/// How often a log that is followed is looked at.
const PACE: Duration = Duration::from_millis(100);

/// The last `lines` of the log; then, if `follow` is set, what comes until the container ends or nobody reads.
pub fn open(home: Home, lines: usize, follow: bool) -> impl AsyncRead + Send + Unpin {
    let (reader, writer) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        // An error here is that of a log that goes away with its container, or of a reader that has gone.
        let _ = pump(home, lines, follow, writer).await;
    });
    reader
}

async fn pump(home: Home, lines: usize, follow: bool, mut to: DuplexStream) -> io::Result<()> {
    let mut log = Log::open(home.console())?;
    to.write_all(&plain(&log.tail(lines)?)).await?;
    if !follow {
        return Ok(());
    }
    loop {
        // Asked before reading, so that nothing that came before the end is missed.
        let running = Running::find(&home).is_some();
        loop {
            let piece = log.read()?;
            if piece.is_empty() {
                break;
            }
            to.write_all(&plain(&piece)).await?;
        }
        if !running {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            // The reader has gone when the buffer between us cannot be written any more; an empty write asks.
            gone = to.write(&[]) => { gone?; tokio::time::sleep(PACE).await; }
        }
    }
}

/// A terminal's line ends are two characters.
fn plain(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != b'\r').collect()
}

/// A log file that may be renamed and begun anew while it is read.
struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = open_if_there(&path)?;
        Ok(Self { path, file })
    }

    /// The last lines, those of the rotated file before if there are not enough; reading goes on after them.
    fn tail(&mut self, lines: usize) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut text)?;
        }
        if count(&text) < lines
            && let Some(mut older) = open_if_there(&rotated(&self.path))?
        {
            let mut whole = Vec::new();
            older.read_to_end(&mut whole)?;
            whole.append(&mut text);
            text = whole;
        }
        Ok(last_lines(&text, lines).to_vec())
    }

    /// What has come since, if anything.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = Vec::new();
        if let Some(file) = &mut self.file {
            file.take(32 << 10).read_to_end(&mut piece)?;
        }
        if piece.is_empty() && self.rotated_away()? {
            // LXC has written its last to the old file before it made the new one.
            self.file = open_if_there(&self.path)?;
            if let Some(file) = &mut self.file {
                file.take(32 << 10).read_to_end(&mut piece)?;
            }
        }
        Ok(piece)
    }

    fn rotated_away(&mut self) -> io::Result<bool> {
        let now = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            now => now?,
        };
        let Some(file) = &mut self.file else { return Ok(true) };
        // Cut off rather than renamed: begin again.
        if now.ino() == file.metadata()?.ino() && now.len() < file.stream_position()? {
            file.seek(SeekFrom::Start(0))?;
        }
        Ok(now.ino() != file.metadata()?.ino())
    }
}

fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn count(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    let ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    // The end of the text is the end of a line, whether it is marked so or not.
    let ends = ends.skip_while(|at| at + 1 == text.len());
    match lines.checked_sub(1).map(|before| ends.into_iter().nth(before)) {
        None => &text[text.len()..],
        Some(None) => text,
        Some(Some(at)) => &text[at + 1..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_with_an_unfinished_one() {
        let lines = |text: &'static str, n| std::str::from_utf8(last_lines(text.as_bytes(), n)).unwrap();
        assert_eq!(lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(lines("a\nb\nc", 2), "b\nc");
        assert_eq!(lines("a\nb\n", 9), "a\nb\n");
        assert_eq!(lines("a\n\n\n", 2), "\n\n");
        assert_eq!(lines("a\nb\n", 0), "");
    }

    #[test]
    fn reading_goes_on_across_a_rotation_without_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        fs::write(&path, "one\ntwo\n").unwrap();
        let mut log = Log::open(path.clone()).unwrap();
        assert_eq!(log.tail(1).unwrap(), b"two\n");
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        fs::rename(&path, rotated(&path)).unwrap();
        fs::write(&path, "four\n").unwrap();
        assert_eq!(log.read().unwrap(), b"three\n");
        assert_eq!(log.read().unwrap(), b"four\n");
        assert_eq!(log.read().unwrap(), b"");
        assert_eq!(Log::open(path).unwrap().tail(3).unwrap(), b"two\nthree\nfour\n");
    }
}
