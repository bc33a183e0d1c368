//! A user and a database of the same name for an environment, and their end.
//!
//! A user has no comment with MariaDB, and a database's own is lost when an app drops and makes it anew, which it may.
//! So what is ours is in a table of ours, written down before it is made and until it is gone. A name that is taken
//! while it is not written down there is somebody else's. Nobody else works on a name meanwhile: a lock of the server's
//! is held, which ends with its connection.

use std::collections::BTreeSet;
use std::time::Duration;

use mysql_async::Error;
use mysql_async::prelude::Queryable;
use ring::digest;

use super::{Session, Version, fault_of};
use crate::service::{Fault, Label, ServiceError, Wanted};

/// No environment's database has that name: theirs end with eight digits of a hash.
const LABELS: &str = "flyloft_labels";

/// Seconds to wait for whoever works on the same name.
const TURN: u32 = 15;

impl Session<'_> {
    /// Makes what is missing, and sets what there is to what is wanted. What it makes goes again if it fails.
    pub(super) async fn provide(&mut self, wanted: &Wanted) -> Result<(), ServiceError> {
        let label = &wanted.label;
        self.lock(label).await?;
        let version = self.version().await?;
        let was_ours = self.is_ours(label).await?;
        if !was_ours {
            self.write_down(label).await?;
            crate::fault::point("service.label");
        }
        let made = self.complete(wanted, &version).await;
        if made.is_err() && !was_ours {
            // Why it failed is told. What does not go now is written down, and the next one finds it.
            let _ = self.take_away(label).await;
        }
        made
    }

    pub(super) async fn complete(&mut self, wanted: &Wanted, version: &Version) -> Result<(), ServiceError> {
        let Wanted { label, password, connections, .. } = wanted;
        let name = label.name.as_str();
        let user = account(name);
        self.make_database(name).await?;
        crate::fault::point("service.database");
        let with = format!("{} WITH MAX_USER_CONNECTIONS {connections}", identified(version, &password.0));
        self.run("make a user", &format!("CREATE USER IF NOT EXISTS {user} {with}")).await?;
        crate::fault::point("service.user");
        self.run("change a user", &format!("ALTER USER {user} {with}")).await?;
        self.give(name, &user).await
    }

    pub(super) async fn make_database(&mut self, name: &str) -> Result<(), ServiceError> {
        // Some servers have Latin 1 otherwise. On a full disk MariaDB makes one whose character set it forgets later.
        let create = format!("CREATE DATABASE IF NOT EXISTS {} CHARACTER SET utf8mb4", identifier(name));
        self.run_whole("make a database", &create).await
    }

    async fn give(&mut self, database: &str, user: &str) -> Result<(), ServiceError> {
        let database = self.grantable(database).await?;
        self.run("give a database to a user", &format!("GRANT ALL PRIVILEGES ON {database}.* TO {user}")).await
    }

    /// Of the users of these names, those that are not there.
    pub(super) async fn lost(&mut self, names: &[String]) -> Result<Vec<String>, ServiceError> {
        let there: Vec<String> = self.all("look at users", "SELECT DISTINCT User FROM mysql.user", ()).await?;
        Ok(names.iter().filter(|name| !there.contains(name)).cloned().collect())
    }

    /// Ends who is connected, and leaves nothing of it.
    pub(super) async fn remove(&mut self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        if !self.is_ours(label).await? {
            return self.refuse_others(label).await;
        }
        // From here on nobody comes in.
        self.run("drop a user", &format!("DROP USER IF EXISTS {}", account(&label.name))).await?;
        self.cut(label).await?;
        self.clear(label).await?;
        self.take_away(label).await
    }

    /// Ends who is connected.
    pub(super) async fn cut(&mut self, label: &Label) -> Result<(), ServiceError> {
        let open = "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = ?";
        let open: Vec<u64> = self.all("see connections", open, (label.name.as_str(),)).await?;
        for id in open {
            self.kill(id).await?;
        }
        Ok(())
    }

    /// All that is ours of this name. What is half made has no user, and nobody may be allowed to drop one.
    pub(super) async fn take_away(&mut self, label: &Label) -> Result<(), ServiceError> {
        let name = label.name.as_str();
        let users = "SELECT 1 FROM mysql.user WHERE User = ? LIMIT 1";
        let user: Option<u8> = self.first("look at users", users, (name,)).await?;
        if user.is_some() {
            self.run("drop a user", &format!("DROP USER IF EXISTS {}", account(name))).await?;
        }
        self.run("drop a database", &format!("DROP DATABASE IF EXISTS {}", identifier(name))).await?;
        let forget = format!("DELETE FROM {LABELS}.labels WHERE name = ?");
        let _: Option<u8> = self.first("write down what is gone", &forget, (name,)).await?;
        Ok(())
    }

    /// Ends those of these users on which nothing has happened for so long. Gives the names of users that have others, and
    /// a statement that runs is something that happens.
    pub(super) async fn hang_up(&mut self, labels: &[Label], quiet: Duration) -> Result<Vec<String>, ServiceError> {
        if !self.has_labels().await? {
            return Ok(Vec::new());
        }
        // A user that somebody else has made under the name since is not ours.
        let ours = format!("SELECT name, label FROM {LABELS}.labels");
        let written: Vec<(String, String)> = self.all("look for what is ours", &ours, ()).await?;
        let is_ours = |name: &str| {
            let of_that_name = |label: &&Label| label.name == name;
            let label = labels.iter().find(of_that_name);
            label.is_some_and(|label| written.iter().any(|(name, text)| *name == label.name && *text == label.text))
        };
        let open = "SELECT ID, USER, IF(COMMAND = 'Sleep', CAST(COALESCE(TIME, 0) AS SIGNED), -1)
             FROM information_schema.PROCESSLIST";
        let open: Vec<(u64, String, i64)> = self.all("see connections", open, ()).await?;
        let mut left = BTreeSet::new();
        for (id, user, seconds) in open.into_iter().filter(|(_, user, _)| is_ours(user)) {
            // A part of a second is not counted there.
            match u64::try_from(seconds).is_ok_and(|seconds| Duration::from_secs(seconds) >= quiet) {
                true => self.kill(id).await?,
                false => _ = left.insert(user),
            }
        }
        Ok(left.into_iter().collect())
    }

    async fn kill(&mut self, id: u64) -> Result<(), ServiceError> {
        match self.conn.query_drop(format!("KILL {id}")).await {
            // It has ended by itself.
            Err(Error::Server(said)) if said.code == 1094 => Ok(()),
            ended => ended.map_err(|error| fault_of(self.server, error, "end connections")),
        }
    }

    /// Held until the session ends. Its name is nothing that another environment could guess, and hold.
    pub(super) async fn lock(&mut self, label: &Label) -> Result<(), ServiceError> {
        let name = hex::encode(&digest::digest(&digest::SHA256, label.text.as_bytes()).as_ref()[..16]);
        let taken: Option<Option<u8>> = self.first("wait for its turn", "SELECT GET_LOCK(?, ?)", (name, TURN)).await?;
        match taken.flatten() {
            Some(1) => Ok(()),
            _ => Err(ServiceError::new(self.server, Fault::Slow(TURN.into()))),
        }
    }

    /// Whether it is written down as ours. Somebody else's is an error.
    pub(super) async fn is_ours(&mut self, label: &Label) -> Result<bool, ServiceError> {
        if !self.has_labels().await? {
            let schema = format!("CREATE DATABASE IF NOT EXISTS {LABELS} CHARACTER SET utf8mb4");
            self.run("make a database", &schema).await?;
            let columns = "name VARCHAR(64) NOT NULL PRIMARY KEY, label VARCHAR(255) NOT NULL";
            let table = format!("CREATE TABLE IF NOT EXISTS {LABELS}.labels ({columns})");
            self.run("make a table", &table).await?;
        }
        let known = format!("SELECT label FROM {LABELS}.labels WHERE name = ?");
        let known: Option<String> = self.first("look for what is ours", &known, (label.name.as_str(),)).await?;
        match known {
            Some(text) if text == label.text => Ok(true),
            Some(text) => {
                let said = format!("its label in `{LABELS}` is `{text}`, and not `{}`", label.text);
                Err(self.taken("database", label).said(said))
            }
            None => Ok(false),
        }
    }

    async fn has_labels(&mut self) -> Result<bool, ServiceError> {
        let there = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = 'labels'";
        let there: Option<u8> = self.first("look for what is ours", there, (LABELS,)).await?;
        Ok(there.is_some())
    }

    /// As ours, unless somebody else has something of that name.
    pub(super) async fn write_down(&mut self, label: &Label) -> Result<(), ServiceError> {
        self.refuse_others(label).await?;
        let insert = format!("INSERT INTO {LABELS}.labels (name, label) VALUES (?, ?)");
        let values = (label.name.as_str(), label.text.as_str());
        let _: Option<u8> = self.first("write down what is made", &insert, values).await?;
        Ok(())
    }

    /// What has the name and is not written down.
    async fn refuse_others(&mut self, label: &Label) -> Result<(), ServiceError> {
        let said = format!("it has no label in `{LABELS}` by which it would be flyloft's");
        let users = "SELECT 1 FROM mysql.user WHERE User = ? LIMIT 1";
        let user: Option<u8> = self.first("look at users", users, (label.name.as_str(),)).await?;
        if user.is_some() {
            return Err(self.taken("user", label).said(said));
        }
        let databases = "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?";
        let database: Option<u8> = self.first("look at databases", databases, (label.name.as_str(),)).await?;
        match database {
            Some(_) => Err(self.taken("database", label).said(said)),
            None => Ok(()),
        }
    }

    fn taken(&self, what: &'static str, label: &Label) -> ServiceError {
        ServiceError::new(self.server, Fault::Taken { what, name: label.name.clone() })
    }

    /// A database's name in a grant. There `_` stands for any character, so that the databases of others would be
    /// granted as well, unless the server was told that it does not.
    async fn grantable(&mut self, name: &str) -> Result<String, ServiceError> {
        let literal = "SHOW GLOBAL VARIABLES LIKE 'partial\\_revokes'";
        let literal: Option<(String, String)> = self.first("look at its state", literal, ()).await?;
        Ok(match literal {
            Some((_, value)) if value == "ON" => identifier(name),
            _ => identifier(&name.replace('_', "\\_")),
        })
    }
}

/// In SQL, where a quote within is written twice.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// From wherever it connects. Names of ours have nothing in them that would have to be escaped.
fn account(name: &str) -> String {
    format!("'{name}'@'%'")
}

/// The password is one of ours: hexadecimal digits. MariaDB would write it to its log as it is, and need not know it;
/// MySQL has other hashes, and keeps it out of its log itself.
fn identified(version: &Version, password: &str) -> String {
    let sha1 = |bytes: &[u8]| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    match version.is_mariadb {
        true => {
            let hash = hex::encode_upper(sha1(sha1(password.as_bytes()).as_ref()));
            format!("IDENTIFIED BY PASSWORD '*{hash}'")
        }
        false => format!("IDENTIFIED BY '{password}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_ends_where_it_should_and_a_password_of_mariadb_is_a_hash() {
        assert_eq!(identifier("a`; DROP DATABASE x; --"), "`a``; DROP DATABASE x; --`");
        let version = Version { is_mariadb: true, text: "10.11.6-MariaDB".to_owned() };
        // What PASSWORD('password') gives there.
        let hash = "IDENTIFIED BY PASSWORD '*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19'";
        assert_eq!(identified(&version, "password"), hash);
    }
}
