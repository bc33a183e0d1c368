//! Host names: `{app}-{env}.{domain}`, one label before the domain, so that one wildcard certificate and one DNS record
//! serve every environment.
//!
//! Different environments can come to the same name: `a-b/c` and `a/b-c` are both `a-b-c`. The store holds host names
//! unique, and whoever comes second gets [`HostTaken`].

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::{EnvRef, excerpt, shorten};

/// The domain under which environments have their names: `localhost`, `staging.example.com`. Lower case, without a
/// final dot, and short enough that a label of 63 characters fits before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// A full host name, lower case and without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    #[error("`{0}` is not a domain name such as `staging.example.com`")]
    NotADomain(String),
    #[error("domain `{domain}` has {length} characters, {DOMAIN_MAX} are allowed")]
    DomainTooLong { domain: String, length: usize },
    #[error("`{0}` is not a host name")]
    NotAHost(String),
}

/// Two environments come to the same host name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{wanted}` would have the host name `{host}`, which is that of `{holder}`")]
pub struct HostTaken {
    pub host: HostName,
    pub wanted: EnvRef,
    pub holder: EnvRef,
}

impl HostTaken {
    pub fn hint(&self) -> String {
        format!("stage it under another name, or destroy the other first: `flyloft destroy {}`", self.holder)
    }
}

/// RFC 1035, 2.3.4: 63 octets a label. A name has 253 characters at most when it is written without a final dot.
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 253;
const DOMAIN_MAX: usize = NAME_MAX - LABEL_MAX - 1;

impl Domain {
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let domain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if domain.len() > DOMAIN_MAX {
            let length = domain.len();
            return Err(HostError::DomainTooLong { domain: excerpt(&domain), length });
        }
        if !is_host(&domain) {
            return Err(HostError::NotADomain(excerpt(text)));
        }
        Ok(Self(domain))
    }

    /// Whether it is `localhost` or below it, which is the machine itself (RFC 6761 section 6.3).
    pub fn is_localhost(&self) -> bool {
        self.0 == "localhost" || self.0.ends_with(".localhost")
    }
}

impl HostName {
    /// The name at which `env` is reached. A label that would be too long is cut and gets eight digits of a hash of
    /// `app/env`, so that the name is always the same for the same environment.
    pub fn of(env: &EnvRef, domain: &Domain) -> Self {
        let label = format!("{}-{}", env.app, env.env);
        let label = if label.len() > LABEL_MAX { shorten(&label, &env.to_string(), LABEL_MAX) } else { label };
        Self(format!("{label}.{domain}"))
    }

    pub fn parse(text: &str) -> Result<Self, HostError> {
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if host.len() > NAME_MAX || !is_host(&host) {
            return Err(HostError::NotAHost(excerpt(text)));
        }
        Ok(Self(host))
    }

    /// Reads a `Host` header or an `:authority`: the port goes (RFC 9110, 7.2), and what is not a name is refused, an
    /// IP address among it.
    pub fn of_authority(authority: &str) -> Result<Self, HostError> {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.is_empty() || is_port(port) => host,
            Some(_) => return Err(HostError::NotAHost(excerpt(authority))),
            None => authority,
        };
        Self::parse(host)
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// RFC 1123, 2.1: letters, digits and `-`, no label empty or with `-` at an end. Four numbers are an address.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.split('.').all(is_label) && text.parse::<Ipv4Addr>().is_err()
}

macro_rules! text {
    ($($type:ident),*) => {$(
        impl $type {
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String { name.0 }
        }
        impl TryFrom<String> for $type {
            type Error = HostError;
            fn try_from(text: String) -> Result<Self, HostError> { Self::parse(&text) }
        }
        impl FromStr for $type {
            type Err = HostError;
            fn from_str(text: &str) -> Result<Self, HostError> { Self::parse(text) }
        }
    )*};
}
text!(Domain, HostName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(text: &str) -> EnvRef {
        EnvRef::parse(text).unwrap()
    }

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[test]
    fn an_environment_is_one_label_before_the_domain() {
        let host = HostName::of(&env("shop/feature-login"), &domain("staging.example.com"));
        assert_eq!(host.as_str(), "shop-feature-login.staging.example.com");
        assert_eq!(HostName::of(&env("shop/pr-42"), &domain("localhost")).as_str(), "shop-pr-42.localhost");
    }

    #[test]
    fn a_label_that_is_too_long_is_cut_and_told_apart_by_a_hash() {
        let (app, branch) = ("a".repeat(30), "b".repeat(39));
        let one = HostName::of(&env(&format!("{app}/{branch}1")), &domain("localhost"));
        let other = HostName::of(&env(&format!("{app}/{branch}2")), &domain("localhost"));
        assert_eq!(one.as_str(), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbb-1de43d48.localhost");
        assert_ne!(one, other);
    }

    #[test]
    fn two_environments_with_one_name_are_an_error_that_names_both() {
        let (holder, wanted) = (env("a-b/c"), env("a/b-c"));
        let host = HostName::of(&wanted, &domain("localhost"));
        assert_eq!(host, HostName::of(&holder, &domain("localhost")));
        let error = HostTaken { host, wanted, holder };
        assert_eq!(error.to_string(), "`a/b-c` would have the host name `a-b-c.localhost`, which is that of `a-b/c`");
        assert_eq!(error.hint(), "stage it under another name, or destroy the other first: `flyloft destroy a-b/c`");
    }

    #[test]
    fn a_domain_is_read_in_any_case_and_with_a_final_dot() {
        assert_eq!(domain("Staging.Example.COM.").as_str(), "staging.example.com");
        assert_eq!(domain("localhost").as_str(), "localhost");
    }

    #[test]
    fn what_is_not_a_domain_is_refused() {
        let long = "a".repeat(64);
        for text in [
            "",
            ".",
            "a..b",
            "-a.com",
            "a-.com",
            "*.example.com",
            "exa mple.com",
            "ü.de",
            "10.0.0.1",
            "a/b",
            "a:80",
            &long,
        ] {
            assert!(matches!(Domain::parse(text), Err(HostError::NotADomain(_))), "{text}");
        }
        let error = Domain::parse(&["abc"; 60].join(".")).unwrap_err();
        assert!(error.to_string().ends_with("has 239 characters, 189 are allowed"), "{error}");
    }

    #[test]
    fn a_host_header_is_read_as_browsers_and_tools_send_it() {
        for header in [
            "shop-main.localhost",
            "SHOP-main.LocalHost:8080",
            "shop-main.localhost.",
            "shop-main.localhost.:80",
            "shop-main.localhost:",
        ] {
            assert_eq!(HostName::of_authority(header).unwrap().as_str(), "shop-main.localhost", "{header}");
        }
    }

    #[test]
    fn a_host_header_with_junk_in_it_is_refused() {
        for header in [
            "",
            ":",
            ":80",
            "a:b",
            "a:80:80",
            "a:-1",
            "a:+80",
            "a:99999",
            "[::1]",
            "[::1]:80",
            "127.0.0.1",
            "127.0.0.1:80",
            "user@a",
            "a/b",
            "a b",
            "a\n",
            "..",
            "a..",
            "a,b",
            "a;b",
            "%61",
            "a\0",
            "_dmarc.a",
            "é",
        ] {
            assert!(HostName::of_authority(header).is_err(), "{header:?}");
        }
    }

    #[test]
    fn an_error_quotes_only_the_start_of_a_hostile_text() {
        let error = HostName::of_authority(&"\u{1b}[2J".repeat(1000)).unwrap_err().to_string();
        assert!(error.len() < 500 && !error.contains('\u{1b}'), "{error}");
    }

    proptest! {
        #[test]
        fn the_name_of_any_environment_is_a_host_name_with_a_label_that_fits(
            app in "[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?",
            name in "[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?",
            domain in "[a-z]{1,30}(\\.[a-z0-9]{1,30}){0,4}",
        ) {
            prop_assume!(!app.starts_with("xn--"));
            let env = EnvRef::parse(&format!("{app}/{name}")).unwrap();
            let domain = Domain::parse(&domain).unwrap();
            let host = HostName::of(&env, &domain);
            prop_assert_eq!(HostName::parse(host.as_str()), Ok(host.clone()));
            prop_assert_eq!(HostName::of_authority(&format!("{}.:8080", host.as_str().to_uppercase())), Ok(host.clone()));
            let label = host.as_str().strip_suffix(&format!(".{domain}")).unwrap();
            prop_assert!(label.len() <= 63 && !label.contains('.'));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}|[a-zA-Z0-9.:-]{0,300}|\\[[0-9a-f:]{0,20}\\](:[0-9]{0,6})?") {
            let _ = Domain::parse(&text);
            if let Ok(host) = HostName::of_authority(&text) {
                prop_assert_eq!(HostName::parse(host.as_str()), Ok(host));
            }
        }
    }
}
