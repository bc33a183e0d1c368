//! The edge takes HTTP from the world and hands it to the right environment.

pub mod embedded;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flyloft_core::name::EnvRef;

/// Where requests for a host name go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub env: EnvRef,
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An app that answers at this address, found by the probe.
    Upstream(SocketAddr),
    /// Nothing runs: the page says why, in a sentence for a visitor.
    Unavailable { why: String },
}

#[async_trait]
pub trait Edge: Send + Sync {
    /// From the return of this call on, new requests for `host` go by `route`; those in flight finish where they are.
    async fn set(&self, host: &str, route: Route) -> Result<(), EdgeError>;

    async fn remove(&self, host: &str) -> Result<(), EdgeError>;

    /// Waits until no request is under way to `upstream` any more, for `limit` at most. Says whether it is so.
    async fn drained(&self, upstream: SocketAddr, limit: Duration) -> bool;
}

pub type SharedEdge = Arc<dyn Edge>;

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("failed to listen on `{address}`")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("failed to start the edge")]
    Start(#[source] std::io::Error),
}
