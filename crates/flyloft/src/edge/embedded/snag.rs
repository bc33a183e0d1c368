//! Why a login does not go on, in words for whoever logs in. What only concerns people of the server is in the log. Pure.

use flyloft_core::gate::BYPASS_HEADER;
use flyloft_core::name::EnvRef;
use flyloft_core::sso::NotAllowed;
use hyper::StatusCode;

use crate::sso::Trouble;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snag {
    /// Who asks has to log in, and is nobody who could be sent there.
    Needed {
        env: EnvRef,
    },
    /// Nothing but logins is at that host name.
    NotHere,
    /// There is no such environment, or it asks for no login.
    NoSuchPlace,
    /// It was begun too long ago, or by another browser, or too often at a time, or it has ended.
    Stale,
    /// It was not begun by this browser, or ended too long ago.
    Ticket,
    /// The provider could not be reached; did not answer in time; or answered what it should not.
    Unreachable,
    Late,
    Nonsense,
    /// As many log in as may at a time.
    Busy,
    /// The provider did not let somebody log in, or they did not want to.
    Declined,
    NotAllowed(NotAllowed),
    TooMany {
        seconds: u32,
    },
}

impl From<&Trouble> for Snag {
    fn from(trouble: &Trouble) -> Self {
        match trouble {
            Trouble::Unreachable { .. } => Snag::Unreachable,
            Trouble::Late { .. } => Snag::Late,
            Trouble::Status { .. } | Trouble::Disbelieved { .. } => Snag::Nonsense,
            Trouble::Code(_) => Snag::Stale,
        }
    }
}

impl Snag {
    pub fn status(&self) -> StatusCode {
        match self {
            Snag::Needed { .. } => StatusCode::UNAUTHORIZED,
            Snag::NotHere | Snag::NoSuchPlace => StatusCode::NOT_FOUND,
            Snag::Stale => StatusCode::BAD_REQUEST,
            Snag::Ticket | Snag::Declined | Snag::NotAllowed(_) => StatusCode::FORBIDDEN,
            Snag::Unreachable | Snag::Nonsense => StatusCode::BAD_GATEWAY,
            Snag::Late => StatusCode::GATEWAY_TIMEOUT,
            Snag::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Snag::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub fn title(&self) -> String {
        match self {
            Snag::Needed { env } => format!("{env} is not public"),
            Snag::NotHere | Snag::NoSuchPlace => "Nothing is staged here".to_owned(),
            Snag::Stale | Snag::Ticket => "Not this login".to_owned(),
            Snag::Unreachable | Snag::Late | Snag::Nonsense => "Nobody can log in just now".to_owned(),
            Snag::Busy | Snag::TooMany { .. } => "Too many logins".to_owned(),
            Snag::Declined => "Not logged in".to_owned(),
            Snag::NotAllowed(_) => "You may not look".to_owned(),
        }
    }

    pub fn sentence(&self) -> String {
        match self {
            Snag::Needed { .. } => format!(
                "Whoever logs in may look: open it in a browser. A program says a token in the header {BYPASS_HEADER}."
            ),
            Snag::NotHere => "People log in at this host name, and nothing else is here.".to_owned(),
            Snag::NoSuchPlace => "No environment has that host name, or it asks for no login.".to_owned(),
            Snag::Stale => {
                "It was begun too long ago, by another browser or in many tabs at a time, or it has come to an end already."
                    .to_owned()
            },
            Snag::Ticket => "It was begun by another browser, or this one keeps no cookies.".to_owned(),
            Snag::Unreachable => "The provider that people log in with cannot be reached.".to_owned(),
            Snag::Late => "The provider that people log in with did not answer in time.".to_owned(),
            Snag::Nonsense => {
                "What the provider that people log in with has answered is not to be believed. The log of the server says why."
                    .to_owned()
            }
            Snag::Busy => "As many people log in as this machine takes at a time.".to_owned(),
            Snag::Declined => "The provider did not say who you are.".to_owned(),
            Snag::NotAllowed(NotAllowed::Unverified) => {
                "The provider does not say that you have an address of mail that it knows to be yours.".to_owned()
            }
            Snag::NotAllowed(NotAllowed::Domain) => {
                "Your address of mail is in none of the domains that may. With another account, log out at the provider \
                 first."
                    .to_owned()
            }
            Snag::NotAllowed(NotAllowed::Hosted) => {
                "Google does not say that your account is one of an organisation that may. With another account, log out \
                 there first."
                    .to_owned()
            }
            Snag::NotAllowed(NotAllowed::Group) => {
                "You are in none of the groups that may. With another account, log out at the provider first.".to_owned()
            }
            Snag::TooMany { seconds } => format!("Another one may begin in {seconds} s."),
        }
    }

    /// What to type to find out more, where there is something.
    pub fn command(&self) -> Option<String> {
        match self {
            Snag::Needed { env } => Some(format!("flyloft gate token {env}")),
            Snag::Unreachable | Snag::Late | Snag::Nonsense => Some("flyloft doctor".to_owned()),
            _ => None,
        }
    }
}
