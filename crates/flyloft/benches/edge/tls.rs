//! TLS 1.3 and HTTP/2, by the same certificate at both. The load is `h2load`'s.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flyloft::config::CertificateFiles;
use flyloft::edge::embedded::SecureConfig;
use flyloft::exec::Cmd;
use flyloft::tls::{self, Certificates, Pair};

use crate::nginx;
use crate::wrk::Load;

const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// Makes one for this host, which is its own issuer.
pub async fn certificate(dir: &Path, host: &str) -> Result<()> {
    let made = Cmd::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "30"])
        .args(["-subj", "/CN=flyloft", "-addext", &format!("subjectAltName=DNS:{host}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out"])
        .arg(dir.join(CERTIFICATE))
        .arg("-keyout")
        .arg(dir.join(KEY));
    made.run().await.context("failed to make a certificate")?;
    Ok(())
}

/// How the edge shows it.
pub fn config(dir: &Path, listen: SocketAddr) -> Result<SecureConfig> {
    let files = CertificateFiles { certificate: dir.join(CERTIFICATE), key: dir.join(KEY) };
    let certificates = Certificates::new()?;
    certificates.set([&Pair::load(&files, tls::now())?]);
    Ok(SecureConfig { listen: vec![listen], inherited: Vec::new(), certificates })
}

/// How nginx does, as a careful administrator has it do so.
pub fn nginx(dir: &Path) -> nginx::Tls {
    let dir = dir.display();
    let lines = format!(
        "ssl_certificate {dir}/{CERTIFICATE};
            ssl_certificate_key {dir}/{KEY};
            ssl_protocols TLSv1.2 TLSv1.3;
            ssl_prefer_server_ciphers off;
            ssl_session_cache shared:tls:10m;"
    );
    nginx::Tls { options: "ssl http2", lines }
}

/// Asks for `path` of `host` over so many connections, with so many requests at a time on each. What is not TLS 1.3 and
/// HTTP/2, or an answer that is not 200, is an error.
pub async fn load(
    address: SocketAddr,
    host: &str,
    path: &str,
    (connections, streams): (u32, u32),
    round: Duration,
) -> Result<Load> {
    let output = Cmd::new("h2load")
        .args(["--threads=1", &format!("--clients={connections}"), &format!("--max-concurrent-streams={streams}")])
        .arg(format!("--duration={}", round.as_secs()))
        .arg(format!("--connect-to={address}"))
        .arg(format!("https://{host}{path}"))
        .run()
        .await
        .context("failed to run `h2load`")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let has = |words: &str| said.contains(words);
    ensure!(has("TLS Protocol: TLSv1.3") && has("Application protocol: h2"), "`h2load` spoke something else:\n{said}");
    ensure!(has(" 0 failed, 0 errored, 0 timeout") && has(" 0 3xx, 0 4xx, 0 5xx"), "requests failed:\n{said}");
    // `finished in 2.00s, 12345.50 req/s, 1.23MB/s` and `requests: 24691 total, …`.
    let per_second = said.lines().find_map(|line| line.strip_suffix("B/s")?.split(", ").nth(1)?.strip_suffix(" req/s"));
    let requests = said.lines().find_map(|line| line.strip_prefix("requests: ")?.split(' ').next());
    Ok(Load {
        requests: requests.and_then(|count| count.parse().ok()).with_context(|| format!("`h2load` said:\n{said}"))?,
        per_second: per_second.and_then(|rate| rate.parse().ok()).with_context(|| format!("`h2load` said:\n{said}"))?,
        median: None,
    })
}
