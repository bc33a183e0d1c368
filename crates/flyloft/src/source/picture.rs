//! A picture of all repositories, for a backup: taken while pushes and fetches go on.
//!
//! Git never writes into a file that is there; it makes another one. So links to the files of one moment are that moment,
//! whatever comes after it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Repositories, SourceError};

/// Where pictures are taken: here, since what is linked must be on the same file system. Emptied at every start.
pub(super) const PICTURES: &str = "pictures";

impl Repositories {
    /// A directory for root alone, in which `name` is a copy of what was pushed and fetched, and of which hosts are known. It
    /// goes when it is dropped.
    pub async fn picture(&self, name: &str) -> Result<TempDir, SourceError> {
        let failed = |source| SourceError::Io { doing: "take a picture of the repositories".to_owned(), source };
        let pictures = self.dir.join(PICTURES);
        private(&pictures).map_err(failed)?;
        let picture = tempfile::tempdir_in(pictures).map_err(failed)?;
        let to = picture.path().join(name);
        private(&to).map_err(failed)?;
        for repository in self.all().map_err(failed)? {
            let copy = to.join(repository.strip_prefix(&self.dir).expect("it is listed below it"));
            // Nobody packs, or gives objects up, meanwhile.
            let turn = self.turns.of(&repository);
            let _turn = turn.lock().await;
            let work = tokio::task::spawn_blocking(move || private(&copy).and_then(|()| link(&repository, &copy)));
            work.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)?;
        }
        match fs::copy(self.dir.join("known_hosts"), to.join("known_hosts")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(picture),
        }
    }

    fn all(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let modules = entries(&self.dir.join("modules"))?;
        for dir in [self.dir.join("apps"), self.dir.join("fetched")].into_iter().chain(modules) {
            found.extend(entries(&dir)?.into_iter().filter(|repository| repository.join("HEAD").is_file()));
        }
        Ok(found)
    }
}

/// Links what is in `from` into `to`. Objects come last: what refs speak of was there before them.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    let mut all = entries(from)?;
    all.sort_by_key(|path| path.ends_with("objects"));
    for path in all {
        let Some(name) = path.file_name() else { continue };
        let (copy, kind) = (to.join(name), fs::symlink_metadata(&path).map(|found| found.file_type()));
        let linked = match kind {
            // Objects of a push that is not accepted yet.
            _ if name.to_string_lossy().starts_with("tmp_objdir-") => continue,
            Ok(kind) if kind.is_dir() => private(&copy).and_then(|()| link(&path, &copy)),
            Ok(kind) if kind.is_file() => fs::hard_link(&path, &copy),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match linked {
            // One of git's temporary files, or locks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            linked => linked?,
        }
    }
    Ok(())
}

/// A directory for root alone, with those above it.
fn private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}
