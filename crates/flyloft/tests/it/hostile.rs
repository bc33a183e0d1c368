//! What a stranger may send, and what must not come of it.

use std::process::Command;

use crate::harness::{Flyloft, run, text};
use crate::push::{app, borrowed};

#[test]
fn a_newline_in_a_variable_is_a_newline_in_a_variable() {
    let flyloft = Flyloft::start();
    let mark = std::env::temp_dir().join(format!("flyloft-it-hook-{}", std::process::id()));
    let value = format!("x\nlxc.hook.pre-start = /usr/bin/touch {}\nlxc.environment = Y=1", mark.display());
    let app_json = serde_json::json!({"env": {"INJECTED": value}}).to_string();
    let mut files = app("hello");
    files.push(("app.json", app_json));
    let repository = flyloft.repository("it-newline", &borrowed(&files));
    repository.pushed(&["main"]);
    assert!(flyloft.get("it-newline/main", "/env").body.contains(&format!("INJECTED={value}")));
    assert!(!mark.exists(), "the variable ran a program on the host");
    flyloft.ok(&["destroy", "it-newline", "--yes"]);
}

#[test]
fn a_key_of_one_app_neither_pushes_to_another_nor_commands_it() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-victim", &borrowed(&app("hello")));
    repository.pushed(&["main"]);
    flyloft.demote("it-other");
    let output = repository.rejected(&["main:again"]);
    assert!(output.contains("may not use app `it-victim`"), "{output}");
    for command in [
        "logs it-victim/main",
        "run it-victim/main -- id",
        "config ls it-victim",
        "destroy it-victim --yes",
        "keys ls",
        "events",
    ] {
        let output = flyloft.ssh(command);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", text(&output));
        assert!(text(&output).contains("error: "), "{command}: {}", text(&output));
    }
    assert!(!text(&flyloft.ssh("ls")).contains("it-victim"));
    assert_eq!(flyloft.get("it-victim/main", "/").status, 200);
    flyloft.ok(&["destroy", "it-victim", "--yes"]);
}

#[test]
fn nothing_makes_the_daemon_read_a_file_for_somebody_far_away() {
    let flyloft = Flyloft::start();
    for command in [
        "up it-reach --path /root",
        "keys add thief /etc/ssh/ssh_host_ed25519_key --admin",
        "apps create it-reach --git https://git.example.org/x --token-from /etc/shadow",
        "apps create it-reach --git git@git.example.org:x --deploy-key-from /etc/shadow",
    ] {
        let output = flyloft.ssh(command);
        assert_eq!(output.status.code(), Some(2), "{command}: {}", text(&output));
        assert!(text(&output).contains("would be a file of the server"), "{command}: {}", text(&output));
    }
}

#[test]
fn malformed_commands_are_refused_and_reach_no_shell() {
    let flyloft = Flyloft::start();
    let mark = std::env::temp_dir().join(format!("flyloft-it-shell-{}", std::process::id()));
    for command in [
        format!("ls; touch {}", mark.display()),
        format!("ls $(touch {})", mark.display()),
        format!("ls `touch {}`", mark.display()),
        "ls 'unfinished".to_owned(),
        "git-receive-pack '../../etc'".to_owned(),
        "git-upload-pack".to_owned(),
        "git-shell".to_owned(),
        "scp -f /etc/passwd".to_owned(),
    ] {
        let output = flyloft.ssh(&command);
        assert!(!output.status.success(), "{command} was taken: {}", text(&output));
    }
    assert!(!mark.exists(), "a shell saw the command");
}

#[test]
fn branches_with_strange_names_are_staged_under_a_name_of_their_own_or_refused() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-names", &borrowed(&app("hello")));
    let mark = std::env::temp_dir().join(format!("flyloft-it-branch-{}", std::process::id()));
    let metacharacters = format!("main:refs/heads/x;touch${{IFS}}{};$(id)", mark.display());
    for branch in ["main:refs/heads/a/👩‍🚀/b", &metacharacters, &format!("main:refs/heads/{}", "long".repeat(40))]
    {
        let output = repository.pushed(&[branch]);
        assert!(output.contains("=====> Deployed"), "{output}");
    }
    for (branch, complaint) in [
        ("main:refs/heads/pr-42", "kept for pull requests"),
        ("main:refs/tags/v1", "tag"),
        ("main:refs/notes/x", "refs/notes/x"),
    ] {
        let output = repository.rejected(&[branch]);
        assert!(output.contains(complaint), "{output}");
    }
    repository.pushed(&["main:feature/x"]);
    let output = repository.rejected(&["main:feature-x"]);
    assert!(output.contains("stages branch `feature/x` already"), "{output}");
    assert!(!mark.exists(), "a shell saw the branch's name");
    flyloft.ok(&["destroy", "it-names", "--yes"]);
}

#[test]
fn a_container_reaches_neither_its_neighbours_nor_the_host_nor_private_addresses() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-net", &borrowed(&app("hello")));
    repository.pushed(&["main", "main:other"]);
    let shown: serde_json::Value = serde_json::from_str(&flyloft.ok(&["show", "it-net/other", "--json"])).unwrap();
    let neighbour = shown["upstream"].as_str().unwrap().rsplit_once(':').unwrap().0.to_owned();
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = run(Command::new("hostname").arg("--all-ip-addresses"));
    let mut targets = vec![(neighbour, 5000), ("169.254.169.254".to_owned(), 80), ("169.254.1.1".to_owned(), port)];
    targets.extend(host.split_whitespace().map(|address| (address.to_owned(), port)));
    targets.push(("10.0.0.1".to_owned(), 80));
    for (address, port) in targets {
        let code = format!(
            "import socket\ntry:\n  socket.create_connection(({address:?}, {port}), 2)\n  print('open')\nexcept OSError as e:\n  print('closed', e)"
        );
        let output = flyloft.ok(&["run", "it-net/main", "--", "python3", "-c", &code]);
        assert!(output.starts_with("closed"), "{address} port {port}: {output}");
    }
    // The way that is meant to be open: its own URL, by the edge.
    assert_eq!(flyloft.get("it-net/other", "/").status, 200);
    flyloft.ok(&["destroy", "it-net", "--yes"]);
}

#[test]
fn a_command_in_a_container_does_not_see_the_daemons_environment() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-environ", &borrowed(&app("hello")));
    repository.pushed(&["main"]);
    let output = flyloft.ok(&["run", "it-environ/main", "--", "env"]);
    for name in ["FLYLOFT_LOG", "FLYLOFT_SOCKET", "FLYLOFT_INIT", "CARGO"] {
        assert!(!output.contains(name), "{output}");
    }
    let environ = flyloft.ok(&["run", "it-environ/main", "--", "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ || true"]);
    assert!(!environ.contains("FLYLOFT_LOG"), "{environ}");
    flyloft.ok(&["destroy", "it-environ", "--yes"]);
}
