use std::collections::BTreeMap;

use flyloft_core::name::{AppName, BranchName, EnvName, EnvRef, Origin, ReleaseNumber};
use flyloft_core::port::{Port, Protocol};

use super::*;
use crate::engine::{ContainerId, LayerId};

struct Fixture {
    store: Store,
    dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture { store: Store::open(&dir.path().join("store.db")).unwrap(), dir }
}

fn app(text: &str) -> AppName {
    text.parse().unwrap()
}

fn branch(name: &str) -> Origin {
    Origin::Branch(BranchName::parse(name).unwrap())
}

impl Fixture {
    async fn environment(&self, env: &str, origin: &str, host: &str) -> Result<EnvRow, EnvRow> {
        let env = EnvRef::parse(env).unwrap();
        self.store.create_app(&env.app, None, 1).await.unwrap();
        self.store.ensure_environment(&env, host, &branch(origin), "{}", 2).await.unwrap()
    }

    async fn release(&self, env: &EnvRow) -> ReleaseNumber {
        let release =
            NewRelease { environment: env.id, commit: None, reason: "push".to_owned(), by: "alice".to_owned() };
        self.store.add_release(release, 3).await.unwrap()
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_the_store_is_opened_again() {
    let Fixture { store, dir } = fixture();
    store.create_app(&app("shop"), Some("https://git.example/shop"), 7).await.unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store.db")).unwrap();
    let row = store.app(&app("shop")).await.unwrap().unwrap();
    assert_eq!(row.git_url.as_deref(), Some("https://git.example/shop"));
    assert_eq!(row.created_at, 7);
}

#[tokio::test]
async fn a_snapshot_is_all_that_was_committed_and_nothing_that_comes_after() {
    let Fixture { store, dir } = fixture();
    store.create_app(&app("shop"), None, 7).await.unwrap();
    let copy = dir.path().join("copy.db");
    assert_eq!(store.snapshot(&copy).await.unwrap(), (1, 0));
    store.create_app(&app("blog"), None, 8).await.unwrap();
    Store::check_whole(&copy).unwrap();
    let apps = Store::open(&copy).unwrap().apps().await.unwrap();
    assert_eq!(apps.iter().map(|app| app.name.as_str()).collect::<Vec<_>>(), ["shop"]);
}

#[tokio::test]
async fn a_store_from_elsewhere_that_is_damaged_or_none_is_refused() {
    let Fixture { store, dir } = fixture();
    let copy = dir.path().join("copy.db");
    store.snapshot(&copy).await.unwrap();
    let whole = std::fs::read(&copy).unwrap();
    Store::check_whole(&copy).unwrap();
    // All pages but the first, which says what the others are.
    let mut damaged = whole.clone();
    damaged[4096..].fill(7);
    for content in [&damaged[..], &whole[..whole.len() / 2], b"", b"no store"] {
        std::fs::write(&copy, content).unwrap();
        assert!(Store::check_whole(&copy).is_err(), "{} bytes", content.len());
    }
    assert!(Store::check_whole(&dir.path().join("none")).is_err());
}

#[tokio::test]
async fn a_store_can_be_looked_at_while_a_daemon_has_it_and_one_of_a_newer_version_is_refused() {
    let Fixture { store, dir } = fixture();
    let path = dir.path().join("store.db");
    store.create_app(&app("shop"), None, 7).await.unwrap();
    Store::check(&path).unwrap();
    Store::check(&dir.path().join("none")).unwrap();
    drop(store);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
    assert!(matches!(Store::check(&path), Err(StoreError::Newer { found, .. }) if found == VERSION + 1));
}

#[tokio::test]
async fn nobody_but_root_reads_the_store_and_what_lies_beside_it() {
    use std::os::unix::fs::PermissionsExt;
    let Fixture { store, dir } = fixture();
    store.create_app(&app("shop"), None, 1).await.unwrap();
    store.snapshot(&dir.path().join("copy.db")).await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn a_store_of_a_newer_program_is_refused() {
    let Fixture { store, dir } = fixture();
    let path = dir.path().join("store.db");
    store.call(|t| Ok(t.pragma_update(None, "user_version", 99)?)).await.unwrap();
    drop(store);
    let error = Store::open(&path).err().unwrap().to_string();
    assert!(error.ends_with(&format!("has version 99, this program knows versions up to {VERSION}")), "{error}");
}

/// A store as a program wrote it that knew no more than the first `version` migrations.
fn of_version(version: u32, content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let old = Connection::open(&path).unwrap();
    MIGRATIONS[..version as usize].iter().for_each(|migration| old.execute_batch(migration).unwrap());
    old.pragma_update(None, "user_version", version).unwrap();
    old.execute_batch(content).unwrap();
    (dir, path)
}

#[tokio::test]
async fn a_store_of_an_older_program_keeps_what_it_holds_and_is_of_this_version_then() {
    let (_dir, path) = of_version(1, "INSERT INTO apps (name, created_at) VALUES ('shop', 7)");
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        assert_eq!(store.app(&app("shop")).await.unwrap().unwrap().created_at, 7);
        let version = store.call(|t| Ok(t.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))?));
        assert_eq!(version.await.unwrap(), VERSION);
    }
}

#[tokio::test]
async fn what_an_older_program_staged_from_elsewhere_is_followed_and_what_was_pushed_is_not() {
    let mut content = "INSERT INTO apps (name, git_url, created_at) VALUES ('shop', 'https://git.example/shop', 1),
        ('blog', NULL, 1);"
        .to_owned();
    let mut env = |id: u32, app: &str, kind: &str, releases: &[&str]| {
        content += &format!(
            "INSERT INTO environments (id, app, name, host, origin, state, created_at)
             VALUES ({id}, '{app}', 'e{id}', 'e{id}', '{{\"kind\":\"{kind}\"}}', '', 1);"
        );
        for (before, reason) in releases.iter().enumerate() {
            content += &format!(
                "INSERT INTO releases (environment, number, commit_id, reason, by, status, created_at)
                 VALUES ({id}, {}, 'c{}', '{reason}', 'ada', 'live', 1);",
                before + 1,
                before + 1
            );
        }
    };
    env(1, "shop", "branch", &["up", "up", "rollback to v1"]);
    env(2, "shop", "branch", &["up", "push"]);
    env(3, "shop", "pull-request", &["up"]);
    env(4, "shop", "commit", &["up"]);
    env(5, "blog", "branch", &["push"]);
    let (_dir, path) = of_version(1, &content);
    let store = Store::open(&path).unwrap();
    let followed = store.call(|t| {
        let mut query = t.prepare("SELECT environment, url, head FROM follows ORDER BY environment")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<Vec<(u32, String, String)>, _>>()?)
    });
    let expected = [(1, "c2"), (3, "c1")].map(|(id, head)| (id, "https://git.example/shop".into(), head.into()));
    assert_eq!(followed.await.unwrap(), expected);
}

#[tokio::test]
async fn a_second_environment_at_the_same_host_name_is_told_who_has_it() {
    let f = fixture();
    let first = f.environment("a-b/c", "c", "a-b-c.localhost").await.unwrap();
    let taken = f.environment("a/b-c", "b-c", "a-b-c.localhost").await.unwrap_err();
    assert_eq!(taken.name, first.name);
}

#[tokio::test]
async fn two_branches_with_one_slug_do_not_share_an_environment() {
    let f = fixture();
    let first = f.environment("shop/feature-x", "feature/x", "shop-feature-x.localhost").await.unwrap();
    assert_eq!(f.environment("shop/feature-x", "feature/x", "shop-feature-x.localhost").await, Ok(first.clone()));
    assert_eq!(f.environment("shop/feature-x", "feature-x", "shop-feature-x.localhost").await, Err(first));
}

#[tokio::test]
async fn a_port_of_the_host_is_one_environments_and_free_when_that_is_gone() {
    let f = fixture();
    let one = f.environment("shop/main", "main", "shop-main.localhost").await.unwrap();
    let two = f.environment("shop/pr", "pr", "shop-pr.localhost").await.unwrap();
    let port = |protocol, host, port| Port { protocol, host, port };
    let add = async |env: &EnvRow, port| f.store.add_port(env.id, port, 7).await.unwrap();
    assert!(add(&one, port(Protocol::Tcp, 20_001, 5432)).await);
    assert!(!add(&two, port(Protocol::Tcp, 20_001, 5432)).await, "it has that of the host");
    assert!(!add(&one, port(Protocol::Tcp, 20_002, 5432)).await, "it is published already");
    assert!(add(&two, port(Protocol::Udp, 20_001, 5432)).await);
    let all = f.store.ports().await.unwrap();
    let expected = [(&one, port(Protocol::Tcp, 20_001, 5432)), (&two, port(Protocol::Udp, 20_001, 5432))];
    let seen: Vec<_> = all.iter().map(|row| (row.env, row.name.clone(), row.port(), row.created_at)).collect();
    assert_eq!(seen, expected.map(|(env, port)| (env.id, env.name.clone(), port, 7)));
    f.store.remove_environment(one.id).await.unwrap();
    assert!(!add(&one, port(Protocol::Tcp, 20_001, 5432)).await, "it is gone");
    assert!(add(&two, port(Protocol::Tcp, 20_001, 5432)).await);
    f.store.remove_port(two.id, Protocol::Udp, 5432).await.unwrap();
    assert_eq!(f.store.ports_of(two.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_environment_that_is_made_again_has_another_id() {
    let f = fixture();
    let first = f.environment("shop/main", "main", "shop-main.localhost").await.unwrap();
    f.store.remove_environment(first.id).await.unwrap();
    let second = f.environment("shop/main", "main", "shop-main.localhost").await.unwrap();
    assert_ne!(first.id, second.id);
}

#[tokio::test]
async fn releases_are_numbered_from_one_and_only_one_is_live() {
    let f = fixture();
    let env = f.environment("shop/main", "main", "shop-main.localhost").await.unwrap();
    for expected in 1..=3 {
        assert_eq!(f.release(&env).await, ReleaseNumber(expected));
    }
    for number in [1, 3] {
        let live = LiveRow {
            release: ReleaseNumber(number),
            container: ContainerId(format!("shop-main-{number}")),
            upstream: Some("10.0.0.1:5000".parse().unwrap()),
        };
        f.store.set_state(env.id, "{}", Some(&live), 4).await.unwrap();
        assert_eq!(f.store.environment(&env.name).await.unwrap().unwrap().live, Some(live));
    }
    f.store.fail_release(env.id, ReleaseNumber(2), "build failed", 5).await.unwrap();
    f.store.fail_release(env.id, ReleaseNumber(3), "too late to fail", 5).await.unwrap();
    let statuses: Vec<_> = f.store.releases(env.id).await.unwrap().into_iter().map(|r| r.status).collect();
    assert_eq!(statuses, [ReleaseStatus::Live, ReleaseStatus::Failed, ReleaseStatus::Retired]);
}

impl Fixture {
    /// A release with a layer of its own, which has come to serve or has failed.
    async fn ended(&self, env: &EnvRow, layer: &str, well: bool) -> ReleaseNumber {
        let number = self.release(env).await;
        let image = ["base", layer].map(|id| LayerId(id.to_owned())).to_vec();
        let content = Content { image, processes: vec![("web".into(), "run".into())], ..Content::default() };
        self.store.set_content(env.id, number, &content).await.unwrap();
        assert_eq!(self.store.release(env.id, number).await.unwrap().unwrap().content, Some(content));
        if well {
            let live = LiveRow { release: number, container: ContainerId(layer.to_owned()), upstream: None };
            self.store.set_state(env.id, "{}", Some(&live), 4).await.unwrap();
        } else {
            self.store.fail_release(env.id, number, "never answered", 5).await.unwrap();
        }
        number
    }

    async fn numbers(&self, env: &EnvRow) -> Vec<u32> {
        self.store.releases(env.id).await.unwrap().into_iter().map(|release| release.number.0).collect()
    }
}

#[tokio::test]
async fn layers_of_releases_that_may_be_launched_again_are_in_use() {
    let f = fixture();
    let env = f.environment("shop/main", "main", "shop-main.localhost").await.unwrap();
    for (layer, well) in [("oldest", true), ("old", true), ("serving", true), ("failed", false)] {
        f.ended(&env, layer, well).await;
    }
    let used = async || {
        let images = f.store.images().await.unwrap();
        images.into_iter().map(|row| (row.image.last().unwrap().0.clone(), row.old)).collect::<Vec<_>>()
    };
    let expected = [("oldest", true), ("old", true), ("serving", false)];
    assert_eq!(used().await, expected.map(|(layer, old)| (layer.to_owned(), old)));
    f.store.forget_releases(1).await.unwrap();
    assert_eq!(used().await, [("old".to_owned(), true), ("serving".to_owned(), false)]);
    assert!(f.store.forget_release(env.id, ReleaseNumber(2)).await.unwrap());
    assert!(!f.store.forget_release(env.id, ReleaseNumber(3)).await.unwrap(), "it serves");
    assert_eq!(used().await, [("serving".to_owned(), false)]);
}

#[tokio::test]
async fn of_old_releases_the_newest_of_each_kind_stay_and_what_serves_and_what_is_pending() {
    let f = fixture();
    let env = f.environment("shop/main", "main", "shop-main.localhost").await.unwrap();
    // v1 to v4 have served, v5 and v6 failed, v7 serves, v8 to v10 failed.
    for well in [true, true, true, true, false, false, true, false, false, false] {
        f.ended(&env, "app", well).await;
    }
    f.store.forget_releases(2).await.unwrap();
    assert_eq!(f.numbers(&env).await, [10, 9, 7, 4, 3]);
    f.store.forget_releases(0).await.unwrap();
    assert_eq!(f.numbers(&env).await, [10, 7], "the newest stays, so that no number is given twice");
    assert_eq!(f.release(&env).await, ReleaseNumber(11));
    f.store.forget_releases(0).await.unwrap();
    assert_eq!(f.numbers(&env).await, [11, 7], "v11 is pending");
    let all = f.store.all_releases().await.unwrap();
    assert_eq!(all, [(env.id, ReleaseNumber(7)), (env.id, ReleaseNumber(11))]);
}

#[tokio::test]
async fn what_people_were_told_waits_for_the_disk_and_what_a_deploy_notes_does_not() {
    let Fixture { store, .. } = fixture();
    // 2 is FULL and 1 is NORMAL, says SQLite's documentation.
    let level = |t: &Transaction| Ok(t.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0))?);
    for _ in 0..2 {
        assert_eq!(store.note(level).await.unwrap(), 1);
        assert_eq!(store.call(level).await.unwrap(), 2);
    }
}

#[tokio::test]
async fn variables_of_an_environment_go_with_it_and_those_of_its_app_stay() {
    let f = fixture();
    let env = f.environment("shop/main", "main", "shop-main.localhost").await.unwrap();
    let set = |value: &str| BTreeMap::from([("NAME".to_owned(), Some(value.to_owned()))]);
    f.store.set_variables(&app("shop"), Scope::App, set("of the app")).await.unwrap();
    f.store.set_variables(&app("shop"), Scope::Environment(env.id), set("of the environment")).await.unwrap();
    f.store.remove_environment(env.id).await.unwrap();
    assert_eq!(f.store.variables(&app("shop"), Scope::App).await.unwrap()["NAME"], "of the app");
    assert!(f.store.variables(&app("shop"), Scope::Environment(env.id)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_key_is_listed_once_with_its_apps() {
    let f = fixture();
    let key = KeyRow {
        name: "alice".to_owned(),
        public_key: "ssh-ed25519 AAAA".to_owned(),
        fingerprint: "SHA256:x".to_owned(),
        admin: false,
        apps: vec![app("blog"), app("shop")],
        created_at: 1,
    };
    f.store.add_key(key.clone()).await.unwrap().unwrap();
    let again = KeyRow { name: "bob".to_owned(), ..key.clone() };
    assert_eq!(f.store.add_key(again).await.unwrap(), Err("alice".to_owned()));
    assert_eq!(f.store.key_by_fingerprint("SHA256:x").await.unwrap(), Some(key));
    assert!(f.store.remove_key("alice").await.unwrap());
    assert_eq!(f.store.keys().await.unwrap(), []);
}

#[tokio::test]
async fn events_come_oldest_first_and_the_newest_are_kept_by_the_limit() {
    let f = fixture();
    let main = EnvName::parse("main").unwrap();
    for text in ["one", "two", "three"] {
        f.store.tell(&app("shop"), Some(&main), EventKind::DeployStarted, "alice", text, 1).await.unwrap();
    }
    f.store.tell(&app("blog"), None, EventKind::AppCreated, "bob", "other", 1).await.unwrap();
    let texts = |events: Vec<EventRow>| events.into_iter().map(|event| event.text).collect::<Vec<_>>();
    let two = f.store.events(Some(&app("shop")), Some(&main), 0, 2).await.unwrap();
    assert_eq!(texts(two), ["two", "three"]);
    assert_eq!(texts(f.store.events(None, None, 3, 10).await.unwrap()), ["other"]);
}

#[tokio::test]
async fn the_oldest_events_go_when_there_are_ten_thousand() {
    let f = fixture();
    let tell = async |text: &str| {
        f.store.tell(&app("shop"), None, EventKind::AppCreated, "alice", text, 1).await.unwrap();
    };
    tell("first").await;
    f.store.call(|t| Ok(t.execute("UPDATE sqlite_sequence SET seq = 9999 WHERE name = 'events'", [])?)).await.unwrap();
    tell("ten thousandth").await;
    assert_eq!(f.store.events(None, None, 0, 10).await.unwrap().len(), 2);
    tell("one more").await;
    let left = f.store.events(None, None, 0, 10).await.unwrap();
    assert_eq!(left.iter().map(|event| event.text.as_str()).collect::<Vec<_>>(), ["ten thousandth", "one more"]);
}

#[tokio::test]
async fn all_wakes_of_the_last_day_are_kept_and_of_older_ones_the_last_two_hundred() {
    const HOUR: i64 = 3_600_000;
    let f = fixture();
    let env = f.environment("shop/main", "main", "shop-main").await.unwrap();
    let wake = async |at: i64| {
        let [by, was] = ["GET /", "asleep"].map(str::to_owned);
        let (admitted, queued, started, ready, total, slept) = Default::default();
        let seen = SeenRow::default();
        let wake = WakeRow { at, by, was, admitted, queued, started, ready, seen, total, failure: None, slept };
        f.store.add_wake(env.id, wake).await.unwrap();
    };
    let kept = async || f.store.wakes(env.id).await.unwrap().len();
    for second in 0..250 {
        wake(second * 1000).await;
    }
    assert_eq!(kept().await, 250);
    wake(25 * HOUR).await;
    assert_eq!(kept().await, LAST_WAKES);
    for second in 0..250 {
        wake(26 * HOUR + second * 1000).await;
    }
    assert_eq!(kept().await, 251);
}

#[tokio::test]
async fn an_app_has_no_generation_that_an_earlier_one_of_its_name_had() {
    let Fixture { store, .. } = fixture();
    let name = app("shop");
    store.create_app(&name, None, 1_000_000).await.unwrap();
    store.create_app(&name, None, 1_500_000).await.unwrap();
    let first = store.generation(&name, false).await.unwrap();
    let anew = store.generation(&name, true).await.unwrap();
    assert_eq!((first, anew), (1_000_000, 1_000_001));
    assert!(store.remove_app(&name).await.unwrap());
    store.create_app(&name, None, 2_000_000).await.unwrap();
    assert!(store.generation(&name, false).await.unwrap() > anew);
}
