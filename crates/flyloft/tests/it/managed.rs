//! Servers that flyloft runs itself, with an app that uses them.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Flyloft, text, wait_for};
use crate::servers::forget_servers;
use crate::services::NOTES;

/// What `services ls` says of a server that flyloft runs.
fn listed(flyloft: &Flyloft, name: &str) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&flyloft.ok(&["services", "ls", "--json"])).unwrap();
    let all = all["servers"].as_array().unwrap();
    all.iter().find(|server| server["name"] == name).expect("it is listed")["managed"].clone()
}

/// Its PID 1, as the host numbers it.
fn init_of(flyloft: &Flyloft, name: &str) -> Pid {
    Pid::from_raw(flyloft.processes_of(listed(flyloft, name)["container"].as_str().unwrap()).1)
}

#[test]
fn a_database_on_a_server_that_flyloft_runs_outlives_the_daemon_the_container_and_an_upgrade() {
    let mut flyloft = Flyloft::start();
    forget_servers(&mut flyloft);
    let added = flyloft.ok(&["services", "add", "it-own", "--kind", "postgres", "--managed", "--memory", "192MiB"]);
    assert!(added.contains("server `it-own` is added: postgres ") && added.contains("run by flyloft"), "{added}");
    let repository = flyloft.repository(
        "it-managed",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "psycopg[binary]==3.2.13\n"),
            ("app.json", r#"{"addons": ["postgres"]}"#),
            ("server.py", NOTES),
        ],
    );
    repository.pushed(&["main"]);
    let get = |path: &str| flyloft.get("it-managed/main", path).body;
    assert_eq!(get("/add/hello"), "hello");
    let addresses = listed(&flyloft, "it-own")["addresses"].as_array().unwrap().clone();
    let addresses: Vec<&str> = addresses.iter().map(|address| address.as_str().unwrap()).collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");

    // Who has nothing there does not reach it, whichever way.
    flyloft.ok(&["apps", "set", "it-managed", "services=none"]);
    flyloft.ok(&["set", "it-managed/main", "services=postgres"]);
    repository.pushed(&["main:other"]);
    for address in &addresses {
        let reach = format!("/reach/{address}/5432");
        assert_eq!(get(&reach), "open", "{address}");
        let closed = flyloft.get("it-managed/other", &reach).body;
        assert!(closed.contains("Error"), "{address}: {closed}");
    }
    assert!(get("/at/postgres").contains("permission denied for database"), "that is the administrator's");

    let init = init_of(&flyloft, "it-own");
    flyloft.stop();
    flyloft.serve();
    assert_eq!(init_of(&flyloft, "it-own"), init, "it goes on without a daemon");
    kill(init, Signal::SIGKILL).unwrap();
    let killed = Instant::now();
    wait_for("the server to be there again", || (flyloft.get("it-managed/main", "/").body == "hello").then_some(()));
    assert!(killed.elapsed().as_secs() < 20, "{:?}", killed.elapsed());

    // As after a reboot: nothing runs, and whoever is woken finds its database.
    flyloft.ok(&["off", "it-managed/main"]);
    let init = init_of(&flyloft, "it-own");
    flyloft.kill();
    kill(init, Signal::SIGKILL).unwrap();
    flyloft.serve();
    flyloft.ok(&["wake", "it-managed/main"]);
    assert_eq!(flyloft.get("it-managed/main", "/").body, "hello");

    let refused = text(&flyloft.cli(&["services", "upgrade", "it-own", "--stack", "debian-12"]));
    assert!(refused.contains("could not read what it has written"), "{refused}");
    let upgraded = flyloft.ok(&["services", "upgrade", "it-own", "--memory", "256MiB"]);
    assert!(upgraded.contains("server `it-own` is postgres "), "{upgraded}");
    assert_eq!(flyloft.get("it-managed/main", "/add/again").body, "hello again");
    assert_eq!(listed(&flyloft, "it-own")["memory"], 256 << 20);
    assert_eq!(listed(&flyloft, "it-own")["addresses"][0], addresses[0], "it is where it was");

    let work = tempfile::tempdir().unwrap();
    let told = flyloft.ok(&["backup", work.path().join("flyloft.backup").to_str().unwrap()]);
    assert!(told.contains("not in it are the data on it-own"), "{told}");

    let used = text(&flyloft.cli(&["services", "rm", "it-own", "--yes"]));
    assert!(used.contains("there is something on server `it-own`"), "{used}");
    flyloft.ok(&["destroy", "it-managed", "--yes"]);
    let asked = text(&flyloft.cli(&["services", "rm", "it-own"]));
    assert!(asked.contains("goes, with all data that are on it"), "{asked}");
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-own", "--yes"]).status.success().then_some(()));
    let left = |dir: &str| {
        let entries = std::fs::read_dir(flyloft.state.join("engine").join(dir)).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("server-")).count()
    };
    assert_eq!((left("containers"), left("volumes")), (0, 0));
}
