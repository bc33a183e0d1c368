//! Servers that flyloft runs itself, with an app that uses them.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::backup;
use crate::data::with_input;
use crate::harness::{Flyloft, text, wait_for};
use crate::kinds::{MYSQL, SERVE};
use crate::push::{app, borrowed};
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
    assert_eq!((left(&flyloft, "containers"), left(&flyloft, "volumes")), (0, 0));
}

/// What there is of servers that flyloft runs.
fn left(flyloft: &Flyloft, dir: &str) -> usize {
    let entries = fs::read_dir(flyloft.state.join("engine").join(dir)).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("server-")).count()
}

#[test]
fn a_mariadb_that_flyloft_runs_has_data_to_begin_with_and_outlives_its_container_and_an_upgrade() {
    let mut flyloft = Flyloft::start();
    forget_servers(&mut flyloft);
    let added = flyloft.ok(&["services", "add", "it-maria", "--kind", "mariadb", "--managed", "--memory", "192MiB"]);
    assert!(added.contains("server `it-maria` is added: mysql ") && added.contains("run by flyloft"), "{added}");
    let repository = flyloft.repository(
        "it-own-maria",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "PyMySQL==1.1.1\n"),
            ("app.json", r#"{"addons": ["mysql"]}"#),
            ("server.py", &format!("{MYSQL}{SERVE}")),
        ],
    );
    repository.pushed(&["main"]);
    let get = |branch: &str, path: &str| flyloft.get(&format!("it-own-maria/{branch}"), path).body;
    assert_eq!(get("main", "/add/hello"), "hello");
    flyloft.ok(&["apps", "set", "it-own-maria", "services=mysql@it-own-maria/main"]);
    repository.pushed(&["main:copied"]);
    assert_eq!(get("copied", "/add/own"), "hello own");
    let name = flyloft.ok(&["run", "it-own-maria/main", "--", "printenv", "MYSQL_DATABASE"]);
    let refused = get("copied", &format!("/at/{}", name.trim()));
    assert!(refused.contains("Access denied"), "{refused}");
    let refused = get("copied", "/at/mysql");
    assert!(refused.contains("Access denied"), "that is the administrator's: {refused}");
    let looked = with_input(&flyloft, &["services", "mysql", "it-own-maria/copied"], "SELECT text FROM notes;\n");
    assert_eq!(String::from_utf8_lossy(&looked.stdout), "text\nhello\nown\n", "{}", text(&looked));

    kill(init_of(&flyloft, "it-maria"), Signal::SIGKILL).unwrap();
    wait_for("the server to be there again", || (get("main", "/") == "hello").then_some(()));
    let upgraded = flyloft.ok(&["services", "upgrade", "it-maria", "--memory", "256MiB"]);
    assert!(upgraded.contains("server `it-maria` is mysql "), "{upgraded}");
    assert_eq!((get("main", "/"), get("copied", "/")), ("hello".to_owned(), "hello own".to_owned()));
    let less = text(&flyloft.cli(&["services", "upgrade", "it-maria", "--disk", "1MiB"]));
    assert!(less.contains("the data on server `it-maria` take "), "{less}");

    flyloft.ok(&["destroy", "it-own-maria", "--yes"]);
    let gone = || flyloft.cli(&["services", "rm", "it-maria", "--yes"]).status.success().then_some(());
    wait_for("the server to go", gone);
    assert_eq!((left(&flyloft, "containers"), left(&flyloft, "volumes")), (0, 0));
}

#[test]
fn a_redis_that_flyloft_runs_keeps_what_was_written_over_its_death_and_an_upgrade() {
    const ENV: &str = "it-own-redis/main";
    let mut flyloft = Flyloft::start();
    forget_servers(&mut flyloft);
    let added = flyloft.ok(&["services", "add", "it-cache", "--kind", "redis", "--managed", "--memory", "192MiB"]);
    assert!(added.contains("server `it-cache` is added: redis ") && added.contains("run by flyloft"), "{added}");
    let mut files = app("hello");
    files.push(("app.json", r#"{"addons": ["redis"]}"#.to_owned()));
    flyloft.repository("it-own-redis", &borrowed(&files)).pushed(&["main"]);
    let prefix = flyloft.ok(&["run", ENV, "--", "printenv", "REDIS_PREFIX"]);
    let ask = |words: &str| {
        let asked = with_input(&flyloft, &["services", "redis-cli", ENV], &format!("{words}\n"));
        String::from_utf8_lossy(&asked.stdout).trim().to_owned()
    };
    let get = format!("GET {}x", prefix.trim());
    assert_eq!(ask(&format!("SET {}x kept", prefix.trim())), "OK");
    // What it has said is well is on the disk within a second.
    std::thread::sleep(std::time::Duration::from_secs(2));
    kill(init_of(&flyloft, "it-cache"), Signal::SIGKILL).unwrap();
    wait_for("the server to be there again", || (ask(&get) == "kept").then_some(()));
    flyloft.ok(&["services", "upgrade", "it-cache", "--memory", "256MiB"]);
    assert_eq!(ask(&get), "kept");
    flyloft.ok(&["destroy", "it-own-redis", "--yes"]);
    let gone = || flyloft.cli(&["services", "rm", "it-cache", "--yes"]).status.success().then_some(());
    wait_for("the server to go", gone);
}

#[test]
fn where_a_backup_is_restored_a_server_that_flyloft_ran_begins_empty_and_environments_find_their_databases_on_it() {
    let mut flyloft = Flyloft::start();
    forget_servers(&mut flyloft);
    flyloft.ok(&["services", "add", "it-own", "--kind", "postgres", "--managed", "--memory", "192MiB"]);
    let files = [
        ("Procfile", "web: python3 server.py\n"),
        ("requirements.txt", "psycopg[binary]==3.2.13\n"),
        ("app.json", r#"{"addons": ["postgres"]}"#),
        ("server.py", NOTES),
    ];
    flyloft.repository("it-moved", &files).pushed(&["main"]);
    assert_eq!(flyloft.get("it-moved/main", "/add/hello").body, "hello");
    let password = flyloft.ok(&["run", "it-moved/main", "--", "printenv", "PGPASSWORD"]);
    let work = tempfile::tempdir().unwrap();
    let (file, dump) = (work.path().join("flyloft.backup"), work.path().join("main.dump"));
    let dump = dump.to_str().unwrap();
    flyloft.ok(&["services", "dump", "it-moved/main", dump]);
    flyloft.ok(&["backup", file.to_str().unwrap()]);

    let original = flyloft.state.clone();
    let restored = original.with_file_name("restored");
    let _ = fs::remove_dir_all(&restored);
    let told = backup::restore(&flyloft, &file, &restored);
    assert!(text(&told).contains("the data on it-own were not in it: these servers begin empty"), "{}", text(&told));
    // Layers are known by what they are made of, and would be made again.
    fs::create_dir(restored.join("engine")).unwrap();
    symlink(original.join("engine/layers"), restored.join("engine/layers")).unwrap();
    flyloft.kill();
    flyloft.state = restored.clone();
    flyloft.serve();
    wait_for("its database", || (flyloft.get("it-moved/main", "/").body.is_empty()).then_some(()));
    assert_eq!(flyloft.ok(&["run", "it-moved/main", "--", "printenv", "PGPASSWORD"]), password);
    flyloft.ok(&["services", "restore", "it-moved/main", dump, "--yes"]);
    assert_eq!(flyloft.get("it-moved/main", "/add/again").body, "hello again");

    for state in [restored.clone(), original] {
        if flyloft.state != state {
            flyloft.stop();
            flyloft.state = state;
            flyloft.serve();
        }
        flyloft.ok(&["destroy", "it-moved", "--yes"]);
        let gone = || flyloft.cli(&["services", "rm", "it-own", "--yes"]).status.success().then_some(());
        wait_for("the server to go", gone);
    }
    fs::remove_dir_all(&restored).unwrap();
}
