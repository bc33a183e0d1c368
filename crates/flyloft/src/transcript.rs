//! What a piece of work says while it goes on, line by line.
//!
//! A transcript is written to a file, so that `flyloft logs --build` has it later, and can be followed by any number
//! of readers (the push that started it, a `flyloft up` elsewhere). A reader that goes away disturbs nobody, and a
//! slow one is never waited for: it reads the file at its own pace.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

/// A transcript is cut off here, so that a build that prints without end fills nobody's disk.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Clone)]
pub struct Transcript {
    file: Arc<Mutex<File>>,
    path: Arc<PathBuf>,
    /// Bytes written so far.
    length: watch::Sender<u64>,
}

impl Transcript {
    /// Starts a new transcript at `path`, over an old one if there is any.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        Ok(Self { file: Arc::new(Mutex::new(file)), path: Arc::new(path.to_owned()), length: watch::Sender::new(0) })
    }

    /// One that keeps nothing and that nobody follows.
    pub fn discard() -> Self {
        Self::create(Path::new("/dev/null")).expect("/dev/null can be opened")
    }

    /// `=====> text`
    pub fn heading(&self, text: &str) {
        self.write(&format!("=====> {text}\n"));
    }

    /// `-----> text`
    pub fn step(&self, text: &str) {
        self.write(&format!("-----> {text}\n"));
    }

    /// A line of detail, indented by seven spaces. Text with several lines becomes several.
    pub fn detail(&self, text: &str) {
        for line in text.lines() {
            self.write(&format!("       {line}\n"));
        }
    }

    /// ` !     text`
    pub fn error(&self, text: &str) {
        for line in text.lines() {
            self.write(&format!(" !     {line}\n"));
        }
    }

    /// A line as it is, such as the URL at the end.
    pub fn plain(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    fn write(&self, text: &str) {
        let before = *self.length.borrow();
        if before >= MAX_BYTES {
            return;
        }
        let text = if before + text.len() as u64 >= MAX_BYTES {
            " !     the output is cut off here: it is larger than 16 MiB\n"
        } else {
            text
        };
        // A full disk must not fail the deploy that reports it: what cannot be written is lost to the readers only.
        if self.file.lock().expect("not poisoned").write_all(text.as_bytes()).is_ok() {
            self.length.send_modify(|length| *length += text.len() as u64);
        }
    }

    /// Reads from the beginning, and goes on until every writer is gone.
    pub fn follow(&self) -> io::Result<Follower> {
        Ok(Follower { file: File::open(&*self.path)?, length: self.length.subscribe() })
    }
}

/// See [`Transcript::follow`].
pub struct Follower {
    file: File,
    length: watch::Receiver<u64>,
}

impl Follower {
    /// The next piece of text, or `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let ended = self.length.has_changed().is_err();
            self.length.mark_unchanged();
            let mut piece = Vec::new();
            (&mut self.file).take(64 << 10).read_to_end(&mut piece)?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
            if ended {
                return Ok(None);
            }
            // An error says that the writers are gone; what they wrote last is read in the next round.
            let _ = self.length.changed().await;
        }
    }
}
