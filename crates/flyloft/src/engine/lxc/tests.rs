//! What only real containers can show.

use tokio::io::AsyncReadExt;

use super::bench::Bench;
use super::slots;
use crate::engine::*;

fn spec(bench: &Bench, id: &str, command: &str) -> ContainerSpec {
    let web = Process { name: "web.1".to_owned(), command: command.to_owned(), env: BTreeMap::new() };
    ContainerSpec {
        id: ContainerId(id.to_owned()),
        image: vec![bench.base.clone()],
        processes: vec![web],
        env: BTreeMap::new(),
        limits: Limits::default(),
        reach: Reach::default(),
    }
}

/// What a shell command in the container prints, and its status.
async fn sh(bench: &Bench, id: &ContainerId, command: &str) -> (String, i32) {
    let argv = ["sh", "-c", command].map(str::to_owned).to_vec();
    let spec = ExecSpec { argv, env: BTreeMap::new(), terminal: None };
    let mut exec = bench.engine.exec(id, spec).await.unwrap();
    let mut out = String::new();
    exec.stdout.read_to_string(&mut out).await.unwrap();
    (out, exec.control.wait().await.unwrap())
}

fn recipe(bench: &Bench, id: &str, script: &str) -> Derivation {
    Derivation {
        id: LayerId(id.to_owned()),
        title: format!("test layer {id}"),
        on: vec![bench.base.clone()],
        recipe: Recipe::Run(Box::new(Run {
            commands: vec![["sh", "-c", script].map(str::to_owned).to_vec()],
            dir: "/app".to_owned(),
            env: BTreeMap::new(),
            files: vec![("/app/input".to_owned(), b"from outside\n".to_vec())],
            caches: vec![(CacheId("shop-pip".to_owned()), "/app/.cache".to_owned())],
            scratch: vec!["/app/scratch".to_owned()],
            limits: Limits::default(),
            timeout: Duration::from_secs(60),
            reach: Reach::default(),
        })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_steps_files_are_the_apps_in_whatever_container_uses_them() {
    let bench = Bench::open().await;
    let dir = tempfile::tempdir().unwrap();
    let transcript = Transcript::create(&dir.path().join("transcript")).unwrap();
    let script = "cat input; id -un; echo built > out; mkdir scratch; echo x > scratch/x; echo y > /tmp/y; echo warm > .cache/hit";
    bench.engine.derive(recipe(&bench, "aa01", script), &transcript).await.unwrap();
    let told = std::fs::read_to_string(dir.path().join("transcript")).unwrap();
    assert_eq!(told, "       from outside\n       app\n");

    // The next step finds the cache, the next container the files.
    let reads = recipe(&bench, "aa02", "cat .cache/hit; echo more >> .cache/hit");
    bench.engine.derive(reads, &transcript).await.unwrap();
    assert!(std::fs::read_to_string(dir.path().join("transcript")).unwrap().ends_with("       warm\n"));

    let mut web = spec(&bench, "web", "sleep 1000");
    web.image.push(LayerId("aa01".to_owned()));
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let (out, code) =
        sh(&bench, &web.id, "cat out; stat -c %U out input .; echo changed >> out; ls scratch /tmp .cache").await;
    assert_eq!((out.as_str(), code), ("built\napp\napp\napp\n/tmp:\n", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_step_that_fails_says_so_and_leaves_nothing() {
    let bench = Bench::open().await;
    let failed = bench.engine.derive(recipe(&bench, "aa01", "exit 3"), &Transcript::discard()).await;
    assert!(matches!(failed, Err(EngineError::StepFailed { code: 3, .. })), "{failed:?}");
    assert_eq!(bench.engine.layers().await.unwrap(), std::slice::from_ref(&bench.base));
    assert_eq!(std::fs::read_dir(bench.dir.path().join("engine/builds")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_starts_again_finds_its_containers_and_leaves_them_running() {
    let mut bench = Bench::open().await;
    let (one, two) = (spec(&bench, "one", "sleep 1000"), spec(&bench, "two", "sleep 1000"));
    bench.engine.create(&one).await.unwrap();
    bench.engine.create(&two).await.unwrap();
    bench.engine.start(&one.id).await.unwrap();
    let before = bench.engine.observe().await.unwrap();
    let processes = bench.engine.running(&one.id).unwrap().1;
    bench.reopen().await;
    assert_eq!(bench.engine.observe().await.unwrap(), before);
    assert_eq!(bench.engine.running(&one.id).unwrap().1, processes);
    let state = |observed: &[Observed]| observed.iter().map(|container| container.state).collect::<Vec<_>>();
    assert_eq!(state(&before), [ContainerState::Running, ContainerState::Stopped]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_container_leaves_nothing() {
    let bench = Bench::open().await;
    let web = spec(&bench, "web", "sleep 1000");
    let before = traces(&bench);
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    assert_ne!(traces(&bench), before);
    bench.engine.remove(&web.id).await.unwrap();
    assert_eq!(traces(&bench), before);
}

/// Everything on the machine that carries the instance's name or lies in its state directory.
fn traces(bench: &Bench) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains(bench.instance()))
        .map(str::to_owned)
        .collect();
    let groups = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let places = ["/run/flyloft-lxc", "/run/lxc/lock/run/flyloft-lxc", "/sys/class/net", "/sys/fs/cgroup"];
    let places = places.into_iter().map(Into::into).chain(groups);
    for place in places.collect::<Vec<std::path::PathBuf>>() {
        let names = std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(names.map(|path| path.display().to_string()).filter(|path| path.contains(bench.instance())));
    }
    let slots = std::fs::read_dir(slots::REGISTRY).unwrap().flatten();
    let slots = slots.map(|entry| std::fs::read_to_string(entry.path()).unwrap());
    found.extend(slots.filter(|owner| owner.starts_with(bench.dir.path().to_str().unwrap())));
    for dir in ["containers", "builds", "tmp"] {
        let entries = std::fs::read_dir(bench.dir.path().join("engine").join(dir)).unwrap().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    found.sort();
    found
}
