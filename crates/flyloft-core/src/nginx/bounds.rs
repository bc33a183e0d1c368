//! How much of an nginx one client may take, and how slow it may be: as much as of flyloft's own edge.

use std::fmt::Write;
use std::time::Duration;

use super::site::Site;

/// How many clients nginx counts at a time: 16,384 for each MiB. Beyond them it would refuse everybody.
const COUNTED: &str = "4m";

/// nginx knows no larger number.
const MOST: usize = 65_535;

/// What one client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests under way of one address. Of IPv6 that is a network of 64 bits.
    pub requests: usize,
    /// How long it may take for a head; for a body, until more of it comes; and for an answer, until it takes more of it.
    pub head: Duration,
    pub send: Duration,
    pub take: Duration,
    /// The most bytes that the body of a request may have.
    pub body: Option<u64>,
}

#[cfg(test)]
pub(super) const USUAL: Bounds = Bounds {
    requests: 341,
    head: Duration::from_secs(65),
    send: Duration::from_secs(30),
    take: Duration::from_secs(60),
    body: None,
};

impl Bounds {
    /// What belongs into each server of ours. A server of the site's has bounds of its own. What is too many is not written
    /// into nginx's log each time.
    pub(super) fn patience(&self) -> String {
        let [head, send, take] = [self.head, self.send, self.take].map(|time| format!("{}ms", time.as_millis()));
        format!(
            "    client_header_timeout {head};\n    client_body_timeout {send};\n    send_timeout {take};\n    \
             limit_conn_log_level info;\n"
        )
    }
}

impl Site<'_> {
    /// What belongs into each server that serves our host names, once.
    pub(super) fn count(&self, ours: &str) -> String {
        format!("limit_conn {ours}_clients {};\n", self.bounds.requests.clamp(1, MOST))
    }

    /// By what nginx tells apart whom it counts: an IPv4 address, also where it comes as an IPv6 one, or the first half of
    /// an IPv6 one. A trusted proxy that does not say who its clients are is none of them.
    pub(super) fn counted(&self, ours: &str) -> String {
        let is_behind = !self.trusted.is_empty();
        let network = if is_behind { "network" } else { "client" };
        let mut text = format!(
            "map $binary_remote_addr ${ours}_{network} {{ default $binary_remote_addr; \
             \"~(?s)^(?!\\x00{{10}}\\xff\\xff)(.{{8}}).{{8}}\\z\" $1; }}\n"
        );
        if is_behind {
            let ranges: String = self.trusted.iter().map(|range| format!(" {range} 1;")).collect();
            let _ = write!(
                text,
                "geo ${ours}_nobody {{ default 0;{ranges} }}\n\
                 map ${ours}_nobody ${ours}_client {{ default \"\"; 0 ${ours}_network; }}\n"
            );
        }
        text + &format!("limit_conn_zone ${ours}_client zone={ours}_clients:{COUNTED};\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Prefix;
    use crate::host::Domain;

    #[test]
    fn clients_are_told_apart_by_what_one_household_has_and_not_behind_a_proxy_that_says_nothing() {
        let domain = Domain::parse("staging.example.org").unwrap();
        let trusted = ["192.0.2.5", "2001:db8::/32"].map(|range| Prefix::parse(range).unwrap());
        let (dir, secure, external, bounds) = ("/var/lib/flyloft/nginx", None, None, USUAL);
        let site =
            Site { instance: "ab12cd", domain: &domain, listen: &[], dir, secure, trusted: &[], external, bounds };
        let behind = Site { trusted: &trusted, ..site };
        insta::assert_snapshot!(site.counted("ours") + &behind.counted("ours"), @r#"
        map $binary_remote_addr $ours_client { default $binary_remote_addr; "~(?s)^(?!\x00{10}\xff\xff)(.{8}).{8}\z" $1; }
        limit_conn_zone $ours_client zone=ours_clients:4m;
        map $binary_remote_addr $ours_network { default $binary_remote_addr; "~(?s)^(?!\x00{10}\xff\xff)(.{8}).{8}\z" $1; }
        geo $ours_nobody { default 0; 192.0.2.5 1; 2001:db8::/32 1; }
        map $ours_nobody $ours_client { default ""; 0 $ours_network; }
        limit_conn_zone $ours_client zone=ours_clients:4m;
        "#);
    }

    #[test]
    fn a_number_is_one_that_nginx_takes() {
        let domain = Domain::parse("localhost").unwrap();
        let (dir, secure, external, bounds) = ("/var/lib/flyloft/nginx", None, None, USUAL);
        let site =
            Site { instance: "ab12cd", domain: &domain, listen: &[], dir, secure, trusted: &[], external, bounds };
        for (requests, said) in [(0, 1), (341, 341), (65_536, 65_535)] {
            let site = Site { bounds: Bounds { requests, ..bounds }, ..site };
            assert_eq!(site.count("ours"), format!("limit_conn ours_clients {said};\n"));
        }
    }
}
