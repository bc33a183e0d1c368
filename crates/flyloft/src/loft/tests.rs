//! Environments on an engine in memory, with a store that fails when a test wants it to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex as StdMutex;

use async_trait::async_trait;
use flyloft_core::host::Domain;
use flyloft_core::name::{BranchName, ReleaseNumber};
use flyloft_core::policy::{Limits, Policy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::*;
use crate::build::Builder;
use crate::conductor::Told;
use crate::config;
use crate::deploy::{Again, Deployed, Source, Work};
use crate::edge::{Edge, EdgeError};
use crate::engine::fake::{self, Fake};
use crate::engine::{ContainerState, Engine};
use crate::error::Kind;
use crate::parts::Settings;
use crate::source::{Repositories, SourceLimits};
use crate::store::{Content, NewRelease, ReleaseStatus};

/// Nothing here takes this long unless it never happens.
const DEADLINE: Duration = Duration::from_secs(20);

/// Keeps routes, and says that requests are under way for as long as a test wants.
struct Doorman {
    routes: StdMutex<HashMap<String, Route>>,
    busy: watch::Sender<bool>,
}

#[async_trait]
impl Edge for Doorman {
    async fn set(&self, host: &str, route: Route) -> Result<(), EdgeError> {
        self.routes.lock().unwrap().insert(host.to_owned(), route);
        Ok(())
    }

    async fn remove(&self, host: &str) -> Result<(), EdgeError> {
        self.routes.lock().unwrap().remove(host);
        Ok(())
    }

    async fn drained(&self, _upstream: SocketAddr, _limit: Duration) -> bool {
        self.busy.subscribe().wait_for(|busy| !busy).await.is_ok()
    }
}

struct Stage {
    loft: Loft,
    engine: Arc<Fake>,
    door: Arc<Doorman>,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (fake, engine) = fake::shared();
        fake.listen(vec![web_server().await]);
        let door = Arc::new(Doorman { routes: StdMutex::default(), busy: watch::Sender::new(false) });
        let user = nix::unistd::geteuid().as_raw();
        let parts = Parts {
            store: Store::open(&dir.path().join("store.db")).unwrap(),
            edge: door.clone(),
            builder: Builder::new(engine.clone(), config::Build::default()),
            engine,
            repositories: Repositories::open(&dir.path().join("repos"), user, SourceLimits::default()).unwrap(),
            settings: Settings {
                domain: Domain::parse("localhost").unwrap(),
                port: None,
                limits: Limits::default(),
                policy: Policy::default(),
                disk: config::Disk::default(),
                transcripts: dir.path().join("transcripts"),
            },
        };
        Self { loft: Loft::new(Arc::new(parts)), engine: fake, door, dir }
    }

    fn store(&self) -> &Store {
        &self.loft.parts.store
    }

    async fn env(&self) -> (EnvRow, Conductor) {
        let name = EnvRef::parse("shop/main").unwrap();
        self.store().create_app(&name.app, None, 1).await.unwrap();
        self.loft.ensure(&name, &Origin::Branch(BranchName::parse("main").unwrap())).await.unwrap()
    }

    async fn deploy(&self) -> crate::error::Result<Deployed> {
        self.launch(Again::Rollback).await
    }

    /// As if a release had been built: an image without layers, and these processes.
    async fn launch(&self, again: Again) -> crate::error::Result<Deployed> {
        let processes = [("release", "true"), ("web", "serve")];
        let processes = processes.map(|(name, command)| (name.to_owned(), command.to_owned())).to_vec();
        let content = Content { processes, ..Content::default() };
        let work = Work {
            source: Source::Again { commit: None, content, again },
            reason: "a test".to_owned(),
            by: "tester".to_owned(),
            no_cache: false,
            attached: false,
            push: None,
            together: None,
        };
        let (_, conductor) = self.env().await;
        let ticket = conductor.deploy(work).await?;
        in_time("the end of a deploy", ticket.ended).await.unwrap()
    }

    /// Nothing that leaves the environment without a deploy under way can be stored any more.
    fn break_store(&self) {
        self.sql(
            "CREATE TRIGGER broken BEFORE UPDATE OF state ON environments WHEN new.state LIKE '%\"deploying\":\"no\"%'
             BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
        );
    }

    fn mend_store(&self) {
        self.sql("DROP TRIGGER broken");
    }

    fn sql(&self, text: &str) {
        let connection = rusqlite::Connection::open(self.dir.path().join("store.db")).unwrap();
        connection.busy_timeout(DEADLINE).unwrap();
        connection.execute_batch(text).unwrap();
    }

    /// As in `flyloft ls`.
    async fn state(&self) -> String {
        let name = EnvRef::parse("shop/main").unwrap();
        let env = self.store().environment(&name).await.unwrap().unwrap();
        serde_json::from_str::<State>(&env.state).unwrap().to_string()
    }

    async fn wait_for_state(&self, wanted: &str) {
        let waiting = async {
            while self.state().await != wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        in_time(wanted, waiting).await;
    }

    async fn containers(&self) -> Vec<(String, ContainerState)> {
        self.engine.observe().await.unwrap().into_iter().map(|found| (found.id.0, found.state)).collect()
    }

    fn calls(&self, verb: &str) -> usize {
        self.engine.calls().iter().filter(|call| call.starts_with(verb)).count()
    }
}

async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("waited too long for: {what}"))
}

/// Answers at every address of the loopback interface, which are those of the fake's containers.
async fn web_server() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    address
}

#[tokio::test]
async fn a_deploy_whose_end_cannot_be_stored_leaves_the_old_release_and_ends_when_the_store_works_again() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let before = stage.containers().await;
    stage.break_store();
    let error = stage.deploy().await.unwrap_err();
    assert!(error.brief().contains("failed to record the state of `shop/main`"), "{}", error.brief());
    assert_eq!(stage.containers().await, before, "the failed release's container is gone, the other one is not");
    let (env, _) = stage.env().await;
    assert_eq!(env.live.unwrap().release, ReleaseNumber(1));
    assert_eq!(stage.state().await, "awake v1, deploying v2");

    stage.mend_store();
    stage.loft.reconcile().await.unwrap();
    stage.wait_for_state("awake v1").await;
    assert_eq!(stage.containers().await, before);
    let failed = stage.store().release(env.id, ReleaseNumber(2)).await.unwrap().unwrap();
    assert_eq!(failed.status, ReleaseStatus::Failed);
    assert_eq!(stage.deploy().await.unwrap().release, ReleaseNumber(3));
}

#[tokio::test]
async fn a_wake_whose_end_cannot_be_stored_ends_when_the_store_works_again() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (_, conductor) = stage.env().await;
    assert_eq!(conductor.tell(Event::Off).await.unwrap(), Told::Done);
    stage.sql(
        "CREATE TRIGGER broken BEFORE UPDATE OF state ON environments WHEN new.state LIKE '%\"awake\"%'
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
    conductor.tell(Event::Wake).await.unwrap();
    // Long enough for it to have answered: a wake in memory takes a millisecond or two.
    for _ in 0..30 {
        stage.loft.reconcile().await.unwrap();
        assert_eq!(stage.state().await, "waking v1");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stage.mend_store();
    let awake = async {
        while stage.state().await != "awake v1" {
            stage.loft.reconcile().await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    in_time("awake", awake).await;
}

#[tokio::test]
async fn an_environment_that_was_destroyed_gets_no_conductor_from_a_row_that_was_read_before() {
    let stage = Stage::new().await;
    let (stale, conductor) = stage.env().await;
    conductor.tell(Event::Destroy).await.unwrap();
    in_time("the end", conductor.gone()).await;
    assert!(stage.loft.conductor(stale.id).await.unwrap().is_none());
    assert_eq!(stage.loft.find(&stale.name).await.err().unwrap().kind, Kind::NotFound);
    let (anew, _) = stage.env().await;
    assert_ne!(anew.id, stale.id);
}

#[tokio::test]
async fn a_release_that_the_daemon_died_before_it_began_has_failed_after_the_next_start() {
    let stage = Stage::new().await;
    let (env, _) = stage.env().await;
    let release = NewRelease { environment: env.id, commit: None, reason: "push".to_owned(), by: "x".to_owned() };
    let number = stage.store().add_release(release, 1).await.unwrap();
    let next = Loft::new(stage.loft.parts.clone());
    next.start(false).await.unwrap();
    let failed = async {
        while stage.store().release(env.id, number).await.unwrap().unwrap().status != ReleaseStatus::Failed {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    in_time("the release to have failed", failed).await;
}

#[tokio::test]
async fn what_cannot_begin_leaves_no_release_pending() {
    let stage = Stage::new().await;
    let (env, _) = stage.env().await;
    // Where the directory of transcripts should be.
    std::fs::write(&stage.loft.parts.settings.transcripts, "").unwrap();
    stage.deploy().await.unwrap_err();
    let releases = stage.store().releases(env.id).await.unwrap();
    assert_eq!(releases.iter().map(|release| release.status).collect::<Vec<_>>(), [ReleaseStatus::Failed]);
}

#[tokio::test]
async fn requests_that_do_not_end_keep_nobody_waiting_for_a_deploy_or_a_destroy() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (_, conductor) = stage.env().await;
    stage.door.busy.send_replace(true);
    in_time("off", conductor.tell(Event::Off)).await.unwrap();
    assert_eq!(stage.calls("stop"), 0, "requests are still under way");
    assert_eq!(stage.deploy().await.unwrap().release, ReleaseNumber(2));
    in_time("destroy", conductor.tell(Event::Destroy)).await.unwrap();
    in_time("the end", conductor.gone()).await;
    assert_eq!(stage.containers().await, []);
}

#[tokio::test]
async fn what_is_woken_while_its_requests_end_runs_in_the_end() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (_, conductor) = stage.env().await;
    stage.door.busy.send_replace(true);
    conductor.tell(Event::Off).await.unwrap();
    conductor.tell(Event::Wake).await.unwrap();
    assert_eq!(stage.state().await, "waking v1");
    stage.door.busy.send_replace(false);
    stage.wait_for_state("awake v1").await;
    assert_eq!(stage.calls("stop"), 1);
    assert!(matches!(stage.containers().await[..], [(_, ContainerState::Running)]));
}

#[tokio::test]
async fn the_release_command_runs_for_a_rollback_and_new_variables_and_not_for_a_restart_or_another_scale() {
    let stage = Stage::new().await;
    for (again, times) in [(Again::Rollback, 1), (Again::Config, 1), (Again::Restart, 0), (Again::Scale, 0)] {
        let before = stage.calls("exec");
        stage.launch(again).await.unwrap();
        assert_eq!(stage.calls("exec") - before, times, "{again:?}");
    }
}
