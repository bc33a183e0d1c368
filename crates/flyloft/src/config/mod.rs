//! The daemon's configuration: one TOML file, every key of which has a default that works.
//!
//! Everything is checked while it is parsed, so that an error names the line, the column and the key, and whoever holds
//! a [`Config`] need not check it again. `flyloft.example.toml` documents every key; a test holds it to this file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flyloft_core::gate::{Gate, Prefix};
use flyloft_core::host::Domain;
use flyloft_core::policy::{Limits, Settings};
use flyloft_core::port::Pool;
use serde::Deserialize;
use thiserror::Error;

mod acme;
mod prefix;
mod sso;
mod value;
mod visitors;

pub use acme::{Acme, Algorithm, Proof, Rfc2136};
pub use prefix::{Ipv4Prefix, Ipv6Prefix};
pub use sso::Sso;
pub use value::parse_domain;
pub use visitors::Visitors;

/// Where [`Config::load`] looks when it is not told; it may be missing there.
pub const DEFAULT_FILE: &str = "/etc/flyloft/flyloft.toml";

/// Where Debian keeps the certificates that the host trusts, its administrator's own included.
const HOST_CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Everything the daemon keeps. Two daemons must not share one.
    #[serde(deserialize_with = "value::absolute_path")]
    pub state_dir: PathBuf,
    /// Environments are served at `APP-ENV.DOMAIN`.
    #[serde(deserialize_with = "value::domain")]
    pub domain: String,
    #[serde(deserialize_with = "value::absolute_path")]
    pub socket: PathBuf,
    /// Whose members may talk to the socket, beside root.
    #[serde(deserialize_with = "value::group")]
    pub group: String,
    pub http: Http,
    pub https: Https,
    pub tls: Tls,
    pub sso: Sso,
    pub acme: Acme,
    pub rfc2136: Rfc2136,
    pub ssh: Ssh,
    pub edge: Edge,
    pub nginx: Nginx,
    pub build: Build,
    /// What holds for environments where neither app nor environment say otherwise.
    pub defaults: Settings,
    pub network: Network,
    pub ports: Ports,
    pub memory: Memory,
    pub disk: Disk,
    pub follow: Follow,
    pub services: Services,
    pub metrics: Metrics,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// None: where the domain says, see [`Config::http_addresses`].
    #[serde(deserialize_with = "value::addresses_if_any")]
    pub listen: Option<Vec<SocketAddr>>,
    /// Proxies before the edge that are believed in who their clients are.
    #[serde(deserialize_with = "value::ranges")]
    pub trusted_proxies: Vec<Prefix>,
    /// They say so at the beginning of each connection, by the PROXY protocol, and not with each request alone.
    pub proxy_protocol: bool,
    /// How visitors come, where that is not how this server listens.
    #[serde(deserialize_with = "value::visitors_or_auto")]
    pub external: Option<Visitors>,
    /// The most bytes that the body of a request may have.
    #[serde(deserialize_with = "value::size_or_none")]
    pub body_max: Option<u64>,
}

/// Where the edge speaks TLS. From then on plain HTTP leads there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Https {
    pub listen: Vec<SocketAddr>,
}

/// What is shown to clients that speak TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub certificates: Vec<CertificateFiles>,
}

/// A certificate, with those that issued it behind it, and its private key. Both are PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    #[serde(deserialize_with = "value::absolute_path")]
    pub certificate: PathBuf,
    #[serde(deserialize_with = "value::absolute_path")]
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ssh {
    #[serde(deserialize_with = "value::some_addresses")]
    pub listen: Vec<SocketAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edge {
    pub kind: EdgeKind,
    /// Parts of the user agents of clients that neither wake an environment nor keep it awake.
    #[serde(deserialize_with = "value::agents")]
    pub quiet_agents: Vec<String>,
}

/// What takes HTTP from the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeKind {
    /// The daemon itself.
    #[default]
    Embedded,
    /// An nginx that runs on this server.
    Nginx,
}

/// Where the nginx is that is the edge.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nginx {
    /// Its main configuration file.
    #[serde(deserialize_with = "value::absolute_path")]
    pub conf: PathBuf,
    /// Where its master process notes its process id.
    #[serde(deserialize_with = "value::absolute_path")]
    pub pid: PathBuf,
    /// Whom its worker processes run as.
    #[serde(deserialize_with = "value::group")]
    pub user: String,
    /// Where lines are that it follows for the environments of one app, in a file `APP.conf` each.
    #[serde(deserialize_with = "value::absolute_path")]
    pub snippets: PathBuf,
}

/// What build steps see of the host's surroundings, and what they may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    /// Certificate authorities in PEM that build steps trust beside Debian's.
    #[serde(deserialize_with = "value::absolute_path")]
    pub ca_bundle: PathBuf,
    /// Environment variables for every build step: a proxy, a mirror. They are part of a layer's identity.
    #[serde(deserialize_with = "value::variables")]
    pub variables: BTreeMap<String, String>,
    /// Private addresses that build steps may reach.
    pub allow: Vec<SocketAddr>,
    /// The stack of apps that pin none.
    #[serde(deserialize_with = "value::label")]
    pub stack: String,
    /// How long one step may take.
    #[serde(deserialize_with = "value::duration")]
    pub time: Duration,
    #[serde(deserialize_with = "value::size")]
    pub memory: u64,
    #[serde(deserialize_with = "value::size")]
    pub swap: u64,
    pub pids: u32,
    #[serde(deserialize_with = "value::size")]
    pub disk: u64,
    pub inodes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Containers get one address each out of these. Daemons on one machine may share them.
    pub ipv4: Ipv4Prefix,
    pub ipv6: Ipv6Prefix,
    /// Resolvers for containers; empty: the host's own.
    pub dns: Vec<IpAddr>,
}

/// Ports of environments that the host publishes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ports {
    /// Those of the host that are given out where nobody names one.
    pub range: Pool,
}

/// How much of the machine's memory environments may have together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Bytes that stay available for everything else; none: a twentieth of it, and 64 MiB at least.
    #[serde(deserialize_with = "value::size_or_auto")]
    pub reserve: Option<u64>,
}

/// How much is kept. What is in use is kept in any case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// Bytes that stay free for everything else on the file system.
    #[serde(deserialize_with = "value::size")]
    pub floor: u64,
    /// Bytes of layers that no release uses, before the longest unused go.
    #[serde(deserialize_with = "value::size")]
    pub layers: u64,
    /// Bytes of package caches of all apps together.
    #[serde(deserialize_with = "value::size")]
    pub caches: u64,
    /// Bytes of output kept for one environment.
    #[serde(deserialize_with = "value::size")]
    pub logs: u64,
    /// Releases of one environment that stay for a rollback, beside the one that serves.
    pub releases: u32,
}

/// How environments follow the branches and pull requests that they were staged from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Follow {
    /// How often a repository is looked at; none: never.
    #[serde(deserialize_with = "value::duration_or_never")]
    pub every: Option<Duration>,
    /// How long a branch must have been missing before its environment goes.
    #[serde(deserialize_with = "value::duration")]
    pub gone: Duration,
}

/// What environments have on servers of others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Services {
    /// How long an environment must have rested before what it left open on a server is closed; none: never.
    #[serde(deserialize_with = "value::duration_or_never")]
    pub grace: Option<Duration>,
}

/// Where the daemon's numbers are, for Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Whoever reaches one of these reads them, so each should be a private address.
    pub listen: Vec<SocketAddr>,
}

/// What the command line says instead of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// Directory for everything the daemon keeps
    #[arg(long, value_name = "DIR", value_parser = value::parse_absolute_path)]
    pub state_dir: Option<PathBuf>,
    /// Environments are served at APP-ENV.DOMAIN
    #[arg(long, value_name = "DOMAIN", value_parser = value::parse_domain)]
    pub domain: Option<String>,
    /// Address and port for HTTP; [::]:PORT is IPv4 and IPv6
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Vec<SocketAddr>,
    /// Address and port for SSH; [::]:PORT is IPv4 and IPv6
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub ssh: Vec<SocketAddr>,
    /// Unix socket of the daemon
    #[arg(long, value_name = "PATH", env = "FLYLOFT_SOCKET", hide_env_values = true, value_parser = value::parse_absolute_path)]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("failed to read `{}`", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}:{column}: {}{message}", .path.display(), key_prefix(.key))]
    Parse {
        path: PathBuf,
        line: usize,
        column: usize,
        /// The dotted key that it is about, where there is one.
        key: Option<String>,
        message: String,
    },
    #[error(
        "{}: `gate` in `[defaults]` is `sso`, and nobody can log in: say in `[sso]` with whom, and who of them may look",
        .path.display()
    )]
    NoLogins { path: PathBuf },
}

fn key_prefix(key: &Option<String>) -> String {
    key.as_ref().map(|key| format!("`{key}`: ")).unwrap_or_default()
}

impl Config {
    /// Reads `path`, or [`DEFAULT_FILE`] if there is one, and lets `overrides` have the last word.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let text = Self::read(path)?;
        Ok(Self::parse(&text, path.unwrap_or(Path::new(DEFAULT_FILE)))?.with(overrides))
    }

    /// The text of `path`, or of [`DEFAULT_FILE`], which need not be there.
    pub fn read(path: Option<&Path>) -> Result<String, ConfigError> {
        let default = path.is_none();
        let path = path.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(error) if default && error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// `path` is where the text came from, for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let parsed: Result<Self, _> = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let (line, column) = position(text, at);
            let key = key_at(text, at);
            let message = error.message().replace('\n', ", ");
            // A setting's error names its key already.
            let named = key.as_ref().and_then(|key| key.rsplit('.').next()).map(|key| format!("`{key}`: "));
            let message = named.and_then(|named| message.strip_prefix(&named).map(str::to_owned)).unwrap_or(message);
            ConfigError::Parse { path: path.to_owned(), line, column, key, message }
        });
        match parsed? {
            config if config.defaults.gate == Some(Gate::Sso) && !config.sso.is_set() => {
                Err(ConfigError::NoLogins { path: path.to_owned() })
            }
            config => Ok(config),
        }
    }

    /// With `overrides` in place of what it says.
    pub fn with(mut self, overrides: Overrides) -> Self {
        let Overrides { state_dir, domain, http, ssh, socket } = overrides;
        if let Some(state_dir) = state_dir {
            self.state_dir = state_dir;
        }
        if let Some(domain) = domain {
            self.domain = domain;
        }
        if let Some(socket) = socket {
            self.socket = socket;
        }
        if !http.is_empty() {
            self.http.listen = Some(http);
        }
        if !ssh.is_empty() {
            self.ssh.listen = ssh;
        }
        self
    }

    /// Where HTTP is taken. What is below `localhost` is public to whoever says that name, so it is this machine's alone
    /// until somebody says where else. Not so nginx: what has an address to itself there takes it from the site's servers.
    pub fn http_addresses(&self) -> Vec<SocketAddr> {
        let is_localhost = Domain::parse(&self.domain).is_ok_and(|domain| domain.is_localhost());
        match &self.http.listen {
            Some(listen) => listen.clone(),
            None if is_localhost && self.edge.kind == EdgeKind::Embedded => {
                vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 80)), SocketAddr::from((Ipv6Addr::LOCALHOST, 80))]
            }
            None => vec![on_every_address(80)],
        }
    }
}

impl Build {
    /// What one build step may take.
    pub fn limits(&self) -> Limits {
        Limits {
            memory: self.memory,
            swap: self.swap,
            pids: self.pids,
            cpu_weight: Limits::default().cpu_weight,
            disk: self.disk,
            inodes: self.inodes,
        }
    }
}

/// Line and column, counted from 1 in characters, of a byte.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The dotted key whose line `at` is on. A value that spans lines gives the key of none; the position still says where.
fn key_at(text: &str, at: usize) -> Option<String> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next()?.trim();
    let (key, _) = line.split_once('=')?;
    let table = text[..start]
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix('[')?.split_once(']').map(|(table, _)| table.trim()));
    Some(match table {
        Some(table) => format!("{table}.{}", key.trim()),
        None => key.trim().to_owned(),
    })
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/flyloft".into(),
            domain: "localhost".to_owned(),
            socket: "/run/flyloft/flyloft.sock".into(),
            group: "flyloft".to_owned(),
            http: Http::default(),
            https: Https::default(),
            tls: Tls::default(),
            sso: Sso::default(),
            acme: Acme::default(),
            rfc2136: Rfc2136::default(),
            ssh: Ssh::default(),
            edge: Edge::default(),
            nginx: Nginx::default(),
            build: Build::default(),
            defaults: Settings::default(),
            network: Network::default(),
            ports: Ports::default(),
            memory: Memory::default(),
            disk: Disk::default(),
            follow: Follow::default(),
            services: Services::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Default for Nginx {
    fn default() -> Self {
        Self {
            conf: "/etc/nginx/nginx.conf".into(),
            pid: "/run/nginx.pid".into(),
            user: "www-data".to_owned(),
            snippets: "/etc/flyloft/nginx".into(),
        }
    }
}

impl Default for Ssh {
    fn default() -> Self {
        Self { listen: vec![on_every_address(2222)] }
    }
}

/// `[::]:port`, which is every address of both families.
fn on_every_address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

impl Default for Build {
    fn default() -> Self {
        Self {
            ca_bundle: HOST_CA_BUNDLE.into(),
            variables: BTreeMap::new(),
            allow: Vec::new(),
            stack: "debian-13".to_owned(),
            time: Duration::from_secs(15 * 60),
            memory: 2 * GIB,
            swap: 2 * GIB,
            pids: 1024,
            disk: 10 * GIB,
            inodes: 1_000_000,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { ipv4: Ipv4Prefix::DEFAULT, ipv6: Ipv6Prefix::DEFAULT, dns: Vec::new() }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self { range: Pool::DEFAULT }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self { floor: 2 * GIB, layers: 20 * GIB, caches: 10 * GIB, logs: 10 * MIB, releases: 5 }
    }
}

impl Default for Services {
    fn default() -> Self {
        Self { grace: Some(Duration::from_secs(60)) }
    }
}

impl Default for Follow {
    fn default() -> Self {
        Self { every: Some(Duration::from_secs(60)), gone: Duration::from_secs(10 * 60) }
    }
}

#[cfg(test)]
mod tests;
