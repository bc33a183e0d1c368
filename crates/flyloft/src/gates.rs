//! Who may look at which environment: what people have set for it, and with what its links are signed.

use std::sync::Arc;

use flyloft_core::gate::{Gate, Guard, Key};
use flyloft_core::policy::{Levels, Settings};
use tokio::sync::mpsc;

use crate::sso::{Arrived, Terms};
use crate::store::{self, EnvRow, Store};
use crate::vault::Vault;

pub struct Gates {
    secret: [u8; 32],
    /// None where nobody can log in.
    logins: Option<Terms>,
    /// What holds where neither an app nor an environment says otherwise.
    defaults: Settings,
}

impl Gates {
    pub fn new(vault: &Vault, defaults: Settings, logins: Option<Terms>) -> Self {
        Self { secret: vault.derive("gate"), logins, defaults }
    }

    /// Whether people can log in at gates that ask for it.
    pub fn have_logins(&self) -> bool {
        self.logins.is_some()
    }

    pub fn gate(&self, env: &EnvRow) -> Gate {
        let levels = Levels {
            server: self.defaults.clone(),
            app_json: Settings::default(),
            app: env.app_settings.clone(),
            env: env.settings.clone(),
        };
        levels.gate()
    }

    /// With which what opens its gate is signed.
    pub fn key(&self, env: &EnvRow) -> Key {
        Key::new(&self.secret, env.id.0, &env.host, env.gate_generation)
    }

    /// Keeps its gate; none where everybody may look.
    pub fn guard(&self, env: &EnvRow) -> Option<Arc<Guard>> {
        let guard = Guard::new(self.gate(env), self.key(env), env.gate_password.clone())?;
        Some(Arc::new(match &self.logins {
            Some(logins) => logins.of_guard(guard),
            None => guard,
        }))
    }
}

/// Puts on record who comes to an environment for the first time.
pub async fn record(store: Store, mut arrived: mpsc::Receiver<Arrived>) {
    while let Some(Arrived { env, who }) = arrived.recv().await {
        if let Err(error) = store.tell_first_login(&env, &who, store::now()).await {
            tracing::error!(%error, "failed to record an event");
        }
    }
}
