//! Why there is no certificate, and what to do about it.

use std::error::Error as _;
use std::path::PathBuf;

use flyloft_core::acme::Failure;
use hyper::StatusCode;
use instant_acme::Problem;
use thiserror::Error;

use super::client::Heard;
use crate::store::StoreError;
use crate::tls::pair::date;
use crate::tls::{LocalError, PairError};

#[derive(Debug, Error)]
pub enum AcmeError {
    #[error("it does not answer as it should")]
    Server(#[source] instant_acme::Error),
    #[error("it has not come to an end in time")]
    Slow,
    #[error("it refuses: {}", words(.0))]
    Refused(Problem),
    /// `wait` is in how many seconds it wants to be asked again, if it says.
    #[error("too much was asked of it: {said}")]
    RateLimited { said: String, wait: Option<i64> },
    /// It has trouble of its own, and says nothing of what was asked for. `wait` as above.
    #[error("it fails for now: {said}")]
    Ailing { said: String, wait: Option<i64> },
    #[error("it does not believe that the domain is ours: {0}")]
    Unproven(String),
    #[error("it does not believe that the host name is ours: {0}")]
    Unreached(String),
    #[error("it offers no proof by {0}")]
    NoProof(&'static str),
    /// The server's is so many seconds ahead.
    #[error("this machine's clock is {}", apart(.ahead))]
    Clock { ahead: i64 },
    #[error("failed to read the authorities in `{}`: {why}", .path.display())]
    Roots { path: PathBuf, why: String },
    #[error("failed to publish the TXT record `{record}`: {why}")]
    Unpublished { record: String, why: String },
    #[error("the TXT record `{record}` was taken, and is not published: {why}")]
    Unseen { record: String, why: String },
    #[error("as many certificates were asked for lately as a server would put up with; the next may be on {}", date(.until))]
    Many { until: i64 },
    #[error("what it issued is of no use: {0}")]
    Unfit(#[from] PairError),
    #[error(transparent)]
    Unwritten(#[from] LocalError),
    #[error("failed to make a key")]
    Key(#[from] rcgen::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("what is on record of the account is none")]
    Record(#[from] serde_json::Error),
}

/// What a server says, in its own words.
pub fn words(problem: &Problem) -> &str {
    problem.detail.as_deref().or(problem.r#type.as_deref()).unwrap_or("it does not say why")
}

fn apart(ahead: &i64) -> String {
    let hours = (ahead.abs() + 1800) / 3600;
    if *ahead > 0 { format!("{hours} h behind the server's") } else { format!("{hours} h ahead of the server's") }
}

/// Whether a problem is of this kind of RFC 8555 section 6.7.
pub fn is(problem: &Problem, kind: &str) -> bool {
    problem.r#type.as_deref().and_then(|text| text.strip_prefix("urn:ietf:params:acme:error:")) == Some(kind)
}

impl AcmeError {
    /// With what the server has said beside it.
    pub fn of(error: instant_acme::Error, heard: Heard) -> Self {
        let Heard { status, wait, .. } = heard;
        let is_limited = status == Some(StatusCode::TOO_MANY_REQUESTS);
        match error {
            instant_acme::Error::Api(problem) if is_limited || is(&problem, "rateLimited") => {
                Self::RateLimited { said: words(&problem).to_owned(), wait }
            }
            // Of those that were signed with its nonces it has refused several in a row, and nothing else.
            instant_acme::Error::Api(problem) if heard.is_passing() || is(&problem, "badNonce") => {
                Self::Ailing { said: words(&problem).to_owned(), wait }
            }
            instant_acme::Error::Api(problem) => Self::Refused(problem),
            instant_acme::Error::Timeout(_) => Self::Slow,
            // Somebody before it may have answered in its place, in a language of their own.
            error => match status.filter(|_| heard.is_passing()) {
                Some(status) if is_limited => Self::RateLimited { said: status.to_string(), wait },
                Some(status) => Self::Ailing { said: status.to_string(), wait },
                None => Self::Server(error),
            },
        }
    }

    pub fn failure(&self) -> Failure {
        match self {
            AcmeError::RateLimited { .. } => Failure::RateLimited,
            // There is another account the next time.
            AcmeError::Refused(problem) if is(problem, "accountDoesNotExist") => Failure::Passing,
            AcmeError::Refused(problem) if is(problem, "serverInternal") => Failure::Passing,
            AcmeError::Refused(_) | AcmeError::Unproven(_) | AcmeError::Unreached(_) | AcmeError::NoProof(_) => {
                Failure::Refused
            }
            _ => Failure::Passing,
        }
    }

    /// For how many seconds at least nothing is to be asked, if somebody has said so.
    pub fn told_to_wait(&self, now: i64) -> Option<i64> {
        match self {
            AcmeError::RateLimited { wait, .. } | AcmeError::Ailing { wait, .. } => *wait,
            AcmeError::Many { until } => Some(until - now),
            _ => None,
        }
    }

    /// Whether nothing comes of the order any more.
    pub fn ends_order(&self) -> bool {
        match self {
            AcmeError::Refused(_) | AcmeError::Unproven(_) | AcmeError::Unreached(_) => true,
            AcmeError::NoProof(_) | AcmeError::Key(_) => true,
            // It can be had once more when the clock is right.
            AcmeError::Unfit(error) => !error.is_about_time(),
            _ => false,
        }
    }

    /// With its sources.
    pub fn told(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text += &format!(": {more}");
            }
            source = error.source();
        }
        text
    }

    pub fn hint(&self) -> String {
        let hint = match self {
            AcmeError::Server(_) | AcmeError::Slow => {
                "see whether this machine reaches the server that `directory` in `[acme]` names, and believes it"
            }
            AcmeError::Refused(_) => "the server's own words say what it wants",
            AcmeError::Ailing { .. } => "it is for the server to mend; what was begun there is gone on with",
            AcmeError::RateLimited { .. } => "nothing is asked of it for as long as it says",
            AcmeError::Unproven(_) => {
                "see whether others come to see the TXT record below `_acme-challenge`, and who else may issue \
                 certificates for the domain (CAA)"
            }
            AcmeError::Unreached(_) => {
                "see whether everybody reaches this machine by that name at port 80, and who else may issue certificates \
                 for the domain (CAA)"
            }
            AcmeError::NoProof(_) => "name another server with `directory` in `[acme]`",
            AcmeError::Clock { .. } => "set the machine's clock, as by timedatectl set-ntp true",
            AcmeError::Roots { .. } => "name a file of certificate authorities with `roots` in `[acme]`",
            AcmeError::Unpublished { .. } => {
                "see what the provider of the domain's DNS says, and `[acme]` in the configuration"
            }
            AcmeError::Unseen { .. } => {
                "see whether the provider publishes what it takes; if it only takes longer, say how long with \
                 `propagation` in `[acme]`"
            }
            AcmeError::Many { .. } => "see in the log why so many were needed",
            AcmeError::Unfit(error) => return error.hint(),
            AcmeError::Unwritten(_) => "see whether the directory is there, and can be written to",
            AcmeError::Key(_) | AcmeError::Store(_) | AcmeError::Record(_) => "flyloft doctor",
        };
        hint.to_owned()
    }
}
