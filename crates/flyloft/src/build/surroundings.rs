//! What a build step sees of the host's surroundings: certificate authorities, and variables for a proxy or a mirror.
//! Nothing of it becomes part of a layer or reaches the running app.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use flyloft_core::plan::HOME;

/// What does not become part of a layer.
pub const SCRATCH: &str = "/home/app/surroundings";

/// Every program that the package managers use and that does not read Debian's own bundle by itself.
const CA_VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
    "YARN_HTTPS_CA_FILE_PATH",
    "BUNDLE_SSL_CA_CERT",
    "COMPOSER_CAFILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
];

#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Certificates in PEM.
    authorities: Option<Vec<u8>>,
    variables: BTreeMap<String, String>,
}

impl Surroundings {
    /// `bundle` need not be there: Debian's own authorities are enough for most.
    pub fn read(bundle: &Path, variables: &BTreeMap<String, String>) -> io::Result<Self> {
        let authorities = match std::fs::read(bundle) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read?),
        };
        Ok(Self { authorities, variables: variables.clone() })
    }

    pub fn env(&self) -> BTreeMap<String, String> {
        let ca = CA_VARIABLES.iter().filter(|_| self.authorities.is_some());
        let ca = ca.map(|name| ((*name).to_owned(), self.bundle_path()));
        let home = [("HOME".to_owned(), HOME.to_owned())];
        ca.chain(home).chain(self.variables.clone()).collect()
    }

    pub fn files(&self) -> Option<(String, Vec<u8>)> {
        self.authorities.clone().map(|pem| (self.bundle_path(), pem))
    }

    fn bundle_path(&self) -> String {
        format!("{SCRATCH}/ca.pem")
    }
}
