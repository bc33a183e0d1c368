//! Connections that nobody uses any more, and their end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Session, command, texts};
use crate::service::{Label, ServiceError};

/// What `CLIENT LIST` says of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Connection<'a> {
    id: &'a str,
    user: &'a str,
    /// For so many seconds nothing was asked on it, by the server's own clock.
    idle: u64,
}

impl Session<'_> {
    /// Ends those of these users on which nothing was asked for so long: who waits for what is put into a list asks
    /// nothing meanwhile, either. Gives the names of users who have others.
    pub(super) async fn hang_up(&self, labels: &[Label], quiet: Duration) -> Result<Vec<String>, ServiceError> {
        let names: BTreeSet<&str> = labels.iter().map(|label| label.name.as_str()).collect();
        let listed = texts(&self.ask("list connections", &command(&["CLIENT", "LIST"])).await?).concat();
        let mut left = BTreeSet::new();
        for Connection { id, user, idle } in listed.lines().filter_map(parse) {
            if !names.contains(user) {
                continue;
            }
            if Duration::from_secs(idle) < quiet {
                left.insert(user.to_owned());
            } else if let Err(error) = self.ask("end connections", &command(&["CLIENT", "KILL", "ID", id])).await {
                // It has ended by itself.
                tracing::debug!(%error, "a connection to a Redis was not there to be ended");
            }
        }
        Ok(left.into_iter().collect())
    }
}

/// `id=3 addr=… idle=12 … user=flyloft_shop_main …`
fn parse(line: &str) -> Option<Connection<'_>> {
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    Some(Connection { id: field("id")?, user: field("user")?, idle: field("idle")?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_by_its_fields() {
        let line = "id=37 addr=10.0.0.2:45678 laddr=10.0.0.1:6379 fd=12 name= age=300 idle=299 flags=N db=0 \
            cmd=get user=flyloft_shop_main redir=-1 resp=2 lib-name=redis-py(async) lib-ver=5.0";
        assert_eq!(parse(line), Some(Connection { id: "37", user: "flyloft_shop_main", idle: 299 }));
        assert_eq!(parse(""), None);
    }
}
