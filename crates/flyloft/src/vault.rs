//! What is secret in the store is sealed with a key that lies beside it, so that a copy of the store alone opens nothing.
//!
//! ChaCha20-Poly1305 (RFC 8439) with a random nonce in front of each sealed text. What it is for is sealed along: a text
//! that was moved to another place in the store does not open there.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use thiserror::Error;

/// Its file in the state directory.
pub const FILE: &str = "secrets.key";

const KEY: usize = 32;

pub struct Vault {
    key: LessSafeKey,
    /// Of the same key, for what is made from it.
    root: hmac::Key,
}

#[derive(Debug, Error)]
pub enum VaultError {
    #[error("failed to read or make the key `{path}`")]
    File { path: String, source: io::Error },
    #[error("`{path}` holds no key")]
    NoKey { path: String },
    #[error("what is on record was sealed with another key than that in `{FILE}`")]
    Sealed,
}

impl Vault {
    /// Takes the key of a state directory, which is made if it is not there.
    pub fn open(state: &Path) -> Result<Self, VaultError> {
        let path = state.join(FILE);
        let name = || path.display().to_string();
        let failed = |source| VaultError::File { path: name(), source };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = crate::random::hex(KEY * 2);
                make(&path, &text).map_err(failed)?;
                text
            }
            read => read.map_err(failed)?,
        };
        let bytes = hex::decode(text.trim()).ok().filter(|bytes| bytes.len() == KEY);
        Ok(Self::of(&bytes.ok_or_else(|| VaultError::NoKey { path: name() })?))
    }

    fn of(bytes: &[u8]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("it has the length of such a key");
        // Where a key is random already, one HMAC is all of HKDF that is left (RFC 5869 section 3.3).
        let root = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        Self { key: LessSafeKey::new(key), root }
    }

    /// One for a purpose, of which the same holds as of [`Vault::derive`].
    pub fn under(&self, purpose: &str) -> Self {
        Self::of(&self.derive(purpose))
    }

    /// A key for a purpose, always the same, which says nothing of any other.
    pub fn derive(&self, purpose: &str) -> [u8; KEY] {
        let info = [b"flyloft ", purpose.as_bytes(), &[1]].concat();
        let key = hmac::sign(&self.root, &info);
        key.as_ref().try_into().expect("SHA-256 has the length of a key")
    }

    /// `what` says what it is: nothing else opens it.
    pub fn seal(&self, what: &str, secret: &str) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the kernel has random numbers");
        let mut text = secret.as_bytes().to_vec();
        let sealed = self.key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(what.as_bytes()),
            &mut text,
        );
        sealed.expect("nothing that is kept is too long for that");
        [&nonce[..], &text].concat()
    }

    pub fn open_sealed(&self, what: &str, sealed: &[u8]) -> Result<String, VaultError> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Sealed)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(what.as_bytes()), &mut text);
        let opened = opened.map_err(|_| VaultError::Sealed)?;
        String::from_utf8(opened.to_vec()).map_err(|_| VaultError::Sealed)
    }
}

/// Written aside and renamed, so that a key that is there is whole.
fn make(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(aside, path)?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_same_key_opens_what_was_sealed_for_the_same_purpose_and_no_other_does() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = Vault::open(dir.path()).unwrap().seal("server pg", "s3cret");
        assert!(!sealed.windows(6).any(|piece| piece == b"s3cret"));
        let vault = Vault::open(dir.path()).unwrap();
        assert_eq!(vault.open_sealed("server pg", &sealed).unwrap(), "s3cret");
        assert!(vault.open_sealed("server other", &sealed).is_err());
        assert!(vault.open_sealed("server pg", &sealed[..20]).is_err());
        let other = tempfile::tempdir().unwrap();
        assert!(Vault::open(other.path()).unwrap().open_sealed("server pg", &sealed).is_err());
    }

    #[test]
    fn a_key_that_is_made_is_always_the_same_for_one_purpose_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Vault::open(dir.path()).unwrap().derive("gate");
        let vault = Vault::open(dir.path()).unwrap();
        assert_eq!(vault.derive("gate"), gate);
        assert_ne!(vault.derive("other"), gate);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Vault::open(other.path()).unwrap().derive("gate"), gate);
    }

    #[test]
    fn nothing_is_sealed_in_the_same_way_twice() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        assert_ne!(vault.seal("server pg", "s3cret"), vault.seal("server pg", "s3cret"));
    }

    #[test]
    fn the_key_is_its_owners_alone_and_one_that_is_damaged_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Vault::open(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "").unwrap();
        assert!(matches!(Vault::open(dir.path()), Err(VaultError::NoKey { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
