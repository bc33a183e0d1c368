//! The daemon: puts everything together. The only place that names concrete drivers.

mod check;
mod ending;

use std::fs::{DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::host::Domain;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::check::check;
use self::ending::{Reason, Reasons};
use crate::admission::Admission;
use crate::api::Api;
use crate::backup;
use crate::build::Builder;
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::door::hook;
use crate::door::socket::{self, SocketDoor};
use crate::door::ssh::{self, SshConfig, SshDoor};
use crate::edge::embedded::{EdgeConfig, Embedded};
use crate::engine::lxc::net::NetConfig;
use crate::engine::lxc::{Bounds, LxcConfig, LxcEngine};
use crate::engine::{Engine, EngineError, SharedEngine};
use crate::error::{Error, OrFailed, Result};
use crate::follow;
use crate::handover::{Program, Successor, WayBack};
use crate::hosts;
use crate::loft::{self, Loft};
use crate::machine::Memory;
use crate::metrics::{self, Tally};
use crate::parts::{Parts, Settings};
use crate::provision::{self, Places};
use crate::retention::{self, LookedThrough};
use crate::service::Drivers;
use crate::service::postgres::Postgres;
use crate::sockets::{Sockets, Use};
use crate::source::{Repositories, SourceLimits};
use crate::store::{self, Ballast, Store};
use crate::vault::Vault;

/// A link in the state directory, to the socket where commands are taken.
pub const SOCKET: &str = "socket";

/// Locked by the daemon that uses the state directory.
pub const LOCK: &str = "lock";

/// Holds what tells this daemon's containers from those of others.
const INSTANCE: &str = "instance";

/// How long requests, and what clients have under way, may take when the daemon ends.
const DRAIN: Duration = Duration::from_secs(10);

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
pub async fn serve(start: Start, way_back: &mut Option<WayBack>) -> Result<Option<Successor>> {
    must_be_root()?;
    let program = Program::own()?;
    raise_descriptors();
    if let Some(failure) = &start.failure {
        tracing::error!(%failure, "another version did not start: this one goes on, as it was configured before");
    }
    let Start { config, text, file, sockets: mut inherited, failure } = start;
    let before = inherited.inodes();
    let state = State::open(&config.state_dir)?;
    inherited.suit(&config);
    way_back.iter_mut().for_each(|way_back| way_back.suit(&config));
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
    let routes = loft::routes(&store, state.rebooted).await?;
    let quiet_agents = config.edge.quiet_agents.clone();
    let (visits, visited) = tokio::sync::mpsc::unbounded_channel();
    let listen = EdgeConfig::new(config.http.listen.clone());
    let handed_over = inherited.take(Use::Http);
    let edge_config = EdgeConfig { inherited: handed_over, routes, visits: Some(visits), quiet_agents, ..listen };
    let edge = Embedded::open(edge_config).or_failed(|| "failed to start the edge")?;
    let ports: Vec<u16> = edge.addresses().iter().map(|address| address.port()).collect();
    let mut kept = Sockets::default();
    let copied = || "failed to copy a listening socket";
    kept.keep(Use::Http, edge.listeners().or_failed(copied)?).or_failed(copied)?;
    kept.keep(Use::Ssh, &ssh_listeners).or_failed(copied)?;
    kept.keep(Use::Commands, [&commands]).or_failed(copied)?;
    kept.keep(Use::Metrics, &metrics_listeners).or_failed(copied)?;
    let stored = kept.store(failure.is_some() || !before.is_subset(&kept.inodes()));
    let stored = stored.inspect_err(|error| tracing::warn!(%error, "failed to give systemd the listening sockets"));

    let lxc = open_engine(&config, &state, &ports).await?;
    let engine: SharedEngine = Arc::new(lxc.clone());
    let repositories = open_repositories(&config, &state, engine.staging().user)?;
    let builder = Builder::new(engine.clone(), config.build.clone());
    let settings = Settings {
        instance: state.instance.clone(),
        domain,
        port: ports.first().copied().filter(|port| *port != 80),
        defaults: config.defaults.clone(),
        disk: config.disk.clone(),
        transcripts: state.subdirectory("transcripts")?,
        state_dir: state.dir.clone(),
        configuration: file,
    };
    let tally = Tally::default();
    let admission = Admission::new(state.clock.clone(), edge.clone(), config.memory.reserve);
    let parts = Parts {
        store,
        engine,
        edge: edge.clone(),
        clock: state.clock.clone(),
        admission,
        builder,
        repositories,
        places: Places::default(),
        services: Drivers { postgres: Arc::new(Postgres) },
        vault: Vault::open(&state.dir).or_failed(|| "failed to open what is secret")?,
        tally,
        making_room: tokio::sync::Mutex::default(),
        looked_through: LookedThrough::default(),
        settings,
    };
    let loft = Arc::new(Loft::new(Arc::new(parts)));
    tokio::spawn(loft.clone().answer(visited));
    loft.start(state.rebooted).await?;
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
    let following = tokio::spawn(follow::follow_for_ever(loft.clone(), config.follow.clone()));

    for listener in metrics_listeners {
        tokio::spawn(metrics::serve(listener, loft.clone()));
    }
    let mut reasons = Reasons::new(asked)?;
    *way_back = None;
    announce(&config, &edge, &ssh);
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
        if !reasons.stopped_meanwhile().await {
            tracing::info!("a newer version takes over");
            return Ok(Some(Successor { program, sockets: kept, configuration: text }));
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping; what runs goes on");
    // Where systemd has it, the next daemon listens at the same file.
    if !stored.unwrap_or(false) {
        std::fs::remove_file(&config.socket).ok();
    }
    drop(kept);
    edge.shutdown(DRAIN).await;
    take_down(&lxc).await;
    Ok(None)
}

async fn listen_for_metrics(config: &Config, mut inherited: Vec<OwnedFd>) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in &config.metrics.listen {
        listeners.push(metrics::listen(*address, &mut inherited).await?);
    }
    Ok(listeners)
}

fn must_be_root() -> Result<()> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(Error::failed("the daemon must run as root: it sets up containers, mounts and the network")),
    }
}

/// A directory into which a backup has come in part is nothing to start with.
fn must_be_restored(dir: &Path) -> Result<()> {
    match dir.join(backup::restore::MARK).exists() {
        false => Ok(()),
        true => Err(Error::conflict(format!("a backup was restored into `{}`, and not to its end", dir.display()))
            .hint("wait for it if it goes on; if not, move the directory away, and run `flyloft restore` once more")),
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

/// The directory of all that the daemon keeps, and what is known from it at once.
struct State {
    dir: PathBuf,
    /// Tells this daemon's containers, rules and addresses from those of others on the machine.
    instance: String,
    /// The machine's, and whether it is another one than the last daemon's.
    boot: String,
    rebooted: bool,
    clock: Clock,
    /// Held as long as the daemon runs.
    _lock: Flock<File>,
}

impl State {
    fn open(dir: &Path) -> Result<Self> {
        let failed = || format!("failed to use the state directory `{}`", dir.display());
        // Others may pass through it: git runs as another user in a directory below. What is secret has its own mode.
        DirBuilder::new().recursive(true).mode(0o711).create(dir).or_failed(failed)?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o711)).or_failed(failed)?;
        let lock = open_private(&dir.join(LOCK)).or_failed(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => {
                Error::conflict(format!("another daemon uses the state directory `{}`", dir.display()))
                    .hint("give each its own with --state-dir")
            }
            error => Error::because(failed(), error),
        })?;
        must_be_restored(dir)?;
        Ballast::of(dir).make_way();
        match std::fs::remove_dir_all(dir.join(backup::STAGING)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).or_failed(failed),
            _ => {}
        }
        let instance = remembered(&dir.join(INSTANCE), || crate::random::hex(6)).or_failed(failed)?.0;
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").or_failed(|| "failed to read the boot id")?;
        let boot = boot.trim().to_owned();
        let (last, known) = remembered(&dir.join("boot-id"), || boot.clone()).or_failed(failed)?;
        let rebooted = known && last != boot;
        let clock = Clock::open(&dir.join(clock::FILE), &boot).or_failed(failed)?;
        Ok(Self { dir: dir.to_owned(), instance, boot, rebooted, clock, _lock: lock })
    }

    /// From here on the environments are what this boot left of them. A start that fails before that leaves it to the next
    /// one to find out that nothing runs.
    fn remember_boot(&self) -> std::io::Result<()> {
        if !self.rebooted {
            return Ok(());
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(self.boot.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.dir.join("boot-id")).map(drop).map_err(|error| error.error)
    }

    /// For who asks this daemon for what a changed configuration says: that may name another place.
    fn note_socket(&self, path: &Path) -> std::io::Result<()> {
        let (link, aside) = (self.dir.join(SOCKET), self.dir.join("socket.new"));
        let _ = std::fs::remove_file(&aside);
        std::os::unix::fs::symlink(path, &aside)?;
        std::fs::rename(aside, link)
    }

    fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.or_failed(|| format!("failed to make `{}`", dir.display()))?;
        Ok(dir)
    }
}

/// The text in a file, which is made with `first` if it is not there. Says whether it was.
fn remembered(path: &Path, first: impl FnOnce() -> String) -> std::io::Result<(String, bool)> {
    let mut file = open_private(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    if !text.trim().is_empty() {
        return Ok((text.trim().to_owned(), true));
    }
    let text = first();
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok((text, false))
}

fn open_private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn announce(config: &Config, edge: &Embedded, ssh: &ssh::SshDoor) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let list = |addresses: &[std::net::SocketAddr]| {
        addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
    };
    tracing::info!(
        http = list(edge.addresses()),
        ssh = list(ssh.addresses()),
        socket = %config.socket.display(),
        domain = config.domain,
        "ready"
    );
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
}
