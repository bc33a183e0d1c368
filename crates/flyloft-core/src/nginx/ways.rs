//! How requests came to an nginx: what proxies before it say of that, and who is led to where TLS is spoken.
//!
//! What must hold: nginx believes what flyloft's own edge would (`edge/embedded/headers.rs`). Nobody is led who may have come
//! over TLS: a proxy that has seen the client itself has to say that it did not, or else the client has come here by no proxy,
//! and a server of the site's own speaks TLS.

use std::fmt::Write;
use std::net::SocketAddr;

use super::Tls;
use super::site::{Site, token};

impl Site<'_> {
    /// Leads to TLS at nginx itself, for host names whose snippet nobody is to pass by.
    pub(super) fn lead_in(&self, ours: &str) -> String {
        let port = self.secure.and_then(|secure| secure.listen.first()).map_or(443, SocketAddr::port);
        format!("    if (${ours}_plain) {{ return 308 {}; }}\n", over_tls(self.external.unwrap_or(port)))
    }

    /// Leads to where visitors come over TLS, if they are to, whoever is known to have come without.
    pub(super) fn lead_out(&self, ours: &str) -> String {
        let lead = |port| format!("    if (${ours}_leads) {{ return 308 {}; }}\n", over_tls(port));
        self.external.map_or_else(String::new, lead)
    }

    /// What says how requests came, and who is led for that.
    pub(super) fn ways(&self, ours: &str, tls: &Tls) -> String {
        let (mut text, scheme, challenge) = (String::new(), self.scheme(ours), token());
        if self.secure.is_some() || self.external.is_some() {
            let _ = writeln!(text, "map $uri ${ours}_challenge {{ default \"\"; \"~{challenge}\" 1; }}");
        }
        if self.secure.is_some() {
            let _ = writeln!(text, "map {scheme}${ours}_challenge ${ours}_plain {{ default 0; http 1; }}");
        }
        if !self.trusted.is_empty() {
            let ranges: String = self.trusted.iter().map(|range| format!(" {range} 1;")).collect();
            let unsaid = if self.external.is_some() { "https" } else { "$scheme" };
            // Of whom the proxy has heard last, with a port or not; whether that is one of ours; and what both say.
            let _ = write!(
                text,
                "geo $realip_remote_addr ${ours}_near {{ default 0;{ranges} }}\n\
                 map $http_x_forwarded_for ${ours}_heard {{ default \"\"; \
                 \"~(?:^|[, ])([0-9.]+)(?::[0-9]+)?[, ]*$\" $1; \
                 \"~\\[?([0-9A-Fa-f.:]+)(?:\\](?::[0-9]+)?)?[, ]*$\" $1; }}\n\
                 geo ${ours}_heard ${ours}_far {{ default 0;{ranges} }}\n\
                 map ${ours}_near${ours}_far:$http_x_forwarded_proto ${ours}_scheme {{ default {unsaid}; \
                 \"~^0\" $scheme; \"~*^11:(?:.*[, ])?(?:https|wss)(?:[, ]|$)\" https; \
                 \"~*^10:(?:.*[, ])?(?:https|wss)[, ]*$\" https; \"~^10:.*[^, ]\" http; }}\n\
                 map ${ours}_port/{scheme} ${ours}_port_told {{ default 80; \"~^:([0-9]+)/\" $1; /https 443; }}\n"
            );
        }
        if self.external.is_some() {
            // Whom a proxy says it of; and whoever comes by no proxy, where something of the site's own speaks TLS.
            let whose = [(!self.trusted.is_empty(), "1"), (tls.elsewhere, "0")];
            let whose: String = whose.into_iter().filter(|(is_so, _)| *is_so).map(|(_, near)| near).collect();
            let near = if self.trusted.is_empty() { "0".to_owned() } else { format!("${ours}_near") };
            let led = match whose.as_str() {
                "" => String::new(),
                whose => format!("\"~^[{whose}]:http::[a-z0-9]\" 1; "),
            };
            let _ = writeln!(
                text,
                "map {near}:{scheme}:${ours}_challenge:${ours}_label ${ours}_leads {{ default 0; {led}}}"
            );
        }
        text
    }

    /// Has nginx take whom a proxy names for the client, in a server of ours.
    pub(super) fn believes(&self) -> String {
        if self.trusted.is_empty() {
            return String::new();
        }
        let from = self.trusted.iter().map(|range| format!("    set_real_ip_from {range};\n"));
        from.collect::<String>() + "    real_ip_header X-Forwarded-For;\n    real_ip_recursive on;\n"
    }

    /// nginx's word for how a request came.
    pub(super) fn scheme(&self, ours: &str) -> String {
        if self.trusted.is_empty() { "$scheme".to_owned() } else { format!("${ours}_scheme") }
    }
}

/// Where a request is led.
fn over_tls(port: u16) -> String {
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    format!("https://$host{port}$request_uri")
}

#[cfg(test)]
mod tests {
    use super::super::bounds::USUAL;
    use super::*;
    use crate::gate::Prefix;
    use crate::host::Domain;

    #[test]
    fn what_is_believed_of_how_requests_came_is_what_proxies_say_that_have_seen_who_sent_them() {
        let domain = Domain::parse("staging.example.org").unwrap();
        let trusted = ["192.0.2.5", "2001:db8::/32"].map(|range| Prefix::parse(range).unwrap());
        let dir = "/var/lib/flyloft/nginx";
        let (secure, external, bounds) = (None, None, USUAL);
        let site =
            Site { instance: "ab12cd", domain: &domain, listen: &[], dir, secure, trusted: &[], external, bounds };
        assert_eq!(site.ways("ours", &Tls::default()) + &site.believes() + &site.lead_out("ours"), "");
        let behind = Site { trusted: &trusted, external: Some(8443), ..site };
        let of = |site: Site<'_>, elsewhere| {
            site.ways("ours", &Tls { elsewhere, ..Tls::default() }) + &site.believes() + &site.lead_out("ours")
        };
        insta::assert_snapshot!(of(behind, true));
        // Nobody is led of whom nothing is known, however much visitors are to come over TLS.
        let alone = Site { external: Some(443), ..site };
        assert!(of(alone, false).contains("map 0:$scheme:$ours_challenge:$ours_label $ours_leads { default 0; }"));
        assert!(of(alone, true).contains("_leads { default 0; \"~^[0]:http::[a-z0-9]\" 1; }"));
    }
}
