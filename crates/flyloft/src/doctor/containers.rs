//! What the kernel must offer for unprivileged containers that sleep.

use super::Check;
use crate::engine::lxc::machine::AppArmor;
use crate::machine::cgroups::{NEEDED, Version};
use crate::machine::ids::Grant;
use crate::machine::kernel::Trial;
use crate::machine::{Cgroups, Kernel, Machine};

/// Overlayfs takes idmapped layers since then.
const OLDEST_KERNEL: (u32, u32) = (5, 19);

pub fn judge(machine: &Machine) -> Vec<Check> {
    let kernel = &machine.kernel;
    let mut checks = vec![version(kernel)];
    checks.extend(features(kernel));
    checks.push(cgroups(&machine.cgroups));
    checks.extend(sleep(&machine.cgroups));
    checks.extend(ids(machine));
    checks.extend(apparmor(kernel));
    checks
}

fn version(kernel: &Kernel) -> Check {
    let release = &kernel.release;
    let (major, minor) = OLDEST_KERNEL;
    match kernel.version() {
        Some(version) if version < OLDEST_KERNEL => Check::problem(
            "kernel",
            format!("Linux {release} is too old: layers need {major}.{minor}"),
            "install the kernel of Debian 12 or newer, and reboot",
        ),
        Some(_) => Check::ok("kernel", format!("Linux {release}")),
        None => Check::warning(
            "kernel",
            format!("`{release}` is no version"),
            format!("use Linux {major}.{minor} or newer"),
        ),
    }
}

fn features(kernel: &Kernel) -> Vec<Check> {
    let has = |there: bool, what: &str, mend: &str| {
        (!there).then(|| Check::problem("kernel", format!("it has no {what}"), mend.to_owned()))
    };
    let no_idmap = match &kernel.idmapped_mounts {
        Trial::Fails(error) => Some(Check::problem(
            "kernel",
            format!("the state directory's file system cannot be mounted with other owners: {error}"),
            "put the state directory on ext4, xfs or btrfs; inside a container, ask its host",
        )),
        Trial::Works | Trial::NotTried => None,
    };
    let checks = [
        has(kernel.overlay, "overlayfs", "use a kernel with CONFIG_OVERLAY_FS; inside a container, ask its host"),
        has(kernel.user_namespaces > 0, "user namespaces", "sysctl -w user.max_user_namespaces=65536"),
        has(kernel.seccomp, "seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER"),
    ];
    checks.into_iter().flatten().chain(no_idmap).collect()
}

fn cgroups(cgroups: &Cgroups) -> Check {
    let Some(version) = cgroups.version else {
        return Check::problem("cgroups", "none are mounted at /sys/fs/cgroup", "mount -t cgroup2 none /sys/fs/cgroup");
    };
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !cgroups.controllers.contains(*name)).collect();
    if !missing.is_empty() {
        return Check::problem(
            "cgroups",
            format!("the controllers {} are missing, so that nothing bounds an environment", missing.join(", ")),
            "add cgroup_enable=memory to the kernel's command line, and reboot",
        );
    }
    if !cgroups.swap_accounting {
        return Check::warning(
            "cgroups",
            "swap is not accounted, so that one environment could fill it",
            "add swapaccount=1 to the kernel's command line, and reboot",
        );
    }
    Check::ok("cgroups", if version == Version::V2 { "version 2" } else { "version 1" })
}

fn sleep(cgroups: &Cgroups) -> Vec<Check> {
    if cgroups.version.is_none() {
        return Vec::new();
    }
    let checks = [
        (!cgroups.freezer).then(|| {
            Check::problem(
                "sleep",
                "there is no freezer, so that nothing can sleep",
                "use a kernel with CONFIG_CGROUP_FREEZER",
            )
        }),
        (!cgroups.reclaim).then(|| {
            Check::warning(
                "sleep",
                "the kernel cannot push out a group's memory (memory.reclaim): what sleeps keeps it",
                "use Linux 5.19 or newer",
            )
        }),
    ];
    checks.into_iter().flatten().collect()
}

fn ids(machine: &Machine) -> Vec<Check> {
    let files = [("/etc/subuid", &machine.ids.users), ("/etc/subgid", &machine.ids.groups)];
    let mut checks = Vec::new();
    for (file, grant) in files {
        match grant {
            Grant::Root => {}
            Grant::Nobody => checks.push(Check::warning(
                "ids",
                format!("{file} reserves no ids for containers; the daemon will do it"),
                "flyloft setup",
            )),
            Grant::Other(who) => checks.push(Check::problem(
                "ids",
                format!("{file} gives `{who}` ids that containers use (0x70000000 to 0x7fffffff)"),
                format!("give `{who}` other ids, below 1879048192"),
            )),
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok("ids", "4096 ranges of 65536 are reserved for containers"));
    }
    checks
}

fn apparmor(kernel: &Kernel) -> Option<Check> {
    match kernel.apparmor {
        AppArmor::Absent => None,
        AppArmor::WithProfile => Some(Check::ok("apparmor", "LXC's profile confines containers, too")),
        AppArmor::WithoutProfile => Some(Check::warning(
            "apparmor",
            "it is on, but without LXC's profile: containers are held by namespaces, seccomp and capabilities alone",
            "apt-get install apparmor, and reboot",
        )),
    }
}
