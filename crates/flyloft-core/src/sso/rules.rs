//! Who may look, of those whom a provider knows.

use serde_json::json;
use thiserror::Error;

use super::Claims;
use crate::name::excerpt;

/// What is said has to hold together: whoever is to be of a domain and of a group is of both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Of addresses of mail, in lower case; any if there is none.
    domains: Vec<String>,
    groups: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RulesError {
    #[error(
        "it does not say who may look: name `allowed_domains` or `allowed_groups`, or say `anyone = true` where whoever \
         can log in may"
    )]
    Nobody,
    #[error("`anyone` may look, and yet there are `allowed_domains` or `allowed_groups`: say one of the two")]
    Both,
    #[error("`{0}` is no domain of mail such as `example.org`")]
    Domain(String),
    #[error("a group has no name")]
    Group,
}

/// An account at Google can be made with any address of mail, which is verified once and may be somebody else's later. Who
/// is of an organisation is said by `hd` (Google's "OpenID Connect API reference"); and Google has the addresses of this
/// domain itself.
const GOOGLE: &str = "https://accounts.google.com";
const GMAIL: &str = "gmail.com";

/// Why somebody may not look who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    /// The provider does not say that an address is theirs.
    Unverified,
    Domain,
    /// Google does not say that their account is the domain's.
    Hosted,
    Group,
}

impl Rules {
    pub fn new(domains: &[String], groups: &[String], anyone: bool) -> Result<Self, RulesError> {
        match (domains.is_empty() && groups.is_empty(), anyone) {
            (true, false) => return Err(RulesError::Nobody),
            (false, true) => return Err(RulesError::Both),
            _ => {}
        }
        let domain = |domain: &String| {
            let is_one = !domain.is_empty() && !domain.contains(|c: char| c == '@' || c == '*' || c.is_whitespace());
            is_one.then(|| domain.to_lowercase()).ok_or_else(|| RulesError::Domain(excerpt(domain)))
        };
        if groups.iter().any(String::is_empty) {
            return Err(RulesError::Group);
        }
        Ok(Self { domains: domains.iter().map(domain).collect::<Result<_, _>>()?, groups: groups.to_vec() })
    }

    /// All that decides who may look, as one text.
    pub fn text(&self, issuer: &str, client: &str) -> String {
        json!([issuer, client, self.domains, self.groups]).to_string()
    }

    /// Whether they go by what is not said of somebody, neither one way nor the other. It may be told elsewhere.
    pub fn need_more(&self, claims: &Claims) -> bool {
        let has_address = claims.email.is_some() && claims.verified.is_some();
        (!self.domains.is_empty() && !has_address) || (!self.groups.is_empty() && claims.groups.is_none())
    }

    pub fn admit(&self, claims: &Claims) -> Result<(), NotAllowed> {
        if !self.domains.is_empty() {
            let (_, domain) = claims.address().ok_or(NotAllowed::Unverified)?.rsplit_once('@').unwrap_or_default();
            if !self.name(domain) {
                return Err(NotAllowed::Domain);
            }
            let has_to_be_hosted = claims.issuer == GOOGLE && !domain.eq_ignore_ascii_case(GMAIL);
            if has_to_be_hosted && claims.hosted.as_ref().is_none_or(|hosted| !self.name(hosted)) {
                return Err(NotAllowed::Hosted);
            }
        }
        match self.groups.is_empty() || claims.groups.iter().flatten().any(|group| self.groups.contains(group)) {
            true => Ok(()),
            false => Err(NotAllowed::Group),
        }
    }

    fn name(&self, domain: &str) -> bool {
        self.domains.contains(&domain.to_lowercase())
    }
}
