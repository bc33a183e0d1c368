//! Listening sockets, which outlive the process: while anybody has one open, the kernel takes connections for it, and
//! they wait to be accepted.
//!
//! ```text
//!   LISTEN_FDS ──► inherited ──► doors, edge ──► a copy of each ─┬─ FDSTORE ──► systemd, for the next start
//!   FLYLOFT_SOCKETS ──┘                                          └─ exec ─────► the successor
//! ```
//!
//! systemd's come in as sd_listen_fds(3) describes, from descriptor 3 on; a predecessor's as [`Passed`] does. What must
//! hold: a socket that nobody uses any more is closed everywhere, since clients would wait in it for ever.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::config::{Config, EdgeKind};
use crate::edge::nginx;
use crate::exec::Passed;

/// What takes connections at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    Http,
    Https,
    Ssh,
    Commands,
    Metrics,
    /// nginx, with what does not go straight.
    Nginx,
    /// What nginx says of the rest. Nobody connects there.
    NginxLog,
    /// What is published of environments, TCP and UDP.
    Ports,
}

impl Use {
    const ALL: [Use; 8] =
        [Use::Http, Use::Https, Use::Ssh, Use::Commands, Use::Metrics, Use::Nginx, Use::NginxLog, Use::Ports];

    /// As it is called in LISTEN_FDNAMES.
    fn name(self) -> &'static str {
        match self {
            Use::Http => "http",
            Use::Https => "https",
            Use::Ssh => "ssh",
            Use::Commands => "commands",
            Use::Metrics => "metrics",
            Use::Nginx => "nginx",
            Use::NginxLog => "nginx-log",
            Use::Ports => "ports",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.name() == name)
    }
}

/// Sockets, and what each is for.
#[derive(Debug, Default)]
pub struct Sockets(Vec<(Use, OwnedFd)>);

impl Sockets {
    /// Those that this process was started with, from the program before it or from systemd. Must be asked once.
    pub fn inherited(passed: Option<&mut Passed>) -> Self {
        if let Some(passed) = passed {
            let of_use = |of: Use| passed.take(of.name()).into_iter().map(move |fd| (of, fd));
            return Self(Use::ALL.into_iter().flat_map(of_use).collect());
        }
        let named = match sd_notify::listen_fds_with_names() {
            Ok(named) => named,
            Err(error) => {
                tracing::warn!(%error, "failed to take the sockets that were handed over");
                return Self::default();
            }
        };
        // SAFETY: whoever started this process has opened them for it, and nothing else here takes them.
        let owned = named.map(|(fd, name): (RawFd, String)| (Use::of(&name), unsafe { OwnedFd::from_raw_fd(fd) }));
        // One of another name is closed.
        Self(owned.filter_map(|(of, fd)| of.map(|of| (of, fd))).collect())
    }

    /// Closes those at which this configuration has nobody listen, and removes their files. Must come before anything is
    /// opened: what is to be had now may conflict with them.
    pub fn suit(&mut self, config: &Config) {
        self.0.retain(|(of, fd)| match of {
            Use::Http => config.edge.kind == EdgeKind::Embedded && is_bound(fd, &config.http_addresses()),
            Use::Https => config.edge.kind == EdgeKind::Embedded && is_bound(fd, &config.https.listen),
            Use::Ssh => is_bound(fd, &config.ssh.listen),
            Use::Metrics => is_bound(fd, &config.metrics.listen),
            Use::Commands => is_at(fd, Some(&config.socket)),
            Use::Nginx => is_at(fd, nginx::files::expected(config, nginx::files::EDGE).as_deref()),
            Use::NginxLog => is_at(fd, nginx::files::expected(config, nginx::files::LOG).as_deref()),
            // Which are published is in the store.
            Use::Ports => true,
        });
    }

    /// The same sockets once more.
    pub fn copy(&self) -> io::Result<Self> {
        self.0.iter().map(|(of, fd)| Ok((*of, fd.try_clone()?))).collect::<io::Result<_>>().map(Self)
    }

    /// For the program that this process becomes.
    pub fn pass(self, passed: &mut Passed) {
        self.0.into_iter().for_each(|(of, fd)| passed.add(of.name(), fd));
    }

    /// Takes out those of one use.
    pub fn take(&mut self, of: Use) -> Vec<OwnedFd> {
        self.0.extract_if(.., |(its, _)| *its == of).map(|(_, fd)| fd).collect()
    }

    /// Adds a copy of each.
    pub fn keep<S: AsFd>(&mut self, of: Use, sockets: impl IntoIterator<Item = S>) -> io::Result<()> {
        for socket in sockets {
            self.0.push((of, socket.as_fd().try_clone_to_owned()?));
        }
        Ok(())
    }

    /// What the sockets are told apart by.
    pub fn inodes(&self) -> BTreeSet<u64> {
        let inode = |(_, fd): &(Use, OwnedFd)| nix::sys::stat::fstat(fd).ok().map(|stat| stat.st_ino);
        self.0.iter().filter_map(inode).collect()
    }

    /// Gives systemd a copy of each, for the next start of the service; `anew` to have it give up those that it has.
    /// Says whether there is a systemd that was told. See sd_notify(3), FDSTORE.
    pub fn store(&self, anew: bool) -> io::Result<bool> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(false) };
        let systemd = UnixDatagram::unbound()?;
        match path.as_encoded_bytes() {
            [b'@', name @ ..] => {
                systemd.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
            }
            _ => systemd.connect(&path)?,
        }
        for of in Use::ALL {
            let name = of.name();
            if anew {
                systemd.send(format!("FDSTOREREMOVE=1\nFDNAME={name}").as_bytes())?;
            }
            let own: Vec<RawFd> = self.0.iter().filter(|(its, _)| *its == of).map(|(_, fd)| fd.as_raw_fd()).collect();
            let text = format!("FDSTORE=1\nFDNAME={name}");
            for some in own.chunks(MOST) {
                let (text, rights) = ([IoSlice::new(text.as_bytes())], [ControlMessage::ScmRights(some)]);
                sendmsg::<()>(systemd.as_raw_fd(), &text, &rights, MsgFlags::empty(), None)?;
            }
        }
        Ok(true)
    }
}

/// A message takes 253 of them, see unix(7).
const MOST: usize = 250;

/// Whether a socket on `found` is what is wanted. Port 0 is any.
pub fn is_meant(wanted: SocketAddr, found: SocketAddr) -> bool {
    found == wanted || (wanted.port() == 0 && found.ip() == wanted.ip())
}

fn address(fd: &OwnedFd) -> Option<SocketAddr> {
    TcpListener::from(fd.try_clone().ok()?).local_addr().ok()
}

fn is_bound(fd: &OwnedFd, to: &[SocketAddr]) -> bool {
    address(fd).is_some_and(|found| to.iter().any(|wanted| is_meant(*wanted, found)))
}

/// Whether a unix socket is where one is wanted. The file of one that is not is removed.
fn is_at(fd: &OwnedFd, wanted: Option<&Path>) -> bool {
    match path(fd) {
        Some(path) if Some(path.as_path()) == wanted => path.exists(),
        path => {
            path.inspect(|path| drop(std::fs::remove_file(path)));
            false
        }
    }
}

/// Where a unix socket is.
fn path(fd: &OwnedFd) -> Option<PathBuf> {
    UnixListener::from(fd.try_clone().ok()?).local_addr().ok()?.as_pathname().map(Path::to_owned)
}

/// Takes the one that is meant out of those that were inherited.
pub fn claim(inherited: &mut Vec<OwnedFd>, wanted: SocketAddr) -> Option<TcpListener> {
    let at = inherited.iter().position(|fd| address(fd).is_some_and(|found| is_meant(wanted, found)))?;
    Some(inherited.swap_remove(at).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_claimed_by_its_address_and_only_once() {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = one.local_addr().unwrap();
        let other = TcpListener::bind("[::1]:0").unwrap();
        let mut inherited = vec![other.into(), one.into()];
        assert!(claim(&mut inherited, "127.0.0.1:1".parse().unwrap()).is_none());
        assert_eq!(claim(&mut inherited, address).unwrap().local_addr().unwrap(), address);
        assert!(claim(&mut inherited, address).is_none());
        assert!(claim(&mut inherited, "[::1]:0".parse().unwrap()).is_some());
    }

    #[test]
    fn only_sockets_that_the_configuration_has_are_kept_each_for_its_own_use() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        let commands = [UnixListener::bind(&old).unwrap(), UnixListener::bind(&new).unwrap()];
        let (http, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let mut sockets = Sockets::default();
        sockets.keep(Use::Commands, &commands).unwrap();
        sockets.keep(Use::Http, [&http, &other]).unwrap();
        sockets.keep(Use::Metrics, [&http]).unwrap();
        let mut config = Config { socket: new.clone(), ..Config::default() };
        config.http.listen = Some(vec![http.local_addr().unwrap()]);
        config.metrics.listen = vec![other.local_addr().unwrap()];
        sockets.suit(&config);
        let kept: Vec<_> = sockets
            .0
            .iter()
            .map(|(of, fd)| (*of, path(fd).or_else(|| address(fd).map(|a| a.to_string().into()))))
            .collect();
        let http = http.local_addr().unwrap().to_string().into();
        assert_eq!(kept, [(Use::Commands, Some(new.clone())), (Use::Http, Some(http))]);
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn a_copy_of_a_socket_is_the_same_socket() {
        let (one, two) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (mut before, mut after) = (Sockets::default(), Sockets::default());
        before.keep(Use::Http, [&one, &two]).unwrap();
        after.keep(Use::Http, [&two]).unwrap();
        assert!(!before.inodes().is_subset(&after.inodes()));
        assert!(after.inodes().is_subset(&before.inodes()));
    }
}
