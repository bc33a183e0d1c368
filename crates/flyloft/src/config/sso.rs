//! With whom people log in, and who of them may look.

use std::path::PathBuf;
use std::time::Duration;

use flyloft_core::sso::{Rules, may_be_asked};
use serde::Deserialize;

use super::value;

/// Nobody logs in where there is no issuer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Sso {
    /// The provider, as it calls itself.
    pub issuer: String,
    /// What the server is to it.
    pub client_id: String,
    pub client_secret_file: PathBuf,
    /// What is asked of it beside who somebody is.
    pub scopes: Vec<String>,
    pub rules: Rules,
    /// How long somebody who has logged in may look.
    pub session: Duration,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    issuer: String,
    client_id: String,
    #[serde(deserialize_with = "value::absolute_path")]
    client_secret_file: PathBuf,
    allowed_domains: Vec<String>,
    allowed_groups: Vec<String>,
    anyone: bool,
    scopes: Vec<String>,
    #[serde(deserialize_with = "value::duration")]
    session: Duration,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            client_id: String::new(),
            client_secret_file: "/etc/flyloft/sso.secret".into(),
            allowed_domains: Vec::new(),
            allowed_groups: Vec::new(),
            anyone: false,
            scopes: vec!["openid".to_owned(), "email".to_owned()],
            session: Duration::from_secs(12 * 3600),
        }
    }
}

impl Sso {
    pub fn is_set(&self) -> bool {
        !self.issuer.is_empty()
    }
}

impl Default for Sso {
    fn default() -> Self {
        let Written { issuer, client_id, client_secret_file, scopes, session, .. } = Written::default();
        Self { issuer, client_id, client_secret_file, scopes, session, rules: Rules::default() }
    }
}

impl TryFrom<Written> for Sso {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { issuer, client_id, client_secret_file, allowed_domains, allowed_groups, anyone, scopes, session } =
            written;
        if issuer.is_empty() {
            let says_nothing =
                client_id.is_empty() && allowed_domains.is_empty() && allowed_groups.is_empty() && !anyone;
            let rest = Self { client_secret_file, scopes, session, ..Self::default() };
            return says_nothing
                .then_some(rest)
                .ok_or_else(|| "`issuer` is missing, with whom people log in".to_owned());
        }
        if !may_be_asked(&issuer) || issuer.contains('?') {
            return Err(format!("`issuer`: `{}` is no URL such as https://id.example.org", issuer.escape_debug()));
        }
        if client_id.is_empty() || client_id.contains(char::is_control) {
            return Err("`client_id` is missing, by which the provider knows this server".to_owned());
        }
        let is_one = |scope: &String| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic());
        if !scopes.iter().all(is_one) || !scopes.iter().any(|scope| scope == "openid") {
            return Err("`scopes` are words, of which `openid` is one".to_owned());
        }
        let rules = Rules::new(&allowed_domains, &allowed_groups, anyone).map_err(|error| error.to_string())?;
        Ok(Self { issuer, client_id, client_secret_file, scopes, rules, session })
    }
}
