//! Everything in one file, and back again on a machine that has nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::harness::{Flyloft, HOME, run, text};
use crate::push::{app, borrowed};

/// `flyloft restore` into a directory, with a configuration beside the backup.
pub fn restore(flyloft: &Flyloft, file: &Path, state: &Path) -> std::process::Output {
    let config = file.with_extension("toml");
    let (file, state) = (file.to_str().unwrap(), state.to_str().unwrap());
    flyloft.cli(&["restore", file, "--state-dir", state, "--config", config.to_str().unwrap()])
}

/// A backup with another manifest, and with an archive of what is in `tree` if one is given.
fn altered(whole: &[u8], change: impl FnOnce(&mut serde_json::Value), tree: Option<&Path>) -> Vec<u8> {
    let parts: Vec<&[u8]> = whole[..whole.len() - 32].splitn(3, |byte| *byte == b'\n').collect();
    let mut manifest = serde_json::from_slice(parts[1]).unwrap();
    change(&mut manifest);
    let archive = match tree {
        None => parts[2].to_owned(),
        Some(tree) => Command::new("tar").args(["--create", "."]).current_dir(tree).output().unwrap().stdout,
    };
    let mut altered = [parts[0], b"\n", manifest.to_string().as_bytes(), b"\n", &archive].concat();
    altered.extend(Sha256::digest(&altered));
    altered
}

/// All that is there but what git's user may look at is for root alone.
fn is_private(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = path.symlink_metadata().unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7077), (0, 0), "{}", path.display());
        if found.is_dir() {
            is_private(&path);
        }
    }
}

#[test]
fn what_was_backed_up_is_there_after_a_restore_and_off() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-backup", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.ok(&["config", "set", "it-backup", "SECRET=hidden"]);
    flyloft.ok(&["set", "it-backup/main", "idle=7m"]);
    flyloft.ok(&["ports", "add", "it-backup/main", "5432"]);
    let ports = flyloft.ok(&["ports", "ls", "it-backup/main", "--json"]);
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("flyloft.backup");
    let said = flyloft.ok(&["backup", file.to_str().unwrap()]);
    assert!(said.starts_with("wrote `") && said.contains(" 1 app, 1 environment, "), "{said}");
    assert!(!said.contains("hidden"), "{said}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let left: Vec<_> = fs::read_dir(work.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["flyloft.backup"]);
    let keys = flyloft.ok(&["keys", "ls", "--json"]);
    let host_key = fs::read(flyloft.state.join("ssh_host_key")).unwrap();

    // Over SSH it is the same, for an admin.
    let over_ssh = flyloft.ssh("backup");
    assert!(over_ssh.status.success() && over_ssh.stdout.starts_with(b"FLYLOFT BACKUP 1\n"));
    let named = flyloft.ssh("backup /etc/motd");
    assert_eq!(named.status.code(), Some(2));
    assert!(text(&named).contains("`/etc/motd` would be a file of the server"), "{}", text(&named));

    let original = flyloft.state.clone();
    let restored = original.with_file_name("restored");
    let _ = fs::remove_dir_all(&restored);
    let output = restore(&flyloft, &file, &restored);
    assert!(output.status.success(), "{}", text(&output));
    is_private(&restored);
    flyloft.kill();
    flyloft.state = restored.clone();
    // A first start that fails does not take the second one for a start of the same boot.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = std::mem::replace(&mut flyloft.listen, taken.local_addr().unwrap().to_string());
    assert!(!flyloft.fails_to_serve().0.success());
    flyloft.listen = listen;
    flyloft.serve();
    assert_eq!(flyloft.ok(&["keys", "ls", "--json"]), keys);
    assert_eq!(fs::read(restored.join("ssh_host_key")).unwrap(), host_key);
    assert_eq!(flyloft.ok(&["config", "get", "it-backup", "SECRET"]).trim(), "hidden");
    assert!(flyloft.ok(&["set", "it-backup/main"]).contains("7m"));
    assert_eq!(flyloft.ok(&["ports", "ls", "it-backup/main", "--json"]), ports);
    assert!(flyloft.ok(&["show", "it-backup/main"]).contains("off v"), "{}", flyloft.ok(&["show", "it-backup/main"]));
    // Its repository belongs to the user that git runs as here.
    let apps = restored.join("repos/apps");
    let owner = fs::metadata(&apps).unwrap().uid();
    assert_eq!(fs::metadata(apps.join("it-backup.git/HEAD")).unwrap().uid(), owner);
    let fetched = work.path().join("fetched");
    let repository = flyloft.repository("it-backup", &[]);
    let cloned = repository.git(&["clone", "--quiet", &repository.url(), fetched.to_str().unwrap()]);
    assert!(cloned.status.success(), "{}", text(&cloned));
    assert!(fs::read_to_string(fetched.join("server.py")).unwrap().contains("\"hello\""));
    flyloft.ok(&["destroy", "it-backup", "--yes"]);
    flyloft.stop();
    fs::remove_dir_all(&restored).unwrap();
    flyloft.state = original;
    flyloft.serve();
    flyloft.ok(&["destroy", "it-backup", "--yes"]);
}

#[test]
fn what_cannot_be_restored_says_why_and_leaves_nothing() {
    let flyloft = Flyloft::start();
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("flyloft.backup");
    flyloft.ok(&["backup", file.to_str().unwrap()]);
    let whole = fs::read(&file).unwrap();
    let target = work.path().join("state");
    let refused = |what: &Path, into: &Path, complaint: &str| {
        let output = restore(&flyloft, what, into);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(complaint), "{}", text(&output));
    };
    let damaged = work.path().join("damaged");
    let damage = |bytes: Vec<u8>, complaint: &str| {
        fs::write(&damaged, bytes).unwrap();
        refused(&damaged, &target, complaint);
        assert!(!target.exists() && !damaged.with_extension("toml").exists());
    };
    damage(whole[..whole.len() / 2].to_vec(), "is damaged or was cut off");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    damage(changed, "is damaged or was cut off");
    damage(b"hello\n".to_vec(), "is not a backup of flyloft");
    let newer = [b"FLYLOFT BACKUP 2\n", whole.splitn(2, |byte| *byte == b'\n').nth(1).unwrap()].concat();
    damage(newer, "is a backup of format 2, and this program knows format 1");

    refused(&file, &flyloft.state, "a daemon runs with the state directory");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), "precious").unwrap();
    refused(&file, &target, "is not empty");
    assert_eq!(fs::read_to_string(target.join("mine")).unwrap(), "precious");

    // Nothing is removed of what another restore is busy with, or has left behind, and no daemon starts with it.
    let left = work.path().join("left");
    fs::create_dir_all(left.join("restoring")).unwrap();
    fs::write(left.join("restoring/mine"), "precious").unwrap();
    refused(&file, &left, "was restored into");
    let mut serve = flyloft.command(&["serve", "--http", "127.0.0.1:0", "--ssh", "127.0.0.1:0", "--state-dir"]);
    let serve = serve.arg(&left).output().unwrap();
    assert!(text(&serve).contains("and not to its end"), "{}", text(&serve));
    let lock = fs::File::open(left.join("restoring")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    refused(&file, &left, "by somebody else");
    drop(lock);
    assert_eq!(fs::read_to_string(left.join("restoring/mine")).unwrap(), "precious");
}

#[test]
fn of_many_restores_into_one_directory_at_once_one_is_made_and_whole() {
    let flyloft = Flyloft::start();
    let work = tempfile::tempdir().unwrap();
    let (file, target) = (work.path().join("flyloft.backup"), work.path().join("state"));
    flyloft.ok(&["backup", file.to_str().unwrap()]);
    let start = |_| {
        let mut restore =
            flyloft.command(&["restore", file.to_str().unwrap(), "--state-dir", target.to_str().unwrap()]);
        restore.arg("--config").arg(file.with_extension("toml")).stdout(Stdio::piped()).stderr(Stdio::piped());
        restore.spawn().unwrap()
    };
    let all: Vec<_> = (0..4).map(start).collect();
    let ended: Vec<_> = all.into_iter().map(|one| one.wait_with_output().unwrap()).collect();
    let said: Vec<_> = ended.iter().map(text).collect();
    assert_eq!(ended.iter().filter(|one| one.status.success()).count(), 1, "{said:#?}");
    assert!(target.join("store.db").is_file() && !target.join("restoring").exists(), "{said:#?}");
}

/// A file system of its own, for as long as this lives.
struct Mount(PathBuf);

impl Mount {
    fn at(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "flyloft-test"]).arg(&dir));
        Self(dir)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn repositories_may_be_on_a_mount_and_what_is_restored_into_may_be_one() {
    let work = tempfile::tempdir().unwrap();
    let home = Path::new(HOME).join("mounts");
    let _ = fs::remove_dir_all(home.join("state"));
    let _repositories = Mount::at(home.join("state/repos"));
    let flyloft = Flyloft::start_at(&home, "state");
    flyloft.ok(&["apps", "create", "it-mount"]);
    let file = work.path().join("flyloft.backup");
    flyloft.ok(&["backup", file.to_str().unwrap()]);
    let target = Mount::at(work.path().join("state"));
    fs::create_dir(target.0.join("lost+found")).unwrap();
    let output = restore(&flyloft, &file, &target.0);
    assert!(output.status.success(), "{}", text(&output));
    let mut names: Vec<_> =
        fs::read_dir(&target.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["boot-id", "clock", "lost+found", "repos", "secrets.key", "ssh_host_key", "store.db"]);
}

#[test]
fn a_configuration_is_for_those_who_could_read_it_and_root_alone_writes_it() {
    let flyloft = Flyloft::start();
    let work = tempfile::tempdir().unwrap();
    let (file, made) = (work.path().join("flyloft.backup"), work.path().join("made.backup"));
    flyloft.ok(&["backup", file.to_str().unwrap()]);
    let (whole, configuration) = (fs::read(&file).unwrap(), made.with_extension("toml"));
    let restored = |text: Option<&str>, mode: Option<u32>| {
        let target = tempfile::tempdir().unwrap();
        let change = |manifest: &mut serde_json::Value| {
            manifest["configuration"] = text.into();
            manifest["configuration_mode"] = mode.into();
        };
        fs::write(&made, altered(&whole, change, None)).unwrap();
        let output = restore(&flyloft, &made, target.path());
        assert!(output.status.success(), "{}", crate::harness::text(&output));
        crate::harness::text(&output)
    };
    assert!(restored(None, None).contains("the backup has no configuration, and nobody has written one"));
    for (mode, becomes) in [(Some(0o640), 0o640), (Some(0o4666), 0o644), (None, 0o600)] {
        assert!(restored(Some("domain = \"example.org\"\n"), mode).contains("the configuration is in"));
        assert_eq!(fs::metadata(&configuration).unwrap().permissions().mode() & 0o7777, becomes);
        assert!(restored(Some(""), mode).contains("was left as it is"));
        fs::remove_file(&configuration).unwrap();
    }
}

#[test]
fn a_backup_that_is_older_than_expire_brings_back_every_environment() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-old", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.ok(&["set", "it-old/main", "expire=1h"]);
    let work = tempfile::tempdir().unwrap();
    let (file, old) = (work.path().join("flyloft.backup"), work.path().join("old.backup"));
    flyloft.ok(&["backup", file.to_str().unwrap()]);
    let original = flyloft.state.clone();
    let restored = original.with_file_name("restored");
    let _ = fs::remove_dir_all(&restored);
    let month = 30 * 86_400_000_u64;
    let older = |manifest: &mut serde_json::Value| {
        manifest["clock"] = (manifest["clock"].as_u64().unwrap() - month).into();
    };
    fs::write(&old, altered(&fs::read(&file).unwrap(), older, None)).unwrap();
    assert!(restore(&flyloft, &old, &restored).status.success());
    // All that the store says of when happened a month ago.
    let store = rusqlite::Connection::open(restored.join("store.db")).unwrap();
    let ago = "UPDATE environments SET state = json_set(state, '$.live.last_used', state ->> '$.live.last_used' - ?1)";
    assert_eq!(store.execute(ago, [month as i64]).unwrap(), 1);
    store.close().unwrap();

    flyloft.kill();
    flyloft.state = restored.clone();
    flyloft.serve();
    let why = flyloft.why("it-old/main");
    assert_eq!((&why["state"], &why["next"]["step"]), (&"off".into(), &"destroyed".into()), "{why:#}");
    flyloft.ok(&["destroy", "it-old", "--yes"]);
    flyloft.stop();
    fs::remove_dir_all(&restored).unwrap();
    flyloft.state = original;
    flyloft.serve();
    flyloft.ok(&["destroy", "it-old", "--yes"]);
}

#[test]
fn a_backup_that_was_made_to_do_harm_is_refused_and_leaves_nothing() {
    let flyloft = Flyloft::start();
    let work = tempfile::tempdir().unwrap();
    let (file, made) = (work.path().join("flyloft.backup"), work.path().join("made.backup"));
    flyloft.ok(&["backup", file.to_str().unwrap()]);
    let (whole, tree, target) = (fs::read(&file).unwrap(), work.path().join("tree"), work.path().join("state"));
    let unpacked = work.path().join("unpacked");
    assert!(restore(&flyloft, &file, &unpacked).status.success());
    let restored_from = |plant: &dyn Fn(&Path)| {
        let _ = fs::remove_dir_all(&tree);
        run(Command::new("cp").arg("--archive").args([&unpacked, &tree]));
        plant(&tree);
        fs::write(&made, altered(&whole, |_| (), Some(&tree))).unwrap();
        restore(&flyloft, &made, &target)
    };
    let refused = |complaint: &str, plant: &dyn Fn(&Path)| {
        let output = restored_from(plant);
        assert!(!output.status.success() && text(&output).contains(complaint), "{complaint}: {}", text(&output));
        assert!(!target.exists() && !made.with_extension("toml").exists());
    };
    let none = "is neither a file nor a directory";
    refused(none, &|tree| symlink("/etc/passwd", tree.join("repos/link")).unwrap());
    refused(none, &|tree| fs::hard_link(tree.join("store.db"), tree.join("repos/store")).unwrap());
    refused(none, &|tree| drop(run(Command::new("mknod").arg(tree.join("repos/null")).args(["c", "1", "3"]))));
    refused(none, &|tree| {
        fs::rename(tree.join("store.db"), tree.join("other.db")).unwrap();
        symlink("other.db", tree.join("store.db")).unwrap();
    });
    refused("no store that can be read", &|tree| fs::write(tree.join("store.db"), "no store").unwrap());
    refused("lacks a store", &|tree| {
        fs::remove_file(tree.join("store.db")).unwrap();
        fs::create_dir(tree.join("store.db")).unwrap();
    });

    // What has no place in a state directory stays where it is, and nobody but root has any of the rest.
    let output = restored_from(&|tree| {
        fs::write(tree.join("instance"), "abcdef").unwrap();
        fs::write(tree.join("repos/setuid"), "").unwrap();
        fs::set_permissions(tree.join("repos/setuid"), fs::Permissions::from_mode(0o4777)).unwrap();
    });
    assert!(output.status.success(), "{}", text(&output));
    assert!(!target.join("instance").exists());
    is_private(&target);
}

#[test]
fn a_backup_comes_from_a_file_and_goes_to_one() {
    let flyloft = Flyloft::start();
    let work = tempfile::tempdir().unwrap();
    let (file, target) = (work.path().join("flyloft.backup"), work.path().join("state"));
    flyloft.ok(&["backup", file.to_str().unwrap()]);
    for from in ["/dev/stdin", "-"] {
        let mut restore = flyloft.command(&["restore", from, "--state-dir", target.to_str().unwrap()]);
        let mut restore = restore.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(restore.stdin.take());
        let output = restore.wait_with_output().unwrap();
        assert!(text(&output).contains("is not a file"), "{from}: {}", text(&output));
    }
    assert!(!target.exists());
    let refused = flyloft.cli(&["backup", "/dev/null"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    let link = work.path().join("link");
    symlink(&file, &link).unwrap();
    fs::write(&file, "older").unwrap();
    flyloft.ok(&["backup", link.to_str().unwrap()]);
    assert!(link.is_symlink() && fs::read(&file).unwrap().starts_with(b"FLYLOFT BACKUP 1\n"));
}
