//! The key by which clients recognise this server. Made once and kept.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;

use super::SshError;

/// Its file in the state directory.
pub const FILE: &str = "ssh_host_key";

pub fn load_or_make(path: &Path) -> Result<PrivateKey, SshError> {
    if !path.exists() {
        make(path).map_err(|source| SshError::MakeKey { path: path.to_owned(), source })?;
    }
    russh::keys::load_secret_key(path, None).map_err(|source| SshError::ReadKey { path: path.to_owned(), source })
}

/// Written aside and renamed, so that a key that is there is whole.
fn make(path: &Path) -> io::Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let text = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_host_key_is_made_once_for_its_owner_alone_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh/host_key");
        let first = load_or_make(&path).unwrap();
        let second = load_or_make(&path).unwrap();
        assert_eq!(first.public_key(), second.public_key());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_host_key_is_an_error_and_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host_key");
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(load_or_make(&path), Err(SshError::ReadKey { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
    }
}
