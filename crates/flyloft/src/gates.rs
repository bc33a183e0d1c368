//! Who may look at which environment: what people have set for it, and with what its links are signed.

use std::sync::Arc;

use flyloft_core::gate::{Gate, Guard, Key};
use flyloft_core::policy::{Levels, Settings};

use crate::store::EnvRow;
use crate::vault::Vault;

pub struct Gates {
    secret: [u8; 32],
    /// What holds where neither an app nor an environment says otherwise.
    defaults: Settings,
}

impl Gates {
    pub fn new(vault: &Vault, defaults: Settings) -> Self {
        Self { secret: vault.derive("gate"), defaults }
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
        Guard::new(self.gate(env), self.key(env), env.gate_password.clone()).map(Arc::new)
    }
}
