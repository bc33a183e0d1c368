//! The machine itself: programs, memory, disk, ports, clock.

use flyloft_core::disk::Space;

use super::{Check, bytes};
use crate::config::Config;
use crate::machine::memory::{Zram, Zswap};
use crate::machine::storage::Filesystem;
use crate::machine::tools::{Found, missing_packages};
use crate::machine::{Machine, Memory, Port, Storage};

/// What a small Python or Node app holds while it is awake, for saying what a size means.
const TYPICAL_APP: u64 = 35 << 20;

/// 2026-01-01: before this the clock is surely wrong, and no certificate is valid.
const THIS_WAS_WRITTEN: u64 = 1_767_225_600;

pub fn judge(machine: &Machine, config: &Config) -> Vec<Check> {
    let mut checks = vec![user(machine)];
    checks.extend(tools(machine));
    checks.push(memory(&machine.memory));
    checks.push(swap(&machine.memory));
    checks.push(state_dir(&machine.storage));
    checks.push(space(&machine.storage, config));
    checks.extend(machine.ports.iter().map(|port| judge_port(port, machine.nginx.is_some())));
    checks.push(clock(machine));
    checks
}

fn user(machine: &Machine) -> Check {
    if machine.root {
        Check::ok("user", "this runs as root, as the daemon must")
    } else {
        Check::warning("user", "without root some things cannot be looked at", "sudo flyloft doctor")
    }
}

fn tools(machine: &Machine) -> Vec<Check> {
    let mut checks = Vec::new();
    let (mut names, mut missing) = (Vec::new(), Vec::new());
    for tool in &machine.tools {
        match &tool.found {
            Found::Missing => missing.push(format!("`{}` (for {})", tool.program, tool.for_what)),
            Found::TooOld { have, need } => checks.push(Check::problem(
                "tools",
                format!("`{}` is version {have}; {need} is needed for {}", tool.program, tool.for_what),
                format!("install a newer `{}`", tool.package),
            )),
            Found::Version(version) => names.push(format!("{} {version}", tool.program)),
            Found::Unversioned => names.push(tool.program.to_owned()),
        }
    }
    if !missing.is_empty() {
        let packages = missing_packages(&machine.tools).join(" ");
        checks.push(Check::problem(
            "tools",
            format!("there is no {}", missing.join(", no ")),
            format!("apt-get install --no-install-recommends {packages}"),
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok("tools", names.join(", ")));
    }
    checks
}

fn memory(memory: &Memory) -> Check {
    let total = bytes(memory.total);
    if memory.total < 400 << 20 {
        return Check::warning("memory", format!("{total} are less than a build needs"), "use a machine with 512 MiB");
    }
    Check::ok("memory", format!("{total}, about {} small apps awake", (memory.total / 2 / TYPICAL_APP).max(1)))
}

/// What compressed memory keeps of a hundred pages, until it holds enough to tell.
const TYPICAL_RATIO: u64 = 40;

/// Where sleeping environments go, and what that costs.
fn swap(memory: &Memory) -> Check {
    let (zram, disk) = (memory.compressed(), memory.on_disk());
    let ratio = if memory.pool.stored > 64 << 20 { memory.pool.share(100).max(1) } else { TYPICAL_RATIO };
    let asleep = format!("about {} small apps asleep", (zram + disk) / TYPICAL_APP);
    let keeps = format!("asleep an environment keeps {ratio} % of its memory, compressed, and wakes in about 10 ms");
    let (size, on_disk) = (bytes(zram), bytes(disk));
    let used: u64 = memory.swaps.iter().map(|swap| swap.used).sum();
    if zram + disk > 0 && (zram + disk).saturating_sub(used) < (zram + disk) / 20 {
        let what = format!("of {} nearly all is in use: what falls asleep now keeps its memory", bytes(zram + disk));
        return Check::warning("swap", what, "add swap, or `flyloft off` what nobody needs");
    }
    match (zram, disk) {
        (0, 0) => {
            Check::warning("swap", "there is none: an environment that sleeps keeps all of its memory", "flyloft setup")
        }
        (0, _) if memory.compresses() => Check::ok(
            "swap",
            format!(
                "{on_disk} behind zswap: {asleep}; {keeps}; deep asleep it keeps a few per cent, and wakes in about 50 ms"
            ),
        ),
        (0, _) => {
            let what = format!(
                "{on_disk} on disk alone: {asleep}, which keep a few per cent of their memory and wake in about 50 ms, not 10"
            );
            // Nothing can be done about a kernel.
            match (memory.zswap, memory.zram) {
                (Zswap::Missing, Zram::Missing) => Check::ok("swap", what),
                _ => Check::warning("swap", what, "flyloft setup"),
            }
        }
        (_, 0) => {
            Check::ok("swap", format!("{size} of zram, none on disk: {asleep}; {keeps}; deep asleep it keeps as much"))
        }
        (_, _) => Check::ok(
            "swap",
            format!("{size} of zram before {on_disk} on disk: {asleep}; {keeps}; deep asleep it keeps as much"),
        ),
    }
}

fn state_dir(storage: &Storage) -> Check {
    let dir = storage.state_dir.display();
    if let Some(why) = &storage.unwritable {
        return Check::problem(
            "state directory",
            format!("nothing can be written to `{dir}`: {why}"),
            "mend that, or choose another with state_dir in the configuration",
        );
    }
    let no_overlay = |name| {
        Check::problem(
            "state directory",
            format!("`{dir}` is on {name}, where overlayfs cannot write"),
            "put it on ext4, xfs or btrfs with state_dir in the configuration",
        )
    };
    match storage.filesystem {
        Filesystem::Overlay => no_overlay("an overlay"),
        Filesystem::Tmpfs => Check::warning(
            "state directory",
            format!("`{dir}` is in memory and is gone after a reboot"),
            "put it on a disk with state_dir in the configuration",
        ),
        _ if storage.exists => Check::ok("state directory", format!("`{dir}` can be written to")),
        _ => Check::ok("state directory", format!("`{dir}` can be made")),
    }
}

fn space(storage: &Storage, config: &Config) -> Check {
    let free = bytes(storage.space.free);
    let floor = config.disk.floor;
    if storage.space.free < floor {
        let remedy = "make room, destroy what nobody needs, or lower disk.floor in the configuration";
        full(storage, storage.space, format!("{free} are free, and {} must stay free", bytes(floor)), remedy)
    } else if storage.inodes.free < storage.inodes.floor(floor) {
        let (files, floor) = (storage.inodes.free, storage.inodes.floor(floor));
        let remedy = "remove small files, or destroy what nobody needs";
        full(storage, storage.inodes, format!("only {files} files can be made, and room for {floor} must stay"), remedy)
    } else if storage.space.free < floor + (3 << 30) {
        Check::warning("disk", format!("{free} are free: that is one stack and a few apps"), "make room soon")
    } else if storage.inodes.free < 100_000 && storage.inodes.taken > 0 {
        Check::warning("disk", format!("only {} files can be made", storage.inodes.free), "remove small files")
    } else {
        Check::ok("disk", format!("{free} are free"))
    }
}

fn full(storage: &Storage, space: Space, what: String, remedy: &str) -> Check {
    let own = storage.own.map(|own| space.unit.of(own.bytes, own.inodes));
    let filled = own.map_or_else(String::new, |own| format!("; {}", space.filled(own)));
    Check::problem(
        "disk",
        format!(
            "{what}: caches and old releases go, and what is off where that is enough, and until it is nothing is \
             built{filled}"
        ),
        format!("{remedy}; the daemon's log says what it could free at most"),
    )
}

fn judge_port(port: &Port, nginx_is_edge: bool) -> Check {
    let Port { address, door, holder } = port;
    match holder {
        None => Check::ok("ports", format!("{door} at {address} is free")),
        Some(holder) if holder.ours => Check::ok("ports", format!("{door} at {address} is flyloft's")),
        Some(holder) if nginx_is_edge && door.starts_with("HTTP") && holder.name == "nginx" => {
            Check::ok("ports", format!("{door} at {address} is nginx's"))
        }
        Some(holder) => {
            let (name, pid) = (&holder.name, holder.pid);
            let who = if pid == 0 { name.clone() } else { format!("`{name}` (process {pid})") };
            Check::problem(
                "ports",
                format!("{door} at {address} is taken by {who}"),
                format!("stop it, or set {}.listen in the configuration", door.to_lowercase()),
            )
        }
    }
}

fn clock(machine: &Machine) -> Check {
    if machine.kernel.clock < THIS_WAS_WRITTEN {
        Check::problem(
            "clock",
            "the clock is years behind: no certificate is valid",
            "set it, or install an NTP client",
        )
    } else if machine.kernel.clock_synchronised {
        Check::ok("clock", "it is synchronised")
    } else {
        let remedy = "apt-get install systemd-timesyncd, and let it reach a time server (UDP port 123)";
        Check::warning("clock", "it is not synchronised", remedy)
    }
}
