//! The files that nginx reads. Everything in them is made of values that were parsed once, so none of them can end a
//! directive: names are letters, digits, `-` and `.`, addresses are printed, and paths have no white space.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Bounds, Secure, Straight, Told};
use crate::gate::Prefix;
use crate::host::{Domain, HostName};
use crate::name::AppName;

/// A name of this length fits into a bucket of nginx's maps of any size that it may have by default. The size cannot be
/// changed from here: nginx settles it with the first map of a site.
const HASHED_MAX: usize = 46;

/// So many of the longest host names fit into a word of nginx's, which has 4,096 characters at most.
const NAMES_MAX: usize = 14;

/// How many lengths names of groups have.
const LENGTHS: u8 = 64;

/// How long nginx keeps an idle connection to an app.
pub const KEPT: Duration = Duration::from_secs(10);

/// How many of them each of its workers keeps to each app. They take memory of nginx's, used or not.
const KEPT_MOST: u32 = 64;

/// How many requests a second of each environment nginx surely tells of, and how many more at once. To tell costs it a
/// sixth of what a small request does, so beyond that it keeps to those that take long.
const TOLD_PER_SECOND: u32 = 20;
const TOLD_AT_ONCE: u32 = 100;

/// Where those ask who check that a host name is ours, whom flyloft answers (RFC 8555 section 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// What a client may claim of itself and its way here, beside what is set to the truth. nginx itself drops headers with
/// a `_`.
const CLAIMS: [&str; 12] = [
    "Forwarded",
    "Proxy",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Real-IP",
];

/// What a site has of us.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Tells apart daemons that share an nginx. Letters and digits.
    pub instance: &'a str,
    pub domain: &'a Domain,
    pub listen: &'a [SocketAddr],
    /// The directory of these files and of the sockets `edge.sock` and `log.sock`.
    pub dir: &'a str,
    pub secure: Option<Secure<'a>>,
    /// Proxies before nginx, which are believed in who their clients are, and how those came.
    pub trusted: &'a [Prefix],
    /// At which port visitors come over TLS, if they are to, to such a proxy or to a server of the site's own.
    pub external: Option<u16>,
    pub bounds: Bounds,
}

impl Site<'_> {
    /// The file that belongs into the site's `http` block: which host name goes straight to which app, which apps have a
    /// snippet, and what is shown to whom over TLS.
    pub fn http(&self, told: &Told) -> String {
        let straight = &told.straight;
        let Self { instance, dir, .. } = self;
        let ours = format!("flyloft_{instance}");
        let mut text = String::from(MADE);
        let mut groups: Vec<SocketAddr> = straight.values().copied().collect();
        groups.sort();
        groups.dedup();
        let door = format!("server unix:{dir}/edge.sock");
        let _ = writeln!(text, "upstream {ours} {{ {door} max_fails=0; }}");
        let kept = KEPT.as_secs();
        for address in groups {
            let name = group(instance, address);
            // Where nobody listens any more, flyloft knows why, or where else to go.
            let _ = writeln!(
                text,
                "upstream {name} {{ server {address} max_fails=0; {door} max_fails=0 backup; keepalive {KEPT_MOST}; \
                 keepalive_timeout {kept}s; keepalive_requests 1000000; }}"
            );
        }
        text.push_str(&self.awake(&ours, straight));
        text.push_str(&self.rest(&ours));
        text.push_str(&self.ways(&ours, &told.tls));
        text.push_str(&self.counted(&ours));
        text + &self.servers(&ours, told)
    }

    /// Where the apps behind these host names are, by whole names as far as nginx takes them: it looks one up in a fraction
    /// of the time that a pattern takes it.
    fn awake(&self, ours: &str, straight: &Straight) -> String {
        let (mut short, mut long) = (String::new(), String::new());
        let suffix = format!(".{}", self.domain);
        for (host, address) in straight {
            let Some(label) = host.as_str().strip_suffix(&suffix) else { continue };
            let name = group(self.instance, *address);
            let _ = match (host.as_str().len() <= HASHED_MAX, label.len() <= HASHED_MAX) {
                (true, _) => writeln!(short, "    {host} {name};"),
                (_, true) => writeln!(long, "    {label} {name};"),
                _ => writeln!(long, "    \"~^{label}$\" {name};"),
            };
        }
        let label = pattern("([^.]+)", self.domain.as_str());
        format!(
            "map $host ${ours}_label {{ default \"\"; {label} $1; }}\n\
             map ${ours}_label ${ours}_long {{\n    default {ours};\n{long}}}\n\
             map $host ${ours}_awake {{\n    default ${ours}_long;\n{short}}}\n"
        )
    }

    /// All host names below the domain that no other server has. nginx tries patterns in order, and wildcards before any
    /// of them.
    fn servers(&self, ours: &str, told: &Told) -> String {
        let Told { apart, tls, .. } = told;
        let manners = self.bounds.patience() + &self.believes();
        let plain = listen(self.listen, "") + &manners;
        let place = self.secure.filter(|_| !tls.off);
        let secure = place.iter().flat_map(|secure| tls.shown.iter().map(|shown| secure.entry(ours, tls, shown)));
        let secure: Vec<String> = secure.map(|entry| entry + &manners).collect();
        let mut text = place.map(|secure| secure.refusing(ours, tls, &self.bounds.patience())).unwrap_or_default();
        if !apart.is_empty() {
            // The first of them is for whoever asks for no name of ours.
            text.push_str(&self.serve(&plain, "flyloft.invalid"));
            text.push_str(&self.all_apart(ours, told, &plain, &secure));
        }
        let all = pattern("[^.]+", self.domain.as_str());
        let rest = if apart.is_empty() { format!("*.{}", self.domain) } else { all.clone() };
        text += &match secure.is_empty() {
            true => self.serve(&plain, &rest),
            false => self.lead(&plain, ours, &rest),
        };
        let shown = || tls.shown.iter().zip(&secure);
        for (shown, entry) in shown().filter(|(shown, _)| !shown.whole().is_empty()) {
            let names = server_names(&shown.whole().iter().collect::<Vec<_>>());
            let _ = write!(text, "server {{\n{entry}{names}    include {}/server.conf;\n}}\n", self.dir);
        }
        if let Some((_, entry)) = shown().find(|(shown, _)| shown.has_star()) {
            text.push_str(&self.serve(entry, &all));
        }
        text
    }

    /// What apps with a snippet have apart, over plain HTTP or by their certificates.
    fn all_apart(&self, ours: &str, told: &Told, plain: &str, secure: &[String]) -> String {
        let mut text = String::new();
        for (app, apart) in &told.apart {
            let mut hosts: BTreeMap<Option<usize>, Vec<&HostName>> = [(None, Vec::new())].into();
            for host in &apart.hosts {
                let shown = told.tls.choose(host).filter(|at| *at < secure.len());
                hosts.entry(shown).or_default().push(host);
            }
            for (shown, hosts) in hosts {
                let entry = shown.map_or(plain, |at| secure[at].as_str());
                // A snippet is to be right before it is needed, so nobody need ask for any of its names.
                let nobody = if shown.is_none() { format!("    server_name {app}.invalid;\n") } else { String::new() };
                let names = nobody + &server_names(&hosts);
                text.push_str(&self.apart(&(entry.to_owned() + &names + &self.lead_out(ours)), ours, app));
                if shown.is_some() {
                    text.push_str(&self.apart(&(plain.to_owned() + &names + &self.lead_in(ours)), ours, app));
                }
            }
        }
        text
    }

    /// Who comes over plain HTTP is flyloft's, which leads to TLS where there is a certificate for the name.
    fn lead(&self, entry: &str, ours: &str, names: &str) -> String {
        let (dir, ask, count) = (self.dir, self.ask(ours), self.count(ours));
        format!(
            "server {{\n{entry}    server_name {names};\n    access_log off;\n    {count}    \
             include {dir}/proxy.conf;\n    location / {{ {ask} }}\n}}\n"
        )
    }

    /// What does not depend on any environment.
    fn rest(&self, ours: &str) -> String {
        // What is open for long is flyloft's: it hears who says something on it, and nobody waits for its end. So is a
        // connection of HTTP/2 after a minute, which an old process of nginx's would let go on, past a gate that is shut
        // meanwhile: how long is up to the server that it was opened to, and that may be the site's.
        format!(
            "map $connection_time ${ours}_young {{ default {ours}; \"~^[1-5]?[0-9]\\.\" ${ours}_awake; }}\n\
             map $server_protocol ${ours}_heard_by {{ default ${ours}_awake; HTTP/2.0 ${ours}_young; \
             HTTP/3.0 ${ours}_young; }}\n\
             map $http_accept ${ours}_asked {{ default ${ours}_heard_by; \"~*^text/event-stream\" {ours}; }}\n\
             map $http_upgrade ${ours}_to {{ default {ours}; \"\" ${ours}_asked; }}\n\
             map $http_upgrade ${ours}_connection {{ default upgrade; \"\" \"\"; }}\n\
             map $http_host ${ours}_port {{ default \"\"; \"~:([0-9]{{1,5}})$\" :$1; }}\n\
             map ${ours}_to ${ours}_straight {{ default $host; {ours} \"\"; }}\n\
             map $upstream_addr ${ours}_passed {{ default ${ours}_straight; \"\" \"\"; }}\n\
             limit_req_zone ${ours}_straight zone={ours}:1m rate={TOLD_PER_SECOND}r/s;\n\
             map $request_time ${ours}_slow {{ hostnames; default 1; 0.* 0; }}\n\
             map $limit_req_status ${ours}_told {{ default 1; \"\" 0; REJECTED_DRY_RUN ${ours}_slow; }}\n\
             log_format {ours} \"$status\\t$host\\t$uri\\t$http_user_agent\";\n"
        )
    }

    fn serve(&self, entry: &str, names: &str) -> String {
        format!("server {{\n{entry}    server_name {names};\n    include {}/server.conf;\n}}\n", self.dir)
    }

    /// Host names of an app that has a snippet. What it says of logs and limits is its own.
    fn apart(&self, entry: &str, ours: &str, app: &AppName) -> String {
        let Self { dir, .. } = self;
        // Whom a snippet answers itself, or nginx leads to TLS, is no visitor.
        let (log, ask, count) = (self.log(ours, "passed"), self.ask(ours), self.count(ours));
        // What a snippet keeps people from is not to be had by such a path.
        let token = token();
        format!(
            "server {{\n{entry}    {log}    {count}    include {dir}/proxy.conf;\n    \
             location / {{ include {dir}/snippets/{app}.conf; include {dir}/pass.conf; }}\n    \
             location = /robots.txt {{ {ask} }}\n    \
             location {CHALLENGES} {{ location ~ {token} {{ {ask} }} return 404; }}\n}}\n"
        )
    }

    /// Where nginx tells of requests for which this is something.
    fn log(&self, ours: &str, told: &str) -> String {
        format!(
            "access_log syslog:server=unix:{}/log.sock,nohostname,tag=flyloft {ours} if=${ours}_{told};\n",
            self.dir
        )
    }

    /// What belongs into a `server` block: ours, and one that the site has for the same names.
    pub fn server(&self) -> String {
        let Self { instance, dir, .. } = self;
        let ours = format!("flyloft_{instance}");
        let (log, ask, lead) = (self.log(&ours, "told"), self.ask(&ours), self.lead_out(&ours));
        let (lead, count) = (lead.trim_start(), self.count(&ours));
        format!(
            "{MADE}{log}{lead}\
             limit_req zone={ours} burst={TOLD_AT_ONCE} nodelay;\n\
             limit_req_dry_run on;\n\
             limit_req_log_level info;\n\
             {count}\
             include {dir}/proxy.conf;\n\
             location / {{ include {dir}/pass.conf; }}\n\
             location = /robots.txt {{ {ask} }}\n\
             location {CHALLENGES} {{ {ask} }}\n"
        )
    }

    /// What stands where requests go to flyloft itself.
    fn ask(&self, ours: &str) -> String {
        format!("include {}/headers.conf; proxy_pass http://{ours};", self.dir)
    }

    /// What belongs into a `location` whose requests go where they are to.
    pub fn pass(&self) -> String {
        let Self { instance, dir, .. } = self;
        format!("{MADE}include {dir}/headers.conf;\nproxy_pass http://$flyloft_{instance}_to;\n")
    }

    /// What apps, and flyloft, are told of a request. It stands in the same block as what passes the request on: nginx
    /// takes none of a wider block over where there is one in this, and a client would have a say in the rest.
    pub fn headers(&self) -> String {
        let ours = format!("flyloft_{}", self.instance);
        let scheme = self.scheme(&ours);
        let port = if self.trusted.is_empty() { "$server_port".to_owned() } else { format!("${ours}_port_told") };
        let mut text = format!(
            "{MADE}proxy_set_header Host $host${ours}_port;\n\
             proxy_set_header Connection ${ours}_connection;\n\
             proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header X-Forwarded-For $remote_addr;\n\
             proxy_set_header X-Forwarded-Host $host${ours}_port;\n\
             proxy_set_header X-Forwarded-Port {port};\n\
             proxy_set_header X-Forwarded-Proto {scheme};\n"
        );
        for claim in CLAIMS {
            let _ = writeln!(text, "proxy_set_header {claim} \"\";");
        }
        text
    }

    /// What holds for every host name.
    pub fn proxy(&self) -> String {
        // 0 is any number.
        let body = self.bounds.body.unwrap_or_default();
        format!(
            "{MADE}client_max_body_size {body};\n\
             proxy_http_version 1.1;\n\
             proxy_request_buffering off;\n\
             proxy_buffering off;\n\
             proxy_buffer_size 16k;\n\
             proxy_buffers 8 16k;\n\
             proxy_connect_timeout 5s;\n\
             proxy_read_timeout 1d;\n\
             proxy_send_timeout 1d;\n\
             proxy_next_upstream error;\n\
             proxy_redirect off;\n\
             proxy_intercept_errors off;\n\
             proxy_hide_header X-Robots-Tag;\n\
             add_header X-Robots-Tag noindex always;\n"
        )
    }

    /// Each of the files, for a site that we have no part in.
    pub fn nothing() -> &'static str {
        "# flyloft serves by itself at the moment.\n"
    }
}

const MADE: &str = "# Made by flyloft, and made anew with each change: what is written here is lost.\n";

/// A path that somebody asks for who checks that a name is ours: a token, and nothing else.
pub(super) fn token() -> String {
    format!("^{}[A-Za-z0-9_-]+$", CHALLENGES.replace('.', "\\."))
}

/// `[::]` is both families to us, and one of them to nginx.
pub fn listen(addresses: &[SocketAddr], options: &str) -> String {
    let both = |address: &SocketAddr| match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => vec![address.port().to_string(), address.to_string()],
        _ => vec![address.to_string()],
    };
    addresses.iter().flat_map(both).map(|address| format!("    listen {address}{options};\n")).collect()
}

/// These host names and no others, as nginx has patterns: whole names would need a setting of nginx's, and come before
/// all patterns.
fn server_names(hosts: &[&HostName]) -> String {
    let word = |hosts: &[&HostName]| hosts.iter().map(|host| host.as_str()).collect::<Vec<_>>().join("|");
    let line = |hosts| format!("    server_name \"~^(?:{})$\";\n", word(hosts).replace('.', "\\."));
    hosts.chunks(NAMES_MAX).map(line).collect()
}

/// Host names of such a label and this domain, as nginx has patterns.
fn pattern(label: &str, domain: &str) -> String {
    format!("\"~^{label}\\.{}$\"", domain.replace('.', "\\."))
}

/// What an app's address is called as a group of nginx's. nginx looks for a group in all of them, one after the other, and
/// compares letters only where lengths are the same. So addresses that follow each other have names of different lengths,
/// which differ as early as addresses do: at the end.
fn group(instance: &str, address: SocketAddr) -> String {
    let (hex, last) = match address.ip() {
        IpAddr::V4(ip) => (format!("{:08x}", ip.to_bits()), ip.octets()[3]),
        IpAddr::V6(ip) => (format!("{:032x}", ip.to_bits()), ip.octets()[15]),
    };
    let hex: String = hex.chars().rev().collect();
    format!("{hex}_{}_flyloft_{instance}{}", address.port(), "_".repeat(usize::from(last % LENGTHS)))
}

#[cfg(test)]
mod tests {
    use super::super::bounds::USUAL;
    use super::super::{Apart, Http2, Shown, Tls};
    use super::*;
    use crate::certificate::Names;

    fn site<'a>(domain: &'a Domain, listen: &'a [SocketAddr]) -> Site<'a> {
        let (dir, secure, external, bounds) = ("/var/lib/flyloft/nginx", None, None, USUAL);
        Site { instance: "ab12cd", domain, listen, dir, secure, trusted: &[], external, bounds }
    }

    #[test]
    fn a_site_that_speaks_tls_leads_there_and_refuses_other_names() {
        let domain = Domain::parse("staging.example.org").unwrap();
        let (plain, encrypted) = (["[::]:80".parse().unwrap()], ["[::]:443".parse().unwrap()]);
        let secure = Some(Secure { listen: &encrypted, dir: "/var/lib/flyloft/nginx-tls" });
        let servers = |secure, told: &Told| {
            let text = Site { secure, ..site(&domain, &plain) }.http(told);
            text[text.find("server {\n").unwrap()..].to_owned()
        };
        let mut told = told(&[("shop-main.staging.example.org", "10.1.0.5:5000")]);
        let refusing = servers(secure, &told);
        // Without a certificate everything is as it is without TLS, but for who is refused.
        assert!(refusing.contains("ssl_reject_handshake") && refusing.ends_with(&servers(None, &told)), "{refusing}");
        let shown = |file: &str, name: &str| {
            let names = Names::new([name.to_owned()]);
            Shown::new(file.to_owned(), &names, &domain).unwrap()
        };
        let star = || vec![shown("star.pem", "*.staging.example.org")];
        told.tls = Tls { shown: star(), http2: Http2::Address, ..Tls::default() };
        insta::assert_snapshot!("a_certificate_for_all_host_names", servers(secure, &told));
        told.tls = Tls { shown: star(), http2: Http2::Server, ..Tls::default() };
        let newer = servers(secure, &told);
        let its = newer.matches("listen [::]:443 ssl;\n    http2 on;\n").count();
        assert!(its == 2 && !newer.contains(" ssl http2"), "{newer}");
        told.tls = Tls { shown: vec![shown("one.pem", "shop-main.staging.example.org")], ..Tls::default() };
        let hosts = ["shop-main.staging.example.org", "shop-pr-42.staging.example.org"].map(host_name);
        told.apart.insert(AppName::parse("shop").unwrap(), Apart { snippet: 1, hosts: hosts.into() });
        insta::assert_snapshot!("a_certificate_for_one_host_name_of_an_app_with_a_snippet", servers(secure, &told));
    }

    fn told(lines: &[(&str, &str)]) -> Told {
        let straight = lines.iter().map(|(host, address)| (host_name(host), address.parse().unwrap()));
        Told { straight: straight.collect(), ..Told::default() }
    }

    fn host_name(host: &str) -> HostName {
        HostName::parse(host).unwrap()
    }

    #[test]
    fn a_site_is_one_server_with_a_line_for_each_environment() {
        let domain = Domain::parse("staging.example.org").unwrap();
        let listen = ["[::]:80".parse().unwrap(), "192.0.2.1:8080".parse().unwrap()];
        let told = told(&[
            ("shop-main.staging.example.org", "10.1.0.5:5000"),
            ("shop-pr-42.staging.example.org", "[fd00::9]:3000"),
            ("an-app-of-a-very-long-name-with-a-branch-longer-still.staging.example.org", "10.1.0.6:5000"),
            ("shop-old.elsewhere.example.org", "10.1.0.5:5000"),
        ]);
        insta::assert_snapshot!(site(&domain, &listen).http(&told));
    }

    #[test]
    fn what_every_server_does_is_in_a_file_of_its_own() {
        let domain = Domain::parse("localhost").unwrap();
        let site = site(&domain, &[]);
        insta::assert_snapshot!([site.server(), site.pass(), site.headers(), site.proxy()].concat());
    }

    #[test]
    fn an_app_with_a_snippet_has_a_server_of_its_own() {
        let (domain, listen) = (Domain::parse("staging.example.org").unwrap(), ["[::1]:80".parse().unwrap()]);
        let mut told = told(&[("shop-main.staging.example.org", "10.1.0.5:5000")]);
        let hosts = ["shop-main.staging.example.org", "shop-pr-42.staging.example.org"].map(host_name);
        told.apart.insert(AppName::parse("shop").unwrap(), Apart { snippet: 1, hosts: hosts.into() });
        told.apart.insert(AppName::parse("blog").unwrap(), Apart::default());
        let text = site(&domain, &listen).http(&told);
        insta::assert_snapshot!(text[text.find("server {").unwrap()..]);
    }

    #[test]
    fn no_word_is_too_long_for_nginx() {
        let domain = Domain::parse(&format!("{0}.{0}.{0}", "d".repeat(62))).unwrap();
        let hosts = (0..40).map(|number| host_name(&format!("{}{number:02}.{domain}", "a".repeat(61))));
        let apart = Apart { snippet: 1, hosts: hosts.collect() };
        let told = Told { apart: [(AppName::parse("shop").unwrap(), apart)].into(), ..Told::default() };
        let text = site(&domain, &[]).http(&told);
        assert!(text.split(' ').all(|word| word.len() < 4096));
        assert_eq!(text.matches("(?:aaa").count(), 3);
    }

    #[test]
    fn groups_differ_in_length_or_in_the_first_letters_where_their_addresses_differ_at_the_end() {
        let name = |address: &str| group("ab12cd", address.parse().unwrap());
        assert_eq!(name("10.1.0.5:5000"), "500010a0_5000_flyloft_ab12cd_____");
        let of_one_length = (0..=255).filter(|last| name(&format!("10.1.0.{last}:5000")).len() == 33);
        assert_eq!(of_one_length.collect::<Vec<_>>(), [5, 69, 133, 197]);
        assert_ne!(name("10.1.0.5:5000")[..2], name("10.1.0.69:5000")[..2]);
        assert_ne!(name("10.1.0.5:5000"), name("10.1.0.5:5001"));
        assert!(name("[fd00::9]:3000").starts_with('9'));
    }
}
