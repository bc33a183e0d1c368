//! Environments on an engine in memory, with an edge and a store that do what a test wants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use flyloft_core::gate::{Gate, Guard};
use flyloft_core::host::Domain;
use flyloft_core::lifecycle::{Event, State};
use flyloft_core::name::{AppName, BranchName, CommitId, EnvRef, Origin, ReleaseNumber};
use flyloft_core::policy::{self, Policy, Span};
use flyloft_core::port::Pool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use super::Loft;
use crate::admission::{Admission, Seen};
use crate::build::Builder;
use crate::clock::Clock;
use crate::conductor::Conductor;
use crate::config::{self, Visitors};
use crate::deploy::{Again, Deployed, Source, Work};
use crate::edge::embedded::{EdgeConfig, Embedded};
use crate::edge::{Edge, EdgeError, Route, Target, Visit};
use crate::engine::fake::{self, Fake};
use crate::engine::{ContainerState, Engine, Image};
use crate::error::Result;
use crate::exec::Cmd;
use crate::gates::Gates;
use crate::managed::Managed;
use crate::metrics::Tally;
use crate::parts::{Parts, Settings};
use crate::ports::Ports;
use crate::provision::Places;
use crate::provision::client::Clients;
use crate::provision::data::Renewals;
use crate::retention::LookedThrough;
use crate::service::Drivers;
use crate::source::{Repositories, SourceLimits};
use crate::store::{Content, EnvRow, Store};
use crate::tls;
use crate::vault::Vault;

/// How long somebody waits for memory.
const PATIENCE: Duration = Duration::from_millis(300);

/// Nothing here takes this long unless it never happens.
const DEADLINE: Duration = Duration::from_secs(20);

/// Keeps routes, and says that requests are under way for as long as a test wants.
pub struct Doorman {
    routes: Mutex<HashMap<String, Route>>,
    pub busy: watch::Sender<bool>,
    /// No route is removed for as long as this is so.
    pub clings: watch::Sender<bool>,
    pub unused_for: Mutex<Option<Duration>>,
    /// Who that was.
    pub last_user: Mutex<Option<Arc<str>>>,
    /// So long ago somebody used it who comes in the moment before it is held.
    pub last_moment: Mutex<Option<Duration>>,
    /// How long anybody waits for the end of requests.
    pub patience: Mutex<Duration>,
    /// What those who waited were told, in order.
    pub explained: Mutex<Vec<String>>,
    /// Where visitors come from outside, if they do.
    outside: OnceLock<Arc<Embedded>>,
}

#[async_trait]
impl Edge for Doorman {
    async fn set(&self, host: &str, route: Route) -> Result<(), EdgeError> {
        if let Target::Held { .. } = route.target
            && let Some(unused) = self.last_moment.lock().unwrap().take()
        {
            *self.unused_for.lock().unwrap() = Some(unused);
        }
        self.routes.lock().unwrap().insert(host.to_owned(), route.clone());
        match self.outside.get() {
            Some(edge) => edge.set(host, route).await,
            None => Ok(()),
        }
    }

    async fn remove(&self, host: &str) -> Result<(), EdgeError> {
        let _ = self.clings.subscribe().wait_for(|clings| !clings).await;
        self.routes.lock().unwrap().remove(host);
        Ok(())
    }

    async fn guard(&self, host: &str, guard: Option<Arc<Guard>>) -> Result<(), EdgeError> {
        if let Some(route) = self.routes.lock().unwrap().get_mut(host) {
            route.guard = guard.clone();
        }
        match self.outside.get() {
            Some(edge) => edge.guard(host, guard).await,
            None => Ok(()),
        }
    }

    fn explain(&self, _host: &str, doing: &str) {
        self.explained.lock().unwrap().push(doing.to_owned());
    }

    fn unused_for(&self, host: &str) -> Option<Duration> {
        let _ = host;
        *self.unused_for.lock().unwrap()
    }

    fn last_user(&self, host: &str) -> Option<Arc<str>> {
        let _ = host;
        self.last_user.lock().unwrap().clone()
    }

    fn answers(&self, _host: &str) -> [u64; 5] {
        [0, 7, 0, 0, 0]
    }

    async fn drained(&self, _upstream: SocketAddr, _limit: Duration) -> bool {
        let patience = *self.patience.lock().unwrap();
        tokio::time::timeout(patience, self.busy.subscribe().wait_for(|busy| !busy)).await.is_ok()
    }
}

impl Default for Doorman {
    fn default() -> Self {
        Self {
            routes: Mutex::default(),
            busy: watch::Sender::new(false),
            clings: watch::Sender::new(false),
            unused_for: Mutex::default(),
            last_user: Mutex::default(),
            last_moment: Mutex::default(),
            patience: Mutex::new(Duration::MAX),
            explained: Mutex::default(),
            outside: OnceLock::new(),
        }
    }
}

impl Doorman {
    pub fn target(&self, host: &str) -> Option<Target> {
        self.routes.lock().unwrap().get(host).map(|route| route.target.clone())
    }

    /// Who keeps the gate of a host name.
    pub fn guard_of(&self, host: &str) -> Option<Arc<Guard>> {
        self.routes.lock().unwrap().get(host)?.guard.clone()
    }
}

pub struct Stage {
    pub loft: Arc<Loft>,
    pub engine: Arc<Fake>,
    pub door: Arc<Doorman>,
    pub machine: Arc<Mutex<Seen>>,
    /// Those who come by published ports.
    pub visitors: Mutex<Option<mpsc::UnboundedReceiver<Visit>>>,
    dir: tempfile::TempDir,
}

impl Stage {
    pub async fn new() -> Self {
        Self::under(Policy::default()).await
    }

    /// One that keeps so much.
    pub async fn keeping(disk: config::Disk) -> Self {
        Self::with(Policy::default(), |settings| settings.disk = disk).await
    }

    /// One where time does this.
    pub async fn under(policy: Policy) -> Self {
        Self::with(policy, |_| {}).await
    }

    /// One whose environments have their names below this.
    pub async fn at_domain(domain: &str) -> Self {
        Self::with(Policy::default(), |settings| settings.domain = Domain::parse(domain).unwrap()).await
    }

    /// One whose servers of databases and the like do what a test wants.
    pub async fn driven_by(services: Drivers) -> Self {
        Self::made_of(services, Policy::default(), |_| {}).await
    }

    pub async fn with(policy: Policy, change: impl FnOnce(&mut Settings)) -> Self {
        Self::made_of(crate::daemon::drivers(), policy, change).await
    }

    async fn made_of(services: Drivers, policy: Policy, change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (fake, engine) = fake::shared();
        fake.listen(vec![web_server().await]);
        let door = Arc::new(Doorman::default());
        let user = nix::unistd::geteuid().as_raw();
        let (clock, machine) =
            (Clock::of_the_wall(), Seen { available: 1 << 40, pressed: false, pool: None, swap_free: 1 << 40 });
        let machine = Arc::new(Mutex::new(machine));
        let look = machine.clone();
        let admission =
            Admission::with(clock.clone(), door.clone(), Box::new(move || *look.lock().unwrap()), 0, PATIENCE);
        let (visits, visitors) = mpsc::unbounded_channel();
        let mut settings = Settings {
            instance: "1f3a9c".to_owned(),
            domain: Domain::parse("localhost").unwrap(),
            visitors: Visitors { scheme: "http", port: None },
            takes_tls: false,
            defaults: policy::Settings {
                idle: Some(Span(policy.idle)),
                ttl: Some(Span(policy.ttl)),
                expire: Some(Span(policy.expire)),
                gate: Some(Gate::Public),
                ..policy::Settings::default()
            },
            disk: config::Disk::default(),
            services: config::Services::default(),
            ports: Pool::DEFAULT,
            use_forgotten: Duration::from_secs(300),
            farewell: Duration::from_secs(60),
            transcripts: dir.path().join("transcripts"),
            state_dir: dir.path().to_owned(),
            configuration: dir.path().join("flyloft.toml"),
        };
        change(&mut settings);
        let vault = Vault::open(dir.path()).unwrap();
        let local = tls::Local::new(dir.path(), settings.domain.as_str(), &settings.instance);
        let keeper = tls::Keeper::open(&[], local, tls::Certificates::new().unwrap(), tls::now());
        let parts = Parts {
            store: Store::open(&dir.path().join("store.db")).unwrap(),
            edge: door.clone(),
            ports: Ports::new(engine.clone(), visits, dir.path().join("lock")),
            clock,
            admission,
            builder: Builder::new(engine.clone(), config::Build::default()),
            engine,
            repositories: Repositories::open(&dir.path().join("repos"), user, SourceLimits::default())
                .unwrap()
                .with_plain_http_on_loopback(),
            places: Places::default(),
            clients: Clients::default(),
            renewals: Renewals::default(),
            managed: Managed::default(),
            services,
            gates: Gates::new(&vault, settings.defaults.clone(), None),
            vault,
            tally: Tally::default(),
            keeper: Arc::new(keeper),
            making_room: tokio::sync::Mutex::default(),
            looked_through: LookedThrough::default(),
            settings,
        };
        let (loft, visitors) = (Arc::new(Loft::new(Arc::new(parts))), Mutex::new(Some(visitors)));
        Self { loft, engine: fake, door, machine, visitors, dir }
    }

    /// What is routed from now on is there for visitors over HTTP, and is woken by them. Gives where.
    pub fn open(&self) -> SocketAddr {
        let (visits, visitors) = mpsc::unbounded_channel();
        let mut config = EdgeConfig::new(["127.0.0.1:0".parse().unwrap()]);
        (config.threads, config.visits) = (1, Some(visits));
        config.answers = self.loft.parts.keeper.answers.clone();
        // Whoever goes is gone at once.
        config.limits.half_closed = Duration::ZERO;
        let edge = Embedded::open(config).unwrap();
        let address = edge.addresses()[0];
        assert!(self.door.outside.set(edge).is_ok(), "it is open already");
        tokio::spawn(self.loft.clone().answer(visitors));
        address
    }

    /// Makes copies of the app's environment, until there are so many. No conductor has taken them up.
    pub async fn multiply(&self, count: usize) {
        self.sql(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO environments (app, name, host, origin, state, created_at, live, container, upstream,
                memory_asleep)
             SELECT app, 'e' || i, 'e' || i, origin, state, created_at, live, container, upstream, memory_asleep
             FROM environments, n;
             UPDATE environments SET container = app || '-' || name || '-' || id || '-1' WHERE name <> 'main';
             INSERT INTO releases (environment, number, reason, by, status, content, created_at)
             SELECT id, 1, reason, by, status, content, releases.created_at FROM environments, releases
             WHERE name <> 'main'",
        ));
        let envs = self.store().environments(None).await.unwrap();
        let containers = envs.into_iter().filter_map(|env| env.live).map(|live| live.container);
        let original = self.env().await.0.live.unwrap().container;
        self.engine.copy(&original, containers.filter(|container| *container != original));
    }

    pub fn store(&self) -> &Store {
        &self.loft.parts.store
    }

    pub async fn env(&self) -> (EnvRow, Conductor) {
        self.branch("main").await
    }

    /// The environment of a branch of the app.
    pub async fn branch(&self, branch: &str) -> (EnvRow, Conductor) {
        let name = EnvRef::parse(&format!("shop/{branch}")).unwrap();
        self.store().create_app(&name.app, None, 1).await.unwrap();
        self.loft.ensure(&name, &Origin::Branch(BranchName::parse(branch).unwrap())).await.unwrap()
    }

    pub async fn deploy(&self) -> Result<Deployed> {
        self.launch(Again::Rollback).await
    }

    pub async fn launch(&self, again: Again) -> Result<Deployed> {
        self.launch_image(again, Image::new()).await
    }

    /// As if a release had been built: this image, and these processes.
    pub async fn launch_image(&self, again: Again, image: Image) -> Result<Deployed> {
        self.launch_content(again, Content { image, ..content(&[("release", "true"), ("web", "serve")]) }).await
    }

    pub async fn launch_content(&self, again: Again, content: Content) -> Result<Deployed> {
        self.launch_in(&self.env().await.1, again, content).await
    }

    pub async fn launch_in(&self, conductor: &Conductor, again: Again, content: Content) -> Result<Deployed> {
        self.work(conductor, Source::Again { commit: None, content: Some(Box::new(content)), again }).await
    }

    pub async fn work(&self, conductor: &Conductor, source: Source) -> Result<Deployed> {
        let work = Work {
            source,
            reason: "a test".to_owned(),
            by: "tester".to_owned(),
            no_cache: false,
            attached: false,
            push: None,
            together: None,
        };
        let ticket = conductor.deploy(work).await?;
        in_time("the end of a deploy", ticket.ended).await.unwrap()
    }

    /// Nothing that leaves the environment without a deploy under way can be stored any more.
    pub fn break_store(&self) {
        self.sql(
            "CREATE TRIGGER broken BEFORE UPDATE OF state ON environments WHEN new.state LIKE '%\"deploying\":\"no\"%'
             BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
        );
    }

    pub fn mend_store(&self) {
        self.sql("DROP TRIGGER broken");
    }

    pub fn sql(&self, text: &str) {
        let connection = rusqlite::Connection::open(self.dir.path().join("store.db")).unwrap();
        connection.busy_timeout(DEADLINE).unwrap();
        connection.execute_batch(text).unwrap();
    }

    pub fn repository(&self, app: &AppName) -> PathBuf {
        self.dir.path().join(format!("repos/apps/{app}.git"))
    }

    /// A commit of these files, which a branch of the app leads to.
    pub async fn commit(&self, branch: &str, files: &[(&str, &str)]) -> CommitId {
        let app = AppName::parse("shop").unwrap();
        self.loft.parts.repositories.ensure(&app).await.unwrap();
        let git = async |args: &[&str], stdin: &str| {
            let git = Cmd::new("git").arg("--git-dir").arg(self.repository(&app)).args(["-c", "user.name=Tester"]);
            let git = git.args(["-c", "user.email=tester@example.org"]).args(args).stdin(stdin);
            String::from_utf8(git.run().await.unwrap().stdout).unwrap().trim().to_owned()
        };
        let mut tree = String::new();
        for (name, content) in files {
            let file = git(&["hash-object", "-w", "--stdin"], content).await;
            tree += &format!("100644 blob {file}\t{name}\n");
        }
        let tree = git(&["mktree"], &tree).await;
        let commit = git(&["commit-tree", "-m", "Change", &tree], "").await;
        git(&["update-ref", &format!("refs/heads/{branch}"), &commit], "").await;
        CommitId::parse(&commit).unwrap()
    }

    /// Deploys a commit, as a push does.
    pub async fn build(&self, conductor: &Conductor, commit: &CommitId) -> Result<Deployed> {
        self.work(conductor, Source::Commit { commit: commit.clone(), quarantine: None }).await
    }

    /// What the deploy of a release has said.
    pub async fn told(&self, release: u32) -> String {
        let (env, _) = self.env().await;
        let path = self.loft.parts.settings.transcript(env.id, ReleaseNumber(release));
        std::fs::read_to_string(path).unwrap()
    }

    /// As in `flyloft ls`.
    pub async fn state(&self) -> String {
        let name = EnvRef::parse("shop/main").unwrap();
        let env = self.store().environment(&name).await.unwrap().unwrap();
        serde_json::from_str::<State>(&env.state).unwrap().to_string()
    }

    pub async fn wait_for_state(&self, wanted: &str) {
        self.wait_until(wanted, async || self.state().await == wanted).await;
    }

    pub async fn wait_until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let waiting = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        in_time(what, waiting).await;
    }

    /// It is off then, and neither its container nor its layers are kept.
    pub async fn clear(&self, conductor: &Conductor) {
        for event in [Event::Off, Event::Clear] {
            conductor.tell(event).await.unwrap();
        }
        conductor.at_rest().await.unwrap();
        assert_eq!(self.containers().await, []);
        for layer in self.engine.layers().await.unwrap() {
            self.engine.forget(&layer).await.unwrap();
        }
    }

    pub async fn containers(&self) -> Vec<(String, ContainerState)> {
        self.engine.observe().await.unwrap().into_iter().map(|found| (found.id.0, found.state)).collect()
    }

    pub fn calls(&self, verb: &str) -> usize {
        self.engine.calls().iter().filter(|call| call.starts_with(verb)).count()
    }
}

/// A release with these lines of a Procfile.
pub fn content(processes: &[(&str, &str)]) -> Content {
    let processes = processes.iter().map(|(name, command)| ((*name).to_owned(), (*command).to_owned())).collect();
    Content { processes, ..Content::default() }
}

pub async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("waited too long for: {what}"))
}

/// Answers at every address of the loopback interface, which are those of the fake's containers.
pub async fn web_server() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener));
    address
}

pub async fn serve(listener: tokio::net::TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    }
}
