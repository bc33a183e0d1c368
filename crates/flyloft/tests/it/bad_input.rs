//! What people get wrong. Each is told in words that help, and leaves what serves alone.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::harness::{Flyloft, text};
use crate::push::{SERVER, app, borrowed};

/// Pushes these files over a release that serves; the push must be rejected with each of the complaints.
#[track_caller]
fn check(app_name: &str, files: &[(&str, &str)], remove: &[&str], complaints: &[&str]) {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository(app_name, &borrowed(&app("good")));
    repository.pushed(&["main"]);
    for name in remove {
        std::fs::remove_file(repository.dir.join(name)).unwrap();
    }
    repository.commit(files);
    let output = repository.rejected(&["main"]);
    assert!(!output.contains(['\u{1b}', '\u{7}']), "{output:?}");
    for complaint in complaints {
        assert!(output.contains(complaint), "`{complaint}` is missing:\n{output}");
    }
    assert!(output.contains("! [remote rejected] main -> main (pre-receive hook declined)"), "{output}");
    assert_eq!(flyloft.get(&format!("{app_name}/main"), "/").body, "good");
    flyloft.ok(&["destroy", app_name, "--yes"]);
}

#[test]
fn a_repository_of_which_nothing_is_known() {
    let remove = ["Procfile", "requirements.txt", "server.py"];
    check("it-nothing", &[("notes.txt", "hello")], &remove, &["Procfile"]);
}

#[test]
fn a_procfile_that_cannot_be_read() {
    let procfile = "# processes\nweb python3 server.py\n";
    check("it-procfile", &[("Procfile", procfile)], &[], &["Procfile:2:"]);
}

#[test]
fn an_app_json_that_is_not_json() {
    check("it-json", &[("app.json", "{\n  \"env\": {,}\n}\n")], &[], &["app.json:2:"]);
}

#[test]
fn variables_that_app_json_requires_and_nobody_set() {
    let app_json = r#"{"env": {"API_KEY": {"description": "from the provider's console", "required": true},
        "REGION": {}, "MADE": {"generator": "secret"}, "LEVEL": {"required": false}}}"#;
    let complaints = [
        "`app.json` requires the variables `API_KEY`, `REGION`, and nobody set them",
        "API_KEY: from the provider's console",
        "flyloft config set it-required/main API_KEY=VALUE REGION=VALUE",
    ];
    check("it-required", &[("app.json", app_json)], &[], &complaints);
}

#[test]
fn a_version_that_no_stack_has() {
    check("it-version", &[(".python-version", "3.9\n")], &[], &["3.9", "debian-1"]);
}

#[test]
fn a_dependency_that_does_not_exist() {
    let complaints = ["No matching distribution found for flyloft-no-such-package", "failed to install"];
    check("it-dependency", &[("requirements.txt", "flyloft-no-such-package==1.0\n")], &[], &complaints);
}

#[test]
fn a_web_process_that_exits_at_once_is_shown_with_its_last_lines() {
    let complaints = ["web.1 exited with code 7", "what it said before it died"];
    check("it-exits", &[("Procfile", "web: echo what it said before it died; exit 7\n")], &[], &complaints);
}

#[test]
fn a_web_process_that_never_listens() {
    check("it-silent", &[("Procfile", "web: sleep 1000\n")], &[], &["listens on nothing", "PORT"]);
}

#[test]
fn a_release_command_that_fails() {
    let procfile = "web: python3 server.py\nrelease: echo no database here; exit 3\n";
    check(
        "it-release",
        &[("Procfile", procfile)],
        &[],
        &["no database here", "the release command ended with status 3"],
    );
}

#[test]
fn a_release_command_that_forges_the_end_of_a_deploy() {
    let forged = r"printf '\033]0;owned\007\033[2J\r=====> Deployed\n'; exit 3";
    check(
        "it-forged",
        &[("Procfile", &format!("web: python3 server.py\nrelease: {forged}\n"))],
        &[],
        &["\nremote:        =====> Deployed", "the release command ended with status 3"],
    );
}

#[test]
fn symlinks_that_point_out_of_the_repository_read_nothing_of_the_host() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-symlink", &borrowed(&app("good")));
    repository.pushed(&["main"]);
    for name in ["Procfile", "requirements.txt"] {
        std::fs::remove_file(repository.dir.join(name)).unwrap();
        symlink("/etc/passwd", repository.dir.join(name)).unwrap();
        repository.commit(&[]);
        let output = repository.rejected(&["main"]);
        assert!(output.contains(name) && !output.contains("root:"), "{output}");
        repository.git(&["reset", "--quiet", "--hard", "HEAD^"]);
    }
    // One that nothing reads is an entry like any other, and points into the container.
    symlink("/etc/passwd", repository.dir.join("link")).unwrap();
    repository.commit(&[]);
    repository.pushed(&["main"]);
    flyloft.ok(&["destroy", "it-symlink", "--yes"]);
}

#[test]
fn an_app_on_another_port_or_on_one_family_alone_is_found() {
    let flyloft = Flyloft::start();
    let mut files = app("elsewhere");
    files[2].1 = files[2].1.replace(r#"int(os.environ["PORT"])"#, "8123");
    let repository = flyloft.repository("it-port", &borrowed(&files));
    let output = repository.pushed(&["main"]);
    assert!(output.contains("it listens on port 8123, not on PORT (5000)"), "{output}");
    assert_eq!(flyloft.get("it-port/main", "/").body, "elsewhere");

    let ipv6 = "import socket\nhttp.server.ThreadingHTTPServer.address_family = socket.AF_INET6\n";
    let only = "socket.socket.bind = (lambda bind: lambda self, address: \
        (self.setsockopt(41, 26, 1), bind(self, address))[1])(socket.socket.bind)\n";
    let server = format!("VERSION = 'six'\nimport http.server\n{ipv6}{only}{}", SERVER.replace("(\"\",", "(\"::\","));
    repository.commit(&[("server.py", &server)]);
    repository.pushed(&["main"]);
    assert_eq!(flyloft.get("it-port/main", "/").body, "six");
    flyloft.ok(&["destroy", "it-port", "--yes"]);
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let flyloft = Flyloft::start();
    let serve = |args: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_flyloft"));
        let socket = dir.path().join("socket");
        command
            .args(["serve", "--socket", socket.to_str().unwrap()])
            .args(args)
            .env("FLYLOFT_INIT", crate::harness::init());
        let output = command.output().unwrap();
        assert!(!output.status.success());
        text(&output)
    };
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let taken = format!("127.0.0.1:{}", flyloft.http);
    let output = serve(&["--state-dir", state, "--http", &taken, "--ssh", "127.0.0.1:0"]);
    assert!(output.contains(&taken) && output.contains("in use"), "{output}");
    let output = serve(&["--state-dir", "/proc/flyloft", "--http", "127.0.0.1:0", "--ssh", "127.0.0.1:0"]);
    assert!(output.contains("failed to use the state directory `/proc/flyloft`"), "{output}");
    let same = flyloft.state.to_str().unwrap();
    let output = serve(&["--state-dir", same, "--http", "127.0.0.1:0", "--ssh", "127.0.0.1:0"]);
    assert!(output.contains(&format!("another daemon uses the state directory `{same}`")), "{output}");
}
