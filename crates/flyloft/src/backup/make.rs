//! The daemon's side: takes a picture of everything, and sends it. What goes on meanwhile is not stopped.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use flyloft_core::harmless;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::{FORMAT, MAGIC, Manifest, REPOSITORIES};
use crate::door::ssh::host_key;
use crate::error::{Error, OrFailed, Result};
use crate::exec::Cmd;
use crate::parts::Parts;
use crate::store;
use crate::vault;

/// Where pictures are taken, in the state directory. Emptied at every start.
pub const STAGING: &str = "backup";

/// Of what tar complains about.
const COMPLAINT: usize = 4096;

/// Writes a backup. After an error what was written is none.
pub async fn write(parts: &Parts, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    let failed = || "failed to make a backup";
    let picture = picture(&parts.settings.state_dir).or_failed(failed)?;
    let manifest = take(parts, picture.path()).await?;
    let repositories = parts.repositories.picture(REPOSITORIES).await?;
    let manifest = serde_json::to_string(&manifest).or_failed(failed)?;
    let mut sealing = Sealing { to, hash: Sha256::new() };
    sealing.write(format!("{MAGIC}{FORMAT}\n{manifest}\n").as_bytes()).await.or_failed(failed)?;
    archive(picture.path(), repositories.path(), &mut sealing).await?;
    sealing.seal().await.or_failed(failed)
}

/// A directory for root alone.
fn picture(state: &Path) -> io::Result<TempDir> {
    let staging = state.join(STAGING);
    DirBuilder::new().recursive(true).mode(0o700).create(&staging)?;
    tempfile::tempdir_in(staging)
}

/// All but the repositories, whose picture comes after that of the store: they have all that it speaks of and more, unless
/// somebody destroys an app or an environment in between. Then the backup has it without its repository or branch.
async fn take(parts: &Parts, picture: &Path) -> Result<Manifest> {
    let (store, settings) = (&parts.store, &parts.settings);
    let snapshot = store.snapshot(&picture.join(store::FILE)).await;
    let (apps, environments) = snapshot.or_failed(|| "failed to copy the store")?;
    let servers = store.servers().await.or_failed(|| "failed to list servers")?;
    let servers = servers.into_iter().filter(|row| row.managed.is_some()).map(|row| row.name).collect();
    let clock = parts.clock.now().0;
    let key = fs::copy(settings.state_dir.join(host_key::FILE), picture.join(host_key::FILE));
    key.or_failed(|| "failed to copy the SSH host key")?;
    let key = fs::copy(settings.state_dir.join(vault::FILE), picture.join(vault::FILE));
    key.or_failed(|| "failed to copy the key of what is secret")?;
    let (configuration, configuration_mode) = configuration(&settings.configuration)
        .or_failed(|| format!("failed to read the configuration `{}`", settings.configuration.display()))?
        .unzip();
    Ok(Manifest {
        flyloft: env!("CARGO_PKG_VERSION").to_owned(),
        store: store::VERSION,
        made_at: OffsetDateTime::now_utc()
            .replace_nanosecond(0)
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok())
            .unwrap_or_default(),
        clock: Some(clock),
        apps,
        environments,
        configuration,
        configuration_mode,
        servers,
    })
}

/// Its text and its mode, if there is one.
fn configuration(path: &Path) -> io::Result<Option<(String, u32)>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(Some((text, file.metadata()?.permissions().mode() & 0o777)))
}

async fn archive(picture: &Path, repositories: &Path, to: &mut Sealing<'_, impl AsyncWrite + Unpin>) -> Result<()> {
    let failed = || "failed to archive what is to be backed up";
    let tar = Cmd::new("tar")
        .args(["--create", "--file=-", "--sort=name", "--hard-dereference"])
        .args(["--numeric-owner", "--owner=0", "--group=0", "--directory"])
        .arg(picture)
        .args([store::FILE, host_key::FILE, vault::FILE].map(|name| format!("./{name}")))
        .arg("--directory")
        .arg(repositories)
        .arg(format!("./{REPOSITORIES}"))
        .env("TAR_OPTIONS", "")
        .env("LC_ALL", "C");
    let mut child = tar.spawn(Stdio::null(), Stdio::piped(), Stdio::piped()).or_failed(failed)?;
    let (Some(mut output), Some(said)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Error::failed(failed()));
    };
    let send = async {
        let mut piece = vec![0; 64 << 10];
        loop {
            match output.read(&mut piece).await.or_failed(failed)? {
                0 => return Ok::<(), Error>(()),
                count => to.write(&piece[..count]).await.or_failed(|| "failed to send the backup")?,
            }
        }
    };
    let ((), complaint) = tokio::try_join!(send, async { complaint(said).await.or_failed(failed) })?;
    let status = child.wait().await.or_failed(failed)?;
    match (status.code(), complaint.as_str()) {
        // With 1 it says that something has changed.
        (Some(0), _) | (Some(1), "") => Ok(()),
        _ => {
            let mut error = Error::failed(format!("{}: `tar` {}", failed(), crate::exec::ending(status)));
            error.causes.push(complaint);
            Err(error)
        }
    }
}

/// What tar complains about, and not what has changed: git has packed that meanwhile, so it has one name less, and what is
/// in it is what it was.
async fn complaint(said: impl AsyncRead + Unpin) -> io::Result<String> {
    let (mut said, mut complaint) = (BufReader::new(said), String::new());
    let mut line = Vec::new();
    while said.read_until(b'\n', &mut line).await? > 0 {
        let text = harmless::lines(String::from_utf8_lossy(&line).trim_end());
        if !text.ends_with(": file changed as we read it") && complaint.len() < COMPLAINT {
            complaint.push_str(if complaint.is_empty() { "" } else { "\n" });
            complaint.push_str(&text);
        }
        line.clear();
    }
    Ok(complaint)
}

/// Adds up what is written, and ends it with the sum.
struct Sealing<'a, W> {
    to: &'a mut W,
    hash: Sha256,
}

impl<W: AsyncWrite + Unpin> Sealing<'_, W> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes).await
    }

    async fn seal(self) -> io::Result<()> {
        self.to.write_all(&self.hash.finalize()).await?;
        self.to.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_git_has_packed_meanwhile_is_no_fault_and_whatever_else_tar_says_is() {
        let changed = "tar: ./repos/apps/shop.git/objects/ab/cd: file changed as we read it\n";
        assert_eq!(complaint(changed.repeat(5000).as_bytes()).await.unwrap(), "");
        let missing = "tar: ./ssh_host_key: Cannot stat: No such file or directory";
        let said = format!("{changed}{missing}\n{changed}");
        assert_eq!(complaint(said.as_bytes()).await.unwrap(), missing);
    }

    #[tokio::test]
    async fn an_archive_that_lacks_something_is_an_error_that_says_what() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(store::FILE), "").unwrap();
        fs::create_dir(dir.path().join(REPOSITORIES)).unwrap();
        let mut sealing = Sealing { to: &mut tokio::io::sink(), hash: Sha256::new() };
        let error = archive(dir.path(), dir.path(), &mut sealing).await.unwrap_err();
        assert!(error.causes[0].contains("./ssh_host_key: Cannot stat"), "{error}");
    }
}
