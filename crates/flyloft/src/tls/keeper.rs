//! Looks at the files of certificates once a minute, and shows what is in them as soon as it is good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flyloft_core::certificate::{Names, Standing, Validity};

use super::pair::{Mark, Texts, date};
use super::{Answers, Certificates, Local, Pair, PairError, Shown, trust};
use crate::config::CertificateFiles;
use crate::store::{self, EventKind, Store};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(60);

/// What there is to say at a number of looks in a row before people are told. Whoever puts two new files in place has
/// done one of them first.
const LOOKS: u32 = 2;

pub struct Keeper {
    pub local: Local,
    /// What is answered to who checks that a host name is ours.
    pub answers: Arc<Answers>,
    pub certificates: Arc<Certificates>,
    watched: Mutex<Watched>,
}

struct Watched {
    files: Vec<Kept>,
    /// What there is to say of those that are asked for by ACME, by their files.
    notes: BTreeMap<PathBuf, Note>,
    /// What there was to say at the last look, and at how many in a row it was this.
    said: (Vec<String>, u32),
    /// What people were told last.
    told: Option<Vec<String>>,
}

/// The files of one certificate.
struct Kept {
    files: CertificateFiles,
    kind: Kind,
    /// What is shown of it.
    good: Option<(Mark, Pair)>,
    /// What is wrong with the files as they are now.
    bad: Option<PairError>,
    /// Who has issued what is shown, where they are neither in the file nor known to this machine.
    lacks: Option<String>,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// The configuration names it.
    Named,
    /// It was asked for, for all environments.
    Asked,
    /// It was asked for, for one host name.
    Host(String),
    /// This server's own authority has made it.
    Local,
}

/// How it is with one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub file: PathBuf,
    /// Of what clients are shown, which is another one where the edge is a proxy that does not take this.
    pub shown: Option<(Names, Validity)>,
    /// What is shown in its place, if it is not shown itself, and what to do about that. It may be so for a moment.
    pub behind: Option<(String, String)>,
    /// When another one is asked for, if that is known.
    pub renewal: Option<i64>,
    /// What is wrong with it, or will be before long, and what to do about that.
    pub trouble: Option<(String, String)>,
}

/// What there is to say of a certificate that is asked for by ACME.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// When another one is asked for.
    pub due: Option<i64>,
    /// Why there is none, or no new one, and what to do about that.
    pub trouble: Option<(String, String)>,
}

impl Keeper {
    /// Shows what is good at once. What is not is told in the log.
    pub fn open(named: &[CertificateFiles], local: Local, certificates: Arc<Certificates>, now: i64) -> Self {
        let named = named.iter().map(|files| Kept::new(files.clone(), Kind::Named));
        let asked = Kept::new(local.asked(), Kind::Asked);
        let hosts = local.hosts().into_iter().map(|host| Kept::new(local.of_host(&host), Kind::Host(host)));
        let own = Kept::new(local.files(), Kind::Local);
        let files = named.chain([asked]).chain(hosts).chain([own]).collect();
        let watched = Mutex::new(Watched { files, notes: BTreeMap::new(), said: Default::default(), told: None });
        let keeper = Self { local, answers: Arc::default(), certificates, watched };
        keeper.look(now);
        keeper
    }

    /// Looks at the files. Gives how it is with each certificate that is there.
    pub fn look(&self, now: i64) -> Vec<Status> {
        let mut watched = self.lock();
        // All of them, whichever has changed.
        let changed = watched.files.iter_mut().map(|kept| kept.look(now)).fold(false, |any, one| any | one);
        if changed {
            self.show(&watched);
        }
        let all = watched.status(&self.certificates, now);
        let said: Vec<_> = all.iter().filter_map(|status| Some(status.trouble.as_ref()?.0.clone())).collect();
        match said == watched.said.0 {
            true => watched.said.1 += 1,
            false => {
                said.iter().for_each(|text| tracing::error!("{text}"));
                watched.said = (said, 1);
            }
        }
        all
    }

    fn show(&self, watched: &Watched) {
        self.certificates.set(watched.files.iter().filter_map(|kept| kept.good.as_ref()).map(|(_, pair)| pair));
    }

    /// Whether a certificate that is not for this host alone is shown for it, and will be for a while.
    pub fn covers(&self, host: &str, now: i64) -> bool {
        let watched = self.lock();
        let others = watched.files.iter().filter(|kept| matches!(kept.kind, Kind::Named | Kind::Asked));
        let mut others = others.filter_map(|kept| kept.good.as_ref());
        others.any(|(_, pair)| pair.holds(now).is_ok() && pair.names.cover(host))
    }

    /// Looks at the certificates of these hosts, and of no others: theirs go, with their files.
    pub fn keep_hosts(&self, hosts: &BTreeSet<String>) {
        let mut watched = self.lock();
        let is_gone = |kind: &Kind| matches!(kind, Kind::Host(host) if !hosts.contains(host));
        let (gone, stay): (Vec<Kept>, Vec<Kept>) =
            std::mem::take(&mut watched.files).into_iter().partition(|kept| is_gone(&kept.kind));
        watched.files = stay;
        for kept in &gone {
            watched.notes.remove(&kept.files.certificate);
            let Kind::Host(host) = &kept.kind else { continue };
            match self.local.forget_host(host) {
                Ok(()) => tracing::info!(host, "its certificate goes with it"),
                Err(error) => tracing::error!(%error, "failed to remove a certificate"),
            }
        }
        let known: BTreeSet<String> = watched.files.iter().filter_map(|kept| kept.kind.host()).collect();
        for host in hosts.difference(&known) {
            watched.files.push(Kept::new(self.local.of_host(host), Kind::Host(host.clone())));
        }
        if gone.iter().any(|kept| kept.good.is_some()) {
            self.show(&watched);
        }
    }

    /// Notes how it goes with a certificate that is asked for by ACME.
    pub fn note(&self, files: &CertificateFiles, note: Note) {
        self.lock().notes.insert(files.certificate.clone(), note);
    }

    /// How it was with each at the last look.
    pub fn status(&self, now: i64) -> Vec<Status> {
        self.lock().status(&self.certificates, now)
    }

    /// Looks again and again, and tells people of every app what has been so for two looks.
    pub async fn keep_for_ever(self: Arc<Self>, store: Store) {
        loop {
            tokio::time::sleep(EVERY).await;
            let keeper = self.clone();
            // A disk of another machine may make it wait.
            let looked = tokio::task::spawn_blocking(move || keeper.round(super::now()));
            match looked.await {
                Ok(None) => {}
                Ok(Some(said)) => {
                    if let Err(error) = tell(&store, &said).await {
                        tracing::error!(%error, "failed to record an event");
                    }
                }
                Err(panic) => tracing::error!(%panic, "failed to look at certificates"),
            }
        }
    }

    /// Gives what people are to be told.
    fn round(&self, now: i64) -> Option<Vec<String>> {
        match self.local.renew_if_due(now) {
            Ok(false) => {}
            Ok(true) => tracing::info!("the certificate of this server's own authority is renewed"),
            Err(error) => tracing::error!(%error, "failed to renew the certificate of this server's own authority"),
        }
        self.look(now);
        let watched = &mut *self.lock();
        let (said, looks) = &watched.said;
        if *looks < LOOKS || watched.told.as_ref() == Some(said) {
            return None;
        }
        watched.told = Some(said.clone());
        watched.told.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn status(&self, certificates: &Certificates, now: i64) -> Vec<Status> {
        let there = self.files.iter().filter(|kept| kept.is_there());
        let mut all: Vec<Status> = there.map(|kept| kept.status(certificates, now)).collect();
        for (file, note) in &self.notes {
            match all.iter_mut().find(|status| status.file == *file) {
                Some(status) => {
                    status.renewal = note.due;
                    // That it is not renewed is why it comes to its end.
                    status.trouble = note.trouble.clone().or(status.trouble.take());
                }
                None if note.trouble.is_some() => {
                    let trouble = note.trouble.clone();
                    all.push(Status { file: file.clone(), shown: None, behind: None, renewal: None, trouble });
                }
                None => {}
            }
        }
        all
    }
}

impl Kind {
    fn host(&self) -> Option<String> {
        match self {
            Kind::Host(host) => Some(host.clone()),
            _ => None,
        }
    }
}

impl Kept {
    fn new(files: CertificateFiles, kind: Kind) -> Self {
        Self { files, kind, good: None, bad: None, lacks: None }
    }

    fn is_there(&self) -> bool {
        self.kind == Kind::Named || self.good.is_some() || self.bad.is_some()
    }

    /// Says whether something else is to be shown.
    fn look(&mut self, now: i64) -> bool {
        let changed = self.take(now);
        // The machine may come to know them. Whoever trusts this server's own authority has its certificate.
        let good = self.good.as_ref().filter(|_| self.kind != Kind::Local);
        self.lacks = good.and_then(|(_, pair)| pair.lacks(trust::certificates, now));
        changed
    }

    fn take(&mut self, now: i64) -> bool {
        if self.kind != Kind::Named && !self.files.certificate.exists() {
            self.bad = None;
            return self.good.take().is_some();
        }
        match self.taken(now) {
            Ok(None) => {
                self.bad = None;
                false
            }
            Ok(Some(good)) => {
                (self.good, self.bad) = (Some(good), None);
                true
            }
            Err(error) => {
                self.bad = Some(error);
                false
            }
        }
    }

    /// What is in the files, if they have changed.
    fn taken(&self, now: i64) -> Result<Option<(Mark, Pair)>, PairError> {
        let texts = Texts::read(&self.files)?;
        let mark = texts.mark();
        if self.good.as_ref().is_some_and(|(known, _)| *known == mark) {
            return Ok(None);
        }
        let pair = Pair::judge(&self.files, &texts, now)?;
        let (certificate, until) = (self.files.certificate.display(), date(pair.validity.until));
        tracing::info!(%certificate, names = %pair.names, %until, "a certificate is shown");
        Ok(Some((mark, pair)))
    }

    fn status(&self, certificates: &Certificates, now: i64) -> Status {
        let pair = self.good.as_ref().map(|(_, pair)| pair);
        let shown = pair.and_then(|pair| certificates.in_place_of(pair));
        let bad = self.bad.as_ref().map(|error| {
            let so = if pair.is_some() { "the one before is shown on" } else { "there is no HTTPS for its names" };
            (format!("{error}; {so}"), error.hint())
        });
        Status {
            file: self.files.certificate.clone(),
            behind: pair.and_then(|pair| behind(pair, shown.as_deref())),
            shown: shown.map(|shown| (shown.names.clone(), shown.validity)),
            renewal: None,
            trouble: bad.or_else(|| standing(pair?, self.lacks.as_deref(), now)),
        }
    }
}

/// What there is to say of one in whose place something else is shown.
fn behind(pair: &Pair, shown: Option<&Shown>) -> Option<(String, String)> {
    let instead = match shown {
        Some(shown) if shown.texts == pair.texts => return None,
        Some(shown) => format!("clients are shown one that is good until {}", date(shown.validity.until)),
        None => "clients are shown none for its names".to_owned(),
    };
    let hint = "`flyloft doctor` says what nginx does not take; it shows what is for names below the domain alone";
    Some((
        format!("nginx does not show the certificate `{}`: {instead}", pair.files.certificate.display()),
        hint.to_owned(),
    ))
}

/// What there is to say of what is shown.
fn standing(pair: &Pair, lacks: Option<&str>, now: i64) -> Option<(String, String)> {
    let (file, until) = (pair.files.certificate.display(), date(pair.validity.until));
    match (pair.validity.standing(now), lacks) {
        (Standing::Expired | Standing::NotYet, _) => {
            pair.holds(now).err().map(|error| (error.to_string(), error.hint()))
        }
        (_, Some(issuer)) => {
            let hint = format!(
                "append the certificates of those that issued it; if `{issuer}` is an authority of your own, have this machine \
                 trust it"
            );
            let not_behind = "whose certificate is not behind it, so most clients do not believe it";
            Some((format!("the certificate `{file}` was issued by `{issuer}`, {not_behind}"), hint))
        }
        (Standing::Soon { .. }, None) => {
            let hint = "renew it; the new files are taken within a minute";
            Some((format!("the certificate `{file}` expires on {until}"), hint.to_owned()))
        }
        (Standing::Good, None) => None,
    }
}

async fn tell(store: &Store, said: &[String]) -> Result<(), store::StoreError> {
    let turn = [EventKind::CertificateFailed, EventKind::CertificateWorks];
    let text = match said {
        [] => "certificates are as they should be".to_owned(),
        // There may be one for each environment.
        [first, second, third, more @ ..] if !more.is_empty() => {
            format!("{first}; {second}; {third}; and {} more; `flyloft tls check` says which", more.len())
        }
        said => format!("{}; `flyloft tls check` says more", said.join("; ")),
    };
    for app in store.apps().await? {
        store.tell_turn(&app.name, turn, said.is_empty(), ("flyloft", &text), store::now()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
