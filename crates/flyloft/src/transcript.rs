//! What a piece of work says while it goes on, line by line.
//!
//! A transcript is written to a file, so that `flyloft logs --build` has it later, and can be followed by any number
//! of readers (the push that started it, a `flyloft up` elsewhere). A reader that goes away disturbs nobody, and a
//! slow one is never waited for: it reads the file at its own pace.
//!
//! What goes in is fit for a terminal, since it ends on those of people: a line that a build prints does nothing there,
//! and always has its seven spaces, so that it cannot pass for one of Flyloft's own.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use flyloft_core::harmless::{self, Colours};
use tokio::sync::watch;

/// What a build prints is cut off here: more fills the disk and the terminals of whoever reads along. What the deploy
/// itself says is short, and always told: its steps, its end, and the last lines before each of them.
const MOST: usize = 1 << 20;
/// Bytes of those last lines.
const LAST: usize = 16 << 10;

#[derive(Clone)]
pub struct Transcript {
    written: Arc<Mutex<Written>>,
    path: Arc<PathBuf>,
    /// Bytes written so far.
    length: watch::Sender<u64>,
}

struct Written {
    file: File,
    /// Bytes of detail that were told.
    detail: usize,
    /// The newest lines of what was not told, their bytes, and how many there were before them.
    last: VecDeque<String>,
    last_bytes: usize,
    left_out: usize,
}

impl Transcript {
    /// Starts a new transcript at `path`, over an old one if there is any.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        let written = Written { file, detail: 0, last: VecDeque::new(), last_bytes: 0, left_out: 0 };
        let (written, path) = (Arc::new(Mutex::new(written)), Arc::new(path.to_owned()));
        Ok(Self { written, path, length: watch::Sender::new(0) })
    }

    /// One that keeps nothing and that nobody follows.
    pub fn discard() -> Self {
        Self::create(Path::new("/dev/null")).expect("/dev/null can be opened")
    }

    /// `=====> text`
    pub fn heading(&self, text: &str) {
        self.own("=====> ", text);
    }

    /// `-----> text`
    pub fn step(&self, text: &str) {
        self.own("-----> ", text);
    }

    /// ` !     text`
    pub fn error(&self, text: &str) {
        text.lines().for_each(|line| self.own(" !     ", line));
    }

    /// A line as it is, such as the URL at the end.
    pub fn plain(&self, text: &str) {
        self.own("", text);
    }

    /// A line of detail, indented by seven spaces. Text with several lines becomes several.
    pub fn detail(&self, text: &str) {
        let mut written = self.written.lock().expect("not poisoned");
        for line in text.lines() {
            let line = format!("       {}\n", harmless::line(line, Colours::Dropped));
            if written.detail < MOST {
                written.detail += line.len();
                self.append(&mut written, &line);
                if written.detail >= MOST {
                    self.append(&mut written, " !     that is a lot of output; from here on only its end is shown\n");
                }
            } else {
                written.leave_out(line);
            }
        }
    }

    /// Tells the last lines that were held back, if any were: nothing comes after them.
    pub fn settle(&self) {
        self.settle_in(&mut self.written.lock().expect("not poisoned"));
    }

    fn own(&self, mark: &str, text: &str) {
        let mut written = self.written.lock().expect("not poisoned");
        self.settle_in(&mut written);
        self.append(&mut written, &format!("{mark}{}\n", harmless::line(text, Colours::Dropped)));
    }

    fn settle_in(&self, written: &mut Written) {
        let (last, left_out) = (mem::take(&mut written.last), mem::take(&mut written.left_out));
        written.last_bytes = 0;
        if left_out > 0 {
            self.append(written, &format!("       … {left_out} lines are left out here …\n"));
        }
        last.iter().for_each(|line| self.append(written, line));
    }

    fn append(&self, written: &mut Written, text: &str) {
        // A full disk must not fail the deploy that reports it: what cannot be written is lost to the readers only.
        if written.file.write_all(text.as_bytes()).is_ok() {
            self.length.send_modify(|length| *length += text.len() as u64);
        }
    }

    /// Reads from the beginning, and goes on until every writer is gone.
    pub fn follow(&self) -> io::Result<Follower> {
        self.reading().follow()
    }

    /// A way to follow it later, which does not keep it from coming to its end.
    pub fn reading(&self) -> Reading {
        Reading { path: self.path.clone(), length: self.length.subscribe() }
    }
}

/// See [`Transcript::reading`].
#[derive(Clone)]
pub struct Reading {
    path: Arc<PathBuf>,
    length: watch::Receiver<u64>,
}

impl Reading {
    /// As [`Transcript::follow`].
    pub fn follow(&self) -> io::Result<Follower> {
        Ok(Follower { file: File::open(&*self.path)?, length: self.length.clone() })
    }
}

impl Written {
    fn leave_out(&mut self, line: String) {
        self.last_bytes += line.len();
        self.last.push_back(line);
        while self.last_bytes > LAST
            && let Some(first) = self.last.pop_front()
        {
            self.last_bytes -= first.len();
            self.left_out += 1;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(transcript: Transcript) -> String {
        let mut follower = transcript.follow().unwrap();
        drop(transcript);
        let mut text = Vec::new();
        while let Some(piece) = follower.next().await.unwrap() {
            text.extend(piece);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn the_end_is_told_whatever_was_printed_before() {
        let dir = tempfile::tempdir().unwrap();
        let transcript = Transcript::create(&dir.path().join("v1.log")).unwrap();
        let line = "x".repeat(1000);
        transcript.step("Building");
        (0..20_000).for_each(|number| transcript.detail(&format!("{number} {line}")));
        transcript.step("Launching");
        (0..20_000).for_each(|number| transcript.detail(&format!("{number} {line}")));
        transcript.heading("Deployed");
        transcript.plain("http://shop-main.localhost");
        let text = told(transcript).await;
        assert!(text.len() < MOST + 4 * LAST, "{}", text.len());
        let end = format!("       19999 {line}\n=====> Deployed\nhttp://shop-main.localhost\n");
        assert!(text.ends_with(&end), "{}", &text[text.len() - 3000..]);
        assert!(text.contains(&format!("       19999 {line}\n-----> Launching\n")));
        assert_eq!(text.matches("only its end is shown").count(), 1);
        assert_eq!(text.matches(" lines are left out here …").count(), 2);
    }

    #[tokio::test]
    async fn no_line_of_a_build_passes_for_one_of_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let transcript = Transcript::create(&dir.path().join("v1.log")).unwrap();
        transcript.detail("\u{1b}]0;owned\u{7}\u{1b}[2J\r=====> Deployed");
        transcript.detail("\u{1b}[1F=====> \u{1b}[32mDeployed\u{9b}2K\n\u{202e}10 %\r20 %\r\n\n\tone");
        transcript.step("Building \u{1b}[1Ax");
        let text = told(transcript).await;
        let wanted = [
            "       =====> Deployed",
            "       =====> Deployed",
            "       20 %",
            "       ",
            "       \tone",
            "-----> Building x",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    }

    #[tokio::test]
    async fn the_last_lines_of_a_build_that_failed_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let transcript = Transcript::create(&dir.path().join("v1.log")).unwrap();
        (0..20_000).for_each(|_| transcript.detail(&"x".repeat(1000)));
        transcript.detail("the reason");
        transcript.settle();
        assert!(told(transcript).await.ends_with("       the reason\n"));
    }
}
