//! From the text of an SSH command to what it asks for. Quoting is read as a shell would read it, but nothing is
//! ever expanded and no shell is ever asked.

use flyloft_core::name::AppName;

use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A command of flyloft's, without the leading `flyloft`.
    Command(Vec<String>),
    /// `git push`.
    Receive(AppName),
    /// `git fetch`, `git clone`.
    Upload(AppName),
}

/// Longer than any command that makes sense, short enough to be harmless.
const MAX_BYTES: usize = 64 << 10;

pub fn parse(command: &[u8]) -> Result<Request> {
    if command.len() > MAX_BYTES {
        return Err(Error::usage(format!("the command is longer than {MAX_BYTES} bytes")));
    }
    let text = str::from_utf8(command).map_err(|_| Error::usage("the command is not UTF-8"))?;
    let mut words = split(text)?;
    if let [git, verb, ..] = words.as_slice()
        && git == "git"
    {
        let verb = format!("git-{verb}");
        words.splice(..2, [verb]);
    }
    let verb = words.first().map_or("", String::as_str);
    match (verb, words.as_slice()) {
        ("git-receive-pack", [_, path]) => Ok(Request::Receive(app(path)?)),
        ("git-upload-pack", [_, path]) => Ok(Request::Upload(app(path)?)),
        ("git-receive-pack" | "git-upload-pack", _) => {
            Err(Error::usage("git asks for one repository, as in `git-receive-pack 'shop.git'`"))
        }
        (other, _) if other.starts_with("git-") => {
            Err(Error::usage(format!("`{other}` is not served here")).hint("git can push, fetch and clone"))
        }
        ("flyloft", _) => Ok(Request::Command(words.split_off(1))),
        _ => Ok(Request::Command(words)),
    }
}

/// `shop`, `shop.git`, `/shop.git`: the path of a URL such as `ssh://git@staging.example.com:2222/shop.git`.
fn app(path: &str) -> Result<AppName> {
    let path = path.trim_matches('/');
    let name = path.strip_suffix(".git").unwrap_or(path);
    AppName::parse(name).map_err(|error| {
        Error::usage(error).hint("the path of the remote is the app's name: `ssh://git@HOST:PORT/APP`")
    })
}

/// POSIX shell's quoting (POSIX.1-2017, "Shell Command Language", 2.2), without expansions.
pub fn split(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    // None between words, so that `''` is a word.
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\0' => return Err(Error::usage("the command has a NUL in it")),
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => single_quoted(&mut chars, word.get_or_insert_default())?,
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err(Error::usage("the command ends in a lone backslash")),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single_quoted(chars: &mut std::str::Chars, word: &mut String) -> Result<()> {
    for c in chars {
        match c {
            '\'' => return Ok(()),
            c => word.push(c),
        }
    }
    Err(unclosed("'"))
}

fn double_quoted(chars: &mut std::str::Chars, word: &mut String) -> Result<()> {
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(()),
            '\\' => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some('\n') => {}
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            c => word.push(c),
        }
    }
    Err(unclosed("\""))
}

fn unclosed(quote: &str) -> Error {
    Error::usage(format!("a quote ({quote}) is opened and never closed"))
        .hint("your own shell takes one level of quotes away: `ssh HOST \"config set shop 'KEY=some value'\"`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        split(text).unwrap()
    }

    #[test]
    fn words_are_split_as_a_shell_would() {
        assert_eq!(words("up  shop\t--pr 42\n"), ["up", "shop", "--pr", "42"]);
        assert_eq!(words(r#"set 'KEY=a b' "K=\"x\" \n" a\ b"#), ["set", "KEY=a b", r#"K="x" \n"#, "a b"]);
        assert_eq!(words("a'b'\"c\"d ''"), ["abcd", ""]);
        assert_eq!(words(""), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_ever_expanded() {
        assert_eq!(
            words("run $(id) `id` ${HOME} ~ * ; rm -rf / | x > /tmp/y & #"),
            ["run", "$(id)", "`id`", "${HOME}", "~", "*", ";", "rm", "-rf", "/", "|", "x", ">", "/tmp/y", "&", "#"]
        );
    }

    #[test]
    fn bad_quoting_is_an_error_that_names_the_quote() {
        for (text, what) in [
            ("up 'shop", "a quote (') is opened and never closed"),
            ("up \"shop", "a quote (\") is opened and never closed"),
            ("up \"shop\\", "a quote (\") is opened and never closed"),
            ("up shop\\", "the command ends in a lone backslash"),
            ("up\0shop", "the command has a NUL in it"),
        ] {
            assert_eq!(split(text).unwrap_err().what, what, "{text:?}");
        }
    }

    #[test]
    fn git_reaches_an_app_by_any_form_of_its_path() {
        let shop = AppName::parse("shop").unwrap();
        for path in ["shop", "shop.git", "/shop.git", "/shop", "/shop.git/"] {
            let command = format!("git-receive-pack '{path}'");
            assert_eq!(parse(command.as_bytes()).unwrap(), Request::Receive(shop.clone()), "{path}");
        }
        assert_eq!(parse(b"git upload-pack shop").unwrap(), Request::Upload(shop));
    }

    #[test]
    fn git_reaches_nothing_but_apps() {
        for command in [
            "git-receive-pack '../../etc'",
            "git-receive-pack '/srv/shop.git'",
            "git-receive-pack '--exec=/bin/sh'",
            "git-receive-pack 'shop.git' --strict",
            "git-receive-pack",
            "git-upload-pack 'a/b'",
            "git-upload-archive 'shop.git'",
            "git-shell",
            "git daemon",
        ] {
            assert!(parse(command.as_bytes()).is_err(), "{command} was accepted");
        }
    }

    #[test]
    fn everything_else_is_a_command_of_flyloft() {
        let ls = Request::Command(vec!["ls".into()]);
        assert_eq!(parse(b"ls").unwrap(), ls);
        assert_eq!(parse(b"flyloft ls").unwrap(), ls);
        assert_eq!(parse(b"git").unwrap(), Request::Command(vec!["git".into()]));
        assert!(parse(b"ls \xff").is_err());
        assert!(parse(&vec![b'a'; MAX_BYTES + 1]).is_err());
    }
}
