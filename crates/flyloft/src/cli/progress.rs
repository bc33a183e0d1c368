//! The last line of a terminal, while a deploy goes on: what it is at, and for how long. What it prints goes above.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::command::{Command, Config, Scale};

/// A step that takes less says enough by its own line.
const PATIENCE: Duration = Duration::from_secs(2);
/// Back to the start of the line, and nothing on it (ECMA-48: CR, EL).
const CLEAR: &str = "\r\x1b[K";

pub struct Progress {
    /// The step that was begun last and has not ended, and when it was begun.
    step: Option<(String, Instant)>,
    /// The end of the output, where that is in the middle of a line.
    line: Vec<u8>,
    drawn: bool,
}

impl Progress {
    /// For commands that deploy, in front of somebody.
    pub fn of(command: &Command, json: bool) -> Option<Self> {
        let deploys = match command {
            Command::Up(_) | Command::Restart(_) | Command::Rollback(_) => true,
            Command::Scale(Scale { counts, .. }) => !counts.is_empty(),
            Command::Config(config) => matches!(config.verb, Some(Config::Set { .. } | Config::Unset { .. })),
            _ => false,
        };
        (deploys && !json && std::io::stderr().is_terminal()).then(Self::begin)
    }

    fn begin() -> Self {
        Self { step: None, line: Vec::new(), drawn: false }
    }

    /// Must be written before anything else is.
    pub fn clear(&mut self) -> &'static str {
        if std::mem::take(&mut self.drawn) { CLEAR } else { "" }
    }

    /// Takes note of what was printed.
    pub fn printed(&mut self, output: &[u8], now: Instant) {
        for piece in output.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend(piece);
            if piece.ends_with(b"\n") {
                self.ended(now);
                self.line.clear();
            }
        }
    }

    fn ended(&mut self, now: Instant) {
        let line = String::from_utf8_lossy(&self.line);
        if let Some(step) = line.strip_prefix("-----> ") {
            self.step = Some((step.trim_end().to_owned(), now));
        } else if line.starts_with("=====> ") {
            self.step = None;
        }
    }

    /// The line as it should be now, on a terminal of so many columns; nothing in the middle of another line.
    pub fn draw(&mut self, now: Instant, columns: u16) -> Option<String> {
        let (step, since) = self.step.as_ref().filter(|_| self.line.is_empty())?;
        let spent = now.duration_since(*since);
        if spent < PATIENCE {
            return None;
        }
        let text = format!("       … {step}: {} s", spent.as_secs());
        let text: String = text.chars().take(usize::from(columns.max(2)) - 1).collect();
        self.drawn = true;
        Some(format!("{CLEAR}{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_step_that_takes_long_is_shown_with_its_seconds_until_the_next_line_or_the_end() {
        let start = Instant::now();
        let mut progress = Progress::begin();
        assert_eq!(progress.draw(start, 80), None);
        progress.printed(b"-----> Installing Python packages with p", start);
        assert_eq!(progress.draw(after(start, 9), 80), None, "in the middle of a line");
        progress.printed(b"ip\n       Collecting Flask\n", start);
        assert_eq!(progress.draw(after(start, 1), 80), None);
        assert_eq!(progress.clear(), "");
        let drawn = progress.draw(after(start, 12), 80).unwrap();
        assert_eq!(drawn, "\r\x1b[K       … Installing Python packages with pip: 12 s");
        assert_eq!(progress.clear(), CLEAR);
        assert_eq!(progress.clear(), "");
        progress.printed(b"-----> Launching\n", after(start, 12));
        assert_eq!(progress.draw(after(start, 13), 80), None);
        progress.printed(b"=====> Deployed\nhttp://shop-main.localhost\n", after(start, 13));
        assert_eq!(progress.draw(after(start, 99), 80), None);
    }

    #[test]
    fn a_line_never_needs_a_second_one() {
        let start = Instant::now();
        let mut progress = Progress::begin();
        progress.printed("-----> Installing 🎭🎭🎭🎭🎭🎭🎭🎭🎭\n".as_bytes(), start);
        let drawn = progress.draw(after(start, 5), 20).unwrap();
        assert_eq!(drawn.strip_prefix(CLEAR).unwrap().chars().count(), 19);
    }
}
