//! The table is put in place again where it has to be, and nobody takes time for it where it has not.

use super::super::*;
use super::lab::{at, config, ip, lab};
use super::network;
use crate::engine::conformance::eventually;

#[test]
fn the_table_is_left_alone_until_somebody_changes_it_or_the_host_is_another() {
    lab(async |lab| {
        let network = network();
        let [removals, witness] = [Removals::listen().unwrap(), Removals::listen().unwrap()];
        let renewed = async || {
            network.renew(Some(&removals)).await.unwrap();
            witness.has_changed(&network.table())
        };
        // The kernel gives a router, and a link that has just come up, addresses by and by.
        let left_alone = async || eventually("the table is left alone", async || !renewed().await).await;
        assert!(renewed().await, "there was none");
        left_alone().await;
        let container = lab.admitted(&network, 0, &[]).await;
        assert!(renewed().await, "a container was admitted");
        left_alone().await;

        let flushed = Cmd::new("nft").args(["flush", "table", "inet", &network.table()]).run().await;
        flushed.unwrap();
        assert!(witness.has_changed(&network.table()));
        assert!(renewed().await, "somebody has taken its rules away");
        assert_eq!(container.space.connect(at(super::PRIVATE[0], 80)), None, "they are back");
        left_alone().await;

        ip(&["address add 10.66.0.1/24 dev up0"]).await;
        assert!(renewed().await, "the host is part of another network");
        left_alone().await;
    });
}

#[test]
fn a_table_of_another_daemon_is_not_ones_own_business() {
    lab(async |_lab| {
        let (own, other) = (network(), Network::new("0000ff", config()));
        let removals = Removals::listen().unwrap();
        own.renew(Some(&removals)).await.unwrap();
        other.install().await.unwrap();
        other.uninstall().await.unwrap();
        assert!(!removals.has_changed(&own.table()));
        own.uninstall().await.unwrap();
        removals.of(&own.table()).await.unwrap();
        assert!(removals.has_changed(&own.table()), "what was removed is put in place again");
        assert!(!removals.has_changed(&own.table()));
    });
}
