//! What runs containers. A narrow trait, so that everything above it works the same on LXC, on a cluster later, and on
//! the in-memory [`fake`].
//!
//! ```text
//!            derive                 create        start           freeze         offload
//!   layers ─────────► layers   ∅ ──────────► made ─────► running ───────► frozen ──────► less of it in memory
//!                                   ◄──────────────────── ▲    ◄───────     │
//!                                          remove  (stop: running → made)   thaw
//! ```
//!
//! Every verb is idempotent: asking for what is already so succeeds. The engine knows nothing of git, URLs or the
//! store; it keeps what it needs about what it made beside what it made, so that a restarted daemon finds it again.

pub mod asleep;
#[cfg(test)]
pub mod conformance;
#[cfg(test)]
pub mod fake;
pub mod lxc;
mod names;
mod published;
mod thawed;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use flyloft_core::disk::{Space, Unit};
use flyloft_core::lifecycle::Depth;
use flyloft_core::policy::{Excess, Limits};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::asleep::{Held, Kept};
pub use self::lxc::tree::Usage;
pub use self::published::Published;
pub use self::thawed::Thawed;
use crate::exec::ExecError;
use crate::transcript::Transcript;

/// A container's name within its engine: `[a-z0-9-]`, 50 characters at most, chosen by whoever creates it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// A layer's content address: the hexadecimal SHA-256 of what it is made from, cut to 32 digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayerId(pub String);

/// A stack of layers, the lowest first.
pub type Image = Vec<LayerId>;

/// How to make a layer.
#[derive(Clone, Debug)]
pub struct Derivation {
    pub id: LayerId,
    /// One line for people: `python-run on debian-13`.
    pub title: String,
    /// What is already there while it is made; empty only for [`Recipe::Debian`].
    pub on: Image,
    pub recipe: Recipe,
}

#[derive(Clone, Debug)]
pub enum Recipe {
    /// A minimal Debian, made from the mirror that the host itself uses.
    Debian { suite: String, packages: Vec<String> },
    /// Debian packages on top of a Debian layer, without what they recommend.
    Packages { packages: Vec<String> },
    /// A directory of the host becomes `path` in the container, owned by the app's user (1000:1000). The directory is
    /// moved, not copied: it must lie in [`Engine::staging`].
    Tree { from: PathBuf, path: String },
    /// What a command leaves behind, run as the app's user in a container like any other.
    Run(Box<Run>),
}

/// A build step. Runs in a container of its own that sees `on`, the inputs and the caches, and nothing else.
#[derive(Clone, Debug)]
pub struct Run {
    /// Argv lists, run one after the other in `dir` until one fails.
    pub commands: Vec<Vec<String>>,
    pub dir: String,
    /// All the environment that the commands see, beside `PATH`, `HOME` and `LANG`.
    pub env: BTreeMap<String, String>,
    /// Files that are there before the first command: path in the container, content. They stay in the layer.
    pub files: Vec<(String, Vec<u8>)>,
    /// Directories of the engine that outlive the step: name of the cache, path in the container. Two steps may use a
    /// cache at the same time.
    pub caches: Vec<(CacheId, String)>,
    /// Paths whose content does not become part of the layer (`/tmp` and `/run` never do).
    pub scratch: Vec<String>,
    pub limits: Limits,
    pub timeout: Duration,
    pub reach: Reach,
}

/// `[a-z0-9-]`, 80 characters at most, such as `shop-pip` or `fork-17-shop-pip`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CacheId(pub String);

/// `[a-z0-9-]`, 80 characters at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeId(pub String);

/// A directory of the engine that a container has, and that outlives it. Made empty when a container is started that has
/// it, unless it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub id: VolumeId,
    /// Where the container sees it.
    pub path: String,
    /// Bytes that it may take.
    pub size: u64,
    pub read_only: bool,
    /// Its files are bounded with those of the writable layer, by [`Limits::inodes`]; by its size alone if not. Written down
    /// only where it is so, since a server is made anew where its specification is another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counts: bool,
}

/// What a volume is filled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filling {
    /// A directory in [`Engine::staging`], made as its user, which is moved and not copied.
    Tree(PathBuf),
    /// What another volume has, which no container writes to.
    CopyOf(VolumeId),
}

/// See [`Engine::layer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// What was there when it was made.
    pub on: Image,
    /// Bytes on the disk, and files.
    pub bytes: u64,
    pub inodes: u64,
    pub made: SystemTime,
}

/// See [`Engine::caches`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFacts {
    pub id: CacheId,
    /// Bytes on the disk, and files.
    pub bytes: u64,
    pub inodes: u64,
    /// When a build step last had it.
    pub used: SystemTime,
}

/// A container that runs an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub id: ContainerId,
    pub image: Image,
    pub processes: Vec<Process>,
    /// What every process sees.
    pub env: BTreeMap<String, String>,
    pub limits: Limits,
    pub reach: Reach,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// What it can read, and not change, in directories below `/flyloft`: path in the container, content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// A process that `flyloft-init` keeps running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `web.1`: prefix of its log lines and value of `DYNO`.
    pub name: String,
    /// A line of a Procfile, run by `sh -c` inside the container as the app's user in `/app`.
    pub command: String,
    /// Beside [`ContainerSpec::env`].
    pub env: BTreeMap<String, String>,
}

/// What a container may open connections to, beside the public internet and DNS. Everything private is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Addresses and TCP ports that are opened on purpose: a mirror, a database server.
    pub allow: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerState {
    /// Its writable layer is there, nothing runs.
    Stopped,
    Running,
    Frozen,
}

/// Addresses at which the host reaches a container. They last until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
}

impl Addresses {
    pub fn both(self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub id: ContainerId,
    pub state: ContainerState,
    pub addresses: Addresses,
    pub image: Image,
    /// It is stopped because the engine stopped it for this; until it is started again.
    pub excess: Option<Excess>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Bytes of memory held now, without what is swapped out.
    pub memory: u64,
    pub swap: u64,
    /// What the last [`Engine::offload`] left, for as long as the container is frozen.
    pub asleep: Option<Held>,
    pub pids: u32,
    pub cpu: Duration,
    /// Bytes in the writable layer, as it was a minute or two ago.
    pub disk: u64,
    /// Its files.
    pub inodes: u64,
}

/// A command inside a running container.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    /// Beside the container's own variables.
    pub env: BTreeMap<String, String>,
    /// With a terminal of this many columns and rows; stdout then carries everything.
    pub terminal: Option<(u16, u16)>,
}

/// Streams of a command that runs, and its handle. Dropping it ends the command.
pub struct Exec {
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    pub control: Box<dyn ExecControl>,
}

#[async_trait]
pub trait ExecControl: Send {
    /// The command's terminal is now this many columns and rows.
    fn resize(&mut self, columns: u16, rows: u16);
    /// The exit code; 128 + the signal's number if one ended it.
    async fn wait(&mut self) -> Result<i32, EngineError>;
}

/// What an engine can do beyond the verbs. Data, not methods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Abilities {
    pub name: &'static str,
    pub freeze: bool,
    /// Whether the memory of what is frozen can be compressed, as things are now.
    pub compress: bool,
    /// Whether it can be written out to a disk.
    pub write_out: bool,
    /// Whether disk and inode limits are enforced by the file system (project quota) or by watching.
    pub disk_quota: bool,
}

#[async_trait]
pub trait Engine: Send + Sync {
    fn abilities(&self) -> Abilities;

    /// A directory on the file system of the layers, where trees for [`Recipe::Tree`] are made, and the user id that
    /// they must be made as. Emptied when the engine is opened.
    fn staging(&self) -> Staging;

    /// The file system on which layers, caches and containers are.
    fn space(&self, unit: Unit) -> Result<Space, EngineError>;

    /// Everything that this engine made and still has. Looks at each of them.
    async fn observe(&self) -> Result<Vec<Observed>, EngineError>;

    /// The names of all that it has, without a look at any: one that is half made or half gone may be among them.
    async fn containers(&self) -> Result<Vec<ContainerId>, EngineError>;

    /// One of these, if there is such a container.
    async fn find(&self, id: &ContainerId) -> Result<Option<Observed>, EngineError>;

    /// Comes back when the engine has stopped a container unasked since this last came back: [`Observed::excess`] says
    /// which, and for what. For one caller at a time.
    async fn excess(&self);

    /// Comes back with a container that runs no more, whoever ended it. It may have been started again since. For one
    /// caller at a time.
    async fn ended(&self) -> ContainerId;

    /// The layers that exist, whole.
    async fn layers(&self) -> Result<Vec<LayerId>, EngineError>;

    /// What is known about a layer that exists.
    async fn layer(&self, id: &LayerId) -> Result<LayerFacts, EngineError>;

    /// Makes a layer, or finds it made. Two callers that want the same one wait for the same work. On an error, or
    /// when the future is dropped, nothing of it stays.
    async fn derive(&self, derivation: Derivation, transcript: &Transcript) -> Result<(), EngineError>;

    /// Removes a layer that no container uses.
    async fn forget(&self, layer: &LayerId) -> Result<(), EngineError>;

    /// The caches that build steps have filled.
    async fn caches(&self) -> Result<Vec<CacheFacts>, EngineError>;

    /// Removes a cache that no build step has at the moment.
    async fn forget_cache(&self, cache: &CacheId) -> Result<(), EngineError>;

    /// The volumes that containers have written to.
    async fn volumes(&self) -> Result<Vec<VolumeId>, EngineError>;

    /// What one of these takes; nothing if it is not there. To measure it is to walk it.
    async fn volume(&self, id: &VolumeId) -> Result<Usage, EngineError>;

    /// Puts this into a volume that no container has, in place of what was there. All of it, or the volume is not there.
    async fn fill_volume(&self, id: &VolumeId, with: Filling) -> Result<(), EngineError>;

    /// Removes a volume that no container has.
    async fn forget_volume(&self, id: &VolumeId) -> Result<(), EngineError>;

    async fn create(&self, spec: &ContainerSpec) -> Result<Addresses, EngineError>;

    /// Makes one that is there anew, from another specification or the same, with the addresses that it has. If it runs it
    /// is killed, and what it has written outside of volumes is gone.
    async fn remake(&self, spec: &ContainerSpec) -> Result<Addresses, EngineError>;

    /// Starts the processes. Returns when the container runs, not when the app answers.
    async fn start(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// SIGTERM to every process, SIGKILL after `grace`. The writable layer stays.
    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError>;

    /// Holds every process where it is. One that the kernel cannot hold keeps all of them running:
    /// [`EngineError::Unfreezable`].
    async fn freeze(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Moves the memory of a frozen container out of the way: to compressed memory, or with [`Depth::Deep`] to a disk.
    /// What others use with it stays. Where there is no place for it, it stays too, and [`Held::kept`] says why. When the
    /// future is dropped, what has not been moved by then stays.
    async fn offload(&self, id: &ContainerId, depth: Depth) -> Result<Held, EngineError>;

    /// Lets every process go on. What else it does for that goes on beside it.
    async fn thaw(&self, id: &ContainerId) -> Result<Thawed, EngineError>;

    /// Whether a process of a frozen container has been sent its end, and ends as soon as it is thawed.
    async fn is_doomed(&self, id: &ContainerId) -> Result<bool, EngineError>;

    /// From now on it may open connections to these, and to nothing else that is closed to all. It may run or not.
    async fn allow(&self, id: &ContainerId, reach: &Reach) -> Result<(), EngineError>;

    /// From now on these ports lead to containers, and no others do. See [`Published`]. Gives how much has been said over
    /// them to each container, as a number that grows, and may begin anew.
    async fn publish(&self, ports: &[Published]) -> Result<BTreeMap<ContainerId, u64>, EngineError>;

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<Exec, EngineError>;

    async fn stats(&self, id: &ContainerId) -> Result<Stats, EngineError>;

    /// What the writable layer of each container takes, as it was a minute or two ago. Nothing else of them is looked at.
    async fn sizes(&self) -> Result<BTreeMap<ContainerId, Usage>, EngineError>;

    /// TCP sockets that listen inside the container.
    async fn listening(&self, id: &ContainerId) -> Result<Vec<SocketAddr>, EngineError>;

    /// What the container's processes printed: the last `lines`, and what comes when `follow` is set. The stream ends
    /// with the container, or when it is dropped.
    async fn logs(
        &self,
        id: &ContainerId,
        lines: usize,
        follow: bool,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, EngineError>;

    /// Stops it if it runs, and leaves nothing of it: processes, mounts, addresses, rules, directories.
    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError>;
}

/// See [`Engine::staging`].
#[derive(Clone, Debug)]
pub struct Staging {
    pub dir: PathBuf,
    pub user: u32,
}

pub type SharedEngine = Arc<dyn Engine>;

#[derive(Debug, Error)]
pub enum EngineError {
    #[error("no such container `{0}`")]
    NoContainer(ContainerId),
    /// It was made from another specification, and must be removed first.
    #[error("container `{0}` exists already and is made differently")]
    Exists(ContainerId),
    #[error("`{0}` cannot be the name of a container, a layer, a cache or a volume")]
    BadName(String),
    #[error("no such layer `{0}`")]
    NoLayer(LayerId),
    #[error("layer `{0}` is in use")]
    LayerInUse(LayerId),
    #[error("cache `{0}` is in use")]
    CacheInUse(CacheId),
    #[error("volume `{0}` is in use")]
    VolumeInUse(VolumeId),
    #[error("container `{0}` is not running")]
    NotRunning(ContainerId),
    #[error("container `{0}` is not frozen")]
    NotFrozen(ContainerId),
    /// It runs on as before.
    #[error("container `{id}` cannot be frozen now: process {pid} (`{name}`) waits for the kernel")]
    Unfreezable { id: ContainerId, pid: i32, name: String },
    #[error("container `{id}` has {count} of {limit} processes")]
    Crowded { id: ContainerId, count: u32, limit: u32 },
    /// A build step ended with this status; its output is in the transcript.
    #[error("`{command}` failed with status {code}")]
    StepFailed { command: String, code: i32 },
    #[error("`{command}` ran out of memory: {limit} bytes are allowed")]
    OutOfMemory { command: String, limit: u64 },
    #[error("`{command}` wrote more than the {limit} bytes (or {inodes} files) that are allowed")]
    OutOfDisk { command: String, limit: u64, inodes: u64 },
    #[error("`{command}` wanted more than the {limit} processes and threads that are allowed")]
    OutOfProcesses { command: String, limit: u32 },
    #[error("`{command}` was stopped, since it wrote to a disk that is nearly full")]
    DiskFull { command: String },
    #[error("`{command}` was stopped after {seconds} s")]
    TimedOut { command: String, seconds: u64 },
    /// The machine lacks something: what, and how to mend it.
    #[error("{what}")]
    Missing { what: String, hint: String },
    #[error("failed to {doing}")]
    Exec { doing: String, source: ExecError },
    #[error("failed to {doing}")]
    Io { doing: String, source: std::io::Error },
}

impl EngineError {
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| EngineError::Io { doing, source }
    }

    pub fn exec(doing: impl Into<String>) -> impl FnOnce(ExecError) -> Self {
        let doing = doing.into();
        move |source| EngineError::Exec { doing, source }
    }
}
