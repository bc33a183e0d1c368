//! Keeps nginx's workers from apps whose gate was shut while nginx refuses the configuration that says so.
//!
//! The kernel refuses them a connection as it does where nobody listens. So nginx asks flyloft's own edge instead, which is
//! the `backup` of each app, and asks at the gate. Everybody else goes on: the daemon, and what apps have open.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::unistd::{Uid, geteuid};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::exec::{Cmd, ExecError};

/// How long `nft` may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Barrier {
    /// Of nftables, and nobody else's.
    table: String,
    /// Whom nginx's workers run as.
    workers: Uid,
    /// None: what a daemon before this one has left is not known.
    barred: Mutex<Option<BTreeSet<SocketAddr>>>,
}

#[derive(Debug, Error)]
pub enum BarrierError {
    #[error("nginx's workers run as the user that flyloft runs as, so the kernel cannot tell them apart")]
    SameUser,
    #[error(transparent)]
    Nft(#[from] ExecError),
}

impl Barrier {
    pub fn new(instance: &str, workers: Uid) -> Self {
        Self { table: format!("flyloft_{instance}_nginx"), workers, barred: Mutex::new(None) }
    }

    /// Bars these as well, from the return of this call on, also over connections that are open.
    pub async fn bar(&self, more: BTreeSet<SocketAddr>) -> Result<(), BarrierError> {
        let mut barred = self.barred.lock().await;
        let wanted: BTreeSet<_> = barred.iter().flatten().copied().chain(more).collect();
        if wanted.is_empty() || barred.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if self.workers == geteuid() {
            return Err(BarrierError::SameUser);
        }
        self.apply(&wanted).await?;
        tracing::warn!(apps = ?wanted, "nginx is kept from apps whose gate it does not know of");
        *barred = Some(wanted);
        Ok(())
    }

    /// Bars nothing any more.
    pub async fn lift(&self) -> Result<(), BarrierError> {
        let mut barred = self.barred.lock().await;
        if barred.as_ref().is_none_or(|barred| !barred.is_empty()) {
            self.apply(&BTreeSet::new()).await?;
            *barred = Some(BTreeSet::new());
        }
        Ok(())
    }

    async fn apply(&self, barred: &BTreeSet<SocketAddr>) -> Result<(), BarrierError> {
        Cmd::new("nft").args(["-f", "-"]).stdin(self.script(barred)).timeout(PATIENCE).run().await?;
        Ok(())
    }

    /// For nft(8), which takes all of it or nothing.
    fn script(&self, barred: &BTreeSet<SocketAddr>) -> String {
        let (table, workers) = (&self.table, self.workers);
        let mut text = format!("add table inet {table}\ndelete table inet {table}\n");
        if barred.is_empty() {
            return text;
        }
        let _ = writeln!(
            text,
            "add table inet {table}\n\
             add chain inet {table} output {{ type filter hook output priority -10; policy accept; }}"
        );
        for address in barred {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            let (ip, port): (IpAddr, u16) = (address.ip(), address.port());
            let _ = writeln!(
                text,
                "add rule inet {table} output meta skuid {workers} {family} daddr {ip} tcp dport {port} \
                 reject with tcp reset"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_s_workers_are_kept_from_what_is_barred_and_nobody_else_is() {
        let barrier = Barrier::new("ab12cd", Uid::from_raw(33));
        let nothing = barrier.script(&BTreeSet::new());
        assert_eq!(nothing, "add table inet flyloft_ab12cd_nginx\ndelete table inet flyloft_ab12cd_nginx\n");
        let barred = ["10.213.0.5:5000", "[fd00::9]:3000"].map(|address| address.parse::<SocketAddr>().unwrap());
        insta::assert_snapshot!(barrier.script(&barred.into()).strip_prefix(&nothing).unwrap(), @"
        add table inet flyloft_ab12cd_nginx
        add chain inet flyloft_ab12cd_nginx output { type filter hook output priority -10; policy accept; }
        add rule inet flyloft_ab12cd_nginx output meta skuid 33 ip daddr 10.213.0.5 tcp dport 5000 reject with tcp reset
        add rule inet flyloft_ab12cd_nginx output meta skuid 33 ip6 daddr fd00::9 tcp dport 3000 reject with tcp reset
        ");
    }

    #[tokio::test]
    async fn where_the_kernel_cannot_tell_nginx_from_flyloft_nothing_is_barred_and_that_is_said() {
        let barrier = Barrier::new("ab12cd", geteuid());
        let app: SocketAddr = "10.213.0.5:5000".parse().unwrap();
        let refused = barrier.bar([app].into()).await;
        assert!(matches!(refused, Err(BarrierError::SameUser)));
    }
}
