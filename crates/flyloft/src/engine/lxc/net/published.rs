//! Ports of the host that lead to containers.
//!
//! ```text
//!   outside ──► host port ─┬─ a door ──► container     while what is there is awake
//!                          └─ no door ─► the daemon    which wakes it, and relays
//!   host ───────────────────────────────► the daemon
//! ```
//!
//! Who has come through a door stays connected without it, as long as the port is open behind its link: a connection to
//! what has fallen asleep is not lost. What is said on it is counted, link by link, so that it can be noticed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use flyloft_core::port::Protocol;

use super::elements::{Admitted, Change, Door, Ways};
use super::{NetError, Network, elements, nft};

impl Network {
    /// From now on these ways lead to what is behind each link, and no others. Links that are not admitted have theirs
    /// when they are.
    pub async fn publish(&self, wanted: BTreeMap<String, Ways>) -> Result<(), NetError> {
        let mut admitted = self.admitted.lock().await;
        *self.ways() = wanted.clone();
        let Some(script) = self.script(&admitted, &wanted) else { return Ok(()) };
        if nft::apply(&script).await.is_err() {
            // Somebody else has changed the table: look, and try once more.
            *admitted = nft::admitted(&self.table()).await?;
            nft::apply(&self.script(&admitted, &wanted).unwrap_or_default()).await?;
        }
        for (link, known) in admitted.iter_mut() {
            known.ways = wanted.get(link).cloned().unwrap_or_default();
        }
        admitted.retain(|_, known| *known != Admitted::default());
        Ok(())
    }

    /// What makes the ways in the kernel those that are wanted, if they are not.
    fn script(&self, known: &BTreeMap<String, Admitted>, wanted: &BTreeMap<String, Ways>) -> Option<String> {
        let wanted: BTreeMap<&String, Admitted> = known
            .iter()
            .map(|(link, known)| (link, wanted.get(link).cloned().unwrap_or_default(), known))
            .filter(|(_, ways, known)| *ways != known.ways)
            .map(|(link, ways, known)| (link, Admitted { ways, ..known.clone() }))
            .collect();
        let changes: Vec<Change<'_>> =
            wanted.iter().map(|(link, wanted)| (link.as_str(), known.get(*link), Some(wanted))).collect();
        (!changes.is_empty()).then(|| elements::transaction(&self.table(), &changes))
    }

    /// How many packets with something in them have come by ways to each link.
    pub async fn counts(&self) -> Result<BTreeMap<String, u64>, NetError> {
        // Nobody is asked where there is nothing.
        let is_published = self.ways().values().any(|ways| !ways.open.is_empty());
        if is_published { nft::counts(&self.table()).await } else { Ok(BTreeMap::new()) }
    }

    /// What a daemon before this one has published stays so until this one says what is.
    pub(super) fn take_up(&self, admitted: &BTreeMap<String, Admitted>) {
        let mut ways = self.ways();
        if ways.is_empty() {
            let found = admitted.iter().filter(|(_, known)| known.ways != Ways::default());
            *ways = found.map(|(link, known)| (link.clone(), known.ways.clone())).collect();
        }
    }

    pub(super) fn ways(&self) -> MutexGuard<'_, BTreeMap<String, Ways>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ways {
    /// Has a port of the host lead to one behind the link: newcomers to that of these addresses which is of their family.
    pub fn lead(&mut self, protocol: Protocol, host: u16, port: u16, straight: impl IntoIterator<Item = IpAddr>) {
        self.open.insert((protocol, port));
        self.doors.extend(straight.into_iter().map(|ip| Door { protocol, host, to: (ip, port).into() }));
    }
}
