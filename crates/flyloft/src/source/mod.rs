//! Where the code of an app comes from: a bare repository for each app, which pushes fill and pull requests are
//! fetched into, and from which trees are taken to be built.
//!
//! All of it belongs to an unprivileged user, and git runs as that user ([`git`]). Callers name apps and commits;
//! nobody else knows where a repository lies.

mod git;

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use flyloft_core::name::AppName;
use thiserror::Error;

use crate::exec::{Cmd, ExecError};
use git::Git;
pub use git::Quarantine;

/// Everything below one directory:
///
/// ```text
/// hooks/           root's: what git runs when a push arrives
/// apps/shop.git/   the unprivileged user's
/// tmp/             the unprivileged user's; emptied at start
/// ```
#[derive(Clone, Debug)]
pub struct Repositories {
    dir: PathBuf,
    user: u32,
    limits: SourceLimits,
}

#[derive(Clone, Copy, Debug)]
pub struct SourceLimits {
    /// Bytes that one push may send.
    pub push: u64,
    /// Bytes of files in one tree, submodules included.
    pub tree: u64,
    /// Files in one tree, submodules included.
    pub files: u64,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self { push: 2 << 30, tree: 4 << 30, files: 500_000 }
    }
}

/// A `git receive-pack` that is ready to be started, and where its repository keeps objects.
#[derive(Debug)]
pub struct ReceivePack {
    pub cmd: Cmd,
    pub objects: PathBuf,
}

#[derive(Debug, Error)]
pub enum SourceError {
    #[error("app `{0}` has no repository yet")]
    NoRepository(AppName),
    #[error("failed to {doing}")]
    Git { doing: String, source: ExecError },
    #[error("failed to {doing}")]
    Io { doing: String, source: io::Error },
}

impl Repositories {
    /// `dir` is made when it is missing. Its parents must let `user` pass; git runs as that user and its group.
    pub fn open(dir: &Path, user: u32, limits: SourceLimits) -> Result<Self, SourceError> {
        let repositories = Self { dir: dir.to_owned(), user, limits };
        repositories.lay_out().map_err(|source| SourceError::Io {
            doing: format!("prepare the directory of repositories `{}`", dir.display()),
            source,
        })?;
        Ok(repositories)
    }

    fn lay_out(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o711))?;
        match fs::remove_dir_all(self.dir.join("tmp")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for name in ["apps", "tmp"] {
            let dir = self.dir.join(name);
            fs::create_dir_all(&dir)?;
            chown(&dir, Some(self.user), Some(self.user))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        }
        for repository in fs::read_dir(self.dir.join("apps"))? {
            sweep(&repository?.path().join("objects"))?;
        }
        Ok(())
    }

    /// Where hooks are taken from; see [`crate::door::hook::install`].
    pub fn hooks(&self) -> PathBuf {
        self.dir.join("hooks")
    }

    /// Makes the app's repository, if it has none yet.
    pub async fn ensure(&self, app: &AppName) -> Result<(), SourceError> {
        let repository = self.repository(app);
        if repository.join("HEAD").exists() {
            return Ok(());
        }
        // Made aside, so that a repository that is there is whole.
        let aside = self.scratch()?;
        let init = self.git().command("init").args(["--quiet", "--bare", "--template="]).arg(aside.path());
        init.run()
            .await
            .map_err(|source| SourceError::Git { doing: format!("make a repository for `{app}`"), source })?;
        match fs::rename(aside.path(), &repository) {
            Err(error) if !repository.join("HEAD").exists() => {
                Err(SourceError::Io { doing: format!("make a repository for `{app}`"), source: error })
            }
            _ => Ok(()),
        }
    }

    /// Removes the app's repository, if it has one.
    pub fn remove(&self, app: &AppName) -> Result<(), SourceError> {
        match fs::remove_dir_all(self.repository(app)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SourceError::Io { doing: format!("remove the repository of `{app}`"), source: error })
            }
            _ => Ok(()),
        }
    }

    /// What takes a push. The repository must be there: see [`Repositories::ensure`].
    pub fn receive_pack(&self, app: &AppName) -> Result<ReceivePack, SourceError> {
        let repository = self.existing(app)?;
        let git = self
            .git()
            .within(&repository)
            .set("core.hooksPath", self.hooks().to_string_lossy())
            .set("receive.maxInputSize", self.limits.push.to_string())
            .set("receive.denyCurrentBranch", "ignore")
            .set("receive.denyDeleteCurrent", "ignore")
            .set("receive.autogc", "false");
        Ok(ReceivePack { cmd: git.command("receive-pack").arg(&repository), objects: repository.join("objects") })
    }

    /// What answers a fetch or a clone.
    pub fn upload_pack(&self, app: &AppName) -> Result<Cmd, SourceError> {
        let repository = self.existing(app)?;
        Ok(self.git().within(&repository).command("upload-pack").arg("--strict").arg(&repository))
    }

    fn git(&self) -> Git {
        Git::new(self.user)
    }

    fn repository(&self, app: &AppName) -> PathBuf {
        self.dir.join("apps").join(format!("{app}.git"))
    }

    fn existing(&self, app: &AppName) -> Result<PathBuf, SourceError> {
        let repository = self.repository(app);
        if repository.join("HEAD").exists() { Ok(repository) } else { Err(SourceError::NoRepository(app.clone())) }
    }

    /// A directory of the unprivileged user's that is removed when it is dropped.
    fn scratch(&self) -> Result<tempfile::TempDir, SourceError> {
        let made = tempfile::tempdir_in(self.dir.join("tmp")).and_then(|dir| {
            chown(dir.path(), Some(self.user), Some(self.user))?;
            Ok(dir)
        });
        made.map_err(|source| SourceError::Io { doing: "make a temporary directory".to_owned(), source })
    }
}

/// Removes what pushes left that a killed daemon, or a power cut, ended half-way. Git does not find it again.
fn sweep(objects: &Path) -> io::Result<()> {
    for entry in fs::read_dir(objects)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("tmp_objdir-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
