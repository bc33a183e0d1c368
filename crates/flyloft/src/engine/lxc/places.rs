//! Where things lie. Everything that lasts is below the state directory; mount points are below [`RUN`], because the
//! root of a container must be able to reach its file system, while nobody may look into the state directory.
//!
//! ```text
//! <state>/engine/            0711
//!   layers/<id>/             meta.json, tree/
//!   containers/<id>/         spec.json, config, upper/, work/, init/, console.log…
//!   builds/<layer>/          the same, for as long as a build step runs
//!   caches/<id>/  volumes/<id>/  staging/  tmp/  apt/
//! /run/flyloft-lxc/<name>/   0700, the container's root's: merged/
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

/// Passed to the lxc tools as the place of their containers. Others may go through it, not look.
pub const RUN: &str = "/run/flyloft-lxc";

#[derive(Clone, Debug)]
pub struct Places {
    pub engine: PathBuf,
    pub layers: PathBuf,
    pub containers: PathBuf,
    pub builds: PathBuf,
    pub caches: PathBuf,
    pub volumes: PathBuf,
    pub staging: PathBuf,
    pub tmp: PathBuf,
    pub apt: PathBuf,
    pub seccomp: PathBuf,
}

impl Places {
    /// Makes the directories that are missing.
    pub fn open(state: &Path) -> io::Result<Self> {
        let state = std::path::absolute(state)?;
        if state.as_os_str().to_str().is_none_or(|path| path.contains(char::is_control)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is not plain UTF-8"));
        }
        let engine = state.join("engine");
        make_dir(Path::new(RUN), 0o711)?;
        make_dir(&engine, 0o711)?;
        let private = |name: &str| {
            let dir = engine.join(name);
            make_dir(&dir, 0o700).map(|()| dir)
        };
        Ok(Self {
            layers: private("layers")?,
            containers: private("containers")?,
            builds: private("builds")?,
            caches: private("caches")?,
            volumes: private("volumes")?,
            staging: private("staging")?,
            tmp: private("tmp")?,
            apt: private("apt")?,
            seccomp: engine.join("seccomp"),
            engine,
        })
    }
}

/// The directory, its parents where they are missing, and its mode whatever it was.
pub fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// A container's files, whether it runs an app or a build step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub dir: PathBuf,
    /// What LXC and the cgroups call it: `fl-<instance>-<id>.c`, a build's with `.b`. LXC adds `-1` and the like to the
    /// names of cgroups; the dot keeps those apart from a container whose id ends so.
    pub name: String,
}

impl Home {
    pub fn record(&self) -> PathBuf {
        self.dir.join("spec.json")
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Mounted into the container as `/flyloft`.
    pub fn init(&self) -> PathBuf {
        self.dir.join("init")
    }

    /// Where lower layers are mounted for the moment that overlayfs needs to take them over.
    pub fn lower(&self) -> PathBuf {
        self.dir.join("lower")
    }

    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// See [`journal`](super::journal).
    pub fn lxc_log(&self) -> PathBuf {
        self.dir.join("lxc.log")
    }

    /// The process id of LXC's monitor while the container runs.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("monitor.pid")
    }

    /// What the engine stopped it for.
    pub fn excess(&self) -> PathBuf {
        self.dir.join("excess.json")
    }

    /// What it holds since its memory was moved out of the way.
    pub fn asleep(&self) -> PathBuf {
        self.dir.join("asleep.json")
    }

    /// What its processes did when it was last frozen.
    pub fn before(&self) -> PathBuf {
        self.dir.join("before.json")
    }

    /// Which of them wait until others have woken.
    pub fn held_back(&self) -> PathBuf {
        self.dir.join("held-back.json")
    }

    /// What it held when it last slept and woke again.
    pub fn slept(&self) -> PathBuf {
        self.dir.join("slept.json")
    }

    /// What it touched when it last woke.
    pub fn touched(&self) -> PathBuf {
        self.dir.join("touched.json")
    }

    pub fn run(&self) -> PathBuf {
        Path::new(RUN).join(&self.name)
    }

    pub fn merged(&self) -> PathBuf {
        self.run().join("merged")
    }

    /// Makes the mount point, for the container's root alone to pass.
    pub fn make_run(&self, uid_base: u32) -> io::Result<()> {
        make_dir(&self.run(), 0o700)?;
        chown(self.run(), Some(uid_base), Some(uid_base))?;
        make_dir(&self.merged(), 0o755)
    }
}
