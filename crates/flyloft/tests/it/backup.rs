//! Everything in one file, and back again on a machine that has nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::harness::{Flyloft, run, text};
use crate::push::{app, borrowed};

/// `flyloft restore` into a directory, with a configuration beside the backup.
fn restore(flyloft: &Flyloft, file: &Path, state: &Path) -> std::process::Output {
    let config = file.with_extension("toml");
    let (file, state) = (file.to_str().unwrap(), state.to_str().unwrap());
    flyloft.cli(&["restore", file, "--state-dir", state, "--config", config.to_str().unwrap()])
}

#[test]
fn what_was_backed_up_is_there_after_a_restore_and_off() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-backup", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.ok(&["config", "set", "it-backup", "SECRET=hidden"]);
    flyloft.ok(&["set", "it-backup/main", "idle=7m"]);
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
    flyloft.kill();
    flyloft.state = restored.clone();
    flyloft.serve();
    assert_eq!(flyloft.ok(&["keys", "ls", "--json"]), keys);
    assert_eq!(fs::read(restored.join("ssh_host_key")).unwrap(), host_key);
    assert_eq!(flyloft.ok(&["config", "get", "it-backup", "SECRET"]).trim(), "hidden");
    assert!(flyloft.ok(&["set", "it-backup/main"]).contains("7m"));
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

    // One that was killed in the middle is begun anew, and no daemon starts with what it left.
    fs::write(target.join("restoring"), "").unwrap();
    let mut serve = flyloft.command(&["serve", "--http", "127.0.0.1:0", "--ssh", "127.0.0.1:0", "--state-dir"]);
    let serve = serve.arg(&target).output().unwrap();
    assert!(text(&serve).contains("run `flyloft restore` once more"), "{}", text(&serve));
    let again = restore(&flyloft, &file, &target);
    assert!(again.status.success(), "{}", text(&again));
    assert!(target.join("store.db").is_file() && !target.join("mine").exists() && !target.join("restoring").exists());
    run(std::process::Command::new("rm").arg("-r").arg(&target));
}
