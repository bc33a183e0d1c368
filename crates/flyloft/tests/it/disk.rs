//! A disk that is short of room, and one that is full: a real and small one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::harness::{Flyloft, HOME, run, wait_for};
use crate::push::SERVER;

const MIB: u64 = 1 << 20;

/// An ext4 file system in a file, where the state directory is.
struct Disk {
    dir: PathBuf,
}

impl Disk {
    fn mount(name: &str, mib: u64) -> Self {
        let (dir, image) = (Path::new(HOME).join(name), Path::new(HOME).join(format!("{name}.img")));
        // A test that failed has left it, and the daemon clears up what that has left.
        if fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!(" {} ext4 ", dir.display())) {
            let disk = Self { dir };
            disk.empty();
            return disk;
        }
        fs::create_dir_all(&dir).unwrap();
        File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&dir));
        // It is there for as long as it is mounted.
        fs::remove_file(image).unwrap();
        Self { dir }
    }

    /// Takes the layers of Debian and Python from where all tests have them. If they were not made yet, they are made.
    fn borrow_layers(&self) {
        let from = Path::new(HOME).join("state/engine/layers");
        let to = self.dir.join("engine/layers");
        fs::create_dir_all(&to).unwrap();
        for layer in fs::read_dir(from).into_iter().flatten().flatten() {
            let meta = fs::read_to_string(layer.path().join("meta.json")).unwrap_or_default();
            if meta.contains("\"base of debian-13\"") || meta.contains("\"python-run on debian-13\"") {
                run(Command::new("cp").arg("--archive").arg(layer.path()).arg(&to));
            }
        }
    }

    fn free(&self) -> u64 {
        let disk = nix::sys::statvfs::statvfs(&self.dir).unwrap();
        disk.blocks_available() * disk.fragment_size()
    }

    /// Takes all but so much of it.
    fn fill(&self, leave: u64) {
        let hog = self.dir.join("hog");
        let file = File::options().create(true).append(true).open(hog).unwrap();
        let has = file.metadata().unwrap().len();
        fallocate(&file, FallocateFlags::empty(), has as i64, (self.free() - leave) as i64).unwrap();
    }

    /// Takes the rest, to the last byte.
    fn brim(&self) {
        let mut rest = File::create(self.dir.join("rest")).unwrap();
        while rest.write_all(&[1; 4096]).is_ok() {}
        rest.sync_all().unwrap();
    }

    /// Takes all but so many inodes.
    fn fill_inodes(&self, leave: u64) {
        let dir = self.dir.join("many");
        fs::create_dir(&dir).unwrap();
        let free = nix::sys::statvfs::statvfs(&self.dir).unwrap().files_available();
        for number in 0..free - leave {
            File::create(dir.join(number.to_string())).unwrap();
        }
    }

    fn empty(&self) {
        let _ = fs::remove_dir_all(self.dir.join("many"));
        for file in ["hog", "rest"] {
            let _ = fs::remove_file(self.dir.join(file));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            run(Command::new("umount").arg("--lazy").arg(&self.dir));
        }
    }
}

/// One that has written so much beside its image when it answers.
fn app(version: &str, mib: u64) -> Vec<(&'static str, String)> {
    let write = format!("open('written', 'wb').write(bytes({}))", mib * MIB);
    vec![
        ("Procfile", "web: python3 server.py\n".to_owned()),
        ("server.py", format!("VERSION = {version:?}\n{write}\n{SERVER}")),
    ]
}

fn files<'a>(app: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    crate::push::borrowed(app)
}

/// What `flyloft ls` says of its state.
fn state(flyloft: &Flyloft, env: &str) -> String {
    let listed = flyloft.ok(&["ls"]);
    let line = listed.lines().find(|line| line.starts_with(env)).unwrap_or_else(|| panic!("no {env}: {listed}"));
    line.trim_start_matches(env).trim_start().split("  ").next().unwrap().to_owned()
}

/// The answer to a client with this user agent.
fn ask(flyloft: &Flyloft, host: &str, agent: &str, accept: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, flyloft.http)).unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {host}.localhost\r\nUser-Agent: {agent}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn events(flyloft: &Flyloft, env: &str, kind: &str) -> Vec<String> {
    let events = flyloft.ok(&["events", env, "--json"]);
    let events: serde_json::Value = serde_json::from_str(&events).unwrap();
    let events = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == kind);
    events.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_full_disk_stops_builds_and_nothing_else_and_what_was_taken_off_it_is_built_anew_when_it_is_visited() {
    let disk = Disk::mount("small", 1024);
    disk.borrow_layers();
    let mut flyloft = Flyloft::start_in("small");
    flyloft.kill();
    flyloft.config = "[disk]\nfloor = '100MiB'\n".to_owned();
    flyloft.serve();
    let repository = flyloft.repository("it-disk", &files(&app("main", 0)));
    repository.pushed(&["main", "main:sleeper"]);
    repository.commit(&files(&app("old", 30)));
    repository.pushed(&["main:old"]);
    flyloft.ok(&["sleep", "it-disk/sleeper"]);
    flyloft.ok(&["off", "it-disk/old"]);

    // Below the floor, and what is off would not make enough room for a build.
    disk.fill(50 * MIB);
    repository.commit(&files(&app("next", 0)));
    let output = repository.rejected(&["main:next"]);
    assert!(
        output.contains("the disk is full: ") && output.contains("100.0 MiB are kept free; nothing is built"),
        "{output}"
    );
    assert!(
        output.contains("[remote rejected]") && output.contains("destroy environments that nobody needs"),
        "{output}"
    );
    assert_eq!(flyloft.get("it-disk/main", "/").body, "main");
    assert_eq!(state(&flyloft, "it-disk/sleeper"), "asleep v1");
    assert!(output.contains("because: something else fills it: Flyloft has "), "{output}");
    assert!(output.contains("what is off is kept, since to give it up would be in vain"), "{output}");
    assert_eq!(state(&flyloft, "it-disk/old"), "off v1");
    let report = flyloft.doctor();
    assert!(report.contains("nothing is built; something else fills it: Flyloft has "), "{report}");

    // Now it would.
    disk.empty();
    disk.fill(80 * MIB);
    // The machine gives back what was written asynchronously, so this may come too soon.
    repository.push(&["main:other"]);
    assert_eq!(state(&flyloft, "it-disk/old"), "off v1 (to be built anew)");
    let cleared = events(&flyloft, "it-disk/old", "cleared");
    assert!(cleared.len() == 1 && cleared[0].contains("a visit builds it anew"), "{cleared:?}");
    assert!(flyloft.ok(&["why", "it-disk/old"]).contains("its disk was given up to make room"));
    wait_for("30 MiB", || (disk.free() > 105 * MIB).then_some(()));

    // Full to the last byte: what serves goes on, what sleeps wakes, what is off starts, and what nobody needs can be
    // destroyed.
    disk.fill(0);
    disk.brim();
    assert_eq!(flyloft.get("it-disk/main", "/").body, "main");
    assert_eq!(flyloft.get("it-disk/sleeper", "/").body, "main");
    flyloft.ok(&["off", "it-disk/sleeper"]);
    assert_eq!(flyloft.get("it-disk/sleeper", "/").body, "main");
    flyloft.ok(&["destroy", "it-disk/next", "--yes"]);
    let output = repository.rejected(&["main:next"]);
    assert!(output.contains("the disk is full: "), "{output}");
    let refused = flyloft.get("it-disk/old", "/");
    assert!(
        refused.status == 503 && refused.body.contains("could not be built anew. Visits try again in "),
        "{}",
        refused.body
    );
    assert!(!refused.body.contains("MiB"), "strangers read nothing of the disk: {}", refused.body);
    let failed = events(&flyloft, "it-disk/old", "rebuild-failed");
    assert!(failed[0].contains("100.0 MiB are kept free; nothing is built: something else fills it"), "{failed:?}");
    // The daemon's own reserve is gone by now.
    flyloft.ok(&["sleep", "it-disk/sleeper"]);
    disk.brim();
    assert_eq!(flyloft.get("it-disk/sleeper", "/").body, "main");
    assert_eq!(flyloft.get("it-disk/main", "/").body, "main");

    // There is room again.
    disk.empty();
    repository.pushed(&["main:next"]);
    assert_eq!(flyloft.get("it-disk/next", "/").body, "next");
    let preview = ask(&flyloft, "it-disk-old", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "*/*");
    assert!(preview.starts_with("HTTP/1.1 503 ") && preview.contains("retry-after: 3600"), "{preview}");
    assert_eq!(state(&flyloft, "it-disk/old"), "off v1 (could not be built anew)");
    let again = flyloft.get("it-disk/old", "/");
    assert!(again.status == 503 && again.body.contains("Visits try again in 1 min."), "{}", again.body);
    flyloft.ok(&["wake", "it-disk/old"]);
    assert_eq!(flyloft.get("it-disk/old", "/").body, "old");
    let rebuilt = events(&flyloft, "it-disk/old", "rebuilt");
    assert!(rebuilt.len() == 1 && rebuilt[0].ends_with("the same layers as before"), "{rebuilt:?}");

    // Of too few inodes it is the same.
    disk.fill_inodes(5000);
    repository.commit(&files(&app("last", 0)));
    let output = repository.rejected(&["main:next"]);
    assert!(output.contains(" inodes are free, and 10000 inodes are kept free; nothing is built"), "{output}");
    assert!(output.contains("because: something else fills it: Flyloft has "), "{output}");
    let report = flyloft.doctor();
    assert!(report.contains("files can be made, and room for 10000 must stay"), "{report}");
    assert_eq!(flyloft.get("it-disk/next", "/").body, "next");
    disk.empty();
    repository.pushed(&["main:next"]);
    assert_eq!(flyloft.get("it-disk/next", "/").body, "last");
    flyloft.ok(&["destroy", "it-disk", "--yes"]);
}
