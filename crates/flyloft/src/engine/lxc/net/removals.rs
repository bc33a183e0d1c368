//! Hears of tables that are removed, by whomever: `nft flush ruleset`, or a restart of the host's own firewall.
//!
//! The kernel tells everybody who listens on a netlink socket. Message types and attributes are from
//! `linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << (7 - 1);

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_DELTABLE`.
const TABLE_REMOVED: u16 = 10 << 8 | 2;

/// `NFTA_TABLE_NAME`
const NAME: u16 = 1;

/// `struct nlmsghdr` and, in a message, `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;

pub struct Removals(AsyncFd<OwnedFd>);

impl Removals {
    pub fn listen() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        // SAFETY: an `OwnedFd` is the same open file until it is dropped.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// Returns when this table has been removed, or may have been.
    pub async fn of(&self, table: &str) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|socket| Ok(recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?)) {
                Ok(Ok(length)) if removes(&buffer[..length], table) => return Ok(()),
                Ok(Ok(_)) | Err(_) => {}
                // More has happened than the socket holds.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

/// Whether one of the messages says that the table is gone.
fn removes(mut messages: &[u8], table: &str) -> bool {
    while let Some((kind, content, rest)) = message(messages) {
        if kind == TABLE_REMOVED && name(content.get(GENERIC..).unwrap_or_default()) == Some(table.as_bytes()) {
            return true;
        }
        messages = rest;
    }
    false
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
    fn the_removal_of_this_table_is_found_among_others() {
        let made = about(10 << 8, "flyloft_1f3a9c");
        let another = about(TABLE_REMOVED, "flyloft_1f3a9");
        let removed = about(TABLE_REMOVED, "flyloft_1f3a9c");
        assert!(!removes(&[made.clone(), another.clone()].concat(), "flyloft_1f3a9c"));
        assert!(removes(&[made, another, removed].concat(), "flyloft_1f3a9c"));
    }

    #[test]
    fn what_is_cut_short_or_nonsense_says_nothing() {
        let removed = about(TABLE_REMOVED, "flyloft_1f3a9c");
        for end in 0..removed.len() {
            assert!(!removes(&removed[..end], "flyloft_1f3a9c"));
        }
        assert!(!removes(&[0; 64], "flyloft_1f3a9c"));
    }
}
