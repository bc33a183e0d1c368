//! A certificate with its key, as they are in two files. Everything about them is looked at before they are used.

use std::borrow::Borrow;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flyloft_core::certificate::{Names, Standing, Validity};
use instant_acme::CertificateIdentifier;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, Der, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};
use sha2::{Digest, Sha256};
use thiserror::Error;
use time::OffsetDateTime;
use time::macros::format_description;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectAltName};

use crate::config::CertificateFiles;

/// A file of certificates has no more than this.
const LARGEST: u64 = 1 << 20;

/// What others may do with a key's file (chmod(2)).
const BY_OTHERS: u32 = 0o007;

/// A certificate that can be shown to clients.
#[derive(Clone, Debug)]
pub struct Pair {
    pub files: CertificateFiles,
    pub names: Names,
    /// Of the whole chain.
    pub validity: Validity,
    pub certified: Arc<CertifiedKey>,
    pub texts: Arc<Texts>,
}

/// The bytes of both files, to tell whether they have changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What both files were when they were last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark([u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PairError {
    #[error("failed to read `{}`: {why}", .path.display())]
    Read { path: PathBuf, why: String },
    #[error("`{}` is no file of certificates or keys: it is larger than 1 MiB", .path.display())]
    TooLarge { path: PathBuf },
    #[error("others on this machine may read or write the key `{}`: its mode is {mode:03o}", .path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("`{}` is not PEM: {why}", .path.display())]
    NotPem { path: PathBuf, why: String },
    #[error("there is no certificate in `{}`", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("certificate {at} in `{}` cannot be read: {why}", .path.display())]
    Malformed { path: PathBuf, at: usize, why: String },
    #[error("there is no private key in `{}`", .path.display())]
    NoKey { path: PathBuf },
    #[error("the key `{}` is encrypted with a passphrase", .path.display())]
    Encrypted { path: PathBuf },
    #[error("the key `{}` cannot be used: {why}", .path.display())]
    BadKey { path: PathBuf, why: String },
    #[error("the key `{}` does not belong to the certificate `{}`", .key.display(), .certificate.display())]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("the certificate `{}` is for no host name", .path.display())]
    Nameless { path: PathBuf },
    #[error(
        "certificate {at} in `{}` is that of `{subject}`, and the one before it was issued by `{issuer}`", .path.display()
    )]
    OutOfOrder { path: PathBuf, at: usize, subject: String, issuer: String },
    #[error("the certificates in `{}` did not issue each other: a signature is not that of the next one", .path.display())]
    Forged { path: PathBuf },
    #[error("the certificate `{}` expired on {}; it is {} by this machine's clock", .path.display(), date(.until), date(.now))]
    Expired { path: PathBuf, until: i64, now: i64 },
    #[error(
        "the certificate `{}` is not valid before {}; it is {} by this machine's clock", .path.display(), date(.from),
        date(.now)
    )]
    NotYet { path: PathBuf, from: i64, now: i64 },
}

impl PairError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            PairError::Read { .. } | PairError::TooLarge { .. } => {
                "say where certificates and keys are with `certificates` in `[tls]` of the configuration".to_owned()
            }
            PairError::Open { path, .. } => format!("chmod 600 {}", path.display()),
            PairError::NotPem { .. } | PairError::Malformed { .. } | PairError::NoCertificate { .. } => {
                "it is to have the certificate and behind it those that issued it, each from `-----BEGIN CERTIFICATE-----` \
                 to `-----END CERTIFICATE-----`"
                    .to_owned()
            }
            PairError::NoKey { .. } | PairError::BadKey { .. } => {
                "it is to have the private key, from `-----BEGIN PRIVATE KEY-----` to `-----END PRIVATE KEY-----`: \
                 an ECDSA, RSA or Ed25519 key"
                    .to_owned()
            }
            PairError::Encrypted { path } => format!("openssl pkey -in {} -out a file of mode 600", path.display()),
            PairError::Mismatch { .. } => "take the key with which this certificate was asked for".to_owned(),
            PairError::Nameless { .. } => "ask for one with the host names as subject alternative names".to_owned(),
            PairError::OutOfOrder { .. } | PairError::Forged { .. } => {
                "put the certificate first, behind it the one that issued it, and so on".to_owned()
            }
            PairError::Expired { .. } => "renew it; if it is the clock that is wrong, set that".to_owned(),
            PairError::NotYet { .. } => "set the machine's clock, if that is wrong".to_owned(),
        }
    }

    /// Whether time alone is the matter.
    pub fn is_about_time(&self) -> bool {
        matches!(self, PairError::Expired { .. } | PairError::NotYet { .. })
    }
}

impl fmt::Display for Mark {
    /// Enough of it to tell files apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..12].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Texts {
    /// The key is nobody's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Texts").finish_non_exhaustive()
    }
}

impl Texts {
    /// Of files that are not written yet.
    pub fn new(certificate: &str, key: &str) -> Self {
        Self { certificate: certificate.into(), key: key.into() }
    }

    pub fn read(files: &CertificateFiles) -> Result<Self, PairError> {
        let (certificate, _) = read(&files.certificate)?;
        let (key, mode) = read(&files.key)?;
        match mode & BY_OTHERS {
            0 => Ok(Self { certificate, key }),
            _ => Err(PairError::Open { path: files.key.clone(), mode: mode & 0o777 }),
        }
    }

    /// The certificate with those behind it, and its key, as they are in the files.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        (&self.certificate, &self.key)
    }

    pub fn mark(&self) -> Mark {
        let both = Sha256::new().chain_update(&self.certificate).chain_update([0_u8]).chain_update(&self.key);
        Mark(both.finalize().into())
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, u32), PairError> {
    let failed = |error: std::io::Error| PairError::Read { path: path.to_owned(), why: error.to_string() };
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    // One that never ends, or that somebody has to write first.
    if !about.is_file() {
        return Err(PairError::Read { path: path.to_owned(), why: "it is not a file".to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(PairError::TooLarge { path: path.to_owned() }),
        false => Ok((bytes, about.permissions().mode())),
    }
}

impl Pair {
    /// Reads both files, and judges what is in them.
    pub fn load(files: &CertificateFiles, now: i64) -> Result<Self, PairError> {
        Self::judge(files, &Texts::read(files)?, now)
    }

    /// What is in the files is fit for use at this time.
    pub fn judge(files: &CertificateFiles, texts: &Texts, now: i64) -> Result<Self, PairError> {
        let path = &files.certificate;
        let chain = certificates(path, &texts.certificate)?;
        let parsed = parsed(path, &chain)?;
        let certified = certified(files, chain, &texts.key)?;
        let names = names(&parsed[0]).ok_or_else(|| PairError::Nameless { path: path.clone() })?;
        in_order(path, &parsed)?;
        let (certified, texts) = (Arc::new(certified), Arc::new(texts.clone()));
        let pair = Self { files: files.clone(), names, validity: validity(&parsed), certified, texts };
        pair.holds(now)?;
        if let Some((last, _)) = pair.certified.cert.split_last().filter(|(_, others)| !others.is_empty()) {
            use CertificateError::{BadSignature, UnknownIssuer};
            // What else there is to say of it is for clients to say.
            if let Err(BadSignature | UnknownIssuer) = pair.leads_to([last.clone()], now) {
                return Err(PairError::Forged { path: path.clone() });
            }
        }
        Ok(pair)
    }

    /// Whether it holds at this time.
    pub fn holds(&self, now: i64) -> Result<(), PairError> {
        let (path, Validity { from, until }) = (self.files.certificate.clone(), self.validity);
        match self.validity.standing(now) {
            Standing::Good | Standing::Soon { .. } => Ok(()),
            Standing::Expired => Err(PairError::Expired { path, until, now }),
            Standing::NotYet => Err(PairError::NotYet { path, from, now }),
        }
    }

    /// By what its issuer knows it, in words of renewal (RFC 9773 section 4.1): the issuer's key, and its number.
    pub fn renewal_id(&self) -> Option<CertificateIdentifier<'static>> {
        let certificate = Certificate::from_der(self.certified.cert.first()?).ok()?;
        let (_, issuer) = certificate.tbs_certificate.get::<AuthorityKeyIdentifier>().ok()??;
        let (issuer, number) = (issuer.key_identifier?, &certificate.tbs_certificate.serial_number);
        let der = |bytes: &[u8]| Der::from(bytes.to_vec());
        Some(CertificateIdentifier::new(der(issuer.as_bytes()), der(number.as_bytes())))
    }

    /// Who has issued it, where their certificate is not in the file and they are none of those that are `trusted`. What is
    /// its own issuer lacks none.
    pub fn lacks(&self, trusted: impl FnOnce() -> Vec<CertificateDer<'static>>, now: i64) -> Option<String> {
        use CertificateError::{BadSignature, UnknownIssuer};
        let [own] = &self.certified.cert[..] else { return None };
        let own = Certificate::from_der(own).ok()?.tbs_certificate;
        if own.issuer == own.subject {
            return None;
        }
        matches!(self.leads_to(trusted(), now), Err(BadSignature | UnknownIssuer)).then(|| own.issuer.to_string())
    }

    /// Whether a client that trusts these and nobody else would believe it.
    pub fn leads_to(
        &self,
        trusted: impl IntoIterator<Item = CertificateDer<'static>>,
        now: i64,
    ) -> Result<(), CertificateError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let verifier = verifier.map_err(|_| CertificateError::UnknownIssuer)?;
        let Some((own, others)) = self.certified.cert.split_first() else { return Err(CertificateError::BadEncoding) };
        let name = self.names.iter().find_map(|name| ServerName::try_from(name.replace('*', "a")).ok());
        let name = name.ok_or(CertificateError::NotValidForName)?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.max(0) as u64));
        match verifier.verify_server_cert(own, others, &name, &[], now) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(error)) => Err(error),
            Err(_) => Err(CertificateError::ApplicationVerificationFailure),
        }
    }
}

/// The one that this program has.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(PairError::NoCertificate { path: path.to_owned() }),
        Ok(all) => Ok(all),
        Err(error) => Err(PairError::NotPem { path: path.to_owned(), why: unlike_pem(&error) }),
    }
}

fn unlike_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section does not begin like one".to_owned(),
        pem::Error::Base64Decode(_) => "what is in a section is not base64".to_owned(),
        error => error.to_string(),
    }
}

fn parsed(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Vec<Certificate>, PairError> {
    let malformed = |at: usize, why: String| PairError::Malformed { path: path.to_owned(), at: at + 1, why };
    let parse = |(at, der): (usize, &CertificateDer<'_>)| {
        Certificate::from_der(der).map_err(|error| malformed(at, error.to_string()))
    };
    chain.iter().enumerate().map(parse).collect()
}

fn certified(
    files: &CertificateFiles,
    chain: Vec<CertificateDer<'static>>,
    text: &[u8],
) -> Result<CertifiedKey, PairError> {
    let path = || files.key.clone();
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        // In the name of the section, or in a header of OpenSSL's older kind.
        _ if text.windows(9).any(|window| window == b"ENCRYPTED") => PairError::Encrypted { path: path() },
        pem::Error::NoItemsFound => PairError::NoKey { path: path() },
        error => PairError::NotPem { path: path(), why: unlike_pem(&error) },
    })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            PairError::Mismatch { certificate: files.certificate.clone(), key: path() }
        }
        rustls::Error::InvalidCertificate(error) => {
            PairError::Malformed { path: files.certificate.clone(), at: 1, why: error.to_string() }
        }
        rustls::Error::General(why) => PairError::BadKey { path: path(), why },
        error => PairError::BadKey { path: path(), why: error.to_string() },
    })
}

/// Whose certificate the first one in a text is, as far as it can be told.
pub fn subject(text: &[u8]) -> Option<String> {
    let der = CertificateDer::from_pem_slice(text).ok()?;
    Certificate::from_der(&der).ok().map(|certificate| certificate.tbs_certificate.subject.to_string())
}

/// The host names, if there is any.
fn names(certificate: &Certificate) -> Option<Names> {
    let (_, names) = certificate.tbs_certificate.get::<SubjectAltName>().ok()??;
    let dns = names.0.into_iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
        _ => None,
    });
    Some(Names::new(dns)).filter(|names| !names.is_empty())
}

/// Each is issued by the one behind it.
fn in_order(path: &Path, chain: &[Certificate]) -> Result<(), PairError> {
    for (at, pair) in chain.windows(2).enumerate() {
        let (issuer, subject) = (&pair[0].tbs_certificate.issuer, &pair[1].tbs_certificate.subject);
        if issuer != subject {
            let (issuer, subject) = (issuer.to_string(), subject.to_string());
            return Err(PairError::OutOfOrder { path: path.to_owned(), at: at + 2, subject, issuer });
        }
    }
    Ok(())
}

/// Of all of them together. Whether a root is still valid is up to who trusts it.
fn validity(chain: &[Certificate]) -> Validity {
    let is_root = |at: usize| at > 0 && chain[at].tbs_certificate.issuer == chain[at].tbs_certificate.subject;
    let each = chain.iter().enumerate().filter(|(at, _)| !is_root(*at)).map(|(_, certificate)| {
        let validity = certificate.tbs_certificate.validity;
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs() as i64;
        Validity { from: seconds(validity.not_before), until: seconds(validity.not_after) }
    });
    each.reduce(Validity::and).unwrap_or(Validity { from: 0, until: 0 })
}

/// A moment as people write it.
pub fn date(at: impl Borrow<i64>) -> String {
    let shape = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    let at = OffsetDateTime::from_unix_timestamp(*at.borrow()).ok();
    at.and_then(|at| at.format(shape).ok()).unwrap_or_else(|| "an unknown day".to_owned())
}

#[cfg(test)]
mod tests;
