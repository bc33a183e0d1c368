//! TLS at the front door: certificates out of files, and which of them is shown to whom.
//!
//! ```text
//!   files ──► pair (looked at, judged) ──► keeper (once a minute) ──► Certificates ──► edge
//! ```
//!
//! What must hold: nobody is shown a certificate that is not for the name that was asked for, and a file that has become
//! a bad one changes nothing for clients: what it was when it was good is shown on.

pub mod acme;
mod answers;
pub mod keeper;
pub mod local;
pub mod pair;
#[cfg(test)]
pub mod trial;
pub mod trust;

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use flyloft_core::certificate::{self, Names, Validity};
use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::SingleCertAndKey;

pub use self::answers::{Answers, CHALLENGES};
pub use self::keeper::{Keeper, Status};
pub use self::local::{Local, LocalError};
pub use self::pair::{Pair, PairError, Texts};

/// What a client may go on with (RFC 7301), the first it has of these.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What is shown to clients, for all threads of the edge. Swapped as a whole.
#[derive(Debug)]
pub struct Certificates {
    shown: ArcSwap<Vec<Arc<Shown>>>,
    /// What a proxy shows in the edge's place, which takes these over later, or not.
    proxy: OnceLock<Arc<Certificates>>,
    /// By which clients come back without a whole handshake, whatever becomes of the certificates.
    tickets: Arc<dyn ProducesTickets>,
}

/// Seconds since 1970 by the machine's clock, which certificates go by.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// One of them.
#[derive(Debug)]
pub struct Shown {
    pub names: Names,
    pub validity: Validity,
    pub config: Arc<ServerConfig>,
    /// For a proxy that shows it in the edge's place.
    pub texts: Arc<Texts>,
}

impl Certificates {
    /// None at first.
    pub fn new() -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self { shown: ArcSwap::default(), proxy: OnceLock::new(), tickets: Ticketer::new()? }))
    }

    /// Shows these from now on, and no others. Who is connected already stays so.
    pub fn set<'a>(&self, pairs: impl IntoIterator<Item = &'a Pair>) {
        self.put(pairs.into_iter().map(|pair| Arc::new(self.show(pair))).collect());
    }

    /// The same with what another one shows.
    pub fn put(&self, shown: Vec<Arc<Shown>>) {
        self.shown.store(Arc::new(shown));
    }

    /// All of them, in the order in which they are chosen from. It is another one each time that this has changed.
    pub fn all(&self) -> Arc<Vec<Arc<Shown>>> {
        self.shown.load_full()
    }

    pub fn show(&self, pair: &Pair) -> Shown {
        let versions = ServerConfig::builder_with_provider(pair::provider()).with_safe_default_protocol_versions();
        let builder = versions.expect("ring has what these versions need").with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified.clone())));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        config.ticketer = self.tickets.clone();
        // What a client brings along itself need not be kept here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let Pair { validity, texts, .. } = pair;
        Shown { names: pair.names.clone(), validity: *validity, config: Arc::new(config), texts: texts.clone() }
    }

    /// What is shown to who asks for `host`, in lower case.
    pub fn choose(&self, host: &str) -> Option<Arc<Shown>> {
        let shown = self.shown.load();
        certificate::choose(shown.iter().map(|shown| &shown.names), host).map(|at| shown[at].clone())
    }

    /// Says that a proxy shows them, as `proxy` has it.
    pub fn are_shown_by(&self, proxy: Arc<Certificates>) {
        let _ = self.proxy.set(proxy);
    }

    /// What clients are shown where this one is wanted: itself, or what is there for its names, of several what expires
    /// first.
    pub fn in_place_of(&self, pair: &Pair) -> Option<Arc<Shown>> {
        let front = self.proxy.get().map_or(self, |proxy| &**proxy);
        if let Some(own) = front.shown.load().iter().find(|shown| shown.texts == pair.texts) {
            return Some(own.clone());
        }
        let hosts = pair.names.iter().map(|name| name.replacen('*', "any", 1));
        hosts.filter_map(|host| front.choose(&host)).min_by_key(|shown| shown.validity.until)
    }

    /// Whether there is one for `host`.
    pub fn cover(&self, host: &str) -> bool {
        self.shown.load().iter().any(|shown| shown.names.cover(host))
    }
}
