//! What the machine must have before there can be containers, and how to mend what is missing.

use std::fs;
use std::io;
use std::path::Path;

use flyloft_core::policy::Excess;

use super::LxcConfig;
use super::attach::PATH;
use super::cgroup::Layout;
use super::container::{self, Running};
use super::idmap::{Access, Detached, IdMap};
use super::places::Home;
use crate::engine::{ContainerId, EngineError};
use crate::machine::kernel;

/// Programs that are run, and the Debian package that has them.
const PROGRAMS: &[(&str, &str)] = &[
    ("lxc-start", "lxc"),
    ("lxc-attach", "lxc"),
    ("newuidmap", "uidmap"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("mmdebstrap", "mmdebstrap"),
    ("unshare", "util-linux"),
];

pub fn check(config: &LxcConfig) -> Result<Layout, EngineError> {
    if !nix::unistd::geteuid().is_root() {
        return missing("the engine needs to be root", "start the daemon as root");
    }
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if config.instance.len() != 6 || !config.instance.bytes().all(is_hex) {
        return missing(format!("`{}` cannot name an instance", config.instance), "use six digits of 0-9 and a-f");
    }
    for (program, package) in PROGRAMS {
        if !PATH.split(':').any(|dir| Path::new(dir).join(program).exists()) {
            return missing(format!("`{program}` is not installed"), format!("apt install {package}"));
        }
    }
    if !config.init.is_file() {
        let what = format!("`{}` is not there", config.init.display());
        return missing(what, "it is PID 1 of every container, and is installed with flyloft");
    }
    // Where it is a module, the first mount loads it.
    if !kernel::has_filesystem("overlay") {
        return missing("the kernel has no overlayfs", "use a kernel with CONFIG_OVERLAY_FS");
    }
    if let Err(error) = IdMap::new(0, super::slots::IDS) {
        return missing(
            format!("the kernel makes no user namespaces: {error}"),
            "sysctl user.max_user_namespaces=65536, and a kernel of version 5.19 or later",
        );
    }
    Layout::detect().or_else(|controller| {
        let what = format!("the cgroup controller `{controller}` is not there");
        missing(what, "boot with cgroup_enable=memory, or with systemd.unified_cgroup_hierarchy=1")
    })
}

/// Tries whether what lies in `dir` can be shown as owned by other ids. Nothing of the trial stays.
pub fn try_idmapped_mount(dir: &Path) -> io::Result<()> {
    let map = IdMap::new(0, super::slots::IDS)?;
    Detached::clone_of(dir, Access::ReadOnly, Some(&map)).map(drop)
}

/// What AppArmor there is for containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppArmor {
    /// Not in this kernel, or switched off.
    Absent,
    /// LXC's own profile is loaded, and LXC applies it without being told.
    WithProfile,
    /// LXC would fail to apply its profile.
    WithoutProfile,
}

pub fn apparmor() -> AppArmor {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    if read("/sys/module/apparmor/parameters/enabled").trim() != "Y" {
        AppArmor::Absent
    } else if read("/sys/kernel/security/apparmor/profiles").contains("lxc-container-default-cgns") {
        AppArmor::WithProfile
    } else {
        AppArmor::WithoutProfile
    }
}

/// Whether a container runs of the daemon that has this state directory, and what it was stopped for. Nobody is asked.
pub fn look_at(state: &Path, instance: &str, id: &ContainerId) -> (bool, Option<Excess>) {
    let home = Home { dir: state.join("engine/containers").join(&id.0), name: format!("fl-{instance}-{id}.c") };
    (Running::find(&home).is_some(), container::excess(&home).unwrap_or_default())
}

fn missing<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::Missing { what: what.into(), hint: hint.into() })
}
