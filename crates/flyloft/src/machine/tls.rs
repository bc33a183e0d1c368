//! The certificates that are shown to clients, as their files are now.

use std::path::PathBuf;

use flyloft_core::certificate::{Names, Standing};

use crate::config::{CertificateFiles, Config};
use crate::tls::pair::date;
use crate::tls::{self, Pair, PairError, trust};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub certificates: Vec<Result<Certificate, PairError>>,
    /// Whether one of them is for every host name below the domain.
    pub covers_domain: bool,
}

/// One that is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub file: PathBuf,
    pub names: Names,
    pub standing: Standing,
    pub days_left: i64,
    /// In words for people.
    pub until: String,
    /// Whether somebody whom this machine trusts has issued it, and all between are in the file.
    pub trusted: bool,
    /// Who has issued it, where they are neither in the file nor trusted.
    pub lacks: Option<String>,
    /// Whether the daemon made or asked for it, and renews it.
    pub is_own: bool,
}

impl Tls {
    /// None where nobody speaks it.
    pub fn look(config: &Config) -> Option<Self> {
        if config.https.listen.is_empty() {
            return None;
        }
        let now = tls::now();
        let roots = trust::certificates();
        // The name of the instance is for making another one.
        let local = tls::Local::new(&config.state_dir, &config.domain, "");
        let look = |files: &CertificateFiles, is_own: bool| {
            Pair::load(files, now).map(|pair| Certificate {
                file: pair.files.certificate.clone(),
                standing: pair.validity.standing(now),
                days_left: pair.validity.days_left(now),
                until: date(pair.validity.until),
                trusted: pair.leads_to(roots.iter().cloned(), now).is_ok(),
                // Whoever trusts this server's own authority has its certificate.
                lacks: pair.lacks(|| roots.clone(), now).filter(|_| *files != local.files()),
                names: pair.names,
                is_own,
            })
        };
        let own = [local.asked(), local.files()].into_iter().filter(|files| files.certificate.exists());
        let named = config.tls.certificates.iter().map(|files| look(files, false));
        // There may be one for each environment, most of which are as they should be.
        let is_well = |looked: &Result<Certificate, _>| {
            looked.as_ref().is_ok_and(|one| one.standing == Standing::Good && one.lacks.is_none())
        };
        let hosts = local.hosts().into_iter().map(|host| look(&local.of_host(&host), true));
        let hosts = hosts.filter(|looked| !is_well(looked));
        let certificates: Vec<_> = named.chain(own.map(|files| look(&files, true))).chain(hosts).collect();
        let any = format!("any.{}", config.domain);
        let covers_domain = certificates.iter().flatten().any(|certificate| certificate.names.cover(&any));
        Some(Self { certificates, covers_domain })
    }
}
