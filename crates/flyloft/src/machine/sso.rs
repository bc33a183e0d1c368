//! With whom people log in, asked as the daemon asks.

use crate::config::{Config, EdgeKind, Visitors};
use crate::sso::{self, CALLBACK};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sso {
    pub issuer: String,
    /// Where people come back to.
    pub callback: String,
    pub found: Found,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It has so many keys that are for signatures, of a kind that is known.
    Answers {
        keys: usize,
    },
    Silent {
        why: String,
    },
    /// Nobody could ask it: the file of the secret is not as it should be.
    NoSecret {
        why: String,
        remedy: String,
    },
}

impl Sso {
    /// None where nobody logs in.
    pub async fn look(config: &Config) -> Option<Self> {
        let found = match sso::identity(&config.sso) {
            Ok(None) => return None,
            Err(error) => Found::NoSecret { why: error.to_string(), remedy: error.hint() },
            Ok(Some(identity)) => match sso::ask(identity).await {
                Ok(keys) => Found::Answers { keys },
                Err(trouble) => Found::Silent { why: trouble.to_string() },
            },
        };
        Some(Self { issuer: config.sso.issuer.clone(), callback: callback(config), found })
    }
}

fn callback(config: &Config) -> String {
    let auto = || match config.edge.kind {
        EdgeKind::Embedded => Visitors::of(&config.http_addresses(), &config.https.listen),
        // What the site's nginx speaks is its own business. Providers want HTTPS.
        EdgeKind::Nginx => Visitors { scheme: "https", port: None },
    };
    let Visitors { scheme, port } = config.http.external.unwrap_or_else(auto);
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    format!("{scheme}://{}{port}{CALLBACK}", sso::host(&config.domain))
}
