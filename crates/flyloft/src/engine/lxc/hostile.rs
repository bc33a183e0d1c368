//! What a container must not be able to do. Each test tries it, and fails if it succeeds.

use std::os::unix::fs::MetadataExt;

use super::bench::Bench;
use super::tests::{build, build_layer, sh, spec};
use crate::engine::*;

async fn started(bench: &Bench, id: &str, command: &str, limits: Limits) -> ContainerId {
    let mut spec = spec(bench, id, command);
    spec.limits = limits;
    bench.engine.create(&spec).await.unwrap();
    bench.engine.start(&spec.id).await.unwrap();
    spec.id
}

/// Does something as the container's root, as PID 1 could.
async fn as_root(bench: &Bench, id: &ContainerId, script: &str) -> (String, i32) {
    let (home, _) = bench.engine.known(id).unwrap();
    let cmd = super::attach::tool("lxc-attach", &home).args(["--clear-env", "--", "sh", "-c", script]);
    match cmd.run().await {
        Ok(output) => (String::from_utf8_lossy(&output.stdout).into_owned(), 0),
        Err(error) => (error.to_string(), error.code().unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn even_the_containers_root_neither_mounts_nor_nests_nor_makes_devices() {
    let bench = Bench::open().await;
    let id = started(&bench, "web", "sleep 1000", Limits::default()).await;
    for attempt in [
        "mount -t tmpfs none /mnt",
        "mount --bind /app /mnt",
        "mount -o remount,rw /flyloft",
        "umount /proc/sys",
        "unshare --user true",
        "unshare --mount true",
        "unshare --net true",
        "mknod /app/disk b 8 0",
        "mknod /app/kmsg c 1 11",
        "chroot / true",
        "echo 1 > /proc/sys/kernel/panic",
        "echo h > /proc/sysrq-trigger",
        "echo x > /flyloft/x",
        "dmesg",
        "python3 -c 'import socket; socket.socket(40, socket.SOCK_STREAM)'",
        "python3 -c 'import socket; socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)'",
        "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'",
    ] {
        let (said, code) = as_root(&bench, &id, attempt).await;
        assert_ne!(code, 0, "`{attempt}` worked: {said}");
    }
    let (said, code) = as_root(&bench, &id, "unshare --help && chown app /srv && mknod /app/pipe p").await;
    assert_eq!(code, 0, "what is allowed works: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn system_calls_that_make_namespaces_are_refused_by_either_door() {
    let bench = Bench::open().await;
    let id = started(&bench, "web", "sleep 1000", Limits::default()).await;
    // clone3 and io_uring_setup must look absent, so that C libraries turn to calls whose arguments the filter sees.
    let script = "perl -e 'for ([435, 0, 0], [56, 0x10000011, 0, 0, 0, 0], [272, 0x10000000], [425, 1, 0]) {
        my ($number, @arguments) = @$_;
        $! = 0;
        my $result = syscall($number, @arguments);
        exit if $result == 0 && $number == 56;
        print $! + 0, \"\n\";
    }'";
    if cfg!(target_arch = "x86_64") {
        let (out, code) = as_root(&bench, &id, script).await;
        assert_eq!((out.as_str(), code), ("38\n1\n1\n38\n", 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setuid_program_of_a_container_is_nobodys_on_the_host() {
    let bench = Bench::open().await;
    let id = started(&bench, "web", "sleep 1000", Limits::default()).await;
    let (said, code) = as_root(&bench, &id, "cp /bin/sh /app/sh && chmod 6755 /app/sh").await;
    assert_eq!(code, 0, "{said}");
    let (home, record) = bench.engine.known(&id).unwrap();
    for path in [home.upper().join("app/sh"), home.merged().join("app/sh")] {
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).unwrap());
        assert_eq!(owner, record.slot.uid_base(), "it is not the host's root's");
        // An ordinary user of the host does not get there at all.
        let ran = crate::exec::Cmd::new(&path).args(["-c", "true"]).user(65_534).run().await;
        assert!(ran.is_err(), "{}", path.display());
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: Vec<&str> = table.lines().filter(|line| line.contains(bench.instance())).collect();
    assert!(!mounts.is_empty());
    for mount in mounts {
        assert!(mount.contains("nosuid") && mount.contains("nodev"), "{mount}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_step_leaves_no_setuid_program_in_a_layer() {
    let bench = Bench::open().await;
    build_layer(&bench, "aa01", "cp /bin/sh own && chmod 6755 own && ls -l own").await.unwrap();
    let program = bench.dir.path().join("engine/layers/aa01/tree/app/own");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(program).unwrap());
    assert_eq!(mode & 0o7777, 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_sees_nothing_of_the_daemons_environment() {
    let bench = Bench::open().await;
    let id = started(&bench, "web", "env; sleep 1000", Limits::default()).await;
    let (env, _) = sh(&bench, &id, "env; cat /proc/1/environ 2>/dev/null").await;
    // cargo and nextest set dozens of variables for this process.
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")));
    assert!(!env.contains("CARGO") && !env.contains("NEXTEST"), "{env}");
    let names: Vec<&str> = env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let known = ["HOME", "PATH", "LANG", "PWD", "container", "TERM", "USER", "SHLVL", "_", "OLDPWD"];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_never_become_settings_of_lxc() {
    let bench = Bench::open().await;
    let mark = bench.dir.path().join("pwned");
    let value = format!("x\nlxc.hook.pre-start = /usr/bin/touch {}", mark.display());
    let mut web = spec(&bench, "web", "sleep 1000");
    web.env.insert("EVIL".to_owned(), value.clone());
    web.processes[0].env.insert("EVIL\nlxc.hook.pre-start".to_owned(), value.clone());
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    assert!(!mark.exists());
    let (seen, _) = sh(&bench, &web.id, "printf %s \"$EVIL\"").await;
    assert_eq!(seen, value, "and the app gets it as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_and_a_memory_hog_harm_only_themselves() {
    let bench = Bench::open().await;
    let limits = Limits { pids: 64, memory: 64 << 20, swap: 0, ..Limits::default() };
    let bomb = "python3 -c 'import os, time
while True:
    try:
        if os.fork() == 0: time.sleep(1000)
    except OSError: time.sleep(0.1)'";
    let bomb = started(&bench, "bomb", bomb, limits.clone()).await;
    let hog = "python3 -c 'x = []\nwhile True: x.append(bytes(1 << 20))'";
    let hog = started(&bench, "hog", hog, limits).await;
    let good = started(&bench, "good", "sleep 1000", Limits::default()).await;
    conformance::eventually("the bomb has gone off", async || bench.engine.stats(&bomb).await.unwrap().pids > 50).await;
    assert!(bench.engine.stats(&bomb).await.unwrap().pids <= 64);
    let killed = async || {
        let running = super::Running::find(&bench.engine.known(&hog).unwrap().0).unwrap();
        running.groups(bench.engine.layout).unwrap().oom_kills().unwrap() > 0
    };
    conformance::eventually("the hog has been killed", killed).await;
    assert!(bench.engine.stats(&hog).await.unwrap().memory <= 64 << 20);
    assert_eq!(sh(&bench, &good, "echo well").await, ("well\n".to_owned(), 0));
    let refused = async || {
        let spec = ExecSpec { argv: vec!["true".to_owned()], env: BTreeMap::new(), terminal: None };
        matches!(bench.engine.exec(&bomb, spec).await, Err(EngineError::Crowded { limit: 64, .. }))
    };
    conformance::eventually("there is no room for a command", refused).await;
    // And they can be removed.
    for id in [&bomb, &hog] {
        bench.engine.remove(id).await.unwrap();
    }
}

/// Fills a file that has no name. It ends by itself, so that a test that fails leaves room on the disk.
const NAMELESS: &str = r#"exec python3 -c 'import os, time
file = os.open("/app/file", os.O_CREAT | os.O_RDWR)
os.unlink("/app/file")
for _ in range(600): os.write(file, bytes(1 << 20))
time.sleep(1000)'"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_hog_is_stopped_and_the_engine_and_its_log_say_why() {
    let bench = Bench::open().await;
    let limits = Limits { disk: 100 << 20, ..Limits::default() };
    for (id, command) in [("hog", "cat /dev/zero > big; sleep 1000"), ("sly", NAMELESS)] {
        let hog = started(&bench, id, command, limits.clone()).await;
        tokio::time::timeout(Duration::from_secs(120), bench.engine.excess()).await.expect("it is stopped");
        let seen = bench.engine.observe().await.unwrap().into_iter().find(|found| found.id == hog).unwrap();
        assert_eq!((seen.state, seen.excess), (ContainerState::Stopped, Some(Excess::Disk)), "{id}");
        let mut log = String::new();
        let mut reader = bench.engine.logs(&hog, 1, false).await.unwrap();
        tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut log).await.unwrap();
        assert!(log.contains(" flyloft | it was stopped: it has outgrown its disk limit of 100MiB"), "{log}");
    }
    // Whoever starts it all the same has it as any other that runs.
    let hog = ContainerId("sly".to_owned());
    bench.engine.start(&hog).await.unwrap();
    bench.engine.stop(&hog, Duration::ZERO).await.unwrap();
    let seen = bench.engine.observe().await.unwrap().into_iter().find(|found| found.id == hog).unwrap();
    assert_eq!(seen.excess, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_step_cannot_outgrow_its_disk_in_a_file_without_a_name() {
    let bench = Bench::open().await;
    let built = build(&bench, NAMELESS, |run| run.limits.disk = 20 << 20).await;
    assert!(matches!(built, Err(EngineError::OutOfDisk { limit, .. }) if limit == 20 << 20), "{built:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_a_name_are_found_wherever_they_are_hidden_and_count_once() {
    let bench = Bench::open().await;
    // The file of a program that runs is mapped, and nobody has it open.
    let script = r#"cp /bin/sleep mapped; ./mapped 1000 &
until grep -q mapped /proc/$!/maps; do :; done
rm mapped
exec python3 -c 'import _thread, os, time
def nameless(name):
    file = os.open(name, os.O_CREAT | os.O_RDWR)
    os.unlink(name)
    os.write(file, bytes(8 << 20))
    return file
twice = nameless("/app/twice")
os.dup(twice)
if os.fork() == 0: time.sleep(1000)
memory = nameless("/dev/shm/memory")
named = os.open("/app/named", os.O_CREAT | os.O_RDWR)
os.write(named, bytes(8 << 20))
def apart():
    os.unshare(os.CLONE_FILES)
    nameless("/app/apart")
    print("hidden", flush=True)
    time.sleep(1000)
_thread.start_new_thread(apart, ())
time.sleep(1000)'"#;
    let hider = started(&bench, "hider", script, Limits::default()).await;
    let hidden = async || {
        let mut log = String::new();
        let mut reader = bench.engine.logs(&hider, 20, false).await.unwrap();
        tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut log).await.unwrap();
        assert!(!log.contains("Error"), "{log}");
        log.contains("hidden")
    };
    conformance::eventually("all is hidden", hidden).await;
    let (home, running) = bench.engine.running(&hider).unwrap();
    let held = super::held::measure(&home, &running.groups(bench.engine.layout).unwrap()).unwrap();
    assert_eq!((held.inodes, held.bytes >> 20), (3, 16));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_bounded() {
    let bench = Bench::open().await;
    let flood = started(&bench, "flood", "yes 'a line of output that never ends'", Limits::default()).await;
    let (home, _) = bench.engine.known(&flood).unwrap();
    let rotated = home.dir.join("console.log.1");
    conformance::eventually("the log was rotated", async || rotated.exists()).await;
    let first = std::fs::metadata(&rotated).unwrap();
    let again = async || std::fs::metadata(&rotated).is_ok_and(|now| now.ino() != first.ino());
    conformance::eventually("it was rotated again", again).await;
    // Each is as large as it ever gets.
    let most = bench.engine.bounds.logs / 2;
    assert!(first.len() > most / 4 && first.len() <= most, "{} of {most}", first.len());
    let names = std::fs::read_dir(&home.dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let logs: Vec<String> = names.filter(|name| name.starts_with("console.log")).collect();
    assert!(logs.iter().all(|name| ["console.log", "console.log.1"].contains(&name.as_str())), "{logs:?}");
    bench.engine.remove(&flood).await.unwrap();
}
