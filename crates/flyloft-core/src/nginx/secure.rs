//! TLS at an nginx, in flyloft's place: a server for each certificate, and one that refuses whoever asks for another name.

use std::net::SocketAddr;

use super::site::listen;
use crate::certificate::{self, Names};
use crate::host::{Domain, HostName};

/// Ciphers of TLS 1.2 that are not known to be weak: keys that nobody can find out later, and text that nobody can change.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
                       ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// Where nginx speaks TLS for us. Plain HTTP is flyloft's then, which leads to it.
#[derive(Clone, Copy, Debug)]
pub struct Secure<'a> {
    pub listen: &'a [SocketAddr],
    /// The directory of the certificates and their keys.
    pub dir: &'a str,
}

/// What nginx is told of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Of several that are for a host name it is the first, as with [`certificate::choose`].
    pub shown: Vec<Shown>,
    pub http2: Http2,
    /// nginx takes none of our servers for it beside those of the site.
    pub off: bool,
    /// A server of the site's own speaks it for our host names.
    pub elsewhere: bool,
}

/// Whose HTTP/2 is, which nginx has had as something of each server's from 1.25.1 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2 {
    /// The site's: it is the address's, and others listen there, who would speak it because of us.
    #[default]
    Site,
    /// The address's, where nobody else listens.
    Address,
    /// Each server's.
    Server,
}

impl Http2 {
    /// `knows` is whether nginx has it as something of a server's, and `alone` whether nobody else of the site's listens there.
    pub fn of(knows: bool, alone: bool) -> Self {
        match (knows, alone) {
            (true, _) => Self::Server,
            (false, true) => Self::Address,
            (false, false) => Self::Site,
        }
    }

    /// Whether an nginx has it as something of a server's that says this of its version: `nginx version: nginx/1.22.1`.
    pub fn is_known_to(said: &str) -> bool {
        let numbers = said.split_once('/').map_or("", |(_, version)| version);
        let numbers = numbers.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
        let numbers: Vec<u32> = numbers.split('.').map_while(|number| number.parse().ok()).collect();
        numbers.len() >= 3 && numbers.as_slice() >= &[1, 25, 1][..]
    }
}

/// A certificate that nginx shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What its file in the directory is called, and with `.key` that of its key. Letters, digits and `.`.
    pub file: String,
    /// Those of its names that are for environments.
    whole: Vec<HostName>,
    has_star: bool,
    names: Names,
}

impl Shown {
    /// None of a certificate that is for no host name of an environment, which are one label below the domain.
    pub fn new(file: String, names: &Names, domain: &Domain) -> Option<Self> {
        let is_ours = |host: &HostName| {
            let label = host.as_str().strip_suffix(domain.as_str()).and_then(|label| label.strip_suffix('.'));
            label.is_some_and(|label| !label.contains('.'))
        };
        let whole: Vec<_> = names.iter().filter_map(|name| HostName::parse(name).ok()).filter(is_ours).collect();
        let has_star = names.iter().any(|name| name.strip_prefix("*.") == Some(domain.as_str()));
        (has_star || !whole.is_empty()).then(|| Self { file, whole, has_star, names: names.clone() })
    }

    pub fn whole(&self) -> &[HostName] {
        &self.whole
    }

    pub fn has_star(&self) -> bool {
        self.has_star
    }
}

impl Tls {
    /// The number of the certificate that is shown for a host name.
    pub fn choose(&self, host: &HostName) -> Option<usize> {
        certificate::choose(self.shown.iter().map(|shown| &shown.names), host.as_str())
    }
}

impl Secure<'_> {
    /// How a server begins that shows this.
    pub fn entry(&self, ours: &str, tls: &Tls, shown: &Shown) -> String {
        let (dir, file) = (self.dir, &shown.file);
        let shows = format!("    ssl_certificate {dir}/{file};\n    ssl_certificate_key {dir}/{file}.key;\n");
        self.speak(ours, tls) + &shows
    }

    /// For all names that no other server has, if no other is the default one. What a request names over a connection to
    /// another name ends here as well. How long nginx waits for a head is said by the default one.
    pub fn refusing(&self, ours: &str, tls: &Tls, patience: &str) -> String {
        format!(
            "server {{\n{}{patience}    ssl_reject_handshake on;\n    server_name flyloft.invalid;\n    access_log off;\n    \
             return 421;\n}}\n",
            self.speak(ours, tls)
        )
    }

    fn speak(&self, ours: &str, tls: &Tls) -> String {
        let (options, http2) = match tls.http2 {
            Http2::Site => (" ssl", ""),
            Http2::Address => (" ssl http2", ""),
            Http2::Server => (" ssl", "    http2 on;\n"),
        };
        let entry = listen(self.listen, options);
        // An old process of nginx's lets who comes over HTTP/2, which may be the site's doing, go on for as long as this.
        format!(
            "{entry}{http2}    keepalive_time 60s;\n    keepalive_timeout 15s;\n    ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_ciphers {CIPHERS};\n    \
             ssl_prefer_server_ciphers off;\n    ssl_session_cache shared:{ours}_tls:1m;\n    \
             ssl_session_timeout 12h;\n"
        )
    }
}

/// Whether a configuration, as `nginx -T` prints it, has somebody listen at one of these ports, beside what is in a file of
/// ours.
pub fn others_listen(dump: &str, ours: &str, ports: &[u16]) -> bool {
    let is_there = |words: &[&str]| match words {
        ["listen", place, ..] => ports.iter().any(|port| is_at(place.trim_matches(['"', '\'']), *port)),
        _ => false,
    };
    files(dump).iter().any(|(file, text)| *file != ours && directives(text).any(|words| is_there(&words)))
}

/// Whether a configuration, as `nginx -T` prints it, has a server of the site's own that speaks TLS for our host names: it
/// includes the file `server` of ours. `ours` does so as well.
pub fn others_speak(dump: &str, ours: &str, server: &str) -> bool {
    let includes = |words: &[&str]| matches!(words, ["include", file] if file.trim_matches(['"', '\'']) == server);
    let speaks = |words: &[&str]| matches!(words, ["listen", _, options @ ..] if options.contains(&"ssl"));
    files(dump).iter().any(|(file, text)| {
        let has = |is_it: &dyn Fn(&[&str]) -> bool| directives(text).any(|words| is_it(&words));
        *file != ours && has(&includes) && has(&speaks)
    })
}

/// The files of a configuration, as `nginx -T` prints it, without comments.
fn files(dump: &str) -> Vec<(&str, String)> {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in dump.lines() {
        match (line.strip_prefix("# configuration file "), files.last_mut()) {
            (Some(file), _) => files.push((file.trim_end_matches(':'), String::new())),
            (None, Some((_, text))) => *text += &format!("{}\n", line.split('#').next().unwrap_or_default()),
            (None, None) => {}
        }
    }
    files
}

/// Each directive's words.
fn directives(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.split([';', '{', '}']).map(|directive| directive.split_whitespace().collect())
}

/// Whether somebody who listens here may do so at a port: `443`, `[::]:443`, `192.0.2.1`, which is 80, `*:8440-8450`, or
/// `unix:/run/a.sock`, which is at none. What cannot be read is taken to be.
fn is_at(place: &str, port: u16) -> bool {
    if place.starts_with("unix:") {
        return false;
    }
    let behind = place.rsplit_once(']').map_or(place, |(_, behind)| behind);
    let named = behind.rsplit_once(':').map(|(_, ports)| ports);
    let ports = named.unwrap_or(behind);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ""));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&port),
        (Ok(only), Err(_)) if last.is_empty() => only == port,
        // An address or a name alone.
        _ if named.is_none() => port == 80,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_else_listens_at_a_port_is_found_whatever_it_is_written_like() {
        let ours = "/var/lib/flyloft/nginx/flyloft.conf";
        let beside = |text: &str| {
            let dump = format!(
                "# configuration file /etc/nginx/nginx.conf:\nhttp {{\n{text}\n}}\n\
                 # configuration file {ours}:\nserver {{\n    listen 443 ssl;\n}}\n"
            );
            others_listen(&dump, ours, &[443])
        };
        for text in [
            "listen 443 ssl;",
            "server { listen 192.0.2.1:443; }",
            "    listen   [::]:443 default_server;",
            "server{listen\t443;}",
            "listen 440-450 ssl;",
            "listen *:443-443;",
            "listen [::]:400-500 ssl;",
            "listen\n    443 # TLS\n    ssl;",
            "listen \"443\";",
            "listen 192.0.2.1:$port;",
        ] {
            assert!(beside(text), "{text}");
        }
        for text in [
            "",
            "listen 80;",
            "# listen 443;",
            "listen [::1];",
            "listen unix:/run/443;",
            "listener 443;",
            "listen 444-450;",
            "listen 192.0.2.1:8000-8010;",
        ] {
            assert!(!beside(text), "{text}");
        }
        for text in ["[::1]", "192.0.2.1", "localhost", "example-host.org"] {
            assert!(others_listen(&format!("# configuration file /a:\nlisten {text};"), ours, &[80]), "{text}");
        }
    }

    #[test]
    fn http_2_is_asked_for_in_the_words_that_an_nginx_has() {
        for said in ["nginx/1.25.1", "nginx/1.26.3\n", "nginx/1.26.3 (Ubuntu)", "nginx/1.30.0", "nginx/2.0.0"] {
            assert!(Http2::is_known_to(&format!("nginx version: {said}")), "{said}");
        }
        assert!(Http2::is_known_to("nginx version: openresty/1.27.1.1\n"));
        for said in ["nginx/1.22.1", "nginx/1.25.0", "nginx/0.8.55", "nginx/", "nginx/1.26", "", "a/b"] {
            assert!(!Http2::is_known_to(&format!("nginx version: {said}")), "{said}");
        }
        let of = |knows| [true, false].map(|alone| Http2::of(knows, alone));
        assert_eq!([of(true), of(false)], [[Http2::Server, Http2::Server], [Http2::Address, Http2::Site]]);
    }

    #[test]
    fn a_server_of_the_site_s_that_speaks_tls_for_us_is_found() {
        let (ours, server) = ("/var/lib/flyloft/nginx/flyloft.conf", "/var/lib/flyloft/nginx/server.conf");
        let its = |file: &str, listen: &str| {
            format!("# configuration file {file}:\nserver {{\n    listen {listen};\n    include {server};\n}}\n")
        };
        assert!(others_speak(&its("/etc/nginx/sites-enabled/staging", "443 ssl http2"), ours, server));
        assert!(!others_speak(&its("/etc/nginx/sites-enabled/staging", "80"), ours, server));
        assert!(!others_speak(&its(ours, "443 ssl"), ours, server));
        let apart = "# configuration file /etc/nginx/sites-enabled/other:\nserver { listen 443 ssl; }\n";
        assert!(!others_speak(&(apart.to_owned() + &its(ours, "443 ssl")), ours, server));
    }

    #[test]
    fn of_a_certificate_counts_what_is_for_environments() {
        let domain = Domain::parse("staging.example.org").unwrap();
        let shown = |names: &[&str]| {
            let names = Names::new(names.iter().map(|name| (*name).to_owned()));
            let shown = Shown::new("it".to_owned(), &names, &domain)?;
            Some((shown.whole().iter().map(ToString::to_string).collect::<Vec<_>>(), shown.has_star()))
        };
        assert_eq!(shown(&["*.staging.example.org", "staging.example.org"]), Some((Vec::new(), true)));
        let whole = vec!["shop-main.staging.example.org".to_owned()];
        assert_eq!(shown(&["Shop-main.staging.example.org", "www.example.org"]), Some((whole, false)));
        // What would end a directive is no host name.
        for name in ["*.example.org", "a.b.staging.example.org", "a;b.staging.example.org", "xstaging.example.org"] {
            assert_eq!(shown(&[name]), None, "{name}");
        }
    }
}
