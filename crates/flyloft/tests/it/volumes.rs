//! Directories that outlive deploys, with an app that writes to them.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::harness::{Flyloft, text, wait_for};
use crate::kinds::SERVE;

/// Writes, reads and says what went wrong: `/add/FILE/WORD`, `/read/FILE`, `/grow/FILE/MIB`, `/make/FILES`.
const APP: &str = r#"
import os

def answer(words):
    match words:
        case ["add", file, word]:
            with open(f"uploads/{file}", "a") as f: f.write(word + " ")
        case ["grow", file, mib]:
            with open(f"uploads/{file}", "wb") as f: f.write(os.urandom(1 << 20) * int(mib))
            return "grown"
        case ["make", count]:
            for n in range(int(count)): open(f"uploads/{n}", "w").close()
            return "made"
        case ["owner"]:
            meta = os.stat("uploads")
            return f"{meta.st_uid} {meta.st_gid} {oct(meta.st_mode)}"
    return open(f"uploads/{words[1]}").read()
"#;

fn app_json(volumes: &str) -> String {
    format!(r#"{{"flyloft": {{"volumes": {volumes}}}}}"#)
}

fn files(app_json: &str) -> [(&'static str, String); 4] {
    let file = |name, content: &str| (name, content.to_owned());
    [
        file("app.py", &format!("{APP}{SERVE}")),
        file("Procfile", "web: python app.py\n"),
        file("requirements.txt", ""),
        file("app.json", app_json),
    ]
}

fn with_input(flyloft: &Flyloft, args: &[&str], input: &[u8]) -> Output {
    let mut command = flyloft.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// A tar archive of one file.
fn archive(name: &str, content: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), content).unwrap();
    let tar = Command::new("tar").arg("-C").arg(dir.path()).args(["-c", "."]).output().unwrap();
    assert!(tar.status.success());
    tar.stdout
}

fn directories(flyloft: &Flyloft) -> Vec<String> {
    let entries = std::fs::read_dir(flyloft.state.join("engine/volumes")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_an_app_writes_to_a_volume_is_there_after_a_deploy_asleep_and_off_and_goes_with_its_environment() {
    let flyloft = Flyloft::start();
    let before = directories(&flyloft);
    let asked = files(&app_json(r#"[{"path": "/app/uploads", "size": "1GiB"}]"#));
    let asked: Vec<_> = asked.iter().map(|(name, content)| (*name, content.as_str())).collect();
    let repository = flyloft.repository("it-volumes", &asked);
    let told = repository.pushed(&["main"]);
    assert!(told.contains("Volume at /app/uploads of 1GiB"), "{told}");
    let env = "it-volumes/main";
    let get = |path: &str| flyloft.get("it-volumes-main", path).body;
    assert_eq!(get("/owner"), "1000 1000 0o40755");
    assert_eq!(get("/add/notes/one"), "one ");
    repository.commit(&[("app.py", &format!("{APP}{SERVE}\n# Another version\n"))]);
    repository.pushed(&["main"]);
    assert_eq!(get("/add/notes/two"), "one two ");
    // Where a link leads elsewhere nothing is mounted, which is said, and does not keep the next commit from serving.
    repository.commit(&[("app.json", &app_json(r#"["/app/uploads", "/var/run/x"]"#))]);
    let refused = repository.push(&["main"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(text(&refused).contains("nothing can be mounted at `/var/run/x`: there must be"), "{}", text(&refused));
    // Nor does what would take more than the disk may.
    repository.commit(&[("app.json", &app_json(r#"["/app/uploads", {"path": "/app/media", "size": "4097MiB"}]"#))]);
    let refused = text(&repository.push(&["main"]));
    let why =
        "asks for volumes of at least 4097MiB beside those of 1GiB that it has been given, and may have 5GiB in all";
    assert!(refused.contains(why) && refused.contains("remote rejected"), "{refused}");
    repository.commit(&[("app.json", &app_json(r#"["/app/uploads"]"#))]);
    repository.pushed(&["main"]);
    assert_eq!(get("/read/notes"), "one two ");
    for rung in [&["sleep"][..], &["sleep", "--deep"], &["off"], &["restart"]] {
        flyloft.ok(&[rung, &[env]].concat());
        assert_eq!(get("/read/notes"), "one two ", "{rung:?}");
    }
    let listed = flyloft.ok(&["volumes", "ls", "it-volumes"]);
    assert!(listed.contains("it-volumes/main") && listed.contains("/app/uploads"), "{listed}");
    assert_eq!(directories(&flyloft).len(), before.len() + 1);
    flyloft.ok(&["destroy", "it-volumes", "--yes"]);
    wait_for("its directory is gone", || (directories(&flyloft) == before).then_some(()));
}

#[test]
fn volumes_are_added_grown_filled_and_taken_away_by_hand() {
    let flyloft = Flyloft::start();
    let asked = files("{}");
    let mut asked: Vec<_> = asked.iter().map(|(name, content)| (*name, content.as_str())).collect();
    asked.push(("uploads/of-the-image", "x"));
    let repository = flyloft.repository("it-volumes-by-hand", &asked);
    repository.pushed(&["main"]);
    let env = "it-volumes-by-hand/main";
    let get = |path: &str| flyloft.get("it-volumes-by-hand-main", path).body;
    assert_eq!(get("/read/of-the-image"), "x");

    let made = with_input(
        &flyloft,
        &["volumes", "templates", "add", "it-volumes-by-hand", "seed"],
        &archive("notes", "seeded "),
    );
    assert!(made.status.success(), "{}", text(&made));
    let again =
        with_input(&flyloft, &["volumes", "templates", "add", "it-volumes-by-hand", "seed"], &archive("x", "x"));
    assert!(text(&again).contains("has a template `seed` already"), "{}", text(&again));
    let broken = with_input(&flyloft, &["volumes", "templates", "add", "it-volumes-by-hand", "other"], b"no archive");
    assert!(!broken.status.success(), "{}", text(&broken));
    let listed = flyloft.ok(&["volumes", "templates", "ls", "it-volumes-by-hand"]);
    assert!(listed.contains("seed") && !listed.contains("other"), "{listed}");

    flyloft.ok(&["volumes", "add", env, "/app/uploads", "--size", "20MiB", "--template", "seed"]);
    assert_eq!(get("/add/notes/more"), "seeded more ");
    assert!(get("/read/of-the-image").starts_with("FileNotFoundError"));
    let refused = flyloft.cli(&["volumes", "add", env, "/app/uploads"]);
    assert!(text(&refused).contains("has a volume at `/app/uploads` already"), "{}", text(&refused));
    let refused = flyloft.cli(&["volumes", "add", env, "/app/uploads/below"]);
    assert!(text(&refused).contains("volumes do not lie within each other"), "{}", text(&refused));
    let refused = flyloft.cli(&["volumes", "add", env, "/app"]);
    assert!(text(&refused).contains("would hide what the app is made of"), "{}", text(&refused));

    // It fills it beyond its size, and is stopped until it may have more.
    assert_eq!(get("/grow/large/40"), "grown");
    wait_for("it is stopped", || flyloft.ok(&["show", env]).contains("over a volume's size").then_some(()));
    let closed = flyloft.get("it-volumes-by-hand-main", "/");
    assert!(
        closed.status == 503 && closed.body.contains("one of its volumes has outgrown its size"),
        "{}",
        closed.body
    );
    flyloft.ok(&["volumes", "add", env, "/app/uploads", "--size", "100MiB"]);
    let refused = flyloft.cli(&["volumes", "add", env, "/app/uploads", "--size", "30MiB"]);
    assert!(text(&refused).contains("and would be stopped for it"), "{}", text(&refused));
    assert_eq!(get("/read/notes"), "seeded more ");

    // Files without anything in them count with those of its disk.
    flyloft.ok(&["set", env, "inodes=11000"]);
    flyloft.ok(&["restart", env]);
    assert_eq!(get("/make/12000"), "made");
    wait_for("it is stopped", || flyloft.ok(&["show", env]).contains("over its limit of files").then_some(()));
    let events = flyloft.ok(&["events", env]);
    assert!(events.contains("its limit is 11000 with those in its volumes, which stay"), "{events}");
    flyloft.ok(&["set", env, "inodes="]);
    flyloft.ok(&["restart", env]);
    assert_eq!(get("/read/notes"), "seeded more ");

    flyloft.ok(&["volumes", "rm", env, "/app/uploads", "--yes"]);
    assert_eq!(get("/read/of-the-image"), "x");
    wait_for("it is gone", || flyloft.ok(&["volumes", "ls", env]).contains("there are no volumes").then_some(()));
    flyloft.ok(&["destroy", "it-volumes-by-hand", "--yes"]);
    wait_for("the template is gone as well", || {
        directories(&flyloft).iter().all(|name| !name.starts_with("template-")).then_some(())
    });
}
