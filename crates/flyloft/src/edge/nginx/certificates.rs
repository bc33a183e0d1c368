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

use flyloft_core::host::Domain;
use flyloft_core::nginx::{self, Secure, Told, others_listen};

use super::files;
use super::keeper::Place;
use super::master::Trouble;
use super::snippets::Snippets;
use crate::tls::{Certificates, Shown};

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
    /// What was judged last.
    judged: Option<Arc<All>>,
    taken: All,
    /// Nobody else of the site's speaks TLS there.
    alone: bool,
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
            if !kept.iter().any(|file| name.trim_end_matches(".key") == file) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Offer {
    /// What a daemon before this one has left there nginx has taken.
    pub fn new(place: &Place) -> Self {
        let Some(secure) = &place.secure else { return Self::default() };
        let taken: All =
            secure.wanted.all().iter().filter(|shown| secure.dir.join(file(shown)).exists()).cloned().collect();
        secure.shown.put(taken.clone());
        Self { taken, ..Self::default() }
    }

    /// What nginx is to be told.
    pub fn tls(&self, place: &Place) -> nginx::Tls {
        tls(&self.taken, self.alone, &place.domain)
    }

    /// `dump` is the whole of the site's configuration.
    pub fn look_around(&mut self, place: &Place, dump: &str) {
        let Some(secure) = &place.secure else { return };
        let ports: Vec<u16> = secure.listen.iter().map(SocketAddr::port).collect();
        self.alone = !others_listen(dump, &place.dir.join(files::HTTP).to_string_lossy(), &ports);
    }

    /// Whether nothing has changed since the last look.
    pub fn is_judged(&self, place: &Place) -> bool {
        place
            .secure
            .as_ref()
            .is_none_or(|secure| self.judged.as_ref().is_some_and(|judged| Arc::ptr_eq(judged, &secure.wanted.all())))
    }

    /// Has nginx judge what is to be shown now. While it refuses its configuration without that, nothing is judged.
    pub async fn look(&mut self, place: &Place, told: &Told, snippets: &Snippets) -> Result<(), Trouble> {
        let Some(secure) = &place.secure else { return Ok(()) };
        let all = secure.wanted.all();
        let is_ours = |shown: &&Arc<Shown>| offered(shown, &place.domain).is_some();
        let wanted: All = all.iter().filter(is_ours).cloned().collect();
        if wanted.iter().map(|shown| file(shown)).ne(self.taken.iter().map(|shown| file(shown))) {
            for shown in &wanted {
                secure.write(shown).map_err(|error| Trouble::Unwritable(secure.dir.clone(), error.to_string()))?;
            }
            let alone = self.alone;
            if would_take(place, told, snippets, &wanted, alone).await.is_ok() {
                self.taken = wanted;
            } else {
                // Others may be to blame.
                would_take(place, told, snippets, &self.taken, alone).await?;
                self.taken = self.one_by_one(place, told, snippets, wanted).await;
            }
        } else {
            self.taken = wanted;
        }
        self.judged = Some(all);
        Ok(())
    }

    /// Of these what nginx would take, or what it has taken for the same names before.
    async fn one_by_one(&self, place: &Place, told: &Told, snippets: &Snippets, wanted: All) -> All {
        let mut taken = All::new();
        for shown in wanted {
            let names = shown.names.clone();
            taken.push(shown);
            if let Err(trouble) = would_take(place, told, snippets, &taken, self.alone).await {
                tracing::error!(%names, why = trouble.why(), "nginx does not take a certificate");
                taken.pop();
                taken.extend(self.taken.iter().find(|before| before.names == names).cloned());
            }
        }
        taken
    }

    /// nginx goes by what was offered, and by nothing else.
    pub fn is_told(&self, place: &Place) {
        let Some(secure) = &place.secure else { return };
        secure.shown.put(self.taken.clone());
        if let Err(error) = secure.keep_only(&self.taken) {
            tracing::warn!(%error, "failed to remove certificates that nginx does not show any more");
        }
    }
}

async fn would_take(place: &Place, told: &Told, snippets: &Snippets, offer: &All, alone: bool) -> Result<(), Trouble> {
    let told = Told { tls: tls(offer, alone, &place.domain), ..told.clone() };
    snippets.would_go_on(place, &told).await
}

fn tls(all: &All, alone: bool, domain: &Domain) -> nginx::Tls {
    nginx::Tls { shown: all.iter().filter_map(|shown| offered(shown, domain)).collect(), alone }
}

/// None where it is for no environment.
fn offered(shown: &Shown, domain: &Domain) -> Option<nginx::Shown> {
    nginx::Shown::new(file(shown), &shown.names, domain)
}

/// Another one for each certificate.
fn file(shown: &Shown) -> String {
    format!("{}.pem", shown.texts.mark())
}
