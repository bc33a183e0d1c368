//! Listening sockets, which outlive the process: while anybody has one open, the kernel takes connections for it, and
//! they wait to be accepted.
//!
//! ```text
//!   LISTEN_FDS ──► inherited ──► doors, edge ──► a copy of each ─┬─ FDSTORE ──► systemd, for the next start
//!   FLYLOFT_SOCKETS ──┘                                          └─ exec ─────► the successor
//! ```
//!
//! systemd's come in as sd_listen_fds(3) describes, from descriptor 3 on. A predecessor's keep the numbers that they have:
//! its threads may still work with others. What must hold: a socket that nobody uses any more is closed everywhere, since
//! clients would wait in it for ever.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// What takes connections at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    Http,
    Ssh,
    Commands,
    Metrics,
}

impl Use {
    const ALL: [Use; 4] = [Use::Http, Use::Ssh, Use::Commands, Use::Metrics];

    /// As it is called in LISTEN_FDNAMES.
    fn name(self) -> &'static str {
        match self {
            Use::Http => "http",
            Use::Ssh => "ssh",
            Use::Commands => "commands",
            Use::Metrics => "metrics",
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
    /// Those that this process was started with. They are there once; asked again, there are none.
    pub fn inherited() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Self::default();
        }
        if let Some(passed) = std::env::var(PASSED).ok().and_then(|passed| Self::passed_to(std::process::id(), &passed))
        {
            return passed;
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

    /// Those that a predecessor has open for the process of this id, as [`Sockets::passed`] says it.
    fn passed_to(own: u32, passed: &str) -> Option<Self> {
        let (pid, sockets) = passed.split_once(' ')?;
        if pid.parse() != Ok(own) {
            return None;
        }
        let socket = |named: &str| {
            let (name, number) = named.split_once('=')?;
            let number: RawFd = number.parse().ok()?;
            let close = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
            // SAFETY: it is borrowed for this call, which fails where nothing is open.
            nix::fcntl::fcntl(unsafe { BorrowedFd::borrow_raw(number) }, close).ok()?;
            // SAFETY: the predecessor has left it open for this process, and nothing else here takes it.
            Some((Use::of(name)?, unsafe { OwnedFd::from_raw_fd(number) }))
        };
        Some(Self(sockets.split(' ').filter_map(socket).collect()))
    }

    /// The variable by which this process, once it runs another program, finds them.
    pub fn passed(&self) -> (&'static str, String) {
        let named = self.0.iter().map(|(of, fd)| format!(" {}={}", of.name(), fd.as_raw_fd()));
        (PASSED, format!("{}{}", std::process::id(), named.collect::<String>()))
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

    pub fn into_files(self) -> Vec<OwnedFd> {
        self.0.into_iter().map(|(_, fd)| fd).collect()
    }
}

/// The process that they are for, and what each is for with its number: `4711 http=12 ssh=14`.
const PASSED: &str = "FLYLOFT_SOCKETS";

/// A message takes 253 of them, see unix(7).
const MOST: usize = 250;

/// Whether a socket on `found` is what is wanted. Port 0 is any.
pub fn is_meant(wanted: SocketAddr, found: SocketAddr) -> bool {
    found == wanted || (wanted.port() == 0 && found.ip() == wanted.ip())
}

/// Takes the one that is meant out of those that were inherited.
pub fn claim(inherited: &mut Vec<OwnedFd>, wanted: SocketAddr) -> Option<TcpListener> {
    let address = |fd: &OwnedFd| fd.try_clone().ok().and_then(|fd| TcpListener::from(fd).local_addr().ok());
    let at = inherited.iter().position(|fd| address(fd).is_some_and(|found| is_meant(wanted, found)))?;
    Some(inherited.swap_remove(at).into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

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
    fn a_successor_finds_the_sockets_that_are_for_it_and_a_child_does_not() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut kept = Sockets::default();
        kept.keep(Use::Ssh, [&socket]).unwrap();
        let (_, passed) = kept.passed();
        let numbers: Vec<RawFd> = kept.into_files().into_iter().map(IntoRawFd::into_raw_fd).collect();
        assert_eq!(passed, format!("{} ssh={}", std::process::id(), numbers[0]));
        assert!(Sockets::passed_to(std::process::id() + 1, &passed).is_none());
        let found = Sockets::passed_to(std::process::id(), &format!("{passed} http=1048575 other")).unwrap();
        assert!(matches!(&found.0[..], [(Use::Ssh, fd)] if fd.as_raw_fd() == numbers[0]), "{found:?}");
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
