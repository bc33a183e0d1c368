//! How visitors come, which URLs say.

use std::net::SocketAddr;
use std::num::NonZero;

/// How visitors come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visitors {
    pub scheme: &'static str,
    /// Where it is not the scheme's own.
    pub port: Option<u16>,
}

impl Visitors {
    /// Over TLS where the edge speaks it.
    pub fn of(plain: &[SocketAddr], secure: &[SocketAddr]) -> Self {
        let (scheme, own, addresses) = match secure {
            [] => ("http", 80, plain),
            secure => ("https", 443, secure),
        };
        Self { scheme, port: addresses.first().map(SocketAddr::port).filter(|port| *port != own) }
    }

    /// `https`, or `https:8443`.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, port) = text.split_once(':').map_or((text, None), |(scheme, port)| (scheme, Some(port)));
        let (scheme, own) = [("http", 80), ("https", 443)].into_iter().find(|(known, _)| *known == scheme)?;
        let port = match port {
            Some(port) if port.starts_with(|c: char| c.is_ascii_digit()) => {
                Some(port.parse::<NonZero<u16>>().ok()?.get())
            }
            Some(_) => return None,
            None => None,
        };
        Some(Self { scheme, port: port.filter(|port| *port != own) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_come_over_tls_where_there_is_any_and_by_the_port_that_their_scheme_has_not_itself() {
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        let of = |plain: &[SocketAddr], secure: &[SocketAddr]| {
            let Visitors { scheme, port } = Visitors::of(plain, secure);
            (scheme, port)
        };
        assert_eq!(of(&[at("[::]:80")], &[]), ("http", None));
        assert_eq!(of(&[at("[::]:8080"), at("[::]:80")], &[]), ("http", Some(8080)));
        assert_eq!(of(&[at("[::]:8080")], &[at("[::]:443")]), ("https", None));
        assert_eq!(of(&[at("[::]:80")], &[at("[::]:8443")]), ("https", Some(8443)));
    }

    #[test]
    fn how_they_come_can_be_said_where_something_stands_before_the_server() {
        let parsed = |text| Visitors::parse(text).map(|Visitors { scheme, port }| (scheme, port));
        assert_eq!(parsed("https"), Some(("https", None)));
        assert_eq!(parsed("https:443"), Some(("https", None)));
        assert_eq!(parsed("https:8443"), Some(("https", Some(8443))));
        assert_eq!(parsed("http:8080"), Some(("http", Some(8080))));
        for wrong in ["", "ftp", "https:", "https:0", "https:+1", "https:65536", "https://example.org", "HTTPS"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
