//! What the daemon is put together from, as those see it who stage environments.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::disk::{Given, Unit};
use flyloft_core::host::Domain;
use flyloft_core::lifecycle::{Runs, State};
use flyloft_core::name::{AppName, ReleaseNumber};
use flyloft_core::policy::{self, Levels};
use flyloft_core::port::Pool;

use crate::admission::Admission;
use crate::build::Builder;
use crate::clock::Clock;
use crate::config::{self, Visitors};
use crate::edge::SharedEdge;
use crate::engine::{SharedEngine, Stats};
use crate::error::{OrFailed, Result};
use crate::gates::Gates;
use crate::managed::Managed;
use crate::metrics::Tally;
use crate::ports::Ports;
use crate::provision::Places;
use crate::provision::client::Clients;
use crate::provision::data::Renewals;
use crate::retention::LookedThrough;
use crate::service::Drivers;
use crate::source::{Credential, RemoteUrl, Repositories, Secret};
use crate::store::{CredentialKind, EnvId, EnvRow, Store};
use crate::tls;
use crate::vault::Vault;

pub struct Parts {
    pub store: Store,
    pub engine: SharedEngine,
    pub edge: SharedEdge,
    pub ports: Ports,
    pub clock: Clock,
    pub admission: Admission,
    pub builder: Builder,
    pub repositories: Repositories,
    pub services: Drivers,
    pub places: Places,
    pub clients: Clients,
    pub renewals: Renewals,
    pub managed: Managed,
    pub vault: Vault,
    pub gates: Gates,
    pub tally: Tally,
    pub keeper: Arc<tls::Keeper>,
    /// Held by whoever makes room on the disk: what environments were last given up for.
    pub making_room: tokio::sync::Mutex<BTreeMap<Unit, Given>>,
    pub looked_through: LookedThrough,
    pub settings: Settings,
}

pub struct Settings {
    /// Tells what this daemon makes from what others do.
    pub instance: String,
    pub domain: Domain,
    pub visitors: Visitors,
    /// Whether the edge takes TLS itself.
    pub takes_tls: bool,
    /// What holds where neither an app nor an environment says otherwise.
    pub defaults: policy::Settings,
    /// How much is kept for later.
    pub disk: config::Disk,
    pub services: config::Services,
    /// Ports of the host that are given out.
    pub ports: Pool,
    /// How much of the use of what is awake a daemon that is killed may forget. What sleeps is not looked at for that.
    pub use_forgotten: Duration,
    /// How long all of a pull request's last script may take. Whoever destroys its environment waits for so long.
    pub farewell: Duration,
    /// What deploys say is kept here.
    pub transcripts: PathBuf,
    /// All that is kept.
    pub state_dir: PathBuf,
    /// The file that the daemon was configured with, if it is there.
    pub configuration: PathBuf,
}

impl Parts {
    /// What each holds of the machine's memory now. The engine is asked about what is awake; of what sleeps the last
    /// thing is told that is known, since there may be a thousand.
    pub async fn held(&self, rows: &[EnvRow]) -> Vec<Option<u64>> {
        let held = async |row: &EnvRow| match serde_json::from_str(&row.state) {
            Ok(State::Live(live)) => match live.runs {
                Runs::None | Runs::Off { .. } => None,
                Runs::Asleep { .. } => row.memory.asleep.map(|held| held.memory()),
                Runs::Awake { .. } | Runs::Waking { .. } => self.stats(row).await.map(|stats| stats.memory),
            },
            _ => None,
        };
        futures_util::future::join_all(rows.iter().map(held)).await
    }

    /// What the container of what serves uses, if there is one.
    pub async fn stats(&self, row: &EnvRow) -> Option<Stats> {
        self.engine.stats(&row.live.as_ref()?.container).await.ok()
    }

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
    /// What is set for an environment, where its release asks for this.
    pub fn levels(&self, env: &EnvRow, asked: &policy::Settings) -> Levels {
        Levels {
            server: self.defaults.clone(),
            app_json: asked.clone(),
            app: env.app_settings.clone(),
            env: env.settings.clone(),
        }
    }

    /// Where a visitor finds what answers at `host`.
    pub fn url(&self, host: &str) -> String {
        let Visitors { scheme, port } = self.visitors;
        match port {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }
    }

    /// The file that keeps what the deploy of a release says.
    pub fn transcript(&self, env: EnvId, release: ReleaseNumber) -> PathBuf {
        self.transcripts.join(env.0.to_string()).join(format!("{release}.log"))
    }
}
