//! The ports that the daemon listens on, and who has them now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use flyloft_core::port::Protocol;

use super::read;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub address: SocketAddr,
    /// What it is for: `HTTP`, `SSH`.
    pub door: &'static str,
    /// The process that listens there now.
    pub holder: Option<Holder>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// As in `/proc/PID/comm`.
    pub name: String,
    /// Whether it is the daemon of a state directory: it has the lock there open. Its name tells nothing.
    pub ours: bool,
}

/// Whether a process has this file open.
fn has_open(pid: u32, file: &Path) -> bool {
    let id = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let Some(wanted) = id(file) else { return false };
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.map(|fd| id(&fd.path())).any(|found| found == Some(wanted))
}

/// The process that listens at a unix socket of this name, and whether it is the one that has the `lock`.
pub fn look_at(path: &Path, lock: &Path) -> Option<Holder> {
    unix_listener(&read("/proc/net/unix"), path).map(|inode| holder(inode, lock))
}

/// The same for TCP.
pub fn look(door: &'static str, addresses: &[SocketAddr], lock: &Path) -> Vec<Port> {
    let listeners: Vec<Listener> =
        ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(|table| bound(&read(table), &[LISTENS])).collect();
    let port = |address: &SocketAddr| Port {
        address: *address,
        door,
        holder: listeners.iter().find(|listener| conflict(*address, listener.address)).map(|l| holder(l.inode, lock)),
    };
    addresses.iter().map(port).collect()
}

/// The process that has a port of this host, on whatever address, so that nobody else can have it on all.
pub fn holder_of(protocol: Protocol, port: u16, lock: &Path) -> Option<Holder> {
    let states: &[&str] = match protocol {
        Protocol::Tcp => &[LISTENS],
        // Connected to somebody, and not.
        Protocol::Udp => &["01", "07"],
    };
    let tables = ["", "6"].map(|family| read(format!("/proc/net/{protocol}{family}")));
    let found = tables.iter().flat_map(|table| bound(table, states)).find(|bound| bound.address.port() == port);
    found.map(|bound| holder(bound.inode, lock))
}

/// As `/proc/net/tcp` calls it: see `tcp_states.h` of the kernel.
const LISTENS: &str = "0A";

#[derive(Debug, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    inode: u64,
}

/// A connection of the host's own: whom it leads to, and the socket on this side.
#[derive(Debug, PartialEq, Eq)]
pub struct Connection {
    pub to: SocketAddr,
    pub inode: u64,
}

/// Every TCP connection of this network namespace on which something may still be said.
pub fn connections() -> Vec<Connection> {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(|table| connected(&read(table))).collect()
}

/// Whether a socket on one of these addresses keeps another from listening on the other. `[::]` takes both families.
fn conflict(a: SocketAddr, b: SocketAddr) -> bool {
    let wild = |address: SocketAddr| address.ip().is_unspecified();
    let covers = |a: SocketAddr, b: SocketAddr| wild(a) && (a.is_ipv6() || b.is_ipv4());
    a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

/// The sockets in one of these states of `/proc/net/tcp` and its like, whose addresses are hexadecimal words in the
/// machine's byte order.
fn bound(table: &str, states: &[&str]) -> Vec<Listener> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = states.contains(fields.get(3)?);
        listens.then_some(Listener { address: parse_address(fields.get(1)?)?, inode: fields.get(9)?.parse().ok()? })
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Those in state ESTABLISHED (01), SYN_SENT (02) or CLOSE_WAIT (08).
fn connected(table: &str) -> Vec<Connection> {
    let row = |line: &str| {
        // There may be many, so no more of a line is looked at than need be.
        let mut fields = line.split_whitespace().skip(2);
        let to = fields.next()?;
        if !matches!(fields.next()?, "01" | "02" | "08") {
            return None;
        }
        Some(Connection { to: parse_address(to)?, inode: fields.nth(5)?.parse().ok()? })
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    Some(SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?))
}

/// The socket of `/proc/net/unix` that listens (`__SO_ACCEPTCON`) and is called so, see proc_net(5).
fn unix_listener(table: &str, path: &Path) -> Option<u64> {
    let row = |line: &str| {
        let (fields, name) = line.split_at(line.find('/')?);
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let listens = fields.get(3) == Some(&"00010000") && Path::new(name) == path;
        fields.get(6).filter(|_| listens)?.parse().ok()
    };
    table.lines().skip(1).find_map(row)
}

fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            let bytes: [u8; 16] = words.try_into().ok()?;
            let address = Ipv6Addr::from(bytes);
            Some(address.to_ipv4_mapped().map_or(address.into(), IpAddr::from))
        }
        _ => None,
    }
}

/// The process that has the socket open. Another user's is found by root only. systemd keeps copies of a service's
/// sockets, so of several it is the one that has least to do with it.
fn holder(inode: u64, lock: &Path) -> Holder {
    let wanted = format!("socket:[{inode}]");
    let has = |pid: &u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|target| target.as_os_str() == wanted.as_str())
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pid = pids.filter(has).max_by_key(|pid| (*pid != 1, std::cmp::Reverse(*pid)));
    let name = pid.map(|pid| read(format!("/proc/{pid}/comm")).trim().to_owned());
    let name = name.unwrap_or_else(|| "a process that only root can see".to_owned());
    Holder { pid: pid.unwrap_or(0), name, ours: pid.is_some_and(|pid| has_open(pid, lock)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_on_a_port_is_named() {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
        let lock = Path::new("/nonexistent");
        let found = look("HTTP", &[everywhere, address], lock);
        assert_eq!(found.len(), 2);
        for port in found {
            let holder = port.holder.expect("somebody listens");
            assert_eq!(holder.pid, std::process::id());
            assert!(!holder.name.is_empty());
        }
        drop(listener);
        assert_eq!(look("HTTP", &[address], lock)[0].holder, None);
    }

    #[test]
    fn whoever_has_a_port_is_named_whatever_it_speaks_and_wherever() {
        let lock = Path::new("/nonexistent");
        let pid = |protocol, port| holder_of(protocol, port, lock).map(|holder| holder.pid);
        let (tcp, udp) =
            (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), std::net::UdpSocket::bind("[::1]:0").unwrap());
        let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
        assert_eq!(pid(Protocol::Tcp, tcp_port), Some(std::process::id()));
        assert_eq!(pid(Protocol::Udp, udp_port), Some(std::process::id()));
        drop((tcp, udp));
        assert_eq!((pid(Protocol::Tcp, tcp_port), pid(Protocol::Udp, udp_port)), (None, None));
    }

    #[test]
    fn a_connection_is_found_for_as_long_as_something_may_be_said_on_it() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(listen).unwrap();
            let address = listener.local_addr().unwrap();
            let is_connected = || connections().iter().any(|connection| connection.to == address);
            assert!(!is_connected());
            let client = std::net::TcpStream::connect(address).unwrap();
            let inode = nix::sys::stat::fstat(&client).unwrap().st_ino;
            assert!(connections().contains(&Connection { to: address, inode }));
            let (server, _) = listener.accept().unwrap();
            drop(server);
            assert!(is_connected(), "only the other side is closed");
            drop(client);
            assert!(!is_connected());
        }
    }

    #[test]
    fn whoever_listens_at_a_path_is_known_by_what_it_has_open() {
        let dir = tempfile::tempdir().unwrap();
        let (path, lock) = (dir.path().join("a socket"), dir.path().join("lock"));
        assert_eq!(look_at(&path, &lock), None);
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let holder = look_at(&path, &lock).expect("somebody listens");
        assert_eq!((holder.pid, holder.ours), (std::process::id(), false));
        let _lock = std::fs::File::create(&lock).unwrap();
        assert!(look_at(&path, &lock).expect("it still does").ours);
        assert!(!has_open(1, &lock));
    }

    #[test]
    fn only_sockets_that_exclude_each_other_conflict() {
        let on = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(conflict(on("[::]:80"), on("127.0.0.1:80")));
        assert!(conflict(on("0.0.0.0:80"), on("127.0.0.1:80")));
        assert!(conflict(on("[::1]:80"), on("[::]:80")));
        assert!(!conflict(on("0.0.0.0:80"), on("[::1]:80")));
        assert!(!conflict(on("[::]:80"), on("[::]:81")));
        assert!(!conflict(on("127.0.0.1:80"), on("127.0.0.2:80")));
    }
}
