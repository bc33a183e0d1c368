//! What an id token says.

use serde_json::Value;

use super::{Disbelief, texts};

/// How far the clocks of a provider and of this machine may be apart, in seconds.
const LEEWAY: f64 = 60.0;

#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub(super) issuer: String,
    subject: String,
    audience: Vec<String>,
    /// The one of the audience to whom it was given.
    authorized: Option<String>,
    /// Seconds since the Unix epoch.
    expires: f64,
    issued: f64,
    not_before: Option<f64>,
    nonce: String,
    pub(super) email: Option<String>,
    /// Whether the provider knows that it is theirs, if it says anything of that.
    pub(super) verified: Option<bool>,
    pub(super) groups: Option<Vec<String>>,
    /// The domain of the organisation that has the account, as Google says it.
    pub(super) hosted: Option<String>,
}

/// What is said of somebody.
struct About {
    email: Option<String>,
    verified: Option<bool>,
    groups: Option<Vec<String>>,
}

impl About {
    fn parse(value: &Value) -> Option<Self> {
        let email = match &value["email"] {
            Value::Null => None,
            email => Some(email.as_str()?.to_owned()),
        };
        // Some providers write it as a text.
        let said = |name: &str| Some(&value[name]).filter(|said| !said.is_null());
        let verified = said("email_verified").map(|said| *said == true || *said == "true");
        let groups = said("groups").map(|said| texts(said).unwrap_or_default());
        Some(Self { email, verified, groups })
    }
}

/// What a token has to say to be for a login.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub client: &'a str,
    pub nonce: &'a str,
    /// In seconds since the Unix epoch.
    pub now: u64,
}

impl Claims {
    pub fn parse(json: &[u8]) -> Result<Self, Disbelief> {
        let malformed = || Disbelief::Malformed("its id token does not say what one has to say");
        let value: Value = serde_json::from_slice(json).map_err(|_| malformed())?;
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        // What is there and not what it is to be is no less wrong than what is missing.
        let optional = |name: &str| match &value[name] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            _ => Err(malformed()),
        };
        let not_before = match &value["nbf"] {
            Value::Null => None,
            time => Some(time.as_f64().ok_or_else(malformed)?),
        };
        let About { email, verified, groups } = About::parse(&value).ok_or_else(malformed)?;
        Ok(Self {
            issuer: text("iss").ok_or_else(malformed)?,
            subject: text("sub").filter(|subject| !subject.is_empty()).ok_or_else(malformed)?,
            audience: texts(&value["aud"]).ok_or_else(malformed)?,
            authorized: optional("azp")?,
            expires: value["exp"].as_f64().ok_or_else(malformed)?,
            issued: value["iat"].as_f64().ok_or_else(malformed)?,
            not_before,
            nonce: text("nonce").ok_or_else(malformed)?,
            email,
            verified,
            groups,
            hosted: text("hd"),
        })
    }

    /// Takes what a provider tells of the same person elsewhere (OpenID Connect Core 1.0 section 5.3.2), where the token
    /// says nothing of it. Many say there alone what is asked for by a scope.
    pub fn complete(&mut self, json: &[u8]) -> Result<(), Disbelief> {
        let malformed = || Disbelief::Malformed("what it tells of somebody is not what it has to be");
        let value: Value = serde_json::from_slice(json).map_err(|_| malformed())?;
        if value["sub"].as_str() != Some(&self.subject) {
            return Err(Disbelief::Subject);
        }
        let About { email, verified, groups } = About::parse(&value).ok_or_else(malformed)?;
        // An address, and whether it is theirs, belong together.
        if email.is_some() && (self.email.is_none() || self.verified.is_none()) {
            (self.email, self.verified) = (email, verified);
        }
        if self.groups.is_none() {
            self.groups = groups;
        }
        Ok(())
    }

    /// Whether it is what is expected (OpenID Connect Core 1.0 section 3.1.3.7).
    pub fn check(&self, expected: &Expected<'_>) -> Result<(), Disbelief> {
        let Expected { issuer, client, nonce, now } = *expected;
        if self.issuer != issuer {
            return Err(Disbelief::Issuer(crate::name::excerpt(&self.issuer)));
        }
        // Where it is for several, it says to which of them it was given.
        let ours = self.audience.iter().any(|audience| audience == client);
        let given = self.authorized.as_deref().or_else(|| (self.audience.len() == 1).then_some(client));
        if !ours || given != Some(client) {
            return Err(Disbelief::Audience);
        }
        let now = now as f64;
        if now >= self.expires + LEEWAY {
            return Err(Disbelief::Expired);
        }
        if self.issued > now + LEEWAY || self.not_before.is_some_and(|time| time > now + LEEWAY) {
            return Err(Disbelief::Early);
        }
        if self.nonce != nonce {
            return Err(Disbelief::Nonce);
        }
        Ok(())
    }

    /// The address that the provider knows to be theirs.
    pub(super) fn address(&self) -> Option<&String> {
        self.email.as_ref().filter(|_| self.verified == Some(true))
    }

    /// By what people know whoever it is: the address that the provider knows to be theirs, or what it calls them.
    pub fn who(&self) -> String {
        let is_fit =
            |text: &&String| text.len() <= 254 && !text.contains(|c: char| c.is_control() || c.is_whitespace());
        let email = self.address().filter(is_fit);
        email.or(Some(&self.subject).filter(is_fit)).cloned().unwrap_or_else(|| "somebody".to_owned())
    }
}
