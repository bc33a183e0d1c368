//! What the daemon is put together from, as those see it who stage environments.

use std::path::PathBuf;

use flyloft_core::host::Domain;
use flyloft_core::name::{AppName, ReleaseNumber};
use flyloft_core::policy::{Limits, Policy};

use crate::build::Builder;
use crate::clock::Clock;
use crate::config;
use crate::edge::SharedEdge;
use crate::engine::SharedEngine;
use crate::error::{OrFailed, Result};
use crate::source::{Credential, RemoteUrl, Repositories, Secret};
use crate::store::{CredentialKind, EnvId, Store};

pub struct Parts {
    pub store: Store,
    pub engine: SharedEngine,
    pub edge: SharedEdge,
    pub clock: Clock,
    pub builder: Builder,
    pub repositories: Repositories,
    pub settings: Settings,
}

pub struct Settings {
    pub domain: Domain,
    /// The port that visitors use, where it is not the scheme's own.
    pub port: Option<u16>,
    pub limits: Limits,
    pub policy: Policy,
    /// How much is kept for later.
    pub disk: config::Disk,
    /// What deploys say is kept here.
    pub transcripts: PathBuf,
}

impl Parts {
    /// Where the app is fetched from, if from anywhere, and what opens that.
    pub async fn remote(&self, app: &AppName) -> Result<Option<(RemoteUrl, Vec<Credential>)>> {
        let failed = || format!("failed to look up the repository of `{app}`");
        let Some(url) = self.store.app(app).await.or_failed(failed)?.and_then(|row| row.git_url) else {
            return Ok(None);
        };
        let url = self.repositories.url(&url)?;
        let credential = self.store.credential(app).await.or_failed(failed)?.map(|row| Credential {
            host: row.host,
            secret: match row.kind {
                CredentialKind::Token => Secret::Token { user: row.username, token: row.secret },
                CredentialKind::DeployKey => Secret::DeployKey(row.secret),
            },
        });
        Ok(Some((url, credential.into_iter().collect())))
    }
}

impl Settings {
    /// Where a visitor finds what answers at `host`.
    pub fn url(&self, host: &str) -> String {
        match self.port {
            Some(port) => format!("http://{host}:{port}"),
            None => format!("http://{host}"),
        }
    }

    /// The file that keeps what the deploy of a release says.
    pub fn transcript(&self, env: EnvId, release: ReleaseNumber) -> PathBuf {
        self.transcripts.join(env.0.to_string()).join(format!("{release}.log"))
    }
}
