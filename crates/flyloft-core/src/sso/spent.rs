//! Logins that have come to an end, so that none of them comes to another one.

use std::collections::HashMap;

/// So many are remembered. Of more than that, the one that could end for the shortest time is forgotten.
const ROOM: usize = 10_000;

/// By their states, each with the time until which it could end. Times are seconds since the Unix epoch.
#[derive(Debug, Default)]
pub struct Spent(HashMap<String, u64>);

impl Spent {
    /// Ends a login. Whether it has not ended before.
    pub fn spend(&mut self, state: &str, until: u64, now: u64) -> bool {
        if self.0.contains_key(state) {
            return false;
        }
        if self.0.len() >= ROOM {
            self.make_room(now);
        }
        self.0.insert(state.to_owned(), until);
        true
    }

    fn make_room(&mut self, now: u64) {
        self.0.retain(|_, until| *until > now);
        if self.0.len() >= ROOM
            && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until).map(|(state, _)| state.clone())
        {
            self.0.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_ends_once_and_a_crowd_takes_no_more_memory_than_there_is_for_it() {
        let mut spent = Spent::default();
        assert!(spent.spend("ann", 700, 100) && !spent.spend("ann", 700, 101) && spent.spend("bo", 600, 100));
        for number in 0..ROOM as u64 {
            assert!(spent.spend(&number.to_string(), 650, 100));
        }
        assert!(spent.0.len() == ROOM && !spent.spend("ann", 700, 101), "what may end for longest is remembered");
        assert!(spent.spend("late", 1_200, 700));
        assert_eq!(spent.0.len(), 1, "the time of all others is over");
    }
}
