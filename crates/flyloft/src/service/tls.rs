//! Encrypted connections to servers: whom they are believed, and what is told of those that are not.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;

use pem::{EncodeConfig, LineEnding, Pem};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};

use super::{Fault, Server, ServiceError};
use crate::tls::trust;

pub fn config(server: &Server) -> Result<ClientConfig, ServiceError> {
    let Some(named) = named(server)? else { return Ok(trust::client(trust::machine())) };
    let mut roots = RootCertStore::empty();
    for certificate in named {
        roots.add(certificate).map_err(|error| ServiceError::new(server, Fault::UnknownCa).said(error))?;
    }
    Ok(trust::client(roots))
}

/// Those who vouch for the server, where they were named.
pub fn named(server: &Server) -> Result<Option<Vec<CertificateDer<'static>>>, ServiceError> {
    let read = server.ca.as_deref().map(certificates).transpose();
    read.map_err(|said| ServiceError::new(server, Fault::UnknownCa).said(said))
}

/// The file by which what talks to the server in a container believes it. It has nothing but certificates, whatever else is
/// on record: an earlier version kept a key as well that was in the file that was named.
pub fn files(server: &Server) -> Result<BTreeMap<String, String>, ServiceError> {
    Ok(server.authority_file().zip(named(server)?.map(written)).into_iter().collect())
}

/// Certificates as a text of PEM, in which there is nothing else.
pub fn written(certificates: Vec<CertificateDer>) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    let written = |der: CertificateDer| pem::encode_config(&Pem::new("CERTIFICATE", der.to_vec()), config);
    certificates.into_iter().map(written).collect()
}

/// The certificates in a text of PEM, of which there is at least one.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if all.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

/// What there is to say of a connection that was not made, where encryption is the reason.
pub fn fault_of(error: &(dyn Error + 'static)) -> Option<Fault> {
    let mut source = Some(error);
    while let Some(error) = source {
        // An `io::Error` does not give what it is made of as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<rustls::Error>());
        match tls {
            // The latter where somebody of that name has another key.
            Some(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => return Some(Fault::UnknownCa),
            Some(rustls::Error::InvalidCertificate(_)) => return Some(Fault::Certificate),
            Some(rustls::Error::InvalidMessage(_)) => return Some(Fault::NoTls),
            _ => source = error.source(),
        }
    }
    None
}
