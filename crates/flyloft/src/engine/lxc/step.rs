//! A build step: commands in a container of its own, whose writable layer becomes a layer of the image.
//!
//! The commands come from strangers. They see their inputs and the package caches and nothing else; what they leave
//! behind is disarmed before anybody else sees it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use flyloft_core::disk::Unit;
use flyloft_core::policy::{Excess, Limits};

use super::attach;
use super::beneath;
use super::cgroup::{Groups, Layout};
use super::container::{APP, Running};
use super::held;
use super::mounts::make_beneath;
use super::places::Home;
use super::slots::Slot;
use super::tree::{self, Usage};
use super::watch::{self, Ledger, Taken, verdict};
use crate::engine::{EngineError, Run};
use crate::exec::ExecError;
use crate::transcript::Transcript;

/// Never part of a layer, whatever a step says.
const SCRATCH: &[&str] = &["/tmp", "/run", "/var/tmp", "/dev", "/proc", "/sys", "/flyloft"];

/// Puts the step's files into the mounted container, as the app's user's.
pub fn place_files(home: &Home, run: &Run, slot: Slot) -> io::Result<()> {
    let root = File::open(home.merged())?;
    let app = slot.uid_base() + APP;
    make_beneath(&root, &inside(&run.dir)?, slot.uid_base())?;
    for (path, content) in &run.files {
        let path = inside(path)?;
        if let Some(parent) = path.parent() {
            make_beneath(&root, parent, slot.uid_base())?;
        }
        let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY;
        let mut file = File::from(beneath::open(root.as_fd(), &path, flags, 0o644)?);
        file.write_all(content)?;
        std::os::unix::fs::fchown(&file, Some(app), Some(app))?;
    }
    Ok(())
}

/// Runs the commands one after the other until one fails. `floor` is what stays free on the disk.
pub async fn run_commands(
    home: &Home,
    run: &Run,
    layout: Layout,
    floor: u64,
    transcript: &Transcript,
) -> Result<(), EngineError> {
    let deadline = Instant::now() + run.timeout;
    let groups = Running::find(home).map(|running| running.groups(layout));
    let groups = groups.transpose().map_err(EngineError::io("find the cgroup of a build step"))?;
    for argv in &run.commands {
        let command = argv.join(" ");
        let mut env = run.env.clone();
        env.entry("HOME".to_owned()).or_insert_with(|| "/app".to_owned());
        let cmd = attach::command(home, argv, &env, Some(&run.dir))?
            .timeout(deadline.saturating_duration_since(Instant::now()));
        let ended = tokio::select! {
            ended = cmd.stream(transcript) => ended,
            excess = overflow(home, groups.as_ref(), &run.limits, floor) => {
                return Err(match excess.map_err(EngineError::io("watch the disk of a build step"))? {
                    Excess::Floor => EngineError::DiskFull { command },
                    // A step has none, but for its own disk.
                    Excess::Disk | Excess::Inodes | Excess::Volume => out_of_disk(command, &run.limits),
                });
            }
            () = crowded(groups.as_ref()) => {
                return Err(EngineError::OutOfProcesses { command, limit: run.limits.pids });
            }
        };
        if let Err(error) = ended {
            return Err(explain(error, command, run, groups.as_ref()));
        }
    }
    let usage = super::blocking("measure a build step".to_owned(), {
        let upper = home.upper();
        move || tree::measure(&upper)
    });
    if exceeds(usage.await?, &run.limits) {
        return Err(out_of_disk(run.commands.iter().flatten().cloned().collect::<Vec<_>>().join(" "), &run.limits));
    }
    Ok(())
}

fn out_of_disk(command: String, limits: &Limits) -> EngineError {
    EngineError::OutOfDisk { command, limit: limits.disk, inodes: limits.inodes }
}

/// Why a command ended: the kernel's reasons go before its own.
fn explain(error: ExecError, command: String, run: &Run, groups: Option<&Groups>) -> EngineError {
    let killed = groups.and_then(|groups| groups.oom_kills().ok()).is_some_and(|kills| kills > 0);
    let refused = groups.and_then(|groups| groups.fork_failures().ok()).is_some_and(|failures| failures > 0);
    match error {
        ExecError::Timeout { .. } => EngineError::TimedOut { command, seconds: run.timeout.as_secs() },
        _ if killed => EngineError::OutOfMemory { command, limit: run.limits.memory },
        _ if refused => EngineError::OutOfProcesses { command, limit: run.limits.pids },
        ExecError::Status { code: Some(code), .. } => EngineError::StepFailed { command, code },
        source => EngineError::Exec { doing: format!("run `{command}`"), source },
    }
}

pub fn exceeds(usage: Usage, limits: &Limits) -> bool {
    usage.bytes > limits.disk || usage.inodes > limits.inodes
}

/// Returns when the step has outgrown its limits, or goes on writing below the floor.
async fn overflow(home: &Home, groups: Option<&Groups>, limits: &Limits, floor: u64) -> io::Result<Excess> {
    let mut pause = Duration::from_millis(250);
    let mut ledger = Ledger::begin(watch::free(&home.dir)?.bytes);
    let mut before: Option<Taken> = None;
    loop {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        let free = watch::free(&home.dir)?.bytes;
        let below = watch::below_floor(&home.dir, floor)?;
        let look = !below.is_empty() || before.is_some_and(Taken::holds);
        let mut taken = measure(home, groups, look).await?;
        let grown = before.map_or(0, |before| taken.growth(before, Unit::Bytes));
        if ledger.settle(free, grown) && !look {
            taken = measure(home, groups, true).await?;
        }
        match verdict(before, taken, limits, &below) {
            Some(excess) => return Ok(excess),
            None => before = Some(taken),
        }
        // A large tree takes time to walk; at most a tenth of it is spent on that.
        pause = Duration::from_millis(250).max(begun.elapsed() * 10);
    }
}

/// Returns when the kernel has refused the step a process. Few programs go on well after that: most hang or fail without
/// saying why.
async fn crowded(groups: Option<&Groups>) {
    while !groups.is_some_and(|groups| groups.fork_failures().is_ok_and(|failures| failures > 0)) {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn measure(home: &Home, groups: Option<&Groups>, look: bool) -> io::Result<Taken> {
    let (home, groups) = (home.clone(), groups.cloned());
    let measured = tokio::task::spawn_blocking(move || {
        let named = tree::measure(&home.upper())?;
        let held = groups.filter(|_| look).and_then(|groups| held::measure(&home, &groups).ok());
        Ok(Taken { named, held, ..Taken::default() })
    });
    measured.await.map_err(io::Error::other)?
}

/// Takes out of the writable layer of a container that has ended what no layer has.
pub fn harvest(upper: &Path, run: &Run) -> io::Result<()> {
    let caches = run.caches.iter().map(|(_, target)| target.as_str());
    let scratch = run.scratch.iter().map(String::as_str);
    for path in SCRATCH.iter().copied().chain(scratch).chain(caches) {
        discard(upper, &inside(path)?)?;
    }
    Ok(())
}

/// Removes what a path inside names, without following a link on the way there.
fn discard(upper: &Path, path: &Path) -> io::Result<()> {
    let root = File::open(upper)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    match beneath::open(root.as_fd(), parent, flags, 0) {
        Ok(parent) => {
            use std::os::fd::AsRawFd;
            tree::purge(&Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name))
        }
        // Nothing was written there, or a link was put there, which then is the step's own and stays.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP | libc::ENOTDIR)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A path as a container sees it, relative to its root.
pub fn inside(path: &str) -> io::Result<PathBuf> {
    let plain = |part: &Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let path = Path::new(path);
    if !path.is_absolute() || !path.components().all(|part| plain(&part)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` is not a plain path", path.display())));
    }
    Ok(path.components().filter(|part| *part != Component::RootDir).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{CacheId, Reach};
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn run() -> Run {
        Run {
            commands: vec![],
            dir: "/app".into(),
            env: BTreeMap::new(),
            files: vec![],
            caches: vec![(CacheId("pip".into()), "/app/.cache/pip".into())],
            scratch: vec!["/app/scratch".into()],
            limits: Limits::default(),
            timeout: Duration::from_secs(1),
            reach: Reach::default(),
        }
    }

    #[test]
    fn scratch_and_caches_do_not_become_part_of_a_layer() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["tmp/x", "app/.cache/pip", "app/.cache/other", "app/scratch/deep", "app/kept"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        harvest(dir.path(), &run()).unwrap();
        let there = |sub: &str| dir.path().join(sub).exists();
        assert!(there("app/kept") && there("app/.cache/other"));
        assert!(!there("tmp") && !there("app/.cache/pip") && !there("app/scratch"));
    }

    #[test]
    fn a_link_in_the_place_of_a_scratch_directory_does_not_lead_out() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(outside.path().join("pip")).unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        symlink(outside.path(), dir.path().join("app/.cache")).unwrap();
        symlink(outside.path(), dir.path().join("app/scratch")).unwrap();
        harvest(dir.path(), &run()).unwrap();
        assert!(outside.path().join("pip").exists());
        assert!(!dir.path().join("app/scratch").exists(), "the link itself is gone");
    }

    #[test]
    fn only_absolute_paths_without_dots_name_something_inside() {
        assert_eq!(inside("/app/x").unwrap(), Path::new("app/x"));
        for path in ["app", "/app/../x", "", "./app"] {
            assert!(inside(path).is_err(), "{path}");
        }
    }
}
