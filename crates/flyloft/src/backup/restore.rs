//! `flyloft restore`: makes a state directory out of a backup, for a daemon that does not run yet.
//!
//! Everything is looked at before anything is made. What is being made has a mark in it, with which no daemon starts, and
//! goes again if it does not come to its end.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::{Backup, Manifest};
use crate::config::{Config, DEFAULT_FILE};
use crate::error::{Error, OrFailed, Result};
use crate::exec::Cmd;
use crate::setup::EXAMPLE;
use crate::store::{self, Store};

/// In a state directory that is being restored.
pub const MARK: &str = "restoring";

/// What a file system has of its own.
const LOST_AND_FOUND: &str = "lost+found";

#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    /// What `flyloft backup` wrote.
    pub file: PathBuf,
    /// The daemon's configuration. The one in the backup is put there if there is none yet, or nothing but the example.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for everything the daemon keeps; what the configuration says otherwise.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

pub async fn run(args: &RestoreArgs, json: bool) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::forbidden("only root can restore a backup").hint("sudo flyloft restore FILE"));
    }
    let backup = Backup::open(&args.file)?;
    let manifest = backup.manifest.clone();
    if manifest.store > store::VERSION {
        return Err(Error::failed(format!(
            "`{}` was written by flyloft {}, whose store has version {}; this program knows versions up to {}",
            args.file.display(),
            manifest.flyloft,
            manifest.store,
            store::VERSION
        ))
        .hint("install that version of flyloft, or a newer one"));
    }
    let configuration = Configuration::choose(args, &manifest)?;
    let made = Made::begin(&configuration.state_dir)?;
    extract(backup, &made.dir).await?;
    finish(&made.dir)?;
    configuration.write()?;
    made.keep()?;
    tell(&configuration, &manifest, json);
    Ok(ExitCode::SUCCESS)
}

/// Which configuration holds from now on.
struct Configuration {
    path: PathBuf,
    /// What is written there.
    text: Option<String>,
    state_dir: PathBuf,
}

impl Configuration {
    fn choose(args: &RestoreArgs, manifest: &Manifest) -> Result<Self> {
        let path = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let own = match fs::read_to_string(&path) {
            Ok(text) => Some(text).filter(|text| text != EXAMPLE),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::because(format!("failed to read `{}`", path.display()), error)),
        };
        let text = manifest.configuration.clone().filter(|_| own.is_none());
        let held = own.as_ref().or(text.as_ref()).map_or("", String::as_str);
        let config = Config::parse(held, &path).map_err(|error| match own.is_some() {
            true => Error::usage(error),
            false => Error::because("the configuration in the backup does not fit this version", error)
                .hint("write one, and name it with --config"),
        })?;
        let state_dir = args.state_dir.clone().unwrap_or(config.state_dir);
        Ok(Self { path, text, state_dir })
    }

    fn write(&self) -> Result<()> {
        let Some(text) = &self.text else { return Ok(()) };
        let failed = || format!("failed to write `{}`", self.path.display());
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).or_failed(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(dir).or_failed(failed)?;
        file.write_all(text.as_bytes()).or_failed(failed)?;
        file.as_file().set_permissions(Permissions::from_mode(0o644)).or_failed(failed)?;
        file.as_file().sync_all().or_failed(failed)?;
        file.persist(&self.path).map_err(|error| error.error).or_failed(failed)?;
        Ok(())
    }
}

/// A state directory that is being made. It goes again unless it is kept.
struct Made {
    dir: PathBuf,
    /// It was there before, and empty.
    was_there: bool,
    kept: bool,
}

impl Made {
    fn begin(dir: &Path) -> Result<Self> {
        let failed = || format!("failed to make the state directory `{}`", dir.display());
        let was_there = dir.is_dir();
        if was_there && dir.join(MARK).exists() {
            // An earlier one was killed in the middle.
            clear(dir).or_failed(failed)?;
        }
        if was_there && !contents(dir).or_failed(failed)?.is_empty() {
            return Err(taken(dir));
        }
        let made = Self { dir: dir.to_owned(), was_there, kept: false };
        DirBuilder::new().recursive(true).mode(0o711).create(dir).or_failed(failed)?;
        File::create(dir.join(MARK)).or_failed(failed)?;
        Ok(made)
    }

    fn keep(mut self) -> Result<()> {
        let failed = || "failed to bring the restored files to the disk";
        nix::unistd::sync();
        fs::remove_file(self.dir.join(MARK)).or_failed(failed)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).or_failed(failed)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let gone = clear(&self.dir).and_then(|()| if self.was_there { Ok(()) } else { fs::remove_dir(&self.dir) });
        if let Err(error) = gone
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), %error, "failed to remove what was half restored");
        }
    }
}

fn clear(dir: &Path) -> io::Result<()> {
    for path in contents(dir)? {
        match path.is_dir() && !path.is_symlink() {
            true => fs::remove_dir_all(path)?,
            false => fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// What lies in a directory, the mark last, since it says that the rest may go.
fn contents(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.file_name().is_some_and(|name| name != LOST_AND_FOUND));
    paths.sort_by_key(|path| path.ends_with(MARK));
    Ok(paths)
}

fn taken(dir: &Path) -> Error {
    let runs =
        File::open(dir.join("lock")).is_ok_and(|lock| Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_err());
    let name = dir.display();
    match runs {
        true => Error::conflict(format!("a daemon runs with the state directory `{name}`"))
            .hint("a backup is restored on a machine that has no environments yet")
            .hint("stop it with `systemctl stop flyloft`, and move the directory away"),
        false => Error::conflict(format!("the state directory `{name}` is not empty"))
            .hint(format!("if nothing in it is needed, move it away: mv {name} {name}.old"))
            .hint("or restore into another one with --state-dir"),
    }
}

async fn extract(backup: Backup, dir: &Path) -> Result<()> {
    let failed = || "failed to unpack the backup";
    let tar = Cmd::new("tar")
        .args(["--extract", "--file=-", "--preserve-permissions", "--no-same-owner", "--no-overwrite-dir"])
        .arg("--directory")
        .arg(dir)
        .env("LC_ALL", "C");
    let mut child = tar.spawn(Stdio::piped(), Stdio::null(), Stdio::piped()).or_failed(failed)?;
    let (Some(mut stdin), Some(mut stderr)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(Error::failed(failed()));
    };
    let limit = backup.archive.limit();
    let mut archive = tokio::io::AsyncReadExt::take(tokio::fs::File::from_std(backup.archive.into_inner()), limit);
    let feed = async {
        // What tar does not take it has no use for; its status says why.
        let _ = tokio::io::copy(&mut archive, &mut stdin).await;
        drop(stdin);
    };
    let mut said = Vec::new();
    let (_, read) = tokio::join!(feed, tokio::io::AsyncReadExt::read_to_end(&mut stderr, &mut said));
    read.or_failed(failed)?;
    let status = child.wait().await.or_failed(failed)?;
    if status.success() {
        return Ok(());
    }
    let mut error = Error::failed(format!("{}: `tar` {}", failed(), crate::exec::ending(status)));
    error.causes.push(flyloft_core::harmless::lines(String::from_utf8_lossy(&said).trim()));
    Err(error)
}

/// What a daemon needs to know beside that.
fn finish(dir: &Path) -> Result<()> {
    let failed = || "the backup has no store that can be read";
    let store = dir.join(store::FILE);
    if !store.is_file() {
        return Err(Error::failed(failed()));
    }
    Store::check(&store).or_failed(failed)?;
    // No container of this boot is there, whatever the store says of awake and asleep.
    let open = File::options().write(true).create_new(true).mode(0o600).open(dir.join("boot-id"));
    let noted = open.and_then(|mut file| file.write_all(b"restored from a backup\n"));
    noted.or_failed(|| "failed to finish the state directory")
}

fn tell(configuration: &Configuration, manifest: &Manifest, json: bool) {
    let Manifest { apps, environments, made_at, flyloft, .. } = manifest;
    let (dir, path) = (configuration.state_dir.display(), configuration.path.display());
    if json {
        let restored = json!({
            "apps": apps, "environments": environments, "made_at": made_at, "flyloft": flyloft,
            "state_dir": configuration.state_dir, "configuration": configuration.text.is_some(),
        });
        println!("{restored:#}");
        return;
    }
    println!("restored {} of {made_at} (flyloft {flyloft}) into `{dir}`", manifest.amount());
    match configuration.text {
        Some(_) => println!("the configuration is in `{path}`"),
        None => println!("the configuration in `{path}` was left as it is"),
    }
    println!("make the machine ready, and start the daemon: flyloft setup");
}
