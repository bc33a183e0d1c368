//! Which addresses are on the internet. One table: containers do not reach what is in it, and a repository does not send
//! the daemon there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Not the internet: the IANA special-purpose registry, and what clouds put their metadata on.
pub const CLOSED4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
];

/// The same for IPv6, with every way to write an IPv4 address as an IPv6 one that a gateway may translate back.
pub const CLOSED6: &[&str] = &[
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b:1::/48",
    "64:ff9b::/104",
    "64:ff9b::a00:0/104",
    "64:ff9b::6440:0/106",
    "64:ff9b::7f00:0/104",
    "64:ff9b::a83f:8110/128",
    "64:ff9b::a9fe:0/112",
    "64:ff9b::ac10:0/108",
    "64:ff9b::c0a8:0/112",
    "100::/64",
    "2001::/32",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// Whether none of the tables has it.
pub fn is_public(address: IpAddr) -> bool {
    let (bits, width, tables) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32, CLOSED4),
        IpAddr::V6(address) => (address.to_bits(), 128, CLOSED6),
    };
    !tables.iter().any(|prefix| {
        let (first, length) = parse(prefix);
        (bits ^ first) >> (width - length) == 0
    })
}

/// The first address of a prefix and its length.
fn parse(prefix: &str) -> (u128, u32) {
    let (first, length) = prefix.split_once('/').expect("the tables have prefixes");
    let v4 = first.parse().map(|first: Ipv4Addr| u128::from(first.to_bits()));
    let first = v4.unwrap_or_else(|_| first.parse::<Ipv6Addr>().expect("the tables have addresses").to_bits());
    (first, length.parse().expect("the tables have lengths"))
}

/// What counts as one client: an IPv4 address, or the network of an IPv6 one, which is all its own.
pub fn of_one(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
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
        for public in ["2606:50c0:8000::153", "2a00:1450::1", "64:ff9b::8c52:7903"] {
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
            "::ffff:140.82.121.3",
            "100::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }
}
