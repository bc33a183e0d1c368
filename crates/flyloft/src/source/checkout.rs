//! From a commit to a directory of files that can be built: no `.git`, nothing run, submodules in their places.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flyloft_core::name::{AppName, CommitId};

use super::credential::Credential;
use super::git::{Git, Quarantine};
use super::remote::RemoteUrl;
use super::tree::Tree;
use super::{Repositories, SourceError, SourceLimits, modules};

/// What is wanted of [`Repositories::checkout`].
#[derive(Clone, Copy, Debug)]
pub struct Checkout<'a> {
    pub commit: &'a CommitId,
    /// Set while the commit comes with a push that is not accepted yet.
    pub quarantine: Option<&'a Quarantine>,
    /// Where the repository comes from: relative URLs of submodules start there.
    pub remote: Option<&'a RemoteUrl>,
    /// For submodules, each for its own host. None for the pull request of a fork: it chooses what is fetched.
    pub credentials: &'a [Credential],
}

/// One tree that is to be written: that of the app, or that of a submodule.
struct Export {
    git: Git,
    commit: CommitId,
    remote: Option<RemoteUrl>,
    into: PathBuf,
    depth: usize,
}

const LIMIT: Duration = Duration::from_secs(600);
const MAX_DEPTH: usize = 8;
const MAX_SUBMODULES: usize = 100;

impl Repositories {
    /// Writes the commit's files to `into`, which is made; its parent must let the unprivileged user pass. The files
    /// belong to that user. Symlinks are written as they are and never followed. After an error, or when the future
    /// is dropped, `into` is gone.
    pub async fn checkout(&self, app: &AppName, wanted: &Checkout<'_>, into: &Path) -> Result<(), SourceError> {
        let failed = |source| SourceError::Io { doing: format!("make `{}`", into.display()), source };
        fs::create_dir(into).map_err(failed)?;
        let unfinished = Unfinished(Some(into));
        chown(into, Some(self.user), Some(self.user)).map_err(failed)?;
        fs::set_permissions(into, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        let index = self.scratch()?;
        let mut budget = Budget::new(self.limits);
        let git = self.git().within(&self.holding(app, wanted.commit, wanted.quarantine).await?);
        let mut exports = vec![Export {
            git: git.reading(wanted.quarantine),
            commit: wanted.commit.clone(),
            remote: wanted.remote.cloned(),
            into: into.to_owned(),
            depth: 0,
        }];
        while let Some(export) = exports.pop() {
            let tree = export.list().await?;
            budget.charge(&tree)?;
            export.write(index.path()).await?;
            let pointers = tree.lfs_pointers(&export.into);
            if let Some(first) = pointers.first() {
                return Err(SourceError::LfsPointer { path: first.clone(), count: pointers.len() });
            }
            if !tree.submodules.is_empty() {
                exports.extend(self.submodules(app, &export, &tree, wanted.remote, wanted.credentials).await?);
            }
        }
        unfinished.keep();
        Ok(())
    }

    /// The repository that has the commit: the one that pushes fill, or the one that is fetched into.
    async fn holding(
        &self,
        app: &AppName,
        commit: &CommitId,
        quarantine: Option<&Quarantine>,
    ) -> Result<PathBuf, SourceError> {
        let fetched = self.fetched(app);
        let look = quarantine.is_none() && fetched.join("HEAD").exists();
        if look && self.has(&fetched, commit).await { Ok(fetched) } else { self.existing(app) }
    }

    /// Fetches what the tree's submodules need.
    async fn submodules(
        &self,
        app: &AppName,
        parent: &Export,
        tree: &Tree,
        own: Option<&RemoteUrl>,
        credentials: &[Credential],
    ) -> Result<Vec<Export>, SourceError> {
        if parent.depth == MAX_DEPTH {
            return Err(SourceError::SubmodulesTooDeep(MAX_DEPTH));
        }
        let urls = parent.submodule_urls().await?;
        let mut exports = Vec::new();
        for (path, commit) in &tree.submodules {
            let failed = |why| SourceError::Submodule { path: path.clone(), why: Box::new(why) };
            let url = urls.get(path).ok_or_else(|| SourceError::SubmoduleWithoutUrl(path.clone()))?;
            let url = RemoteUrl::resolve(parent.remote.as_ref(), url, self.plain_http)
                .map_err(|error| failed(SourceError::Url(error)))?;
            let repository = self.module(app, &url);
            let at = self.addresses(&url, own).await.map_err(failed)?;
            self.fetch_commit(&repository, &url, &at, commit, credentials).await.map_err(failed)?;
            exports.push(Export {
                git: self.git().within(&repository),
                commit: commit.clone(),
                remote: Some(url),
                into: parent.into.join(path),
                depth: parent.depth + 1,
            });
        }
        Ok(exports)
    }
}

impl Export {
    async fn list(&self) -> Result<Tree, SourceError> {
        let list = self.git.command("ls-tree").args(["-r", "-l", "-z", "--full-tree"]).arg(self.commit.as_str());
        let listing = list.timeout(LIMIT).run().await.map_err(|source| match source.code() {
            Some(128) => SourceError::NoCommit(self.commit.clone()),
            _ => SourceError::Git { doing: format!("list commit {}", self.commit.short()), source },
        })?;
        Tree::parse(&listing.stdout).ok_or_else(|| SourceError::Io {
            doing: format!("understand the listing of commit {}", self.commit.short()),
            source: io::ErrorKind::InvalidData.into(),
        })
    }

    /// Reads the tree into an index of its own and writes the files out, as a checkout in a working copy does.
    async fn write(&self, scratch: &Path) -> Result<(), SourceError> {
        let index = scratch.join("index");
        let _ = fs::remove_file(&index);
        let git = self
            .git
            .clone()
            .env("GIT_INDEX_FILE", index.to_string_lossy())
            .env("GIT_WORK_TREE", self.into.to_string_lossy());
        let write = git.command("read-tree").args(["--reset", "-u"]).arg(self.commit.as_str());
        write.timeout(LIMIT).run().await.map(drop).map_err(|source| SourceError::Git {
            doing: format!("write the files of commit {}", self.commit.short()),
            source,
        })
    }

    async fn submodule_urls(&self) -> Result<std::collections::HashMap<PathBuf, String>, SourceError> {
        let blob = format!("{}:.gitmodules", self.commit);
        let list = self.git.command("config").args(["--blob", &blob, "-z", "--list"]).timeout(LIMIT);
        match list.run().await {
            Ok(listing) => Ok(modules::urls(&listing.stdout)),
            // There is no such file: then no submodule has a URL.
            Err(error) if error.code().is_some() => Ok(Default::default()),
            Err(source) => Err(SourceError::Git { doing: "read `.gitmodules`".to_owned(), source }),
        }
    }
}

/// What is written, submodules included, and how much of it may be.
struct Budget {
    files: u64,
    bytes: u64,
    submodules: usize,
    limits: SourceLimits,
}

impl Budget {
    fn new(limits: SourceLimits) -> Self {
        Self { files: 0, bytes: 0, submodules: 0, limits }
    }

    fn charge(&mut self, tree: &Tree) -> Result<(), SourceError> {
        self.files += tree.files;
        self.bytes = self.bytes.saturating_add(tree.bytes);
        self.submodules += tree.submodules.len();
        let Self { files, bytes, submodules, limits } = *self;
        if submodules > MAX_SUBMODULES {
            return Err(SourceError::TooManySubmodules(MAX_SUBMODULES));
        }
        match files > limits.files || bytes > limits.tree {
            true => Err(SourceError::TooLarge { files, bytes, limits }),
            false => Ok(()),
        }
    }
}

/// A directory that is removed unless it is kept.
struct Unfinished<'a>(Option<&'a Path>);

impl Unfinished<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(dir) = self.0 {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_5_gb_is_more_than_the_limit_that_nobody_changed() {
        let listing = format!("100644 blob {} {}\tvideo.mp4\0", "a".repeat(40), 5u64 << 30);
        let tree = Tree::parse(listing.as_bytes()).unwrap();
        let refused = Budget::new(SourceLimits::default()).charge(&tree);
        assert!(matches!(refused, Err(SourceError::TooLarge { files: 1, bytes: 5_368_709_120, .. })), "{refused:?}");
    }
}
