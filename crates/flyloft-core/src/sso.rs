//! Logins by OpenID Connect: what is believed of what a provider says, and who may look by that.
//!
//! What is asked of it, and the arithmetic of signatures, is elsewhere. What must hold here: nothing is believed that is
//! not signed by a key of the provider's ([`Signed`], [`PublicKey`]), said by it, to us, now, and for this one login
//! ([`Claims::check`]); and nobody may look whom the rules do not name ([`Rules::admit`]).

mod claims;
mod keys;
mod rules;
mod spent;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

pub use self::claims::{Claims, Expected};
pub use self::keys::{Algorithm, Material, PublicKey, Signed, keys};
pub use self::rules::{NotAllowed, Rules, RulesError};
pub use self::spent::Spent;

/// Why something that a provider has said is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Disbelief {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("its id token is signed by `{0}`, which is none of `RS256`, `ES256` and `EdDSA`")]
    Algorithm(String),
    #[error("its id token is signed by none of its keys")]
    NoKey,
    #[error("the signature of its id token is wrong")]
    Signature,
    #[error("its id token is from `{0}`, who is somebody else")]
    Issuer(String),
    #[error("its id token is for somebody else")]
    Audience,
    #[error("its id token has expired: its clock, or that of this machine, may be wrong")]
    Expired,
    #[error("its id token is from the future: its clock, or that of this machine, may be wrong")]
    Early,
    #[error("its id token is for another login")]
    Nonce,
    #[error("what it tells of somebody is not about who has logged in")]
    Subject,
    #[error("it calls itself `{0}`, which is to be the `issuer` of the configuration to the letter")]
    Itself(String),
    #[error("its `{0}` is no URL that may be asked")]
    Endpoint(&'static str),
}

/// Where a provider is to be asked (OpenID Connect Discovery 1.0 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    pub authorization: String,
    pub token: String,
    pub keys: String,
    /// Where it tells more of somebody than in an id token, if anywhere.
    pub userinfo: Option<String>,
    /// It takes the secret of a client in a header, which is what holds where it says nothing. Else in the body.
    pub basic: bool,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Discovery {
    /// The path at which an issuer has the document.
    pub fn at(issuer: &str) -> String {
        format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
    }

    /// Reads the document of an issuer.
    pub fn read(json: &[u8], issuer: &str) -> Result<Self, Disbelief> {
        let malformed = |_| Disbelief::Malformed("what it says of itself is no document of OpenID Connect");
        let document: Document = serde_json::from_slice(json).map_err(malformed)?;
        if document.issuer != issuer {
            return Err(Disbelief::Itself(crate::name::excerpt(&document.issuer)));
        }
        let endpoints = [
            ("authorization_endpoint", Some(&document.authorization_endpoint)),
            ("token_endpoint", Some(&document.token_endpoint)),
            ("jwks_uri", Some(&document.jwks_uri)),
            ("userinfo_endpoint", document.userinfo_endpoint.as_ref()),
        ];
        for (name, url) in endpoints.into_iter().filter_map(|(name, url)| Some((name, url?))) {
            if !may_be_asked(url) || (issuer.starts_with("https:") && !url.starts_with("https:")) {
                return Err(Disbelief::Endpoint(name));
            }
        }
        let takes = |methods: &[String], method: &str| methods.iter().any(|known| known == method);
        let basic = document
            .token_endpoint_auth_methods_supported
            .is_none_or(|methods| takes(&methods, "client_secret_basic") || !takes(&methods, "client_secret_post"));
        Ok(Self {
            authorization: document.authorization_endpoint,
            token: document.token_endpoint,
            keys: document.jwks_uri,
            userinfo: document.userinfo_endpoint,
            basic,
        })
    }
}

/// Whether a URL is one of HTTPS, or of this machine, for trying out: what a provider says must not be read on its way.
pub fn may_be_asked(url: &str) -> bool {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['"', '\\', '#']);
    let Some((scheme, rest)) = url.split_once("://").filter(|_| is_plain(url)) else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let is_here = || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    !host.is_empty() && !authority.contains('@') && (scheme == "https" || (scheme == "http" && is_here()))
}

/// A text, or several, as claims have them.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
