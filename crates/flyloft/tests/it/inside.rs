//! What an environment reaches of URLs, its own and its siblings': what anybody reaches who comes from elsewhere.

use std::path::Path;
use std::process::Command;

use crate::harness::{Flyloft, run};
use crate::servers::host_address;

/// An IPv6 address that the host has beside its own, for as long as this is held.
pub struct HostAddress(pub String);

impl HostAddress {
    pub fn add() -> Self {
        let address = format!("fd66:6c79:1e58::{:x}", std::process::id() & 0xffff);
        run(Command::new("ip").args(["-6", "address", "replace", &address, "dev", "lo", "nodad"]));
        Self(address)
    }
}

impl Drop for HostAddress {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["-6", "address", "delete", &self.0, "dev", "lo"]).status();
    }
}

/// Asks each of these hosts, where it is said to be, as a browser would. Prints a line for each.
const ASK: &str = r#"
import http.client, json, socket, ssl, sys
targets, ca = json.loads(sys.argv[1])
for scheme, address, port, host in targets:
    stream = socket.create_connection((address, port), 60)
    if scheme == "https":
        context = ssl.create_default_context(cadata=ca)
        # A certificate that is its own issuer is none to the letter.
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        stream = context.wrap_socket(stream, server_hostname=host)
    client = http.client.HTTPConnection(host, port)
    client.sock = stream
    client.request("GET", "/")
    answer = client.getresponse()
    print(answer.status, answer.getheader("location") or answer.read().decode())
"#;

/// Where the hosts are: over plain HTTP, and over TLS with a certificate that this authority vouches for, if there is some.
pub struct Doors<'a> {
    pub plain: u16,
    pub secure: Option<(u16, &'a Path)>,
}

/// Asserts that an environment reaches these hosts by the server's addresses of both families, and what they answer.
#[track_caller]
pub fn must_reach(flyloft: &Flyloft, env: &str, hosts: &[&str], doors: &Doors<'_>, answer: &str) {
    let ipv6 = HostAddress::add();
    let (mut targets, mut wanted) = (Vec::new(), Vec::new());
    for address in [host_address(), ipv6.0.clone()] {
        for host in hosts {
            targets.push(("http", address.clone(), doors.plain, *host));
            let led = doors.secure.map(|(port, _)| format!("308 https://{host}:{port}/"));
            wanted.push(led.unwrap_or_else(|| format!("200 {answer}")));
            if let Some((port, _)) = doors.secure {
                targets.push(("https", address.clone(), port, *host));
                wanted.push(format!("200 {answer}"));
            }
        }
    }
    let ca = doors.secure.map(|(_, ca)| std::fs::read_to_string(ca).unwrap());
    let asked = serde_json::to_string(&(&targets, ca)).unwrap();
    let said = flyloft.ok(&["run", env, "--", "python3", "-c", ASK, &asked]);
    let said: Vec<&str> = said.lines().collect();
    let is_so = said.len() == wanted.len() && said.iter().zip(&wanted).all(|(said, wanted)| said.starts_with(wanted));
    assert!(is_so, "{targets:?}: {said:?}");
}
