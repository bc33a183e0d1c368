//! Commands, as they are given on the command line and over SSH.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Flyloft, text, wait_for};
use crate::push::{app, borrowed};

/// Makes the daemon's store refuse a change, until it is lifted.
struct Refusal<'a>(&'a Flyloft);

impl<'a> Refusal<'a> {
    fn of(flyloft: &'a Flyloft, change: &str) -> Self {
        let refusal = Self(flyloft);
        refusal.sql(&format!(
            "CREATE TRIGGER refusal BEFORE {change} BEGIN SELECT RAISE (ABORT, 'the test says no'); END"
        ));
        refusal
    }

    fn sql(&self, sql: &str) {
        rusqlite::Connection::open(self.0.state.join("store.db")).unwrap().execute_batch(sql).unwrap();
    }
}

impl Drop for Refusal<'_> {
    fn drop(&mut self) {
        self.sql("DROP TRIGGER refusal");
    }
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

#[test]
fn a_key_that_is_removed_ends_what_it_has_open() {
    let flyloft = Flyloft::start();
    let mut events = flyloft.ssh_command("events --follow").stdout(Stdio::piped()).spawn().unwrap();
    flyloft.ok(&["apps", "create", "it-fired"]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it-fired app-created")));
    flyloft.ok(&["keys", "rm", "tester"]);
    let status = wait_for("the connection to end", || events.try_wait().unwrap());
    assert_eq!(status.code(), Some(255));
    flyloft.ok(&["destroy", "it-fired", "--yes"]);
}

#[test]
fn an_app_whose_removal_was_cut_off_can_be_removed_again_and_nothing_is_left() {
    let mut flyloft = Flyloft::start();
    for place in ["remove-app.emptied", "remove-app.repositories", "remove-app.caches"] {
        flyloft.repository("it-leaving", &borrowed(&app(place))).pushed(&["main"]);
        flyloft.kill();
        flyloft.fault(place);
        flyloft.serve();
        assert!(!flyloft.cli(&["apps", "rm", "it-leaving", "--yes"]).status.success());
        flyloft.died();
        flyloft.serve();
        flyloft.ok(&["apps", "rm", "it-leaving", "--yes"]);
        for dir in ["apps", "fetched", "modules", "tmp"] {
            let left = fs::read_dir(flyloft.state.join("repos").join(dir)).unwrap();
            let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("it-leaving")), "{dir}: {left:?}");
            assert!(dir != "tmp" || left.is_empty(), "{left:?}");
        }
        let caches = fs::read_dir(flyloft.state.join("engine/caches")).unwrap();
        let caches: Vec<_> = caches.map(|entry| entry.unwrap().file_name()).collect();
        assert!(!caches.iter().any(|name| name.to_string_lossy().starts_with("it-leaving")), "{caches:?}");
        assert_eq!(flyloft.cli(&["apps", "rm", "it-leaving", "--yes"]).status.code(), Some(20));
    }
}

#[test]
fn a_branch_is_deleted_only_after_the_others_of_the_push_are_deployed() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-mixed", &borrowed(&app("one")));
    repository.pushed(&["main", "main:old"]);
    repository.commit(&[("Procfile", "web: false\n")]);
    repository.rejected(&["main", ":old"]);
    assert_eq!(flyloft.get("it-mixed/old", "/").body, "one");

    // A deletion that fails does not reject what serves already: it is told, with the way to finish it.
    repository.commit(&borrowed(&app("two")));
    {
        let _refusal = Refusal::of(&flyloft, "UPDATE OF state ON environments WHEN OLD.name = 'old'");
        let output = repository.pushed(&["main", ":old"]);
        assert!(output.contains(" !     failed to destroy `it-mixed/old`"), "{output}");
        assert!(output.contains("flyloft destroy it-mixed/old"), "{output}");
        assert_eq!(flyloft.get("it-mixed/main", "/").body, "two");
    }
    flyloft.ok(&["destroy", "it-mixed/old", "--yes"]);

    // By itself it is refused, since nothing has happened yet.
    repository.pushed(&["main:alone"]);
    {
        let _refusal = Refusal::of(&flyloft, "UPDATE OF state ON environments WHEN OLD.name = 'alone'");
        repository.rejected(&[":alone"]);
    }
    assert_eq!(flyloft.get("it-mixed/alone", "/").body, "two");
    flyloft.ok(&["destroy", "it-mixed", "--yes"]);
}

#[test]
fn a_branch_that_is_deleted_takes_no_environment_of_another_branch_with_it() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-namesake", &borrowed(&app("hello")));
    repository.pushed(&["main:feature/x"]);
    flyloft.ok(&["destroy", "it-namesake/feature-x", "--yes"]);
    repository.pushed(&["main:feature-x"]);
    // It went with its environment.
    let output = repository.rejected(&[":feature/x"]);
    assert!(output.contains("remote ref does not exist"), "{output}");
    assert_eq!(flyloft.get("it-namesake/feature-x", "/").body, "hello");
    flyloft.ok(&["destroy", "it-namesake", "--yes"]);
}

#[test]
fn what_is_set_for_an_app_is_deployed_to_all_of_its_environments_though_one_fails() {
    let flyloft = Flyloft::start();
    let mut files = app("hello");
    files[0].1 = "web: test \"$FLYLOFT_ENV$BREAK\" = a1 && exit 1; exec python3 server.py\n".to_owned();
    let repository = flyloft.repository("it-all", &borrowed(&files));
    repository.pushed(&["main:a", "main:b"]);
    let failed = flyloft.cli(&["config", "set", "it-all", "BREAK=1"]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert!(text(&failed).contains("it-all/a: the app does not stay up"), "{}", text(&failed));
    assert!(!flyloft.get("it-all/a", "/env").body.contains("BREAK"));
    assert!(flyloft.get("it-all/b", "/env").body.contains("BREAK=1"));

    let set: Value = serde_json::from_str(&flyloft.ok(&["config", "set", "it-all", "BREAK=2", "--json"])).unwrap();
    let envs = set["deployed"].as_array().unwrap().iter().map(|deployed| deployed["env"].as_str().unwrap());
    assert_eq!(envs.collect::<Vec<_>>(), ["it-all/a", "it-all/b"]);
    flyloft.ok(&["destroy", "it-all", "--yes"]);
}

#[test]
fn an_environment_is_shown_to_machines_in_words_of_one_meaning_each() {
    let flyloft = Flyloft::start();
    flyloft.repository("it-shown", &borrowed(&app("hello"))).pushed(&["main:topic"]);
    let shown = |args: &[&str]| serde_json::from_str::<Value>(&flyloft.ok(args)).unwrap();
    let listed = shown(&["ls", "it-shown", "--json"])["environments"][0].clone();
    assert_eq!(listed["state"], "awake");
    assert_eq!(listed["serves"], "v1");
    assert_eq!(listed["deploying"], Value::Null);
    assert_eq!(listed["follows"], json!({"kind": "branch", "of": "topic"}));
    assert!(listed["created_at"].as_str().unwrap().ends_with('Z'));
    let env = shown(&["show", "it-shown/topic", "--json"]);
    assert_eq!(env["processes"], json!([{"type": "web", "command": "python3 server.py"}]));
    // What was so by itself is now so on purpose: nothing is deployed for that.
    assert_eq!(shown(&["scale", "it-shown/topic", "web=1", "--json"]), json!({"formation": {"web": 1}}));
    assert_eq!(shown(&["releases", "it-shown/topic", "--json"])["releases"].as_array().unwrap().len(), 1);
    flyloft.ok(&["destroy", "it-shown", "--yes"]);
}

#[test]
fn what_makes_no_sense_is_told_with_the_right_exit_code_at_every_door() {
    let flyloft = Flyloft::start();
    for (command, code, said) in [
        ("events it-nobody", 20, "there is no app `it-nobody`"),
        ("events it-nobody/main", 20, "there is no environment `it-nobody/main`"),
        ("keys add somebody", 2, "<--admin|--app <APP>>"),
        ("destroy it-nobody --yes", 20, "there is no app `it-nobody`"),
        ("up it-nobody", 2, "--pr NUMBER"),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        for output in [flyloft.cli(&words), flyloft.ssh(command)] {
            assert_eq!(output.status.code(), Some(code), "{command}: {}", text(&output));
            assert!(text(&output).contains(said), "{command}: {}", text(&output));
        }
    }
    let output = flyloft.ssh("serve --state-dir /tmp");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("`serve` is not a command for SSH"), "{}", text(&output));
    let output = text(&flyloft.ssh("ls a\u{1b}[2Jb\u{1}"));
    assert!(output.contains("invalid value 'ab'") && !output.contains(['\u{1b}', '\u{1}']), "{output:?}");
    let output = text(&flyloft.ssh("help"));
    assert!(output.starts_with("Just-in-time staging environments, commanded over SSH"), "{output}");
    let output = flyloft.command(&["ls", "--json"]).env("FLYLOFT_SOCKET", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    assert_eq!(objects(&text(&output))[0]["error"]["kind"], "unavailable");
}

#[test]
fn a_release_that_the_store_cannot_record_fails_for_that_reason() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-record", &borrowed(&app("one")));
    repository.pushed(&["main"]);
    repository.commit(&borrowed(&app("two")));
    {
        let _refusal = Refusal::of(&flyloft, "UPDATE OF live ON environments");
        let output = repository.rejected(&["main"]);
        assert!(output.contains("failed to record the state of `it-record/main`"), "{output}");
        assert!(output.contains("the test says no") && !output.contains("destroyed"), "{output}");
    }
    assert_eq!(flyloft.get("it-record/main", "/").body, "one");
    repository.pushed(&["main"]);
    assert_eq!(flyloft.get("it-record/main", "/").body, "two");
    flyloft.ok(&["destroy", "it-record", "--yes"]);
}

#[test]
fn a_directory_is_staged_whole_or_not_at_all() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-path", &borrowed(&app("hello")));
    let dir = repository.dir.to_str().unwrap();
    // A tar that has left something out.
    let tools = tempfile::tempdir().unwrap();
    let tar = tools.path().join("tar");
    fs::write(&tar, "#!/bin/sh\n/usr/bin/tar \"$@\"\necho 'tar: app.py: Cannot open: Permission denied' >&2\nexit 2\n")
        .unwrap();
    fs::set_permissions(&tar, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap());
    let output = flyloft.command(&["up", "it-path", "--path", dir]).env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("app.py: Cannot open: Permission denied"), "{}", text(&output));
    assert_eq!(flyloft.cli(&["show", "it-path/local"]).status.code(), Some(20));

    let output = flyloft.ok(&["up", "it-path", "--path", dir, "--name", "try"]);
    assert!(output.ends_with(&format!("=====> Deployed\nhttp://it-path-try.localhost:{}\n", flyloft.http)), "{output}");
    assert_eq!(flyloft.get("it-path/try", "/").body, "hello");
    let missing = flyloft.cli(&["up", "it-path", "--path", "/nowhere/at/all"]);
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing));
    flyloft.ok(&["destroy", "it-path", "--yes"]);
}

#[test]
fn a_variable_takes_its_value_from_standard_input() {
    let flyloft = Flyloft::start();
    flyloft.ok(&["apps", "create", "it-stdin"]);
    let set = with_input(flyloft.command(&["config", "set", "it-stdin", "KEY=-", "MODE=test"]), b"se cret\n\n");
    assert!(set.status.success(), "{}", text(&set));
    assert_eq!(flyloft.ok(&["config", "ls", "it-stdin"]), "KEY=se cret\n\nMODE=test\n");
    let set = with_input(flyloft.ssh_command("config set it-stdin KEY=-"), b"from afar");
    assert!(set.status.success(), "{}", text(&set));
    assert_eq!(flyloft.ok(&["config", "get", "it-stdin", "KEY"]), "from afar\n");
    let two = flyloft.cli(&["config", "set", "it-stdin", "A=-", "B=-"]);
    assert_eq!(two.status.code(), Some(2), "{}", text(&two));
    assert_eq!(flyloft.cli(&["config", "set", "it-stdin", "A=-"]).status.code(), Some(2), "nothing is no value");
    flyloft.ok(&["destroy", "it-stdin", "--yes"]);
}

#[test]
fn logs_and_events_are_an_object_a_line_for_machines() {
    let flyloft = Flyloft::start();
    let mut files = app("hello");
    files[0].1 = "web: echo at work; exec python3 server.py\n".to_owned();
    let repository = flyloft.repository("it-lines", &borrowed(&files));
    repository.pushed(&["main"]);
    let logs = objects(&flyloft.ok(&["logs", "it-lines/main", "--json"]));
    let line = logs.iter().find(|line| line["text"] == "at work").unwrap_or_else(|| panic!("{logs:?}"));
    assert_eq!(line["process"], "web.1");
    assert!(line["at"].as_str().unwrap().ends_with('Z'));

    let build = objects(&flyloft.ok(&["logs", "it-lines/main", "--build", "--json"]));
    let url = format!("http://it-lines-main.localhost:{}", flyloft.http);
    assert_eq!(build[build.len() - 2..], [json!({"text": "=====> Deployed"}), json!({"text": url})]);
    assert_eq!(flyloft.ok(&["logs", "it-lines/main", "--build", "--follow", "-n", "1"]), format!("{url}\n"));

    repository.commit(&[("Procfile", "web: false\n")]);
    repository.rejected(&["main"]);
    let build = flyloft.ok(&["logs", "it-lines/main", "--build"]);
    assert!(build.lines().last().unwrap().contains("the app does not stay up"), "{build}");

    let mut events = flyloft.command(&["events", "it-lines", "--follow", "--json"]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    flyloft.ok(&["destroy", "it-lines/main", "--yes"]);
    let lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut kinds = Vec::new();
    for line in lines {
        kinds.push(objects(&line.unwrap())[0]["kind"].as_str().unwrap().to_owned());
        // An app of this name may have been destroyed before.
        let told = kinds.iter().skip_while(|kind| *kind != "deploy-succeeded");
        if told.clone().any(|kind| kind == "deploy-failed") && kinds.last().unwrap() == "destroyed" {
            break;
        }
    }
    events.kill().unwrap();
    events.wait().unwrap();
    flyloft.ok(&["destroy", "it-lines", "--yes"]);
}

#[test]
fn logs_that_are_followed_go_on_with_the_next_release() {
    let flyloft = Flyloft::start();
    let mut files = app("hello");
    files[0].1 = "web: echo this is $FLYLOFT_RELEASE; exec python3 server.py\n".to_owned();
    flyloft.repository("it-follow", &borrowed(&files)).pushed(&["main"]);
    let mut logs = flyloft.command(&["logs", "it-follow/main", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("| this is v1")));
    flyloft.ok(&["restart", "it-follow/main"]);
    assert!(lines.any(|line| line.unwrap().ends_with("| this is v2")));
    flyloft.ok(&["destroy", "it-follow", "--yes"]);
    let status = wait_for("the logs to end", || logs.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn environments_follow_the_domain_when_it_is_changed() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-domain", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.kill();
    flyloft.domain = "staging.localhost";
    flyloft.serve();
    let at = |flyloft: &Flyloft, host: &str, path: &str| {
        flyloft.get_at(SocketAddr::from((Ipv4Addr::LOCALHOST, flyloft.http)), host, path)
    };
    assert_eq!(at(&flyloft, "it-domain-main.staging.localhost", "/").body, "hello");
    assert_eq!(at(&flyloft, "it-domain-main.localhost", "/").status, 404);
    let url = format!("http://it-domain-main.staging.localhost:{}", flyloft.http);
    assert!(flyloft.ok(&["ls"]).contains(&url));
    let events = flyloft.ok(&["events", "it-domain/main"]);
    assert!(events.contains("host-changed by flyloft from it-domain-main.localhost to"), "{events}");
    flyloft.ok(&["restart", "it-domain/main"]);
    let env = at(&flyloft, "it-domain-main.staging.localhost", "/env").body;
    assert!(env.contains(&format!("FLYLOFT_URL={url}")), "{env}");
    flyloft.ok(&["destroy", "it-domain", "--yes"]);
}
