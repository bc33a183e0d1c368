//! The edge takes HTTP from the world and hands it to the right environment.

pub mod embedded;
pub mod nginx;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flyloft_core::gate::Guard;
use flyloft_core::name::EnvRef;
use tokio::sync::watch;

/// Where requests for a host name go.
#[derive(Clone, Debug)]
pub struct Route {
    pub env: EnvRef,
    pub target: Target,
    /// Keeps its gate; none where everybody may look.
    pub guard: Option<Arc<Guard>>,
}

impl Route {
    /// For everybody.
    pub fn public(env: EnvRef, target: Target) -> Self {
        Self { env, target, guard: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An app that answers at this address, found by the probe.
    Upstream(SocketAddr),
    /// It wakes when somebody visits: the first request is told as a [`Visit`], once for each call of [`Edge::set`] with
    /// this. Those that wait already are answered with the `failure` where there is one, a sentence or two for visitors.
    Held { failure: Option<String> },
    /// Nothing runs: the page says why, in a sentence for a visitor.
    Unavailable { why: String },
}

#[async_trait]
pub trait Edge: Send + Sync {
    /// From the return of this call on, new requests for `host` go by `route`; those in flight finish where they are.
    async fn set(&self, host: &str, route: Route) -> Result<(), EdgeError>;

    async fn remove(&self, host: &str) -> Result<(), EdgeError>;

    /// From the return of this call on, this guard keeps the gate of `host`, or none does, wherever that is routed.
    async fn guard(&self, host: &str, guard: Option<Arc<Guard>>) -> Result<(), EdgeError>;

    /// Whether `host` will be routed elsewhere before long, or will not any more. An edge that takes time for that may
    /// begin.
    fn expect(&self, _host: &str, _change: bool) {}

    /// Says to those who wait for `host` what takes so long, in a sentence. Until something else is said, or it is set
    /// anew.
    fn explain(&self, host: &str, doing: &str);

    /// How long ago somebody last used `host`; no time at all while somebody does, and `None` if nobody has since it was
    /// first routed.
    fn unused_for(&self, host: &str) -> Option<Duration>;

    /// Who that was, in words for people, as far as it is known: `GET /cart from 203.0.113.7`. To a second.
    fn last_user(&self, host: &str) -> Option<Arc<str>>;

    /// How many answers `host` has had since it was first routed, by the hundreds of their status.
    fn answers(&self, host: &str) -> [u64; 5];

    /// Waits until no request is under way to `upstream` any more, for `limit` at most. Says whether it is so.
    async fn drained(&self, upstream: SocketAddr, limit: Duration) -> bool;
}

/// Somebody waits for an environment that is [`Target::Held`].
#[derive(Clone, Debug)]
pub struct Visit {
    pub env: EnvRef,
    /// Who, and for what, in words for people: `GET /cart from 203.0.113.7`.
    pub by: String,
    pub at: Instant,
    /// How those get through who wait. A message over a connection that is open waits for no answer.
    pub passage: Option<watch::Receiver<Passage>>,
}

/// When the first of those who waited for the same wake had done each step on its way to an answer. Who watches this is
/// told of the answer, and by its end that nobody of them is under way any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// It did not have to wait any more.
    pub passed: Option<Instant>,
    /// It had a connection to the app.
    pub connected: Option<Instant>,
    /// The answer had begun.
    pub answered: Option<Instant>,
}

/// Where an edge tells of visits.
pub type Visits = tokio::sync::mpsc::UnboundedSender<Visit>;

pub type SharedEdge = Arc<dyn Edge>;

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("failed to listen on `{address}`")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("failed to start the edge")]
    Start(#[source] std::io::Error),
    #[error(transparent)]
    Nginx(#[from] nginx::Trouble),
}
