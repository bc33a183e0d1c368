//! The certificates that are shown to clients.

use flyloft_core::certificate::Standing;

use super::Check;
use crate::config::{Config, Proof};
use crate::machine::tls::{Certificate, Tls};

const RENEW: &str = "renew it; the new files are taken within a minute";

pub fn judge(tls: Option<&Tls>, config: &Config) -> Vec<Check> {
    let Some(tls) = tls else { return Vec::new() };
    let mut checks: Vec<Check> = tls
        .certificates
        .iter()
        .map(|looked| match looked {
            Ok(certificate) => judge_one(certificate),
            Err(error) => Check::problem("tls", error.to_string(), error.hint()),
        })
        .collect();
    // Or each host name is to have its own.
    if !tls.covers_domain && config.acme.proof != Proof::Http {
        let remedy = match config.acme.proof {
            Proof::None => {
                "name one, and its key, with `certificates` in `[tls]` of the configuration, or make one for trying out: \
                 flyloft tls local-ca"
            }
            _ => "see why none was obtained: flyloft tls check",
        };
        let what = format!("no certificate that can be used is for `*.{}`, so clients are refused", config.domain);
        checks.push(Check::problem("tls", what, remedy));
    }
    checks
}

fn judge_one(certificate: &Certificate) -> Check {
    let Certificate { file, names, standing, days_left, until, trusted, lacks, is_own } = certificate;
    let (file, days) = (file.display(), if *days_left == 1 { "day" } else { "days" });
    match (standing, lacks) {
        (Standing::Soon { .. }, _) => Check::warning(
            "tls",
            format!("`{file}` for {names} expires in {days_left} {days}, on {until}"),
            if *is_own { "see why it is not renewed: flyloft tls check" } else { RENEW },
        ),
        (_, Some(issuer)) => Check::warning(
            "tls",
            format!(
                "`{file}` for {names} was issued by `{issuer}`, whose certificate is not behind it, so most clients do not \
                 believe it"
            ),
            format!(
                "append the certificates of those that issued it; if `{issuer}` is an authority of your own, have this \
                 machine trust it"
            ),
        ),
        _ if !trusted => Check::warning(
            "tls",
            format!(
                "`{file}` for {names} was issued by nobody whom this machine trusts; it holds for {days_left} {days}"
            ),
            "append the certificates of those that issued it; if that is an authority of your own, trust it",
        ),
        _ => Check::ok("tls", format!("`{file}` for {names} holds for {days_left} {days}")),
    }
}
