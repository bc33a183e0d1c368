//! The network of containers: each has a routed link of its own to the host, and what may pass it is decided here.
//!
//! ```text
//!   container            host
//!   eth0 10.213.0.7/32 ── fl1f3a9c6 ──► raw        only from its own addresses
//!        fd66:…::7/128                  dstnat     169.254.1.1:53 becomes a real resolver
//!                                       forward    not to other containers, not to private places
//!                                       input      not to the host, but for the edge's ports
//!                                       srcnat     as the host
//! ```
//!
//! What must hold: a link that nobody admitted carries nothing, since rules go by the name's prefix and source addresses
//! by an explicit list. The table of one daemon judges its own links alone and accepts everything else. Nothing here
//! depends on the daemon running, with one exception: names are found by way of the daemon where the host's resolver
//! listens on loopback alone or has no IPv4 address.

mod elements;
mod forwarder;
mod host;
mod neighbours;
mod nft;
mod published;
mod removals;
mod ruleset;
mod tracking;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use tokio::sync::Mutex;

use self::elements::Admitted;
pub use self::elements::Ways;
use self::forwarder::Forwarder;
use self::host::Host;
pub use self::host::LINKS;
pub use self::removals::Removals;
use self::ruleset::Resolving;
use self::tracking::Share;
use super::slots::Slot;
use crate::engine::{Addresses, EngineError, Reach};
use crate::exec::{Cmd, ExecError};

/// What the configuration says about the network.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// First address of a private range; containers get those that follow.
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    /// Resolvers for containers; empty means those of the host.
    pub dns: Vec<IpAddr>,
    /// TCP ports of the host that containers may open, so that an environment reaches another one by its URL.
    pub edge_ports: Vec<u16>,
}

/// The network of one daemon.
pub struct Network {
    instance: String,
    config: NetConfig,
    /// Whether there is to be a table.
    wanted: AtomicBool,
    /// What the kernel has, as far as this daemon knows. Held while it is changed.
    admitted: Mutex<BTreeMap<String, Admitted>>,
    /// How others are to get at what is behind each link, from when it is admitted on.
    ways: std::sync::Mutex<BTreeMap<String, Ways>>,
    /// What was last put in place.
    in_place: Mutex<Option<InPlace>>,
    /// Only where resolvers cannot be reached by address translation.
    forwarder: Mutex<Option<Forwarder>>,
}

/// The rules of the kernel's table, with what each container has of the kernel's table of connections by them.
struct InPlace {
    share: Share,
    rules: String,
}

#[derive(Debug, Error)]
pub enum NetError {
    #[error("failed to change the firewall")]
    Nft(#[from] ExecError),
    #[error("`nft` answered something else than its documented JSON")]
    Answer(#[from] serde_json::Error),
    #[error("failed to set up the neighbours of the link `{link}`")]
    Link { link: String, source: ExecError },
    #[error("failed to list the neighbours of containers")]
    Neighbours(#[source] ExecError),
    #[error("failed to {doing}")]
    Io { doing: String, source: io::Error },
    /// Part of the machine's network has the addresses that containers are to have.
    #[error(
        "containers are to have addresses from `{first}` on, but this machine has a route to `{route}` over `{link}`"
    )]
    Collision { first: IpAddr, route: String, link: String },
    #[error(
        "no resolver for containers: the host's only listens on its loopback interface, or none has an IPv4 address"
    )]
    NoResolver,
}

impl NetError {
    pub fn hint(&self) -> &'static str {
        match self {
            NetError::Nft(_) | NetError::Answer(_) => {
                "check that the package `nftables` is installed: `nft list tables`"
            }
            NetError::Link { .. } | NetError::Neighbours(_) => {
                "check that the package `iproute2` is installed: `ip link`"
            }
            NetError::Io { .. } => "the daemon must run as root in the host's network namespace",
            NetError::Collision { .. } => "choose another private range in `[network]` of the configuration",
            NetError::NoResolver => "name a resolver as `dns` in `[network]` of the configuration",
        }
    }
}

impl From<NetError> for EngineError {
    fn from(error: NetError) -> Self {
        let hint = error.hint().to_owned();
        match error {
            NetError::Nft(source) => EngineError::Exec { doing: "change the firewall".to_owned(), source },
            NetError::Link { link, source } => {
                EngineError::Exec { doing: format!("set up the neighbours of the link `{link}`"), source }
            }
            NetError::Neighbours(source) => {
                EngineError::Exec { doing: "list the neighbours of containers".to_owned(), source }
            }
            NetError::Io { doing, source } => EngineError::Io { doing, source },
            other => EngineError::Missing { what: other.to_string(), hint },
        }
    }
}

/// What LXC runs in the namespaces of a container that it is about to make, before there are addresses: nobody else can
/// have an address of this link, so none is first tried for a second or two (`accept_dad` in the kernel's ip-sysctl),
/// in which the container could use no IPv6. Nothing from outside may ever be a part of this line.
const TRUST_ADDRESSES: &str =
    "/bin/sh -c 'for link in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $link; done; true'";

/// The names of all daemons' links begin with this.
const ANY_LINK: &str = "fl";

/// The slot of a link by its name, whichever daemon's. See [`Network::link`].
pub fn slot_of_link(name: &str) -> Option<u16> {
    let (instance, slot) = name.strip_prefix(ANY_LINK)?.split_at_checked(6)?;
    instance.bytes().all(is_hex).then(|| slot.parse().ok())?
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Where containers send everything; the host's end of the link answers for both.
const GATEWAY4: &str = "169.254.1.1";
const GATEWAY6: &str = "fe80::1";

impl Network {
    /// `instance` tells the daemons of a machine apart: six lower-case hexadecimal digits.
    pub fn new(instance: &str, config: NetConfig) -> Self {
        assert!(instance.len() == 6 && instance.bytes().all(is_hex), "an instance id is six hexadecimal digits");
        Self {
            instance: instance.to_owned(),
            config,
            wanted: AtomicBool::new(false),
            admitted: Mutex::default(),
            ways: std::sync::Mutex::default(),
            in_place: Mutex::default(),
            forwarder: Mutex::default(),
        }
    }

    /// The host's end of a container's link; 15 bytes at most, as the kernel wants it.
    pub fn link(&self, slot: Slot) -> String {
        format!("{}{}", self.prefix(), slot.index())
    }

    /// The network's lines of a container's LXC configuration.
    pub fn lxc_lines(&self, slot: Slot, addresses: &Addresses) -> String {
        let mut text = String::new();
        let mut set = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "lxc.net.0.{key} = {value}").expect("a string takes what is written");
        };
        set("type", &"veth");
        set("veth.mode", &"router");
        set("veth.pair", &self.link(slot));
        set("name", &"eth0");
        // Pinned, or the host's neighbour table sends to the address of the container's last run.
        set("hwaddr", &self.hwaddr(slot));
        if let Some(mtu) = host::uplink_mtu() {
            set("mtu", &mtu);
        }
        set("ipv4.address", &format_args!("{}/32", addresses.ipv4));
        set("ipv4.gateway", &GATEWAY4);
        if host::has_ipv6() {
            set("ipv6.address", &format_args!("{}/128", addresses.ipv6));
            set("ipv6.gateway", &GATEWAY6);
        }
        set("flags", &"up");
        if host::has_ipv6() {
            writeln!(text, "lxc.hook.pre-mount = {TRUST_ADDRESSES}").expect("a string takes what is written");
        }
        text
    }

    /// Waits until somebody else may have removed the table that is wanted.
    pub async fn removed(&self, removals: &Removals) -> Result<(), NetError> {
        loop {
            let heard = removals.of(&self.table()).await;
            heard.map_err(|source| NetError::Io { doing: "hear of changes of the firewall".into(), source })?;
            if self.wanted.load(Ordering::SeqCst) {
                return Ok(());
            }
        }
    }

    /// Makes the host a router and puts the table in place, with whatever is admitted left as it is.
    pub async fn install(&self) -> Result<(), NetError> {
        self.put(&Host::observe()?, None).await
    }

    /// The same, repeated since the host's addresses or resolvers may have changed. Gives the links that are admitted, and
    /// those over which the host and whoever is at their other end find each other.
    ///
    /// The table is left alone, and not looked at, where it is to be what it was and `removals` have heard of no change:
    /// both take time that grows with the number of containers.
    pub async fn renew(&self, removals: Option<&Removals>) -> Result<(BTreeSet<String>, BTreeSet<String>), NetError> {
        let host = Host::observe()?;
        self.put(&host, removals).await?;
        let neighbours = neighbours::complete(host::has_ipv6()).await.map_err(NetError::Neighbours)?;
        let introduced = &host.routed(&self.prefix()) & &neighbours;
        Ok((self.admitted.lock().await.keys().cloned().collect(), introduced))
    }

    async fn put(&self, host: &Host, removals: Option<&Removals>) -> Result<(), NetError> {
        self.check_collision(host)?;
        let resolvers = if self.config.dns.is_empty() { &host.resolvers } else { &self.config.dns };
        let translated = translatable(resolvers);
        let resolving = match translated.as_slice() {
            [] => Resolving::Carried { port: self.forward(resolvers).await? },
            some => Resolving::Translated(some),
        };
        host::route(host)?;
        self.wanted.store(true, Ordering::SeqCst);
        let mut admitted = self.admitted.lock().await;
        let table = self.table();
        let mut ruleset = ruleset::Ruleset {
            table: &table,
            links: &self.prefix(),
            resolving,
            containers: Slot::ends().map(|slot| slot.addresses(&self.config)),
            edge_ports: &self.config.edge_ports,
            on_link: &host.on_link(&self.prefix()),
            share: Share::observe(),
            new_share: false,
        };
        let mut in_place = self.in_place.lock().await;
        let is_new = |before: &InPlace| before.rules != ruleset.render();
        if removals.is_some_and(|removals| !removals.has_changed(&table)) && !in_place.as_ref().is_none_or(is_new) {
            return Ok(());
        }
        let before = in_place.take();
        ruleset.new_share = before.is_none_or(|before| before.share != ruleset.share);
        nft::apply(&ruleset.render()).await?;
        // By now the kernel has loaded what these rules need, and with it the settings.
        tracking::widen();
        let widened = Share::observe();
        if widened != ruleset.share {
            (ruleset.share, ruleset.new_share) = (widened, true);
            nft::apply(&ruleset.render()).await?;
        }
        ruleset.new_share = false;
        *in_place = Some(InPlace { share: widened, rules: ruleset.render() });
        if let Some(removals) = removals {
            removals.expect(&table);
        }
        *admitted = nft::admitted(&table).await?;
        self.take_up(&admitted);
        Ok(())
    }

    /// Lets a container's link carry what it may; everything it was allowed before and is not in `reach` is taken
    /// back. To be called before the container starts.
    pub async fn admit(&self, slot: Slot, addresses: &Addresses, reach: &Reach) -> Result<(), NetError> {
        let (link, allow) = (self.link(slot), reach.allow.iter().copied().collect());
        let ways = self.ways().get(&link).cloned().unwrap_or_default();
        self.change(link, Some(Admitted { sources: addresses.both().into(), allow, ways })).await
    }

    /// Makes both ends of a link find each other whose container has just started: the host answers for the gateways, and
    /// knows the container's hardware address, and the way there, without asking. For IPv6 it could not ask in the first second or two, in
    /// which its own end has no address to ask from.
    ///
    /// LXC says the former as well, but before it moves the other end into the container: the link then is without a
    /// carrier for a moment, and where the kernel looks in that moment (linkwatch, on a busy machine) it forgets what was
    /// to be answered for.
    pub async fn introduce(&self, slot: Slot, addresses: &Addresses) -> Result<(), NetError> {
        let (link, hwaddr) = (self.link(slot), self.hwaddr(slot));
        let mut pairs = vec![(GATEWAY4, IpAddr::from(addresses.ipv4))];
        if host::has_ipv6() {
            pairs.push((GATEWAY6, addresses.ipv6.into()));
        }
        let mut batch = String::new();
        for (gateway, address) in pairs {
            // LXC has made it, and somebody may have flushed it since, as the others.
            let _ = writeln!(batch, "route replace {address} dev {link}");
            let _ = writeln!(batch, "neigh replace proxy {gateway} dev {link}");
            let _ = writeln!(batch, "neigh replace {address} lladdr {hwaddr} dev {link} nud permanent");
        }
        let introduced = Cmd::new("ip").args(["-batch", "-"]).stdin(batch).run().await;
        introduced.map(drop).map_err(|source| NetError::Link { link, source })
    }

    /// The link of another container that has one of these addresses.
    pub fn rival(&self, slot: Slot, addresses: &Addresses) -> Result<Option<(IpAddr, String)>, NetError> {
        let (own, ours) = (self.link(slot), addresses.both());
        let is_single = |length: u8| [32, 128].contains(&length);
        let mut routes = Host::observe()?.routes.into_iter();
        let rival = routes.find(|route| {
            ours.contains(&route.to.address)
                && is_single(route.to.length)
                && slot_of_link(&route.link).is_some()
                && route.link != own
        });
        Ok(rival.map(|route| (route.to.address, route.link)))
    }

    /// From here on the link carries nothing, and nothing leads there.
    pub async fn dismiss(&self, slot: Slot) -> Result<(), NetError> {
        let link = self.link(slot);
        self.ways().remove(&link);
        self.change(link, None).await
    }

    /// Dismisses whoever is not among these.
    pub async fn dismiss_all_but(&self, slots: &BTreeSet<Slot>) -> Result<(), NetError> {
        let kept: BTreeSet<String> = slots.iter().map(|slot| self.link(*slot)).collect();
        for link in self.observe().await?.into_keys().filter(|link| !kept.contains(link)) {
            self.change(link, None).await?;
        }
        Ok(())
    }

    /// The links that containers have, whether they are admitted or not.
    pub fn links(&self) -> io::Result<BTreeSet<String>> {
        let names = std::fs::read_dir(host::LINKS)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        let ours = names.filter_map(|name: io::Result<_>| name.transpose());
        ours.filter(|name| name.as_ref().map_or(true, |name| name.starts_with(&self.prefix()))).collect()
    }

    /// The links that are admitted, with what they may reach beside the internet.
    pub async fn observe(&self) -> Result<BTreeMap<String, BTreeSet<SocketAddr>>, NetError> {
        let mut admitted = self.admitted.lock().await;
        *admitted = nft::admitted(&self.table()).await?;
        Ok(admitted.iter().map(|(link, admitted)| (link.clone(), admitted.allow.clone())).collect())
    }

    /// Removes the table. The host stays a router: others may rely on that by now.
    pub async fn uninstall(&self) -> Result<(), NetError> {
        self.wanted.store(false, Ordering::SeqCst);
        let mut admitted = self.admitted.lock().await;
        // Added first, since deleting what is not there is an error.
        nft::apply(&format!("add table inet {0}\ndelete table inet {0}\n", self.table())).await?;
        *self.in_place.lock().await = None;
        admitted.clear();
        Ok(())
    }

    async fn change(&self, link: String, wanted: Option<Admitted>) -> Result<(), NetError> {
        let mut admitted = self.admitted.lock().await;
        let script = |known: &BTreeMap<String, Admitted>| {
            elements::transaction(&self.table(), &[(&link, known.get(&link), wanted.as_ref())])
        };
        if nft::apply(&script(&admitted)).await.is_err() {
            // Somebody else has changed the table: look, and try once more.
            *admitted = nft::admitted(&self.table()).await?;
            nft::apply(&script(&admitted)).await?;
        }
        match wanted {
            Some(wanted) => admitted.insert(link, wanted),
            None => admitted.remove(&link),
        };
        Ok(())
    }

    /// Its name; the family is `inet`.
    pub fn table(&self) -> String {
        format!("flyloft_{}", self.instance)
    }

    /// What the names of this daemon's links begin with.
    fn prefix(&self) -> String {
        format!("fl{}", self.instance)
    }

    /// Locally administered, and the same whenever the container starts.
    fn hwaddr(&self, slot: Slot) -> String {
        let [high, low] = slot.index().to_be_bytes();
        let (a, b, c) = (&self.instance[..2], &self.instance[2..4], &self.instance[4..]);
        format!("02:{a}:{b}:{c}:{high:02x}:{low:02x}")
    }

    fn check_collision(&self, host: &Host) -> Result<(), NetError> {
        for first in [IpAddr::V4(self.config.ipv4), IpAddr::V6(self.config.ipv6)] {
            // Links of other daemons share the range; their routes are to single addresses of it.
            if let Some(route) = host.route_into(first) {
                let (route, link) = (route.to.to_string(), route.link.clone());
                return Err(NetError::Collision { first, route, link });
            }
        }
        Ok(())
    }

    /// Carries questions to these; gives the port that it takes them at.
    async fn forward(&self, resolvers: &[IpAddr]) -> Result<u16, NetError> {
        if resolvers.is_empty() {
            return Err(NetError::NoResolver);
        }
        let mut running = self.forwarder.lock().await;
        match running.as_ref() {
            Some(forwarder) if forwarder.resolvers() == resolvers => Ok(forwarder.port()),
            _ => {
                // The address is every daemon's of the machine, and nobody's to take away.
                let own = format!("{}/32", ruleset::RESOLVERS[0]);
                Cmd::new("ip").args(["address", "replace", &own, "dev", "lo"]).run().await?;
                let forwarder = Forwarder::start(resolvers).await;
                let forwarder = forwarder.map_err(|source| NetError::Io {
                    doing: "take questions for names from containers".into(),
                    source,
                })?;
                Ok(running.insert(forwarder).port())
            }
        }
    }
}

/// The resolvers that packets of a container can be sent to as they are.
fn translatable(resolvers: &[IpAddr]) -> Vec<Ipv4Addr> {
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => Some(*address),
        _ => None,
    };
    resolvers.iter().filter_map(usable).collect()
}

#[cfg(test)]
mod containers;
#[cfg(test)]
mod tests;
