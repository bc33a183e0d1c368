//! Why a repository elsewhere could not be read, and what to do about it.

use std::io::ErrorKind;

use thiserror::Error;

use crate::exec::ExecError;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("there is no such repository, or it is private")]
    NotFoundOrPrivate,
    #[error("there is no such repository, or the credential may not see it")]
    NotFoundOrForbidden,
    #[error("its host asks for a credential: it is private, or does not exist")]
    NeedsCredential,
    #[error("an SSH address needs a deploy key, and the app has none for this host")]
    NoDeployKey,
    #[error("it refuses the credential")]
    Denied,
    #[error("its host name does not resolve")]
    UnknownHost,
    #[error("its host does not answer")]
    Unreachable,
    #[error("it took too long")]
    TooSlow,
    #[error("it has moved: the server redirects to another address")]
    Moved,
    #[error("its certificate is not trusted")]
    Certificate,
    #[error("the SSH key of its host is not the one that it had before")]
    HostKeyChanged,
    #[error("the deploy key cannot be read as a private SSH key without a passphrase")]
    BadDeployKey,
    #[error("it does not have that commit, or does not give it")]
    NoSuchCommit,
    #[error("it sends more than is allowed")]
    TooLarge,
    #[error("it takes more memory than git may have here: it has too many refs, or too large files")]
    TooMuch,
    #[error("it sent something that git refuses: {0}")]
    Malformed(String),
    #[error("{0}")]
    Other(String),
}

impl Refusal {
    /// Reads git's words, which are those of its version 2.39 and later in English, and those of the server.
    /// `known` says whether a credential was sent.
    pub(super) fn explain(error: &ExecError, server: &str, known: bool) -> Self {
        match error {
            ExecError::Timeout { .. } => return Self::TooSlow,
            ExecError::Pipe { source, .. } if source.kind() == ErrorKind::FileTooLarge => return Self::TooMuch,
            _ => {}
        }
        let said = format!("{}\n{server}", error.tail());
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let secret = if known { Self::Denied } else { Self::NeedsCredential };
        let absent = if known { Self::NotFoundOrForbidden } else { Self::NotFoundOrPrivate };
        // SIGXFSZ, see `Cmd::largest_file`.
        if has(&["died of signal 25", "File too large"]) {
            Self::TooLarge
        // See `Cmd::most_memory`. curl says it in its own words.
        } else if has(&["Out of memory", "out of memory"]) {
            Self::TooMuch
        } else if has(&["Could not resolve host"]) {
            Self::UnknownHost
        } else if has(&["could not read Username", "Authentication failed", "error: 401", "error: 403"]) {
            secret
        } else if has(&["error: 404", "not found", "does not exist", "does not appear to be a git repository"]) {
            absent
        } else if has(&["error: 301", "error: 302", "error: 307", "error: 308", "unable to update url base"]) {
            Self::Moved
        } else if has(&["certificate", "SSL"]) {
            Self::Certificate
        } else if has(&["not our ref", "unadvertised object", "couldn't find remote ref"]) {
            Self::NoSuchCommit
        } else if has(&["too slow", "timed out", "Timeout was reached"]) {
            Self::TooSlow
        } else if has(&["Failed to connect", "Couldn't connect", "Connection refused", "unreachable"]) {
            Self::Unreachable
        } else if has(&["fsck error", "index-pack failed", "unpack-objects"]) {
            Self::Malformed(found_by_fsck(&said).unwrap_or_else(|| last_line(&said)))
        } else {
            Self::Other(last_line(&said))
        }
    }

    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotFoundOrPrivate | Self::NeedsCredential => {
                "check the address; for a private repository give the app a token or a deploy key"
            }
            Self::NotFoundOrForbidden | Self::Denied => {
                "check the address, and that the app's token or deploy key may read this repository and has not expired"
            }
            Self::NoDeployKey => "give the app a deploy key, or use the https address of the repository",
            Self::UnknownHost => "check the address, and that this server resolves the name",
            Self::Unreachable | Self::TooSlow => "check that this server reaches the host, and try again",
            Self::Moved => "use the new address of the repository",
            Self::Certificate => "add the authority that signed it to this server's certificates",
            Self::HostKeyChanged => {
                "if that is right, remove the host's line from `repos/known_hosts` in the state directory"
            }
            Self::BadDeployKey => "make a new one with `ssh-keygen -t ed25519 -N ''`",
            Self::NoSuchCommit => "check that the commit was pushed there, and give all its digits",
            Self::TooMuch => "check the address; a server with more memory gives git more",
            Self::TooLarge => "keep large files out of the repository",
            Self::Malformed(_) | Self::Other(_) => return None,
        })
    }
}

/// What git says of an object that it refuses: `error: object ID: hasDotgit: contains '.git'`. More follows about itself.
fn found_by_fsck(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        Some(line.strip_prefix("error: ")?.trim().to_owned()).filter(|line| line.starts_with("object "))
    })
}

fn last_line(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it ended without a word");
    line.trim_start_matches("fatal: ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gits_words_become_reasons() {
        let explain = |tail: &str, known| {
            let (argv, ending) = ("git fetch".to_owned(), "failed with status 128".to_owned());
            Refusal::explain(&ExecError::Status { argv, ending, code: Some(128), tail: tail.to_owned() }, "", known)
        };
        let prompts = "fatal: could not read Username for 'https://github.com': terminal prompts disabled";
        assert_eq!(explain(prompts, false), Refusal::NeedsCredential);
        assert_eq!(explain(prompts, true), Refusal::Denied);
        let unknown = "fatal: unable to access 'https://no.example/x/': Could not resolve host: no.example";
        assert_eq!(explain(unknown, false), Refusal::UnknownHost);
        let refused = "fatal: unable to access 'https://127.0.0.1:1/x/': Failed to connect to 127.0.0.1 port 1";
        assert_eq!(explain(refused, false), Refusal::Unreachable);
        assert_eq!(explain("fatal: repository 'https://x/y/' not found", false), Refusal::NotFoundOrPrivate);
        assert_eq!(explain("fatal: the sun is too bright", false), Refusal::Other("the sun is too bright".into()));
    }
}
