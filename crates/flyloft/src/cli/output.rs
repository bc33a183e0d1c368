//! A file that the client writes: it is there when it is whole, and as it was before until then. What is no file stays
//! what it is.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flyloft_core::harmless;
use tempfile::NamedTempFile;

use crate::backup::{Backup, Manifest};
use crate::error::{Error, OrFailed, Result};

pub struct Output {
    path: PathBuf,
    /// Beside it, for its owner alone. It goes if this is dropped.
    aside: NamedTempFile,
}

impl Output {
    pub fn open(path: PathBuf) -> Result<Self> {
        let path = target(path)?;
        let aside = NamedTempFile::with_prefix_in(".flyloft-", dir(&path));
        let aside = aside.or_failed(|| format!("failed to write `{}`", path.display()))?;
        Ok(Self { path, aside })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.aside.write_all(bytes).or_failed(|| format!("failed to write `{}`", self.path.display()))
    }

    /// Looks whether the backup is whole, and puts it where it belongs.
    pub fn finish(self, json: bool) -> Result<()> {
        let Backup { manifest, bytes, .. } = Backup::open(self.aside.path())?;
        let path = self.put()?;
        let amount = manifest.amount();
        let Manifest { apps, environments, made_at, servers, .. } = manifest;
        if json {
            let written = serde_json::json!({
                "file": path, "bytes": bytes, "apps": apps, "environments": environments, "made_at": made_at,
                "without_data_of": servers,
            });
            println!("{}", harmless::json(&format!("{written:#}")));
        } else {
            let mib = bytes as f64 / f64::from(1 << 20);
            println!("wrote `{}`: {amount}, {mib:.1} MiB", path.display());
            if !servers.is_empty() {
                println!(
                    "not in it are the data on {}; save databases of PostgreSQL with: flyloft services dump APP/ENV FILE",
                    servers.join(", ")
                );
            }
        }
        Ok(())
    }

    /// Puts what is whole as soon as its command has ended well where it belongs.
    pub fn keep(self, json: bool) -> Result<()> {
        let path = self.put()?;
        let bytes = fs::metadata(&path).or_failed(|| format!("failed to look at `{}`", path.display()))?.len();
        if json {
            let written = serde_json::json!({"file": path, "bytes": bytes});
            println!("{}", harmless::json(&format!("{written:#}")));
        } else {
            println!("wrote `{}`: {:.1} MiB", path.display(), bytes as f64 / f64::from(1 << 20));
        }
        Ok(())
    }

    fn put(self) -> Result<PathBuf> {
        let Self { path, aside } = self;
        let failed = || format!("failed to write `{}`", path.display());
        aside.as_file().sync_all().or_failed(failed)?;
        aside.persist(&path).map_err(|error| error.error).or_failed(failed)?;
        fs::File::open(dir(&path)).and_then(|dir| dir.sync_all()).or_failed(failed)?;
        Ok(path)
    }
}

/// The file that is to be written: where `path` is a link, the one that it leads to.
fn target(path: PathBuf) -> Result<PathBuf> {
    let failed = || format!("failed to write `{}`", path.display());
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => Err(Error::usage(format!("`{}` is a directory", path.display()))
            .hint(format!("name a file in it: {}", path.join("flyloft.backup").display()))),
        Ok(found) if !found.is_file() => Err(Error::usage(format!("`{}` is not a file", path.display()))
            .hint("leave it out, and redirect standard output there")),
        Ok(_) => fs::canonicalize(&path).or_failed(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            Err(Error::usage(format!("`{}` is a link to what is not there", path.display()))
                .hint("name the file that it should lead to"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
        Err(error) => Err(error).or_failed(failed),
    }
}

fn dir(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};

    use nix::sys::stat::Mode;

    use super::*;

    /// Why nothing can be written there.
    fn refused(path: &Path) -> String {
        Output::open(path.to_owned()).err().map(|error| error.what).unwrap_or_default()
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("there/flyloft.backup"), dir.path().join("link"));
        fs::create_dir(dir.path().join("there")).unwrap();
        symlink(&file, &link).unwrap();
        assert!(refused(&link).ends_with("is a link to what is not there"));
        fs::write(&file, "older").unwrap();
        let output = Output::open(link.clone()).unwrap();
        assert_eq!(
            (&output.path, output.aside.path().parent()),
            (&file.canonicalize().unwrap(), Some(dir_of(&output)))
        );
        assert!(link.is_symlink());
    }

    fn dir_of(output: &Output) -> &Path {
        output.path.parent().unwrap()
    }

    #[test]
    fn what_is_no_file_is_refused_before_a_backup_is_made_and_stays_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(refused(&pipe).ends_with("is not a file"));
        assert!(pipe.metadata().unwrap().file_type().is_fifo());
        assert!(refused(Path::new("/dev/null")).ends_with("is not a file"));
        assert!(refused(dir.path()).ends_with("is a directory"));
        assert_eq!(refused(&dir.path().join("new")), "");
    }
}
