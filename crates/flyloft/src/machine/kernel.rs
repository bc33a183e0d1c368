//! The kernel: its version, and the features without which there are no containers of our kind.

use std::io;
use std::path::Path;

use super::{read, read_number};
use crate::engine::lxc::machine::{self, AppArmor, try_idmapped_mount};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    pub overlay: bool,
    /// How many user namespaces there may be.
    pub user_namespaces: u64,
    pub seccomp: bool,
    /// Whether the file system of the state directory can be mounted with other owners.
    pub idmapped_mounts: Trial,
    pub apparmor: AppArmor,
    /// Whether the clock is synchronised (adjtimex(2)), and the seconds since 1970 that it shows.
    pub clock_synchronised: bool,
    pub clock: u64,
}

/// How it went when something was tried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trial {
    /// Only root can.
    #[default]
    NotTried,
    Works,
    Fails(String),
}

impl Trial {
    fn of_root(attempt: impl FnOnce() -> io::Result<()>) -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Trial::NotTried;
        }
        attempt().map_or_else(|error| Trial::Fails(error.to_string()), |()| Trial::Works)
    }
}

impl Kernel {
    pub fn look(state_dir: &Path) -> Self {
        let uname = nix::sys::utsname::uname().ok();
        let release = uname.map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            overlay: has_filesystem("overlay"),
            idmapped_mounts: Trial::of_root(|| try_idmapped_mount(super::nearest(state_dir))),
            release,
            user_namespaces: read_number("/proc/sys/user/max_user_namespaces").unwrap_or(0),
            seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            apparmor: machine::apparmor(),
            clock_synchronised: clock_synchronised(),
            clock: std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        }
    }

    /// Major and minor version.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

/// Built in or loaded, or a module that the kernel loads when it is asked for.
pub fn has_filesystem(name: &str) -> bool {
    let known = read("/proc/filesystems").lines().any(|line| line.split_whitespace().last() == Some(name));
    known || has_module(name)
}

/// Whether a module of this name is installed for the running kernel (modules.dep of depmod(8)).
pub(super) fn has_module(name: &str) -> bool {
    let release = read("/proc/sys/kernel/osrelease");
    let file = |line: &str| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split(".ko").next().unwrap_or_default().replace('-', "_") == name
    };
    read(format!("/lib/modules/{}/modules.dep", release.trim())).lines().any(file)
}

fn clock_synchronised() -> bool {
    // SAFETY: all-zero is a valid `timex` and asks for nothing to be changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` outlives the call.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    result >= 0 && state.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_a_version() {
        let of = |release: &str| Kernel { release: release.to_owned(), ..Kernel::look(Path::new("/")) }.version();
        assert_eq!(of("6.1.0-41-cloud-amd64"), Some((6, 1)));
        assert_eq!(of("5.19-rc1"), Some((5, 19)));
        assert_eq!(of("unknown"), None);
    }
}
