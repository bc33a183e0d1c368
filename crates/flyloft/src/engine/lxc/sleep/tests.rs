//! Sleep for real: on the swap of this machine, which `script/setup --test` arranges where there is none.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use super::super::bench::Bench;
use super::super::cgroup::Groups;
use super::super::tests::{build_layer, sh, spec};
use super::super::{container, pagemap, pages};
use crate::engine::conformance::eventually;
use crate::engine::*;
use crate::machine::Memory;

const MIB: u64 = 1 << 20;

fn demand_swap() {
    assert!(!Memory::look().swaps.is_empty(), "this test needs swap: run `script/setup --test`");
}

/// Fills 8 MiB with what compresses to a third, forks, and says when both are ready. Once there is a file `go`, both
/// write a digest of what they have.
const FORKED: &str = "exec python3 -c '
import hashlib, os, random, time
random.seed(7)
heap = b\"\".join(random.randbytes(1365) + bytes(2731) for _ in range(2048))
name = \"child\" if os.fork() == 0 else \"parent\"
open(name + \".ready\", \"w\").close()
while not os.path.exists(\"go\"): time.sleep(0.01)
open(name + \".new\", \"w\").write(hashlib.sha256(heap).hexdigest())
os.rename(name + \".new\", name)
time.sleep(1000)
'";

async fn forked(bench: &Bench) -> ContainerId {
    let web = spec(bench, "web", FORKED);
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let app = bench.dir.path().join("engine/containers/web/upper/app");
    let ready = async || app.join("child.ready").exists() && app.join("parent.ready").exists();
    eventually("both processes have their heap", ready).await;
    web.id
}

async fn digests(bench: &Bench, id: &ContainerId) -> Vec<String> {
    sh(bench, id, "touch go").await;
    let app = bench.dir.path().join("engine/containers/web/upper/app");
    eventually("both have looked at it", async || app.join("child").exists() && app.join("parent").exists()).await;
    ["parent", "child"].iter().map(|name| std::fs::read_to_string(app.join(name)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_processes_have_in_common_goes_too_and_comes_back_whole() {
    demand_swap();
    let bench = Bench::open().await;
    let id = forked(&bench).await;
    let awake = bench.engine.stats(&id).await.unwrap();
    assert!(awake.memory > 8 * MIB, "{awake:?}");
    bench.engine.freeze(&id).await.unwrap();
    let pid_file = bench.dir.path().join("engine/containers/web/monitor.pid");
    let monitor = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    let of_lxc = || pages::mappings(monitor).unwrap().iter().map(|mapping| mapping.present).sum::<u64>();
    let before = of_lxc();
    for depth in [Depth::Shallow, Depth::Deep, Depth::Deep] {
        let held = bench.engine.offload(&id, depth).await.unwrap();
        assert!(held.resident < 3 * MIB && held.moved() > 16 * MIB, "{depth:?}: {held:?}");
        assert!(of_lxc() < before / 4, "LXC's own process holds {} of {before} bytes", of_lxc());
        let deep = depth == Depth::Deep && bench.engine.abilities().write_out;
        match held.kept {
            None => assert!(!deep || held.compressed < MIB && held.disk > 16 * MIB, "{held:?}"),
            why => assert_eq!((why, depth), (Some(Kept::NoDisk), Depth::Deep), "{held:?}"),
        }
    }
    bench.engine.thaw(&id).await.unwrap();
    let digests = digests(&bench, &id).await;
    let python = "import hashlib, random; random.seed(7); print(hashlib.sha256(b\"\".join(random.randbytes(1365) + bytes(2731) for _ in range(2048))).hexdigest())";
    let (expected, _) = sh(&bench, &id, &format!("python3 -c '{python}'")).await;
    assert_eq!(digests, [expected.trim(), expected.trim()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_frozen_is_not_measured_until_it_is_thawed_also_by_the_next_daemon() {
    let mut bench = Bench::open().await;
    let web = spec(&bench, "web", "sleep 1000");
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    bench.engine.freeze(&web.id).await.unwrap();
    let written = bench.dir.path().join("engine/containers/web/upper/written");
    let measure = async |bench: &Bench, known| bench.engine.measure_all(&known, false).await.unwrap();
    for _ in 0..2 {
        let _ = std::fs::remove_file(&written);
        let first = measure(&bench, BTreeMap::new()).await;
        // Nobody in the container could.
        std::fs::write(&written, vec![1; 1 << 20]).unwrap();
        assert_eq!(measure(&bench, first.clone()).await, first);
        bench.reopen().await;
    }
    bench.engine.thaw(&web.id).await.unwrap();
    let awake = measure(&bench, BTreeMap::new()).await;
    assert!(awake[&web.id].named.bytes >= MIB, "{awake:?}");
    std::fs::write(&written, []).unwrap();
    let next = measure(&bench, awake).await;
    assert!(next[&web.id].named.bytes < MIB, "{next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sibling_reads_stays_in_memory_when_another_falls_asleep() {
    demand_swap();
    let bench = Bench::open().await;
    build_layer(&bench, "aa01", "head -c 20000000 /dev/urandom > shared").await.unwrap();
    let file = bench.dir.path().join("engine/layers/aa01/tree/app/shared");
    // So that it is the sleeper who has it read from the disk, and is charged for it.
    drop_from_memory(&file);
    assert_eq!(in_memory(&file), 0);
    let python = std::fs::read_dir(bench.dir.path().join("engine/layers").join(&bench.base.0).join("tree/usr/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("python3."))
        .unwrap();
    let read = "exec python3 -c '
import time
heap = open(\"shared\", \"rb\").read()
open(\"ready\", \"w\").close()
time.sleep(1000)
'";
    let mut sleeper = spec(&bench, "sleeper", read);
    sleeper.image.push(LayerId("aa01".to_owned()));
    let mut awake = spec(&bench, "awake", "sleep 1000");
    awake.image.push(LayerId("aa01".to_owned()));
    for container in [&sleeper, &awake] {
        bench.engine.create(container).await.unwrap();
        bench.engine.start(&container.id).await.unwrap();
    }
    let ready = bench.dir.path().join("engine/containers/sleeper/upper/app/ready");
    eventually("the sleeper has read all of it", async || ready.exists()).await;
    assert_eq!(sh(&bench, &awake.id, "cat shared > /dev/null").await.1, 0);
    assert_eq!(sh(&bench, &awake.id, "cat /usr/bin/python3 > /dev/null").await.1, 0);
    let before = [in_memory(&file), in_memory(&python)];
    assert!(before[0] > 20_000_000 / 4096 * 99 / 100 && before[1] > 0, "{before:?}");

    bench.engine.freeze(&sleeper.id).await.unwrap();
    for depth in [Depth::Shallow, Depth::Deep] {
        let held = bench.engine.offload(&sleeper.id, depth).await.unwrap();
        assert!(held.moved() > MIB, "it has gone to sleep: {held:?}");
        // Others on this machine may need a page of them.
        let after = [in_memory(&file), in_memory(&python)];
        let still = before.iter().zip(&after).all(|(before, after)| *after >= before * 98 / 100);
        assert!(still, "{depth:?}: {before:?} became {after:?}");
    }
}

/// Pages of a file that are in the page cache: mincore(2).
fn in_memory(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len() as usize;
    let mut pages = vec![0_u8; length.div_ceil(4096)];
    // SAFETY: the mapping is as long as the file, lives until it is unmapped here, and is never looked into.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED);
        assert_eq!(libc::mincore(at, length, pages.as_mut_ptr()), 0);
        libc::munmap(at, length);
    }
    pages.iter().filter(|&&page| page & 1 == 1).count() as u64
}

fn drop_from_memory(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wake_touched_is_brought_in_with_the_next() {
    demand_swap();
    let bench = Bench::open().await;
    let id = forked(&bench).await;
    let home = bench.engine.home(&id);
    bench.engine.freeze(&id).await.unwrap();
    bench.engine.offload(&id, Depth::Shallow).await.unwrap();
    bench.engine.thaw(&id).await.unwrap();
    digests(&bench, &id).await;
    eventually("what it touched is noted", async || home.touched().exists()).await;

    let reads = bench.engine.reads()[&id].clone();
    bench.engine.freeze(&id).await.unwrap();
    assert!(reads.is_cancelled(), "what sleeps again is left alone");
    let groups = container::Running::find(&home).unwrap().groups(bench.engine.layout).unwrap();
    // From where memory is compressed, and from a disk.
    for depth in [Depth::Shallow, Depth::Deep] {
        bench.engine.offload(&id, depth).await.unwrap();
        assert!(groups.charged().unwrap().anonymous < MIB);
        // Frozen as it is, it brings nothing in itself.
        let held = super::asleep(&home, &groups).unwrap().unwrap();
        super::touched::prefetch(&home, &held, &reads).unwrap();
        assert!(mapped(&groups) < MIB, "nobody reads any more");
        super::touched::prefetch(&home, &held, &CancellationToken::new()).unwrap();
        let there = async || groups.charged().unwrap().anonymous > 16 * MIB;
        eventually("its heap is in memory again", there).await;
        assert!(mapped(&groups) > 16 * MIB, "{depth:?}: it need not fault");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_has_no_use_for_any_more_is_not_brought_in_for_ever() {
    demand_swap();
    let bench = Bench::open().await;
    let id = forked(&bench).await;
    let home = bench.engine.home(&id);
    // Once it needs its heap, and then never again.
    digests(&bench, &id).await;
    let groups = container::Running::find(&home).unwrap().groups(bench.engine.layout).unwrap();
    super::touched::note(&home, &groups).unwrap();
    let mut mapped_after = Vec::new();
    for _ in 0..10 {
        assert!(groups.freeze(super::PATIENCE).unwrap());
        let held = bench.engine.offload(&id, Depth::Shallow).await.unwrap();
        super::touched::prefetch(&home, &held, &CancellationToken::new()).unwrap();
        mapped_after.push(mapped(&groups));
        groups.thaw().unwrap();
        super::touched::note(&home, &groups).unwrap();
    }
    assert!(mapped_after[..8].iter().all(|&bytes| bytes > 16 * MIB), "{mapped_after:?}");
    assert!(mapped_after[9] < 8 * MIB, "{mapped_after:?}");
}

/// As servers do: the parent looks every tenth of a second whether the child has been heard of in the last one.
const WATCHED: &str = "exec python3 -c '
import os, time
beat = lambda: time.monotonic() - os.stat(\"beat\").st_mtime
def hear(): os.utime(\"beat\", (time.monotonic(),) * 2)
open(\"beat\", \"w\").close()
hear()
if os.fork() == 0:
    while True:
        hear()
        time.sleep(0.1)
open(\"ready\", \"w\").close()
while True:
    if beat() > 1: open(\"lost\", \"w\").close()
    time.sleep(0.1)
'";

#[tokio::test(flavor = "multi_thread")]
async fn who_was_frozen_is_heard_of_before_whoever_watches_over_it_looks() {
    demand_swap();
    let bench = Bench::open().await;
    // Watchers that are not the container's first process, nor its child.
    let web = spec(&bench, "web", &format!("sh -c {}; true", shell_words(WATCHED)));
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let app = bench.dir.path().join("engine/containers/web/upper/app");
    eventually("both run", async || app.join("ready").exists()).await;
    let (mut in_time, mut rounds) = (0, 0..32);
    while in_time < 8 {
        let round = rounds.next().expect("most children wake in time");
        let depth = if round % 2 == 0 { Depth::Shallow } else { Depth::Deep };
        bench.engine.freeze(&web.id).await.unwrap();
        bench.engine.offload(&web.id, depth).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let thawed = bench.engine.thaw(&web.id).await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        let waited = thawed.released().expect("the parent goes on");
        assert!(waited > Duration::ZERO, "{thawed:?}");
        // On a machine that is busy enough the child is not waited for any longer.
        let is_lost = std::fs::remove_file(app.join("lost")).is_ok();
        if waited < Duration::from_millis(100) {
            assert!(!is_lost, "after sleep {round}: {thawed:?}");
            in_time += 1;
        }
    }
    let groups = container::Running::find(&bench.engine.home(&web.id)).unwrap().groups(bench.engine.layout).unwrap();
    let stopped = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ");
    assert!(!groups.processes().unwrap().iter().any(stopped), "all go on");

    // A daemon that dies in the middle of a wake.
    assert!(groups.freeze(super::PATIENCE).unwrap());
    let home = bench.engine.home(&web.id);
    let init = container::Running::find(&home).unwrap().init;
    // As if it had slept for long.
    std::fs::remove_file(home.before()).unwrap();
    std::mem::forget(super::parents::hold_back(&home, &groups, init, false).unwrap());
    groups.thaw().unwrap();
    eventually("parents are stopped", async || groups.processes().unwrap().iter().any(stopped)).await;
    // Whoever has no children any more goes on as well.
    let parent = groups.processes().unwrap().into_iter().rfind(stopped).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    for child in children.split_whitespace() {
        let child = nix::unistd::Pid::from_raw(child.parse().unwrap());
        nix::sys::signal::kill(child, Signal::SIGKILL).unwrap();
    }
    super::parents::let_go(&home).unwrap();
    eventually("all go on", async || !groups.processes().unwrap().iter().any(stopped)).await;
    assert!(!home.held_back().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_app_has_stopped_itself_stays_so() {
    let bench = Bench::open().await;
    let web = spec(&bench, "web", "sh -c 'sleep 1000 & echo $$ > pid; kill -STOP $$; wait'");
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let home = bench.engine.home(&web.id);
    let groups = container::Running::find(&home).unwrap().groups(bench.engine.layout).unwrap();
    let stopped = || {
        let of = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") T ");
        groups.processes().unwrap().iter().any(of)
    };
    eventually("it has stopped itself", async || stopped()).await;
    bench.engine.freeze(&web.id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.engine.thaw(&web.id).await.unwrap();
    bench.engine.settle().await;
    assert!(stopped());
    bench.engine.take_stock().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(stopped());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_written_down_a_container_sleeps_and_wakes_all_the_same() {
    demand_swap();
    let bench = Bench::open().await;
    let id = forked(&bench).await;
    let home = bench.engine.home(&id);
    // As on a full disk.
    for note in [home.before(), home.asleep(), home.held_back()] {
        std::fs::create_dir(note.with_extension("json.new")).unwrap();
    }
    bench.engine.freeze(&id).await.unwrap();
    let held = bench.engine.offload(&id, Depth::Shallow).await.unwrap();
    assert!(held.moved() > 16 * MIB, "{held:?}");
    assert!(!home.before().exists() && !home.asleep().exists());
    bench.engine.thaw(&id).await.unwrap();
    digests(&bench, &id).await;
}

#[tokio::test]
async fn the_groups_of_a_process_that_has_ended_are_not_those_of_the_machine() {
    use std::process::Stdio;
    // Nobody waits for it yet.
    let child = crate::exec::Cmd::new("true").spawn(Stdio::null(), Stdio::null(), Stdio::null()).unwrap();
    let pid = child.id().unwrap() as i32;
    while !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
        std::thread::sleep(Duration::from_millis(1));
    }
    let layout = super::super::cgroup::Layout::detect().unwrap();
    assert!(Groups::of(layout, "anybody", pid).is_err());
    drop(child);
}

fn shell_words(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What its processes have in memory without having to ask the kernel for it.
fn mapped(groups: &Groups) -> u64 {
    let sight = pagemap::Sight::default();
    let of = |pid| pagemap::runs(pid, &super::super::pages::mappings(pid).unwrap(), &sight).unwrap();
    let own = |pid| pagemap::size(&pagemap::addresses(&of(pid), |place| place == pagemap::Place::Own));
    groups.processes().unwrap().into_iter().map(own).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_killed_asleep_starts_like_any_other() {
    demand_swap();
    let bench = Bench::open().await;
    let id = forked(&bench).await;
    bench.engine.freeze(&id).await.unwrap();
    bench.engine.offload(&id, Depth::Deep).await.unwrap();
    let running = container::Running::find(&bench.engine.home(&id)).unwrap();
    for pid in [running.init, running.monitor] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    let state = async || bench.engine.find(&id).await.unwrap().unwrap().state;
    eventually("it is seen to have stopped", async || state().await == ContainerState::Stopped).await;
    assert!(matches!(bench.engine.thaw(&id).await, Err(EngineError::NotRunning(_))));
    bench.engine.start(&id).await.unwrap();
    assert_eq!(bench.engine.stats(&id).await.unwrap().asleep, None);
    assert_eq!(sh(&bench, &id, "echo up").await, ("up\n".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_killed_while_it_was_frozen_is_not_thawed_but_found_to_have_ended() {
    let bench = Bench::open().await;
    let id = forked(&bench).await;
    bench.engine.freeze(&id).await.unwrap();
    let running = container::Running::find(&bench.engine.home(&id)).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.init), Signal::SIGKILL).unwrap();
    assert!(matches!(bench.engine.thaw(&id).await, Err(EngineError::NotRunning(_))));
    bench.engine.start(&id).await.unwrap();
    assert_eq!(bench.engine.find(&id).await.unwrap().unwrap().state, ContainerState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_to_dump_core_when_it_goes_on_is_doomed_and_who_sees_to_a_signal_itself_is_not() {
    let bench = Bench::open().await;
    let id = forked(&bench).await;
    bench.engine.freeze(&id).await.unwrap();
    let groups = container::Running::find(&bench.engine.home(&id)).unwrap().groups(bench.engine.layout).unwrap();
    let is_app = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("python");
    let app: Vec<i32> = groups.processes().unwrap().into_iter().filter(is_app).collect();
    let send = |signal| {
        app.iter().for_each(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), signal).unwrap());
    };
    assert_eq!(app.len(), 2);
    for (signal, ends) in [(Signal::SIGWINCH, false), (Signal::SIGINT, false), (Signal::SIGABRT, true)] {
        send(signal);
        assert_eq!(bench.engine.is_doomed(&id).await.unwrap(), ends, "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_to_wake_is_not_moved_to_the_end() {
    demand_swap();
    let bench = Bench::open().await;
    let heap = "exec python3 -c '
import random, time
heap = random.randbytes(400 << 20)
open(\"ready\", \"w\").close()
time.sleep(1000)
'";
    let web = spec(&bench, "web", heap);
    bench.engine.create(&web).await.unwrap();
    bench.engine.start(&web.id).await.unwrap();
    let ready = bench.dir.path().join("engine/containers/web/upper/app/ready");
    eventually("it has its heap", async || ready.exists()).await;
    bench.engine.freeze(&web.id).await.unwrap();
    let groups = container::Running::find(&bench.engine.home(&web.id)).unwrap().groups(bench.engine.layout).unwrap();
    let begun = async {
        eventually("it has begun", async || groups.charged().unwrap().anonymous < 395 * MIB).await;
    };
    tokio::select! {
        _ = bench.engine.offload(&web.id, Depth::Shallow) => {}
        () = begun => {}
    }
    bench.engine.thaw(&web.id).await.unwrap();
    assert!(groups.charged().unwrap().anonymous > 100 * MIB, "most of it was never moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_the_disk_is_compressed_when_it_sleeps_shallowly_again() {
    demand_swap();
    let bench = Bench::open().await;
    let abilities = bench.engine.abilities();
    if !(abilities.compress && abilities.write_out) {
        eprintln!("not tried: this machine has no zswap in front of a disk, so that there is one depth only");
        return;
    }
    let id = forked(&bench).await;
    bench.engine.freeze(&id).await.unwrap();
    let deep = bench.engine.offload(&id, Depth::Deep).await.unwrap();
    assert!(deep.disk > 16 * MIB && deep.compressed == 0, "{deep:?}");
    bench.engine.thaw(&id).await.unwrap();
    digests(&bench, &id).await;
    bench.engine.freeze(&id).await.unwrap();
    let shallow = bench.engine.offload(&id, Depth::Shallow).await.unwrap();
    assert!(shallow.compressed > 16 * MIB && shallow.pool < shallow.compressed, "{shallow:?}");
}
