//! Names, parsed once at the border. Whoever holds one of these types need not check it again.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// An app's name: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, 30 characters at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(String);

/// An environment's name within its app: a slug of the same alphabet as [`AppName`], 40 characters at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvName(String);

/// `app/env`: how people and the store address an environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvRef {
    pub app: AppName,
    pub env: EnvName,
}

/// The full hexadecimal id of a git commit: 40 (SHA-1) or 64 (SHA-256) lower-case digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(String);

/// A git branch as git's own rules (`git check-ref-format --branch`) allow it, without `refs/heads/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BranchName(String);

/// The number of a release within its environment, counted from 1 and shown as `v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(pub u32);

/// What a version of an app was made from, and so what its environment follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "of", rename_all = "kebab-case")]
pub enum Origin {
    Branch(BranchName),
    PullRequest(u64),
    Commit(CommitId),
    /// A directory that a client sent, named by the environment it was sent for.
    Directory,
}

/// Two sources come to the same environment: `feature/x` and `feature-x`. Whoever comes second gets this.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{wanted} would be the environment `{env}`, which is that of {holder}")]
pub struct EnvTaken {
    pub env: EnvRef,
    pub wanted: Origin,
    pub holder: Origin,
}

impl EnvTaken {
    pub fn hint(&self) -> String {
        format!("rename the branch, or destroy the other first: `flyloft destroy {}`", self.env)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} `{name}` has {length} characters, {max} are allowed")]
    TooLong { what: &'static str, name: String, length: usize, max: usize },
    #[error("{what} `{name}` may have only a-z, 0-9 and `-`, and neither starts nor ends with `-`")]
    Alphabet { what: &'static str, name: String },
    #[error("{what} `{name}` starts with `xn--`, which browsers read as an encoded international name")]
    Punycode { what: &'static str, name: String },
    #[error("`{0}` is not of the form app/env")]
    NotARef(String),
    #[error("`{0}` is not the full id of a commit (40 or 64 hexadecimal digits)")]
    NotACommit(String),
    #[error("`{name}` is not a branch name that git allows: {why}")]
    NotABranch { name: String, why: &'static str },
    #[error("branch `{0}` would be environment `{1}`, a name that is kept for pull requests")]
    Reserved(String, String),
}

/// How many branch-name characters survive in a slug before it is shortened with a hash.
const ENV_MAX: usize = 40;
const APP_MAX: usize = 30;
const BRANCH_MAX: usize = 250;

impl AppName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        check_label("app name", name, APP_MAX)?;
        Ok(Self(name.to_owned()))
    }
}

impl EnvName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        check_label("environment name", name, ENV_MAX)?;
        Ok(Self(name.to_owned()))
    }

    /// `pr-42`. No branch gets a name of that form; see [`EnvName::for_branch`].
    pub fn for_pull_request(number: u64) -> Self {
        Self(format!("pr-{number}"))
    }

    /// `commit-1a2b3c4d5e6f`.
    pub fn for_commit(commit: &CommitId) -> Self {
        Self(format!("commit-{}", &commit.as_str()[..12]))
    }

    /// The slug of a branch: lower case, every run of other characters one `-`, and shortened with a hash of the
    /// whole name where it would be too long or nothing would be left. Different branches may share a slug
    /// (`feature/x` and `feature-x`); whoever stages them finds the collision in the store and says so.
    pub fn for_branch(branch: &BranchName) -> Result<Self, NameError> {
        let mut slug = String::new();
        for c in branch.as_str().chars() {
            match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9') => slug.push(c),
                _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
                _ => {}
            }
        }
        let slug = slug.trim_end_matches('-');
        let slug = if slug.is_empty() || slug.len() > ENV_MAX {
            shorten(slug, branch.as_str(), ENV_MAX)
        } else {
            slug.to_owned()
        };
        if slug.strip_prefix("pr-").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            return Err(NameError::Reserved(branch.as_str().to_owned(), slug));
        }
        Ok(Self(slug))
    }

    /// The pull request that this name is kept for, if it is of the form `pr-42`.
    pub fn pull_request(&self) -> Option<u64> {
        self.0.strip_prefix("pr-")?.parse().ok()
    }
}

impl EnvRef {
    pub fn new(app: AppName, env: EnvName) -> Self {
        Self { app, env }
    }

    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (app, env) = text.split_once('/').ok_or_else(|| NameError::NotARef(excerpt(text)))?;
        Ok(Self { app: AppName::parse(app)?, env: EnvName::parse(env)? })
    }
}

impl CommitId {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex && matches!(text.len(), 40 | 64) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::NotACommit(excerpt(text)))
        }
    }

    /// The first 10 digits, as people say them.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }

    /// Git's way of saying "no object": all zeros, as in the line of a deleted ref.
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }
}

impl BranchName {
    /// Holds the rules of `git check-ref-format --branch` (its manual page lists them), and 250 bytes at most: a
    /// component of a path has 255, of which git needs five for `.lock`.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let refuse = |why| Err(NameError::NotABranch { name: excerpt(name), why });
        if name.is_empty() {
            return Err(NameError::Empty { what: "branch name" });
        }
        if name.len() > BRANCH_MAX {
            return refuse("it has more than 250 bytes");
        }
        if name.starts_with('-') {
            return refuse("it starts with `-`");
        }
        if name == "HEAD" {
            return refuse("git keeps it for itself");
        }
        if name.contains("..") || name.contains("@{") || name == "@" || name.contains("//") {
            return refuse("`..`, `@{`, `//` and a lone `@` are not allowed");
        }
        if name.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c)) {
            return refuse("control characters, spaces and any of ~^:?*[\\ are not allowed");
        }
        if name.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.ends_with(".lock"))
            || name.ends_with('.')
        {
            return refuse("no part may be empty, start with `.`, or end with `.lock` or `.`");
        }
        Ok(Self(name.to_owned()))
    }
}

fn check_label(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    let length = name.chars().count();
    if length > max {
        return Err(NameError::TooLong { what, name: excerpt(name), length, max });
    }
    let inner = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !inner || name.starts_with('-') || name.ends_with('-') {
        return Err(NameError::Alphabet { what, name: excerpt(name) });
    }
    // Such a label at the start of a host name makes the whole URL invalid, see "domain to ASCII" in the URL standard.
    if name.starts_with("xn--") {
        return Err(NameError::Punycode { what, name: name.to_owned() });
    }
    Ok(())
}

/// `slug` cut so that it fits `max` together with `-` and eight digits of the SHA-256 of `whole`.
pub(crate) fn shorten(slug: &str, whole: &str, max: usize) -> String {
    let hash = hex::encode(&Sha256::digest(whole.as_bytes())[..4]);
    let kept: String = slug.chars().take(max - hash.len() - 1).collect();
    match kept.trim_end_matches('-') {
        "" => hash,
        kept => format!("{kept}-{hash}"),
    }
}

/// Enough of a text from outside to recognise it by, and nothing that a terminal obeys.
pub(crate) fn excerpt(text: &str) -> String {
    let mut start: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        start.push('…');
    }
    start
}

macro_rules! text {
    ($($type:ident $parse:path),*) => {$(
        impl $type {
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String { name.0 }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> { $parse(&text) }
        }
        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> { $parse(text) }
        }
    )*};
}
text!(AppName AppName::parse, EnvName EnvName::parse, CommitId CommitId::parse, BranchName BranchName::parse);

impl fmt::Display for EnvRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.env)
    }
}
impl From<EnvRef> for String {
    fn from(name: EnvRef) -> String {
        name.to_string()
    }
}
impl TryFrom<String> for EnvRef {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}
impl FromStr for EnvRef {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Branch(branch) => write!(f, "branch `{branch}`"),
            Origin::PullRequest(number) => write!(f, "pull request {number}"),
            Origin::Commit(commit) => write!(f, "commit `{}`", commit.short()),
            Origin::Directory => f.write_str("a directory"),
        }
    }
}
impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}
