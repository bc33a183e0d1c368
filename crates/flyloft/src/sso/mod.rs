//! Logins of people with a provider of OpenID Connect, for all gates of the server that ask for one.
//!
//! ```text
//!   an environment ─► LOGIN/start ─► the provider ─► LOGIN/callback ─► the environment
//!   sends off          pending: sealed, in a cookie   code ─► id token   ticket ─► cookie
//! ```
//!
//! LOGIN is one host name of the server, since a provider wants to know where it sends people. Nothing is kept of who is
//! on the way: what is needed at the end comes back in a cookie that only this daemon can read.

mod fetch;
mod provider;
mod signature;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding};
use flyloft_core::gate::Guard;
use flyloft_core::name::EnvRef;
use flyloft_core::sso::{Claims, NotAllowed, Rules};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::mpsc;

pub use self::provider::{Exchange, Identity, Patience, Provider, Trouble};
use crate::config;
use crate::vault::Vault;

/// The label of the host name where people log in. Those of environments have a `-` in them.
const LABEL: &str = "login";

/// Where a provider sends people back to.
pub const CALLBACK: &str = "/callback";

/// How long somebody may take to log in, in seconds.
pub const PENDING: u64 = 10 * 60;

/// So many arrivals wait to be put on record. Beyond that they are only in the log.
const ARRIVALS: usize = 256;

/// By others than the owner and the group.
const BY_OTHERS: u32 = 0o007;

/// No secret is as long.
const SECRET_MAX: usize = 4 << 10;

pub struct Sso {
    /// Where people log in.
    pub host: String,
    pub provider: Arc<Provider>,
    rules: Rules,
    vault: Vault,
    arrivals: mpsc::Sender<Arrived>,
}

/// What gates have to know of logins.
#[derive(Clone)]
pub struct Terms {
    /// All that decides who may look.
    rules: String,
    session: u64,
}

/// Somebody who has logged in has come to an environment.
#[derive(Debug)]
pub struct Arrived {
    pub env: EnvRef,
    pub who: String,
}

/// A login that somebody has begun.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The host name to which it leads, and the path there.
    pub to: String,
    pub path: String,
    /// What the browser was sent off with from there.
    pub bound: String,
    pub state: String,
    pub nonce: String,
    pub verifier: String,
    /// In seconds since the Unix epoch.
    pub until: u64,
}

#[derive(Debug, Error)]
pub enum SsoError {
    #[error("failed to read the secret of the client, `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("others on this machine may read or write `{}`: its mode is {mode:03o}", .path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("`{}` is to hold one line, the secret of the client", .path.display())]
    NoSecret { path: PathBuf },
}

impl SsoError {
    pub fn hint(&self) -> String {
        match self {
            SsoError::Read { .. } => {
                "name the file with `client_secret_file` in `[sso]` of the configuration".to_owned()
            }
            SsoError::Open { path, .. } => format!("chmod 600 {}", path.display()),
            SsoError::NoSecret { .. } => "the provider shows it where the client is registered".to_owned(),
        }
    }
}

impl Terms {
    pub fn of(config: &config::Sso) -> Option<Self> {
        let rules = || config.rules.text(&config.issuer, &config.client_id);
        config.is_set().then(|| Self { rules: rules(), session: config.session.as_secs() })
    }

    pub fn of_guard(&self, guard: Guard) -> Guard {
        guard.with_logins(self.rules.as_bytes(), self.session)
    }
}

/// The host name where people log in.
pub fn host(domain: &str) -> String {
    format!("{LABEL}.{domain}")
}

/// How the configuration has the server known to the provider. None where nobody logs in.
pub fn identity(config: &config::Sso) -> Result<Option<Identity>, SsoError> {
    if !config.is_set() {
        return Ok(None);
    }
    Ok(Some(Identity {
        issuer: config.issuer.clone(),
        client: config.client_id.clone(),
        secret: secret(&config.client_secret_file)?,
        scopes: config.scopes.clone(),
    }))
}

fn secret(path: &Path) -> Result<String, SsoError> {
    let failed = |source| SsoError::Read { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(failed)?;
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & BY_OTHERS != 0 {
        return Err(SsoError::Open { path: path.to_owned(), mode });
    }
    let secret = text.trim();
    match secret.is_empty() || secret.len() > SECRET_MAX || secret.contains(char::is_control) {
        true => Err(SsoError::NoSecret { path: path.to_owned() }),
        false => Ok(secret.to_owned()),
    }
}

/// Asks a provider, as one who logs in does. Gives how many keys it has.
pub async fn ask(identity: Identity) -> Result<usize, Trouble> {
    Ok(Provider::new(identity, Patience::default()).about().await?.keys.len())
}

impl Sso {
    /// None where nobody logs in. Gives who has come as well.
    pub fn open(
        config: &config::Sso,
        domain: &str,
        vault: &Vault,
    ) -> Result<Option<(Self, mpsc::Receiver<Arrived>)>, SsoError> {
        let identity = identity(config)?;
        Ok(identity.map(|identity| Self::new(identity, config.rules.clone(), domain, vault, Patience::default())))
    }

    pub fn new(
        identity: Identity,
        rules: Rules,
        domain: &str,
        vault: &Vault,
        patience: Patience,
    ) -> (Self, mpsc::Receiver<Arrived>) {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let provider = Provider::new(identity, patience);
        (Self { host: host(domain), provider, rules, vault: vault.under("sso"), arrivals }, arrived)
    }

    /// Begins a login for a browser that was sent off from `to`. Gives where it goes, and what it has to bring back.
    pub async fn begin(
        &self,
        (to, path, bound): (String, String, String),
        redirect: &str,
        now: u64,
    ) -> Result<(String, Pending), Trouble> {
        let about = self.provider.about().await?;
        let [state, nonce, verifier] = [random(), random(), random()];
        let challenge = Base64UrlUnpadded::encode_string(&Sha256::digest(&verifier));
        let address = self.provider.address(
            &about.discovery,
            &[
                ("redirect_uri", redirect),
                ("state", &state),
                ("nonce", &nonce),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
            ],
        );
        Ok((address, Pending { to, path, bound, state, nonce, verifier, until: now + PENDING }))
    }

    /// What the provider says of somebody who has come back from it with a code.
    pub async fn exchange(&self, exchange: &Exchange<'_>) -> Result<Claims, Trouble> {
        self.provider.exchange(exchange, &self.rules).await
    }

    /// Who it is, if they may look.
    pub fn admit(&self, claims: &Claims) -> Result<String, NotAllowed> {
        self.rules.admit(claims).map(|()| claims.who())
    }

    /// So that its browser cannot read it, nor anybody make one up.
    pub fn seal(&self, pending: &Pending) -> String {
        let text = serde_json::to_string(pending).expect("it is made of texts and a number");
        Base64UrlUnpadded::encode_string(&self.vault.seal("a login", &text))
    }

    /// A login that was begun, if it may still end.
    pub fn unseal(&self, text: &[u8], now: u64) -> Option<Pending> {
        let sealed = Base64UrlUnpadded::decode_vec(std::str::from_utf8(text).ok()?).ok()?;
        let pending: Pending = serde_json::from_str(&self.vault.open_sealed("a login", &sealed).ok()?).ok()?;
        (now < pending.until).then_some(pending)
    }

    pub fn arrived(&self, env: EnvRef, who: String) {
        tracing::info!(%env, who, "somebody has logged in");
        // More at a time than are put on record are in the log all the same.
        let _ = self.arrivals.try_send(Arrived { env, who });
    }
}

/// Secrets are nobody's to see.
impl fmt::Debug for Sso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sso").field("host", &self.host).finish_non_exhaustive()
    }
}

/// 256 bits that nobody guesses, as a text that may stand in a query.
fn random() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    Base64UrlUnpadded::encode_string(&bytes)
}

#[cfg(test)]
mod tests;
