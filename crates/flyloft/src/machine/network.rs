//! The way out: uplinks of both families, forwarding, name resolution, and firewalls that others set up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::net::UdpSocket;

use super::{read, read_number};
use crate::exec::{Cmd, ExecError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The interface of the default route.
    pub ipv4: Option<Uplink>,
    pub ipv6: Option<Uplink>,
    /// Resolvers that containers are pointed to.
    pub resolvers: Vec<Resolver>,
    /// Chains of others that drop what is not allowed.
    pub dropping: Vec<Chain>,
    /// Whether `nft` can talk to the kernel; `None` when that was not tried: it is not there, or this is not root.
    pub nftables: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub interface: String,
    /// Whether the kernel forwards packets of this family.
    pub forwards: bool,
    /// The kernel's own reading of router advertisements (ip-sysctl): 0 never, 1 unless it forwards, 2 always.
    pub accept_ra: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    pub address: IpAddr,
    pub answers: bool,
}

/// A base chain with policy `drop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub family: String,
    pub table: String,
    pub name: String,
    /// `input` or `forward`.
    pub hook: String,
}

const PATIENCE: Duration = Duration::from_secs(2);

impl Network {
    /// `dns` are the resolvers that the configuration names; without any, the machine's own count.
    pub async fn look(dns: &[IpAddr]) -> Self {
        let addresses = if dns.is_empty() { upstream_resolvers() } else { dns.to_vec() };
        let asking = addresses.into_iter().map(|address| async move {
            let answer = tokio::time::timeout(PATIENCE, ask(SocketAddr::new(address, 53))).await;
            Resolver { address, answers: matches!(answer, Ok(Ok(true))) }
        });
        let ruleset = Cmd::new("nft").args(["-j", "list", "ruleset"]).timeout(Duration::from_secs(10));
        let (resolvers, ruleset) = tokio::join!(futures_util::future::join_all(asking), ruleset.run());
        let root = nix::unistd::geteuid().is_root();
        Self {
            ipv4: ipv4_uplink(&read("/proc/net/route")).map(|interface| Uplink {
                interface,
                forwards: read_number("/proc/sys/net/ipv4/ip_forward") == Some(1),
                accept_ra: None,
            }),
            ipv6: ipv6_uplink(&read("/proc/net/ipv6_route")).map(|interface| Uplink {
                forwards: read_number("/proc/sys/net/ipv6/conf/all/forwarding") == Some(1),
                accept_ra: read_number(format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra")),
                interface,
            }),
            resolvers,
            nftables: match &ruleset {
                Err(ExecError::Start { .. }) => None,
                tried => root.then_some(tried.is_ok()),
            },
            dropping: ruleset.map(|output| dropping(&output.stdout)).unwrap_or_default(),
        }
    }
}

/// The interface of the default route in `/proc/net/route`: destination and mask are zero.
fn ipv4_uplink(table: &str) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (interface, destination, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
        (*destination == "00000000" && *mask == "00000000").then(|| (*interface).to_owned())
    })
}

/// The same in `/proc/net/ipv6_route`: a prefix of length 0 that is not the catch-all of the loopback interface.
fn ipv6_uplink(table: &str) -> Option<String> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (length, interface) = (fields.get(1)?, fields.get(9)?);
        (*length == "00" && *interface != "lo").then(|| (*interface).to_owned())
    })
}

/// The resolvers that the machine asks in the end: those behind systemd-resolved's stub where that is in use.
pub fn upstream_resolvers() -> Vec<IpAddr> {
    let of = |path: &str| -> Vec<IpAddr> { nameservers(&read(path)) };
    let direct = of("/etc/resolv.conf");
    if direct.iter().all(IpAddr::is_loopback) {
        let behind = of("/run/systemd/resolve/resolv.conf");
        if !behind.is_empty() {
            return behind;
        }
    }
    direct
}

/// The `nameserver` lines of resolv.conf(5), without zone ids.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().split('%').next()?.parse().ok();
    text.lines().filter_map(address).collect()
}

/// Asks for the name servers of the root, which every resolver knows, and takes any answer to the question for one.
async fn ask(resolver: SocketAddr) -> std::io::Result<bool> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(resolver).await?;
    // RFC 1035, 4.1: id, recursion desired, one question; the root; type NS, class IN.
    let question = [0xf1, 0x0f, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    socket.send(&question).await?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await?;
    Ok(length >= 12 && answer[..2] == question[..2] && answer[2] & 0x80 != 0)
}

/// Base chains on `input` or `forward` with policy `drop`, in tables that are not ours, out of `nft -j list ruleset`.
/// One that lets our links through both ways is none of them.
fn dropping(ruleset: &[u8]) -> Vec<Chain> {
    let ruleset: Value = serde_json::from_slice(ruleset).unwrap_or_default();
    let items = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chain = |item: &Value| {
        let chain = &item["chain"];
        let text = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
        let found = Chain { family: text("family"), table: text("table"), name: text("name"), hook: text("hook") };
        let relevant = matches!(&*found.hook, "input" | "forward") && chain["policy"] == "drop";
        let passes = lets_through(items, chain, "iifname") && lets_through(items, chain, "oifname");
        (relevant && !passes && !found.table.starts_with("flyloft")).then_some(found)
    };
    items.iter().filter_map(chain).collect()
}

/// Whether a rule of this chain accepts what comes from (`iifname`) or goes to (`oifname`) the links of environments.
fn lets_through(items: &[Value], chain: &Value, direction: &str) -> bool {
    let of_chain = |rule: &&Value| {
        rule["family"] == chain["family"] && rule["table"] == chain["table"] && rule["chain"] == chain["name"]
    };
    let accepts = |rule: &Value| {
        let expressions = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ours = |expression: &Value| {
            let compared = &expression["match"];
            compared["left"]["meta"]["key"] == direction
                && compared["op"] == "=="
                && compared["right"].as_str().is_some_and(|links| links.starts_with("fl") && links.ends_with('*'))
        };
        expressions.iter().any(ours) && expressions.iter().any(|expression| expression.get("accept").is_some())
    };
    items.iter().filter_map(|item| item.get("rule")).filter(of_chain).any(accepts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uplink_is_the_interface_of_the_default_route() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     ens4\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
                     ens3\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\n";
        assert_eq!(ipv4_uplink(table).as_deref(), Some("ens3"));
        let zero = "00000000000000000000000000000000";
        let table = format!(
            "fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth1\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             {zero} 00 {zero} 00 fe800000000000000000000000000002 00000400 00000002 00000000 00450003     eth0\n"
        );
        assert_eq!(ipv6_uplink(&table).as_deref(), Some("eth0"));
        assert_eq!(ipv6_uplink(&table[..table.len() / 3]), None);
    }

    #[test]
    fn resolvers_are_read_without_zones_and_options() {
        let text = "# by hand\noptions edns0\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\nsearch example.org\n";
        assert_eq!(nameservers(text), ["9.9.9.9".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }

    #[test]
    fn only_dropping_chains_of_others_are_found() {
        let ruleset = br#"{"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "ip", "name": "filter"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "fw", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}},
            {"chain": {"family": "inet", "table": "flyloft-a1", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "fw", "name": "helper"}}]}"#;
        let found = dropping(ruleset);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&*found[0].table, &*found[0].hook), ("filter", "forward"));
        assert_eq!(dropping(b"not json"), []);
    }

    #[test]
    fn a_dropping_chain_that_lets_environments_through_both_ways_is_no_trouble() {
        let chain =
            r#"{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}}"#;
        let rule = |key: &str| {
            format!(
                r#"{{"rule": {{"family": "ip", "table": "filter", "chain": "FORWARD", "expr": [
                    {{"match": {{"op": "==", "left": {{"meta": {{"key": "{key}"}}}}, "right": "fl*"}}}}, {{"accept": null}}]}}}}"#
            )
        };
        let (out, back) = (rule("iifname"), rule("oifname"));
        let found = |items: &[&str]| dropping(format!(r#"{{"nftables": [{}]}}"#, items.join(",")).as_bytes()).len();
        assert_eq!(found(&[chain, &out, &back]), 0);
        assert_eq!(found(&[chain, &out]), 1, "no answer comes back");
        assert_eq!(found(&[chain, &out, &back.replace("accept", "drop")]), 1);
    }

    #[tokio::test]
    async fn a_resolver_that_answers_is_told_from_one_that_is_not_there() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let answering = async {
            let mut question = [0; 512];
            let (length, from) = server.recv_from(&mut question).await.unwrap();
            question[2] |= 0x80;
            server.send_to(&question[..length], from).await.unwrap();
        };
        let (answered, ()) = tokio::join!(ask(address), answering);
        assert!(answered.unwrap());
        drop(server);
        assert!(ask(address).await.is_err(), "the port is closed");
    }
}
