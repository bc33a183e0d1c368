//! Databases that begin with the data of others, templates, and databases that take the place of others.
//!
//! ```text
//!   NAME                          in use, until the last moment
//!   flynew… ── whole ──► NAME     made aside
//!                NAME ──► flyold… ──► ∅
//! ```
//!
//! Both are renamed in one transaction. What is left of either when something was cut off goes before the next one is
//! made, or with the environment. They carry the same comment.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::made::{ending, finishing, identifier, letting_in, opening};
use super::{Session, fault_of};
use crate::service::{Fault, Label, ServiceError, Wanted};

/// How often whoever connects in the last moment is cut.
const AGAIN: Duration = Duration::from_millis(50);

/// Bytes of a database from which on its files are copied as such. What is smaller is written to the log of the server
/// instead, which takes it four times as long for each byte, but spares it two checkpoints.
const LARGE: i64 = 64 << 20;

/// Where what is to take the place of another is made.
pub(super) fn aside(label: &Label) -> Label {
    beside(label, "flynew")
}

/// Where that goes to whose place was taken.
fn old(label: &Label) -> Label {
    beside(label, "flyold")
}

/// Names of ours begin with `flyloft`, so that these are no longer.
fn beside(label: &Label, prefix: &str) -> Label {
    let rest = label.name.strip_prefix("flyloft").unwrap_or(&label.name);
    Label { name: format!("{prefix}{rest}"), text: label.text.clone(), number: None }
}

impl Session<'_> {
    /// Makes a database of that name for the role of what is wanted, with the data that it begins with. Nobody else may
    /// connect to it then.
    pub(super) async fn make(&self, of: &Label, wanted: &Wanted) -> Result<(), ServiceError> {
        let (name, owner) = (identifier(&of.name), identifier(&wanted.label.name));
        match &wanted.seed {
            None => {
                let make = format!("CREATE DATABASE {name} OWNER {owner} ALLOW_CONNECTIONS false");
                self.run("make a database", &make).await?;
                crate::fault::point("service.database");
                self.run("open a database to its owner", &opening(of)).await
            }
            Some(seed) => self.copy(seed, of, &wanted.label).await,
        }
    }

    /// Gives it fresh data. What is there stays until they are whole.
    pub(super) async fn renew(&self, wanted: &Wanted) -> Result<(), ServiceError> {
        let placed = async {
            self.open_aside(wanted).await?;
            self.swap(&wanted.label).await
        };
        let placed = placed.await;
        if placed.is_err() {
            // Nothing half-made is left, and why that is so has been told.
            let _ = self.client.batch_execute("ROLLBACK").await;
            let _ = self.clear(&wanted.label).await;
        }
        placed
    }

    pub(super) async fn open_aside(&self, wanted: &Wanted) -> Result<(), ServiceError> {
        let label = &wanted.label;
        self.lock(label).await?;
        if self.role(label).await?.is_none() {
            return Err(ServiceError::new(self.server, Fault::NoSeed(label.name.clone())));
        }
        self.join(label).await?;
        self.clear(label).await?;
        let aside = aside(label);
        self.make(&aside, wanted).await?;
        crate::fault::point("service.aside");
        Ok(())
    }

    pub(super) async fn put_in_place(&self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        self.swap(label).await
    }

    pub(super) async fn drop_aside(&self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        self.clear(label).await
    }

    /// From now on nobody connects to it, and only [`Session::remove_template`] drops it. It is the administrator's, so
    /// that copies that are made at the same time do not both change whose it is.
    pub(super) async fn seal(&self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        self.must_be_there(label).await?;
        let name = identifier(&label.name);
        let seal = format!(
            "ALTER DATABASE {name} ALLOW_CONNECTIONS false; ALTER ROLE {name} NOLOGIN; \
             ALTER DATABASE {name} OWNER TO CURRENT_USER; ALTER DATABASE {name} IS_TEMPLATE true"
        );
        self.run("make a template", &seal).await?;
        self.run("end connections", &ending(&[label])).await
    }

    pub(super) async fn remove_template(&self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        if self.database(label).await?.is_some() {
            let name = identifier(&label.name);
            self.run("unmake a template", &format!("ALTER DATABASE {name} IS_TEMPLATE false")).await?;
        }
        self.remove(label).await
    }

    /// What was left aside, of either kind.
    pub(super) async fn clear(&self, label: &Label) -> Result<(), ServiceError> {
        for left in [aside(label), old(label)] {
            if self.database(&left).await?.is_some() {
                self.drop_database(&left).await?;
            }
        }
        Ok(())
    }

    async fn swap(&self, label: &Label) -> Result<(), ServiceError> {
        let (aside, old) = (aside(label), old(label));
        self.must_be_there(&aside).await?;
        let [place, new, out] = [label, &aside, &old].map(|label| identifier(&label.name));
        let is_taken = self.database(label).await?.is_some();
        let away = if is_taken { format!("ALTER DATABASE {place} RENAME TO {out};") } else { String::new() };
        let swap = format!("BEGIN; {away} ALTER DATABASE {new} RENAME TO {place}; COMMIT");
        self.undisturbed(&[label, &aside], "put a database in its place", &swap).await?;
        crate::fault::point("service.swapped");
        if is_taken { self.drop_database(&old).await } else { Ok(()) }
    }

    /// A copy of what the seed has at this moment, all of it owned by `owner`.
    async fn copy(&self, seed: &Label, of: &Label, owner: &Label) -> Result<(), ServiceError> {
        let is_template = self.is_template(seed).await?;
        if is_template {
            self.share(seed).await?;
        } else {
            self.lock(seed).await?;
        }
        self.must_be_there(seed).await?;
        self.join(seed).await?;
        let [name, from, theirs] = [of, seed, owner].map(|label| identifier(&label.name));
        let by_files = if self.is_large(seed).await? { " STRATEGY file_copy" } else { "" };
        let copy = format!("CREATE DATABASE {name} TEMPLATE {from} OWNER {theirs} ALLOW_CONNECTIONS false{by_files}");
        if is_template {
            self.run("copy a database", &copy).await?;
        } else {
            // What is left aside is owned by the seed's role as well, and would change hands.
            self.clear(seed).await?;
            self.undisturbed(&[seed], "copy a database", &copy).await?;
        }
        // Databases belong to no database, so that of the seed would change hands with what is in this one.
        let back = if is_template { String::new() } else { format!("ALTER DATABASE {from} OWNER TO {from};") };
        crate::fault::point("service.database");
        // The server's disk is busy with what it has just copied: only the last transaction waits for it.
        let let_in = format!("SET LOCAL synchronous_commit TO off; {}", letting_in(of));
        self.run("open a database to its owner", &let_in).await?;
        let finish = finishing(of);
        let hand_over =
            format!("BEGIN; REASSIGN OWNED BY {from} TO {theirs}; DROP OWNED BY {from}; {back} {finish} COMMIT");
        let inside = Session::open_in(self.server, &of.name).await?;
        inside.run("hand over what is in a copy", &hand_over).await
    }

    /// What was sealed. An owner can say of its database that it is a template, but not give it to the administrator.
    async fn is_template(&self, label: &Label) -> Result<bool, ServiceError> {
        let name = label.name.as_str();
        let query = "SELECT datistemplate AND pg_get_userbyid(datdba) <> datname FROM pg_database WHERE datname = $1";
        let row = self.client.query_typed_opt(query, &[(&name, Type::NAME)]).await;
        let row = row.map_err(|error| fault_of(self.server, error, "look for a name"))?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Whether the server can choose how to copy it, and its files are the better way.
    async fn is_large(&self, label: &Label) -> Result<bool, ServiceError> {
        if self.version().await? < 150_000 {
            return Ok(false);
        }
        let row =
            self.client.query_typed_one("SELECT pg_database_size($1)", &[(&label.name.as_str(), Type::NAME)]).await;
        let size: i64 = row.map_err(|error| fault_of(self.server, error, "measure a database"))?.get(0);
        Ok(size >= LARGE)
    }

    async fn must_be_there(&self, label: &Label) -> Result<(), ServiceError> {
        match self.database(label).await? {
            Some(_) => Ok(()),
            None => Err(ServiceError::new(self.server, Fault::NoSeed(label.name.clone()))),
        }
    }

    /// Does what needs these databases for itself. Whoever is connected is cut; whoever comes waits until it is done,
    /// since the server has them locked by then. It gives up by itself after five seconds.
    async fn undisturbed(&self, labels: &[&Label], doing: &'static str, sql: &str) -> Result<(), ServiceError> {
        let other = Session::open(self.server).await?;
        let end = ending(labels);
        let ending = async {
            loop {
                if let Err(error) = other.run("end connections", &end).await {
                    return error;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            done = self.run(doing, sql) => done,
            error = ending => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_a_name_is_another_one_that_fits() {
        let name = format!("flyloft_{}", "a".repeat(55));
        let label = Label { name, text: "flyloft 1f3a9c".to_owned(), number: None };
        let [aside, old] = [aside(&label), old(&label)];
        assert!(aside.name != old.name && aside.name.len() <= 63, "{aside:?}");
        assert_eq!((&aside.text, &old.text), (&label.text, &label.text));
    }
}
