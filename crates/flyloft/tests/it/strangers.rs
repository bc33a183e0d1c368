//! What others have on the machine, beside what is Flyloft's and right among it, stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Flyloft, run};
use crate::push::{app, borrowed};

/// An instance that is not this daemon's.
const OTHER: &str = "0a0b0c";

/// Links of somebody's own, and one as another daemon has them.
const LINKS: [&str; 3] = ["it-strange-br", "it-strange0", "fl0a0b0c4095"];

/// Tables of the firewall, in the same way.
const TABLES: [&str; 2] = ["it_stranger", "flyloft_0a0b0c"];

/// Containers that others have defined: with LXC's own path, with Flyloft's, and another daemon's.
const CONTAINERS: [&str; 3] =
    ["/var/lib/lxc/it-stranger", "/run/flyloft-lxc/it-stranger", "/run/flyloft-lxc/fl-0a0b0c-shop-main-7-1.c"];

/// The claim of another daemon on a slot.
const CLAIM: &str = "/var/lib/flyloft-slots/4095";

/// What strangers have, for as long as this is held.
struct Strangers {
    /// Directories and files, all of them with something in it.
    files: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
}

impl Strangers {
    fn settle(state: &Path) -> Self {
        let own = |name: &str| state.join(name);
        let strangers = Self {
            // As on a disk of its own, which an administrator has given to what grows.
            mounts: vec![own("engine/volumes"), PathBuf::from(CONTAINERS[1]).join("rootfs")],
            files: [
                "engine/layers",
                "engine/containers",
                "engine/builds",
                "engine/caches",
                "engine/volumes",
                "repos/apps",
                "transcripts",
            ]
            .iter()
            .flat_map(|dir| [own(dir).join("lost+found/found"), own(dir).join("NOTES.txt")])
            .chain(CONTAINERS.map(|container| Path::new(container).join("config")))
            .chain([PathBuf::from("/var/lib/flyloft-slots/NOTES.txt"), PathBuf::from(CLAIM)])
            .collect(),
        };
        strangers.leave();
        let ip = |command: &str| run(Command::new("ip").args(command.split(' ')));
        ip("link add it-strange-br type bridge");
        ip("link add it-strange0 type veth peer name it-strange1");
        ip("link set it-strange1 master it-strange-br");
        ip("link add fl0a0b0c4095 type veth peer name it-strange2");
        ip("address add 198.18.9.1/24 dev it-strange-br");
        for table in TABLES {
            let rule = "{ chain c { type filter hook forward priority 10; iifname \"it-strange0\" counter accept; }; }";
            run(Command::new("nft").arg(format!("table inet {table} {rule}")));
        }
        for point in &strangers.mounts {
            fs::create_dir_all(point).unwrap();
            run(Command::new("mount").args(["-t", "tmpfs", "it-stranger"]).arg(point));
        }
        for file in &strangers.files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let content = if file == Path::new(CLAIM) { "/var/lib" } else { "lxc.uts.name = somebody else's\n" };
            fs::write(file, content).unwrap();
        }
        strangers
    }

    /// All of it as it is, by name.
    fn seen(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::new();
        for file in &self.files {
            seen.insert(file.display().to_string(), fs::read_to_string(file).unwrap_or_else(|error| error.to_string()));
        }
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        for link in LINKS {
            let shown = ["link", "address"].map(|what| said("ip", &["-o", what, "show", "dev", link]));
            seen.insert(format!("link {link}"), shown.concat());
        }
        for table in TABLES {
            // It counts whatever is forwarded from there, which is nothing.
            seen.insert(format!("table {table}"), said("nft", &["list", "table", "inet", table]));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        for point in &self.mounts {
            let line = format!("it-stranger {} ", point.display());
            let found = mounts.lines().filter(|mount| mount.starts_with(&line)).count();
            seen.insert(format!("mount {}", point.display()), format!("{found} times"));
        }
        for path in ["/var/lib/lxc", "/run/flyloft-lxc"] {
            let listed = said("lxc-ls", &["-1", "-P", path]);
            let is_listed = |name: &&str| *name == "it-stranger" || name.starts_with(&format!("fl-{OTHER}-"));
            seen.insert(format!("containers in {path}"), listed.split_whitespace().filter(is_listed).collect());
        }
        seen
    }

    /// Nothing of it is there any more, also what a test that failed has left.
    fn leave(&self) {
        for link in LINKS {
            let _ = Command::new("ip").args(["link", "delete", link]).output();
        }
        for table in TABLES {
            let _ = Command::new("nft").args(["delete", "table", "inet", table]).output();
        }
        for point in &self.mounts {
            let _ = Command::new("umount").arg("--lazy").arg(point).output();
        }
        for file in &self.files {
            let _ = fs::remove_file(file);
            let dir = file.parent().unwrap();
            if dir.ends_with("lost+found") {
                let _ = fs::remove_dir(dir);
            }
        }
        for container in CONTAINERS {
            let _ = fs::remove_dir_all(container);
        }
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.leave();
    }
}

#[test]
fn what_is_not_flylofts_survives_a_start_a_comparison_with_the_store_a_clearing_up_and_a_destroy() {
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    let strangers = Strangers::settle(&flyloft.state);
    let before = strangers.seen();
    assert!(before.values().all(|what| !what.is_empty() && !what.contains("rror")), "{before:#?}");
    assert!(before.iter().all(|(name, what)| !name.starts_with("mount ") || what == "1 times"), "{before:#?}");
    flyloft.serve();
    assert_eq!(strangers.seen(), before, "after a start");
    flyloft.repository("it-neighbour", &borrowed(&app("hello"))).pushed(&["main"]);
    assert_eq!(flyloft.get("it-neighbour/main", "/").body, "hello");
    assert_eq!(strangers.seen(), before, "after a deploy");

    // What is Flyloft's and nobody's goes with the next comparison and the next clearing up.
    let ours = ["engine/containers/it-nobody-999999-1", "transcripts/999999"].map(|name| flyloft.state.join(name));
    ours.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let since = Instant::now();
    while ours.iter().any(|dir| dir.exists()) {
        assert!(since.elapsed() < Duration::from_secs(180), "what is nobody's stays: {ours:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(strangers.seen(), before, "after a comparison with the store, and a clearing up");
    flyloft.ok(&["destroy", "it-neighbour", "--yes"]);
    assert_eq!(strangers.seen(), before, "after a destroy");
    assert!(!flyloft.log().contains("lost+found"), "it was in the way");
    flyloft.kill();
    flyloft.serve();
    assert_eq!(strangers.seen(), before, "after a crash and a start");
    flyloft.stop();
}
