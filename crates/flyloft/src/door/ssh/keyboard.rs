//! A client with a terminal sends every key as it is pressed. A command that reads lines needs what the kernel does
//! for a terminal elsewhere: echo, corrections, and Ctrl-C.

/// A line that is being typed.
#[derive(Debug, Default)]
pub struct Keyboard {
    line: Vec<u8>,
    escape: Escape,
}

/// Whether the bytes are in the middle of what an arrow key sends.
#[derive(Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    Sequence,
}

/// What some keys come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// For the command.
    pub input: Vec<u8>,
    /// For the screen.
    pub echo: Vec<u8>,
    /// Ctrl-D: the end of the input.
    pub end: bool,
    /// Ctrl-C.
    pub interrupt: bool,
}

const LONGEST: usize = 4096;

impl Keyboard {
    pub fn press(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for key in keys {
            match (&self.escape, key) {
                (Escape::Begun, b'[' | b'O') => self.escape = Escape::Sequence,
                (Escape::Begun, _) | (Escape::Sequence, b'@'..=b'~') => self.escape = Escape::None,
                (Escape::Sequence, _) => {}
                (Escape::None, key) => self.one(*key, &mut typed),
            }
        }
        typed
    }

    fn one(&mut self, key: u8, typed: &mut Typed) {
        match key {
            b'\r' | b'\n' => {
                typed.input.append(&mut self.line);
                typed.input.push(b'\n');
                typed.echo.extend(b"\r\n");
            }
            0x03 => {
                typed.interrupt = true;
                typed.echo.extend(b"^C\r\n");
            }
            0x04 if self.line.is_empty() => typed.end = true,
            0x04 => typed.input.append(&mut self.line),
            0x08 | 0x7f => self.rub_out(typed),
            0x15 => {
                while !self.line.is_empty() {
                    self.rub_out(typed);
                }
            }
            0x1b => self.escape = Escape::Begun,
            b' '.. if self.line.len() < LONGEST => {
                self.line.push(key);
                typed.echo.push(key);
            }
            _ => {}
        }
    }

    /// Takes the last character away, which may have several bytes.
    fn rub_out(&mut self, typed: &mut Typed) {
        while self.line.last().is_some_and(|byte| byte & 0xc0 == 0x80) {
            self.line.pop();
        }
        if self.line.pop().is_some() {
            typed.echo.extend(b"\x08 \x08");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(keys: &str) -> String {
        String::from_utf8(Keyboard::default().press(keys.as_bytes()).input).unwrap()
    }

    #[test]
    fn a_line_arrives_when_it_is_ended_and_as_it_was_corrected() {
        assert_eq!(line("yes"), "");
        assert_eq!(line("yes\r"), "yes\n");
        assert_eq!(line("nä\x7f\x7f\x7fyes\r"), "yes\n");
        assert_eq!(line("no\x15yes\r"), "yes\n");
        assert_eq!(line("y\x1b[Ae\x1bOBs\x01\r"), "yes\n");
    }

    #[test]
    fn what_is_typed_is_seen() {
        let typed = Keyboard::default().press(b"ab\x7f\r");
        assert_eq!(typed.echo, b"ab\x08 \x08\r\n");
    }

    #[test]
    fn control_keys_end_the_input_or_interrupt() {
        assert!(Keyboard::default().press(b"\x03").interrupt);
        assert!(Keyboard::default().press(b"\x04").end);
        let unfinished = Keyboard::default().press(b"yes\x04");
        assert_eq!((unfinished.input, unfinished.end), (b"yes".to_vec(), false));
    }
}
