//! `flyloft restore`: makes a state directory out of a backup, for a daemon that does not run yet.
//!
//! Everything is looked at before anything is made. It is unpacked into a directory of its own in the state directory, for
//! root alone, with which no daemon starts. When all of it is there and what it should be, it goes up, name by name; that
//! directory goes last. So nothing is ever removed that was there before, and a state directory may be a mount.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use flyloft_core::harmless::{self, Colours};
use flyloft_core::lifecycle::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use tempfile::NamedTempFile;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Backup, Manifest, REPOSITORIES};
use crate::clock::{self, Clock};
use crate::config::{Config, DEFAULT_FILE};
use crate::door::ssh::host_key;
use crate::error::{Error, OrFailed, Result};
use crate::exec::Cmd;
use crate::setup::EXAMPLE;
use crate::store::{self, Store};
use crate::vault;

/// In a state directory that is being restored: what is unpacked.
pub const MARK: &str = "restoring";

/// Which boot the daemon has last seen, in a state directory.
const BOOT: &str = "boot-id";

/// What a file system has of its own.
const LOST_AND_FOUND: &str = "lost+found";

/// What a configuration's file may be for others than root: it decides what root's daemon does.
const READABLE: u32 = 0o644;
const SECRET: u32 = 0o600;

#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    /// What `flyloft backup` wrote: a file, since all of it is looked at before anything is made.
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
    extract(backup, &made.inside).await?;
    secure(&made.inside)?;
    finish(&made.inside, &manifest)?;
    let aside = configuration.write_aside()?;
    made.keep()?;
    configuration.put(aside)?;
    tell(&configuration, &manifest, json);
    Ok(ExitCode::SUCCESS)
}

/// Which configuration holds from now on.
struct Configuration {
    path: PathBuf,
    /// What is written there, and its mode.
    text: Option<(String, u32)>,
    /// Somebody has written one there.
    own: bool,
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
        let mode = manifest.configuration_mode.map_or(SECRET, |mode| (mode & READABLE) | SECRET);
        Ok(Self { path, text: text.map(|text| (text, mode)), own: own.is_some(), state_dir })
    }

    /// Beside where it belongs, so that nothing but its name is left to be made.
    fn write_aside(&self) -> Result<Option<NamedTempFile>> {
        let Some((text, mode)) = &self.text else { return Ok(None) };
        let failed = || format!("failed to write `{}`", self.path.display());
        let dir = self.dir();
        fs::create_dir_all(dir).or_failed(failed)?;
        let mut file = NamedTempFile::new_in(dir).or_failed(failed)?;
        file.write_all(text.as_bytes()).or_failed(failed)?;
        file.as_file().set_permissions(Permissions::from_mode(*mode)).or_failed(failed)?;
        file.as_file().sync_all().or_failed(failed)?;
        Ok(Some(file))
    }

    fn put(&self, aside: Option<NamedTempFile>) -> Result<()> {
        let Some(aside) = aside else { return Ok(()) };
        let put = aside.persist(&self.path).map_err(|error| error.error);
        put.and_then(|_| File::open(self.dir())?.sync_all()).map_err(|error| {
            Error::because(format!("failed to write `{}`", self.path.display()), error).hint(format!(
                "all else was restored into `{}`: write the configuration anew",
                self.state_dir.display()
            ))
        })
    }

    fn dir(&self) -> &Path {
        self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

/// A state directory that is being made. What was made goes again unless it is kept.
struct Made {
    dir: PathBuf,
    /// Nobody else's, as is all that is in it.
    inside: PathBuf,
    /// The directory was there before.
    was_there: bool,
    /// From here on there is no way back.
    moving: bool,
    /// Tells that this goes on. Held to its end.
    _lock: Flock<File>,
}

impl Made {
    fn begin(dir: &Path) -> Result<Self> {
        let failed = || format!("failed to make the state directory `{}`", dir.display());
        let was_there = dir.is_dir();
        if was_there && !contents(dir).or_failed(failed)?.is_empty() {
            return Err(taken(dir));
        }
        DirBuilder::new().recursive(true).mode(0o711).create(dir).or_failed(failed)?;
        let inside = dir.join(MARK);
        match DirBuilder::new().mode(0o700).create(&inside) {
            // Of two at once the second ends here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(dir)),
            made => made.or_failed(failed)?,
        }
        let lock = File::open(&inside).or_failed(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).or_failed(failed)?;
        Ok(Self { dir: dir.to_owned(), inside, was_there, moving: false, _lock: lock })
    }

    fn keep(mut self) -> Result<()> {
        nix::unistd::sync();
        self.moving = true;
        self.move_up().map_err(|error| {
            let (dir, name) = (self.dir.display(), self.inside.display());
            Error::because(format!("failed to move what was restored from `{name}` to `{dir}`"), error)
                .hint("what is there is neither whole nor empty: remove it, and restore once more")
        })
    }

    /// Each name is there afterwards before what keeps daemons from it is gone.
    fn move_up(&self) -> io::Result<()> {
        for name in [REPOSITORIES, host_key::FILE, vault::FILE, clock::FILE, BOOT, store::FILE] {
            let (from, to) = (self.inside.join(name), self.dir.join(name));
            match (from.try_exists()?, to.symlink_metadata()) {
                (false, _) => continue,
                (true, Ok(_)) => return Err(io::Error::other(format!("somebody else has made `{}`", to.display()))),
                (true, Err(_)) => fs::rename(from, to)?,
            }
        }
        let synced = || File::open(&self.dir)?.sync_all();
        synced()?;
        fs::remove_dir_all(&self.inside)?;
        synced()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.moving {
            return;
        }
        let gone = fs::remove_dir_all(&self.inside);
        let gone = gone.and_then(|()| if self.was_there { Ok(()) } else { fs::remove_dir(&self.dir) });
        if let Err(error) = gone {
            eprintln!("warning: failed to remove what was half restored in `{}`: {error}", self.inside.display());
        }
    }
}

fn contents(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.file_name().is_some_and(|name| name != LOST_AND_FOUND));
    Ok(paths)
}

/// Why nothing is restored into a directory that has something in it.
fn taken(dir: &Path) -> Error {
    let is_held = |name: &str| {
        File::open(dir.join(name)).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
    };
    let name = dir.display();
    if is_held("lock") {
        return Error::conflict(format!("a daemon runs with the state directory `{name}`"))
            .hint("a backup is restored on a machine that has no environments yet")
            .hint("stop it with `systemctl stop flyloft`, and move the directory away");
    }
    if is_held(MARK) {
        return Error::conflict(format!("a backup is being restored into `{name}` by somebody else"))
            .hint("wait for that, or restore into another directory with --state-dir");
    }
    let error = match dir.join(MARK).exists() {
        true => Error::conflict(format!("a backup was restored into `{name}`, and not to its end")),
        false => Error::conflict(format!("the state directory `{name}` is not empty")),
    };
    error
        .hint(format!("if nothing in it is needed, move it away: mv {name} {name}.old"))
        .hint("or restore into another one with --state-dir")
}

/// Unpacks what a backup has, and nothing else that an archive may have.
async fn extract(backup: Backup, dir: &Path) -> Result<()> {
    let failed = || "failed to unpack the backup";
    let mut names = vec![store::FILE, host_key::FILE, REPOSITORIES];
    if backup.manifest.has_key() {
        names.push(vault::FILE);
    }
    let tar = Cmd::new("tar")
        .args(["--extract", "--file=-", "--no-same-permissions", "--no-same-owner", "--directory"])
        .arg(dir)
        .args(names.iter().map(|name| format!("./{name}")))
        .env("TAR_OPTIONS", "")
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
    error.causes.push(harmless::lines(String::from_utf8_lossy(&said).trim()));
    Err(error)
}

/// Makes all that was unpacked root's alone, whatever the backup says. Only files and directories are: a link would lead out
/// of the state directory, and by a second name git's user would come to own what is root's.
fn secure(dir: &Path) -> Result<()> {
    let failed = || format!("failed to look at what was unpacked into `{}`", dir.display());
    for entry in fs::read_dir(dir).or_failed(failed)? {
        let path = entry.or_failed(failed)?.path();
        let found = path.symlink_metadata().or_failed(failed)?;
        if found.is_dir() {
            fs::set_permissions(&path, Permissions::from_mode(0o700)).or_failed(failed)?;
            secure(&path)?;
        } else if found.is_file() && found.nlink() == 1 {
            fs::set_permissions(&path, Permissions::from_mode(0o600)).or_failed(failed)?;
        } else {
            let name = path.display().to_string();
            return Err(Error::failed(format!("`{}` is neither a file nor a directory", printable(&name)))
                .hint("`flyloft backup` has not written this backup; nothing was restored"));
        }
    }
    Ok(())
}

/// What a daemon needs to know beside that.
fn finish(dir: &Path, manifest: &Manifest) -> Result<()> {
    let is_file = |name: &str| dir.join(name).is_file();
    let opens = !manifest.has_key() || is_file(vault::FILE);
    if !opens || !is_file(host_key::FILE) || !is_file(store::FILE) || !dir.join(REPOSITORIES).is_dir() {
        return Err(Error::failed("the backup lacks a store, a key or repositories"));
    }
    Store::check_whole(&dir.join(store::FILE)).or_failed(|| "the backup has no store that can be read")?;
    let failed = || "failed to finish the state directory";
    // Nothing grows old in a backup.
    let made_at = OffsetDateTime::parse(&manifest.made_at, &Rfc3339).ok();
    let made_at = made_at.and_then(|at| u64::try_from(at.unix_timestamp()).ok()).map(|seconds| seconds * 1000);
    if let Some(time) = manifest.clock.or(made_at) {
        Clock::leave(&dir.join(clock::FILE), Timestamp(time)).or_failed(failed)?;
    }
    // No container of this boot is there, whatever the store says of awake and asleep.
    let open = File::options().write(true).create_new(true).mode(0o600).open(dir.join(BOOT));
    open.and_then(|mut file| file.write_all(b"restored from a backup\n")).or_failed(failed)
}

fn printable(text: &str) -> String {
    harmless::line(text, Colours::Dropped)
}

fn tell(configuration: &Configuration, manifest: &Manifest, json: bool) {
    let Manifest { apps, environments, made_at, flyloft, servers, .. } = manifest;
    if json {
        let restored = json!({
            "apps": apps, "environments": environments, "made_at": made_at, "flyloft": flyloft,
            "state_dir": configuration.state_dir, "configuration": configuration.text.is_some(),
            "without_data_of": servers,
        });
        println!("{}", harmless::json(&format!("{restored:#}")));
        return;
    }
    let dir = printable(&configuration.state_dir.display().to_string());
    println!("restored {} of {made_at} (flyloft {flyloft}) into `{dir}`", manifest.amount());
    println!("{}", configuration.said());
    if !servers.is_empty() {
        println!("the data on {} were not in it: these servers begin empty", servers.join(", "));
    }
    println!("make the machine ready, and start the daemon: flyloft setup");
}

impl Configuration {
    /// What has become of it.
    fn said(&self) -> String {
        let path = self.path.display();
        match (&self.text, self.own) {
            (Some(_), _) => format!("the configuration is in `{path}`"),
            (None, true) => format!("the configuration in `{path}` was left as it is"),
            (None, false) => format!("the backup has no configuration, and nobody has written one in `{path}`"),
        }
    }
}
