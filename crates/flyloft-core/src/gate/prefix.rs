//! Ranges of addresses in CIDR notation, of both families.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

use crate::name::excerpt;

/// All addresses whose first `length` bits are those of `address`. A single address is a range of its full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    #[error("`{0}` is no range of addresses such as `203.0.113.0/24`, `2001:db8::/32` or `203.0.113.7`")]
    Malformed(String),
    #[error("`{0}` has bits set after its length; the range is `{1}`")]
    Rest(String, Prefix),
}

impl Prefix {
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        let malformed = || PrefixError::Malformed(excerpt(text));
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| malformed())?;
        // Clients that come over IPv4 are known by their IPv4 address (RFC 4291 section 2.5.5.2), so it is one here.
        let address = written.to_canonical();
        let mapped = bits(written).1 - bits(address).1;
        let length = match length {
            None => bits(address).1,
            Some(length) if length.len() <= 3 && length.bytes().all(|digit| digit.is_ascii_digit()) => {
                let length = length.parse::<u8>().ok().and_then(|length| length.checked_sub(mapped));
                length.filter(|length| *length <= bits(address).1).ok_or_else(malformed)?
            }
            Some(_) => return Err(malformed()),
        };
        let first = Self { address, length }.first();
        match first == address {
            true => Ok(Self { address, length }),
            false => Err(PrefixError::Rest(excerpt(text), Self { address: first, length })),
        }
    }

    /// An IPv4 address that is written as one of IPv6 is an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && Self { address, ..*self }.first() == self.address
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    fn first(&self) -> IpAddr {
        let (value, width) = bits(self.address);
        let rest = u32::from(width - self.length);
        let value = value.checked_shr(rest).and_then(|value| value.checked_shl(rest)).unwrap_or(0);
        match self.address {
            IpAddr::V4(_) => IpAddr::V4((value as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(value.into()),
        }
    }
}

/// An address as a number, and of how many bits.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length == bits(self.address).1 {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_where_one_is_in_the_other() {
        let overlap = |one: &str, other: &str| {
            let (one, other) = (Prefix::parse(one).unwrap(), Prefix::parse(other).unwrap());
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        assert!(
            overlap("10.0.0.0/8", "10.213.0.0/16")
                && overlap("10.213.0.5", "10.213.0.0/16")
                && overlap("::/0", "fd00::1")
        );
        assert!(!overlap("10.212.0.0/16", "10.213.0.0/16") && !overlap("0.0.0.0/0", "::/0"));
    }

    #[test]
    fn a_range_holds_the_addresses_that_begin_like_it_and_no_others() {
        for (prefix, within, without) in [
            ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
            ("203.0.113.7", "203.0.113.7", "203.0.113.6"),
            ("203.0.113.7", "::ffff:203.0.113.7", "::203.0.113.7"),
            ("::ffff:203.0.113.0/120", "203.0.113.9", "203.0.112.9"),
            ("0.0.0.0/0", "198.51.100.1", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::/0", "2001:db8::1", "203.0.113.7"),
        ] {
            let prefix = Prefix::parse(prefix).unwrap();
            assert!(prefix.contains(within.parse().unwrap()), "{prefix} {within}");
            assert!(!prefix.contains(without.parse().unwrap()), "{prefix} {without}");
            assert_eq!(Prefix::parse(&prefix.to_string()), Ok(prefix));
        }
    }

    #[test]
    fn what_is_no_range_is_refused_and_a_range_that_is_meant_is_named() {
        for text in [
            "",
            "/",
            "203.0.113.0/",
            "203.0.113.0/33",
            "203.0.113.0/+8",
            "203.0.113/24",
            "2001:db8::/129",
            "::ffff:1.2.3.4/95",
            "[::1]",
            "fe80::1%eth0",
            "localhost",
        ] {
            assert!(matches!(Prefix::parse(text), Err(PrefixError::Malformed(_))), "{text}");
        }
        let error = Prefix::parse("203.0.113.7/24").unwrap_err();
        assert_eq!(error.to_string(), "`203.0.113.7/24` has bits set after its length; the range is `203.0.113.0/24`");
    }
}
