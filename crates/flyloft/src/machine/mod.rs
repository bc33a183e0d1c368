//! What this machine is: facts, read from /proc, /sys, /etc and a few tools. Nothing here judges: `doctor` does, and
//! `setup` decides by the same facts.
//!
//! Reading is thin and the parsing pure. A fact that cannot be read is `None` or empty, never an error: half a machine
//! is exactly what doctor is for.

use std::path::Path;

use crate::config::Config;

pub mod cgroups;
pub mod ids;
pub mod kernel;
pub mod load;
pub mod memory;
pub mod network;
pub mod nginx;
pub mod ports;
pub mod servers;
pub mod sso;
pub mod storage;
pub mod swaps;
pub mod tls;
pub mod tools;

pub use cgroups::Cgroups;
pub use ids::Ids;
pub use kernel::Kernel;
pub use memory::Memory;
pub use network::Network;
pub use nginx::Nginx;
pub use ports::Port;
pub use servers::Server;
pub use sso::Sso;
pub use storage::Storage;
pub use swaps::SwapWatch;
pub use tls::Tls;
pub use tools::Tool;

#[derive(Clone, Debug)]
pub struct Machine {
    pub root: bool,
    pub kernel: Kernel,
    pub cgroups: Cgroups,
    pub tools: Vec<Tool>,
    pub ids: Ids,
    pub memory: Memory,
    pub network: Network,
    pub storage: Storage,
    pub ports: Vec<Port>,
    pub servers: Vec<Server>,
    /// Where it is the edge.
    pub nginx: Option<Nginx>,
    /// Where the edge speaks it.
    pub tls: Option<Tls>,
    /// Where people log in.
    pub sso: Option<Sso>,
    /// Whether systemd is PID 1 (sd_booted(3)).
    pub systemd: bool,
}

impl Machine {
    /// Reads everything that running with this configuration depends on. Takes as long as the slowest DNS answer, 2 s
    /// at most, or as the provider that people log in with.
    pub async fn look(config: &Config) -> Self {
        let (tools, network, nginx, sso) =
            tokio::join!(tools::look(), Network::look(&config.network.dns), Nginx::look(config), Sso::look(config));
        let lock = config.state_dir.join(crate::daemon::LOCK);
        let http = config.http_addresses();
        let ports = [("HTTP", &http), ("HTTPS", &config.https.listen), ("SSH", &config.ssh.listen)];
        Self {
            root: nix::unistd::geteuid().is_root(),
            kernel: Kernel::look(&config.state_dir),
            cgroups: Cgroups::look(),
            tools,
            ids: Ids::look(),
            memory: Memory::look(),
            network,
            storage: Storage::look(&config.state_dir).measured_below(config.disk.floor),
            ports: ports.into_iter().flat_map(|(door, addresses)| ports::look(door, addresses, &lock)).collect(),
            servers: Server::look(&config.state_dir),
            nginx,
            tls: Tls::look(config),
            sso,
            systemd: has_systemd(),
        }
    }
}

pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The text of a file, empty where it cannot be read.
fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A file that contains one number.
fn read_number(path: impl AsRef<Path>) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// `path`, or the nearest directory above it that exists.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}
