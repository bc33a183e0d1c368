//! Keeps nginx at what is wanted of it: one task, which writes, has nginx read, and waits until it has.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flyloft_core::gate::Prefix;
use flyloft_core::host::Domain;
use flyloft_core::nginx::{Bounds, Haste, Pace, Plan, Site};
use tokio::sync::{Notify, watch};

use super::certificates::{Offer, SecurePlace};
use super::files;
use super::master::{Master, Running, Trouble};
use super::snippets::Snippets;

/// How often one looks whether nginx has been started by somebody.
const GLANCE: Duration = Duration::from_secs(1);

/// How long nginx is left alone that has refused its configuration. Others may mend it meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the keeper and those who ask it for something have in common.
pub struct Desk {
    plan: Mutex<Plan>,
    changed: Notify,
    /// What came of the last time that nginx was told.
    round: watch::Sender<Option<Trouble>>,
}

/// What the site is, for as long as the daemon runs.
pub struct Place {
    pub dir: PathBuf,
    pub instance: String,
    pub domain: Domain,
    pub listen: Vec<std::net::SocketAddr>,
    pub master: Master,
    pub secure: Option<SecurePlace>,
    /// Proxies before nginx that are believed.
    pub trusted: Vec<Prefix>,
    /// Where visitors come over TLS, if they are to, and that is not here.
    pub external: Option<u16>,
    pub bounds: Bounds,
}

impl Place {
    pub fn shown(&self) -> String {
        self.dir.to_string_lossy().into_owned()
    }

    pub fn site<'a>(&'a self, dir: &'a str) -> Site<'a> {
        let secure = self.secure.as_ref().map(SecurePlace::site);
        let Self { instance, domain, listen, trusted, external, bounds, .. } = self;
        Site { instance, domain, listen, dir, secure, trusted, external: *external, bounds: *bounds }
    }
}

impl Desk {
    pub fn new(plan: Plan) -> Self {
        Self { plan: Mutex::new(plan), changed: Notify::new(), round: watch::Sender::new(None) }
    }

    /// Changes what is wanted, or looks at it.
    pub fn with<T>(&self, what: impl FnOnce(&mut Plan) -> T) -> T {
        let mut plan = self.lock();
        let before = plan.haste();
        let result = what(&mut plan);
        if plan.haste() > before {
            self.changed.notify_one();
        }
        result
    }

    /// Comes back when it is so with nginx, or with what keeps nginx from it.
    pub async fn until(&self, is_so: impl Fn(&Plan) -> bool) -> Result<(), Trouble> {
        let mut rounds = self.round.subscribe();
        loop {
            let trouble = rounds.borrow_and_update().clone();
            if is_so(&self.lock()) {
                return Ok(());
            }
            if let Some(trouble) = trouble.filter(Trouble::keeps_the_old) {
                return Err(trouble);
            }
            if rounds.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What is wrong with nginx, each time that this changes.
    pub fn troubles(&self) -> watch::Receiver<Option<Trouble>> {
        self.round.subscribe()
    }

    /// Whether nginx goes on as it was told before.
    pub fn is_stuck(&self) -> bool {
        self.round.borrow().as_ref().is_some_and(Trouble::keeps_the_old)
    }

    /// Lets everybody know what is wrong with certificates, if anything, where nothing else is.
    fn tell_of_certificates(&self, trouble: Option<Trouble>) {
        self.round.send_if_modified(|before| {
            let changes = before.as_ref().is_none_or(Trouble::is_about_certificates) && *before != trouble;
            if changes {
                *before = trouble;
            }
            changes
        });
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the keeper remembers from one round to the next.
pub struct Keeper {
    desk: Arc<Desk>,
    place: Arc<Place>,
    snippets: Snippets,
    offer: Offer,
    /// Keys of a time in which nginx spoke TLS for us. They go once it reads none of them any more.
    leftover: Option<PathBuf>,
    running: Option<Running>,
    /// nginx reads our file.
    is_included: bool,
    looked: Instant,
    /// Snippets are not judged before, nor are certificates.
    judges: Instant,
    judges_certificates: Instant,
    pace: Pace,
    told: Option<Instant>,
    /// Since when something waits to be told.
    waits: Option<Instant>,
}

impl Keeper {
    pub fn new(desk: Arc<Desk>, place: Arc<Place>, snippets: Snippets, leftover: Option<PathBuf>) -> Self {
        let pace = Pace::default();
        let now = Instant::now();
        desk.with(|plan| plan.have_snippets(&snippets.taken()));
        Self {
            offer: Offer::new(&place),
            desk,
            place,
            snippets,
            leftover,
            running: None,
            is_included: false,
            looked: now,
            judges: now,
            judges_certificates: now,
            pace,
            told: None,
            waits: None,
        }
    }

    pub async fn run(mut self) {
        loop {
            let haste = self.desk.lock().haste();
            let Some(haste) = haste else {
                self.waits = None;
                tokio::select! {
                    () = self.desk.changed.notified() => {}
                    () = tokio::time::sleep(GLANCE) => self.glance().await,
                }
                continue;
            };
            let waited = self.waits.get_or_insert_with(Instant::now).elapsed();
            let since = self.told.map(|told| told.elapsed());
            let wait = self.pace.wait(haste, waited, since);
            if !wait.is_zero() {
                tokio::select! {
                    () = self.desk.changed.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
                continue;
            }
            self.pace = self.pace.told(since);
            self.waits = None;
            let told = self.tell().await;
            self.told = Some(Instant::now());
            self.conclude(told).await;
        }
    }

    /// Has nginx do what is wanted now.
    async fn tell(&mut self) -> Result<(), Trouble> {
        if !self.is_included
            && (self.place.secure.is_some() || self.place.external.is_some())
            && let Ok(dump) = self.place.master.dump().await
        {
            self.offer.look_around(&self.place, &dump);
        }
        self.look_for_certificates().await;
        let told = self.desk.lock().begin();
        let Place { dir, master, .. } = &*self.place;
        let failed = |error: std::io::Error| Trouble::Unwritable(dir.clone(), error.to_string());
        files::write_site(dir, self.place.site(&self.place.shown()), &told).map_err(failed)?;
        let running = master.reload().await?;
        self.offer.is_told(&self.place);
        self.desk.lock().told(told);
        if let Some(keys) = self.leftover.take() {
            files::remove_certificates(&keys);
        }
        self.snippets.tidy(&self.place).map_err(failed)?;
        if self.running.replace(running) != Some(running) || !self.is_included {
            self.is_included = false;
            self.must_be_included().await?;
            self.is_included = true;
        }
        Ok(())
    }

    async fn must_be_included(&self) -> Result<(), Trouble> {
        let Place { dir, master, .. } = &*self.place;
        let file = dir.join(files::HTTP);
        let is_included = super::includes(&master.dump().await?, &file);
        if is_included { Ok(()) } else { Err(Trouble::NotIncluded(file)) }
    }

    /// Lets everybody know what came of it, and sees to it that it is tried again.
    async fn conclude(&mut self, told: Result<(), Trouble>) {
        if self.is_refused(&told).await && self.without_suspects().await {
            return self.desk.lock().hurry(Haste::Now);
        }
        match &told {
            Err(Trouble::NotRunning(_) | Trouble::NotInstalled) => {
                self.running = None;
                self.desk.lock().down();
            }
            Err(trouble) if trouble.keeps_the_old() => self.desk.lock().hurry(Haste::Now),
            Ok(()) | Err(_) => {}
        }
        let stuck = told.as_ref().is_err_and(Trouble::keeps_the_old);
        self.desk.round.send_replace(told.err().or_else(|| self.offer.trouble()));
        // Whoever wants something meanwhile is told at once that it does not work.
        if !stuck {
            return;
        }
        loop {
            tokio::time::sleep(PATIENCE).await;
            // To be told in vain would only fill its log.
            if self.place.master.test().await.is_ok() || self.place.master.find().is_none() {
                return;
            }
            // It may be one of ours that keeps it from that, also when the administrator has mended it.
            self.judges = Instant::now();
            if self.look_for_snippets().await || self.without_suspects().await {
                return self.desk.lock().hurry(Haste::Now);
            }
        }
    }

    /// Whether nginx would not go by its configuration, also where it does not run: then it could not be started.
    async fn is_refused(&self, told: &Result<(), Trouble>) -> bool {
        match told {
            Err(Trouble::Refused(_)) => true,
            Err(Trouble::NotRunning(_)) => self.place.master.test().await.is_err(),
            _ => false,
        }
    }

    /// Whether it was a snippet or a certificate that nginx refuses, which it is not asked to take any more.
    async fn without_suspects(&mut self) -> bool {
        let wanted = self.desk.lock().wanted().clone();
        let found = self.snippets.suspect(&self.place, &wanted).await.unwrap_or_else(|trouble| {
            tracing::warn!(%trouble, "failed to look which snippet nginx refuses");
            false
        });
        if found {
            self.desk.lock().have_snippets(&self.snippets.taken());
            return true;
        }
        let found = self.offer.suspect(&self.place, &wanted, &self.snippets).await;
        self.offer.note(&self.place);
        self.desk.with(|plan| plan.speak(self.offer.tls(&self.place)));
        found
    }

    /// Looks whether the administrator says something else of an app.
    async fn look_for_snippets(&mut self) -> bool {
        if Instant::now() < self.judges {
            return false;
        }
        let wanted = self.desk.lock().wanted().clone();
        match self.snippets.look(&self.place, &wanted).await {
            Ok(true) => {
                self.desk.lock().have_snippets(&self.snippets.taken());
                true
            }
            Ok(false) => false,
            Err(trouble) => {
                self.judges = Instant::now() + PATIENCE;
                tracing::warn!(%trouble, "snippets are not judged");
                false
            }
        }
    }

    /// Looks whether something else is to be shown to clients that speak TLS.
    async fn look_for_certificates(&mut self) {
        self.offer.listen(&self.place).await;
        if Instant::now() >= self.judges_certificates && !self.offer.is_judged(&self.place) {
            let wanted = self.desk.lock().wanted().clone();
            let judged = self.offer.look(&self.place, &wanted, &self.snippets).await;
            self.offer.note(&self.place);
            if let Err(trouble) = judged {
                self.judges_certificates = Instant::now() + PATIENCE;
                tracing::warn!(%trouble, "certificates are not judged");
            } else {
                self.desk.tell_of_certificates(self.offer.trouble());
            }
        }
        self.offer.note(&self.place);
        self.desk.with(|plan| plan.speak(self.offer.tls(&self.place)));
    }

    /// Looks whether nginx is the one that it was.
    async fn glance(&mut self) {
        self.look_for_snippets().await;
        self.look_for_certificates().await;
        let master = &self.place.master;
        let now = master.find();
        if now != self.running {
            return match now {
                // It has read what was there, which may have been something else a moment later.
                Some(_) => {
                    self.is_included = false;
                    self.desk.lock().lost();
                }
                None => {
                    self.running = None;
                    self.desk.lock().down();
                    self.desk.round.send_replace(Some(master.absent()));
                }
            };
        }
        if now.is_some() && !self.is_included && self.looked.elapsed() > PATIENCE {
            self.looked = Instant::now();
            // Somebody may have added the line.
            if self.must_be_included().await.is_ok() {
                self.desk.lock().lost();
            }
        }
    }
}
