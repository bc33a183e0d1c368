//! Whom the daemon believes where it asks others over TLS.

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::pair;

/// Those whom this machine believes.
pub fn machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates());
    roots
}

/// The same, as its certificates.
pub fn certificates() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

/// Asks those for whom one of these vouches.
pub fn client(roots: RootCertStore) -> ClientConfig {
    let versions = ClientConfig::builder_with_provider(pair::provider()).with_safe_default_protocol_versions();
    versions.expect("ring has what these versions need").with_root_certificates(roots).with_no_client_auth()
}
