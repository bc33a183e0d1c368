//! A branch is pushed, and answers at a URL of its own.

use std::net::{Ipv6Addr, SocketAddr};

use crate::harness::{Flyloft, text};

/// A web app that needs nothing but Python.
pub const SERVER: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = {"/env": "\n".join(f"{k}={v}" for k, v in sorted(os.environ.items()))}.get(self.path, VERSION).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// The files of an app that answers with `version`.
pub fn app(version: &str) -> Vec<(&'static str, String)> {
    vec![
        ("Procfile", "web: python3 server.py\n".to_owned()),
        ("requirements.txt", String::new()),
        ("server.py", format!("VERSION = {version:?}\n{SERVER}")),
    ]
}

pub fn borrowed<'a>(files: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    files.iter().map(|(name, content)| (*name, content.as_str())).collect()
}

#[test]
fn a_pushed_branch_answers_at_its_url_over_ipv4_and_ipv6() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-first", &borrowed(&app("hello")));
    let output = repository.pushed(&["main"]);
    let url = format!("http://it-first-main.localhost:{}", flyloft.http);
    assert!(output.contains("remote: =====> Deployed"), "{output}");
    assert!(output.contains(&format!("remote: {url}")), "{output}");
    assert_eq!(flyloft.get("it-first/main", "/").body, "hello");
    let ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, flyloft.http));
    assert_eq!(flyloft.get_from(ipv6, "it-first/main", "/").body, "hello");

    repository.commit(&borrowed(&app("hello again")));
    repository.pushed(&["main"]);
    assert_eq!(flyloft.get("it-first/main", "/").body, "hello again");
    assert!(flyloft.ok(&["ls"]).contains("awake v2"));

    flyloft.ok(&["destroy", "it-first", "--yes"]);
    assert_eq!(flyloft.get("it-first/main", "/").status, 404);
}

#[test]
fn a_branch_that_is_deleted_is_destroyed() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-branches", &borrowed(&app("hello")));
    repository.pushed(&["main:feature/login"]);
    assert_eq!(flyloft.get("it-branches/feature-login", "/").status, 200);
    let output = repository.pushed(&[":feature/login"]);
    assert!(output.contains("Destroyed it-branches/feature-login"), "{output}");
    assert_eq!(flyloft.get("it-branches/feature-login", "/").status, 404);
    flyloft.ok(&["destroy", "it-branches", "--yes"]);
}

#[test]
fn a_branch_whose_environment_was_destroyed_can_be_pushed_again() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-again", &borrowed(&app("hello")));
    repository.pushed(&["main", "main:other"]);
    flyloft.ok(&["destroy", "it-again/main", "--yes"]);
    assert_eq!(flyloft.get("it-again/main", "/").status, 404);
    let output = repository.pushed(&["main"]);
    assert!(output.contains("Deployed"), "{output}");
    assert_eq!(flyloft.get("it-again/main", "/").body, "hello");
    let output = repository.pushed(&["main:other"]);
    assert!(output.contains("Everything up-to-date"), "only the branch itself goes: {output}");
    flyloft.ok(&["destroy", "it-again", "--yes"]);
}

#[test]
fn two_branches_of_a_push_are_staged_together_or_not_at_all() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-together", &borrowed(&app("one")));
    repository.git(&["branch", "other"]);
    repository.pushed(&["main", "other"]);
    assert_eq!(flyloft.get("it-together/main", "/").body, "one");
    assert_eq!(flyloft.get("it-together/other", "/").body, "one");

    repository.commit(&borrowed(&app("two")));
    repository.git(&["switch", "--quiet", "other"]);
    repository.commit(&[("Procfile", "web: false\n")]);
    let output = repository.rejected(&["main", "other"]);
    assert!(output.contains("the app does not stay up"), "{output}");
    assert_eq!(flyloft.get("it-together/main", "/").body, "one");
    assert_eq!(flyloft.get("it-together/other", "/").body, "one");
    flyloft.ok(&["destroy", "it-together", "--yes"]);
}

#[test]
fn a_push_that_fails_leaves_the_old_release_serving() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-failing", &borrowed(&app("good")));
    repository.pushed(&["main"]);
    for (procfile, complaint) in [
        ("web: false\n", "web.1 exited"),
        ("web python3 server.py\n", "Procfile"),
        ("web: python3 -m http.server --bind 127.0.0.1 $PORT\n", "bind 0.0.0.0"),
    ] {
        repository.commit(&[("Procfile", procfile)]);
        let output = repository.rejected(&["main"]);
        assert!(output.contains("! [remote rejected] main -> main (pre-receive hook declined)"), "{output}");
        assert!(output.contains(complaint), "{output}");
        assert_eq!(flyloft.get("it-failing/main", "/").body, "good");
    }
    flyloft.ok(&["destroy", "it-failing", "--yes"]);
}

#[test]
fn a_push_that_git_will_not_accept_stages_nothing() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-stale", &borrowed(&app("one")));
    repository.pushed(&["main"]);
    // While this push is on its way, a colleague's arrives.
    let rival = repository.commit(&borrowed(&app("the colleague's")));
    repository.git(&["reset", "--quiet", "--hard", "HEAD~"]);
    repository.commit(&borrowed(&app("too late")));
    let hook = format!("#!/bin/sh\nrm \"$0\"\ngit push --quiet {} {rival}:refs/heads/main\n", repository.url());
    repository.hook("pre-push", &hook);
    let output = repository.rejected(&["main"]);
    assert!(output.contains("branch `main` is not any more where it was when the push began"), "{output}");
    assert_eq!(flyloft.get("it-stale/main", "/").body, "the colleague's");

    // Nor does what is no commit become an environment.
    repository.git(&["tag", "--annotate", "--message", "x", "release"]);
    for (what, kind) in [("release", "tag"), ("main^{tree}", "tree"), ("main:server.py", "blob")] {
        let id = repository.git(&["rev-parse", what]);
        let id = String::from_utf8_lossy(&id.stdout).trim().to_owned();
        let output = repository.rejected(&[&format!("{id}:refs/heads/odd")]);
        assert!(output.contains(&format!("is a {kind}, and branch `odd` needs a commit")), "{output}");
        assert!(!flyloft.ok(&["ls"]).contains("it-stale/odd"));
    }
    flyloft.ok(&["destroy", "it-stale", "--yes"]);
}

#[test]
fn every_command_works_over_ssh_as_on_the_command_line() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-ssh", &borrowed(&app("hello")));
    repository.pushed(&["main"]);
    let run = flyloft.ssh("run it-ssh/main -- sh -c 'echo $FLYLOFT_APP; exit 3'");
    assert_eq!(String::from_utf8_lossy(&run.stdout), "it-ssh\n");
    assert_eq!(run.status.code(), Some(3));
    assert!(text(&flyloft.ssh("ls")).contains("it-ssh/main"));
    assert_eq!(flyloft.ssh("show it-ssh/nowhere").status.code(), Some(20));
    assert_eq!(flyloft.ssh("up it-ssh --path /root").status.code(), Some(2));
    flyloft.ok(&["destroy", "it-ssh", "--yes"]);
}

#[test]
fn variables_reach_the_app_and_a_rollback_brings_the_old_ones_back() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-config", &borrowed(&app("hello")));
    repository.pushed(&["main"]);
    flyloft.ok(&["config", "set", "it-config/main", "GREETING=line one\nline two"]);
    assert!(flyloft.get("it-config/main", "/env").body.contains("GREETING=line one\nline two"));
    flyloft.ok(&["rollback", "it-config/main"]);
    assert!(!flyloft.get("it-config/main", "/env").body.contains("GREETING"));
    let events = flyloft.ok(&["events", "it-config/main"]);
    assert!(events.contains("config-changed by root GREETING"), "{events}");
    assert!(!events.contains("line one"), "{events}");
    flyloft.ok(&["destroy", "it-config", "--yes"]);
}

#[test]
fn a_worker_runs_when_it_is_asked_for_and_defaults_of_app_json_outlive_a_restart() {
    let flyloft = Flyloft::start();
    let mut files = app("hello");
    files[0].1.push_str("worker: echo at work; sleep 1000\n");
    files.push(("app.json", r#"{"env": {"MODE": "from app.json"}}"#.to_owned()));
    let repository = flyloft.repository("it-scale", &borrowed(&files));
    repository.pushed(&["main"]);
    assert_eq!(flyloft.ok(&["scale", "it-scale/main"]), "web=1 worker=0\n");
    flyloft.ok(&["scale", "it-scale/main", "worker=2"]);
    let logs = flyloft.ok(&["logs", "it-scale/main"]);
    assert!(logs.contains("worker.1 | at work") && logs.contains("worker.2 | at work"), "{logs}");
    assert!(flyloft.get("it-scale/main", "/env").body.contains("MODE=from app.json"));

    flyloft.ok(&["scale", "it-scale/main", "web=0"]);
    assert_eq!(flyloft.get("it-scale/main", "/").status, 503);
    flyloft.ok(&["scale", "it-scale/main", "web=1"]);
    assert_eq!(flyloft.get("it-scale/main", "/").body, "hello");
    flyloft.ok(&["destroy", "it-scale", "--yes"]);
}

#[test]
fn a_push_that_is_refused_leaves_no_environment_behind() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-refused", &borrowed(&app("hello")));
    let output = repository.rejected(&["main:feature/x", "main:feature-x"]);
    assert!(output.contains("already"), "{output}");
    repository.pushed(&["main:feature-x"]);
    flyloft.ok(&["destroy", "it-refused", "--yes"]);
}
