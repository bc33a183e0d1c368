//! The daemon is killed, anywhere, and nothing is lost.

use crate::harness::{Flyloft, run, wait_for};
use crate::push::{app, borrowed};

/// What a daemon makes on the machine, one line each.
fn traces() -> Vec<String> {
    let mut all = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.extend(mounts.lines().filter(|line| line.contains("/var/lib/flyloft-test")).map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        format!("mount {}", fields[4])
    }));
    let links = run(std::process::Command::new("ip").args(["-o", "link"]));
    all.extend(
        links
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .filter(|name| name.starts_with("fl"))
            .map(|name| format!("link {}", name.split('@').next().unwrap())),
    );
    let containers = std::fs::read_dir("/var/lib/flyloft-test/state/engine/containers").unwrap();
    all.extend(containers.map(|entry| format!("container {}", entry.unwrap().file_name().display())));
    all.sort();
    all
}

#[test]
fn a_killed_daemon_leaves_containers_running_and_the_next_one_finds_them() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-kill", &borrowed(&app("hello"))).pushed(&["main"]);
    let before = traces();
    flyloft.kill();
    flyloft.serve();
    assert_eq!(flyloft.get("it-kill/main", "/").body, "hello");
    assert_eq!(traces(), before);
    flyloft.ok(&["destroy", "it-kill", "--yes"]);
}

#[test]
fn a_daemon_that_dies_at_any_step_of_a_deploy_comes_back_with_one_release_serving_and_nothing_left_over() {
    let mut flyloft = Flyloft::start();
    let empty = traces();
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
        let mine = traces().into_iter().filter(|trace| trace.starts_with("container ")).count();
        assert_eq!(mine, empty.iter().filter(|trace| trace.starts_with("container ")).count() + 1, "after {place}");
    }
    flyloft.ok(&["destroy", "it-steps", "--yes"]);
    wait_for("nothing to be left", || (traces() == empty).then_some(()));
}
