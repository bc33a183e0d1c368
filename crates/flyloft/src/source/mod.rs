//! Where the code of an app comes from: a bare repository for each app, which pushes fill and pull requests are
//! fetched into, and from which trees are taken to be built.
//!
//! All of it belongs to an unprivileged user, and git runs as that user ([`git`]). Callers name apps and commits;
//! nobody else knows where a repository lies.

mod checkout;
mod credential;
mod fetch;
mod git;
mod look;
mod modules;
mod picture;
mod push;
mod reach;
mod refusal;
mod remote;
mod room;
mod ssh;
mod tidy;
mod tree;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use flyloft_core::name::{AppName, BranchName, CommitId};
use thiserror::Error;

use crate::error::{Error as DoorError, Kind};
use crate::exec::{Cmd, ExecError};
pub use checkout::Checkout;
pub use credential::{Credential, Secret};
use fetch::Turns;
pub use fetch::{Fetched, Want};
use git::Git;
pub use git::Quarantine;
pub use look::Look;
pub use push::{BranchUpdate, Push, Turn};
pub use refusal::Refusal;
pub use remote::{RemoteUrl, UrlError};
use room::Notice;
pub use room::{Place, Room};

/// Everything below one directory:
///
/// ```text
/// hooks/           root's: what git runs when a push arrives
/// known_hosts      root's: SSH hosts that were fetched from
/// apps/shop.git    the unprivileged user's, like all below: what was pushed
/// fetched/shop.git     what was fetched, without its history
/// modules/shop/….git   what its submodules were fetched from
/// tmp/             emptied at start
/// pictures/        root's, for backups; emptied at start
/// tidied           when all this was last tidied: the file's time
/// ```
#[derive(Clone, Debug)]
pub struct Repositories {
    dir: PathBuf,
    user: u32,
    limits: SourceLimits,
    plain_http: bool,
    /// Variables by which git finds its way out.
    outward: Vec<(&'static str, String)>,
    turns: Turns,
    /// What is pushed, what is fetched, and whom is asked what there is: none of them waits for the others.
    pushing: Room,
    fetching: Room,
    asking: Room,
    /// Who wants to know that a fetch waits for its place.
    waits: Notice,
}

#[derive(Clone, Copy, Debug)]
pub struct SourceLimits {
    /// Bytes that one push may send.
    pub push: u64,
    /// Bytes of files in one tree, submodules included.
    pub tree: u64,
    /// Files in one tree, submodules included.
    pub files: u64,
    /// Bytes of memory that one git process may have.
    pub memory: u64,
    /// Pushes, and fetches, that git takes in at a time.
    pub at_once: usize,
}

impl SourceLimits {
    /// For a machine with so much memory. Git may have half of it at the most, except on the smallest.
    pub fn within(memory: u64) -> Self {
        let one = (memory / 8).clamp(192 << 20, 1 << 30);
        let at_once = (memory / 4 / one).clamp(2, 8) as usize;
        Self { memory: one, at_once, ..Self::default() }
    }
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self { push: 2 << 30, tree: 4 << 30, files: 500_000, memory: 512 << 20, at_once: 4 }
    }
}

/// A `git receive-pack` that is ready to be started, and where its repository keeps objects.
#[derive(Debug)]
pub struct ReceivePack {
    pub cmd: Cmd,
    pub objects: PathBuf,
    pub turn: Turn,
    /// Where its objects find a place before git takes them in.
    pub room: Room,
}

#[derive(Debug, Error)]
pub enum SourceError {
    #[error("app `{0}` has no repository yet")]
    NoRepository(AppName),
    #[error("commit `{0}` is not in the repository")]
    NoCommit(CommitId),
    #[error("branch `{0}` is not any more where it was when the push began")]
    Moved(BranchName),
    #[error("`{}` is a {kind}, and branch `{branch}` needs a commit", id.short())]
    NotACommit { id: CommitId, kind: String, branch: BranchName },
    #[error("another push to the same app does not come to its end")]
    Busy,
    #[error("there is no pull request {number} at `{url}`")]
    NoPullRequest { number: u64, url: String },
    #[error("there is no branch `{branch}` at `{url}`")]
    NoBranch { branch: BranchName, url: String },
    #[error("there is no commit `{commit}` at `{url}`")]
    NoCommitThere { commit: CommitId, url: String },
    #[error("`{0}` lists nothing: it is empty, or its host is not itself")]
    Nothing(RemoteUrl),
    #[error("failed to fetch from `{url}`")]
    Remote {
        url: String,
        #[source]
        why: Refusal,
    },
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("failed to get submodule `{}`", path.display())]
    Submodule {
        path: PathBuf,
        #[source]
        why: Box<SourceError>,
    },
    #[error("`{0}` is not a host on the internet")]
    PrivateHost(String),
    #[error("submodule `{}` has no URL in `.gitmodules`", .0.display())]
    SubmoduleWithoutUrl(PathBuf),
    #[error("submodules are nested deeper than {0}")]
    SubmodulesTooDeep(usize),
    #[error("there are more than {0} submodules")]
    TooManySubmodules(usize),
    #[error("`{}` is a Git LFS pointer, not the file itself ({count} in all)", path.display())]
    LfsPointer { path: PathBuf, count: usize },
    #[error("the tree is too large: it has {files} files with {bytes} bytes, {} files with {} bytes are allowed", limits.files, limits.tree)]
    TooLarge { files: u64, bytes: u64, limits: SourceLimits },
    #[error("failed to {doing}")]
    Git { doing: String, source: ExecError },
    #[error("failed to {doing}")]
    Io { doing: String, source: io::Error },
}

impl SourceError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoRepository(_) => Kind::NotFound,
            Self::Url(_) | Self::NotACommit { .. } => Kind::Usage,
            Self::Moved(_) | Self::Busy => Kind::Conflict,
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoRepository(_) => Some("push to it first, or fetch with `flyloft up APP --branch NAME`"),
            Self::Moved(_) => Some("somebody else has pushed to it: `git fetch`, and push again"),
            Self::NotACommit { kind, .. } if kind == "tag" => Some("push the commit that it points at: `TAG^{commit}`"),
            Self::Busy => Some("push again in a minute"),
            Self::NoPullRequest { .. } => Some("check its number; on GitLab it is that of the merge request"),
            Self::NoBranch { .. } => Some("check its name, and that it was pushed there"),
            Self::NoCommitThere { .. } => Refusal::NoSuchCommit.hint(),
            Self::Remote { why, .. } => why.hint(),
            Self::Url(UrlError::Secret(_)) => Some("give the token to the app as a credential instead"),
            Self::Submodule { why, .. } => match &**why {
                Self::Url(UrlError::NoBase(_)) => Some(
                    "give it an absolute https:// URL, or say where the app comes from with `flyloft apps create APP --git URL`",
                ),
                Self::Url(UrlError::Form(_)) => Some("give it an https:// or ssh:// URL in `.gitmodules`"),
                why => why.hint(),
            },
            Self::PrivateHost(_) => {
                Some("submodules come from the internet, or from the host of the app's own repository")
            }
            Self::TooLarge { .. } => Some("keep large files out of the repository: a build step can download them"),
            Self::SubmoduleWithoutUrl(_) => {
                Some("add it with `git submodule add URL PATH`, or remove it from the commit")
            }
            Self::LfsPointer { .. } => {
                Some("Git LFS is not supported: commit the files themselves (`git lfs migrate export`)")
            }
            _ => None,
        }
    }
}

impl From<SourceError> for DoorError {
    fn from(error: SourceError) -> Self {
        let (kind, hint) = (error.kind(), error.hint());
        let mut shown = DoorError::new(kind, &error);
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            shown.causes.push(cause.to_string());
            source = cause.source();
        }
        shown.hints.extend(hint.map(str::to_owned));
        shown
    }
}

impl Repositories {
    /// `dir` is made when it is missing. Its parents must let `user` pass; git runs as that user and its group.
    pub fn open(dir: &Path, user: u32, limits: SourceLimits) -> Result<Self, SourceError> {
        let room = || Room::of(limits.at_once);
        let repositories = Self {
            dir: dir.to_owned(),
            user,
            limits,
            plain_http: false,
            outward: Vec::new(),
            turns: Turns::default(),
            pushing: room(),
            fetching: room(),
            asking: room(),
            waits: Notice::default(),
        };
        repositories.lay_out().map_err(|source| SourceError::Io {
            doing: format!("prepare the directory of repositories `{}`", dir.display()),
            source,
        })?;
        Ok(repositories)
    }

    /// What a tree is held to, wherever it comes from.
    pub fn limits(&self) -> SourceLimits {
        self.limits
    }

    fn lay_out(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o711))?;
        for left in ["tmp", picture::PICTURES] {
            match fs::remove_dir_all(self.dir.join(left)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for name in ["apps", "fetched", "modules", "tmp"] {
            let dir = self.dir.join(name);
            // What comes from a backup is nobody's yet.
            if fs::metadata(&dir).is_ok_and(|found| found.uid() != self.user) {
                self.take_over(&dir)?;
            }
            self.own(&dir)?;
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

    /// Makes fetches trust these certificate authorities, and take the proxy that `variables` name, if they do. Their
    /// other variables have no effect.
    pub fn reaching_out(mut self, ca_bundle: &Path, variables: &BTreeMap<String, String>) -> Self {
        self.outward = vec![("GIT_SSL_CAINFO", ca_bundle.to_string_lossy().into_owned())];
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            let value = variables.iter().find(|(variable, _)| variable.eq_ignore_ascii_case(name));
            self.outward.extend(value.map(|(_, value)| (name, value.clone())));
        }
        self
    }

    /// The same ones, for somebody who is to know when a fetch has to wait for others.
    pub fn noticing(&self, waits: impl Fn() + Send + Sync + 'static) -> Self {
        Self { waits: Notice::by(waits), ..self.clone() }
    }

    /// For tests: repositories at `http://127.0.0.1:PORT/…` may be fetched from, too.
    #[doc(hidden)]
    pub fn with_plain_http_on_loopback(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// Makes the repository that an app is pushed to, if it has none yet.
    pub async fn ensure(&self, app: &AppName) -> Result<(), SourceError> {
        self.make(&self.repository(app)).await
    }

    /// Makes a bare repository, if it is not there yet.
    async fn make(&self, repository: &Path) -> Result<(), SourceError> {
        if repository.join("HEAD").exists() {
            return Ok(());
        }
        // Made aside, so that a repository that is there is whole.
        let aside = self.scratch()?;
        let doing = || format!("make the repository `{}`", repository.display());
        let init = self.git().command("init").args(["--quiet", "--bare", "--template="]).arg(aside.path());
        init.run().await.map_err(|source| SourceError::Git { doing: doing(), source })?;
        let moved = repository.parent().map_or(Ok(()), |parent| self.own(parent));
        match moved.and_then(|()| fs::rename(aside.path(), repository)) {
            Err(source) if !repository.join("HEAD").exists() => Err(SourceError::Io { doing: doing(), source }),
            _ => Ok(()),
        }
    }

    /// Removes the app's repositories, if it has any. Each is there whole or not at all, also after a crash.
    pub fn remove(&self, app: &AppName) -> Result<(), SourceError> {
        let modules = self.dir.join("modules").join(app.as_str());
        for dir in [self.repository(app), self.fetched(app), modules] {
            let failed = |source| SourceError::Io { doing: format!("remove `{}`", dir.display()), source };
            let aside = self.scratch()?;
            match fs::rename(&dir, aside.path().join("removed")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                moved => moved.map_err(failed)?,
            }
            aside.close().map_err(failed)?;
        }
        Ok(())
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
            .set("receive.autogc", "false")
            // A build service pushes from a clone without history.
            .set("receive.shallowUpdate", "true");
        Ok(ReceivePack {
            cmd: git.command("receive-pack").arg(&repository),
            objects: repository.join("objects"),
            turn: self.turn_to_push(&repository),
            room: self.pushing.clone(),
        })
    }

    /// What answers a fetch or a clone.
    pub async fn upload_pack(&self, app: &AppName) -> Result<Cmd, SourceError> {
        let repository = self.existing(app)?;
        self.settle_head(&repository).await?;
        Ok(self.git().within(&repository).command("upload-pack").arg("--strict").arg(&repository))
    }

    /// A clone checks out the branch that `HEAD` names. Where that was never pushed, it becomes one that was.
    async fn settle_head(&self, repository: &Path) -> Result<(), SourceError> {
        let head = fs::read_to_string(repository.join("HEAD")).unwrap_or_default();
        if head.trim().strip_prefix("ref: ").is_some_and(|branch| repository.join(branch).exists()) {
            return Ok(());
        }
        let failed = |source| SourceError::Git { doing: "find a branch for `HEAD`".to_owned(), source };
        let git = self.git().within(repository);
        let list = git.command("for-each-ref").args(["--sort=-committerdate", "--format=%(refname)", "refs/heads/"]);
        let listed = list.run().await.map_err(failed)?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        let master = listed.lines().find(|branch| *branch == "refs/heads/master");
        match master.or_else(|| listed.lines().next()) {
            Some(branch) => git.command("symbolic-ref").args(["HEAD", branch]).run().await.map(drop).map_err(failed),
            None => Ok(()),
        }
    }

    fn git(&self) -> Git {
        Git::new(self.user, self.limits.memory)
    }

    fn repository(&self, app: &AppName) -> PathBuf {
        self.dir.join("apps").join(format!("{app}.git"))
    }

    fn existing(&self, app: &AppName) -> Result<PathBuf, SourceError> {
        let repository = self.repository(app);
        if repository.join("HEAD").exists() { Ok(repository) } else { Err(SourceError::NoRepository(app.clone())) }
    }

    /// Makes a directory that is the unprivileged user's alone.
    fn own(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        chown(dir, Some(self.user), Some(self.user))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
    }

    /// Makes what is in a directory the unprivileged user's.
    fn take_over(&self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.take_over(&entry.path())?;
            }
            lchown(entry.path(), Some(self.user), Some(self.user))?;
        }
        Ok(())
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
    let entries = match fs::read_dir(objects) {
        // It is no repository, but `lost+found` or a file that somebody has left.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("tmp_objdir-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
