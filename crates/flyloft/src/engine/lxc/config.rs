//! The LXC configuration of a container. Pure: from what is known to text.
//!
//! Nothing from a repository, a branch name or a variable may get in here: a newline would be enough to run a hook as
//! the host's root. Names are the engine's own, checked where they came in; variables take the way of `/flyloft`.

use std::fmt::Write;

use flyloft_core::policy::Limits;

use super::cgroup::Layout;
use super::machine::AppArmor;
use super::places::Home;
use super::slots::{IDS, Slot};

/// Capabilities that a container's root keeps. The app's user has none; these are for PID 1 and `exec --root`.
const CAPABILITIES: &str = "chown dac_override fowner fsetid kill net_bind_service setgid setuid";

pub struct Config<'a> {
    pub home: &'a Home,
    pub hostname: &'a str,
    pub slot: Slot,
    pub limits: &'a Limits,
    /// Of the console log, with the piece before the last rotation.
    pub log_bytes: u64,
    pub cgroups: Layout,
    pub seccomp: &'a std::path::Path,
    pub apparmor: AppArmor,
    /// Lines of the network, as it rendered them.
    pub network: &'a str,
}

impl Config<'_> {
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut set = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "lxc.{key} = {value}").expect("a string takes what is written");
        };
        set("uts.name", &self.hostname);
        set("rootfs.path", &format_args!("dir:{}", self.home.merged().display()));
        for kind in ["u", "g"] {
            set("idmap", &format_args!("{kind} 0 {} {IDS}", self.slot.uid_base()));
        }
        set("init.cmd", &"/flyloft/init");
        set("signal.halt", &"SIGTERM");
        set("autodev", &1);
        set("tty.max", &0);
        set("pty.max", &1024);
        set("mount.auto", &"proc:mixed sys:ro");
        set("mount.entry", &"tmpfs dev/shm tmpfs rw,nosuid,nodev,mode=1777,size=256m,create=dir 0 0");
        set("mount.entry", &"tmpfs run tmpfs rw,nosuid,nodev,mode=0755,size=64m,create=dir 0 0");
        set("console.logfile", &self.home.console().display());
        set("console.size", &piece(self.log_bytes));
        set("console.rotate", &1);
        set("cap.keep", &CAPABILITIES);
        set("no_new_privs", &1);
        // Under pressure the kernel takes an environment before it takes the daemon.
        set("proc.oom_score_adj", &300);
        set("prlimit.core", &0);
        set("seccomp.profile", &self.seccomp.display());
        if self.apparmor == AppArmor::WithoutProfile {
            set("apparmor.profile", &"unconfined");
        }
        for (key, value) in self.cgroups.limits(self.limits) {
            set(&key, &value);
        }
        text.push_str(self.network);
        text
    }
}

/// The size at which LXC begins another console log, so that both pieces are within what is to be kept. LXC takes the
/// next power of two, which may be nearly twice as much, and never less than a page.
fn piece(log_bytes: u64) -> u64 {
    (log_bytes / 2).checked_ilog2().map_or(0, |exponent| 1 << exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn two_pieces_of_a_log_are_no_larger_than_what_is_kept_of_it() {
        assert_eq!([10 << 20, 8 << 20, 3, 1, 0].map(piece), [4 << 20, 4 << 20, 1, 0, 0]);
    }

    fn rendered(cgroups: Layout) -> String {
        let home = Home { dir: "/s/engine/containers/shop-main-1".into(), name: "fl-a1-shop-main-1.c".into() };
        let slot: Slot = serde_json::from_str("7").unwrap();
        Config {
            home: &home,
            hostname: "shop-main",
            slot,
            limits: &Limits::default(),
            log_bytes: 10 << 20,
            cgroups,
            seccomp: Path::new("/s/engine/seccomp"),
            apparmor: AppArmor::Absent,
            network: "lxc.net.0.type = empty\n",
        }
        .render()
    }

    #[test]
    fn a_configuration_for_cgroup_v2_reads_like_this() {
        insta::assert_snapshot!(rendered(Layout::Unified), @r"
        lxc.uts.name = shop-main
        lxc.rootfs.path = dir:/run/flyloft-lxc/fl-a1-shop-main-1.c/merged
        lxc.idmap = u 0 1879506944 65536
        lxc.idmap = g 0 1879506944 65536
        lxc.init.cmd = /flyloft/init
        lxc.signal.halt = SIGTERM
        lxc.autodev = 1
        lxc.tty.max = 0
        lxc.pty.max = 1024
        lxc.mount.auto = proc:mixed sys:ro
        lxc.mount.entry = tmpfs dev/shm tmpfs rw,nosuid,nodev,mode=1777,size=256m,create=dir 0 0
        lxc.mount.entry = tmpfs run tmpfs rw,nosuid,nodev,mode=0755,size=64m,create=dir 0 0
        lxc.console.logfile = /s/engine/containers/shop-main-1/console.log
        lxc.console.size = 4194304
        lxc.console.rotate = 1
        lxc.cap.keep = chown dac_override fowner fsetid kill net_bind_service setgid setuid
        lxc.no_new_privs = 1
        lxc.proc.oom_score_adj = 300
        lxc.prlimit.core = 0
        lxc.seccomp.profile = /s/engine/seccomp
        lxc.cgroup2.memory.max = 1073741824
        lxc.cgroup2.memory.swap.max = 1073741824
        lxc.cgroup2.pids.max = 512
        lxc.cgroup2.cpu.weight = 100
        lxc.net.0.type = empty
        ");
    }

    #[test]
    fn a_configuration_for_cgroup_v1_differs_in_its_limits_alone() {
        let unified = rendered(Layout::Unified);
        let legacy = rendered(Layout::Legacy { swap: true });
        let differing: Vec<&str> = legacy.lines().filter(|line| !unified.contains(line)).collect();
        insta::assert_snapshot!(differing.join("\n"), @r"
        lxc.cgroup.memory.limit_in_bytes = 1073741824
        lxc.cgroup.memory.memsw.limit_in_bytes = 2147483648
        lxc.cgroup.pids.max = 512
        lxc.cgroup.cpu.shares = 1024
        ");
    }
}
