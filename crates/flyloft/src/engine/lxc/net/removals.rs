//! Hears of what becomes of a table, by whomever: that it is removed, by `nft flush ruleset` or a restart of the host's
//! own firewall, and that something in it is changed. As long as nothing is heard it is as it was, and nobody has to look.
//!
//! The kernel tells everybody who listens on a netlink socket. Message types and attributes are from
//! `linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << (7 - 1);

/// `NFNL_SUBSYS_NFTABLES`, as the upper half of a message's type, and `NFT_MSG_DELTABLE`.
const SUBSYSTEM: u16 = 10;
const TABLE_REMOVED: u16 = SUBSYSTEM << 8 | 2;

/// `NFTA_TABLE_NAME`, and the same number in messages about what is in a table: `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`,
/// `NFTA_SET_TABLE`, `NFTA_SET_ELEM_LIST_TABLE`.
const NAME: u16 = 1;

/// `struct nlmsghdr` and, in a message, `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// What became of a table, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    #[default]
    Nothing,
    Changed,
    Removed,
}

pub struct Removals {
    socket: AsyncFd<OwnedFd>,
    heard: Mutex<Heard>,
}

impl Removals {
    pub fn listen() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        // SAFETY: an `OwnedFd` is the same open file until it is dropped.
        Ok(Self { socket: unsafe { AsyncFd::register(socket) }?, heard: Mutex::default() })
    }

    /// Returns when this table has been removed, or may have been.
    pub async fn of(&self, table: &str) -> io::Result<()> {
        loop {
            if *self.heard() == Heard::Removed {
                // It is not yet as it was.
                *self.heard() = Heard::Changed;
                return Ok(());
            }
            let mut guard = self.socket.readable().await?;
            if let Ok(heard) = guard.try_io(|_| self.hear(table)) {
                heard?;
            }
        }
    }

    /// Whether this table may be another one than it was when this was last asked.
    pub fn has_changed(&self, table: &str) -> bool {
        let heard = self.hear(table);
        std::mem::take(&mut *self.heard()) != Heard::Nothing || heard.is_err_and(|error| !is_over(&error))
    }

    /// This daemon has changed the table: what is said of that is no news. A removal is, in any case.
    pub fn expect(&self, table: &str) {
        // An error comes again when the table is next asked for.
        let _ = self.hear(table);
        let mut heard = self.heard();
        if *heard == Heard::Changed {
            *heard = Heard::Nothing;
        }
    }

    /// Reads until there is nothing more to read, which is an error as well.
    fn hear(&self, table: &str) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let news = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => heard(&buffer[..length], table),
                // More has happened than the socket holds.
                Err(Errno::ENOBUFS) => Heard::Removed,
                Err(error) => return Err(error.into()),
            };
            let mut heard = self.heard();
            *heard = news.max(*heard);
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_over(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// The worst of what the messages say about the table.
fn heard(mut messages: &[u8], table: &str) -> Heard {
    let mut worst = Heard::Nothing;
    while let Some((kind, content, rest)) = message(messages) {
        if kind >> 8 == SUBSYSTEM && name(content.get(GENERIC..).unwrap_or_default()) == Some(table.as_bytes()) {
            worst = worst.max(if kind == TABLE_REMOVED { Heard::Removed } else { Heard::Changed });
        }
        messages = rest;
    }
    worst
}

/// The first message's type and content, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let content = bytes.get(HEADER..length)?;
    Some((kind, content, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attribute that is a table's name.
fn name(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind == NAME {
            return value.strip_suffix(b"\0");
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message about a table: its use count, its name.
    fn about(kind: u16, table: &str) -> Vec<u8> {
        let mut name = [table.as_bytes(), b"\0"].concat();
        let length = 4 + name.len();
        name.resize(name.len().next_multiple_of(4), 0);
        let count = [8u16.to_ne_bytes(), 3u16.to_ne_bytes(), [0; 2], [1, 0]].concat();
        let head = [(length as u16).to_ne_bytes(), NAME.to_ne_bytes()].concat();
        let content = [vec![1, 0, 0, 0], count, head, name].concat();
        let length = (HEADER + content.len()) as u32;
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &content].concat()
    }

    #[test]
    fn what_becomes_of_this_table_is_found_among_what_becomes_of_others() {
        let heard = |messages: &[&[u8]]| heard(&messages.concat(), "flyloft_1f3a9c");
        // `NFT_MSG_NEWSETELEM`, and a message of another part of netfilter.
        let changed = about(SUBSYSTEM << 8 | 12, "flyloft_1f3a9c");
        let elsewhere = about(1 << 8 | 2, "flyloft_1f3a9c");
        let another = about(TABLE_REMOVED, "flyloft_1f3a9");
        let removed = about(TABLE_REMOVED, "flyloft_1f3a9c");
        assert_eq!(heard(&[&another, &elsewhere]), Heard::Nothing);
        assert_eq!(heard(&[&another, &changed]), Heard::Changed);
        assert_eq!(heard(&[&another, &removed, &changed]), Heard::Removed);
    }

    #[test]
    fn what_is_cut_short_or_nonsense_says_nothing() {
        let removed = about(TABLE_REMOVED, "flyloft_1f3a9c");
        for end in 0..removed.len() {
            assert_eq!(heard(&removed[..end], "flyloft_1f3a9c"), Heard::Nothing);
        }
        assert_eq!(heard(&[0; 64], "flyloft_1f3a9c"), Heard::Nothing);
    }
}
