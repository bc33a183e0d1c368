//! Pull requests, branches and commits of a repository that lives elsewhere.
//!
//! They go into a repository beside the one that pushes fill, without their history: what is staged is a tree.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flyloft_core::name::{AppName, BranchName, CommitId};
use sha2::{Digest, Sha256};

use super::credential::{Credential, basic};
use super::git::Git;
use super::refusal::Refusal;
use super::remote::{RemoteUrl, Scheme};
use super::room::{Place, Room};
use super::{Repositories, SourceError, reach, ssh};
use crate::exec::{Cmd, ExecError};

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    PullRequest(u64),
    Branch(BranchName),
    Commit(CommitId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub commit: CommitId,
    /// The ref that it was found at: `refs/pull/42/head`. None if a commit was asked for.
    pub reference: Option<String>,
}

const FETCH: Duration = Duration::from_secs(900);
const LIST: Duration = Duration::from_secs(60);
/// What a host may make git print. A hundred thousand refs are some ten megabytes.
const LIST_OUTPUT: u64 = 32 << 20;

impl Want {
    /// The refs at which it may be: GitHub, Gitea and Forgejo have the first for a pull request, GitLab the second.
    pub(super) fn references(&self) -> Vec<String> {
        match self {
            Want::PullRequest(number) => {
                vec![format!("refs/pull/{number}/head"), format!("refs/merge-requests/{number}/head")]
            }
            Want::Branch(branch) => vec![format!("refs/heads/{branch}")],
            Want::Commit(_) => Vec::new(),
        }
    }

    fn missing(&self, url: &RemoteUrl) -> SourceError {
        let url = url.to_string();
        match self {
            Want::PullRequest(number) => SourceError::NoPullRequest { number: *number, url },
            Want::Branch(branch) => SourceError::NoBranch { branch: branch.clone(), url },
            Want::Commit(commit) => SourceError::NoCommitThere { commit: commit.clone(), url },
        }
    }
}

impl Repositories {
    /// An address for [`Repositories::fetch`] and [`Repositories::refs`].
    pub fn url(&self, text: &str) -> Result<RemoteUrl, SourceError> {
        Ok(RemoteUrl::parse_also_http(text, self.plain_http)?)
    }

    /// Which commit it is now. Fetches nothing.
    pub async fn resolve(
        &self,
        url: &RemoteUrl,
        want: &Want,
        credentials: &[Credential],
    ) -> Result<Fetched, SourceError> {
        if let Want::Commit(commit) = want {
            return Ok(Fetched { commit: commit.clone(), reference: None });
        }
        let wanted = want.references();
        let found = self.refs(url, &wanted, credentials).await?;
        let best = wanted.iter().find_map(|name| found.iter().find(|(reference, _)| reference == name));
        let (reference, commit) = best.ok_or_else(|| want.missing(url))?;
        Ok(Fetched { commit: commit.clone(), reference: Some(reference.clone()) })
    }

    /// Fetches one commit for an app: [`Repositories::checkout`] finds it from then on.
    pub async fn fetch(
        &self,
        app: &AppName,
        url: &RemoteUrl,
        want: &Want,
        credentials: &[Credential],
    ) -> Result<Fetched, SourceError> {
        let found = self.resolve(url, want, credentials).await?;
        self.fetch_commit(&self.fetched(app), url, &[], &found.commit, credentials).await?;
        Ok(found)
    }

    /// The refs of a repository that match one of the patterns (all, if there is none), and the commits they are at.
    pub async fn refs(
        &self,
        url: &RemoteUrl,
        patterns: &[String],
        credentials: &[Credential],
    ) -> Result<Vec<(String, CommitId)>, SourceError> {
        let listed = self.list(url, &[], patterns, credentials).await?;
        Ok(listed_refs(&listed).filter_map(listed_ref).collect())
    }

    /// What `git ls-remote` prints.
    pub(super) async fn list(
        &self,
        url: &RemoteUrl,
        options: &[&str],
        patterns: &[String],
        credentials: &[Credential],
    ) -> Result<String, SourceError> {
        let line = self.dial(&self.asking, self.git(), url, &[], credentials).await?;
        line.run(&[&["ls-remote", "--quiet"], options].concat(), patterns, LIST).await
    }

    /// Makes sure that a commit is in a repository, which is made if it is missing. Git asks nobody but the host at
    /// these addresses, if there are any.
    pub(super) async fn fetch_commit(
        &self,
        repository: &Path,
        url: &RemoteUrl,
        at: &[IpAddr],
        commit: &CommitId,
        credentials: &[Credential],
    ) -> Result<(), SourceError> {
        // Two fetches into one shallow repository fail on each other's locks.
        let turn = self.turns.of(repository);
        let _turn = turn.lock().await;
        self.make(repository).await?;
        if self.has(repository, commit).await {
            return Ok(());
        }
        let git = self.git().within(repository);
        let quietly = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
        let keep = format!("+{commit}:refs/flyloft/commits/{commit}");
        let line = self.dial(&self.fetching, git.clone(), url, at, credentials).await?;
        match line.run(&[&quietly[..], &["--depth=1"]].concat(), &[keep], FETCH).await {
            // A server that does not give single commits: take the branches, and look whether it is in one of them.
            Err(SourceError::Remote { why: Refusal::NoSuchCommit, .. }) => {}
            other => return other.map(drop),
        }
        let unshallow: &[&str] = if repository.join("shallow").exists() { &["--unshallow"] } else { &[] };
        let line = self.dial(&self.fetching, git, url, at, credentials).await?;
        line.run(&[&quietly[..], unshallow].concat(), &["+refs/heads/*:refs/flyloft/heads/*".to_owned()], FETCH)
            .await?;
        if self.has(repository, commit).await { Ok(()) } else { Err(Want::Commit(commit.clone()).missing(url)) }
    }

    pub(super) async fn has(&self, repository: &Path, commit: &CommitId) -> bool {
        let look = self.git().within(repository).command("cat-file").arg("-e").arg(format!("{commit}^{{commit}}"));
        look.run().await.is_ok()
    }

    /// Whether a repository of the app has the commit and keeps it, since a branch or a release of a fetched one leads
    /// to it.
    pub async fn holds(&self, app: &AppName, commit: &CommitId) -> bool {
        for repository in [self.fetched(app), self.repository(app)] {
            if !repository.join("HEAD").exists() {
                continue;
            }
            let look = self.git().within(&repository).command("for-each-ref");
            let look = look.args(["--count=1", "--format=%(refname)", "--contains", commit.as_str()]);
            // Of a commit that is not there git says that it is malformed.
            if look.run().await.is_ok_and(|found| !found.stdout.is_empty()) {
                return true;
            }
        }
        false
    }

    pub(super) fn fetched(&self, app: &AppName) -> PathBuf {
        self.dir.join("fetched").join(format!("{app}.git"))
    }

    pub(super) fn module(&self, app: &AppName, url: &RemoteUrl) -> PathBuf {
        let hash = hex::encode(&Sha256::digest(url.to_string())[..10]);
        self.dir.join("modules").join(app.as_str()).join(format!("{hash}.git"))
    }

    /// Prepares git to talk to a repository elsewhere, once there is room for it.
    async fn dial(
        &self,
        room: &Room,
        git: Git,
        url: &RemoteUrl,
        at: &[IpAddr],
        credentials: &[Credential],
    ) -> Result<Line, SourceError> {
        let place = room.enter_noticed(&self.waits).await;
        let protocol = match url.scheme {
            Scheme::Https => "https",
            Scheme::Http => "http",
            Scheme::Ssh => "fd",
        };
        let mut git = git.set(format!("protocol.{protocol}.allow"), "always");
        if !at.is_empty() {
            git = git.set("http.curloptResolve", reach::held_to(url, at));
        }
        for (variable, value) in &self.outward {
            git = git.env(*variable, value);
        }
        let token = Credential::token(credentials, url);
        if let Some((user, token)) = token {
            // Git sends the header to URLs that begin so, and to no other. See http.<url>.* in git-config(1).
            let header = format!("http.{protocol}://{}/.extraHeader", url.authority());
            git = git.set(header, format!("Authorization: {}", basic(user, token)));
        }
        let link = match url.scheme {
            Scheme::Ssh => {
                let key = Credential::deploy_key(credentials, url);
                let link = ssh::dial(url, key, &self.dir.join("known_hosts")).await;
                Some(link.map_err(|why| SourceError::Remote { url: url.to_string(), why })?)
            }
            Scheme::Https | Scheme::Http => None,
        };
        let known = token.is_some() || link.is_some();
        Ok(Line { git, url: url.clone(), known, most: self.limits.push, link, _place: place })
    }
}

/// Each line's commit and ref, as it says.
pub(super) fn listed_refs(listed: &str) -> impl Iterator<Item = (&str, &str)> {
    listed.lines().filter_map(|line| line.split_once('\t'))
}

fn listed_ref((commit, reference): (&str, &str)) -> Option<(String, CommitId)> {
    Some((reference.to_owned(), CommitId::parse(commit).ok()?))
}

/// A way to one repository elsewhere, for one git process.
struct Line {
    git: Git,
    url: RemoteUrl,
    /// Whether the server was shown a credential.
    known: bool,
    /// Bytes that the server may send.
    most: u64,
    link: Option<ssh::Link>,
    _place: Place,
}

impl Line {
    /// Runs `git BEFORE… ADDRESS AFTER…` and gives what it printed.
    async fn run(self, before: &[&str], after: &[String], limit: Duration) -> Result<String, SourceError> {
        let Self { git, url, known, most, link, _place } = self;
        // Git has no limit of its own for what it fetches; what arrives becomes one file.
        let command = git.command(before[0]).args(&before[1..]).timeout(limit).largest_file(most);
        let command = command.most_output(LIST_OUTPUT);
        let (result, said) = match link {
            None => (command.arg("--").arg(url.to_string()).args(after).run().await, String::new()),
            Some(link) => through(link, command, after).await,
        };
        match result {
            Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(error) => {
                let why = Refusal::explain(&error, &said, known);
                Err(SourceError::Remote { url: url.to_string(), why })
            }
        }
    }
}

/// Git talks through a socket that it inherits; see git-remote-fd(1). Also what the server had to say.
async fn through(link: ssh::Link, command: Cmd, after: &[String]) -> (Result<crate::exec::Output, ExecError>, String) {
    let (socket, carry) = link.open();
    let work = async {
        let failed = |source| ExecError::Pipe { argv: "git".to_owned(), source };
        let command = command.arg("--").arg("fd::3").args(after).pass(socket.map_err(failed)?, 3).map_err(failed)?;
        command.run().await
    };
    tokio::join!(work, carry)
}

/// One at a time for each repository.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>>);

impl Turns {
    pub(super) fn of(&self, repository: &Path) -> Arc<tokio::sync::Mutex<()>> {
        self.0.lock().expect("not poisoned").entry(repository.to_owned()).or_default().clone()
    }
}
