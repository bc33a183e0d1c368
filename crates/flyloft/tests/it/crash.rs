//! The daemon is killed, anywhere, and nothing is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Flyloft, available, run, wait_for};
use crate::push::{app, borrowed};

/// What the daemon has made on the machine, one line each.
pub fn traces(flyloft: &Flyloft) -> BTreeSet<String> {
    let state = &flyloft.state;
    let instance = fs::read_to_string(state.join("instance")).unwrap();
    let mine = |text: &str| text.contains(&instance) || text.contains(state.to_str().unwrap());
    let mut all = BTreeSet::new();

    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.extend(
        mounts.lines().filter(|line| mine(line)).map(|line| format!("mount {}", line.split(' ').nth(4).unwrap())),
    );
    let links = run(Command::new("ip").args(["-o", "link"]));
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    all.extend(names.filter(|name| mine(name)).map(|name| format!("link {}", name.split('@').next().unwrap())));
    // It fails for what goes meanwhile, such as another daemon's, and lists the others.
    let groups = Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "4", "-type", "d"]).output().unwrap();
    let groups = String::from_utf8_lossy(&groups.stdout);
    all.extend(groups.lines().filter(|path| mine(path)).map(|path| format!("cgroup {path}")));
    let rules = run(Command::new("nft").args(["list", "table", "inet", &format!("flyloft_{instance}")]));
    // Elements of sets name the link and the slot; the rules name the links' common prefix.
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric());
    let links = words.filter(|word| word.len() > 8 && word.starts_with("fl") && mine(word));
    all.extend(links.map(|word| format!("rule {word}")));
    for dir in ["containers", "staging", "tmp"] {
        all.extend(entries(&state.join("engine").join(dir)).map(|name| format!("{dir} {name}")));
    }
    all.extend(entries(Path::new("/run/flyloft-lxc")).filter(|name| mine(name)).map(|name| format!("run {name}")));
    for slot in entries(Path::new("/var/lib/flyloft-slots")) {
        let owner = fs::read_to_string(Path::new("/var/lib/flyloft-slots").join(&slot)).unwrap_or_default();
        all.extend(mine(&owner).then(|| format!("slot {slot}: {}", owner.trim())));
    }
    all
}

fn entries(dir: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().file_name().display().to_string())
}

#[test]
fn a_killed_daemon_leaves_containers_running_and_the_next_one_finds_them() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-kill", &borrowed(&app("hello"))).pushed(&["main"]);
    let before = traces(&flyloft);
    flyloft.kill();
    flyloft.serve();
    assert_eq!(flyloft.get("it-kill/main", "/").body, "hello");
    assert_eq!(traces(&flyloft), before);
    flyloft.ok(&["destroy", "it-kill", "--yes"]);
}

/// The daemon and its containers are killed, and it is started on a boot with this id.
fn reboot(flyloft: &mut Flyloft, boot: &str) {
    flyloft.kill();
    let instance = fs::read_to_string(flyloft.state.join("instance")).unwrap();
    let place = Path::new("/run/flyloft-lxc");
    for name in entries(place).filter(|name| name.contains(&instance)) {
        run(Command::new("lxc-stop").arg("--kill").arg("--lxcpath").arg(place).arg("--name").arg(name));
    }
    fs::write(flyloft.state.join("boot-id"), boot).unwrap();
    flyloft.serve();
}

#[test]
fn what_was_awake_before_a_reboot_is_off_after_it_until_somebody_visits() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-reboot", &borrowed(&app("hello"))).pushed(&["main"]);
    reboot(&mut flyloft, "another boot");
    assert!(flyloft.ok(&["show", "it-reboot/main"]).contains("off v1"));
    assert_eq!(flyloft.get("it-reboot/main", "/").body, "hello");
    assert!(flyloft.ok(&["show", "it-reboot/main"]).contains("awake v1"));
    flyloft.ok(&["destroy", "it-reboot", "--yes"]);
}

#[test]
fn what_is_pinned_starts_by_itself_after_a_reboot_as_far_as_there_is_memory() {
    let mut flyloft = Flyloft::start();
    let branches = ["main", "main:kept-1", "main:kept-2", "main:kept-3"];
    flyloft.repository("it-pinned", &borrowed(&app("hello"))).pushed(&branches);
    let kept = [1, 2, 3].map(|number| format!("it-pinned/kept-{number}"));
    for env in &kept {
        flyloft.ok(&["pin", env]);
    }
    let state = |flyloft: &Flyloft, env: &str| flyloft.why(env)["state"].as_str().unwrap().to_owned();
    reboot(&mut flyloft, "another boot");
    for env in &kept {
        wait_for("it to be awake", || (state(&flyloft, env) == "awake").then_some(()));
    }
    assert_eq!(state(&flyloft, "it-pinned/main"), "off");
    assert_eq!(flyloft.get("it-pinned/main", "/").body, "hello");

    // There is no room for anybody but for one that is alone.
    let told = |flyloft: &Flyloft, env: &str| flyloft.told(env, "wake-failed").len();
    let earlier = kept.each_ref().map(|env| told(&flyloft, env));
    flyloft.config = format!("[memory]\nreserve = \"{}B\"\n", available() + (1 << 30));
    reboot(&mut flyloft, "a third boot");
    let mut waiting = Vec::new();
    for (env, earlier) in kept.iter().zip(earlier) {
        let lacks_room = wait_for("it to be awake or told of", || match told(&flyloft, env) > earlier {
            true => Some(true),
            false => (state(&flyloft, env) == "awake").then_some(false),
        });
        waiting.extend(lacks_room.then_some(env));
    }
    assert!(waiting.len() >= 2, "{waiting:?} of {kept:?}");
    for env in waiting {
        assert_eq!(flyloft.why(env)["next"]["step"], "started again");
        flyloft.ok(&["off", env]);
        assert!(flyloft.why(env)["next"].is_null(), "{:#}", flyloft.why(env));
    }
    flyloft.ok(&["destroy", "it-pinned", "--yes"]);
}

#[test]
fn a_daemon_that_dies_at_any_step_of_a_deploy_comes_back_with_one_release_serving_and_nothing_left_over() {
    let mut flyloft = Flyloft::start();
    let empty = traces(&flyloft);
    flyloft.repository("it-steps", &borrowed(&app("v1"))).pushed(&["main"]);
    let mut serving = "v1".to_owned();
    let steps = ["source", "build", "services", "launch", "probe", "route"];
    let places = steps.iter().flat_map(|step| [format!("{step}.begun"), format!("{step}.done")]);
    for (number, place) in places.chain(["launch.created".to_owned(), "route.stored".to_owned()]).enumerate() {
        let version = format!("v{}", number + 2);
        flyloft.kill();
        flyloft.fault(String::leak(place.clone()));
        flyloft.serve();
        let files = app(&version);
        let repository = flyloft.repository("it-steps", &borrowed(&files));
        repository.rejected(&["main"]);
        flyloft.died();
        flyloft.serve();
        let answer = wait_for("an answer", || {
            let response = flyloft.get("it-steps/main", "/");
            (response.status == 200).then_some(response.body)
        });
        assert!(answer == serving || answer == version, "after {place}: {answer}");
        serving = answer;
        let is_container = |trace: &&String| trace.starts_with("containers ");
        let expected = empty.iter().filter(is_container).count() + 1;
        let what = format!("nothing but what serves after {place}");
        wait_for(&what, || (traces(&flyloft).iter().filter(is_container).count() == expected).then_some(()));
    }
    flyloft.ok(&["destroy", "it-steps", "--yes"]);
    let left: Vec<_> = traces(&flyloft).difference(&empty).cloned().collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_daemon_that_dies_in_the_middle_of_a_destroy_destroys_to_the_end_when_it_comes_back() {
    let mut flyloft = Flyloft::start();
    let empty = traces(&flyloft);
    for place in ["remove.begun", "off.half", "remove.swept"] {
        flyloft.repository("it-gone", &borrowed(&app(place))).pushed(&["main"]);
        let said = flyloft.state.join("transcripts");
        let before = entries(&said).count();
        flyloft.kill();
        flyloft.fault(place);
        flyloft.serve();
        assert!(!flyloft.cli(&["destroy", "it-gone/main", "--yes"]).status.success());
        flyloft.died();
        flyloft.serve();
        wait_for("the end", || (flyloft.cli(&["show", "it-gone/main"]).status.code() == Some(20)).then_some(()));
        assert_eq!(flyloft.get("it-gone/main", "/").status, 404);
        assert_eq!(entries(&said).count(), before - 1, "what it said is gone too");
        let left: Vec<_> = traces(&flyloft).difference(&empty).cloned().collect();
        assert!(left.is_empty(), "after {place}: {left:#?}");
    }
    // The name is free.
    flyloft.repository("it-gone", &borrowed(&app("again"))).pushed(&["main"]);
    assert_eq!(flyloft.get("it-gone/main", "/").body, "again");
    flyloft.ok(&["destroy", "it-gone", "--yes"]);
}

#[test]
fn a_boot_with_a_clock_that_is_weeks_ahead_destroys_nothing() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-clock", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.stop();
    let file = flyloft.state.join("clock");
    let text = fs::read_to_string(&file).unwrap();
    let words: Vec<i64> = text.split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
    let &[boot, seen, wall] = words.as_slice() else { panic!("{text}") };
    // To what is on record the wall is that far ahead now, whether it is wrong or the machine was off.
    let ahead = 20 * 86_400_000;
    fs::write(&file, format!("another-boot {boot} {} {}\n", seen - ahead, wall - ahead)).unwrap();
    let store = rusqlite::Connection::open(flyloft.state.join("store.db")).unwrap();
    let ago = "UPDATE environments SET state = json_set(state, '$.live.last_used', state ->> '$.live.last_used' - ?1)";
    assert_eq!(store.execute(ago, [ahead]).unwrap(), 1);
    store.close().unwrap();

    flyloft.serve();
    // A day has passed, which turns it off.
    let why = wait_for("it to be off", || Some(flyloft.why("it-clock/main")).filter(|why| why["state"] == "off"));
    assert_eq!(why["next"]["step"], "destroyed", "{why:#}");
    assert_eq!(flyloft.get("it-clock/main", "/").body, "hello");
    flyloft.ok(&["destroy", "it-clock", "--yes"]);
    flyloft.stop();
    fs::write(&file, text).unwrap();
}
