use std::collections::BTreeMap;
use std::time::Duration;

use flyloft_core::disk::{Space, Spared, Unit};
use flyloft_core::lifecycle::{Depth, Event};
use flyloft_core::name::CommitId;
use flyloft_core::policy::Limits;

use super::*;
use crate::conductor::Conductor;
use crate::config::Disk;
use crate::deploy::{Again, Source};
use crate::engine::{CacheId, ContainerState, Derivation, Engine, Image, LayerId, Reach, Recipe, Run, Usage};
use crate::loft::stage::{Stage, content};
use crate::machine::storage;
use crate::store::Content;
use crate::transcript::Transcript;

const MIB: u64 = 1 << 20;

/// Nothing that is not needed.
const LEAST: Disk = Disk { floor: 0, layers: 0, caches: 0, logs: 0, releases: 0 };

/// Makes a layer by a step that has these caches.
async fn derive(stage: &Stage, name: &str, on: &Image, caches: &[&str]) -> LayerId {
    let id = LayerId(name.to_owned());
    let run = Run {
        commands: vec![vec!["true".to_owned()]],
        dir: "/app".to_owned(),
        env: BTreeMap::new(),
        files: Vec::new(),
        caches: caches.iter().map(|id| (CacheId((*id).to_owned()), "/cache".to_owned())).collect(),
        scratch: Vec::new(),
        limits: Limits::default(),
        timeout: Duration::from_secs(1),
        reach: Reach::default(),
    };
    let recipe = Recipe::Run(Box::new(run));
    let derivation = Derivation { id: id.clone(), title: name.to_owned(), on: on.clone(), recipe };
    stage.engine.derive(derivation, &Transcript::discard()).await.unwrap();
    id
}

async fn layers(stage: &Stage) -> Vec<String> {
    stage.engine.layers().await.unwrap().into_iter().map(|layer| layer.0).collect()
}

#[tokio::test]
async fn old_releases_go_with_what_they_said_and_their_layers_and_what_is_off_stays_whole() {
    let stage = Stage::keeping(Disk { releases: 1, ..LEAST }).await;
    let parts = &stage.loft.parts;
    for number in 1..=4 {
        let layer = derive(&stage, &format!("app-{number}"), &Image::new(), &[]).await;
        stage.launch_image(Again::Rollback, vec![layer]).await.unwrap();
    }
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Off).await.unwrap();
    stage
        .wait_until("only what is off is left", async || {
            matches!(stage.containers().await[..], [(_, ContainerState::Stopped)])
        })
        .await;
    collect(parts).await;

    let releases = parts.store.releases(env.id).await.unwrap();
    assert_eq!(releases.iter().map(|release| release.number.0).collect::<Vec<_>>(), [4, 3]);
    assert_eq!(layers(&stage).await, ["app-3", "app-4"]);
    let mut said: Vec<_> = transcripts(parts).unwrap().into_iter().flat_map(|said| said.files).collect();
    said.sort();
    assert_eq!(said, [3, 4].map(|number| parts.settings.transcript(env.id, flyloft_core::name::ReleaseNumber(number))));
    conductor.tell(Event::Wake).await.unwrap();
    stage.wait_for_state("awake v4").await;
}

#[tokio::test]
async fn what_deploys_of_a_destroyed_environment_said_goes_and_what_is_not_ours_stays() {
    let stage = Stage::keeping(LEAST).await;
    let parts = &stage.loft.parts;
    stage.deploy().await.unwrap();
    let dir = &parts.settings.transcripts;
    for name in ["77", "lost+found"] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("v1.log"), "said").unwrap();
    }
    collect(parts).await;
    let (env, _) = stage.env().await;
    let mut left: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [env.id.0.to_string().as_str(), "lost+found"]);
}

#[tokio::test]
async fn a_rollback_to_what_is_not_kept_any_more_is_refused_before_anything_is_made() {
    let stage = Stage::keeping(LEAST).await;
    let old = derive(&stage, "old", &Image::new(), &[]).await;
    let new = derive(&stage, "new", &Image::new(), &[]).await;
    stage.launch_image(Again::Rollback, vec![new]).await.unwrap();
    let before = (stage.containers().await, stage.calls("create"));
    collect(&stage.loft.parts).await;
    assert_eq!(layers(&stage).await, ["new"]);

    let error = stage.launch_image(Again::Rollback, vec![old]).await.unwrap_err();
    assert_eq!(error.what, "what `shop/main` was to be launched from is not kept any more");
    assert_eq!((stage.containers().await, stage.calls("create")), before);
    assert_eq!(stage.state().await, "awake v1");
}

#[tokio::test]
async fn package_caches_go_when_they_are_too_large_and_the_one_that_was_used_last_stays() {
    // Each takes 4096 bytes.
    let stage = Stage::keeping(Disk { caches: 5000, ..LEAST }).await;
    for (layer, cache) in [("a", "shop-pip"), ("b", "blog-pip"), ("c", "shop-pip")] {
        derive(&stage, layer, &Image::new(), &[cache]).await;
    }
    collect(&stage.loft.parts).await;
    let left = stage.engine.caches().await.unwrap();
    assert_eq!(left.into_iter().map(|cache| cache.id.0).collect::<Vec<_>>(), ["shop-pip"]);
}

/// All that there is room for.
const FULL: Disk = Disk { floor: 1 << 30, layers: u64::MAX, caches: u64::MAX, logs: 0, releases: 9 };

impl Stage {
    /// Leaves so much less free than the floor, on a disk where something else has a gibibyte.
    fn fill(&self, below: u64, is_lost: bool) {
        self.engine.fill(
            Space { unit: Unit::Bytes, free: self.loft.parts.settings.disk.floor - below, taken: 1 << 30 },
            is_lost,
        );
    }

    /// What is ours beside the engine's.
    fn beside(&self) -> Usage {
        storage::beside(&self.loft.parts.settings.state_dir)
    }
}

/// A branch that was deployed from the commit, with this image.
async fn deployed(stage: &Stage, branch: &str, commit: &CommitId, image: Image) -> Conductor {
    let (_, conductor) = stage.branch(branch).await;
    let content = Some(Box::new(Content { image, ..content(&[("web", "serve")]) }));
    let source = Source::Again { commit: Some(commit.clone()), content, again: Again::Rollback };
    stage.work(&conductor, source).await.unwrap();
    stage.loft.parts.clock.advance(Duration::from_secs(60));
    conductor
}

#[tokio::test]
async fn a_full_disk_takes_what_costs_least_first_and_of_what_is_off_the_longest_and_its_people_are_told() {
    let stage = Stage::keeping(FULL).await;
    let (app, commit) = ("shop".parse().unwrap(), stage.commit("main", &[]).await);
    let mut images = Vec::new();
    for name in ["old", "main", "next", "pinned", "asleep", "lost"] {
        images.push(vec![derive(&stage, name, &Image::new(), &[]).await]);
    }
    derive(&stage, "spare", &Image::new(), &["shop-python"]).await;
    let [old, main, next, pinned, asleep, lost] = images.try_into().unwrap();
    deployed(&stage, "main", &commit, old).await;
    let next = deployed(&stage, "next", &commit, next).await;
    let main = deployed(&stage, "main", &commit, main).await;
    let pinned = deployed(&stage, "pinned", &commit, pinned).await;
    let asleep = deployed(&stage, "asleep", &commit, asleep).await;
    let lost = deployed(&stage, "lost", &CommitId::parse(&"f".repeat(40)).unwrap(), lost).await;
    for conductor in [&lost, &pinned, &main, &next] {
        conductor.tell(Event::Off).await.unwrap();
        conductor.at_rest().await.unwrap();
        stage.loft.parts.clock.advance(Duration::from_secs(600));
    }
    pinned.tell(Event::Pin).await.unwrap();
    asleep.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    asleep.at_rest().await.unwrap();
    stage.wait_until("what was replaced is gone", async || stage.containers().await.len() == 5).await;
    stage.fill(8 * MIB, false);
    let before = stage.engine.calls().len();
    collect(&stage.loft.parts).await;

    let calls = stage.engine.calls().split_off(before);
    let removed: Vec<&str> = calls.iter().map(String::as_str).filter(|call| !call.starts_with("stop")).collect();
    assert_eq!(
        removed,
        [
            "forget cache shop-python",
            "forget spare",
            "forget old",
            "remove shop-main-1-2",
            "forget main",
            "remove shop-next-2-1",
            "forget next",
        ]
    );
    let states = [&main, &next, &pinned, &asleep, &lost].map(|conductor| conductor.state().to_string());
    let expected =
        ["off v2 (to be built anew)", "off v1 (to be built anew)", "off v1, pinned", "deep asleep v1", "off v1"];
    assert_eq!(states, expected);
    let events = stage.store().events(Some(&app), None, 0, 100).await.unwrap();
    let dropped = ["cache-dropped", "release-dropped", "cleared"];
    let events = events.iter().filter(|event| dropped.contains(&event.kind.as_str()));
    let told: Vec<_> = events.map(|event| (event.env.as_ref().map(|env| env.as_str()), event.text.as_str())).collect();
    let [(None, cache), (Some("main"), release), (Some("main"), cleared), (Some("next"), _)] = told[..] else {
        panic!("{told:?}")
    };
    assert!(cache.starts_with("package cache `shop-python` (4.0 KiB) was removed: the disk had "), "{cache}");
    assert!(release.starts_with("v1 cannot be rolled back to any more: the disk had "), "{release}");
    let own = Unit::Bytes.about(14 * MIB + 4096 + stage.beside().bytes);
    assert_eq!(
        cleared,
        format!(
            "its image and its disk are given up, it was off for 20m: the disk had 1016.0 MiB free, and 1.0 GiB are kept \
             free; something else fills it: Flyloft has {own} of the 1.0 GiB that are taken; a visit builds it anew"
        )
    );
    let dropped = stage.loft.parts.tally.all_dropped();
    assert_eq!(
        dropped.into_iter().collect::<Vec<_>>(),
        [("cache", 1), ("environment", 2), ("layer", 4), ("release", 1)]
    );

    // Nothing is left that could go, and what sleeps wakes.
    stage.fill(FULL.floor, false);
    let before = stage.engine.calls().len();
    collect(&stage.loft.parts).await;
    assert_eq!(stage.engine.calls().split_off(before), [""; 0]);
    asleep.wake("alice").await.unwrap();
    assert_eq!(asleep.settled().await.to_string(), "awake v1");
}

/// Two branches that are off, the first for longer.
async fn two_that_are_off(disk: Disk) -> (Stage, [Conductor; 2], CommitId) {
    let stage = Stage::keeping(disk).await;
    let commit = stage.commit("main", &[("Procfile", "web: serve")]).await;
    let mut off = Vec::new();
    for name in ["main", "next"] {
        let layer = derive(&stage, name, &Image::new(), &[]).await;
        let conductor = deployed(&stage, name, &commit, vec![layer]).await;
        conductor.tell(Event::Off).await.unwrap();
        conductor.at_rest().await.unwrap();
        off.push(conductor);
    }
    (stage, off.try_into().ok().unwrap(), commit)
}

#[tokio::test]
async fn what_is_off_stays_where_all_that_could_go_would_not_be_enough_and_that_is_said() {
    let (stage, off, commit) = two_that_are_off(FULL).await;
    derive(&stage, "spare", &Image::new(), &[]).await;
    stage.fill(7 * MIB, false);
    let (_, conductor) = stage.branch("other").await;
    let error = stage.build(&conductor, &commit).await.unwrap_err();
    assert_eq!(error.what, "the disk is full: 1019.0 MiB are free, and 1.0 GiB are kept free; nothing is built");
    let own = Unit::Bytes.about(4 * MIB + stage.beside().bytes);
    let cause = format!(
        "something else fills it: Flyloft has {own} of the 1022.0 MiB that are taken, and could free 4.0 MiB at most; what \
         is off is kept, since to give it up would be in vain"
    );
    assert_eq!(error.causes, [cause]);
    assert_eq!(layers(&stage).await, ["main", "next"], "what nobody needs has gone");
    assert_eq!(off.each_ref().map(|conductor| conductor.state().to_string()), ["off v1", "off v1"]);

    stage.fill(4 * MIB, false);
    collect(&stage.loft.parts).await;
    assert_eq!(off.map(|conductor| conductor.state().to_string()), ["off v1 (to be built anew)"; 2], "that is enough");
}

#[tokio::test]
async fn one_that_cannot_be_given_up_does_not_keep_the_others() {
    let stage = Stage::keeping(Disk { floor: 4 * MIB, ..FULL }).await;
    let commit = stage.commit("main", &[]).await;
    let nowhere = CommitId::parse(&"f".repeat(40)).unwrap();
    let mut off = Vec::new();
    for (name, commit) in [("lost", &nowhere), ("main", &commit)] {
        let image = vec![derive(&stage, name, &Image::new(), &[]).await];
        let conductor = deployed(&stage, name, commit, image).await;
        conductor.tell(Event::Off).await.unwrap();
        conductor.at_rest().await.unwrap();
        off.push(conductor);
    }
    // With the quarter more, two are missing: what either has.
    stage.fill(MIB, false);
    let states = || off.iter().map(|conductor| conductor.state().to_string()).collect::<Vec<_>>();
    collect(&stage.loft.parts).await;
    assert_eq!(states(), ["off v1", "off v1 (to be built anew)"]);
    assert_eq!(layers(&stage).await, ["lost"]);
    // Nor is it counted on.
    stage.loft.parts.clock.advance(Duration::from_secs(25 * 3600));
    stage.fill(MIB, false);
    let ours = room::collect(&stage.loft.parts).await.unwrap()[&Unit::Bytes];
    assert_eq!((ours.most, ours.spared), (Some(0), None), "{ours:?}");
}

#[tokio::test]
async fn what_fails_to_go_does_not_keep_the_rest_and_bytes_have_their_bounds_also_where_inodes_are_short() {
    // A cache takes 4096 bytes, and there is room for one.
    let stage = Stage::keeping(Disk { caches: 4096, floor: 0, ..FULL }).await;
    for (layer, cache) in [("a", "shop-pip"), ("b", "shop-npm"), ("c", "shop-gem")] {
        derive(&stage, layer, &Image::new(), &[cache]).await;
    }
    let left = async || {
        let caches = stage.engine.caches().await.unwrap().into_iter().map(|cache| cache.id.0).collect::<Vec<_>>();
        (caches.len(), layers(&stage).await.len())
    };
    stage.engine.fail("forget cache", 1);
    collect(&stage.loft.parts).await;
    assert_eq!(left().await, (2, 3), "the one that failed, and the one that there is room for");

    // None is missing of which there is room for more than one.
    stage.engine.fill(Space { unit: Unit::Inodes, free: 19_999, taken: 980_001 }, false);
    collect(&stage.loft.parts).await;
    assert_eq!(left().await, (1, 3), "one goes for the bytes, and with it so many inodes are free");

    // A fiftieth of them is 20,000, and a layer has 1,000.
    stage.engine.fill(Space { unit: Unit::Inodes, free: 19_000, taken: 981_000 }, false);
    stage.engine.fail("forget", 1);
    collect(&stage.loft.parts).await;
    assert_eq!(left().await, (0, 1), "the layer that failed");
}

#[tokio::test]
async fn a_disk_that_nobody_can_measure_goes_like_others_and_is_not_waited_for() {
    let (stage, off, _) = two_that_are_off(FULL).await;
    let containers = stage.engine.containers().await.unwrap();
    for container in &containers {
        stage.engine.grow(container, Usage { bytes: u64::MAX, inodes: u64::MAX });
    }
    let states = || off.each_ref().map(|conductor| conductor.state().to_string());
    stage.fill(8 * MIB, false);
    collect(&stage.loft.parts).await;
    assert_eq!(states(), ["off v1 (to be built anew)", "off v1"]);
    // Had its whole size been counted on, somebody else had taken it.
    let own = room::collect(&stage.loft.parts).await.unwrap()[&Unit::Bytes].own;
    assert_eq!(states(), ["off v1 (to be built anew)"; 2]);
    assert!(own < 10 * MIB, "{own}");
}

#[tokio::test]
async fn on_a_disk_that_stays_short_each_container_is_looked_at_once_for_both_units() {
    let stage = Stage::keeping(FULL).await;
    stage.deploy().await.unwrap();
    stage.multiply(100).await;
    stage.fill(1, true);
    stage.engine.fill(Space { unit: Unit::Inodes, free: 1, taken: 1_000_000 }, true);
    let before = stage.engine.looks();
    collect(&stage.loft.parts).await;
    assert_eq!(stage.engine.looks() - before, 100);
}

#[tokio::test]
async fn where_something_else_takes_what_is_given_up_no_more_is_given_up_than_once_in_a_day() {
    // With the quarter more, two are missing: what one of them takes.
    let (stage, off, _) = two_that_are_off(Disk { floor: 4 * MIB, ..FULL }).await;
    let parts = &stage.loft.parts;
    let states = || off.each_ref().map(|conductor| conductor.state().to_string());
    stage.fill(MIB, true);
    for _ in 0..5 {
        collect(parts).await;
        assert_eq!(states(), ["off v1 (to be built anew)", "off v1"]);
        parts.clock.advance(Duration::from_secs(3600));
    }
    let ours = room::collect(parts).await.unwrap()[&Unit::Bytes];
    let own = 2 * MIB + stage.beside().bytes;
    assert_eq!((ours.own, ours.most, ours.spared), (own, Some(2 * MIB), Some(Spared::Lost)));

    parts.clock.advance(Duration::from_secs(19 * 3600));
    collect(parts).await;
    assert_eq!(states(), ["off v1 (to be built anew)"; 2]);
}

#[tokio::test]
async fn inodes_are_made_room_for_as_bytes_are_and_nothing_is_built_without_them() {
    let (stage, off, commit) = two_that_are_off(Disk::default()).await;
    let states = || off.each_ref().map(|conductor| conductor.state().to_string());
    // A fiftieth of them is 20,000.
    let leave = |free| stage.engine.fill(Space { unit: Unit::Inodes, free, taken: 1_000_000 - free }, false);
    leave(17_999);
    let (_, conductor) = stage.branch("other").await;
    let error = stage.build(&conductor, &commit).await.unwrap_err();
    assert_eq!(error.what, "the disk is full: 17999 inodes are free, and 20000 inodes are kept free; nothing is built");
    let filled = format!(
        "something else fills it: Flyloft has {} inodes of the 982001 inodes that are taken, and could free 2000 inodes at \
         most; ",
        2000 + stage.beside().inodes
    );
    assert!(error.causes[0].starts_with(&filled), "{error:?}");
    assert!(error.hints[1].starts_with("each file takes an inode"), "{error:?}");
    assert_eq!(states(), ["off v1"; 2]);

    leave(18_000);
    stage.build(&conductor, &commit).await.unwrap();
    assert_eq!(states(), ["off v1 (to be built anew)"; 2]);
}

#[tokio::test]
async fn nothing_is_built_on_a_full_disk_and_what_to_do_is_said() {
    let stage = Stage::keeping(Disk { floor: u64::MAX, ..Disk::default() }).await;
    let (_, conductor) = stage.env().await;
    let commit = stage.commit("main", &[("Procfile", "web: serve")]).await;
    let error = stage.build(&conductor, &commit).await.unwrap_err();
    assert!(
        error.what.starts_with("the disk is full: ") && error.what.ends_with("kept free; nothing is built"),
        "{error}"
    );
    assert!(error.hints[0].starts_with("destroy environments that nobody needs"), "{error:?}");
    assert_eq!((stage.calls("derive"), stage.containers().await), (0, vec![]));
    // What is there can be launched again: that takes next to nothing.
    stage.launch(Again::Rollback).await.unwrap();
    assert_eq!(stage.state().await, "awake v2");
}

#[tokio::test]
async fn what_is_kept_is_looked_through_when_something_has_ended_and_otherwise_once_in_an_hour() {
    let stage = Stage::keeping(LEAST).await;
    let parts = &stage.loft.parts;
    let looked = async || {
        let before = stage.engine.looks();
        keep(parts).await;
        stage.engine.looks() > before
    };
    stage.deploy().await.unwrap();
    assert_eq!([looked().await, looked().await], [true, false]);
    stage.deploy().await.unwrap();
    assert_eq!([looked().await, looked().await], [true, false], "a deploy has ended");
    // Something is to be left when it is gone.
    let (_, other) = stage.branch("other").await;
    stage.launch_in(&other, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
    assert_eq!([looked().await, looked().await], [true, false], "there is another environment");
    other.tell(Event::Destroy).await.unwrap();
    other.gone().await;
    assert_eq!([looked().await, looked().await], [true, false], "it was destroyed");

    stage.sql("ALTER TABLE releases RENAME TO elsewhere");
    parts.looked_through.forget();
    keep(parts).await;
    stage.sql("ALTER TABLE elsewhere RENAME TO releases");
    assert!(looked().await, "the last look has failed");
    let now = Instant::now();
    assert!(!parts.looked_through.is_due(now) && parts.looked_through.is_due(now + ROUND));
}
