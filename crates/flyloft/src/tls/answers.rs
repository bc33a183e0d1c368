//! What is answered to who checks that a host name is ours (RFC 8555 section 8.3).

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Paths that are asked for over plain HTTP by whoever checks.
pub const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// By host name, in lower case: the last part of the path, and the answer. A name is checked for one order at a time.
#[derive(Debug, Default)]
pub struct Answers(RwLock<HashMap<String, (String, String)>>);

impl Answers {
    pub fn set(&self, host: &str, token: &str, answer: &str) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(host.to_owned(), (token.to_owned(), answer.to_owned()));
    }

    pub fn forget(&self, host: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// The answer to a request for this path, if it is about one.
    pub fn to(&self, host: &str, path: &str) -> Option<String> {
        let asked = path.strip_prefix(CHALLENGES)?;
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(host).filter(|(token, _)| token == asked).map(|(_, answer)| answer.clone())
    }
}
