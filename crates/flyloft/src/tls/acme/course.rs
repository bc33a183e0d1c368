//! How it goes with one certificate, from one look to the next.

use flyloft_core::acme::{renew_at, wait};

use super::error::AcmeError;
use super::order::{Desk, Wanted};
use crate::tls::keeper::Note;
use crate::tls::{Pair, PairError, local, pair};

const HOUR: i64 = 60 * 60;

/// Whoever is to wait for longer than this in seconds was told so by a clock that was wrong.
const LONGEST: i64 = 10 * 24 * HOUR;

/// How often the server is asked when it wants a certificate renewed, at most and at least (RFC 9773 section 4.3).
const ASK_EVERY: (i64, i64) = (HOUR, 24 * HOUR);

/// The same where it does not say.
const ASK_AGAIN: i64 = 6 * HOUR;

/// How often one looks at the files of what is not due, in seconds.
const LOOK_EVERY: i64 = 60;

pub struct Course {
    failures: u32,
    /// Nothing is tried before that.
    not_before: i64,
    /// When what is there is due, and until when that is believed.
    due: Option<(i64, i64)>,
    /// Where in the time for it this server renews. The same each time, or it would come to be early.
    chance: f64,
}

impl Course {
    pub fn new() -> Self {
        Self { failures: 0, not_before: 0, due: None, chance: chance() }
    }

    /// Asks for a certificate if it is time to.
    pub async fn go_on(&mut self, desk: &Desk, wanted: &Wanted) {
        let now = desk.now();
        if (1..LONGEST).contains(&(self.not_before - now)) {
            return;
        }
        let files = wanted.files.clone();
        let known = blocking(move || Pair::load(&files, now)).await;
        let due = match &known {
            // It would be none the better for a new one.
            Err(PairError::NotYet { .. }) => {
                self.not_before = now + LOOK_EVERY;
                return;
            }
            Err(_) => now,
            Ok(pair) if !pair.names.cover(&wanted.sample()) => now,
            Ok(pair) => self.due(desk, pair, now).await,
        };
        if now < due {
            self.not_before = due.min(now + LOOK_EVERY);
            return desk.parts.keeper.note(&wanted.files, Note { due: Some(due), trouble: None });
        }
        let ended = match desk.obtain(wanted, known.as_ref().ok()).await {
            Ok(issued) => keep(desk, wanted, issued.chain, issued.key).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => self.have_done(desk, wanted).await,
            Err(error) => self.have_failed(desk, wanted, &error),
        }
    }

    /// When a certificate is to be renewed. The server is asked now and then.
    async fn due(&mut self, desk: &Desk, pair: &Pair, now: i64) -> i64 {
        if let Some((due, _)) = self.due.filter(|(_, until)| now < *until) {
            return due;
        }
        let (window, again) = window(desk, pair).await.unzip();
        let due = renew_at(pair.validity, window, self.chance);
        self.due = Some((due, now + again.unwrap_or(ASK_AGAIN)));
        due
    }

    async fn have_done(&mut self, desk: &Desk, wanted: &Wanted) {
        *self = Self::new();
        let (keeper, now) = (desk.parts.keeper.clone(), desk.now());
        keeper.note(&wanted.files, Note::default());
        blocking(move || keeper.look(now)).await;
        tracing::info!(name = wanted.name, server = desk.config.directory, "a certificate was obtained");
    }

    fn have_failed(&mut self, desk: &Desk, wanted: &Wanted, error: &AcmeError) {
        self.failures += 1;
        let now = desk.now();
        let wait = wait(self.failures, error.failure(), error.told_to_wait(now), chance());
        self.not_before = now + wait;
        let (name, server, why) = (&wanted.name, &desk.config.directory, error.told());
        let text = format!("no certificate for `{name}` from `{server}`: {why}");
        let again = format!("it is tried again at {}, or when the daemon starts", pair::date(self.not_before));
        tracing::info!(name, failures = self.failures, "{again}");
        let trouble = Some((text, format!("{}; {again}", error.hint())));
        desk.parts.keeper.note(&wanted.files, Note { due: None, trouble });
    }

    /// Nothing is tried before that.
    #[cfg(test)]
    pub fn not_before(&self) -> i64 {
        self.not_before
    }
}

/// Writes down what was issued. The order is over only then: until it is, the same certificate can be had once more.
async fn keep(desk: &Desk, wanted: &Wanted, chain: String, key: String) -> Result<(), AcmeError> {
    let (files, now) = (wanted.files.clone(), desk.now());
    let kept = blocking(move || {
        let texts = pair::Texts::new(&chain, &key);
        Pair::judge(&files, &texts, now)?;
        Ok::<_, AcmeError>(local::write_pair(&files, &chain, &key)?)
    });
    match kept.await {
        Ok(()) => Ok(desk.parts.store.end_acme_order(&wanted.name).await?),
        Err(error) => {
            desk.let_go(wanted, &error).await?;
            Err(error)
        }
    }
}

/// When the server wants a certificate renewed, and in how many seconds it is to be asked again, if it says so.
async fn window(desk: &Desk, pair: &Pair) -> Option<((i64, i64), i64)> {
    let unknown = |error: String| tracing::debug!(error, "no server has said when a certificate is to be renewed");
    let id = pair.renewal_id()?;
    let account = desk.account().await.map_err(|error| unknown(error.told())).ok()?.0;
    let (told, again) = account.renewal_info(&id).await.map_err(|error| unknown(error.to_string())).ok()?;
    let window = told.suggested_window;
    let again = (again.as_secs() as i64).clamp(ASK_EVERY.0, ASK_EVERY.1);
    Some(((window.start.unix_timestamp(), window.end.unix_timestamp()), again))
}

/// A disk of another machine may make one wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The daemon ends.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Between 0 and 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
