//! An authority of this server's own, for trying TLS out. Nobody believes it before somebody tells their machine to, and
//! it can vouch for names below the domain alone, so that trusting it costs nothing else.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flyloft_core::certificate::Validity;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use thiserror::Error;
use time::OffsetDateTime;

use super::Pair;
use crate::config::CertificateFiles;

const DAY: i64 = 24 * 60 * 60;

/// For how many days the authority holds, and what it issues: some clients believe nothing that holds for longer than
/// 398 days.
const AUTHORITY: i64 = 3650;
const CERTIFICATE: i64 = 397;

/// Whoever looks may have a clock that is behind.
const BEFORE: i64 = 1;

/// Where its files are, and for whom it vouches.
#[derive(Clone, Debug)]
pub struct Local {
    dir: PathBuf,
    domain: String,
    /// Tells this server's authority from those of others.
    instance: String,
}

/// What it has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The authority as well, and not only what it issues.
    pub anew: bool,
    /// What people are to trust.
    pub authority: PathBuf,
    pub names: Vec<String>,
    pub until: i64,
}

#[derive(Debug, Error)]
pub enum LocalError {
    #[error("no client believes a certificate for `*.{0}`")]
    TopLevel(String),
    #[error("failed to write `{}`", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to remove `{}`", .path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("failed to make a certificate")]
    Make(#[from] rcgen::Error),
}

impl Local {
    pub fn new(state_dir: &Path, domain: &str, instance: &str) -> Self {
        Self { dir: state_dir.join("tls"), domain: domain.to_owned(), instance: instance.to_owned() }
    }

    /// Its own certificate, which is no secret.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("local-ca.pem")
    }

    fn authority_key(&self) -> PathBuf {
        self.dir.join("local-ca.key")
    }

    /// What it has issued for the domain, if it has.
    pub fn files(&self) -> CertificateFiles {
        CertificateFiles { certificate: self.dir.join("local.pem"), key: self.dir.join("local.key") }
    }

    /// What an ACME server has issued for the domain, if it has.
    pub fn asked(&self) -> CertificateFiles {
        CertificateFiles { certificate: self.dir.join("acme.pem"), key: self.dir.join("acme.key") }
    }

    fn hosts_dir(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// The same for one host name.
    pub fn of_host(&self, host: &str) -> CertificateFiles {
        let file = |kind: &str| self.hosts_dir().join(format!("{host}.{kind}"));
        CertificateFiles { certificate: file("pem"), key: file("key") }
    }

    /// The host names that there are files for.
    pub fn hosts(&self) -> Vec<String> {
        let files = fs::read_dir(self.hosts_dir()).into_iter().flatten().flatten();
        let host = |name: &str| Some(name.strip_suffix(".pem")?.to_owned());
        let mut hosts: Vec<String> = files.filter_map(|file| host(file.file_name().to_str()?)).collect();
        hosts.sort();
        hosts
    }

    /// Removes the files of a host name.
    pub fn forget_host(&self, host: &str) -> Result<(), LocalError> {
        let CertificateFiles { certificate, key } = self.of_host(host);
        for path in [key, certificate] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(LocalError::Remove { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes a certificate for the domain, by the authority that is there or a new one.
    pub fn make(&self, now: i64) -> Result<Made, LocalError> {
        // As curl, Firefox and rustls have it, a `*` needs two labels behind it.
        if !self.domain.contains('.') {
            return Err(LocalError::TopLevel(self.domain.clone()));
        }
        let failed = |source| LocalError::Write { path: self.dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(&self.dir).map_err(failed)?;
        let known = self.issuer()?;
        let anew = known.is_none();
        let issuer = known.map_or_else(|| self.found(now), Ok)?;
        let names = vec![format!("*.{}", self.domain), self.domain.clone()];
        let mut params = CertificateParams::new(names.clone())?;
        params.distinguished_name.push(DnType::CommonName, self.domain.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let until = hold(&mut params, now, CERTIFICATE);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        write_pair(&self.files(), &certificate.pem(), &key.serialize_pem())?;
        Ok(Made { anew, authority: self.authority(), names, until })
    }

    /// Makes another certificate where there is one of which two thirds of the time have passed, or that is not for the
    /// domain any more. Says whether it did.
    pub fn renew_if_due(&self, now: i64) -> Result<bool, LocalError> {
        let files = self.files();
        if !files.certificate.exists() {
            return Ok(false);
        }
        let is_fresh = Pair::load(&files, now).is_ok_and(|pair| {
            let Validity { from, until } = pair.validity;
            until - now > (until - from) / 3 && pair.names.cover(&format!("any.{}", self.domain))
        });
        match is_fresh {
            true => Ok(false),
            false => self.make(now).map(|_| true),
        }
    }

    /// The authority that is there, if it is for this domain.
    fn issuer(&self) -> Result<Option<Issuer<'static, KeyPair>>, LocalError> {
        let read = |path: PathBuf| match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LocalError::Read { path, source }),
        };
        let (Some(certificate), Some(key)) = (read(self.authority())?, read(self.authority_key())?) else {
            return Ok(None);
        };
        let subject = super::pair::subject(certificate.as_bytes());
        if subject != Some(format!("CN={}", self.name())) {
            return Ok(None);
        }
        Ok(Some(Issuer::new(self.params(), KeyPair::from_pem(&key)?)))
    }

    /// Makes the authority itself.
    fn found(&self, now: i64) -> Result<Issuer<'static, KeyPair>, LocalError> {
        let (mut params, key) = (self.params(), KeyPair::generate()?);
        hold(&mut params, now, AUTHORITY);
        let certificate = params.self_signed(&key)?;
        write(&self.authority_key(), &key.serialize_pem(), 0o600)?;
        write(&self.authority(), &certificate.pem(), 0o644)?;
        Ok(Issuer::new(params, key))
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.name());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(self.domain.clone())],
            excluded_subtrees: Vec::new(),
        });
        params
    }

    /// What browsers list it as.
    fn name(&self) -> String {
        format!("Flyloft {} for {}", self.instance, self.domain)
    }
}

/// Has it hold from about now on for so many days. Gives the end, in seconds since 1970.
fn hold(params: &mut CertificateParams, now: i64, days: i64) -> i64 {
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let until = now + (days - BEFORE) * DAY;
    (params.not_before, params.not_after) = (at(now - BEFORE * DAY), at(until));
    until
}

/// Keeps a certificate, and its key for root alone.
pub fn write_pair(files: &CertificateFiles, chain: &str, key: &str) -> Result<(), LocalError> {
    let dir = files.key.parent().unwrap_or(Path::new("/"));
    let failed = |source| LocalError::Write { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
    write(&files.key, key, 0o600)?;
    write(&files.certificate, chain, 0o644)
}

/// Whole or not at all, and for others only where the mode says so.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), LocalError> {
    let written = || {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    written().map_err(|source| LocalError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::tls::now;

    fn root(local: &Local) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(&fs::read(local.authority()).unwrap()).unwrap()
    }

    #[test]
    fn what_it_makes_is_believed_by_who_trusts_it_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let local = Local::new(dir.path(), "staging.example.org", "1f3a9c");
        let made = local.make(now()).unwrap();
        assert!(made.anew);
        let trusted = root(&local);
        let pair = Pair::load(&local.files(), now()).unwrap();
        assert_eq!(pair.names.to_string(), "*.staging.example.org, staging.example.org");
        assert_eq!(pair.validity.until, made.until);
        pair.leads_to([trusted.clone()], now()).unwrap();
        for key in ["local-ca.key", "local.key"] {
            assert_eq!(fs::metadata(dir.path().join("tls").join(key)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let again = local.make(now()).unwrap();
        assert!(!again.anew, "whoever trusts it would have to trust another");
        Pair::load(&local.files(), now()).unwrap().leads_to([trusted], now()).unwrap();
    }

    #[test]
    fn it_vouches_for_its_domain_alone() {
        let dir = tempfile::tempdir().unwrap();
        let local = Local::new(dir.path(), "staging.example.org", "1f3a9c");
        local.make(now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["www.example.com".to_owned()]).unwrap();
        let forged = params.signed_by(&key, &local.issuer().unwrap().unwrap()).unwrap();
        let files = local.files();
        fs::write(&files.certificate, forged.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        let believed = Pair::load(&files, now()).unwrap().leads_to([root(&local)], now());
        assert!(matches!(believed, Err(CertificateError::Other(_))), "{believed:?}");
    }

    #[test]
    fn it_is_renewed_in_time_and_when_the_domain_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let local = Local::new(dir.path(), "staging.example.org", "1f3a9c");
        assert!(!local.renew_if_due(now()).unwrap(), "nobody has asked for it");
        local.make(now()).unwrap();
        assert!(!local.renew_if_due(now() + 250 * DAY).unwrap());
        assert!(local.renew_if_due(now() + 270 * DAY).unwrap());
        assert!(!local.renew_if_due(now() + 270 * DAY).unwrap());
        let before = root(&local);
        let moved = Local::new(dir.path(), "stage.example.org", "1f3a9c");
        assert!(moved.renew_if_due(now()).unwrap());
        assert_ne!(root(&moved), before, "it could not vouch for another domain");
        let pair = Pair::load(&moved.files(), now()).unwrap();
        pair.leads_to([root(&moved)], now()).unwrap();
    }

    #[test]
    fn what_no_client_would_believe_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Local::new(dir.path(), "localhost", "1f3a9c").make(now()).unwrap_err();
        assert_eq!(refused.to_string(), "no client believes a certificate for `*.localhost`");
        assert!(!dir.path().join("tls").exists());
    }
}
