//! What the container's system needs before anything runs: its name, and whom to ask for names.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::spec::Spec;

/// Answered by the host at the other end of the container's link, by its first and its second resolver.
const RESOLV_CONF: &str = "nameserver 169.254.1.1\nnameserver 169.254.1.2\noptions edns0 timeout:3\n";

/// Does it all; gives back, for the log, what did not work. The container runs all the same.
pub fn prepare(spec: &Spec) -> Vec<String> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let mut complaints = Vec::new();
    let mut note = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            complaints.push(format!("failed to {what}: {error}"));
        }
    };
    note("set the host name", set_hostname(&spec.hostname));
    note("write `/etc/hostname`", replace("/etc/hostname", &format!("{}\n", spec.hostname)));
    note("write `/etc/hosts`", replace("/etc/hosts", &hosts(&spec.hostname, &spec.addresses)));
    note("write `/etc/resolv.conf`", replace("/etc/resolv.conf", RESOLV_CONF));
    complaints
}

fn set_hostname(name: &str) -> io::Result<()> {
    if nix::unistd::gethostname()? == *name {
        return Ok(());
    }
    Ok(nix::unistd::sethostname(name)?)
}

/// A new file in the place of the old one, which an image may have left as a link to somewhere else.
fn replace(path: &str, content: &str) -> io::Result<()> {
    let path = Path::new(path);
    let aside = path.with_extension("flyloft");
    let _ = fs::remove_file(&aside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&aside)?;
    file.write_all(content.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(&aside, path)
}

/// An app that listens on its own host name must be reachable: that name is no loopback address if there is another.
fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let own = if addresses.is_empty() { &[IpAddr::V4([127, 0, 1, 1].into())] } else { addresses };
    for address in own {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_name_stands_for_the_addresses_of_the_container() {
        assert_eq!(
            hosts("shop-main", &["10.213.0.7".parse().unwrap(), "fd00:1::7".parse().unwrap()]),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.213.0.7\tshop-main\nfd00:1::7\tshop-main\n"
        );
        assert!(hosts("h", &[]).ends_with("127.0.1.1\th\n"));
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("resolv.conf"));
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        replace(link.to_str().unwrap(), "new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
