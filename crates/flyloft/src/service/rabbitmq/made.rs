//! A virtual host and a user of the same name for an environment, and their end.
//!
//! Each is made and labelled by one request: a virtual host has a description, and a user has tags, of which one that
//! is no name of a right means nothing to the server. Neither can be changed by the user itself.

use base64ct::{Base64, Encoding};
use flyloft_core::service::escape;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Session;
use crate::service::{Fault, Label, ServiceError, Wanted};

impl Session<'_> {
    /// Makes what is missing, and sets what there is to what is wanted. What it makes goes again if it fails.
    pub(super) async fn provide(&mut self, wanted: &Wanted) -> Result<(), ServiceError> {
        let (had_vhost, had_user) = self.found(&wanted.label).await?;
        let made = self.complete(wanted, had_vhost).await;
        if made.is_err() {
            // Why it failed is told. What does not go now is on record, and the next one finds it.
            let Paths { vhost, user, .. } = Paths::of(&wanted.label);
            if !had_user {
                let _ = self.delete("remove a user", &user).await;
            }
            if !had_vhost {
                let _ = self.delete("remove a virtual host", &vhost).await;
            }
        }
        made
    }

    async fn complete(&mut self, wanted: &Wanted, has_vhost: bool) -> Result<(), ServiceError> {
        let Wanted { label, password, connections, .. } = wanted;
        let Paths { vhost, user, permissions, limit } = Paths::of(label);
        if !has_vhost {
            let body = json!({ "description": label.text, "tags": "flyloft" });
            self.put("make a virtual host", &vhost, body).await?;
            crate::fault::point("service.vhost");
        }
        let body = json!({
            "password_hash": hash(&password.0, &crate::random::hex(8)),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": mark(label),
        });
        match self.put("make a user", &user, body.clone()).await {
            // By somebody who wants the same, at this moment.
            Err(error) if error.said.as_ref().is_some_and(|said| said.contains("user_already_exists")) => {
                self.put("make a user", &user, body).await?;
            }
            made => made?,
        }
        crate::fault::point("service.user");
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        self.put("give a virtual host to a user", &permissions, all).await?;
        self.put("limit connections", &limit, json!({ "value": connections })).await
    }

    /// Leaves nothing of it. The server ends the connections of a user that goes, and of a virtual host.
    pub(super) async fn remove(&mut self, label: &Label) -> Result<(), ServiceError> {
        let (vhost, user) = self.found(label).await?;
        let paths = Paths::of(label);
        if user {
            self.delete("remove a user", &paths.user).await?;
        }
        if vhost {
            self.delete("remove a virtual host", &paths.vhost).await?;
        }
        Ok(())
    }

    pub(super) async fn lost(&mut self, names: &[String]) -> Result<Vec<String>, ServiceError> {
        let there = self.get("list users", "/api/users?columns=name").await?.unwrap_or_default();
        let is_there = |name: &str| there.as_array().is_some_and(|users| users.iter().any(|user| user["name"] == name));
        Ok(names.iter().filter(|name| !is_there(name)).cloned().collect())
    }

    /// Whether there is a virtual host of ours, and a user. Somebody else's is an error, so that nothing is made beside
    /// it.
    async fn found(&mut self, label: &Label) -> Result<(bool, bool), ServiceError> {
        let paths = Paths::of(label);
        let vhost = self.get("look for a virtual host", &paths.vhost).await?;
        if let Some(vhost) = &vhost {
            let description = vhost["description"].as_str().or(vhost["metadata"]["description"].as_str());
            if description != Some(label.text.as_str()) {
                let said = format!("its description is not `{}`", label.text);
                return Err(self.taken("virtual host", label).said(said));
            }
        }
        let user = self.get("look for a user", &paths.user).await?;
        if let Some(user) = &user {
            let mark = mark(label);
            if !tags(user).contains(&mark) {
                return Err(self.taken("user", label).said(format!("it is not tagged `{mark}`")));
            }
        }
        Ok((vhost.is_some(), user.is_some()))
    }

    fn taken(&self, what: &'static str, label: &Label) -> ServiceError {
        ServiceError::new(self.server, Fault::Taken { what, name: label.name.clone() })
    }
}

/// Where it is in the API.
struct Paths {
    vhost: String,
    user: String,
    permissions: String,
    limit: String,
}

impl Paths {
    fn of(label: &Label) -> Self {
        let name = escape(&label.name);
        Self {
            vhost: format!("/api/vhosts/{name}"),
            user: format!("/api/users/{name}"),
            permissions: format!("/api/permissions/{name}/{name}"),
            limit: format!("/api/vhost-limits/{name}/max-connections"),
        }
    }
}

/// A list, or text with commas before version 3.9.
pub(super) fn tags(user: &Value) -> Vec<String> {
    match &user["tags"] {
        Value::Array(tags) => tags.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::String(tags) => tags.split(',').map(|tag| tag.trim().to_owned()).collect(),
        _ => Vec::new(),
    }
}

fn mark(label: &Label) -> String {
    label.text.replace(' ', "/")
}

/// As RabbitMQ keeps it ("Credentials and Passwords" of its documentation), so that the password need not go there.
/// `salt` is eight hexadecimal digits.
fn hash(password: &str, salt: &str) -> String {
    let salt = hex::decode(salt).expect("a salt is of digits");
    let hash = Sha256::digest([&salt, password.as_bytes()].concat());
    Base64::encode_string(&[&salt[..], &hash[..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hashed_as_the_documentation_has_it() {
        assert_eq!(hash("test12", "908dc60a"), "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    }
}
