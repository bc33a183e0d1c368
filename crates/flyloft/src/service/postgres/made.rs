//! A role and a database of the same name for an environment, and their end.
//!
//! What is ours carries a comment that says so. A database is known by that of its owner as well, which came in one
//! transaction with it: `CREATE DATABASE` can be in none. Nobody else works on a name meanwhile:
//! a lock of the server's is held, also by a statement whose client has gone.

use postgres_protocol::password::scram_sha_256;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::{Session, fault_of};
use crate::service::{Fault, Label, ServiceError, Wanted};

/// The databases in which a role owns something, or has rights; and where it has some on what belongs to no database, any.
const ELSEWHERE: &str = "
    SELECT DISTINCT coalesce(there.datname, current_database()) FROM pg_shdepend
    LEFT JOIN pg_database there ON there.oid = dbid
    WHERE refclassid = 'pg_authid'::regclass AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)";

/// What a name stands for on the server.
pub(super) struct Found {
    comment: Option<String>,
    /// The comment of who owns it, where that is something that is owned.
    owner: Option<String>,
}

impl Session<'_> {
    /// Of the roles of these names, those that are not there.
    pub(super) async fn lost(&self, names: &[String]) -> Result<Vec<String>, ServiceError> {
        let lost =
            "SELECT name FROM unnest($1::text[]) name WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)";
        let rows = self.client.query(lost, &[&names]).await;
        let rows = rows.map_err(|error| fault_of(self.server, error, "list roles"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Makes what is missing, and sets what there is to what is wanted. What it makes goes again if it fails.
    pub(super) async fn provide(&self, wanted: &Wanted) -> Result<(), ServiceError> {
        let label = &wanted.label;
        self.lock(label).await?;
        // Nothing is made beside what is somebody else's.
        let (role, database) = (self.role(label).await?, self.database(label).await?);
        let (had_role, had_database) = (role.is_some(), database.is_some());
        let made = self.complete(wanted, had_role, database).await;
        if made.is_err() {
            // Why it failed is told. What does not go now is on record, and the next one finds it.
            let _ = self.undo(label, had_role, had_database).await;
        }
        made
    }

    async fn complete(&self, wanted: &Wanted, has_role: bool, mut database: Option<Found>) -> Result<(), ServiceError> {
        let Wanted { label, password, connections, seed, .. } = wanted;
        let (role, comment) = (identifier(&label.name), literal(&label.text));
        // The server need not know the password itself, and neither need its log.
        let password = literal(&scram_sha_256(password.0.as_bytes()));
        let with = format!("LOGIN PASSWORD {password} CONNECTION LIMIT {connections}");
        if has_role {
            self.run("change a role", &format!("ALTER ROLE {role} {with}")).await?;
        } else {
            // Statements that come together are one transaction. It need not wait for the disk: what is next makes a
            // database, and waits for that and for all before it.
            let soon = if database.is_none() { "SET LOCAL synchronous_commit TO off; " } else { "" };
            let create = format!("{soon}CREATE ROLE {role} {with}; COMMENT ON ROLE {role} IS {comment}");
            self.run("make a role", &create).await?;
            crate::fault::point("service.role");
        }
        let closed = database.as_ref().is_some_and(|found| found.comment.as_ref() == Some(&label.text));
        if !closed {
            self.join(label).await?;
            // It was cut off in the middle of a copy. Nobody has had it yet.
            if seed.is_some() && database.take().is_some() {
                self.drop_database(label).await?;
            }
        }
        match database {
            None => self.make(label, wanted).await,
            Some(_) if !closed => self.run("open a database to its owner", &opening(label)).await,
            Some(_) => Ok(()),
        }
    }

    async fn undo(&self, label: &Label, had_role: bool, had_database: bool) -> Result<(), ServiceError> {
        if !had_database && self.database(label).await?.is_some() {
            self.drop_database(label).await?;
        }
        match !had_role && self.role(label).await?.is_some() {
            true => self.drop_role(label).await,
            false => Ok(()),
        }
    }

    /// Who is no superuser has a say in databases, and in connections, of those alone of whom it is a member.
    pub(super) async fn join(&self, label: &Label) -> Result<(), ServiceError> {
        let name = label.name.as_str();
        let row =
            self.client.query_typed_one("SELECT pg_has_role(current_user, $1, 'USAGE')", &[(&name, Type::NAME)]).await;
        if row.map_err(|error| fault_of(self.server, error, "look for a name"))?.get(0) {
            return Ok(());
        }
        self.run("become a member of a role", &format!("GRANT {} TO CURRENT_USER", identifier(name))).await
    }

    /// Ends who is connected, and leaves nothing of it.
    pub(super) async fn remove(&self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        let has_role = self.role(label).await?.is_some();
        if has_role {
            self.join(label).await?;
        }
        self.clear(label).await?;
        if self.database(label).await?.is_some() {
            self.drop_database(label).await?;
        }
        if has_role {
            self.drop_role(label).await?;
        }
        Ok(())
    }

    /// With what it has made in databases of others, as far as those let everybody connect.
    async fn drop_role(&self, label: &Label) -> Result<(), ServiceError> {
        let (name, role) = (label.name.as_str(), identifier(&label.name));
        let places = self.client.query_typed(ELSEWHERE, &[(&name, Type::NAME)]).await;
        let places = places.map_err(|error| fault_of(self.server, error, "look for what a role owns"))?;
        for place in places {
            let there = Session::open_in(self.server, place.get(0)).await?;
            there.run("drop what a role owns", &format!("DROP OWNED BY {role}")).await?;
        }
        self.run("drop a role", &format!("DROP ROLE {role}")).await
    }

    /// One that was found to be ours.
    pub(super) async fn drop_database(&self, label: &Label) -> Result<(), ServiceError> {
        let name = identifier(&label.name);
        // Its owner may have made a template of it, which the server does not drop.
        let close = format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false IS_TEMPLATE false");
        if !self.is_invalid(label).await? {
            self.run("close a database", &close).await?;
        }
        self.run("end connections", &ending(&[label])).await?;
        // The server itself waits some seconds for those.
        self.run("drop a database", &format!("DROP DATABASE {name}")).await
    }

    /// Whether the server was cut off while it dropped it. From versions of 2023 on it can be nothing but dropped then.
    async fn is_invalid(&self, label: &Label) -> Result<bool, ServiceError> {
        let query = "SELECT datconnlimit = -2 FROM pg_database WHERE datname = $1";
        let row = self.client.query_typed_opt(query, &[(&label.name.as_str(), Type::NAME)]).await;
        let row = row.map_err(|error| fault_of(self.server, error, "look for a name"))?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Held until the session ends.
    pub(super) async fn lock(&self, label: &Label) -> Result<(), ServiceError> {
        self.lock_by("pg_advisory_lock", label).await
    }

    /// Others may hold it in the same way.
    pub(super) async fn share(&self, label: &Label) -> Result<(), ServiceError> {
        self.lock_by("pg_advisory_lock_shared", label).await
    }

    async fn lock_by(&self, function: &str, label: &Label) -> Result<(), ServiceError> {
        let lock = format!("SELECT {function}(hashtextextended({}, 0))", literal(&label.name));
        // Before version 11 there is no hash of that width.
        let lock = match self.version().await? {
            version if version < 110_000 => lock.replace("hashtextextended", "hashtext").replace(", 0)", ")"),
            _ => lock,
        };
        self.run("wait for its turn", &lock).await
    }

    pub(super) async fn role(&self, label: &Label) -> Result<Option<Found>, ServiceError> {
        let found = self.find(
            "SELECT shobj_description(oid, 'pg_authid'), NULL::text FROM pg_roles WHERE rolname = $1",
            &label.name,
        );
        self.ours("role", label, found.await?)
    }

    pub(super) async fn database(&self, label: &Label) -> Result<Option<Found>, ServiceError> {
        let found = self.find(
            "SELECT shobj_description(oid, 'pg_database'), shobj_description(datdba, 'pg_authid')
             FROM pg_database WHERE datname = $1",
            &label.name,
        );
        self.ours("database", label, found.await?)
    }

    async fn find(&self, query: &str, name: &str) -> Result<Option<Found>, ServiceError> {
        // Names and texts have types of their own there. Those that are known need not be asked for first.
        let row = self.client.query_typed_opt(query, &[(&name, Type::NAME)]).await;
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

    pub(super) async fn run(&self, doing: &'static str, sql: &str) -> Result<(), ServiceError> {
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

    pub(super) async fn version(&self) -> Result<i32, ServiceError> {
        let row = self.client.query_typed_one("SELECT current_setting('server_version_num')::int4", &[]).await;
        Ok(row.map_err(|error| fault_of(self.server, error, "say what it is"))?.get(0))
    }
}

/// The statements after which its owner may connect to a database, and nobody else: it is made so that nobody can.
pub(super) fn letting_in(label: &Label) -> String {
    let name = identifier(&label.name);
    format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC; ALTER DATABASE {name} ALLOW_CONNECTIONS true;")
}

/// The statement after which a database is known to be ours, and whole.
pub(super) fn finishing(label: &Label) -> String {
    format!("COMMENT ON DATABASE {} IS {};", identifier(&label.name), literal(&label.text))
}

/// Both, in one transaction.
pub(super) fn opening(label: &Label) -> String {
    letting_in(label) + &finishing(label)
}

/// The statement that ends whoever is connected to one of these databases.
pub(super) fn ending(labels: &[&Label]) -> String {
    let names: Vec<String> = labels.iter().map(|label| literal(&label.name)).collect();
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ({}) AND pid <> pg_backend_pid() AND \
         backend_type = 'client backend'",
        names.join(", ")
    )
}

/// In SQL, where a quote within is written twice.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The same, and a backslash stands for itself whatever the server's settings say.
pub(super) fn literal(text: &str) -> String {
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
