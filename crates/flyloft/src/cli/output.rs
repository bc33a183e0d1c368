//! A file that the client writes: it is there when it is whole, and as it was before until then.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::backup::{Backup, Manifest};
use crate::error::{OrFailed, Result};

pub struct Output {
    path: PathBuf,
    /// Beside it, for its owner alone. It goes if this is dropped.
    aside: NamedTempFile,
}

impl Output {
    pub fn open(path: PathBuf) -> Result<Self> {
        let aside = NamedTempFile::with_prefix_in(".flyloft-", dir(&path));
        let aside = aside.or_failed(|| format!("failed to write `{}`", path.display()))?;
        Ok(Self { path, aside })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.aside.write_all(bytes).or_failed(|| format!("failed to write `{}`", self.path.display()))
    }

    /// Looks whether the backup is whole, and puts it where it belongs.
    pub fn finish(self, json: bool) -> Result<()> {
        let Self { path, aside } = self;
        let failed = || format!("failed to write `{}`", path.display());
        aside.as_file().sync_all().or_failed(failed)?;
        let Backup { manifest, bytes, .. } = Backup::open(aside.path())?;
        aside.persist(&path).map_err(|error| error.error).or_failed(failed)?;
        std::fs::File::open(dir(&path)).and_then(|dir| dir.sync_all()).or_failed(failed)?;
        let amount = manifest.amount();
        let Manifest { apps, environments, made_at, .. } = manifest;
        if json {
            let written = serde_json::json!({
                "file": path, "bytes": bytes, "apps": apps, "environments": environments, "made_at": made_at
            });
            println!("{written:#}");
        } else {
            let mib = bytes as f64 / f64::from(1 << 20);
            println!("wrote `{}`: {amount}, {mib:.1} MiB", path.display());
        }
        Ok(())
    }
}

fn dir(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
