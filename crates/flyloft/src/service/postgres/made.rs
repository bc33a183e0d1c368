//! A role and a database of the same name for an environment, and their end.
//!
//! What is ours carries a comment that says so. A database is known by that of its owner as well, which came in one
//! transaction with it: `CREATE DATABASE` can be in none. Nobody else works on a name meanwhile:
//! a lock of the server's is held, also by a statement whose client has gone.

use postgres_protocol::password::scram_sha_256;
use tokio_postgres::error::SqlState;

use super::{Session, fault_of};
use crate::service::{Fault, Label, ServiceError, Wanted};

/// What a name stands for on the server.
struct Found {
    comment: Option<String>,
    /// The comment of who owns it, where that is something that is owned.
    owner: Option<String>,
}

impl Session<'_> {
    /// Makes what is missing, and sets what there is to what is wanted.
    pub(super) async fn provide(&self, wanted: &Wanted) -> Result<(), ServiceError> {
        let Wanted { label, password, connections } = wanted;
        self.lock(label).await?;
        let (role, comment) = (identifier(&label.name), literal(&label.text));
        // The server need not know the password itself, and neither need its log.
        let password = literal(&scram_sha_256(password.0.as_bytes()));
        let with = format!("LOGIN PASSWORD {password} CONNECTION LIMIT {connections}");
        // Nothing is made beside what is somebody else's.
        let (known, database) = (self.role(label).await?, self.database(label).await?);
        if known.is_none() {
            // Statements that come together are one transaction.
            let create = format!("CREATE ROLE {role} {with}; COMMENT ON ROLE {role} IS {comment}");
            self.run("make a role", &create).await?;
            crate::fault::point("service.role");
        } else {
            self.run("change a role", &format!("ALTER ROLE {role} {with}")).await?;
        }
        let closed = database.as_ref().is_some_and(|found| found.comment.as_ref() == Some(&label.text));
        if !closed {
            // Who is no superuser has a say in databases of those alone of whom it is a member.
            self.run("become a member of a role", &format!("GRANT {role} TO CURRENT_USER")).await?;
        }
        if database.is_none() {
            self.run("make a database", &format!("CREATE DATABASE {role} OWNER {role}")).await?;
            crate::fault::point("service.database");
        }
        if !closed {
            let close = format!("REVOKE ALL ON DATABASE {role} FROM PUBLIC; COMMENT ON DATABASE {role} IS {comment}");
            self.run("close a database to others", &close).await?;
        }
        Ok(())
    }

    /// Ends who is connected, and leaves nothing of it.
    pub(super) async fn remove(&self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        let name = identifier(&label.name);
        if self.database(label).await?.is_some() {
            let rights = format!("GRANT {name} TO CURRENT_USER");
            if self.role(label).await?.is_some() {
                self.run("become a member of a role", &rights).await?;
            }
            self.run("close a database", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await?;
            let end = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}",
                literal(&label.name)
            );
            self.run("end connections", &end).await?;
            // The server itself waits some seconds for those.
            self.run("drop a database", &format!("DROP DATABASE {name}")).await?;
        }
        if self.role(label).await?.is_some() {
            self.run("drop a role", &format!("DROP ROLE {name}")).await?;
        }
        Ok(())
    }

    /// Held until the session ends.
    async fn lock(&self, label: &Label) -> Result<(), ServiceError> {
        let lock = format!("SELECT pg_advisory_lock(hashtextextended({}, 0))", literal(&label.name));
        // Before version 11 there is no hash of that width.
        let lock = match self.version().await? {
            version if version < 110_000 => lock.replace("hashtextextended", "hashtext").replace(", 0)", ")"),
            _ => lock,
        };
        self.run("wait for its turn", &lock).await
    }

    async fn role(&self, label: &Label) -> Result<Option<Found>, ServiceError> {
        let found = self.find(
            "SELECT shobj_description(oid, 'pg_authid'), NULL::text FROM pg_roles WHERE rolname = $1",
            &label.name,
        );
        self.ours("role", label, found.await?)
    }

    async fn database(&self, label: &Label) -> Result<Option<Found>, ServiceError> {
        let found = self.find(
            "SELECT shobj_description(oid, 'pg_database'), shobj_description(datdba, 'pg_authid')
             FROM pg_database WHERE datname = $1",
            &label.name,
        );
        self.ours("database", label, found.await?)
    }

    async fn find(&self, query: &str, name: &str) -> Result<Option<Found>, ServiceError> {
        // Names and texts have types of their own there.
        let row = self.client.query_opt(query, &[&name]).await;
        let row = row.map_err(|error| fault_of(self.server, error, "look for a name"))?;
        Ok(row.map(|row| Found { comment: row.get(0), owner: row.get(1) }))
    }

    fn ours(&self, what: &'static str, label: &Label, found: Option<Found>) -> Result<Option<Found>, ServiceError> {
        let says = |comment: &Option<String>| comment.as_ref().is_some_and(|comment| *comment == label.text);
        match found {
            // Its owner can write another comment on a database, and none on itself.
            Some(found) if says(&found.comment) || says(&found.owner) => Ok(Some(found)),
            Some(found) => {
                let error = ServiceError::new(self.server, Fault::Taken { what, name: label.name.clone() });
                Err(match found.comment {
                    Some(comment) => error.said(format!("its comment is `{comment}`, and not `{}`", label.text)),
                    None => error.said("it has no comment by which it would be flyloft's"),
                })
            }
            None => Ok(None),
        }
    }

    async fn run(&self, doing: &'static str, sql: &str) -> Result<(), ServiceError> {
        match self.client.batch_execute(sql).await {
            // Another one is being made from the same template at this moment.
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && sql.starts_with("CREATE DATABASE") => {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                self.client.batch_execute(sql).await
            }
            done => done,
        }
        .map_err(|error| fault_of(self.server, error, doing))
    }

    async fn version(&self) -> Result<i32, ServiceError> {
        let row = self.client.query_one("SELECT current_setting('server_version_num')::int4", &[]).await;
        Ok(row.map_err(|error| fault_of(self.server, error, "say what it is"))?.get(0))
    }
}

/// In SQL, where a quote within is written twice.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The same, and a backslash stands for itself whatever the server's settings say.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_ends_where_it_should() {
        assert_eq!(identifier("a\"; DROP ROLE x; --"), "\"a\"\"; DROP ROLE x; --\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'"), " E'\\\\'''");
    }
}
