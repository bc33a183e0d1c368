//! Servers that are made of something else than what is on record, until it is known whether they answer so. Whatever
//! happens in between, the record leads back: whoever keeps servers finds in it what they were before.

use std::collections::BTreeMap;
use std::sync::Mutex;

use flyloft_core::service::managed::Outfit;

use crate::store::ManagedRow;

/// By the servers' numbers, of what they are made meanwhile.
#[derive(Default)]
pub struct Attempts(Mutex<BTreeMap<i64, Outfit>>);

/// Lasts as long as this lives.
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    id: i64,
}

impl Attempts {
    /// None while there is another one for the same server.
    pub fn begin(&self, id: i64, outfit: Outfit) -> Option<Attempt<'_>> {
        let mut under_way = self.0.lock().expect("not poisoned");
        if under_way.contains_key(&id) {
            return None;
        }
        under_way.insert(id, outfit);
        Some(Attempt { attempts: self, id })
    }

    /// Of what it is to be made now.
    pub fn meant(&self, on_record: &ManagedRow) -> ManagedRow {
        let under_way = self.0.lock().expect("not poisoned");
        ManagedRow { outfit: under_way.get(&on_record.id).copied().unwrap_or(on_record.outfit), ..on_record.clone() }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.attempts.0.lock().expect("not poisoned").remove(&self.id);
    }
}
