//! A machine of its own in a network namespace: a host, containers' ends of links, and an internet.
//!
//! ```text
//!   container ── fl1f3a9c0 ─ host ─ up0 ── internet (203.0.113.80, 2001:db8:80::80, and what is private)
//! ```
//!
//! Links are as LXC makes them in router mode. Everything is gone with the namespaces, that is with the test.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

use super::super::super::slots::Slot;
use super::super::{NetConfig, Network};
use crate::engine::{Addresses, Reach};
use crate::exec::Cmd;

/// How long a connection may take. Where it is refused it takes no time, and only dropped packets take it all.
const PATIENCE: Duration = Duration::from_millis(700);

/// The internet's addresses: public ones, and those that must be out of reach.
pub const PUBLIC: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];
pub const PRIVATE: [&str; 7] = [
    "10.99.0.1",
    "192.168.7.7",
    "100.64.0.1",
    "169.254.169.254",
    "fd12:3456:789a::1",
    "64:ff9b::a9fe:a9fe",
    "::ffff:0:0",
];
pub const RESOLVER: &str = "10.99.0.53";
/// The host's own addresses, on its uplink.
pub const HOST: [&str; 2] = ["198.51.100.2", "2001:db8:f::2"];
/// The internet's end of the uplink.
pub const ROUTER: [&str; 2] = ["198.51.100.1", "2001:db8:f::1"];

/// A network namespace, for as long as it is held.
pub struct Space(File);

pub struct Lab {
    pub internet: Space,
}

pub struct Container {
    pub space: Space,
    pub slot: Slot,
    pub addresses: Addresses,
}

/// Runs a test in a namespace of its own, which is the host's.
pub fn lab<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send) {
    let host = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
        // Its threads are started from here, and so in this namespace; tests may block theirs.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async { test(Lab::new().await).await });
    };
    thread::scope(|scope| scope.spawn(host).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

pub fn slot(n: u16) -> Slot {
    serde_json::from_value(n.into()).unwrap()
}

pub fn config() -> NetConfig {
    NetConfig {
        ipv4: "10.213.0.0".parse().unwrap(),
        ipv6: "fd66:6c79:6c66::".parse().unwrap(),
        dns: vec![RESOLVER.parse().unwrap()],
        edge_ports: vec![8080],
    }
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

impl Space {
    fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            trust_addresses();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let space = Self(thread::spawn(make).join().unwrap());
        space.ip(&["link set lo up"]);
        space
    }

    /// As `ip` is told of it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does something on a thread that is in this namespace.
    pub fn enter<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let there = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            what()
        };
        thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn ip(&self, commands: &[&str]) {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(ip(commands));
        });
    }

    /// Whom the other side says it is talking to, if there is a connection.
    pub fn connect(&self, to: SocketAddr) -> Option<IpAddr> {
        self.enter(|| connect(to))
    }

    /// Answers TCP connections with the caller's address, until the test ends.
    pub fn serve(&self, address: SocketAddr) {
        let listener = self.enter(|| TcpListener::bind(address).unwrap());
        serve(listener);
    }

    pub fn udp(&self, address: SocketAddr) -> UdpSocket {
        self.enter(|| udp(address))
    }
}

/// Addresses are unique here: nobody needs to wait for that to be found out.
fn trust_addresses() {
    std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
}

pub fn udp(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

pub fn connect(to: SocketAddr) -> Option<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.parse().ok()
}

pub async fn ip(commands: &[&str]) {
    for command in commands {
        Cmd::new("ip").args(command.split_whitespace()).run().await.unwrap();
    }
}

impl Lab {
    async fn new() -> Self {
        trust_addresses();
        let internet = Space::new();
        ip(&[
            "link set lo up",
            &format!("link add up0 type veth peer name up0 netns {}", internet.path()),
            "addr add 198.51.100.2/24 dev up0",
            "addr add 2001:db8:f::2/64 dev up0 nodad",
            "link set up0 up",
            "route add default via 198.51.100.1",
            "-6 route add default via 2001:db8:f::1 dev up0",
        ])
        .await;
        internet.ip(&[
            "addr add 198.51.100.1/24 dev up0",
            "addr add 2001:db8:f::1/64 dev up0 nodad",
            "link set up0 up",
        ]);
        for address in PUBLIC.iter().chain(&PRIVATE).chain([&RESOLVER]).filter(|address| **address != "::ffff:0:0") {
            let length = if address.contains(':') { "128 nodad" } else { "32" };
            internet.ip(&[&format!("addr add {address}/{length} dev lo")]);
        }
        for port in [25, 53, 80, 5432] {
            internet.serve(at("::", port));
        }
        // Links find their neighbours only a while after they are up.
        let deadline = Instant::now() + Duration::from_secs(20);
        while ROUTER.iter().any(|router| connect(at(router, 80)).is_none()) {
            assert!(Instant::now() < deadline, "there is no internet");
        }
        Self { internet }
    }

    /// A container's end of a link, which nobody has admitted yet.
    pub async fn container(&self, network: &Network, n: u16) -> Container {
        let (slot, space) = (slot(n), Space::new());
        let (addresses, link) = (slot.addresses(&config()), network.link(slot));
        let Addresses { ipv4, ipv6 } = addresses;
        ip(&[
            &format!("link add {link} type veth peer name eth0 netns {}", space.path()),
            &format!("link set {link} up"),
            &format!("route add {ipv4}/32 dev {link}"),
            &format!("-6 route add {ipv6}/128 dev {link}"),
            &format!("neigh add proxy 169.254.1.1 dev {link}"),
            &format!("-6 neigh add proxy fe80::1 dev {link}"),
        ])
        .await;
        for (setting, value) in
            [("ipv6/conf", "proxy_ndp=1"), ("ipv4/neigh", "proxy_delay=0"), ("ipv6/neigh", "proxy_delay=0")]
        {
            let (name, value) = value.split_once('=').unwrap();
            std::fs::write(format!("/proc/sys/net/{setting}/{link}/{name}"), value).unwrap();
        }
        space.ip(&[
            &format!("addr add {ipv4}/32 dev eth0"),
            &format!("addr add {ipv6}/128 dev eth0 nodad"),
            "link set eth0 addrgenmode none",
            "link set eth0 up",
            "addr add fe80::2/64 dev eth0 nodad",
            "route add 169.254.1.1 dev eth0",
            "route add default via 169.254.1.1 dev eth0",
            "-6 route add default via fe80::1 dev eth0",
        ]);
        Container { space, slot, addresses }
    }

    /// A container as the engine starts it.
    pub async fn admitted(&self, network: &Network, n: u16, allow: &[SocketAddr]) -> Container {
        let container = self.container(network, n).await;
        container.admit(network, allow).await;
        container
    }
}

impl Container {
    pub async fn admit(&self, network: &Network, allow: &[SocketAddr]) {
        network.admit(self.slot, &self.addresses, &Reach { allow: allow.to_vec() }).await.unwrap();
    }
}
