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

/// Why somebody may not look who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    /// The provider does not say that an address is theirs.
    Unverified,
    Domain,
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

    /// Whether more has to be known of somebody, if more is told anywhere.
    pub fn need_more(&self, claims: &Claims) -> bool {
        claims.email.is_none() || (!self.groups.is_empty() && claims.groups.is_empty())
    }

    pub fn admit(&self, claims: &Claims) -> Result<(), NotAllowed> {
        if !self.domains.is_empty() {
            let email = claims.email.as_ref().filter(|_| claims.verified).ok_or(NotAllowed::Unverified)?;
            let domain = email.rsplit_once('@').map(|(_, domain)| domain.to_lowercase());
            if domain.is_none_or(|domain| !self.domains.contains(&domain)) {
                return Err(NotAllowed::Domain);
            }
        }
        match self.groups.is_empty() || claims.groups.iter().any(|group| self.groups.contains(group)) {
            true => Ok(()),
            false => Err(NotAllowed::Group),
        }
    }
}
