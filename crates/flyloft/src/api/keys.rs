//! `flyloft keys`.

use flyloft_core::name::AppName;
use serde::Serialize;

use super::reply::{Reply, age, as_time, done, table};
use super::{Api, Call, Ending};
use crate::command::{Keys, KeysAdd};
use crate::door::PublicKey;
use crate::error::{Error, OrFailed, Result};
use crate::store::{self, KeyRow};

#[derive(Serialize)]
struct KeyList {
    keys: Vec<KeyItem>,
}

#[derive(Serialize)]
struct KeyItem {
    name: String,
    fingerprint: String,
    admin: bool,
    apps: Vec<AppName>,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
}

impl Reply for KeyList {
    fn text(&self) -> String {
        if self.keys.is_empty() {
            return "there are no keys yet; add one: flyloft keys add NAME FILE --admin\n".to_owned();
        }
        let now = store::now();
        let rows = self.keys.iter().map(|key| {
            let apps = key.apps.iter().map(|app| app.to_string()).collect::<Vec<_>>().join(", ");
            let may = if key.admin { "everything".to_owned() } else { apps };
            [key.name.clone(), may, age(key.created_at, now), key.fingerprint.clone()]
        });
        table(["KEY", "MAY USE", "AGE", "FINGERPRINT"], rows)
    }
}

impl Api {
    pub(super) async fn keys(&self, call: &mut Call<'_>, command: Keys) -> Result<Ending> {
        call.must_be_admin()?;
        match command {
            Keys::Add(add) => self.add_key(call, add).await,
            Keys::Ls => self.list_keys().await,
            Keys::Rm { name } => self.remove_key(&name).await,
        }
    }

    async fn add_key(&self, call: &mut Call<'_>, add: KeysAdd) -> Result<Ending> {
        let KeysAdd { name, admin, app: apps, .. } = add;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if name.is_empty() || name.len() > 60 || !name.chars().all(allowed) {
            return Err(Error::usage(format!("`{name}` is no name for a key"))
                .hint("letters, digits and any of -_.@ are allowed, 60 characters at most"));
        }
        let key = PublicKey::parse(&call.input("the public key", 16 << 10).await?)?;
        let row = KeyRow {
            name: name.clone(),
            public_key: key.line,
            fingerprint: key.fingerprint,
            admin,
            apps,
            created_at: store::now(),
        };
        match self.loft.parts.store.add_key(row).await.or_failed(|| format!("failed to add key `{name}`"))? {
            Ok(()) => Ok(done(format!("key `{name}` is added")).into()),
            Err(taken) if taken == name => {
                Err(Error::conflict(format!("there is a key `{name}` already")).hint(format!("flyloft keys rm {name}")))
            }
            Err(taken) => {
                Err(Error::conflict(format!("key `{taken}` is the same key")).hint(format!("flyloft keys rm {taken}")))
            }
        }
    }

    async fn list_keys(&self) -> Result<Ending> {
        let rows = self.loft.parts.store.keys().await.or_failed(|| "failed to list keys")?;
        let keys = rows.into_iter().map(|key| KeyItem {
            name: key.name,
            fingerprint: key.fingerprint,
            admin: key.admin,
            apps: key.apps,
            created_at: key.created_at,
        });
        Ok(KeyList { keys: keys.collect() }.into())
    }

    async fn remove_key(&self, name: &str) -> Result<Ending> {
        if self.loft.parts.store.remove_key(name).await.or_failed(|| format!("failed to remove key `{name}`"))? {
            self.keys_changed.send_replace(());
            return Ok(done(format!("key `{name}` is removed")).into());
        }
        Err(Error::not_found(format!("there is no key `{name}`")).hint("`flyloft keys ls` lists them"))
    }
}
