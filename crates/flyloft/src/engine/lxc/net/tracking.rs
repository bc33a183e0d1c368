//! The kernel's table of connections (nf_conntrack) is the whole host's. Where it is full, nobody reaches the host any
//! more, so a container has a small share of it.
//!
//! Two bounds make the share, since the kernel does not count a connection that is closed (`nf_conncount.c`) and keeps
//! it in the table for a while nevertheless: how many are open, and how fast new ones come. Together they hold a
//! container to 3/128 of the table. The settings are those of the kernel's nf_conntrack-sysctl.

use std::fs;
use std::path::Path;

/// Of this thread's network namespace.
const SETTINGS: &str = "/proc/sys/net/netfilter";
const MOST: &str = "nf_conntrack_max";
const LINGERING: &str = "nf_conntrack_tcp_timeout_time_wait";

/// Entries that the table should have room for at the least. The kernel gives a machine with 512 MB of memory 4096;
/// these would take some 40 MB if all were used.
const FLOOR: u32 = 131_072;

/// Seconds for which a closed connection should be remembered at the most. The kernel's own measure is 120.
const LINGER: u32 = 30;

/// Parts of the table that may be open connections of one container. As many again may be new at once, and as many
/// while one that is closed lingers.
const PARTS: u32 = 128;

/// What one container may have of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Connections at a time.
    pub open: u32,
    /// New connections at once, and then each second.
    pub burst: u32,
    pub rate: u32,
}

impl Share {
    /// As the kernel's settings are.
    pub fn observe() -> Self {
        Self::observe_at(Path::new(SETTINGS))
    }

    /// Before the kernel's part for it is loaded there are no settings: then as they will be, see [`widen`].
    fn observe_at(settings: &Path) -> Self {
        let setting = |name: &str| fs::read_to_string(settings.join(name)).ok()?.trim().parse().ok();
        Self::of(setting(MOST).unwrap_or(FLOOR), setting(LINGERING).unwrap_or(LINGER))
    }

    fn of(most: u32, lingering: u32) -> Self {
        let part = (most / PARTS).max(1);
        Self { open: part, burst: part, rate: (part / lingering.max(1)).max(1) }
    }
}

/// Makes the table hold what a server with many containers needs, where it holds less. It is the kernel's when the rules
/// are in place, hence no file of sysctl.d(5) does it at boot.
pub fn widen() {
    widen_at(Path::new(SETTINGS));
}

fn widen_at(settings: &Path) {
    change(&settings.join(MOST), |most| most.max(FLOOR));
    change(&settings.join(LINGERING), |lingering| lingering.min(LINGER));
}

/// A kernel that has no such setting, or does not let it be changed, is one whose table stays as it is.
fn change(setting: &Path, better: impl Fn(u32) -> u32) {
    let Some(now) = fs::read_to_string(setting).ok().and_then(|text| text.trim().parse().ok()) else { return };
    let wanted = better(now);
    if wanted == now {
        return;
    }
    if let Err(error) = fs::write(setting, wanted.to_string()) {
        tracing::warn!(setting = %setting.display(), now, wanted, %error, "failed to give the kernel's table of connections more room");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(most: &str, lingering: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MOST), most).unwrap();
        fs::write(dir.path().join(LINGERING), lingering).unwrap();
        dir
    }

    #[test]
    fn a_share_is_a_small_part_of_the_table_also_when_connections_only_come_and_go() {
        for (most, lingering) in [(4096, 120), (65_536, 120), (131_072, 30), (262_144, 120), (262_144, 30)] {
            let Share { open, burst, rate } = Share::of(most, lingering);
            let at_worst = open + burst + rate * lingering;
            // Where the table is tiny, one connection a second has to be allowed.
            assert!(at_worst <= most * 3 / PARTS || rate == 1, "{most} {lingering}: {at_worst}");
            assert!(open >= 32, "{open}");
        }
        assert_eq!(Share::of(262_144, 30), Share { open: 2048, burst: 2048, rate: 68 });
        assert_eq!(Share::of(0, 0), Share { open: 1, burst: 1, rate: 1 });
    }

    #[test]
    fn a_small_servers_table_grows_and_an_ordinary_app_fits_into_its_share() {
        let small = settings("4096\n", "120\n");
        widen_at(small.path());
        let share = Share::observe_at(small.path());
        assert_eq!(share, Share { open: 1024, burst: 1024, rate: 34 });
        assert_eq!(share, Share::observe_at(Path::new("/nonexistent")), "nothing changes when the table is there");
    }

    #[test]
    fn what_somebody_has_set_to_more_stays() {
        let large = settings("1048576\n", "10\n");
        widen_at(large.path());
        let said = |name: &str| fs::read_to_string(large.path().join(name)).unwrap();
        assert_eq!((said(MOST), said(LINGERING)), ("1048576\n".to_owned(), "10\n".to_owned()));
    }
}
