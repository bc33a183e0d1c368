//! What the host's network is like, read from `/proc`; and making the host a router.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::NetError;

/// Of this thread, whose network namespace is not the process's where a test has made one for itself.
const PROC_NET: &str = "/proc/thread-self/net";
const SYSCTL: &str = "/proc/sys/net";

/// A directory of each link.
pub const LINKS: &str = "/sys/class/net";

/// Addresses that containers may get, from the first on.
const RANGE: u32 = 4352;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: Prefix,
    pub link: String,
    /// Without a next hop: the host is part of that network.
    pub on_link: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Host {
    pub routes: Vec<Route>,
    /// As programs on the host use them, those of systemd-resolved aside, which has them from elsewhere.
    pub resolvers: Vec<IpAddr>,
}

impl Host {
    pub fn observe() -> Result<Self, NetError> {
        let mut routes = routes4(&read(&format!("{PROC_NET}/route"))?);
        if has_ipv6() {
            routes.extend(routes6(&read(&format!("{PROC_NET}/ipv6_route"))?));
        }
        Ok(Self { routes, resolvers: resolvers()? })
    }

    /// Networks that the host is a part of, its containers' links aside. A tunnel that carries half of the internet is
    /// on a link as well; that is no reason to close half of the internet.
    pub fn on_link(&self, own_links: &str) -> Vec<Prefix> {
        let is_neighbourhood = |route: &&Route| {
            let shortest = if route.to.address.is_ipv4() { 8 } else { 32 };
            route.on_link && route.to.length >= shortest && !route.link.starts_with(own_links) && route.link != "lo"
        };
        self.routes.iter().filter(is_neighbourhood).map(|route| route.to).collect()
    }

    /// The links, of those whose names begin so, by which the host reaches what is at their other end.
    pub fn routed(&self, own_links: &str) -> BTreeSet<String> {
        let leads = |ipv4: bool| -> BTreeSet<String> {
            let of_one = |route: &&Route| match route.to.address {
                IpAddr::V4(_) => ipv4 && route.to.length == 32,
                IpAddr::V6(address) => !ipv4 && route.to.length == 128 && !address.is_unicast_link_local(),
            };
            let ours = self.routes.iter().filter(|route| route.link.starts_with(own_links)).filter(of_one);
            ours.map(|route| route.link.clone()).collect()
        };
        let mut routed = leads(true);
        if has_ipv6() {
            let routed6 = leads(false);
            routed.retain(|link| routed6.contains(link));
        }
        routed
    }

    /// A route to a network that has addresses in the containers' range. What is routed in bulk, such as all of
    /// 10.0.0.0/8, is no network: routes to single containers go before it.
    pub fn route_into(&self, first: IpAddr) -> Option<&Route> {
        let last = match first {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().saturating_add(RANGE))),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().saturating_add(RANGE.into()))),
        };
        self.routes.iter().find(|route| {
            let lengths = if first.is_ipv4() { 12..32 } else { 40..128 };
            let is_network = lengths.contains(&route.to.length) && route.link != "lo";
            let (from, to) = route.to.bounds();
            is_network && first.is_ipv4() == route.to.address.is_ipv4() && from <= last && first <= to
        })
    }

    /// Links with a default route of IPv6.
    fn uplinks6(&self) -> impl Iterator<Item = &str> {
        let is_default = |route: &&Route| route.to.address.is_ipv6() && route.to.length == 0 && route.link != "lo";
        self.routes.iter().filter(is_default).map(|route| route.link.as_str())
    }
}

impl Prefix {
    /// The first and the last address.
    fn bounds(self) -> (IpAddr, IpAddr) {
        match self.address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                let bits = address.to_bits();
                (Ipv4Addr::from_bits(bits & !host).into(), Ipv4Addr::from_bits(bits | host).into())
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                let bits = address.to_bits();
                (Ipv6Addr::from_bits(bits & !host).into(), Ipv6Addr::from_bits(bits | host).into())
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Whether containers can have IPv6 addresses.
pub fn has_ipv6() -> bool {
    fs::read_to_string(format!("{SYSCTL}/ipv6/conf/default/disable_ipv6")).is_ok_and(|text| text.trim() == "0")
}

/// The largest packet that the way to the internet takes, where that is less than a link takes by itself.
pub fn uplink_mtu() -> Option<u32> {
    let routes = routes4(&fs::read_to_string(format!("{PROC_NET}/route")).ok()?);
    let uplink = routes.into_iter().find(|route| route.to.length == 0)?.link;
    let mtu: u32 = fs::read_to_string(format!("{LINKS}/{uplink}/mtu")).ok()?.trim().parse().ok()?;
    (1280..1500).contains(&mtu).then_some(mtu)
}

/// Makes the host forward packets. It must not lose its own IPv6 route by that: a router takes no routes from router
/// advertisements unless it is told to (`accept_ra` in the kernel's ip-sysctl).
pub fn route(host: &Host) -> Result<(), NetError> {
    if has_ipv6() {
        for link in host.uplinks6() {
            let accept = format!("ipv6/conf/{link}/accept_ra");
            if sysctl(&accept)? == "1" {
                set_sysctl(&accept, "2")?;
            }
        }
        set_sysctl("ipv6/conf/all/forwarding", "1")?;
    }
    // Else a container's first packet waits up to 0.8 s until the host answers for the gateway. Only the machine's
    // first network namespace has this default for links to come.
    for family in ["ipv4", "ipv6"] {
        let delay = format!("{family}/neigh/default/proxy_delay");
        if Path::new(SYSCTL).join(&delay).exists() {
            set_sysctl(&delay, "0")?;
        }
    }
    set_sysctl("ipv4/ip_forward", "1")
}

fn sysctl(name: &str) -> Result<String, NetError> {
    Ok(read(&format!("{SYSCTL}/{name}"))?.trim().to_owned())
}

/// Only where it differs: writing `ip_forward` resets other settings of the kernel, even if it is the same.
fn set_sysctl(name: &str, value: &str) -> Result<(), NetError> {
    if sysctl(name)? == value {
        return Ok(());
    }
    let path = format!("{SYSCTL}/{name}");
    fs::write(&path, value).map_err(|source| NetError::Io { doing: format!("write `{value}` to `{path}`"), source })
}

fn read(path: &str) -> Result<String, NetError> {
    fs::read_to_string(path).map_err(|source| NetError::Io { doing: format!("read `{path}`"), source })
}

fn resolvers() -> Result<Vec<IpAddr>, NetError> {
    let own = nameservers(&read("/etc/resolv.conf")?);
    let behind = Path::new("/run/systemd/resolve/resolv.conf");
    if own.iter().all(IpAddr::is_loopback) && behind.exists() {
        return Ok(nameservers(&read(&behind.to_string_lossy())?));
    }
    Ok(own)
}

/// The `nameserver` lines of a resolv.conf(5), without those that only mean something on the host's own links.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(|line| address(line.trim())).collect()
}

/// `/proc/net/route`, see proc(5): addresses are hexadecimal numbers in the machine's byte order.
fn routes4(text: &str) -> Vec<Route> {
    let number = |field: Option<&&str>| u32::from_str_radix(field?, 16).ok();
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = Ipv4Addr::from(number(fields.get(1))?.to_ne_bytes());
        let mask = u32::from_be_bytes(number(fields.get(7))?.to_ne_bytes());
        let to = Prefix { address: address.into(), length: mask.count_ones() as u8 };
        Some(Route { to, link: (*fields.first()?).to_owned(), on_link: number(fields.get(2))? == 0 })
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// `/proc/net/ipv6_route`: destination, its length, source, its length, next hop, metric, two counts, flags, link.
fn routes6(text: &str) -> Vec<Route> {
    let address = |field: Option<&&str>| Some(Ipv6Addr::from_bits(u128::from_str_radix(field?, 16).ok()?));
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        let to = Prefix { address: address(fields.first())?.into(), length };
        let on_link = address(fields.get(4))?.is_unspecified();
        Some(Route { to, link: (*fields.get(9)?).to_owned(), on_link })
    };
    text.lines().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
fl1f3a9c6\t0700D50A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
br0\t0080D50A\t00000000\t0001\t0\t0\t0\t0080FFFF\t0\t0\t0
";

    const ROUTE6: &str = "\
20010db8000100000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    fn host() -> Host {
        Host { routes: routes4(ROUTE4).into_iter().chain(routes6(ROUTE6)).collect(), resolvers: Vec::new() }
    }

    #[test]
    fn what_the_host_is_part_of_is_closed_and_the_internet_is_not() {
        let on_link: Vec<String> = host().on_link("fl1f3a9c").iter().map(Prefix::to_string).collect();
        assert_eq!(on_link, ["192.0.2.0/24", "10.213.128.0/17", "2001:db8:1::/64"]);
    }

    #[test]
    fn a_network_with_our_addresses_is_a_collision_and_a_link_of_ours_is_none() {
        let into = |first: &str| host().route_into(first.parse().unwrap()).map(|route| route.link.clone());
        assert_eq!(into("10.213.0.0"), None);
        assert_eq!(into("10.213.120.0"), Some("br0".to_owned()));
        assert_eq!(into("10.214.0.0"), None);
        assert_eq!(into("2001:db8:1::"), Some("eth0".to_owned()));
        assert_eq!(into("fd66:6c79:6c66::"), None);
    }

    #[test]
    fn the_uplink_is_where_the_default_route_goes() {
        assert_eq!(host().uplinks6().collect::<Vec<_>>(), ["eth0"]);
    }

    #[test]
    fn only_addresses_that_are_addresses_are_name_servers() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.53\n nameserver\t2001:db8::53\nnameserver fe80::1%eth0\n";
        assert_eq!(nameservers(text), ["192.0.2.53".parse::<IpAddr>().unwrap(), "2001:db8::53".parse().unwrap()]);
    }
}
