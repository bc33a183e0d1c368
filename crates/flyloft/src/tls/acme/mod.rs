//! Certificates from an ACME server (RFC 8555), asked for and renewed by the daemon itself.
//!
//! ```text
//!   due? ──► order ──► TXT record published, and seen ──► judged by the server ──► certificate ──► keeper
//!     ▲         └ on record with its key: a daemon that starts meanwhile goes on with it              │
//!     └──── after two thirds of its time, or when its issuer says; after failures later and later ◄───┘
//! ```
//!
//! What must hold: what is shown meanwhile is shown on, whatever fails; a server that refuses is asked less and less often;
//! and nothing that fails on our side, nor trouble of the server's own, costs another order.

mod client;
mod course;
mod dns;
mod error;
mod order;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::course::Course;
pub use self::dns::Publish;
use self::dns::{Api, Eyes, Hook, Provider, Update};
pub use self::error::AcmeError;
use self::order::{Desk, Patience, Way};
use crate::config::{self, Config, Proof};
use crate::error::{Error, Result};
use crate::parts::Parts;
use crate::store::StoreError;
use crate::{sso, tls};

/// How often one looks whether something is due. Somebody may wait for a new host name.
const EVERY: Duration = Duration::from_secs(10);

/// What the configuration has asked for, if it has. Looked at before anything is begun.
pub struct Asked {
    config: config::Acme,
    /// Of the server's own.
    hosts: Vec<String>,
    /// None: over HTTP.
    publish: Option<Arc<dyn Publish>>,
}

impl Asked {
    pub fn of(config: &Config) -> Result<Option<Self>> {
        let publish: Arc<dyn Publish> = match config.acme.proof {
            Proof::None => return Ok(None),
            Proof::Http => return Self::suiting(config, None),
            Proof::Hook if config.acme.hook.is_empty() => {
                return Err(Error::usage("`proof` in `[acme]` of the configuration is a hook, and there is none")
                    .hint("name a program that publishes TXT records with `hook`"));
            }
            Proof::Hook => Arc::new(Hook { argv: config.acme.hook.clone() }),
            Proof::Rfc2136 => Arc::new(Update { zone: zone(config), config: config.rfc2136.clone() }),
            Proof::Digitalocean => Arc::new(api(config, Provider::DigitalOcean)),
            Proof::Hetzner => Arc::new(api(config, Provider::Hetzner)),
            Proof::Cloudflare => Arc::new(api(config, Provider::Cloudflare)),
        };
        Self::suiting(config, Some(publish))
    }

    /// If the rest of the configuration goes with it.
    fn suiting(config: &Config, publish: Option<Arc<dyn Publish>>) -> Result<Option<Self>> {
        if config.https.listen.is_empty() {
            return Err(Error::usage("`[acme]` of the configuration asks for a certificate, and HTTPS is off")
                .hint("set `listen = [\"[::]:443\"]` in `[https]`, or `proof = \"none\"` in `[acme]`"));
        }
        if !config.domain.contains('.') {
            return Err(Error::usage(format!("no server gives a certificate for names below `{}`", config.domain))
                .hint("set `domain` in the configuration to one that is yours, or `proof = \"none\"` in `[acme]`"));
        }
        let hosts = config.sso.is_set().then(|| sso::host(&config.domain)).into_iter().collect();
        Ok(Some(Self { config: config.acme.clone(), hosts, publish }))
    }

    /// Asks and renews for as long as the daemon runs.
    pub async fn keep_for_ever(self, parts: Arc<Parts>) {
        let Self { config, hosts, publish } = self;
        let way = match publish {
            Some(publish) => Way::Dns { publish, eyes: Eyes { resolvers: config.resolvers.clone() } },
            None => Way::Http(parts.keeper.answers.clone()),
        };
        let desk = Desk { parts, config, hosts, way, clock: tls::now, patience: Patience::default() };
        let mut courses = Courses::new();
        loop {
            if let Err(error) = go_on(&desk, &mut courses).await {
                tracing::error!(%error, "failed to look which certificates there are to be");
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// By what each certificate is for.
type Courses = BTreeMap<String, Course>;

/// Asks for what is due, one after the other.
async fn go_on(desk: &Desk, courses: &mut Courses) -> Result<(), StoreError> {
    let wanted = desk.want().await?;
    let names: BTreeSet<&str> = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
    courses.retain(|name, _| names.contains(name.as_str()));
    for wanted in &wanted {
        courses.entry(wanted.name.clone()).or_insert_with(Course::new).go_on(desk, wanted).await;
    }
    Ok(())
}

/// The zone that a record is put into.
fn zone(config: &Config) -> String {
    match config.acme.zone.as_str() {
        "" => config.domain.clone(),
        zone => zone.to_owned(),
    }
}

/// The way to a provider.
fn api(config: &Config, provider: Provider) -> Api {
    let config::Acme { token, zone, .. } = config.acme.clone();
    Api { provider, base: provider.base().to_owned(), token, zone }
}
