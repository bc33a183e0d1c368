//! A look at a repository elsewhere: where several branches and pull requests are now, in one list.

use std::collections::{HashMap, HashSet};

use flyloft_core::name::CommitId;

use super::credential::Credential;
use super::fetch::{Want, listed_refs};
use super::remote::RemoteUrl;
use super::{Repositories, SourceError};

/// What was seen. It keeps what was looked for, however much there is beside it.
#[derive(Debug, Default)]
pub struct Look {
    refs: HashMap<String, CommitId>,
    /// Where branches are, if there was a pull request among what was looked for.
    branches: HashSet<CommitId>,
}

impl Look {
    /// Where it is, if it is there.
    pub fn at(&self, want: &Want) -> Option<&CommitId> {
        want.references().iter().find_map(|reference| self.refs.get(reference))
    }

    /// Whether a branch is at this commit: whoever put it there may write to the repository.
    pub fn is_branch(&self, commit: &CommitId) -> bool {
        self.branches.contains(commit)
    }

    fn of(listed: &str, wants: &[Want]) -> Self {
        let wanted: HashSet<String> = wants.iter().flat_map(Want::references).collect();
        let branches_too = has_pull_request(wants);
        let mut look = Self::default();
        for (commit, reference) in listed_refs(listed) {
            let (wanted, branch) = (wanted.get(reference), branches_too && reference.starts_with("refs/heads/"));
            if wanted.is_none() && !branch {
                continue;
            }
            let Ok(commit) = CommitId::parse(commit) else { continue };
            if branch {
                look.branches.insert(commit.clone());
            }
            if let Some(reference) = wanted {
                look.refs.insert(reference.clone(), commit);
            }
        }
        look
    }
}

fn has_pull_request(wants: &[Want]) -> bool {
    wants.iter().any(|want| matches!(want, Want::PullRequest(_)))
}

impl Repositories {
    /// A repository that lists nothing at all is an error, since nobody can say then what is not there any more.
    pub async fn look(&self, url: &RemoteUrl, wants: &[Want], credentials: &[Credential]) -> Result<Look, SourceError> {
        // A server that speaks the protocol's second version sends no more than that; patterns are the client's alone.
        let options: &[&str] = if has_pull_request(wants) { &[] } else { &["--heads"] };
        let listed = self.list(url, options, &[], credentials).await?;
        match listed.is_empty() {
            true => Err(SourceError::Nothing(url.clone())),
            false => Ok(Look::of(&listed, wants)),
        }
    }
}
