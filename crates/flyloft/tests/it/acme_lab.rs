//! An ACME server and a DNS server of a test's own: Pebble, which looks for records in knot, which takes updates.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that people use")]

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use super::own_server::{OwnServer, certificate, free_port};

/// The key that knot takes updates with.
pub const KEY: &str = "flyloft";
const SECRET: &str = "c2VjcmV0IG9mIGEgdGVzdCwgYW5kIG9mIG5vdGhpbmc=";

pub struct Knot {
    own: OwnServer,
    address: SocketAddr,
}

pub struct Pebble {
    own: OwnServer,
    port: u16,
    management: u16,
    dns: SocketAddr,
    /// For how many seconds what it issues holds.
    holds: u32,
}

fn is_up(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Knot {
    /// The name server of this zone, with these records in it beside its own. It has the port of DNS, as name servers
    /// do, at an address that nobody else has.
    pub fn start(domain: &str, records: &str) -> Self {
        let mut own = OwnServer::new("root");
        loop {
            let [high, low] = free_port().to_be_bytes();
            let ip = Ipv4Addr::new(127, 53, high, low);
            let address = (ip, 53).into();
            if own.run(Self::command(&own, domain, ip, records), || is_up(address)) {
                own.write("secret", SECRET);
                own.write("wrong", "b3RoZXI=");
                return Self { own, address };
            }
        }
    }

    fn command(own: &OwnServer, domain: &str, ip: Ipv4Addr, records: &str) -> Command {
        let dir = own.path("").display().to_string();
        let head = format!("$ORIGIN {domain}.\n@ 60 IN SOA ns admin 1 3600 600 86400 60\n@ 60 IN NS ns\n");
        own.write("zone", &format!("{head}ns 60 IN A {ip}\n* 60 IN A 127.0.0.1\n{records}"));
        own.write(
            "knot.conf",
            &format!(
                "server:\n    listen: {ip}@53\n    rundir: {dir}\nlog:\n  - target: stderr\n    any: info\n\
                 database:\n    storage: {dir}\nkey:\n  - id: {KEY}\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
                 acl:\n  - id: ours\n    key: {KEY}\n    action: update\n\
                 zone:\n  - domain: {domain}\n    storage: {dir}\n    file: zone\n    zonefile-sync: -1\n    acl: ours\n"
            ),
        );
        let mut command = own.command("knotd");
        command.arg("-c").arg(own.path("knot.conf"));
        command
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it takes orders from its own tools.
    pub fn control(&self) -> PathBuf {
        self.own.path("knot.sock")
    }

    /// The file with the key's secret.
    pub fn secret(&self) -> PathBuf {
        self.own.path("secret")
    }

    /// One with another.
    pub fn wrong_secret(&self) -> PathBuf {
        self.own.path("wrong")
    }
}

impl Pebble {
    /// One that asks this DNS server, and comes by this port for proof over HTTP.
    pub fn start(dns: SocketAddr, http: u16) -> Self {
        Self::start_issuing(dns, http, 90 * 24 * 3600)
    }

    /// The same, and what it issues holds for so many seconds.
    pub fn start_issuing(dns: SocketAddr, http: u16, holds: u32) -> Self {
        let own = OwnServer::new("root");
        let [key, api] = certificate("localhost", "DNS:localhost");
        own.write("api.key", &key);
        own.write("api.pem", &api);
        let mut pebble = Self { own, port: 0, management: 0, dns, holds };
        loop {
            (pebble.port, pebble.management) = (free_port(), free_port());
            pebble.configure(http);
            if pebble.run() {
                return pebble;
            }
        }
    }

    fn configure(&self, http: u16) {
        let (port, management, holds) = (self.port, self.management, self.holds);
        let path = |name: &str| self.own.path(name).display().to_string();
        let (api, key) = (path("api.pem"), path("api.key"));
        self.own.write(
            "pebble.json",
            &format!(
                r#"{{"pebble": {{
                    "listenAddress": "127.0.0.1:{port}", "managementListenAddress": "127.0.0.1:{management}",
                    "certificate": "{api}", "privateKey": "{key}", "httpPort": {http}, "tlsPort": 5001,
                    "certificateValidityPeriod": {holds}
                }}}}"#
            ),
        );
    }

    fn run(&mut self) -> bool {
        let mut command = self.own.command("pebble");
        command.arg("-config").arg(self.own.path("pebble.json")).args(["-dnsserver", &self.dns.to_string()]);
        // It sleeps at random, and takes what it has judged before for another order.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let (api, management) = (local(self.port), local(self.management));
        self.own.run(command, || is_up(api) && is_up(management))
    }

    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// Who vouches for the server itself, not for what it issues.
    pub fn roots(&self) -> PathBuf {
        self.own.path("api.pem")
    }

    /// Who vouches for what it issues, in PEM.
    pub fn issuer(&self) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(self.roots());
        let got = curl.arg(format!("https://localhost:{}/roots/0", self.management)).output().unwrap();
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        String::from_utf8(got.stdout).unwrap()
    }

    pub fn stop(&mut self) {
        self.own.stop();
    }

    /// Starts it once more. It has forgotten everything.
    pub fn restart(&mut self) {
        self.own.stop();
        assert!(self.run(), "somebody has taken its ports");
    }

    /// What was ordered, since it began.
    pub fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }

    pub fn log(&self) -> String {
        self.own.log()
    }
}
