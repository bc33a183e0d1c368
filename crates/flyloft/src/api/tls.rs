//! `flyloft tls`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::reply::{Reply, as_time, as_time_if_any, table, time};
use super::{Api, Call, Ending};
use crate::command::{Tls, TlsLocalCa};
use crate::error::{Error, OrFailed, Result};
use crate::tls::{self, LocalError, Status};

/// How long nginx, where it is the edge, may take to show what is new.
const TAKES: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct CertificateList {
    certificates: Vec<CertificateItem>,
}

#[derive(Serialize)]
struct CertificateItem {
    file: PathBuf,
    names: Vec<String>,
    #[serde(serialize_with = "as_time_if_any")]
    until: Option<i64>,
    days_left: Option<i64>,
    /// When another one is asked for, where Flyloft does that.
    #[serde(serialize_with = "as_time_if_any")]
    renewal: Option<i64>,
    trouble: Option<String>,
    #[serde(skip)]
    hint: Option<String>,
}

impl From<Status> for CertificateItem {
    fn from(Status { file, shown, behind, renewal, trouble }: Status) -> Self {
        let (names, validity) = shown.unzip();
        let (trouble, hint) = trouble.or(behind).unzip();
        Self {
            file,
            names: names.iter().flat_map(|names| names.iter().map(str::to_owned)).collect(),
            until: validity.map(|validity| validity.until * 1000),
            days_left: validity.map(|validity| validity.days_left(tls::now())),
            renewal: renewal.map(|at| at * 1000),
            trouble,
            hint,
        }
    }
}

impl Reply for CertificateList {
    fn text(&self) -> String {
        if self.certificates.is_empty() {
            return "there are no certificates; name them in `[tls]` of the configuration, have one asked for by `[acme]`, or \
                    make one for trying out: flyloft tls local-ca\n"
                .to_owned();
        }
        let rows = self.certificates.iter().map(|one| {
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let days = one.days_left.map(|days| format!("{days} d"));
            let day = |at: Option<i64>| or_none(at.map(|at| time(at)[..10].to_owned()));
            [one.file.display().to_string(), one.names.join(", "), or_none(days), day(one.until), day(one.renewal)]
        });
        let mut text = table(["CERTIFICATE", "NAMES", "LEFT", "UNTIL", "RENEWAL"], rows);
        self.certificates
            .iter()
            .filter_map(|one| one.trouble.as_ref())
            .for_each(|trouble| text += &format!("! {trouble}\n"));
        text
    }
}

/// The certificate that people trust, as a text for their machine.
#[derive(Serialize)]
struct Pem {
    pem: String,
}

impl Reply for Pem {
    fn text(&self) -> String {
        self.pem.clone()
    }

    fn is_exact(&self) -> bool {
        true
    }
}

#[derive(Serialize)]
struct LocalCa {
    authority: PathBuf,
    names: Vec<String>,
    #[serde(serialize_with = "as_time")]
    until: i64,
    #[serde(skip)]
    anew: bool,
    #[serde(skip)]
    listens: bool,
}

impl Reply for LocalCa {
    fn text(&self) -> String {
        let Self { authority, names, until, anew, listens } = self;
        let (names, until, authority) = (names.join(" and "), time(*until), authority.display());
        let mut text = format!("there is a certificate for {names} until {}, which renews itself\n", &until[..10]);
        text += match anew {
            true => "its authority is new, and nobody trusts it yet; its certificate is\n",
            false => "whoever trusts its authority already believes it; the authority's certificate is\n",
        };
        text += &format!(
            "    {authority}\n\
             a machine trusts it from then on, names below the domain alone:\n    \
             Debian   cp {authority} /usr/local/share/ca-certificates/flyloft.crt && update-ca-certificates\n    \
             curl     curl --cacert {authority} …\n    \
             browser  import it among the authorities in the settings\n"
        );
        if !listens {
            text += "HTTPS is off: set `listen = [\"[::]:443\"]` in `[https]` of the configuration; flyloft upgrade\n";
        }
        text
    }
}

impl Api {
    pub(super) async fn tls(&self, call: &mut Call<'_>, command: Tls) -> Result<Ending> {
        match command {
            Tls::LocalCa(TlsLocalCa { pem: true }) => self.local_authority(),
            Tls::LocalCa(TlsLocalCa { pem: false }) => {
                call.must_be_admin()?;
                self.make_local_authority().await
            }
            Tls::Ls => {
                call.must_be_admin()?;
                let all = self.loft.parts.keeper.status(tls::now());
                Ok(CertificateList { certificates: all.into_iter().map(Into::into).collect() }.into())
            }
            Tls::Check => {
                call.must_be_admin()?;
                self.check_certificates(call).await
            }
        }
    }

    /// All are looked at, and the first that is not well is what comes of it.
    async fn check_certificates(&self, call: &mut Call<'_>) -> Result<Ending> {
        let keeper = self.loft.parts.keeper.clone();
        let looked = tokio::task::spawn_blocking(move || keeper.look(tls::now())).await;
        let mut all = looked.or_failed(|| "failed to look at certificates")?;
        let begun = Instant::now();
        while all.iter().any(|one| one.behind.is_some()) && begun.elapsed() < TAKES {
            tokio::time::sleep(TAKES / 50).await;
            all = self.loft.parts.keeper.status(tls::now());
        }
        let certificates: Vec<CertificateItem> = all.into_iter().map(Into::into).collect();
        let mut unwell = certificates.iter().filter_map(|one| Some((one.trouble.clone()?, one.hint.clone()?)));
        let Some((first, hint)) = unwell.next() else { return Ok(CertificateList { certificates }.into()) };
        let error = unwell.fold(Error::failed(first).hint(hint), |error, (other, hint)| {
            error.hint(format!("also: {other}")).hint(hint)
        });
        let well = certificates.into_iter().filter(|one| one.trouble.is_none()).collect::<Vec<_>>();
        if !well.is_empty() {
            call.say(&CertificateList { certificates: well }.text()).await?;
        }
        Err(error)
    }

    fn local_authority(&self) -> Result<Ending> {
        let path = self.loft.parts.keeper.local.authority();
        match std::fs::read_to_string(&path) {
            Ok(pem) => Ok(Pem { pem }.into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::not_found("this server has no authority of its own").hint("flyloft tls local-ca"))
            }
            Err(error) => Err(Error::because(format!("failed to read `{}`", path.display()), error)),
        }
    }

    async fn make_local_authority(&self) -> Result<Ending> {
        let (keeper, failed) = (self.loft.parts.keeper.clone(), || "failed to make a certificate");
        let made = tokio::task::spawn_blocking(move || {
            let made = keeper.local.make(tls::now());
            keeper.look(tls::now());
            made
        });
        let made = made.await.or_failed(failed)?.map_err(|error| match error {
            LocalError::TopLevel(ref domain) => {
                let hint = format!("set `domain` in the configuration to one with a dot, such as `staging.{domain}`");
                Error::usage(&error).hint(hint)
            }
            error => Error::because(failed(), error),
        })?;
        let listens = self.loft.parts.settings.takes_tls;
        let tls::local::Made { anew, authority, names, until } = made;
        Ok(LocalCa { authority, names, until: until * 1000, anew, listens }.into())
    }
}
