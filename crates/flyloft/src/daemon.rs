//! The daemon: puts everything together. The only place that names concrete drivers.

mod change;
mod check;
mod ending;
mod front;
mod state;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flyloft_core::host::Domain;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use self::check::check;
use self::ending::{Reason, Reasons};
use self::front::{Front, Serves};
use self::state::State;
pub use self::state::{INSTANCE, LOCK, SOCKET};
use crate::admission::Admission;
use crate::api::Api;
use crate::build::Builder;
use crate::config::{Config, Visitors};
use crate::door::hook;
use crate::door::socket::{self, SocketDoor};
use crate::door::ssh::{self, SshConfig, SshDoor};
use crate::edge::embedded::Embedded;
use crate::engine::lxc::net::NetConfig;
use crate::engine::lxc::{Bounds, LxcConfig, LxcEngine};
use crate::engine::{Engine, EngineError, SharedEngine};
use crate::error::{Error, OrFailed, Result};
use crate::follow;
use crate::gates::{self, Gates};
use crate::handover::{Program, Successor, WayBack};
use crate::hosts;
use crate::loft::{self, Loft};
use crate::machine::Memory;
use crate::managed::Managed;
use crate::metrics::{self, Tally};
use crate::parts::{Parts, Settings};
use crate::ports::Ports;
use crate::provision::client::Clients;
use crate::provision::data::Renewals;
use crate::provision::{self, Places};
use crate::retention::{self, LookedThrough};
use crate::service::Drivers;
use crate::service::mysql::Mysql;
use crate::service::postgres::Postgres;
use crate::service::rabbitmq::Rabbitmq;
use crate::service::redis::Redis;
use crate::sockets::{Sockets, Use};
use crate::source::{Repositories, SourceLimits};
use crate::sso::{Sso, SsoError, Terms};
use crate::store::{self, Store};
use crate::tls::{self, Certificates};
use crate::vault::Vault;

/// How long requests, and what clients have under way, may take when the daemon ends.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a start may take where the version before waits to go on. Without one, nobody gains by its end.
const BEGINNING: Duration = Duration::from_secs(60);

/// See [`Settings::use_forgotten`]. Each time takes a note in the store for every environment that is awake and used.
const USE_FORGOTTEN: Duration = Duration::from_secs(5 * 60);

/// See [`Settings::farewell`].
const LAST_SCRIPT: Duration = Duration::from_secs(60);

/// How it is started.
#[derive(Debug)]
pub struct Start {
    pub config: Config,
    /// What that was made from.
    pub text: String,
    /// Where that was read from, if there is such a file.
    pub file: PathBuf,
    pub sockets: Sockets,
    /// What kept another version from taking over, if this process has just tried to become it.
    pub failure: Option<String>,
}

/// How long clients have to read that the daemon ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs until SIGINT or SIGTERM, or until a newer version takes over. The containers go on without it. There is a
/// `way_back` until it serves.
pub async fn serve(mut start: Start, way_back: &mut Option<WayBack>) -> Result<Option<Successor>> {
    must_be_root()?;
    let program = Program::own(&start.config.state_dir)?;
    raise_descriptors();
    if let Some(failure) = &start.failure {
        tracing::error!(%failure, "another version did not start: this one goes on, as it was configured before");
    }
    let before = start.sockets.inodes();
    let state = State::open(&start.config.state_dir)?;
    start.sockets.suit(&start.config);
    way_back.iter_mut().for_each(|way_back| way_back.suit(&start.config));
    let (config, text) = (start.config.clone(), start.text.clone());
    let answering = Arc::new(OnceLock::new());
    let limit = way_back.is_some().then_some(BEGINNING);
    let running = match in_time(begin(start, before, state, answering.clone()), limit).await {
        Ok(running) => running,
        Err(error) => {
            // Who was let in by then is answered, and who was not waits for the version before.
            if let Some(edge) = answering.get() {
                tracing::error!(%error, "failed to start; what is under way comes to its end");
                edge.shutdown(DRAIN).await;
            }
            return Err(error);
        }
    };
    *way_back = None;
    let Running {
        state: _locked,
        lxc,
        edge,
        addresses,
        secure,
        ssh,
        loft,
        errands,
        socket,
        closing,
        clients,
        mut reasons,
        mut kept,
        stored,
    } = running;
    let following = tokio::spawn(follow::follow_for_ever(loft.clone(), config.follow.clone()));
    announce(&config, &addresses, &secure, &ssh);
    let mut reason = reasons.first(&program).await;
    // Who comes from here on waits at the door for the next daemon.
    socket.abort();
    let _ = socket.await;
    ssh.shut();
    following.abort();
    let under_way = async {
        errands.close();
        tokio::join!(errands.wait(), loft.deployed());
    };
    reason = reasons.unless_stopped(reason, under_way).await;
    closing.cancel();
    clients.close();
    let _ = tokio::join!(ssh.close(), tokio::time::timeout(FAREWELL, clients.wait()));
    if let Reason::Upgrade(program) = reason {
        edge.shutdown(DRAIN).await;
        loft.note_uses().await;
        let _ = tokio::time::timeout(FAREWELL, lxc.settle()).await;
        if let Err(error) = kept.keep(Use::Ports, loft.parts.ports.hand_over()) {
            tracing::warn!(%error, "failed to hand over the ports that are published");
        }
        if !reasons.stopped_meanwhile().await {
            tracing::info!("a newer version takes over");
            return Ok(Some(Successor { program, sockets: kept, configuration: text }));
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping; what runs goes on");
    // Where systemd has it, the next daemon listens at the same file.
    if !stored {
        std::fs::remove_file(&config.socket).ok();
    }
    drop(kept);
    edge.shutdown(DRAIN).await;
    loft.note_uses().await;
    let _ = tokio::time::timeout(FAREWELL, lxc.settle()).await;
    take_down(&lxc).await;
    Ok(None)
}

/// Begins in a task of its own, which is left alone when the time is over: a disk that hangs holds up the thread as well.
async fn in_time<T: Send + 'static>(
    begin: impl Future<Output = Result<T>> + Send + 'static,
    limit: Option<Duration>,
) -> Result<T> {
    let begun = AbortOnDropHandle::new(tokio::spawn(begin));
    let begun = match limit {
        None => begun.await,
        Some(limit) => {
            let late = |_| Error::failed(format!("failed to start within {} s", limit.as_secs()));
            tokio::time::timeout(limit, begun).await.map_err(late)?
        }
    };
    begun.unwrap_or_else(|panic| Err(Error::because("failed to start", panic)))
}

/// What a daemon that serves consists of.
struct Running {
    state: State,
    lxc: LxcEngine,
    edge: Arc<Embedded>,
    /// Where clients come in.
    addresses: Vec<SocketAddr>,
    secure: Vec<SocketAddr>,
    ssh: SshDoor,
    loft: Arc<Loft>,
    errands: TaskTracker,
    /// Who takes commands.
    socket: JoinHandle<()>,
    closing: CancellationToken,
    clients: TaskTracker,
    reasons: Reasons,
    kept: Sockets,
    /// Whether systemd has them, too.
    stored: bool,
}

/// Starts everything. From early on there is an edge that is `answering`.
async fn begin(
    start: Start,
    before: BTreeSet<u64>,
    state: State,
    answering: Arc<OnceLock<Arc<Embedded>>>,
) -> Result<Running> {
    let Start { config, text: _, file, sockets: mut inherited, failure } = start;
    let metrics_listeners = listen_for_metrics(&config, inherited.take(Use::Metrics)).await?;
    let commands = socket::listen(&config.socket, &config.group, inherited.take(Use::Commands))
        .or_failed(|| "failed to take commands")?;
    state.note_socket(&config.socket).or_failed(|| "failed to note where commands are taken")?;
    let ssh_listeners = ssh::listen(&config.ssh.listen, inherited.take(Use::Ssh));
    let ssh_listeners = ssh_listeners.or_failed(|| "failed to start the SSH door")?;
    // What may fail comes first: no program goes back to the store of a newer one.
    let store = Store::open(&state.dir.join(store::FILE)).or_failed(|| "failed to open the store")?;

    let domain = Domain::parse(&config.domain).map_err(Error::usage)?;
    hosts::follow(&store, &domain).await?;
    // The edge serves from its first moment on, so it must know from then on what answers.
    let vault = Vault::open(&state.dir).or_failed(|| "failed to open what is secret")?;
    let defaults = config.defaults.clone().of_server(&domain);
    let gates = Gates::new(&vault, defaults.clone(), Terms::of(&config.sso));
    let logins = Sso::open(&config.sso, domain.as_str(), &vault).map_err(no_logins)?;
    let (sso, arrived) = logins.map(|(sso, arrived)| (Arc::new(sso), arrived)).unzip();
    let routes = loft::routes(&store, &gates, state.rebooted).await?;
    let (visits, visited) = tokio::sync::mpsc::unbounded_channel();
    let certificates = Certificates::new().or_failed(|| "failed to prepare TLS")?;
    let acme = tls::acme::Asked::of(&config)?;
    let local = tls::Local::new(&state.dir, &config.domain, &state.instance);
    let keeper = tls::Keeper::open(&config.tls.certificates, local, certificates.clone(), tls::now());
    let keeper = Arc::new(keeper);
    let answers = keeper.answers.clone();
    let (instance, waking) = (&state.instance, visits.clone());
    let serves = Serves { instance, domain: &domain, routes, visits: waking, certificates, sso, answers };
    let front = Front::open(&config, serves, &mut inherited, &answering).await?;
    let ports: Vec<u16> = front.addresses.iter().chain(&front.secure).map(SocketAddr::port).collect();
    let mut kept = Sockets::default();
    let copied = || "failed to copy a listening socket";
    front.keep(&mut kept).or_failed(copied)?;
    kept.keep(Use::Ssh, &ssh_listeners).or_failed(copied)?;
    kept.keep(Use::Commands, [&commands]).or_failed(copied)?;
    kept.keep(Use::Metrics, &metrics_listeners).or_failed(copied)?;
    let stored = kept.store(failure.is_some() || !before.is_subset(&kept.inodes()));
    let stored = stored.inspect_err(|error| tracing::warn!(%error, "failed to give systemd the listening sockets"));
    let stored = stored.unwrap_or(false);

    let lxc = open_engine(&config, &state, &ports).await?;
    let engine: SharedEngine = Arc::new(lxc.clone());
    let repositories = open_repositories(&config, &state, engine.staging().user)?;
    let builder = Builder::new(engine.clone(), config.build.clone());
    let settings = Settings {
        instance: state.instance.clone(),
        domain,
        visitors: config.http.external.unwrap_or_else(|| Visitors::of(&front.addresses, &front.secure)),
        takes_tls: !front.secure.is_empty(),
        defaults,
        disk: config.disk.clone(),
        services: config.services.clone(),
        ports: config.ports.range,
        use_forgotten: USE_FORGOTTEN,
        farewell: LAST_SCRIPT,
        transcripts: state.subdirectory("transcripts")?,
        state_dir: state.dir.clone(),
        configuration: file,
    };
    let tally = Tally::default();
    let Front { edge, embedded, addresses, secure, told_of_nginx, .. } = front;
    let admission = Admission::new(state.clock.clone(), edge.clone(), config.memory.reserve);
    let parts = Parts {
        store,
        ports: Ports::new(engine.clone(), visits, state.dir.join(LOCK)),
        engine,
        edge,
        clock: state.clock.clone(),
        admission,
        builder,
        repositories,
        places: Places::default(),
        clients: Clients::default(),
        renewals: Renewals::default(),
        managed: Managed::default(),
        services: drivers(),
        vault,
        gates,
        tally,
        keeper: keeper.clone(),
        making_room: tokio::sync::Mutex::default(),
        looked_through: LookedThrough::default(),
        settings,
    };
    let loft = Arc::new(Loft::new(Arc::new(parts)));
    tokio::spawn(loft.clone().answer(visited));
    loft.keep_ports(inherited.take(Use::Ports)).await?;
    loft.start(state.rebooted).await?;
    // Not before: what is published already stays so until it is known where it leads.
    tokio::spawn(loft.parts.ports.clone().keep_for_ever());
    if let Err(error) = loft.parts.ports.begun().await {
        tracing::warn!(%error, "published ports lead where they did before");
    }
    loft.parts
        .store
        .remove_half_made_volume_templates()
        .await
        .or_failed(|| "failed to forget what was not made to the end")?;
    state.remember_boot().or_failed(|| "failed to note which boot this is")?;
    let api = Arc::new(Api::new(loft.clone()));

    let errands = api.errands.clone();
    let key = state.dir.join(ssh::host_key::FILE);
    let ssh_config = SshConfig { errands: errands.clone(), ..SshConfig::new(config.ssh.listen.clone(), key) };
    let ssh = SshDoor::open(&ssh_config, ssh_listeners, api.clone()).or_failed(|| "failed to start the SSH door")?;
    let (upgrades, asked) = tokio::sync::mpsc::channel(1);
    let (closing, clients) = (CancellationToken::new(), TaskTracker::new());
    let group = config.group.clone();
    let socket = SocketDoor { api, group, upgrades, closing: closing.clone(), clients: clients.clone(), failure };
    let socket = tokio::spawn(socket.serve(commands));
    let reconciling = loft.clone();
    tokio::spawn(async move { reconciling.reconcile_for_ever().await });
    tokio::spawn(retention::keep_for_ever(loft.parts.clone()));
    tokio::spawn(provision::reconcile_for_ever(loft.parts.clone()));
    tokio::spawn(provision::sleepers::hang_up_for_ever(loft.parts.clone()));
    if let Some(arrived) = arrived {
        tokio::spawn(gates::record(loft.parts.store.clone(), arrived));
    }
    if let Some(told_of_nginx) = told_of_nginx {
        tokio::spawn(front::tell(loft.parts.store.clone(), told_of_nginx));
    }
    if !config.https.listen.is_empty() {
        tokio::spawn(keeper.keep_for_ever(loft.parts.store.clone()));
    }
    if let Some(acme) = acme {
        tokio::spawn(acme.keep_for_ever(loft.parts.clone()));
    }
    for listener in metrics_listeners {
        tokio::spawn(metrics::serve(listener, loft.clone()));
    }
    let reasons = Reasons::new(asked)?;
    let edge = embedded;
    Ok(Running {
        state,
        lxc,
        edge,
        addresses,
        secure,
        ssh,
        loft,
        errands,
        socket,
        closing,
        clients,
        reasons,
        kept,
        stored,
    })
}

/// The driver of each kind of service.
pub fn drivers() -> Drivers {
    Drivers {
        postgres: Arc::new(Postgres),
        mysql: Arc::new(Mysql),
        redis: Arc::new(Redis),
        rabbitmq: Arc::new(Rabbitmq),
    }
}

async fn listen_for_metrics(config: &Config, mut inherited: Vec<OwnedFd>) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in &config.metrics.listen {
        listeners.push(metrics::listen(*address, &mut inherited).await?);
    }
    Ok(listeners)
}

fn no_logins(error: SsoError) -> Error {
    let hint = error.hint();
    Error::because("failed to prepare logins", error).hint(hint)
}

fn must_be_root() -> Result<()> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(Error::failed("the daemon must run as root: it sets up containers, mounts and the network")),
    }
}

/// The soft limit of open files is for programs that use select(2). The edge takes its measure from what is allowed.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
}

async fn open_engine(config: &Config, state: &State, ports: &[u16]) -> Result<LxcEngine> {
    let lxc = lxc_config(config, &state.dir, state.instance.clone(), ports)?;
    let bounds = Bounds { floor: config.disk.floor, logs: config.disk.logs };
    LxcEngine::open_within(lxc, bounds).await.map_err(not_started)
}

fn lxc_config(config: &Config, state: &Path, instance: String, ports: &[u16]) -> Result<LxcConfig> {
    let network = NetConfig {
        ipv4: config.network.ipv4.address,
        ipv6: config.network.ipv6.address,
        dns: config.network.dns.clone(),
        edge_ports: ports.to_vec(),
    };
    Ok(LxcConfig { state: state.to_owned(), instance, init: init_binary()?, network })
}

fn not_started(error: EngineError) -> Error {
    match error {
        EngineError::Missing { what, hint } => Error::failed(what).hint(hint),
        error => Error::because("failed to start the engine", error),
    }
}

fn open_repositories(config: &Config, state: &State, user: u32) -> Result<Repositories> {
    let opened = Repositories::open(&state.dir.join("repos"), user, SourceLimits::within(Memory::look().total));
    let opened = opened.or_failed(|| "failed to open the repositories")?;
    let repositories = opened.reaching_out(&config.build.ca_bundle, &config.build.variables);
    hook::install(&repositories.hooks()).or_failed(|| "failed to install git's hook")?;
    // A test's git host has no certificate.
    Ok(match std::env::var_os("FLYLOFT_HTTP_ON_LOOPBACK") {
        Some(_) => repositories.with_plain_http_on_loopback(),
        None => repositories,
    })
}

/// Without containers there is nothing that the daemon's rules protect, and none of them is left on the machine.
async fn take_down(lxc: &LxcEngine) {
    let gone = match lxc.containers().await {
        Ok(containers) if containers.is_empty() => lxc.uninstall().await,
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = gone {
        tracing::warn!(%error, "failed to take the network's rules down");
    }
}

/// `flyloft-init` lies beside this program, or where the Debian package puts it.
fn init_binary() -> Result<PathBuf> {
    let own = std::env::current_exe().or_failed(|| "failed to find this program's file")?;
    let beside = own.with_file_name("flyloft-init");
    let candidates = [
        std::env::var_os("FLYLOFT_INIT").map(PathBuf::from),
        Some(beside),
        Some("/usr/lib/flyloft/flyloft-init".into()),
    ];
    let found = candidates.into_iter().flatten().find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::failed("`flyloft-init` is missing, which every container needs as its first process")
            .hint("put it beside the program `flyloft`, or name its file in FLYLOFT_INIT")
    })
}

fn announce(config: &Config, http: &[SocketAddr], https: &[SocketAddr], ssh: &ssh::SshDoor) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let list =
        |addresses: &[SocketAddr]| addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(", ");
    tracing::info!(
        http = list(http),
        https = list(https),
        ssh = list(ssh.addresses()),
        socket = %config.socket.display(),
        domain = config.domain,
        "ready"
    );
    let is_open =
        Domain::parse(&config.domain).is_ok_and(|domain| domain.is_localhost()) && config.defaults.gate.is_none();
    if is_open && http.iter().any(|address| !address.ip().is_loopback()) {
        tracing::warn!(
            "whoever reaches this machine can look at every environment, since the domain is `{}`: name another one, \
             set `gate` in `[defaults]` of the configuration, or listen on loopback alone",
            config.domain
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_may_open_as_many_files_as_it_is_allowed() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
        raise_descriptors();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
    #[tokio::test]
    async fn a_start_that_hangs_is_given_up_where_there_is_a_limit_and_only_there() {
        let hangs = || std::future::pending::<Result<()>>();
        let given_up = in_time(hangs(), Some(Duration::from_millis(1))).await.unwrap_err();
        assert_eq!(given_up.what, "failed to start within 0 s");
        let goes_on = tokio::time::timeout(Duration::from_millis(20), in_time(hangs(), None));
        assert!(goes_on.await.is_err());
    }

    #[tokio::test]
    async fn a_start_that_panics_has_failed() {
        let panics = async { panic!("out of luck") };
        let failed = in_time::<()>(panics, None).await.unwrap_err();
        assert!(failed.to_string().contains("out of luck"), "{failed}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_start_that_holds_up_its_thread_is_given_up_too() {
        let (over, waits) = std::sync::mpsc::channel::<()>();
        let hangs = async move { waits.recv().map_err(Error::failed) };
        assert!(in_time(hangs, Some(Duration::from_millis(10))).await.is_err());
        drop(over);
    }
}
