//! Proxies before the edge, a load balancer for example, that are believed in what they say of their clients: in
//! `X-Forwarded-For` with each request, or by the PROXY protocol of HAProxy's at the beginning of each connection.

use std::io;
use std::net::IpAddr;

use flyloft_core::gate::Prefix;
use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What either version begins with, at least.
const FIRST: usize = 12;
const SIGNATURE: &[u8; FIRST] = b"\r\n\r\n\0\r\nQUIT\n";

/// A line of version 1, with its end.
const LINE_MAX: usize = 107;

/// What version 2 may have after its first 16 bytes. Addresses take 36 (216 for those of unix sockets), the rest are
/// remarks.
const REST_MAX: usize = 2048;

/// Who is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    pub trusted: Vec<Prefix>,
    /// Whether they speak the PROXY protocol.
    pub introduce: bool,
    /// Where clients come to one of them over TLS, if all of them are to.
    pub tls_port: Option<u16>,
}

impl Proxies {
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|range| range.contains(address))
    }

    /// Whether an address as it stands in `X-Forwarded-For` is that of one of them.
    pub fn name(&self, told: &[u8]) -> bool {
        std::str::from_utf8(told).ok().and_then(parse).is_some_and(|address| self.trusts(address))
    }

    /// The client, out of what stands in `X-Forwarded-For`: whoever the last of them has seen that is no proxy of ours.
    /// What stands before that a client may have made up.
    pub fn client<'a>(&self, told: impl DoubleEndedIterator<Item = &'a [u8]>) -> Option<IpAddr> {
        let mut last = None;
        for address in told.rev() {
            let text = std::str::from_utf8(address).ok()?;
            let Some(address) = parse(text) else { return last };
            last = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        last
    }
}

/// An address, also one with a port, as some write it.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| Some(text.parse::<std::net::SocketAddr>().ok()?.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

/// Who is introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduced {
    pub address: IpAddr,
    /// It speaks TLS with the proxy, as version 2 can tell.
    pub over_tls: bool,
}

/// Reads the introduction of a connection, and no further. None where a proxy speaks for itself.
pub async fn introduced(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Introduced>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut header = vec![0; FIRST];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(16, 0);
        stream.read_exact(&mut header[FIRST..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if rest > REST_MAX {
            return Err(wrong("an introduction that is too long"));
        }
        header.resize(16 + rest, 0);
        stream.read_exact(&mut header[16..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() == LINE_MAX {
                return Err(wrong("an introduction that is too long"));
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(wrong("a connection without an introduction"));
    }
    let parsed = HeaderResult::parse(&header);
    let over_tls = matches!(&parsed, HeaderResult::V2(Ok(header)) if header.tlvs().flatten().any(|told| is_tls(&told)));
    let address = match parsed {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            v1::Addresses::Tcp4(addresses) => Some(IpAddr::from(addresses.source_address)),
            v1::Addresses::Tcp6(addresses) => Some(IpAddr::from(addresses.source_address)),
            v1::Addresses::Unknown => None,
        },
        HeaderResult::V2(Ok(header)) => match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => Some(IpAddr::from(addresses.source_address)),
            (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => Some(IpAddr::from(addresses.source_address)),
            _ => None,
        },
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return Err(wrong("an introduction that is none")),
    };
    Ok(address.map(|address| Introduced { address: address.to_canonical(), over_tls }))
}

/// `PP2_TYPE_SSL` with the bit `PP2_CLIENT_SSL`.
fn is_tls(told: &v2::TypeLengthValue<'_>) -> bool {
    told.kind == v2::Type::SSL as u8 && told.value.first().is_some_and(|client| client & 0x01 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Proxies {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|range| Prefix::parse(range).unwrap());
        Proxies { trusted: trusted.into(), ..Proxies::default() }
    }

    #[test]
    fn the_client_is_the_last_one_that_is_no_proxy_of_ours() {
        let client = |told: &[&str]| proxies().client(told.iter().map(|told| told.as_bytes())).map(|ip| ip.to_string());
        assert_eq!(client(&["203.0.113.7"]).as_deref(), Some("203.0.113.7"));
        assert_eq!(client(&["6.6.6.6", "203.0.113.7", "10.1.2.3"]).as_deref(), Some("203.0.113.7"));
        assert_eq!(client(&["6.6.6.6", "[2001:db9::1]:4711", "2001:db8::1"]).as_deref(), Some("2001:db9::1"));
        assert_eq!(client(&["::ffff:203.0.113.7"]).as_deref(), Some("203.0.113.7"));
        assert_eq!(client(&["10.1.2.3"]).as_deref(), Some("10.1.2.3"), "somebody inside");
        // What is no address was said by nobody that is believed.
        assert_eq!(client(&["6.6.6.6", "unknown", "10.1.2.3"]).as_deref(), Some("10.1.2.3"));
        assert_eq!(client(&["unknown"]), None);
        assert_eq!(client(&[]), None);
    }

    async fn read(bytes: &[u8]) -> (io::Result<Option<Introduced>>, Vec<u8>) {
        let mut stream = bytes;
        let told = introduced(&mut stream).await;
        (told, stream.to_vec())
    }

    #[tokio::test]
    async fn an_introduction_is_read_and_no_further() {
        let v2 = |command: u8, family: u8, rest: &[u8]| {
            let length = (rest.len() as u16).to_be_bytes();
            [&SIGNATURE[..], &[0x20 | command, family], &length, rest, b"GET /"].concat()
        };
        let four = [203, 0, 113, 7, 10, 0, 0, 1, 0x10, 0, 0, 80];
        let six = ["2001:db9::7", "2001:db8::1"].map(|ip| ip.parse::<std::net::Ipv6Addr>().unwrap().octets()).concat();
        let six = [&six[..], &[0x10, 0, 0, 80]].concat();
        let remark = [&four[..], &[0x04, 0, 1, 0]].concat();
        // That it speaks TLS, verified by nobody; and that it does not.
        let tls = |client: u8| [&remark[..], &[0x20, 0, 5, client, 0, 0, 0, 1]].concat();
        let cases: [(Vec<u8>, Option<&str>); 10] = [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\nGET /".to_vec(), Some("203.0.113.7")),
            (b"PROXY TCP6 2001:db9::7 2001:db8::1 4711 80\r\nGET /".to_vec(), Some("2001:db9::7")),
            (b"PROXY UNKNOWN\r\nGET /".to_vec(), None),
            (v2(1, 0x11, &four), Some("203.0.113.7")),
            (v2(1, 0x21, &six), Some("2001:db9::7")),
            (v2(1, 0x11, &remark), Some("203.0.113.7")),
            (v2(1, 0x11, &tls(1)), Some("203.0.113.7 over TLS")),
            (v2(1, 0x11, &tls(0)), Some("203.0.113.7")),
            (v2(0, 0, &[]), None),
            (v2(0, 0x11, &four), None),
        ];
        for (bytes, expected) in cases {
            let (told, left) = read(&bytes).await;
            let told = told.unwrap().map(|client| match client.over_tls {
                true => format!("{} over TLS", client.address),
                false => client.address.to_string(),
            });
            assert_eq!((told.as_deref(), left.as_slice()), (expected, &b"GET /"[..]), "{}", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_is_no_introduction_is_an_error() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        let large = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff], &[0; 0xffff]].concat();
        let version = [&SIGNATURE[..], &[0x31, 0x11, 0, 12], &[0; 12]].concat();
        let cases: [&[u8]; 7] = [
            b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n",
            b"PROXY TCP4 203.0.113.7\r\nGET /",
            b"PROXY TCP4 6.6.6.6.6 10.0.0.1 4711 80\r\nGET /",
            b"PROXY",
            &long,
            &large,
            &version,
        ];
        for bytes in cases {
            assert!(read(bytes).await.0.is_err(), "{}", bytes[..bytes.len().min(80)].escape_ascii());
        }
    }
}
