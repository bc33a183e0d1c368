//! Address ranges in CIDR notation, out of which containers get their addresses.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// A private IPv4 range (RFC 1918 or RFC 6598) with room for at least 254 containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ipv4Prefix {
    pub address: Ipv4Addr,
    pub length: u8,
}

/// A range of unique local addresses (RFC 4193).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ipv6Prefix {
    pub address: Ipv6Addr,
    pub length: u8,
}

impl Ipv4Prefix {
    /// Out of the middle of 10.0.0.0/8, where home routers, clouds and Docker do not give out addresses by default.
    pub const DEFAULT: Self = Self { address: Ipv4Addr::new(10, 213, 0, 0), length: 16 };

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask32(self.length) == self.address.to_bits()
    }
}

impl Ipv6Prefix {
    /// The global id `66:6c79:6c66` is as good as a random one (RFC 4193, 3.2.1): nobody routes it.
    pub const DEFAULT: Self = Self { address: Ipv6Addr::new(0xfd66, 0x6c79, 0x6c66, 0, 0, 0, 0, 0), length: 64 };

    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask128(self.length) == self.address.to_bits()
    }
}

fn mask32(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask128(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Ipv4Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = split::<Ipv4Addr>(text)?;
        if !(8..=24).contains(&length) {
            return Err(format!("`{text}` must be between /8 and /24"));
        }
        let [a, b, ..] = address.octets();
        let shared = a == 100 && (64..128).contains(&b);
        if !address.is_private() && !shared {
            return Err(format!("`{text}` is not a private range (RFC 1918)"));
        }
        let prefix = Self { address, length };
        if prefix.contains(address) { Ok(prefix) } else { Err(format!("`{text}` has bits set after its length")) }
    }
}

impl FromStr for Ipv6Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = split::<Ipv6Addr>(text)?;
        if !(7..=112).contains(&length) {
            return Err(format!("`{text}` must be between /7 and /112"));
        }
        if address.octets()[0] & 0xfe != 0xfc {
            return Err(format!("`{text}` is not a range of unique local addresses (fc00::/7)"));
        }
        let prefix = Self { address, length };
        if prefix.contains(address) { Ok(prefix) } else { Err(format!("`{text}` has bits set after its length")) }
    }
}

fn split<A: FromStr>(text: &str) -> Result<(A, u8), String> {
    let refuse = || format!("`{text}` is not of the form ADDRESS/LENGTH");
    let (address, length) = text.split_once('/').ok_or_else(refuse)?;
    Ok((address.parse().map_err(|_| refuse())?, length.parse().map_err(|_| refuse())?))
}

macro_rules! text {
    ($($type:ident),*) => {$(
        impl TryFrom<String> for $type {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> { text.parse() }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}/{}", self.address, self.length) }
        }
    )*};
}
text!(Ipv4Prefix, Ipv6Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_private_aligned_and_large_enough() {
        assert_eq!("10.213.0.0/16".parse(), Ok(Ipv4Prefix::DEFAULT));
        assert_eq!("fd66:6c79:6c66::/64".parse(), Ok(Ipv6Prefix::DEFAULT));
        for wrong in ["10.213.0.0", "10.213.0.0/33", "10.213.1.0/16", "8.8.0.0/16", "10.213.0.0/30", "/16"] {
            wrong.parse::<Ipv4Prefix>().expect_err(wrong);
        }
        for wrong in ["fd66::", "2001:db8::/64", "fd66::1/64", "fd66::/120", "fd66::/129"] {
            wrong.parse::<Ipv6Prefix>().expect_err(wrong);
        }
    }

    #[test]
    fn a_prefix_knows_its_addresses() {
        assert!(Ipv4Prefix::DEFAULT.contains(Ipv4Addr::new(10, 213, 255, 1)));
        assert!(!Ipv4Prefix::DEFAULT.contains(Ipv4Addr::new(10, 214, 0, 1)));
        assert!(Ipv6Prefix::DEFAULT.contains("fd66:6c79:6c66::7".parse().unwrap()));
        assert!(!Ipv6Prefix::DEFAULT.contains("fd66:6c79:6c66:1::7".parse().unwrap()));
    }
}
