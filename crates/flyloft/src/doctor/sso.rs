//! With whom people log in.

use super::Check;
use crate::machine::sso::{Found, Sso};

pub fn judge(sso: Option<&Sso>) -> Option<Check> {
    let Sso { issuer, callback, found } = sso?;
    let register = || format!("`{callback}` is to be registered there, as where people come back to");
    Some(match found {
        Found::Answers { keys: 0 } => Check::warning(
            "sso",
            format!("`{issuer}` has no key by which an id token could be believed"),
            "have it sign by RS256, ES256 or EdDSA",
        ),
        Found::Answers { .. } => Check::ok("sso", format!("`{issuer}` answers; {}", register())),
        Found::Silent { why } => Check::warning(
            "sso",
            format!("nobody can log in with `{issuer}`: {why}"),
            "see that it runs and that this machine reaches it, and that `issuer` in `[sso]` is what it calls itself",
        ),
        Found::NoSecret { why, remedy } => Check::problem("sso", why, remedy),
    })
}
