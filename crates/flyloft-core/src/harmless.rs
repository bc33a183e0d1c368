//! Text that somebody else wrote, made fit for a terminal.
//!
//! What an app, a build tool or a repository prints may not move the cursor, clear the screen, set the title, write the
//! clipboard, turn the direction of the text, or end its line: it could pass for what Flyloft says itself. Of all that
//! does something to a terminal only tabs stay, and colours where they are wanted.

/// Whether `SGR` sequences (ECMA-48, 8.3.117) stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    Kept,
    Dropped,
}

const ESC: char = '\u{1b}';
/// Back to the terminal's own colours.
const RESET: &str = "\u{1b}[0m";
/// Longer than any combination of colours.
const LONGEST_COLOUR: usize = 40;

/// One line of output. What follows its last carriage return counts: the rest was written over, as progress is.
pub fn line(text: &str, colours: Colours) -> String {
    let text = text.trim_end_matches(['\r', '\n']);
    clean(text.rsplit('\r').next().unwrap_or_default(), colours)
}

/// Lines of output, each as [`line()`] has it.
pub fn lines(text: &str) -> String {
    each_line(text, |text| line(text, Colours::Dropped))
}

/// Text of our own that quotes others'. It has the lines that it has, and nothing of it is written over.
pub fn text(text: &str) -> String {
    each_line(text, |text| clean(text, Colours::Dropped))
}

/// The same JSON, where what JSON allows as it is and a terminal would act upon is escaped.
pub fn json(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        // All of them lie below U+10000, and stand only in strings.
        match acts(c) && c != '\n' {
            true => harmless.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => harmless.push(c),
        }
    }
    harmless
}

fn each_line(text: &str, harmless: impl Fn(&str) -> String) -> String {
    text.split('\n').map(harmless).collect::<Vec<_>>().join("\n")
}

fn clean(mut text: &str, colours: Colours) -> String {
    let mut harmless = String::with_capacity(text.len());
    let mut coloured = false;
    while let Some(c) = text.chars().next() {
        let length = sequence(text).unwrap_or(c.len_utf8());
        let (piece, rest) = text.split_at(length);
        text = rest;
        if colours == Colours::Kept && is_colour(piece) {
            coloured = !matches!(piece, RESET | "\u{1b}[m");
            harmless.push_str(piece);
        } else if !acts(c) {
            harmless.push_str(piece);
        }
    }
    if coloured {
        harmless.push_str(RESET);
    }
    harmless
}

/// The length of the escape sequence that the text begins with, or of its beginning when the rest is missing.
fn sequence(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    let start = first.len_utf8();
    let (kind, after) = match first {
        ESC => match text[start..].chars().next() {
            Some(kind @ ' '..='~') => (kind, start + 1),
            _ => return Some(start),
        },
        // The control characters U+0080 to U+009F are ESC @ to ESC _ in one (ECMA-48, 5.3).
        '\u{80}'..='\u{9f}' => (char::from(u32::from(first) as u8 - 0x40), start),
        _ => return None,
    };
    let rest = &text[after..];
    let length = match kind {
        '[' => {
            let parameters = rest.find(|c| !('0'..='?').contains(&c)).unwrap_or(rest.len());
            parameters + intermediate(&rest[parameters..], '@')
        }
        // Strings for the terminal: a title, the clipboard. Without an end they would take the rest of the text.
        ']' | 'P' | 'X' | '^' | '_' => end_of_string(rest).unwrap_or(0),
        ' '..='/' => intermediate(rest, '0'),
        _ => 0,
    };
    Some(after + length)
}

/// Intermediate bytes, and the final one if it is there.
fn intermediate(text: &str, lowest: char) -> usize {
    let length = text.find(|c| !(' '..='/').contains(&c)).unwrap_or(text.len());
    length + usize::from(text[length..].starts_with(|c| (lowest..='~').contains(&c)))
}

fn end_of_string(text: &str) -> Option<usize> {
    let ends = ["\u{7}", "\u{1b}\\", "\u{9c}"];
    ends.iter().filter_map(|end| text.find(end).map(|at| at + end.len())).min()
}

fn is_colour(piece: &str) -> bool {
    let parameters = piece.strip_prefix("\u{1b}[").and_then(|rest| rest.strip_suffix('m'));
    piece.len() <= LONGEST_COLOUR
        && parameters.is_some_and(|all| all.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':')))
}

/// Whether a character does something, to a terminal or to the text around it (Unicode's bidirectional controls, and
/// its separators of lines and paragraphs).
fn acts(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || matches!(c, '\u{2028}' | '\u{2029}') || (c.is_control() && c != '\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(text: &str) -> String {
        line(text, Colours::Dropped)
    }

    #[test]
    fn nothing_forges_a_line_a_title_or_the_clipboard() {
        assert_eq!(plain("\u{1b}]0;owned\u{7}\u{1b}[2J\r=====> Deployed\r\n"), "=====> Deployed");
        assert_eq!(plain("a\u{1b}]52;c;cm0gLXJm\u{1b}\\b\u{1b}Pq\u{9c}c\u{9d}2;x\u{7}d"), "abcd");
        assert_eq!(plain("a\u{1b}[1;31mred\u{1b}[0m \u{9b}2Kb\u{1b}(B\u{1b}c\u{8}\u{7}\0\u{7f}c"), "ared bc");
        assert_eq!(plain("user\u{202e}nimda\u{2066}\u{200f}\u{2028}x"), "usernimdax");
    }

    #[test]
    fn what_a_progress_bar_showed_last_is_what_is_told() {
        assert_eq!(plain("10 %\r 50 %\r100 %\r\r\n"), "100 %");
        assert_eq!(plain("one\ttwo  grüße 🎭"), "one\ttwo  grüße 🎭");
    }

    #[test]
    fn a_sequence_without_its_end_takes_nothing_else_along() {
        assert_eq!(plain("\u{1b}]0;no end"), "0;no end");
        assert_eq!(plain("x\u{1b}[31"), "x");
        assert_eq!(plain("x\u{1b}"), "x");
        assert_eq!(plain("\u{1b}[3\u{1b}[2Jé\u{1b}é"), "éé");
    }

    #[test]
    fn colours_stay_where_they_are_wanted_and_end_with_their_line() {
        let kept = |text| line(text, Colours::Kept);
        assert_eq!(kept("\u{1b}[1;38;5;196mred\u{1b}[0m\u{1b}[2J"), "\u{1b}[1;38;5;196mred\u{1b}[0m");
        assert_eq!(kept("\u{1b}[31mred"), "\u{1b}[31mred\u{1b}[0m");
        assert_eq!(kept("\u{1b}[>4;2mx\u{1b}[?25lx\u{1b}[1 mx"), "xxx");
    }

    #[test]
    fn text_keeps_its_lines_and_all_of_them() {
        assert_eq!(text("KEY=seen\rKEY=over\nb\u{7}\n"), "KEY=seenKEY=over\nb\n");
        assert_eq!(lines("10 %\r20 %\r\nb\u{1b}[2J\n"), "20 %\nb\n");
    }

    #[test]
    fn json_says_the_same_and_does_nothing() {
        let value = serde_json::json!({ "text": "\u{9b}2J\u{202e}\u{1b}c\u{7f}\n" });
        let shown = json(&format!("{value}\n"));
        assert_eq!(shown, "{\"text\":\"\\u009b2J\\u202e\\u001bc\\u007f\\n\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    /// Text made of what matters here, and of anything.
    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("\u{1b}".to_owned()),
            Just("\u{1b}[".to_owned()),
            Just("\u{1b}]0;".to_owned()),
            Just("\u{9b}".to_owned()),
            Just("\u{202e}".to_owned()),
            Just("\u{7}".to_owned()),
            "[0-9;:?]{0,4}[a-zA-Z \\\\\r]",
            any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    /// The text without the one kind of sequence that may be left.
    fn without_colours(text: &str) -> String {
        let mut pieces = text.split("\u{1b}[");
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |all, piece| {
            let (parameters, rest) = piece.split_once('m').expect("a colour ends with m");
            assert!(parameters.chars().all(|c| c.is_ascii_digit() || c == ';' || c == ':'), "{parameters:?}");
            all + rest
        })
    }

    proptest! {
        #[test]
        fn nothing_acts_whatever_was_written(written in hostile()) {
            let dropped = line(&written, Colours::Dropped);
            prop_assert!(!dropped.contains(acts), "{dropped:?}");
            let kept = line(&written, Colours::Kept);
            prop_assert!(!without_colours(&kept).contains(acts), "{kept:?}");
            let last = kept.rsplit_once(ESC).map(|(_, last)| last);
            prop_assert!(last.is_none_or(|last| last.starts_with("[0m") || last.starts_with("[m")), "{kept:?}");
            prop_assert!(!text(&written).contains(|c| acts(c) && c != '\n'));
            prop_assert!(!lines(&written).contains(|c| acts(c) && c != '\n'));
            // What is harmless stays as it is.
            prop_assert_eq!(line(&dropped, Colours::Kept), dropped.clone());
            prop_assert_eq!(text(&dropped), dropped);
        }

        #[test]
        fn text_that_does_nothing_is_left_alone(written in "[^\\p{C}\\p{Z}]{0,60}") {
            prop_assert_eq!(line(&written, Colours::Dropped), written);
        }
    }
}
