//! The table as nftables reads it. Pure: from what is known about the host to text.
//!
//! Everything that gets into the text is an address, a number or a name of our own making.
//! Facts about hooks, priorities and expressions are from nft(8).

use std::fmt::Display;
use std::net::Ipv4Addr;

use flyloft_core::address::{CLOSED4, CLOSED6};
use flyloft_core::port::OUTGOING;

use super::ANY_LINK;
use super::host::Prefix;
use super::tracking::Share;
use crate::engine::Addresses;

pub struct Ruleset<'a> {
    pub table: &'a str,
    /// What the names of the links begin with.
    pub links: &'a str,
    pub resolving: Resolving<'a>,
    /// The first and the last address that a container can have, of all daemons.
    pub containers: [Addresses; 2],
    pub edge_ports: &'a [u16],
    /// Networks that the host is a part of.
    pub on_link: &'a [Prefix],
    /// Of the kernel's table of connections.
    pub share: Share,
    /// Whether the share may be another one than that of the table that is in place.
    pub new_share: bool,
}

/// What becomes of a question for a name.
pub enum Resolving<'a> {
    /// It goes straight to one of these, of which there is at least one.
    Translated(&'a [Ipv4Addr]),
    /// The daemon takes it at this port of [`RESOLVERS`]' first address.
    Carried { port: u16 },
}

/// Where containers find a resolver: the first and, if that does not answer, the second.
pub const RESOLVERS: [&str; 2] = ["169.254.1.1", "169.254.1.2"];

impl Ruleset<'_> {
    /// One transaction: what is admitted stays, everything else is as it is here.
    pub fn render(&self) -> String {
        let table = self.table;
        let mut text = format!("add table inet {table}\nflush table inet {table}\n\n{}\n", self.chains());
        if self.new_share {
            // What is in there judges by the numbers of its time.
            text.push_str(&format!("flush set inet {table} connections\nflush set inet {table} openings\n"));
        }
        let mut fill = |set: &str, elements: Vec<String>| {
            text.push_str(&format!("flush set inet {table} {set}\n"));
            if !elements.is_empty() {
                text.push_str(&format!("add element inet {table} {set} {{ {} }}\n", elements.join(", ")));
            }
        };
        let on_link = |v4: bool| self.on_link.iter().filter(move |prefix| prefix.address.is_ipv4() == v4);
        fill("closed4", CLOSED4.iter().map(strings).chain(on_link(true).map(strings)).collect());
        fill("closed6", CLOSED6.iter().map(strings).chain(on_link(false).map(strings)).collect());
        fill("edge_ports", self.edge_ports.iter().map(strings).collect());
        text.push_str(&format!("flush map inet {table} resolvers\n"));
        if let Resolving::Translated(resolvers) = self.resolving {
            let resolvers = RESOLVERS.iter().zip(resolvers.iter().cycle());
            let pairs: Vec<String> = resolvers.map(|(asked, real)| format!("{asked} : {real}")).collect();
            text.push_str(&format!("add element inet {table} resolvers {{ {} }}\n", pairs.join(", ")));
        }
        text
    }

    fn chains(&self) -> String {
        let Self { table, links, containers: [first, last], share, .. } = self;
        let Share { open, burst, rate } = share;
        let (first4, last4, first6, last6) = (first.ipv4, last.ipv4, first.ipv6, last.ipv6);
        let asked = RESOLVERS.join(", ");
        let (out_first, out_last) = OUTGOING.into_inner();
        let resolver = match self.resolving {
            Resolving::Translated(_) => "ip daddr map @resolvers".to_owned(),
            Resolving::Carried { port } => format!("{}:{port}", RESOLVERS[0]),
        };
        format!(
            r#"table inet {table} {{
	# Which addresses a link may send from. A link that is not in here carries nothing.
	set sources4 {{ type ifname . ipv4_addr; }}
	set sources6 {{ type ifname . ipv6_addr; }}
	# What a link may open, although it is closed to all.
	set reach4 {{ type ifname . ipv4_addr . inet_service; }}
	set reach6 {{ type ifname . ipv6_addr . inet_service; }}
	set closed4 {{ type ipv4_addr; flags interval; auto-merge; }}
	set closed6 {{ type ipv6_addr; flags interval; auto-merge; }}
	set edge_ports {{ type inet_service; }}
	# Ports of the host that lead to a container, what others may be connected to behind a link, and how much is said there.
	map doors4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
	map doors6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
	set open {{ type ifname . inet_proto . inet_service; }}
	set used {{ type ifname; counter; }}
	map resolvers {{ type ipv4_addr : ipv4_addr; }}
	set connections {{ type ifname; size 65535; flags dynamic; }}
	set openings {{ type ifname; size 65535; flags dynamic; }}

	chain spoofed {{
		type filter hook prerouting priority raw; policy accept;
		iifname != "{links}*" accept
		iifname . ip saddr @sources4 accept
		iifname . ip6 saddr @sources6 accept
		# Finding the gateway. Nothing else needs a link-local address.
		ip6 saddr {{ ::, fe80::/10 }} ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
		drop
	}}

	chain resolve {{
		type nat hook prerouting priority dstnat; policy accept;
		iifname "{links}*" ip daddr {{ {asked} }} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {resolver}
	}}

	# Who comes from outside to a port that is published. Containers have no business there, and the host goes by the daemon.
	chain arrive {{
		type nat hook prerouting priority dstnat; policy accept;
		iifname "lo" accept
		iifname "{ANY_LINK}*" accept
		fib daddr type != local accept
		meta l4proto {{ tcp, udp }} dnat ip to meta l4proto . th dport map @doors4
		ip6 saddr != fe80::/10 meta l4proto {{ tcp, udp }} dnat ip6 to meta l4proto . th dport map @doors6
	}}

	chain through {{
		type filter hook forward priority filter; policy accept;
		iifname "{links}*" goto outward
		oifname "{links}*" ct direction original ct status dnat goto guests
		# Otherwise only the host itself opens connections to a container.
		oifname "{links}*" ct state established,related accept
		oifname "{links}*" drop
		# A guest's container is gone: see what is said of that below.
		oifname != "{ANY_LINK}*" ct status dnat ip daddr {first4}-{last4} goto nowhere
		oifname != "{ANY_LINK}*" ct status dnat ip6 daddr {first6}-{last6} goto nowhere
	}}

	# What is said is counted, and what only keeps a connection open is not: that has no PSH.
	chain guests {{
		ct state related accept
		tcp flags & (syn | psh) != 0x0 oifname @used
		meta l4proto udp oifname @used
		oifname . meta l4proto . th dport @open accept
		# While the table is put back nobody is told that the port is closed.
		oifname . ip daddr @sources4 goto nowhere
		oifname . ip6 daddr @sources6 goto nowhere
		drop
	}}

	# The table of connections is the whole host's. Who opens too many too fast is kept waiting: packets are sent again.
	chain opening {{
		add @connections {{ iifname ct count over {open} }} reject with icmpx admin-prohibited
		add @openings {{ iifname limit rate over {rate}/second burst {burst} packets }} drop
	}}

	# Packets of connections that a container opened are judged one by one: none outlives what allowed it.
	chain outward {{
		ct direction reply ct state established,related accept
		ct state invalid drop
		ct state new jump opening
		ct status dnat ct original ip daddr {{ {asked} }} accept
		iifname . ip daddr . tcp dport @reach4 accept
		iifname . ip6 daddr . tcp dport @reach6 accept
		oifname "{links}*" reject with icmpx admin-prohibited
		ip daddr @closed4 reject with icmpx admin-prohibited
		ip6 daddr @closed6 reject with icmpx admin-prohibited
		# Whoever can send mail for everybody is soon on every list of spammers.
		tcp dport 25 reject with icmpx admin-prohibited
		accept
	}}

	chain inward {{
		type filter hook input priority filter; policy accept;
		iifname != "{links}*" accept
		ct direction reply ct state established,related accept
		ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
		ct state new jump opening
		ct status dnat ct original ip daddr {{ {asked} }} accept
		iifname . ip daddr . tcp dport @reach4 accept
		iifname . ip6 daddr . tcp dport @reach6 accept
		tcp dport @edge_ports accept
		reject with icmpx admin-prohibited
	}}

	# What is for a container that is gone has no route of its own. It must not look for somebody else by that address.
	chain astray {{
		type filter hook output priority filter; policy accept;
		oifname "{ANY_LINK}*" accept
		ip daddr {first4}-{last4} goto nowhere
		ip6 daddr {first6}-{last6} goto nowhere
	}}

	chain nowhere {{
		meta l4proto tcp reject with tcp reset
		reject with icmpx host-unreachable
	}}

	# A container that could choose from which of the host's ports it is heard would be answered what clients of a port that
	# is published say.
	chain leaving {{
		type nat hook postrouting priority srcnat; policy accept;
		iifname "{links}*" oifname != "{links}*" meta l4proto {{ tcp, udp }} masquerade to :{out_first}-{out_last}
		iifname "{links}*" oifname != "{links}*" masquerade
	}}
}}
"#
        )
    }
}

fn strings(value: impl Display) -> String {
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_like_this() {
        let on_link = [
            Prefix { address: [198, 51, 100, 0].into(), length: 24 },
            Prefix { address: std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0).into(), length: 64 },
        ];
        let ruleset = Ruleset {
            table: "flyloft_1f3a9c",
            links: "fl1f3a9c",
            resolving: Resolving::Translated(&[[192, 0, 2, 53].into(), [192, 0, 2, 54].into(), [192, 0, 2, 55].into()]),
            containers: [
                Addresses { ipv4: [10, 213, 0, 1].into(), ipv6: "fd66::1".parse().unwrap() },
                Addresses { ipv4: [10, 213, 16, 0].into(), ipv6: "fd66::1000".parse().unwrap() },
            ],
            edge_ports: &[80, 443],
            on_link: &on_link,
            share: Share { open: 2048, burst: 2048, rate: 68 },
            new_share: true,
        };
        insta::assert_snapshot!(ruleset.render());
    }
}
