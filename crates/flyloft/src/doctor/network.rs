//! The way in and out: uplinks, forwarding, name resolution, other firewalls.

use super::Check;
use crate::machine::Machine;
use crate::machine::network::{Chain, Resolver, Uplink};

pub fn judge(machine: &Machine) -> Vec<Check> {
    let network = &machine.network;
    let mut checks = vec![
        uplink("IPv4", network.ipv4.as_ref()),
        uplink("IPv6", network.ipv6.as_ref()),
        resolvers(&network.resolvers),
    ];
    if network.nftables == Some(false) {
        checks.push(Check::problem(
            "firewall",
            "`nft` cannot talk to the kernel, so that nothing would separate environments",
            "modprobe nf_tables",
        ));
    }
    checks.extend(network.dropping.iter().map(dropping));
    checks
}

fn uplink(family: &'static str, uplink: Option<&Uplink>) -> Check {
    let Some(Uplink { interface, forwards, accept_ra }) = uplink else {
        let what =
            format!("the machine has no default route for {family}: environments cannot reach the outside by it");
        return if family == "IPv4" {
            Check::warning(family, what, "give it an IPv4 address and a gateway, if builds need it")
        } else {
            Check::warning(family, what, "ask whoever runs its network for an IPv6 address, if apps need it")
        };
    };
    if *forwards && *accept_ra == Some(1) {
        return Check::problem(
            family,
            format!("{interface} ignores router advertisements since the kernel forwards: its route will expire"),
            format!("sysctl -w net.ipv6.conf.{}.accept_ra=2", interface.replace('.', "/")),
        );
    }
    if *forwards {
        Check::ok(family, format!("out by {interface}, and packets of environments are forwarded"))
    } else {
        Check::warning(
            family,
            format!(
                "out by {interface}, but packets of environments are not forwarded; the daemon will switch that on"
            ),
            "flyloft setup",
        )
    }
}

fn resolvers(resolvers: &[Resolver]) -> Check {
    let remedy = "mend /etc/resolv.conf, or name resolvers with network.dns in the configuration";
    if resolvers.is_empty() {
        return Check::problem("DNS", "the machine knows no resolver: no build can fetch anything", remedy);
    }
    let names = |answers: bool| -> Vec<String> {
        resolvers.iter().filter(|r| r.answers == answers).map(|r| r.address.to_string()).collect()
    };
    let (good, silent) = (names(true), names(false));
    if good.is_empty() {
        Check::problem("DNS", format!("{} gives no answer", silent.join(" nor ")), remedy)
    } else if resolvers.iter().all(|resolver| resolver.address.is_loopback()) {
        Check::problem(
            "DNS",
            format!("the only resolver is {}, which containers cannot reach", good.join(", ")),
            "name its upstream with network.dns in the configuration",
        )
    } else if !silent.is_empty() {
        Check::warning("DNS", format!("{} answers, {} does not", good.join(", "), silent.join(", ")), remedy)
    } else {
        Check::ok("DNS", format!("{} answers", good.join(", ")))
    }
}

/// Docker and ufw do so on `forward`, and our own table cannot let through what another drops.
fn dropping(chain: &Chain) -> Check {
    let Chain { family, table, name, hook } = chain;
    let (what, allowed) = match hook.as_str() {
        "forward" => (
            "environments reach nothing outside, and builds fetch nothing",
            &["iifname \"fl*\" accept", "oifname \"fl*\" ct state established,related accept"][..],
        ),
        _ => ("visitors and pushes are perhaps not among it", &["tcp dport { 80, 443, 2222 } accept"][..]),
    };
    let insert = |rule: &&str| format!("nft insert rule {family} {table} {name} {rule}");
    Check::warning(
        "firewall",
        format!("chain `{name}` of table `{family} {table}` drops all that it was not told to let through: {what}"),
        allowed
            .iter()
            .map(insert)
            .chain(["and the same where that firewall keeps its rules".to_owned()])
            .collect::<Vec<_>>()
            .join("\n"),
    )
}
