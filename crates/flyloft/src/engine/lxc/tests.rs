//! What only real containers can show.

use std::fs;

use tokio::io::AsyncReadExt;

use super::bench::Bench;
use super::slots;
use crate::engine::*;

pub fn spec(bench: &Bench, id: &str, command: &str) -> ContainerSpec {
    let web = Process { name: "web.1".to_owned(), command: command.to_owned(), env: BTreeMap::new() };
    ContainerSpec {
        id: ContainerId(id.to_owned()),
        image: vec![bench.base.clone()],
        processes: vec![web],
        env: BTreeMap::new(),
        limits: Limits::default(),
        reach: Reach::default(),
        volumes: Vec::new(),
        files: Default::default(),
    }
}

/// What a shell command in the container prints, and its status.
pub async fn sh(bench: &Bench, id: &ContainerId, command: &str) -> (String, i32) {
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

pub async fn build_layer(bench: &Bench, id: &str, script: &str) -> Result<(), EngineError> {
    bench.engine.derive(recipe(bench, id, script), &Transcript::discard()).await
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
async fn commands_run_in_a_container_that_an_older_version_has_made() {
    let mut bench = Bench::open().await;
    let web = spec(&bench, "web", "sleep 1000");
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let pid = bench.engine.running(&web.id).unwrap().1;
    let program = bench.engine.home(&web.id).init().join("init");
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "#!/bin/sh\necho 'usage: what an older version says'\nexit 2\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_ne!(sh(&bench, &web.id, "echo hello").await.1, 0);

    bench.reopen().await;
    assert_eq!(sh(&bench, &web.id, "echo hello").await, ("hello\n".to_owned(), 0));
    assert_eq!(bench.engine.running(&web.id).unwrap().1, pid, "it runs on");
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
    // Those of others come and go.
    let slots = slots.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    found.extend(slots.filter(|owner| owner.starts_with(bench.dir.path().to_str().unwrap())));
    for dir in ["containers", "builds", "tmp"] {
        let entries = std::fs::read_dir(bench.dir.path().join("engine").join(dir)).unwrap().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    found.sort();
    found
}

/// A build step with a script, judged by how it ended.
pub async fn build(bench: &Bench, script: &str, change: impl FnOnce(&mut Run)) -> Result<(), EngineError> {
    let mut derivation = recipe(bench, "bad0", script);
    let Recipe::Run(run) = &mut derivation.recipe else { unreachable!() };
    change(run);
    bench.engine.derive(derivation, &Transcript::discard()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_step_that_takes_too_much_is_stopped_and_told_what_of() {
    let bench = Bench::open().await;
    let hog = "exec python3 -c 'x = []\nwhile True: x.append(bytes(1 << 20))'";
    let memory = build(&bench, hog, |run| (run.limits.memory, run.limits.swap) = (64 << 20, 0)).await;
    assert!(matches!(memory, Err(EngineError::OutOfMemory { limit, .. }) if limit == 64 << 20), "{memory:?}");

    let disk = build(&bench, "exec cat /dev/zero > big", |run| run.limits.disk = 20 << 20).await;
    assert!(matches!(disk, Err(EngineError::OutOfDisk { limit, .. }) if limit == 20 << 20), "{disk:?}");

    let files = "i=0; while :; do i=$((i+1)); : > file$i; done";
    let inodes = build(&bench, files, |run| run.limits.inodes = 500).await;
    assert!(matches!(inodes, Err(EngineError::OutOfDisk { inodes: 500, .. })), "{inodes:?}");

    // It would wait for what it has started.
    let forks = "for i in $(seq 100); do sleep 1000 & done || wait; wait";
    let pids = build(&bench, forks, |run| run.limits.pids = 20).await;
    assert!(matches!(pids, Err(EngineError::OutOfProcesses { limit: 20, .. })), "{pids:?}");

    let time = build(&bench, "sleep 1000", |run| run.timeout = Duration::from_secs(1)).await;
    assert!(matches!(time, Err(EngineError::TimedOut { seconds: 1, .. })), "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_nobody_waits_for_any_more_leaves_nothing() {
    let bench = Bench::open().await;
    let before = traces(&bench);
    let dir = tempfile::tempdir().unwrap();
    let transcript = Transcript::create(&dir.path().join("transcript")).unwrap();
    let step = bench.engine.derive(recipe(&bench, "aa01", "echo begun; sleep 1000"), &transcript);
    let begun = async {
        let told = async || std::fs::read_to_string(dir.path().join("transcript")).unwrap().contains("begun");
        conformance::eventually("the build has begun", told).await;
    };
    tokio::select! {
        ended = step => panic!("{ended:?}"),
        () = begun => {}
    }
    conformance::eventually("it is gone", async || traces(&bench) == before).await;
}

/// Processes of the host, those of containers aside, that have the text among their arguments or their variables.
fn processes_that_show(text: &str) -> Vec<String> {
    let namespace = |process: &std::path::Path| std::fs::read_link(process.join("ns/pid")).ok();
    let own = namespace("/proc/self".as_ref());
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let shows = |process: &std::path::PathBuf| {
        let contains = |file: &str| {
            let bytes = std::fs::read(process.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(text)
        };
        namespace(process) == own && (contains("cmdline") || contains("environ"))
    };
    let title = |process: std::path::PathBuf| std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
    processes.filter(shows).map(title).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_user_of_the_host_can_read_the_variables_of_what_runs_in_a_container() {
    let bench = Bench::open().await;
    let secret = format!("secret-{}", bench.instance());
    let env: BTreeMap<String, String> = [("TOKEN".to_owned(), format!("a=b\n{secret}"))].into();
    let dir = tempfile::tempdir().unwrap();
    let transcript = Transcript::create(&dir.path().join("transcript")).unwrap();
    let mut derivation = recipe(&bench, "aa01", "echo \"$TOKEN\"; until [ -e .cache/go ]; do sleep 0.05; done");
    let Recipe::Run(run) = &mut derivation.recipe else { unreachable!() };
    run.env = env.clone();
    let watched = async {
        let told = async || std::fs::read_to_string(dir.path().join("transcript")).unwrap().contains(&secret);
        conformance::eventually("the step has its variable", told).await;
        let attach = processes_that_show(&format!("fl-{}-aa01.b", bench.instance()));
        assert!(!attach.is_empty(), "`lxc-attach` is among the processes that are looked at");
        assert_eq!(processes_that_show(&secret), Vec::<String>::new());
        std::fs::write(bench.dir.path().join("engine/caches/shop-pip/go"), "").unwrap();
    };
    let (built, ()) = tokio::join!(bench.engine.derive(derivation, &transcript), watched);
    built.unwrap();
    assert!(std::fs::read_to_string(dir.path().join("transcript")).unwrap().contains("       a=b\n"));

    let web = spec(&bench, "web", "sleep 1000");
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    for terminal in [None, Some((80, 24))] {
        let argv = ["sh", "-c", "echo \"$TOKEN\"; sleep 1000"].map(str::to_owned).to_vec();
        let mut exec = bench.engine.exec(&web.id, ExecSpec { argv, env: env.clone(), terminal }).await.unwrap();
        let mut seen = String::new();
        while !seen.contains(&secret) {
            let mut piece = [0; 1024];
            let count = exec.stdout.read(&mut piece).await.unwrap();
            assert!(count > 0, "ended after {seen:?}");
            seen.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
        assert_eq!(processes_that_show(&secret), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_two_ask_for_at_once_runs_once() {
    let bench = Bench::open().await;
    let script = "echo run >> .cache/runs";
    let transcript = Transcript::discard();
    let (one, two) = tokio::join!(
        bench.engine.derive(recipe(&bench, "aa01", script), &transcript),
        bench.engine.derive(recipe(&bench, "aa01", script), &transcript),
    );
    one.and(two).unwrap();
    let runs = std::fs::read_to_string(bench.dir.path().join("engine/caches/shop-pip/runs")).unwrap();
    assert_eq!(runs, "run\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_from_staging_becomes_the_apps_and_nothing_else_does() {
    let bench = Bench::open().await;
    let staging = bench.engine.staging();
    let from = staging.dir.join("tree-1");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("hello"), "hi\n").unwrap();
    for path in [&from, &from.join("hello")] {
        std::os::unix::fs::chown(path, Some(staging.user), Some(staging.user)).unwrap();
    }
    let tree = |id: &str, from: &std::path::Path| Derivation {
        id: LayerId(id.to_owned()),
        title: "a tree".to_owned(),
        on: vec![bench.base.clone()],
        recipe: Recipe::Tree { from: from.to_owned(), path: "/app".to_owned() },
    };
    bench.engine.derive(tree("aa01", &from), &Transcript::discard()).await.unwrap();
    assert!(!from.exists(), "it was moved");
    for stolen in ["/etc", &format!("{}/../layers", staging.dir.display())] {
        assert!(bench.engine.derive(tree("aa02", stolen.as_ref()), &Transcript::discard()).await.is_err(), "{stolen}");
    }
    let mut web = spec(&bench, "web", "sleep 1000");
    web.image.push(LayerId("aa01".to_owned()));
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let seen = sh(&bench, &web.id, "cat hello && stat -c %U . hello && echo more >> hello && rm hello && ls").await;
    assert_eq!(seen, ("hi\napp\napp\n".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn debian_packages_go_on_top_of_a_base_and_start_no_service() {
    let bench = Bench::open().await;
    let packages = Derivation {
        id: LayerId("aa01".to_owned()),
        title: "file".to_owned(),
        on: vec![bench.base.clone()],
        recipe: Recipe::Packages { packages: vec!["file".to_owned()] },
    };
    bench.engine.derive(packages, &Transcript::discard()).await.unwrap();
    let mut web = spec(&bench, "web", "sleep 1000");
    web.image.push(LayerId("aa01".to_owned()));
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let (out, code) =
        sh(&bench, &web.id, "file -b /etc/passwd; head -n 1 /etc/resolv.conf; ls /usr/sbin/policy-rc.d").await;
    assert_eq!((out.as_str(), code), ("ASCII text\nnameserver 169.254.1.1\n", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_flushed_comes_back_with_everybody_in_it() {
    let bench = Bench::open().await;
    let web = spec(&bench, "web", "sleep 1000");
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let before = bench.engine.network.observe().await.unwrap();
    assert_eq!(before.len(), 1);
    let remove = crate::exec::Cmd::new("nft").args(["delete", "table", "inet", &bench.engine.network.table()]);
    remove.run().await.unwrap();
    let removed = std::time::Instant::now();
    // Looked for by whoever looks every minute, it would not be there yet.
    let admitted = async || bench.engine.network.observe().await.unwrap() == before;
    conformance::eventually("it is back", admitted).await;
    assert!(removed.elapsed() < Duration::from_secs(10), "{:?}", removed.elapsed());
    // Nor does it keep a container from being removed.
    remove.run().await.unwrap();
    bench.engine.remove(&web.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_way_cannot_be_put_right_keeps_no_other_from_that() {
    let bench = Bench::open().await;
    let ip = async |line: String| crate::exec::Cmd::new("ip").args(line.split(' ')).run().await.unwrap();
    let mut links = Vec::new();
    for id in ["one", "two"] {
        let web = spec(&bench, id, "sleep 1000");
        bench.engine.create(&web).await.unwrap();
        bench.engine.start(&web.id).await.unwrap();
        links.push(bench.engine.network.link(bench.engine.known(&web.id).unwrap().1.slot));
    }
    let [one, two] = &links[..] else { unreachable!("there are two") };
    // No route leads over a link that is down.
    ip(format!("link set dev {one} down")).await;
    ip(format!("-4 route flush dev {two}")).await;
    bench.engine.renew_network(None).await.unwrap();
    let [broken, mended] = [ip(format!("-4 route show dev {one}")).await, ip(format!("-4 route show dev {two}")).await];
    assert!(broken.stdout.is_empty() && !mended.stdout.is_empty(), "{broken:?} {mended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_followed_ends_with_the_container() {
    let bench = Bench::open().await;
    let web = spec(&bench, "web", "echo one; until [ -e go ]; do sleep 0.05; done; echo two; sleep 1000");
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let mut reader = bench.engine.logs(&web.id, 10, true).await.unwrap();
    let mut seen = String::new();
    let mut piece = [0; 4096];
    while !seen.contains("web.1 | one\n") {
        let count = reader.read(&mut piece).await.unwrap();
        seen.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert!(!seen.contains("two"));
    assert_eq!(sh(&bench, &web.id, "touch go").await.1, 0);
    while !seen.contains("web.1 | two\n") {
        let count = reader.read(&mut piece).await.unwrap();
        assert!(count > 0, "ended after {seen:?}");
        seen.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    bench.engine.stop(&web.id, Duration::ZERO).await.unwrap();
    reader.read_to_string(&mut seen).await.unwrap();
}

#[tokio::test]
async fn what_lxc_says_of_a_container_is_cut_off_while_it_runs_and_begun_anew_with_each_start() {
    let bench = Bench::open().await;
    let spec = spec(&bench, "talkative", "sleep 1000");
    bench.engine.create(&spec).await.unwrap();
    bench.engine.start(&spec.id).await.unwrap();
    let log = bench.engine.home(&spec.id).lxc_log();
    let (_, running) = bench.engine.running(&spec.id).unwrap();
    // LXC has it open for appending, as the flags say (proc_pid_fdinfo(5)), so what is cut off leaves no hole.
    let open = fs::read_dir(format!("/proc/{}/fd", running.monitor)).unwrap().flatten();
    let fd = open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|file| file == log)).map(|fd| fd.file_name()).next();
    let fd = fd.expect("the log is open").into_string().unwrap();
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", running.monitor)).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    assert!(i32::from_str_radix(flags.trim(), 8).unwrap() & nix::libc::O_APPEND != 0, "{info}");

    let say = |bytes| fs::write(&log, vec![b'w'; bytes]).unwrap();
    let size = async || {
        bench.engine.measure_all(&BTreeMap::new(), false).await.unwrap();
        fs::metadata(&log).unwrap().len()
    };
    say(1 << 20);
    assert_eq!(size().await, 1 << 20);
    say((1 << 20) + 1);
    assert_eq!(size().await, 0);

    say(1000);
    bench.engine.stop(&spec.id, Duration::ZERO).await.unwrap();
    bench.engine.start(&spec.id).await.unwrap();
    assert!(fs::read_to_string(&log).unwrap_or_default().len() < 1000, "it is a new one");

    // One that cannot be bounded hides nothing.
    let _ = fs::remove_file(&log);
    std::os::unix::fs::symlink(&log, &log).unwrap();
    assert!(bench.engine.measure_all(&BTreeMap::new(), false).await.unwrap().contains_key(&spec.id));
    bench.engine.remove(&spec.id).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_container_is_told_at_once_also_by_an_engine_that_has_not_started_it() {
    let mut bench = Bench::open().await;
    let spec = spec(&bench, "mortal", "sleep 1000");
    bench.engine.create(&spec).await.unwrap();
    for way in ["started", "taken up", "started by an earlier one after that"] {
        let earlier = bench.engine.clone();
        match way {
            "started" => earlier.start(&spec.id).await.unwrap(),
            "taken up" => {
                earlier.start(&spec.id).await.unwrap();
                bench.reopen().await;
            }
            _ => {
                bench.reopen().await;
                earlier.start(&spec.id).await.unwrap();
                bench.engine.start(&spec.id).await.unwrap();
            }
        }
        let (_, running) = bench.engine.running(&spec.id).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.init), nix::sys::signal::Signal::SIGKILL).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), bench.engine.ended()).await.expect(way);
        assert_eq!(ended, spec.id);
        let found = bench.engine.find(&spec.id).await.unwrap().unwrap();
        assert_eq!(found.state, ContainerState::Stopped, "it is as it was told");
    }
    bench.engine.remove(&spec.id).await.unwrap();
}

#[tokio::test]
async fn what_a_container_was_stopped_for_is_known_also_where_it_cannot_be_written_down() {
    let bench = Bench::open().await;
    let spec = spec(&bench, "hog", "sleep 1000");
    let id = &spec.id;
    bench.engine.create(&spec).await.unwrap();
    bench.engine.start(id).await.unwrap();
    let (home, record) = bench.engine.known(id).unwrap();
    // As on a disk without room for it.
    fs::create_dir(home.dir.join("excess.json.new")).unwrap();
    let found = async || bench.engine.find(id).await.unwrap().map(|found| (found.state, found.excess));
    let at_its_end = async {
        assert_eq!(bench.engine.ended().await, *id);
        found().await
    };
    let (stopped, seen) = tokio::join!(bench.engine.stop_for(&home, &record, Excess::Disk), at_its_end);
    assert!(stopped.is_err(), "it was not written down");
    let over = Some((ContainerState::Stopped, Some(Excess::Disk)));
    assert_eq!([seen, found().await], [over, over]);
    let observed = bench.engine.observe().await.unwrap();
    assert!(observed.iter().any(|seen| seen.id == *id && seen.excess == Some(Excess::Disk)), "{observed:?}");

    bench.engine.start(id).await.unwrap();
    bench.engine.stop(id, Duration::ZERO).await.unwrap();
    assert_eq!(found().await, Some((ContainerState::Stopped, None)), "it was started since");
    bench.engine.remove(id).await.unwrap();
}
