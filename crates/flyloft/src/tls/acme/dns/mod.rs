//! Proof by DNS: who publishes TXT records, and whether the world sees them.

mod api;
mod cloudflare;
mod digitalocean;
mod hetzner;
mod hook;
mod link;
mod look;
#[cfg(test)]
mod providers;
#[cfg(test)]
pub mod tests;
mod update;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use async_trait::async_trait;

pub use self::api::{Api, Provider};
pub use self::hook::Hook;
pub use self::look::Eyes;
#[cfg(test)]
pub use self::look::Sight;
pub use self::update::Update;

/// How long others may keep what they have seen of a record, in seconds. It is there for minutes.
const TTL: u32 = 60;

/// Publishes TXT records. In words of its own where it fails.
#[async_trait]
pub trait Publish: Send + Sync {
    /// Comes back when it is taken. The same once more is no error.
    async fn publish(&self, name: &str, value: &str) -> Result<(), String>;
    async fn withdraw(&self, name: &str, value: &str) -> Result<(), String>;
}

/// What a file holds that is nobody else's to know.
fn secret(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("failed to read `{}`: {error}", path.display());
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!("others on this machine may read `{}`: chmod 600 it", path.display()));
    }
    match std::fs::read_to_string(path).map_err(failed)?.trim() {
        "" => Err(format!("there is nothing in `{}`", path.display())),
        text => Ok(text.to_owned()),
    }
}
