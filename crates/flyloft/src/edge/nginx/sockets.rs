//! Who is connected to an app, beside this process: nginx, whatever of it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::machine::ports::{Connection, connections};

/// Many may ask at once, and an answer costs as much as the host has connections.
const FRESH: Duration = Duration::from_millis(20);

/// Addresses that others are connected to, as of the last look.
#[derive(Default)]
pub struct Sockets(Mutex<Option<(Instant, HashSet<SocketAddr>)>>);

impl Sockets {
    /// Whether somebody is connected to it now, or was a moment ago, but not before `since`.
    pub fn open_to(&self, address: SocketAddr, since: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(at, _)| *at < since || at.elapsed() > FRESH) {
            *last = Some((Instant::now(), open()));
        }
        last.as_ref().is_some_and(|(_, open)| open.contains(&address))
    }
}

/// Addresses that others than this process are connected to.
pub fn open() -> HashSet<SocketAddr> {
    let own = own();
    connections().into_iter().filter(|Connection { inode, .. }| !own.contains(inode)).map(|found| found.to).collect()
}

/// The sockets of this process.
fn own() -> HashSet<u64> {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let inode = |target: std::path::PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    open.filter_map(|fd| inode(std::fs::read_link(fd.path()).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_of_this_process_do_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        assert!(connections().iter().any(|found| found.to == address));
        assert!(!open().contains(&address));
        assert!(!Sockets::default().open_to(address, Instant::now()));
        drop(client);
    }
}
