//! Certificates that nginx shows in flyloft's place.
//!
//! ```text
//!   to be shown ──► files of their own ──► would nginx take them? ──► shown by nginx ──► where plain HTTP is led
//! ```
//!
//! What must hold: a certificate that nginx would not take keeps it from nothing, and nobody is led to where none is
//! shown.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flyloft_core::host::Domain;
use flyloft_core::nginx::{self, Http2, Secure, Told, others_listen, others_speak};

use super::files;
use super::keeper::Place;
use super::master::Trouble;
use super::snippets::Snippets;
use super::tongue::Tongue;
use crate::config::CertificateFiles;
use crate::tls::pair::Pair;
use crate::tls::{self, Certificates, Shown};

/// What nginx was told to show last, a file a line.
const TAKEN: &str = "taken";

/// What was refused may have been refused for a reason of the moment, and is judged again after this time.
const AGAIN: Duration = Duration::from_secs(120);

/// The same of what could not be written.
const WRITTEN_AGAIN: Duration = Duration::from_secs(10);

/// Where nginx speaks TLS for us.
pub struct SecurePlace {
    pub listen: Vec<SocketAddr>,
    /// For certificates and their keys, which nobody but root reads.
    pub dir: PathBuf,
    /// What is to be shown.
    pub wanted: Arc<Certificates>,
    /// What nginx shows.
    pub shown: Arc<Certificates>,
}

type All = Vec<Arc<Shown>>;

/// What nginx is offered to show.
#[derive(Default)]
pub struct Offer {
    /// What was judged last, and when that is due again.
    judged: Option<(Arc<All>, Option<Instant>)>,
    taken: All,
    refused: Option<Trouble>,
    /// What `flyloft doctor` reads of that.
    noted: Option<Option<Trouble>>,
    /// nginx would not even take our servers for TLS beside those of the site.
    off: bool,
    /// Nobody else of the site's speaks TLS there.
    alone: bool,
    tongue: Tongue,
    /// Somebody else of the site's speaks it for our host names.
    elsewhere: bool,
}

impl SecurePlace {
    pub fn site(&self) -> Secure<'_> {
        Secure { listen: &self.listen, dir: self.dir.to_str().unwrap_or_default() }
    }

    /// Writes a certificate and its key where nginx would read them. Nothing else is ever in files called so.
    fn write(&self, shown: &Shown) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let (certificate, key) = shown.texts.parts();
        let file = file(shown);
        for (file, bytes) in [(format!("{file}.key"), key), (file, certificate)] {
            // For its owner alone.
            let mut new = tempfile::NamedTempFile::new_in(&self.dir)?;
            new.write_all(bytes)?;
            new.as_file().sync_all()?;
            new.persist(self.dir.join(file)).map_err(|error| error.error)?;
        }
        Ok(())
    }

    /// Removes what is neither of these.
    fn keep_only(&self, all: &All) -> io::Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let kept: Vec<String> = all.iter().map(|shown| file(shown)).collect();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != TAKEN && !kept.iter().any(|file| name.trim_end_matches(".key") == file) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Keeps in mind what nginx shows.
    fn remember(&self, all: &All) -> io::Result<()> {
        if all.is_empty() && !self.dir.exists() {
            return Ok(());
        }
        files::write(&self.dir, TAKEN, &all.iter().map(|shown| file(shown) + "\n").collect::<String>())?;
        self.keep_only(all)
    }

    /// What nginx shows since a daemon before this one. It need not be what is wanted now.
    fn remembered(&self) -> All {
        let wanted = self.wanted.all();
        let again = |name: &str| {
            if let Some(shown) = wanted.iter().find(|shown| file(shown) == name) {
                return Some(shown.clone());
            }
            let (certificate, key) = (self.dir.join(name), self.dir.join(format!("{name}.key")));
            let pair = Pair::load(&CertificateFiles { certificate, key }, tls::now());
            pair.ok().map(|pair| Arc::new(self.wanted.show(&pair)))
        };
        let taken = fs::read_to_string(self.dir.join(TAKEN)).unwrap_or_default();
        taken.lines().filter_map(again).collect()
    }
}

impl Offer {
    /// What a daemon before this one has told nginx.
    pub fn new(place: &Place) -> Self {
        let Some(secure) = &place.secure else { return Self::default() };
        let taken = secure.remembered();
        secure.shown.put(taken.clone());
        Self { taken, ..Self::default() }
    }

    /// What nginx is to be told.
    pub fn tls(&self, place: &Place) -> nginx::Tls {
        self.with(&self.taken, self.off, place)
    }

    /// What of it nginx does not take.
    pub fn trouble(&self) -> Option<Trouble> {
        self.refused.clone()
    }

    /// What others have their nginx do, out of the whole of its configuration.
    pub fn look_around(&mut self, place: &Place, dump: &str) {
        let file = |name: &str| place.dir.join(name).to_string_lossy().into_owned();
        self.elsewhere = place.external.is_some() && others_speak(dump, &file(files::HTTP), &file(files::SERVER));
        let Some(secure) = &place.secure else { return };
        let ports: Vec<u16> = secure.listen.iter().map(SocketAddr::port).collect();
        self.alone = !others_listen(dump, &file(files::HTTP), &ports);
    }

    /// Looks which words nginx knows, which is another one after an upgrade.
    pub async fn listen(&mut self, place: &Place) {
        if place.secure.is_some() {
            self.tongue.listen(&place.master).await;
        }
    }

    /// Whether nothing has changed since the last look.
    pub fn is_judged(&self, place: &Place) -> bool {
        let Some(secure) = &place.secure else { return true };
        let is_so = |(judged, again): &(Arc<All>, Option<Instant>)| {
            Arc::ptr_eq(judged, &secure.wanted.all()) && again.is_none_or(|at| Instant::now() < at)
        };
        self.judged.as_ref().is_some_and(is_so)
    }

    /// Has nginx judge what is to be shown now. While it refuses its configuration without that, nothing is judged.
    pub async fn look(&mut self, place: &Place, told: &Told, snippets: &Snippets) -> Result<(), Trouble> {
        let Some(secure) = &place.secure else { return Ok(()) };
        let all = secure.wanted.all();
        let is_ours = |shown: &&Arc<Shown>| offered(shown, &place.domain).is_some();
        let wanted: All = all.iter().filter(is_ours).cloned().collect();
        let before = self.taken.clone();
        let judged = self.judge(place, told, snippets, wanted).await;
        // What was refused is nowhere that a later one would find it.
        let kept = before.into_iter().chain(self.taken.iter().cloned()).collect();
        if let Err(error) = secure.keep_only(&kept) {
            tracing::warn!(%error, "failed to remove certificates that nginx does not show");
        }
        judged?;
        let again = |trouble: &Trouble| if matches!(trouble, Trouble::Uncopied(..)) { WRITTEN_AGAIN } else { AGAIN };
        self.judged = Some((all, self.refused.as_ref().map(|trouble| Instant::now() + again(trouble))));
        Ok(())
    }

    async fn judge(&mut self, place: &Place, told: &Told, snippets: &Snippets, wanted: All) -> Result<(), Trouble> {
        let Some(secure) = &place.secure else { return Ok(()) };
        let is_first = self.judged.is_none();
        if (is_first || self.off) && !self.has_room(place, told, snippets).await {
            return Ok(());
        }
        if wanted.iter().map(|shown| file(shown)).eq(self.taken.iter().map(|shown| file(shown))) {
            (self.taken, self.refused) = (wanted, None);
            return Ok(());
        }
        if let Err(error) = wanted.iter().try_for_each(|shown| secure.write(shown)) {
            self.refused = Some(Trouble::Uncopied(secure.dir.clone(), error.to_string()));
            return Ok(());
        }
        if self.would_take(place, told, snippets, &wanted).await.is_ok() {
            (self.taken, self.refused) = (wanted, None);
            return Ok(());
        }
        // Others may be to blame.
        self.would_take(place, told, snippets, &self.taken).await?;
        (self.taken, self.refused) = self.one_by_one(place, told, snippets, wanted).await;
        Ok(())
    }

    /// Whether nginx takes servers of ours for TLS beside those of the site.
    async fn has_room(&mut self, place: &Place, told: &Told, snippets: &Snippets) -> bool {
        let nothing = self.with(&All::new(), false, place);
        let refused = match snippets.would_go_on(place, &Told { tls: nothing.clone(), ..told.clone() }).await {
            Ok(()) => None,
            Err(trouble) => {
                let without = Told { tls: nginx::Tls { off: true, ..nothing }, ..told.clone() };
                snippets.would_go_on(place, &without).await.is_ok().then_some(trouble)
            }
        };
        self.off = refused.is_some();
        if let Some(trouble) = refused {
            self.taken.clear();
            self.refused = Some(Trouble::NoTls(trouble.why()));
        }
        !self.off
    }

    /// Of these what nginx would take, with what it has taken before where none of them is for a name of that; and what it
    /// would not take.
    async fn one_by_one(&self, place: &Place, told: &Told, snippets: &Snippets, wanted: All) -> (All, Option<Trouble>) {
        let (mut taken, mut refused) = (All::new(), None);
        for shown in wanted {
            let names = shown.names.clone();
            taken.push(shown);
            if let Err(trouble) = self.would_take(place, told, snippets, &taken).await {
                let why = trouble.why();
                tracing::error!(%names, why, "nginx does not take a certificate");
                refused.get_or_insert(Trouble::Certificate(names.to_string(), why));
                taken.pop();
            }
        }
        for before in &self.taken {
            let has = |name: &str| taken.iter().any(|shown| shown.names.iter().any(|other| other == name));
            if !before.names.iter().all(has) {
                taken.push(before.clone());
                if self.would_take(place, told, snippets, &taken).await.is_err() {
                    taken.pop();
                }
            }
        }
        (taken, refused)
    }

    /// nginx refuses its configuration. Says whether that was for something of this, which it is not told any more.
    pub async fn suspect(&mut self, place: &Place, told: &Told, snippets: &Snippets) -> bool {
        let Some(secure) = &place.secure else { return false };
        // Somebody may have removed files.
        let gone: All = self.taken.iter().filter(|shown| !secure.dir.join(file(shown)).exists()).cloned().collect();
        for shown in &gone {
            if let Err(error) = secure.write(shown) {
                tracing::warn!(%error, "failed to write a certificate for nginx");
            }
        }
        if self.off || self.would_take(place, told, snippets, &self.taken).await.is_ok() {
            return !gone.is_empty();
        }
        if self.would_take(place, told, snippets, &All::new()).await.is_err() {
            return !self.has_room(place, told, snippets).await;
        }
        let suspects = std::mem::take(&mut self.taken);
        (self.taken, self.refused) = self.one_by_one(place, told, snippets, suspects).await;
        self.judged = Some((secure.wanted.all(), Some(Instant::now() + AGAIN)));
        true
    }

    /// Leaves word of what nginx does not take.
    pub fn note(&mut self, place: &Place) {
        if self.noted.as_ref() == Some(&self.refused) {
            return;
        }
        let noted = match &self.refused {
            Some(trouble) => files::write(&place.dir, files::REFUSED_TLS, &trouble.to_string()),
            None => files::clear(&place.dir.join(files::REFUSED_TLS)),
        };
        match noted {
            Ok(()) => self.noted = Some(self.refused.clone()),
            Err(error) => tracing::warn!(%error, "failed to note what nginx does not take"),
        }
    }

    /// nginx goes by what was offered, and by nothing else.
    pub fn is_told(&self, place: &Place) {
        let Some(secure) = &place.secure else { return };
        secure.shown.put(self.taken.clone());
        if let Err(error) = secure.remember(&self.taken) {
            tracing::warn!(%error, "failed to note which certificates nginx shows");
        }
    }

    async fn would_take(&self, place: &Place, told: &Told, snippets: &Snippets, offer: &All) -> Result<(), Trouble> {
        let tls = self.with(offer, false, place);
        snippets.would_go_on(place, &Told { tls, ..told.clone() }).await
    }

    /// What nginx would be told if it were to show these.
    fn with(&self, all: &All, off: bool, place: &Place) -> nginx::Tls {
        let shown = all.iter().filter_map(|shown| offered(shown, &place.domain)).collect();
        let http2 = Http2::of(self.tongue.knows_http2(), self.alone);
        nginx::Tls { shown, http2, off, elsewhere: self.elsewhere }
    }
}

/// None where it is for no environment.
fn offered(shown: &Shown, domain: &Domain) -> Option<nginx::Shown> {
    nginx::Shown::new(file(shown), &shown.names, domain)
}

/// Another one for each certificate.
fn file(shown: &Shown) -> String {
    format!("{}.pem", shown.texts.mark())
}
