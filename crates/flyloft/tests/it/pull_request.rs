//! A pull request of a repository elsewhere is staged on command.

use crate::githost::GitHost;
use crate::harness::{Flyloft, text};
use crate::push::{app, borrowed};

#[test]
fn a_pull_request_is_staged_by_its_number_and_the_commit_that_is_built_is_shown() {
    let flyloft = Flyloft::start();
    let host = GitHost::start();
    let repository = flyloft.repository("it-upstream", &borrowed(&app("main")));
    let app_json = r#"{"env": {"SESSION": {"generator": "secret"}, "MODE": "usual"},
        "environments": {"review": {"env": {"MODE": "review"}}}}"#;
    repository.commit(&[("app.json", app_json)]);
    host.publish("shop", &repository.dir, "refs/heads/main");
    let commit = repository.commit(&borrowed(&app("pull request")));
    // GitHub, Gitea and Forgejo have pull requests here, GitLab has merge requests there.
    host.publish("shop", &repository.dir, "refs/pull/42/head");
    host.publish("shop", &repository.dir, "refs/merge-requests/7/head");

    flyloft.ok(&["apps", "create", "it-pr", "--git", &host.url("shop")]);
    flyloft.ok(&["config", "set", "it-pr", "SECRET=of-the-app"]);
    flyloft.ok(&["config", "set", "it-pr", "SHARED=with-all", "--share-with-pull-requests"]);
    flyloft.ok(&["config", "set", "it-pr", "SECRET=of-requests", "--pull-requests"]);
    let session = |env: &str| flyloft.ok(&["config", "get", env, "SESSION"]);
    for number in ["42", "7"] {
        let output = flyloft.ok(&["up", "it-pr", "--pr", number]);
        assert!(output.contains(&commit), "{output}");
        let env = format!("it-pr/pr-{number}");
        assert_eq!(flyloft.get(&env, "/").body, "pull request");
        let variables = flyloft.get(&env, "/env").body;
        assert!(variables.contains(&format!("FLYLOFT_PULL_REQUEST={number}\n")), "{variables}");
        assert!(!variables.contains("of-the-app"), "{variables}");
        for set in
            ["SHARED=with-all", "SECRET=of-requests", "MODE=review", &format!("SESSION={}", session(&env).trim())]
        {
            assert!(variables.contains(&format!("{set}\n")), "{set}: {variables}");
        }
    }
    let made = session("it-pr/pr-42");
    assert!(made.trim().len() == 64 && made != session("it-pr/pr-7"), "{made}");
    flyloft.ok(&["up", "it-pr", "--pr", "42"]);
    assert_eq!(session("it-pr/pr-42"), made, "made once");

    flyloft.ok(&["up", "it-pr", "--branch", "main"]);
    assert_eq!(flyloft.get("it-pr/main", "/").body, "main");
    let variables = flyloft.get("it-pr/main", "/env").body;
    assert!(variables.contains("SECRET=of-the-app\n") && variables.contains("MODE=usual\n"), "{variables}");
    flyloft.ok(&["destroy", "it-pr", "--yes"]);
}

#[test]
fn what_cannot_be_fetched_is_named_and_nothing_is_staged() {
    let flyloft = Flyloft::start();
    let host = GitHost::start();
    let repository = flyloft.repository("it-upstream", &borrowed(&app("main")));
    host.publish("there", &repository.dir, "refs/heads/main");
    flyloft.ok(&["apps", "create", "it-missing", "--git", &host.url("there")]);

    let output = flyloft.cli(&["up", "it-missing", "--pr", "404"]);
    assert!(!output.status.success());
    assert!(text(&output).contains("404"), "{}", text(&output));
    flyloft.ok(&["apps", "create", "it-missing", "--git", &host.url("not-there")]);
    let output = flyloft.cli(&["up", "it-missing", "--branch", "main"]);
    assert!(!output.status.success());
    assert!(text(&output).contains("not-there"), "{}", text(&output));
    for url in ["file:///etc", "/etc", "ext::sh -c id", "git://example.org/x"] {
        let output = flyloft.cli(&["apps", "create", "it-missing", "--git", url]);
        assert!(!output.status.success(), "{url} was taken");
    }
    assert!(!flyloft.ok(&["ls"]).contains("it-missing/"));
    flyloft.ok(&["destroy", "it-missing", "--yes"]);
}

#[test]
fn a_directory_is_staged_without_what_git_ignores() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-local", &borrowed(&app("from a directory")));
    std::fs::write(repository.dir.join(".gitignore"), "secret.txt\n").unwrap();
    std::fs::write(repository.dir.join("secret.txt"), "not for others").unwrap();
    flyloft.ok(&["up", "it-local", "--path", repository.dir.to_str().unwrap()]);
    assert_eq!(flyloft.get("it-local/local", "/").body, "from a directory");
    let listing = flyloft.ok(&["run", "it-local/local", "--", "ls", "/app"]);
    assert!(listing.contains("server.py") && !listing.contains("secret.txt"), "{listing}");
    flyloft.ok(&["destroy", "it-local", "--yes"]);
}
