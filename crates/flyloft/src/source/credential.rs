//! What opens a private repository. Each credential is bound to one host and is never offered to another.

use std::fmt;

use base64ct::{Base64, Encoding};

use super::remote::{RemoteUrl, Scheme};

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// As [`RemoteUrl::authority`] writes it: `git.example.com`, or `git.example.com:8443` if the URL has a port.
    pub host: String,
    pub secret: Secret,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Secret {
    /// For https. Most hosts take any user name with a token.
    Token { user: String, token: String },
    /// For SSH: a private key in OpenSSH's format, without a passphrase.
    DeployKey(String),
}

impl Credential {
    /// The token for this URL.
    pub(super) fn token<'a>(all: &'a [Self], url: &RemoteUrl) -> Option<(&'a str, &'a str)> {
        Self::bound(all, url).find_map(|credential| match &credential.secret {
            Secret::Token { user, token } if url.scheme != Scheme::Ssh => Some((user.as_str(), token.as_str())),
            _ => None,
        })
    }

    /// The private key for this URL.
    pub(super) fn deploy_key<'a>(all: &'a [Self], url: &RemoteUrl) -> Option<&'a str> {
        Self::bound(all, url).find_map(|credential| match &credential.secret {
            Secret::DeployKey(key) if url.scheme == Scheme::Ssh => Some(key.as_str()),
            _ => None,
        })
    }

    fn bound<'a>(all: &'a [Self], url: &RemoteUrl) -> impl Iterator<Item = &'a Self> {
        let authority = url.authority();
        all.iter().filter(move |credential| credential.host.eq_ignore_ascii_case(&authority))
    }
}

/// The value of an `Authorization` header. See RFC 7617.
pub(super) fn basic(user: &str, token: &str) -> String {
    format!("Basic {}", Base64::encode_string(format!("{user}:{token}").as_bytes()))
}

/// Says what it is for, and not what it is.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.secret {
            Secret::Token { .. } => "token",
            Secret::DeployKey(_) => "deploy key",
        };
        write!(f, "{kind} for {}", self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(host: &str) -> Credential {
        let secret = Secret::Token { user: "git".into(), token: "s3cret".into() };
        Credential { host: host.into(), secret }
    }

    #[test]
    fn a_token_is_for_its_own_host_and_port_and_never_for_ssh() {
        let all = [token("git.example.com")];
        let given = |url: &str| Credential::token(&all, &RemoteUrl::parse(url).unwrap()).is_some();
        assert!(given("https://git.example.com/acme/shop"));
        assert!(given("https://GIT.example.com/other/shop"));
        for url in [
            "https://example.com/shop",
            "https://git.example.com.evil.net/shop",
            "https://evil.git.example.com/shop",
            "https://git.example.com:8443/shop",
            "ssh://git.example.com/shop",
        ] {
            assert!(!given(url), "{url} got the token");
        }
    }

    #[test]
    fn a_credential_does_not_show_its_secret() {
        assert_eq!(format!("{:?}", token("git.example.com")), "token for git.example.com");
    }
}
