//! Certificates for tests: authorities, and what they issue.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::Pair;
use crate::config::CertificateFiles;

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
