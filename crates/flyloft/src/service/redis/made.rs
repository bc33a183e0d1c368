//! A user for an environment, and the end of it and of its keys.
//!
//! A user is made and marked as ours by one command. What it owns follows from its name and from its rules: keys with
//! its name in front, and all of a database whose number it was given, which was empty then.

use std::collections::BTreeSet;
use std::time::Duration;

use ::redis::Value;
use flyloft_core::service::Isolation;

use super::rules::{mark, numbers, rules};
use super::{Session, command, shared_number, texts};
use crate::service::{Fault, Label, ServiceError, Wanted};

/// Who gives numbers holds it. In the database of those with a prefix, where nobody else may touch it.
const LOCK: &str = "flyloft:lock";
/// Milliseconds, more than any of this may take.
const LOCK_ENDS: &str = "30000";
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// Keys that are looked through at a time.
const BATCH: &str = "1000";

impl Session<'_> {
    /// Makes what is missing, and sets what there is to what is wanted. Whom it makes goes again if it fails.
    pub(super) async fn provide(&self, wanted: &Wanted) -> Result<Option<u16>, ServiceError> {
        let found = self.user(&wanted.label).await?;
        let is_new = found.is_none();
        let made = self.complete(wanted, found).await;
        if made.is_err() && is_new {
            // Why it failed is told. Who does not go now is on record, and the next one finds it.
            let _ = self.ask("remove a user", &command(&["ACL", "DELUSER", &wanted.label.name])).await;
        }
        made
    }

    async fn complete(&self, wanted: &Wanted, found: Option<Found>) -> Result<Option<u16>, ServiceError> {
        if wanted.isolation == Isolation::Usual {
            self.set(wanted, None).await?;
            return Ok(None);
        }
        let shared = shared_number(self.server);
        if shared == 0 {
            let fault = Fault::Unfit(
                "whoever has a database number of its own can use number 0 as well, where others have their keys",
                "add it with another number for those, as in redis://HOST/1",
            );
            return Err(ServiceError::new(self.server, fault));
        }
        self.select(shared).await?;
        let lock = self.lock().await?;
        let made = async {
            let number = match found {
                Some(Found { number: Some(number) }) => number,
                _ => self.free_number(wanted).await?,
            };
            self.set(wanted, Some(number)).await?;
            Ok(Some(number))
        };
        let made = made.await;
        self.unlock(&lock).await;
        made
    }

    async fn set(&self, wanted: &Wanted, number: Option<u16>) -> Result<(), ServiceError> {
        let mut set = command(&["ACL", "SETUSER", &wanted.label.name]);
        set.arg(rules(wanted, shared_number(self.server), number));
        self.ask("make a user", &set).await?;
        crate::fault::point("service.user");
        self.save().await
    }

    /// Ends who is connected, and leaves nothing of it.
    pub(super) async fn remove(&self, label: &Label) -> Result<(), ServiceError> {
        let found = self.user(label).await?;
        self.clear(label, &found).await?;
        if found.is_some() {
            self.ask("remove a user", &command(&["ACL", "DELUSER", &label.name])).await?;
            self.save().await?;
        }
        Ok(())
    }

    /// Ends who is connected, and leaves it without a key. Nobody else gets its number: its user stays.
    pub(super) async fn renew(&self, wanted: &Wanted) -> Result<(), ServiceError> {
        self.clear(&wanted.label, &self.user(&wanted.label).await?).await?;
        crate::fault::point("service.emptied");
        self.provide(wanted).await.map(drop)
    }

    /// Leaves nothing but its user, who is out from then on.
    async fn clear(&self, label: &Label, found: &Option<Found>) -> Result<(), ServiceError> {
        let name = &label.name;
        if found.is_some() {
            self.ask("close a user", &command(&["ACL", "SETUSER", name, "off"])).await?;
            self.ask("end connections", &command(&["CLIENT", "KILL", "USER", name])).await?;
        }
        for number in BTreeSet::from([0, shared_number(self.server)]) {
            self.select(number).await?;
            self.remove_keys(&format!("{name}:*")).await?;
        }
        let number = match found {
            Some(found) => found.number,
            // The server has lost the user, and may have given its number to somebody else.
            None => {
                let held = self.held(label).await?;
                label.number.filter(|number| !held.contains(number))
            }
        };
        if let Some(number) = number {
            self.select(number).await?;
            self.ask("empty a database", &command(&["FLUSHDB", "ASYNC"])).await?;
        }
        Ok(())
    }

    async fn remove_keys(&self, pattern: &str) -> Result<(), ServiceError> {
        let mut cursor = "0".to_owned();
        loop {
            let scan = command(&["SCAN", &cursor, "MATCH", pattern, "COUNT", BATCH]);
            let answer = self.ask("look for keys", &scan).await?;
            let Value::Array(parts) = &answer else { return Err(self.odd("look for keys")) };
            let [next, Value::Array(keys)] = parts.as_slice() else { return Err(self.odd("look for keys")) };
            if !keys.is_empty() {
                let mut unlink = command(&["UNLINK"]);
                for key in keys {
                    // Which need not be text.
                    let Value::BulkString(key) = key else { return Err(self.odd("look for keys")) };
                    unlink.arg(key);
                }
                self.ask("remove keys", &unlink).await?;
            }
            cursor = texts(next).concat();
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    /// Whoever has the name, if that is ours.
    async fn user(&self, label: &Label) -> Result<Option<Found>, ServiceError> {
        let answer = self.ask("look for a user", &command(&["ACL", "GETUSER", &label.name])).await?;
        if matches!(answer, Value::Nil) {
            return Ok(None);
        }
        let mark = mark(label);
        if !field(&answer, "channels").split(' ').any(|channel| channel == mark) {
            let fault = Fault::Taken { what: "user", name: label.name.clone() };
            return Err(ServiceError::new(self.server, fault).said(format!("it has no channel `{mark}`")));
        }
        // Who is confined to keys has them among those of others, whatever the number.
        let has_all_keys = field(&answer, "keys").split(' ').any(|pattern| pattern == "~*");
        let shared = shared_number(self.server);
        let number = numbers(&field(&answer, "commands")).find(|number| has_all_keys && *number != shared);
        Ok(Some(Found { number }))
    }

    /// A database that is nobody's.
    async fn free_number(&self, wanted: &Wanted) -> Result<u16, ServiceError> {
        let (shared, held) = (shared_number(self.server), self.held(&wanted.label).await?);
        if let Some(number) = wanted.label.number.filter(|number| !held.contains(number)) {
            return Ok(number);
        }
        let info = self.info().await?;
        let is_used = |number: u16| info.contains_key(&format!("db{number}"));
        // What comes to be there later is of one who does not look at its number.
        if held.iter().all(|number| *number == shared) && is_used(0) {
            let fault = Fault::Unfit(
                "it has keys in database 0, which whoever has a number of its own could read",
                "add a server whose database 0 is empty",
            );
            return Err(ServiceError::new(self.server, fault));
        }
        let answer = self.ask("count databases", &command(&["CONFIG", "GET", "databases"])).await?;
        let count = texts(&answer).get(1).and_then(|count| count.parse().ok());
        let count: u16 = count.ok_or_else(|| self.odd("count databases"))?;
        let is_free = |number: &u16| {
            *number != shared && !held.contains(number) && !wanted.taken.contains(number) && !is_used(*number)
        };
        let free = (1..count).find(is_free);
        free.ok_or_else(|| ServiceError::new(self.server, Fault::NoNumber(count)))
    }

    /// The numbers that other users may select.
    async fn held(&self, label: &Label) -> Result<BTreeSet<u16>, ServiceError> {
        let users = texts(&self.ask("list users", &command(&["ACL", "LIST"])).await?);
        let others = users.iter().filter(|user| user.split(' ').nth(1) != Some(&label.name));
        Ok(others.flat_map(|user| numbers(user)).collect())
    }

    /// Keeps users over a restart, where the server has a file for that. Where it has none they are made again.
    async fn save(&self) -> Result<(), ServiceError> {
        match self.ask("save users", &command(&["ACL", "SAVE"])).await {
            Err(error)
                if error.said.as_ref().is_some_and(|said| said.contains("not configured to use an ACL file")) =>
            {
                Ok(())
            }
            saved => saved.map(drop),
        }
    }

    async fn select(&self, number: u16) -> Result<(), ServiceError> {
        self.ask("choose a database", &command(&["SELECT", &number.to_string()])).await.map(drop)
    }

    async fn lock(&self) -> Result<String, ServiceError> {
        let mine = crate::random::hex(32);
        let set = command(&["SET", LOCK, &mine, "NX", "PX", LOCK_ENDS]);
        while matches!(self.ask("hold a lock", &set).await?, Value::Nil) {
            tokio::time::sleep(LOCK_LOOK).await;
        }
        Ok(mine)
    }

    /// If it is not possible now, it ends by itself.
    async fn unlock(&self, mine: &str) {
        let holder = self.ask("hold a lock", &command(&["GET", LOCK])).await;
        if holder.is_ok_and(|holder| texts(&holder) == [mine]) {
            let _ = self.ask("hold a lock", &command(&["UNLINK", LOCK])).await;
        }
    }

    fn odd(&self, doing: &'static str) -> ServiceError {
        ServiceError::new(self.server, Fault::Other(doing)).said("it answered something else than was asked for")
    }
}

/// A user of ours.
struct Found {
    /// Of the database that is its alone.
    number: Option<u16>,
}

/// What `ACL GETUSER` says under a name.
pub(super) fn field(user: &Value, name: &str) -> String {
    let Value::Array(parts) = user else { return String::new() };
    let found = parts.chunks_exact(2).find(|pair| texts(&pair[0]) == [name]);
    found.map(|pair| texts(&pair[1]).join(" ")).unwrap_or_default()
}
