//! What was staged from a repository elsewhere follows its branch or pull request.

use crate::githost::GitHost;
use crate::harness::{Flyloft, wait_for};
use crate::push::{app, borrowed};

/// A daemon that does not have a test wait.
fn impatient() -> Flyloft {
    let mut flyloft = Flyloft::start();
    flyloft.config = "[follow]\nevery = '1s'\ngone = '2s'\n".to_owned();
    flyloft.kill();
    flyloft.serve();
    flyloft
}

fn serves(flyloft: &Flyloft, env: &str, version: &str) {
    wait_for(&format!("{env} to serve {version}"), || (flyloft.get(env, "/").body == version).then_some(()));
}

#[test]
fn a_branch_elsewhere_is_followed_until_it_is_deleted_whatever_becomes_of_the_daemon() {
    let mut flyloft = impatient();
    let host = GitHost::start();
    let env = "it-follow/feature-x";
    let publish = |flyloft: &Flyloft, version: &str| {
        let repository = flyloft.repository("it-upstream", &[]);
        let commit = repository.commit(&borrowed(&app(version)));
        host.publish("shop", &repository.dir, "refs/heads/feature/x");
        commit
    };
    publish(&flyloft, "one");
    let repository = flyloft.repository("it-upstream", &[]);
    host.publish("shop", &repository.dir, "refs/heads/main");
    flyloft.ok(&["apps", "create", "it-follow", "--git", &host.url("shop")]);
    flyloft.ok(&["up", "it-follow", "--branch", "feature/x"]);
    let commit = publish(&flyloft, "two");
    serves(&flyloft, env, "two");
    let shown: serde_json::Value = serde_json::from_str(&flyloft.ok(&["show", env, "--json"])).unwrap();
    assert_eq!(shown["release"]["commit"], commit, "{shown}");
    assert_eq!((&shown["release"]["reason"], &shown["release"]["by"]), (&"follow".into(), &"follow".into()));
    assert_eq!(shown["source"]["url"], host.url("shop"));
    assert!(shown["source"]["looked_at"].is_string(), "{shown}");

    flyloft.kill();
    flyloft.fault("launch.created");
    flyloft.serve();
    publish(&flyloft, "three");
    flyloft.died();
    flyloft.serve();
    serves(&flyloft, env, "three");

    host.unpublish("shop", "refs/heads/feature/x");
    wait_for("the environment to be gone", || (!flyloft.ok(&["ls"]).contains(env)).then_some(()));
    let events = flyloft.ok(&["events", "it-follow"]);
    assert!(events.contains(&format!("branch `feature/x` is gone from `{}`", host.url("shop"))), "{events}");
    flyloft.ok(&["destroy", "it-follow", "--yes"]);
}

#[test]
fn of_a_pull_request_what_a_branch_has_is_staged_and_a_strangers_commit_is_not() {
    let flyloft = impatient();
    let host = GitHost::start();
    let repository = flyloft.repository("it-upstream", &borrowed(&app("one")));
    let publish = |references: &[&str], version: &str| {
        let commit = repository.commit(&borrowed(&app(version)));
        for reference in references {
            host.publish("shop", &repository.dir, reference);
        }
        commit
    };
    publish(&["refs/heads/own", "refs/pull/1/head"], "own one");
    publish(&["refs/pull/2/head"], "strange one");
    flyloft.ok(&["apps", "create", "it-follow", "--git", &host.url("shop")]);
    for number in ["1", "2"] {
        flyloft.ok(&["up", "it-follow", "--pr", number]);
    }
    let strange = publish(&["refs/pull/2/head"], "strange two");
    publish(&["refs/heads/own", "refs/pull/1/head"], "own two");
    serves(&flyloft, "it-follow/pr-1", "own two");
    let events = wait_for("somebody to be asked", || {
        Some(flyloft.ok(&["events", "it-follow/pr-2"])).filter(|events| events.contains(&strange[..10]))
    });
    assert!(events.contains("flyloft up it-follow --pr 2"), "{events}");
    assert_eq!(flyloft.get("it-follow/pr-2", "/").body, "strange one");
    assert!(flyloft.ok(&["up", "it-follow", "--pr", "2"]).contains(&strange));
    assert_eq!(flyloft.get("it-follow/pr-2", "/").body, "strange two");
    flyloft.ok(&["destroy", "it-follow", "--yes"]);
}

#[test]
fn what_is_pushed_follows_pushes_and_nothing_else() {
    let flyloft = impatient();
    let host = GitHost::start();
    let repository = flyloft.repository("it-follow", &borrowed(&app("one")));
    host.publish("shop", &repository.dir, "refs/heads/main");
    host.publish("shop", &repository.dir, "refs/heads/other");
    flyloft.ok(&["apps", "create", "it-follow", "--git", &host.url("shop")]);
    flyloft.ok(&["up", "it-follow", "--branch", "main"]);
    flyloft.ok(&["up", "it-follow", "--branch", "other"]);
    repository.commit(&borrowed(&app("pushed")));
    repository.pushed(&["main"]);
    assert_eq!(flyloft.get("it-follow/main", "/").body, "pushed");
    let source = |env: &str| {
        let shown = flyloft.ok(&["show", env, "--json"]);
        serde_json::from_str::<serde_json::Value>(&shown).unwrap()["source"]["url"].clone()
    };
    assert_eq!((source("it-follow/main"), source("it-follow/other")), (().into(), host.url("shop").into()));
    // Two looks later, as the other environment shows.
    for version in ["two", "three"] {
        repository.commit(&borrowed(&app(version)));
        host.publish("shop", &repository.dir, "refs/heads/main");
        host.publish("shop", &repository.dir, "refs/heads/other");
        serves(&flyloft, "it-follow/other", version);
        assert_eq!(flyloft.get("it-follow/main", "/").body, "pushed");
    }
    flyloft.ok(&["up", "it-follow", "--branch", "main"]);
    repository.commit(&borrowed(&app("four")));
    host.publish("shop", &repository.dir, "refs/heads/main");
    serves(&flyloft, "it-follow/main", "four");
    flyloft.ok(&["destroy", "it-follow", "--yes"]);
}
