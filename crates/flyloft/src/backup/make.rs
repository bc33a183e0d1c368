//! The daemon's side: takes a picture of everything, and sends it. What goes on meanwhile is not stopped.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{FORMAT, MAGIC, Manifest};
use crate::door::ssh::host_key;
use crate::error::{Error, OrFailed, Result};
use crate::exec::Cmd;
use crate::parts::Parts;
use crate::store;

/// Where pictures are taken, in the state directory. Emptied at every start.
pub const STAGING: &str = "backup";

/// Writes a backup. After an error what was written is none.
pub async fn write(parts: &Parts, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    let failed = || "failed to make a backup";
    let picture = picture(&parts.settings.state_dir).or_failed(failed)?;
    let manifest = take(parts, picture.path()).await?;
    let manifest = serde_json::to_string(&manifest).or_failed(failed)?;
    let mut sealing = Sealing { to, hash: Sha256::new() };
    sealing.write(format!("{MAGIC}{FORMAT}\n{manifest}\n").as_bytes()).await.or_failed(failed)?;
    archive(picture.path(), &mut sealing).await?;
    sealing.seal().await.or_failed(failed)
}

/// A directory for root alone.
fn picture(state: &Path) -> io::Result<tempfile::TempDir> {
    let staging = state.join(STAGING);
    DirBuilder::new().recursive(true).mode(0o700).create(&staging)?;
    tempfile::tempdir_in(staging)
}

/// Each part as it is at one moment. The store comes first: a repository then has all that it speaks of, and what has come
/// since is only more.
async fn take(parts: &Parts, picture: &Path) -> Result<Manifest> {
    let failed = || "failed to copy what is to be backed up";
    let (store, settings) = (&parts.store, &parts.settings);
    store.snapshot(&picture.join(store::FILE)).await.or_failed(|| "failed to copy the store")?;
    let (apps, environments) =
        (store.apps().await.or_failed(failed)?, store.environments(None).await.or_failed(failed)?);
    fs::copy(settings.state_dir.join(host_key::FILE), picture.join(host_key::FILE)).or_failed(failed)?;
    parts.repositories.picture(&picture.join("repos")).await?;
    let configuration = match fs::read_to_string(&settings.configuration) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::because("failed to read the configuration", error)),
    };
    Ok(Manifest {
        flyloft: env!("CARGO_PKG_VERSION").to_owned(),
        store: store::VERSION,
        made_at: OffsetDateTime::now_utc()
            .replace_nanosecond(0)
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok())
            .unwrap_or_default(),
        apps: apps.len(),
        environments: environments.len(),
        configuration,
    })
}

async fn archive(picture: &Path, to: &mut Sealing<'_, impl AsyncWrite + Unpin>) -> Result<()> {
    let failed = || "failed to archive what is to be backed up";
    let tar = Cmd::new("tar")
        .args(["--create", "--file=-", "--sort=name", "--numeric-owner", "--owner=0", "--group=0", "--directory"])
        .arg(picture)
        .arg(".")
        .env("LC_ALL", "C");
    let mut child = tar.spawn(Stdio::null(), Stdio::piped(), Stdio::null()).or_failed(failed)?;
    let mut output = child.stdout.take().ok_or_else(|| Error::failed(failed()))?;
    let mut piece = vec![0; 64 << 10];
    loop {
        match output.read(&mut piece).await.or_failed(failed)? {
            0 => break,
            count => to.write(&piece[..count]).await.or_failed(|| "failed to send the backup")?,
        }
    }
    let status = child.wait().await.or_failed(failed)?;
    match status.code() {
        // With 1 it says that a file has changed. It has one name less, since git has packed it meanwhile.
        Some(0 | 1) => Ok(()),
        _ => Err(Error::failed(format!("{}: `tar` {}", failed(), crate::exec::ending(status)))),
    }
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
