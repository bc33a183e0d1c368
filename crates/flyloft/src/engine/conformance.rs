//! What every engine must do, whatever it runs on. One suite; each engine's tests call [`holds_for`].

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::fake::Fake;
use super::lxc::Bench;
use super::*;

#[tokio::test]
async fn the_engine_in_memory_conforms() {
    let fake = Fake::new();
    let base = LayerId("base".to_owned());
    let recipe = Recipe::Debian { suite: "trixie".to_owned(), packages: Vec::new() };
    let derivation = Derivation { id: base.clone(), title: "a base".to_owned(), on: Vec::new(), recipe };
    fake.derive(derivation, &Transcript::discard()).await.unwrap();
    holds_for(&fake, &vec![base]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_on_lxc_conforms() {
    let bench = Bench::open().await;
    holds_for(&bench.engine, &vec![bench.base.clone()]).await;
}

/// `base` is an image that has a shell. The engine has no containers, and has none afterwards.
async fn holds_for(engine: &dyn Engine, base: &Image) {
    names_are_checked(engine, base).await;
    what_is_not_there_is_said_to_be_missing(engine, base).await;
    a_container_goes_through_its_states(engine, base).await;
    only_a_frozen_container_is_offloaded(engine, base).await;
    commands_run_in_running_containers_alone(engine, base).await;
    what_it_may_reach_changes_while_it_runs(engine, base).await;
    what_processes_print_can_be_read(engine, base).await;
    a_layer_is_made_once_and_kept_while_it_is_used(engine, base).await;
    a_layer_that_failed_is_not_there(engine, base).await;
    a_cache_is_there_from_its_first_use_until_it_is_forgotten(engine, base).await;
    a_volume_outlives_the_containers_that_have_it(engine, base).await;
    a_container_that_is_made_anew_is_where_it_was_with_what_is_in_its_volumes(engine, base).await;
    assert_eq!(engine.observe().await.unwrap(), []);
}

fn spec(id: &str, image: &Image) -> ContainerSpec {
    let web = Process { name: "web.1".to_owned(), command: "echo hello".to_owned(), env: BTreeMap::new() };
    ContainerSpec {
        id: ContainerId(id.to_owned()),
        image: image.clone(),
        processes: vec![web],
        env: BTreeMap::new(),
        limits: Limits::default(),
        reach: Reach::default(),
        volumes: Vec::new(),
        files: Default::default(),
    }
}

async fn what_it_may_reach_changes_while_it_runs(engine: &dyn Engine, base: &Image) {
    let spec = spec("reach", base);
    let reach = Reach { allow: vec![SocketAddr::from(([192, 0, 2, 1], 5432))] };
    assert!(matches!(engine.allow(&spec.id, &reach).await, Err(EngineError::NoContainer(_))));
    engine.create(&spec).await.unwrap();
    engine.start(&spec.id).await.unwrap();
    engine.allow(&spec.id, &reach).await.unwrap();
    // It is what it would be if it had been made so.
    assert!(matches!(engine.create(&spec).await, Err(EngineError::Exists(_))));
    engine.create(&ContainerSpec { reach, ..spec.clone() }).await.unwrap();
    engine.remove(&spec.id).await.unwrap();
}

fn step(id: &str, on: &Image, argv: &[&str]) -> Derivation {
    let run = Run {
        commands: vec![argv.iter().map(|&arg| arg.to_owned()).collect()],
        dir: "/app".to_owned(),
        env: BTreeMap::new(),
        files: Vec::new(),
        caches: Vec::new(),
        scratch: Vec::new(),
        limits: Limits::default(),
        timeout: Duration::from_secs(60),
        reach: Reach::default(),
    };
    Derivation {
        id: LayerId(id.to_owned()),
        title: format!("layer {id}"),
        on: on.clone(),
        recipe: Recipe::Run(Box::new(run)),
    }
}

async fn state_of(engine: &dyn Engine, id: &ContainerId) -> Option<ContainerState> {
    let found = engine.find(id).await.unwrap();
    let listed = engine.observe().await.unwrap().into_iter().find(|container| container.id == *id);
    assert_eq!(found, listed, "the list and the look at one agree");
    found.map(|container| container.state)
}

async fn names_are_checked(engine: &dyn Engine, base: &Image) {
    for name in ["", "Web", "a/b", "..", "a\nlxc.hook.start-host = /bin/sh", &"x".repeat(51)] {
        let created = engine.create(&spec(name, base)).await;
        assert!(matches!(created, Err(EngineError::BadName(_))), "{name:?}: {created:?}");
        let removed = engine.remove(&ContainerId(name.to_owned())).await;
        assert!(matches!(removed, Err(EngineError::BadName(_))), "{name:?}: {removed:?}");
    }
}

async fn what_is_not_there_is_said_to_be_missing(engine: &dyn Engine, base: &Image) {
    let nobody = ContainerId("nobody".to_owned());
    assert!(matches!(engine.start(&nobody).await, Err(EngineError::NoContainer(id)) if id == nobody));
    assert!(matches!(engine.stop(&nobody, Duration::ZERO).await, Err(EngineError::NoContainer(_))));
    assert!(matches!(engine.freeze(&nobody).await, Err(EngineError::NoContainer(_))));
    assert!(matches!(engine.offload(&nobody, Depth::Shallow).await, Err(EngineError::NoContainer(_))));
    assert!(matches!(engine.stats(&nobody).await, Err(EngineError::NoContainer(_))));
    engine.remove(&nobody).await.unwrap();
    let mut without = spec("without", base);
    without.image.push(LayerId("absent".to_owned()));
    assert!(matches!(engine.create(&without).await, Err(EngineError::NoLayer(layer)) if layer.0 == "absent"));
    assert_eq!(state_of(engine, &without.id).await, None);
}

async fn a_container_goes_through_its_states(engine: &dyn Engine, base: &Image) {
    let web = spec("web", base);
    let addresses = engine.create(&web).await.unwrap();
    assert_eq!(engine.create(&web).await.unwrap(), addresses, "created twice");
    let mut other = web.clone();
    other.env.insert("CHANGED".to_owned(), "yes".to_owned());
    assert!(matches!(engine.create(&other).await, Err(EngineError::Exists(_))));
    assert_eq!(state_of(engine, &web.id).await, Some(ContainerState::Stopped));
    assert!(matches!(engine.freeze(&web.id).await, Err(EngineError::NotRunning(_))));

    // Each verb twice: the second time it is already so.
    for _ in 0..2 {
        engine.start(&web.id).await.unwrap();
        assert_eq!(state_of(engine, &web.id).await, Some(ContainerState::Running));
    }
    assert!(engine.stats(&web.id).await.unwrap().pids > 0);
    assert!(engine.sizes().await.unwrap().contains_key(&web.id));
    for _ in 0..2 {
        engine.freeze(&web.id).await.unwrap();
        assert_eq!(state_of(engine, &web.id).await, Some(ContainerState::Frozen));
    }
    for _ in 0..2 {
        engine.thaw(&web.id).await.unwrap();
        assert_eq!(state_of(engine, &web.id).await, Some(ContainerState::Running));
    }
    // A frozen one stops like any other.
    engine.freeze(&web.id).await.unwrap();
    for _ in 0..2 {
        engine.stop(&web.id, Duration::from_secs(10)).await.unwrap();
        assert_eq!(state_of(engine, &web.id).await, Some(ContainerState::Stopped));
    }
    assert_eq!(engine.stats(&web.id).await.unwrap().pids, 0);
    engine.start(&web.id).await.unwrap();
    assert_eq!(engine.create(&web).await.unwrap(), addresses, "they last");
    for _ in 0..2 {
        engine.remove(&web.id).await.unwrap();
        assert_eq!(state_of(engine, &web.id).await, None);
    }
}

async fn only_a_frozen_container_is_offloaded(engine: &dyn Engine, base: &Image) {
    let web = spec("web", base);
    engine.create(&web).await.unwrap();
    let offload = async |depth| engine.offload(&web.id, depth).await;
    assert!(matches!(offload(Depth::Shallow).await, Err(EngineError::NotRunning(_))));
    engine.start(&web.id).await.unwrap();
    assert!(matches!(offload(Depth::Shallow).await, Err(EngineError::NotFrozen(id)) if id == web.id));
    engine.freeze(&web.id).await.unwrap();
    assert_eq!(engine.stats(&web.id).await.unwrap().asleep, None);

    // However deep, and however often; where nothing can be moved, it says why.
    for depth in [Depth::Shallow, Depth::Shallow, Depth::Deep, Depth::Deep] {
        let held = offload(depth).await.unwrap();
        // New pages are in the kernel's lists for each processor at first, where nobody gets at them.
        let nothing = held.resident < 4 << 20;
        assert!(held.moved() > 0 || held.kept.is_some() || nothing, "{depth:?}: {held:?}");
        assert_eq!(state_of(engine, &web.id).await, Some(ContainerState::Frozen));
        let asleep = engine.stats(&web.id).await.unwrap().asleep.unwrap();
        assert_eq!(asleep.kept, held.kept, "{asleep:?}");
    }
    engine.thaw(&web.id).await.unwrap();
    assert_eq!(engine.stats(&web.id).await.unwrap().asleep, None);
    assert!(matches!(offload(Depth::Deep).await, Err(EngineError::NotFrozen(_))));
    engine.remove(&web.id).await.unwrap();
}

async fn commands_run_in_running_containers_alone(engine: &dyn Engine, base: &Image) {
    let shell = spec("shell", base);
    let run = async |argv: &[&str]| {
        let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
        let mut exec = engine.exec(&shell.id, ExecSpec { argv, env: BTreeMap::new(), terminal: None }).await?;
        let mut out = String::new();
        exec.stdout.read_to_string(&mut out).await.unwrap();
        Ok::<_, EngineError>((out, exec.control.wait().await.unwrap()))
    };
    assert!(matches!(run(&["true"]).await, Err(EngineError::NoContainer(_))));
    engine.create(&shell).await.unwrap();
    assert!(matches!(run(&["true"]).await, Err(EngineError::NotRunning(_))));
    engine.start(&shell.id).await.unwrap();
    assert_eq!(run(&["echo", "two words", "$HOME"]).await.unwrap(), ("two words $HOME\n".to_owned(), 0));
    assert_eq!(run(&["false"]).await.unwrap(), (String::new(), 1));
    engine.remove(&shell.id).await.unwrap();
}

async fn what_processes_print_can_be_read(engine: &dyn Engine, base: &Image) {
    let talker = spec("talker", base);
    engine.create(&talker).await.unwrap();
    engine.start(&talker.id).await.unwrap();
    let printed = async || {
        let mut log = String::new();
        engine.logs(&talker.id, 100, false).await.unwrap().read_to_string(&mut log).await.unwrap();
        log.contains("web.1 | hello\n")
    };
    eventually("the process's line is in the log", printed).await;
    let mut last = String::new();
    engine.logs(&talker.id, 1, false).await.unwrap().read_to_string(&mut last).await.unwrap();
    assert_eq!(last.lines().count(), 1);
    engine.remove(&talker.id).await.unwrap();
}

async fn a_layer_is_made_once_and_kept_while_it_is_used(engine: &dyn Engine, base: &Image) {
    let layer = LayerId("aa01".to_owned());
    let orphan = step("aa02", &vec![LayerId("absent".to_owned())], &["true"]);
    let derived = engine.derive(orphan, &Transcript::discard()).await;
    assert!(matches!(derived, Err(EngineError::NoLayer(_))), "{derived:?}");

    engine.derive(step("aa01", base, &["true"]), &Transcript::discard()).await.unwrap();
    // Made already, so that what would fail is not run.
    engine.derive(step("aa01", base, &["false"]), &Transcript::discard()).await.unwrap();
    assert!(engine.layers().await.unwrap().contains(&layer));
    assert_eq!(engine.layer(&layer).await.unwrap().on, *base);
    assert!(engine.layer(&layer).await.unwrap().bytes > 0);
    let absent = engine.layer(&LayerId("absent".to_owned())).await;
    assert!(matches!(absent, Err(EngineError::NoLayer(_))), "{absent:?}");

    let mut user = spec("user", base);
    user.image.push(layer.clone());
    engine.create(&user).await.unwrap();
    assert!(matches!(engine.forget(&layer).await, Err(EngineError::LayerInUse(_))));
    assert!(engine.layers().await.unwrap().contains(&layer));
    engine.remove(&user.id).await.unwrap();
    for _ in 0..2 {
        engine.forget(&layer).await.unwrap();
        assert!(!engine.layers().await.unwrap().contains(&layer));
    }
}

async fn a_layer_that_failed_is_not_there(engine: &dyn Engine, base: &Image) {
    let before = engine.layers().await.unwrap();
    let failed = engine.derive(step("aa03", base, &["false"]), &Transcript::discard()).await;
    assert!(matches!(failed, Err(EngineError::StepFailed { code: 1, .. })), "{failed:?}");
    assert_eq!(engine.layers().await.unwrap(), before);
    assert_eq!(engine.observe().await.unwrap(), [], "builds are not containers");
}

async fn a_cache_is_there_from_its_first_use_until_it_is_forgotten(engine: &dyn Engine, base: &Image) {
    let cache = CacheId("shop-pip".to_owned());
    let begun = SystemTime::now() - Duration::from_secs(1);
    let mut fill = step("aa04", base, &["true"]);
    let Recipe::Run(run) = &mut fill.recipe else { unreachable!("a step runs something") };
    run.caches.push((cache.clone(), "/cache".to_owned()));
    engine.derive(fill, &Transcript::discard()).await.unwrap();
    let caches = engine.caches().await.unwrap();
    assert!(matches!(&caches[..], [found] if found.id == cache && found.used > begun), "{caches:?}");
    for _ in 0..2 {
        engine.forget_cache(&cache).await.unwrap();
        assert_eq!(engine.caches().await.unwrap(), []);
    }
    let bad = CacheId("../layers".to_owned());
    assert!(matches!(engine.forget_cache(&bad).await, Err(EngineError::BadName(_))));
    engine.forget(&LayerId("aa04".to_owned())).await.unwrap();
}

async fn a_volume_outlives_the_containers_that_have_it(engine: &dyn Engine, base: &Image) {
    let id = VolumeId("volume-1".to_owned());
    let volume = Volume { id: id.clone(), path: "/data".to_owned(), size: 1 << 20, read_only: false, counts: true };
    for name in ["first", "second"] {
        let spec = ContainerSpec { volumes: vec![volume.clone()], ..spec(name, base) };
        engine.create(&spec).await.unwrap();
        engine.start(&spec.id).await.unwrap();
        assert_eq!(engine.volumes().await.unwrap(), std::slice::from_ref(&id));
        assert!(matches!(engine.forget_volume(&id).await, Err(EngineError::VolumeInUse(_))));
        engine.remove(&spec.id).await.unwrap();
        assert_eq!(engine.volumes().await.unwrap(), std::slice::from_ref(&id), "{name} took it along");
    }
    for _ in 0..2 {
        engine.forget_volume(&id).await.unwrap();
        assert_eq!(engine.volumes().await.unwrap(), []);
        assert_eq!(engine.volume(&id).await.unwrap(), Usage::default());
    }
    let bad = VolumeId("../layers".to_owned());
    assert!(matches!(engine.forget_volume(&bad).await, Err(EngineError::BadName(_))));
    let bad = ContainerSpec { volumes: vec![Volume { id: bad, ..volume }], ..spec("bad", base) };
    assert!(matches!(engine.create(&bad).await, Err(EngineError::BadName(_))));
}

async fn a_container_that_is_made_anew_is_where_it_was_with_what_is_in_its_volumes(engine: &dyn Engine, base: &Image) {
    let id = VolumeId("volume-2".to_owned());
    let volume = Volume { id: id.clone(), path: "/data".to_owned(), size: 1 << 20, read_only: false, counts: true };
    let before = ContainerSpec { volumes: vec![volume], ..spec("again", base) };
    let after = ContainerSpec { env: BTreeMap::from([("NEW".to_owned(), "1".to_owned())]), ..before.clone() };
    assert!(matches!(engine.remake(&after).await, Err(EngineError::NoContainer(_))));
    let addresses = engine.create(&before).await.unwrap();
    // Whoever takes the next place takes none that it could come to have.
    engine.create(&spec("other", base)).await.unwrap();
    engine.start(&before.id).await.unwrap();
    let mut without = after.clone();
    without.image.push(LayerId("absent".to_owned()));
    assert!(matches!(engine.remake(&without).await, Err(EngineError::NoLayer(_))));
    assert_eq!(state_of(engine, &before.id).await, Some(ContainerState::Running), "nothing was done to it");
    assert_eq!(engine.remake(&after).await.unwrap(), addresses);
    assert_eq!(state_of(engine, &before.id).await, Some(ContainerState::Stopped));
    assert!(matches!(engine.create(&before).await, Err(EngineError::Exists(_))));
    assert_eq!(engine.create(&after).await.unwrap(), addresses);
    engine.start(&after.id).await.unwrap();
    assert_eq!(engine.volumes().await.unwrap(), std::slice::from_ref(&id));
    for name in ["again", "other"] {
        engine.remove(&ContainerId(name.to_owned())).await.unwrap();
    }
    engine.forget_volume(&id).await.unwrap();
}

/// Waits until `holds` is true, for 20 s.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came to be that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
