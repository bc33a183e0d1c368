//! How certificates are asked for.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{HOST_CA_BUNDLE, value};

/// A certificate that is asked for by ACME.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Acme {
    pub proof: Proof,
    /// The server's directory.
    #[serde(deserialize_with = "value::https")]
    pub directory: String,
    /// Mail addresses of people whom the server may write to.
    #[serde(deserialize_with = "value::mail_addresses")]
    pub contact: Vec<String>,
    /// Certificate authorities in PEM that vouch for the server.
    #[serde(deserialize_with = "value::absolute_path")]
    pub roots: PathBuf,
    /// How long a record may take to be seen once it is published.
    #[serde(deserialize_with = "value::duration")]
    pub propagation: Duration,
    /// Who tells which name servers the domain has. Empty: those whom the machine asks.
    pub resolvers: Vec<SocketAddr>,
    /// That records are put into. Empty: the domain of environments, or the zone of a provider's that it is in.
    #[serde(deserialize_with = "value::domain_or_none")]
    pub zone: String,
    /// A file with what opens the provider's API.
    #[serde(deserialize_with = "value::absolute_path")]
    pub token: PathBuf,
    /// A program and its arguments.
    pub hook: Vec<String>,
}

/// How it is shown that the domain is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// No certificate is asked for.
    #[default]
    None,
    Hook,
    Rfc2136,
    Digitalocean,
    Hetzner,
    Cloudflare,
    /// By the edge itself, for each host name.
    Http,
}

/// A DNS server that takes dynamic updates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rfc2136 {
    pub server: SocketAddr,
    /// The name of the key that is shared with it.
    #[serde(deserialize_with = "value::domain")]
    pub key: String,
    /// A file with the key in base64.
    #[serde(deserialize_with = "value::absolute_path")]
    pub secret: PathBuf,
    pub algorithm: Algorithm,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    #[default]
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            proof: Proof::default(),
            directory: instant_acme::LetsEncrypt::Production.url().to_owned(),
            contact: Vec::new(),
            roots: HOST_CA_BUNDLE.into(),
            propagation: Duration::from_secs(120),
            resolvers: Vec::new(),
            zone: String::new(),
            token: "/etc/flyloft/dns.token".into(),
            hook: Vec::new(),
        }
    }
}

impl Default for Rfc2136 {
    fn default() -> Self {
        Self {
            server: SocketAddr::from((Ipv6Addr::LOCALHOST, 53)),
            key: "flyloft".to_owned(),
            secret: "/etc/flyloft/tsig.key".into(),
            algorithm: Algorithm::default(),
        }
    }
}
