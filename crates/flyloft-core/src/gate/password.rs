//! The password of a gate. On record is what it takes time to guess against (argon2id, RFC 9106); once it has been said
//! rightly, it is known by a signature, which takes none.

use std::fmt;
use std::sync::OnceLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

use super::Key;

/// As on record: a string that says how it was made (a PHC string). By default that takes 19 MiB and some 20 ms.
#[derive(Clone, PartialEq, Eq)]
pub struct Hashed(pub String);

impl Hashed {
    pub fn new(password: &str, salt: &[u8; 16]) -> Self {
        let hash: PasswordHash = Argon2::default()
            .hash_password_with_salt(password.as_bytes(), salt)
            .expect("a salt and parameters of the usual length are in order");
        Self(hash.to_string())
    }

    fn is_of(&self, password: &[u8]) -> bool {
        let verified = |hash| Argon2::default().verify_password(password, &hash);
        PasswordHash::new(&self.0).is_ok_and(|hash| verified(hash).is_ok())
    }
}

pub(super) struct Password {
    hashed: Hashed,
    /// With another password, what this one has opened is shut.
    pub key: Key,
    /// The signature of the right one.
    right: OnceLock<Vec<u8>>,
}

impl Password {
    pub fn new(hashed: Hashed, key: &Key) -> Self {
        let key = key.under(b"password", hashed.0.as_bytes());
        Self { hashed, key, right: OnceLock::new() }
    }

    /// Whether it is the right one, where that takes no work.
    pub fn knows(&self, password: &[u8]) -> Option<bool> {
        Some(self.key.is_signature(self.right.get()?, password))
    }

    /// The same, with as much work as it takes.
    pub fn finds(&self, password: &[u8]) -> bool {
        if let Some(known) = self.knows(password) {
            return known;
        }
        let is_right = self.hashed.is_of(password);
        if is_right {
            self.right.get_or_init(|| self.key.signature(password));
        }
        is_right
    }
}

/// It is nobody's to see.
impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hashed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        let key = Key::new(&[7; 32], 3, "shop-main.example.org", 0);
        Password::new(Hashed::new(text, &[9; 16]), &key)
    }

    #[test]
    fn a_password_is_known_without_work_once_it_has_been_said() {
        let password = password("correct horse");
        assert_eq!(password.knows(b"correct horse"), None);
        assert!(!password.finds(b"correct hors"));
        assert_eq!(password.knows(b"correct horse"), None, "a wrong one teaches nothing");
        assert!(password.finds(b"correct horse"));
        assert_eq!(password.knows(b"correct horse"), Some(true));
        assert_eq!(password.knows(b"correct horse "), Some(false));
        assert!(!password.finds(b""));
    }

    #[test]
    fn what_is_on_record_says_neither_the_password_nor_that_two_are_the_same() {
        let Hashed(text) = Hashed::new("correct horse", &[1; 16]);
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_ne!(text, Hashed::new("correct horse", &[2; 16]).0);
        assert!(!Hashed("damaged".to_owned()).is_of(b"damaged"));
    }
}
