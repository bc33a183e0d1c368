//! Where a repository may send the daemon for its submodules: to hosts on the internet, and to the host that it comes
//! from itself. Whoever writes a `.gitmodules` file is not to look around in the server's own network through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::remote::{RemoteUrl, Scheme};
use super::{Refusal, Repositories, SourceError};

impl Repositories {
    /// Looks a foreign host up, and gives its addresses if all are on the internet: git is held to these, so that a
    /// second look cannot come to another answer. None at all where a proxy looks it up, or where there is no need to.
    pub(super) async fn addresses(&self, url: &RemoteUrl, own: Option<&RemoteUrl>) -> Result<Vec<IpAddr>, SourceError> {
        if own.is_some_and(|own| own.authority() == url.authority()) || url.scheme == Scheme::Http {
            return Ok(Vec::new());
        }
        let private = || SourceError::PrivateHost(url.authority());
        if let Ok(address) = url.host.parse::<IpAddr>() {
            return if is_public(address) { Ok(Vec::new()) } else { Err(private()) };
        }
        if url.host == "localhost" || url.host.ends_with(".localhost") {
            return Err(private());
        }
        if self.outward.iter().any(|(variable, _)| ["https_proxy", "all_proxy"].contains(variable)) {
            return Ok(Vec::new());
        }
        let port = url.port.unwrap_or(443);
        let found = tokio::net::lookup_host((url.host.as_str(), port)).await;
        let unknown = |_| SourceError::Remote { url: url.to_string(), why: Refusal::UnknownHost };
        let found: Vec<IpAddr> = found.map_err(unknown)?.map(|address| address.ip()).collect();
        let own = own_addresses();
        let outside = |address: &IpAddr| is_public(*address) && !own.contains(address);
        if found.iter().all(outside) { Ok(found) } else { Err(private()) }
    }
}

/// For `http.curloptResolve`, see git-config(1).
pub(super) fn held_to(url: &RemoteUrl, addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        })
        .collect();
    format!("{}:{}:{}", url.host, url.port.unwrap_or(443), addresses.join(","))
}

/// What the server answers at itself.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    all.filter_map(address).collect()
}

/// By the IANA registries of special-purpose addresses, and what clouds put their metadata on.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let reserved = match a {
        0 | 10 | 127 | 224.. => true,
        100 => b & 0xc0 == 64,
        168 => address == Ipv4Addr::new(168, 63, 129, 16),
        169 => b == 254,
        172 => b & 0xf0 == 16,
        192 => b == 168 || address.octets()[..3] == [192, 0, 0],
        198 => b & 0xfe == 18,
        _ => false,
    };
    !reserved
}

/// Global unicast, without the parts of it that lead elsewhere (Teredo, documentation).
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    a & 0xe000 == 0x2000 && !(a == 0x2001 && (b < 0x0200 || b == 0x0db8))
}

/// The IPv4 address that an IPv6 one stands for: mapped, translated (NAT64) or 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, ..] = address.segments();
    let last = Ipv4Addr::from_bits(address.to_bits() as u32);
    match (a, b) {
        (0x64, 0xff9b) => Some(last),
        (0x2002, _) => Some(Ipv4Addr::from_bits(u32::from(b) << 16 | u32::from(c))),
        _ => address.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for public in ["140.82.121.3", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "192.1.0.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for public in ["2606:50c0:8000::153", "2a00:1450::1", "64:ff9b::8c52:7903", "::ffff:140.82.121.3"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.170",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "::",
            "::1",
            "::7f00:1",
            "fe80::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "100::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn git_is_held_to_the_addresses_that_were_looked_at() {
        let url = RemoteUrl::parse("https://git.example.com:8443/shop").unwrap();
        let addresses = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(held_to(&url, &addresses), "git.example.com:8443:192.0.2.7,[2001:db8::7]");
    }
}
