//! What a user of ours may do, as `ACL SETUSER` reads it.
//!
//! The rules allow by kinds of data, so that what modules and later versions bring is not allowed by itself. What has
//! no key to be judged by is looked at one by one: commands that reach the keys of others, tell their names, or leave
//! something for others to run are not there.
//!
//! A connection begins in database 0, whoever makes it, and no rule takes that away. So who has a number of its own,
//! and may use any key, can do so in database 0 as well. That must be nobody's.

use flyloft_core::service::Isolation;
use sha2::{Digest, Sha256};

use super::super::{Label, Wanted};

/// For both ways. `SORT` by other keys asks for the right to read all of them, since version 7.0.
const ALLOWED: &str = "-@all +@keyspace +@string +@hash +@list +@set +@sortedset +@bitmap +@hyperloglog +@geo +@stream \
    +@transaction +@scripting +@pubsub +@connection -@admin -@dangerous \
    +sort +sort_ro +info +time +wait +memory|usage \
    -client +client|setname +client|getname +client|id +client|info +client|reply \
    -script +script|load +script|exists -function -fcall -fcall_ro \
    -pubsub +pubsub|numsub -copy -move -select";

/// These go over all keys of a database, whose ever they are.
const OVER_ALL_KEYS: &str = "scan keys randomkey dbsize";

/// The user's name is not among them. `shared` is the database of environments with a prefix.
pub(super) fn rules(wanted: &Wanted, shared: u16, number: Option<u16>) -> Vec<String> {
    let Wanted { label, password, isolation, .. } = wanted;
    let mut rules = vec!["reset".to_owned(), "on".to_owned()];
    // The server need not be told the password itself.
    rules.push(format!("#{}", hex::encode(Sha256::digest(password.0.as_bytes()))));
    rules.push(match isolation {
        Isolation::Usual => format!("~{}:*", label.name),
        Isolation::Database => "~*".to_owned(),
    });
    // Channels know of no numbers.
    rules.push(format!("&{}:*", label.name));
    rules.push(mark(label));
    rules.extend(ALLOWED.split_whitespace().map(str::to_owned));
    let sign = if *isolation == Isolation::Usual { '-' } else { '+' };
    rules.extend(OVER_ALL_KEYS.split(' ').map(|command| format!("{sign}{command}")));
    if *isolation == Isolation::Database {
        rules.push("+flushdb".to_owned());
    }
    rules.push(format!("+select|{}", number.unwrap_or(shared)));
    rules
}

/// A user has no comment. So it may use a channel that nobody uses, by whose name it is known.
pub(super) fn mark(label: &Label) -> String {
    format!("&{}", label.text.replace(' ', "/"))
}

/// The numbers that rules let somebody select.
pub(super) fn numbers(rules: &str) -> impl Iterator<Item = u16> + '_ {
    rules.split(' ').filter_map(|rule| rule.strip_prefix("+select|")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_among_rules() {
        let rules = "-@all +@string -select +select|3 +select|0 ~+select|x";
        assert_eq!(numbers(rules).collect::<Vec<_>>(), [3, 0]);
    }
}
