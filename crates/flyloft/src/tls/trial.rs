//! Certificates for tests: authorities, and what they issue.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::Pair;
use crate::config::CertificateFiles;
use crate::exec::Cmd;

pub const DAY: i64 = 24 * 60 * 60;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate and those above it, but for the root.
    chain: String,
    pub root: CertificateDer<'static>,
    pub root_pem: String,
}

/// A certificate with those that issued it, and its key.
#[derive(Clone)]
pub struct Issued {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn root(name: &str) -> Self {
        let (params, key) = authority(name);
        let root = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), chain: String::new(), root: root.der().clone(), root_pem: root.pem() }
    }

    /// Nobody but this one.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        roots
    }

    /// Another one, which this one vouches for.
    pub fn vouches_for(&self, name: &str) -> Self {
        let (params, key) = authority(name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            chain: certificate.pem() + &self.chain,
            root: self.root.clone(),
            root_pem: self.root_pem.clone(),
        }
    }

    /// For a year.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_for(names, -1, 365)
    }

    /// The same for a key of RSA.
    pub async fn issue_rsa(&self, names: &[&str]) -> Issued {
        let made = Cmd::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        let key = String::from_utf8(made.run().await.unwrap().stdout).unwrap();
        let chain = self.vouch(names, (-1, 365), &KeyPair::from_pem(&key).unwrap());
        Issued { chain, key }
    }

    /// From and until so many days from now.
    pub fn issue_for(&self, names: &[&str], from: i64, until: i64) -> Issued {
        let key = KeyPair::generate().unwrap();
        Issued { chain: self.vouch(names, (from, until), &key), key: key.serialize_pem() }
    }

    /// The same for whoever has this key.
    pub fn vouch(&self, names: &[&str], (from, until): (i64, i64), key: &impl PublicKeyData) -> String {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now + Duration::days(from), now + Duration::days(until));
        params.signed_by(key, &self.issuer).unwrap().pem() + &self.chain
    }
}

/// Ciphers of TLS 1.2 as OpenSSL calls them, for a key of ECDSA and for one of RSA: those that are good, and some of those
/// that are not, since they sign what was said too late, keep nothing secret, or not for ever.
pub const CIPHERS: [(&[&str], &[&str]); 2] = [
    (
        &["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        &["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-NULL-SHA"],
    ),
    (
        &["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"],
        &["AES128-GCM-SHA256", "AES256-SHA", "ECDHE-RSA-AES128-SHA256", "ECDHE-RSA-NULL-SHA", "DHE-RSA-AES128-SHA"],
    ),
];

/// Asserts that whoever speaks TLS at this port of the machine speaks it with good ciphers alone.
pub async fn must_speak_well(port: u16, name: &str, (good, weak): (&[&str], &[&str])) {
    for cipher in good.iter().chain(weak) {
        let asked = Cmd::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", name, "-tls1_2", "-cipher"])
            .arg(format!("{cipher}:@SECLEVEL=0"))
            .run()
            .await;
        match asked {
            Ok(_) => assert!(good.contains(cipher), "{cipher} is spoken"),
            // The server has said so, and not a client that does not know the cipher.
            Err(error) => assert!(weak.contains(cipher) && error.tail().contains("alert handshake failure"), "{error}"),
        }
    }
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    (params, KeyPair::generate().unwrap())
}

impl Issued {
    /// Written down in files called so.
    pub fn files(&self, dir: &Path, name: &str) -> CertificateFiles {
        let files =
            CertificateFiles { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        std::fs::write(&files.certificate, &self.chain).unwrap();
        std::fs::write(&files.key, &self.key).unwrap();
        std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o600)).unwrap();
        files
    }

    pub fn pair(&self) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        Pair::load(&self.files(dir.path(), "it"), super::now()).unwrap()
    }
}
