//! Where a repository may send the daemon for its submodules: to hosts on the internet, and to the host that it comes
//! from itself. Whoever writes a `.gitmodules` file is not to look around in the server's own network through it.

use std::net::IpAddr;

use flyloft_core::address::is_public;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_is_held_to_the_addresses_that_were_looked_at() {
        let url = RemoteUrl::parse("https://git.example.com:8443/shop").unwrap();
        let addresses = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(held_to(&url, &addresses), "git.example.com:8443:192.0.2.7,[2001:db8::7]");
    }
}
