//! Environments that are not on the disk any more, with real git and an engine in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use flyloft_core::disk::{Space, Unit};
use flyloft_core::lifecycle::{Depth, Event};
use flyloft_core::name::{CommitId, ReleaseNumber};

use crate::conductor::{Conductor, Told};
use crate::deploy::{Again, Source};
use crate::edge::Target;
use crate::engine::{ContainerState, Engine, Image};
use crate::loft::stage::{Stage, content};
use crate::store::{BuildInputs, Content, Scope};

/// What it builds depends on the app's variables.
const FILES: [(&str, &str); 1] = [("package.json", r#"{"scripts": {"build": "true", "start": "serve"}}"#)];

/// What visitors read.
const UNBUILT: &str =
    "It is not kept on this server at the moment, and could not be built anew. Visits try again in 1 min.";

impl Stage {
    /// An environment that is off, and neither whose disk nor whose layers are kept.
    async fn cleared() -> (Self, Conductor, CommitId) {
        let stage = Self::new().await;
        let (_, conductor) = stage.env().await;
        let commit = stage.commit("main", &FILES).await;
        stage.build(&conductor, &commit).await.unwrap();
        conductor.tell(Event::Off).await.unwrap();
        assert_eq!(conductor.tell(Event::Clear).await.unwrap(), Told::Done);
        conductor.at_rest().await.unwrap();
        assert_eq!(stage.containers().await, []);
        for layer in stage.engine.layers().await.unwrap() {
            stage.engine.forget(&layer).await.unwrap();
        }
        (stage, conductor, commit)
    }

    async fn content(&self) -> Content {
        let (env, _) = self.env().await;
        self.store().live_release(&env).await.unwrap().unwrap().content.unwrap()
    }

    async fn has(&self, image: &Image) -> bool {
        let there = self.engine.layers().await.unwrap();
        image.iter().all(|layer| there.contains(layer))
    }

    async fn events(&self, kind: &str) -> Vec<String> {
        let (env, _) = self.env().await;
        let events = self.store().events(Some(&env.name.app), Some(&env.name.env), 0, 100).await.unwrap();
        let events = events.into_iter().filter(|event| event.kind == kind);
        events.map(|event| format!("{} by {}", event.text, event.by)).collect()
    }

    async fn failure(&self) -> Option<String> {
        let (env, _) = self.env().await;
        match self.door.target(&env.host) {
            Some(Target::Held { failure }) => failure,
            _ => None,
        }
    }
}

#[tokio::test]
async fn a_visit_builds_anew_what_is_not_kept_and_it_is_what_it_was() {
    let (stage, conductor, commit) = Stage::cleared().await;
    let before = stage.content().await;
    assert!(!stage.has(&before.image).await);
    // What is set since then is for the next release.
    let changes = BTreeMap::from([("LEVEL".to_owned(), Some("2".to_owned()))]);
    let (env, _) = stage.env().await;
    stage.store().set_variables(&env.name.app, Scope::App, changes).await.unwrap();

    conductor.visit("GET / from 203.0.113.7".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    assert_eq!(stage.content().await, before);
    assert!(stage.has(&before.image).await);
    assert!(matches!(stage.containers().await[..], [(_, ContainerState::Running)]));
    let events = stage.events("rebuilt").await;
    assert_eq!(events.len(), 1);
    assert!(events[0].starts_with("v1 was built anew in "), "{events:?}");
    assert!(events[0].ends_with(": the same layers as before by GET / from 203.0.113.7"), "{events:?}");
    let explained = format!("It is being built anew from commit {}, since it was not kept.", commit.short());
    assert_eq!(stage.door.explained.lock().unwrap()[0], explained);
    assert!(stage.told(1).await.starts_with("-----> Building v1 anew\n"));
}

#[tokio::test]
async fn what_is_built_anew_keeps_no_memory_from_others_until_it_is_built() {
    let (stage, conductor, _) = Stage::cleared().await;
    let mut others = Vec::new();
    for branch in ["busy", "next"] {
        let (_, other) = stage.branch(branch).await;
        stage.launch_in(&other, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
        others.push(other);
    }
    let [busy, next] = &others[..] else { unreachable!("there are two") };
    let _in_use = busy.begin_use("`flyloft run` by ada");
    next.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    next.at_rest().await.unwrap();
    // Enough for one of the two that are to wake.
    stage.machine.lock().unwrap().available = 40 << 20;
    stage.engine.stall(true);
    conductor.visit("GET /".to_owned()).await;
    stage.wait_until("it is being built", async || !stage.door.explained.lock().unwrap().is_empty()).await;
    assert_eq!(next.wake("alice").await.unwrap(), Told::Done);
    assert_eq!(next.settled().await.to_string(), "awake v1");
    stage.machine.lock().unwrap().available = 1 << 40;
    stage.engine.stall(false);
    stage.wait_for_state("awake v1").await;
}

#[tokio::test]
async fn what_this_server_builds_otherwise_by_now_is_built_so_and_its_people_are_told() {
    let (stage, conductor, _) = Stage::cleared().await;
    let before = stage.content().await;
    let other = BTreeMap::from([("LEVEL".to_owned(), "2".to_owned())]);
    let inputs = BuildInputs { variables: other, ..before.inputs.clone().unwrap() };
    let (env, _) = stage.env().await;
    let content = Content { inputs: Some(inputs), ..before.clone() };
    stage.store().set_content(env.id, ReleaseNumber(1), &content).await.unwrap();
    assert_eq!(conductor.wake("alice").await.unwrap(), Told::Done);
    assert_eq!(conductor.settled().await.to_string(), "awake v1");
    let after = stage.content().await;
    assert!(after.image != before.image && stage.has(&after.image).await);
    let events = stage.events("rebuilt").await;
    assert!(events[0].contains("other layers than before"), "{events:?}");
}

#[tokio::test]
async fn a_build_that_fails_is_told_and_not_tried_again_for_each_who_comes() {
    let (stage, conductor, _) = Stage::cleared().await;
    stage.engine.fail("derive", 1);
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("off v1 (could not be built anew)").await;
    stage.wait_until("who waits is told", async || stage.failure().await.is_some()).await;
    let failure = stage.failure().await.unwrap();
    // Why is told to its people alone.
    assert_eq!(failure, UNBUILT);
    let failed = stage.events("rebuild-failed").await;
    let why = "v1: the build failed: failed to make the layer";
    assert!(failed.len() == 1 && failed[0].starts_with(why), "{failed:?}");

    let derived = stage.calls("derive");
    for _ in 0..3 {
        conductor.visit("GET /".to_owned()).await;
        assert_eq!(conductor.transcript().await.unwrap().map(drop), Some(()));
        assert_eq!(stage.failure().await.as_ref(), Some(&failure), "whoever waits is told at once");
    }
    assert_eq!((stage.calls("derive"), stage.state().await), (derived, "off v1 (could not be built anew)".to_owned()));
    // Somebody who asks need not wait, and after a while visitors need not either.
    stage.engine.fail("derive", 1);
    conductor.wake("alice").await.unwrap();
    assert_eq!(conductor.settled().await.to_string(), "off v1 (could not be built anew)");
    stage.loft.parts.clock.advance(Duration::from_secs(61));
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
}

#[tokio::test]
async fn what_has_lost_its_commit_says_so() {
    let (stage, conductor, commit) = Stage::cleared().await;
    let (env, _) = stage.env().await;
    std::fs::remove_dir_all(stage.repository(&env.name.app)).unwrap();
    stage.loft.parts.repositories.ensure(&env.name.app).await.unwrap();
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("off v1 (could not be built anew)").await;
    stage.wait_until("who waits is told", async || stage.failure().await.is_some()).await;
    let failed = stage.events("rebuild-failed").await;
    assert!(failed[0].contains(&format!("commit `{commit}` is not in the repository")), "{failed:?}");
}

#[tokio::test]
async fn strangers_read_nothing_about_a_full_disk_and_its_people_all_of_it() {
    let (stage, conductor, _) = Stage::cleared().await;
    stage.engine.fill(Space { unit: Unit::Bytes, free: 1 << 30, taken: 40 << 30 }, false);
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("off v1 (could not be built anew)").await;
    stage.wait_until("who waits is told", async || stage.failure().await.is_some()).await;
    assert_eq!(stage.failure().await.unwrap(), UNBUILT);
    let failed = stage.events("rebuild-failed").await;
    let [failed] = &failed[..] else { panic!("{failed:?}") };
    let full = "v1: the disk is full: 1.0 GiB are free, and 2.0 GiB are kept free; nothing is built: something else fills it: \
                Flyloft has ";
    assert!(failed.starts_with(full), "{failed}");
    assert!(failed.ends_with(" of the 40.0 GiB that are taken, and could free 0 B at most by GET /"), "{failed}");
}

#[tokio::test]
async fn a_deploy_meanwhile_breaks_the_build_off() {
    let (stage, conductor, _) = Stage::cleared().await;
    let derived = stage.calls("derive");
    stage.engine.stall(true);
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("waking v1").await;
    stage.wait_until("the build", async || !stage.door.explained.lock().unwrap().is_empty()).await;
    stage.launch(Again::Rollback).await.unwrap();
    stage.wait_for_state("awake v2").await;
    conductor.at_rest().await.unwrap();
    stage.engine.stall(false);
    assert_eq!((stage.calls("derive"), stage.events("rebuilt").await), (derived, vec![]));
    assert_eq!(stage.containers().await.len(), 1);
}

#[tokio::test]
async fn a_restart_of_what_is_not_kept_builds_it_anew() {
    let (stage, conductor, commit) = Stage::cleared().await;
    let content = stage.content().await;
    let again = Source::Again { commit: Some(commit), content: Some(Box::new(content.clone())), again: Again::Restart };
    stage.work(&conductor, again).await.unwrap();
    assert_eq!(stage.state().await, "awake v2");
    assert_eq!(stage.content().await.image, content.image);
    assert!(stage.has(&content.image).await);
}
