//! A wake: what is frozen is thawed, what is off is started, built anew before that if need be, and what serves answers
//! again.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use flyloft_core::lifecycle::{Depth, Runs};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::passage::Waited;
use super::rebuild::{self, Before};
use crate::admission::Place;
use crate::build::Hold;
use crate::deploy::{image, probe, spec};
use crate::edge::{Passage, Visit};
use crate::engine::{ContainerId, ContainerState, EngineError, Thawed};
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::provision;
use crate::store::{self, Content, EnvRow, LiveRow, ReleaseRow, SeenRow, WakeRow};
use crate::transcript::Transcript;

/// Many may want to start at once. Each has the machine to itself and a few others, until it answers or has had its
/// share: one that never answers keeps nobody else from starting.
static STARTS: Semaphore = Semaphore::const_new(4);
const SHARE: Duration = Duration::from_secs(2);

/// How long it may take until something accepts a connection. The kernel does that for whoever listens, which costs a
/// fraction of a millisecond; where it is not even refused, there is somebody.
const KNOCK: Duration = Duration::from_millis(250);

/// What is left of something that has ended in its sleep has so long to end.
const GRACE: Duration = Duration::from_secs(2);

/// What strangers at the door read of a wake: of each of its steps that may take its time.
pub const MEMORY: &str = "It waits until this machine has memory for it.";
const THAW: &str = "It was asleep, and its memory is being brought back.";
const START: &str = "It is being started.";
const TURN: &str = "It waits until others have started.";
const PROBE: &str = "It has been started, and does not answer yet.";

/// Who or what wants an environment awake.
pub struct Caller {
    /// In words for people.
    pub by: String,
    pub came: Instant,
    /// How those get through who wait for an answer.
    pub passage: Option<watch::Receiver<Passage>>,
}

impl From<String> for Caller {
    fn from(by: String) -> Self {
        Self { by, came: Instant::now(), passage: None }
    }
}

impl From<&str> for Caller {
    fn from(by: &str) -> Self {
        by.to_owned().into()
    }
}

impl From<Visit> for Caller {
    fn from(visit: Visit) -> Self {
        let Visit { by, at: came, passage, .. } = visit;
        Self { by, came, passage }
    }
}

/// Who or what wakes an environment now that there is room for it, and from what.
pub struct Call {
    caller: Caller,
    was: &'static str,
    at: i64,
    admitted: Instant,
    /// How long it had not been awake.
    slept: Duration,
}

/// What came of it.
pub struct Woken {
    pub outcome: Outcome,
    pub wake: WakeRow,
    /// There, where somebody waits for an answer.
    pub waited: Option<Waited>,
}

impl Call {
    pub fn new(caller: impl Into<Caller>, was: Runs, slept: Duration) -> Self {
        let was = match was {
            Runs::Asleep { depth: Depth::Shallow, .. } => "asleep",
            Runs::Asleep { depth: Depth::Deep, .. } => "deep",
            Runs::Off { .. } => "off",
            Runs::None | Runs::Awake { .. } | Runs::Waking { .. } => "awake",
        };
        Self { caller: caller.into(), was, at: store::now(), admitted: Instant::now(), slept }
    }
}

/// What a wake spends its time on, one thing after the other.
struct Watch {
    last: Instant,
    queued: Duration,
    started: Duration,
    ready: Duration,
}

impl Watch {
    fn since(last: Instant) -> Self {
        Self { last, queued: Duration::ZERO, started: Duration::ZERO, ready: Duration::ZERO }
    }

    /// The time since the last call was spent on this.
    fn lap(&mut self, on: fn(&mut Self) -> &mut Duration) {
        let now = Instant::now();
        let spent = now - std::mem::replace(&mut self.last, now);
        *on(self) += spent;
    }

    /// Waiting for its turn.
    fn queued(&mut self) {
        self.lap(|watch| &mut watch.queued);
    }

    /// On getting its processes to run.
    fn started(&mut self) {
        self.lap(|watch| &mut watch.started);
    }

    /// On getting them to answer.
    fn ready(&mut self) {
        self.lap(|watch| &mut watch.ready);
    }
}

/// Wakes what serves, which was promised a `place`. `frozen` if it need only be thawed. A build is broken off when the
/// wake is `given_up`.
pub async fn wake(
    parts: &Parts,
    env: &EnvRow,
    live: LiveRow,
    frozen: bool,
    call: Call,
    (place, given_up): (&mut Option<Place>, &CancellationToken),
) -> Woken {
    let Call { caller: Caller { by, came, passage }, was, at, admitted, slept } = call;
    let mut watch = Watch::since(admitted);
    watch.queued();
    let thawed = match frozen {
        true => resumed(parts, env, &live, &mut watch).await,
        false => None,
    };
    let woken = match &thawed {
        // It answered before it was frozen. To ask it whether it does would only keep the visitor waiting.
        Some(_) => Ok(live),
        None => {
            let content = content(parts, env, &live, &by, (place, given_up)).await;
            // Where it is built anew, that is no waiting for others.
            watch.started();
            match content {
                Ok(content) => start(parts, env, live, content, &mut watch).await.map_err(Failure::Dead),
                Err(failure) => Err(failure),
            }
        }
    };
    watch.ready();
    let Watch { last, queued, started, ready } = watch;
    let failure = woken.as_ref().err().map(|failure| failure.error().brief());
    if let Err(failure) = &woken {
        tracing::warn!(env = %env.name, error = %failure.error(), "failed to wake");
    }
    let outcome = match woken {
        Ok(live) => Outcome::Awake(live),
        Err(Failure::Dead(_)) => Outcome::Dead,
        Err(Failure::Unbuilt(_)) => Outcome::Unbuilt,
    };
    let passage = passage.filter(|_| failure.is_none());
    let waited = passage.map(|passage| Waited { came, ready: last, passage, thawed });
    let (was, admitted, total) = (was.to_owned(), admitted.duration_since(came), last.duration_since(came));
    let seen = SeenRow::default();
    let wake = WakeRow { at, by, was, admitted, queued, started, ready, seen, total, failure, slept };
    Woken { outcome, wake, waited }
}

/// Room for what starts though nobody asks for it: after a reboot, after a pause, or since its daemon died over it. What
/// runs or sleeps still was let in by that daemon, and is counted only.
pub async fn room(
    parts: &Parts,
    env: &EnvRow,
    container: &ContainerId,
    need: u64,
    given_up: &CancellationToken,
) -> Result<Place> {
    let admission = &parts.admission;
    if let Some(place) = admission.enter_now(env.id, need) {
        return Ok(place);
    }
    let found = parts.engine.find(container).await.or_failed(|| format!("failed to look at `{container}`"))?;
    if found.is_some_and(|found| found.state != ContainerState::Stopped) {
        return Ok(admission.count(need));
    }
    parts.edge.explain(&env.host, MEMORY);
    tokio::select! {
        biased;
        () = given_up.cancelled() => Err(Error::conflict(format!("`{}` is not to start any more", env.name))),
        place = admission.enter(env.id, need) => place,
    }
}

/// Why something does not wake.
enum Failure {
    Dead(Error),
    /// It had to be built before, and was not.
    Unbuilt(Error),
}

impl Failure {
    fn error(&self) -> &Error {
        let (Failure::Dead(error) | Failure::Unbuilt(error)) = self;
        error
    }
}

/// What is started, whose layers stay for as long as this lives.
struct Whole {
    release: ReleaseRow,
    content: Content,
    _hold: Hold,
}

/// What the release that serves is started from: as it was built, or built anew where it is not kept any more.
async fn content(
    parts: &Parts,
    env: &EnvRow,
    live: &LiveRow,
    by: &str,
    (place, given_up): (&mut Option<Place>, &CancellationToken),
) -> Result<Whole, Failure> {
    let failed = || format!("failed to wake `{}`", env.name);
    let look = async {
        let release = parts.store.release(env.id, live.release).await.or_failed(failed)?;
        let mut release = release.ok_or_else(|| Error::failed(format!("`{}` has no {}", env.name, live.release)))?;
        let content = release.content.take();
        let content = content.ok_or_else(|| Error::failed(format!("{} was never built", live.release)))?;
        let kept = image::kept(parts, &content).await?;
        Ok::<_, Error>((release, content, kept))
    };
    let (release, content, kept) = look.await.map_err(Failure::Dead)?;
    let (content, hold) = match kept {
        Some(hold) => (content, hold),
        None => {
            // A build takes minutes, in which others can have that memory.
            let promised = place.take().map(|place| place.bytes());
            let before = Before { env, release: &release, content: &content };
            let built = rebuild::rebuild(parts, before, by, given_up).await.map_err(Failure::Unbuilt)?;
            if let Some(need) = promised {
                parts.edge.explain(&env.host, MEMORY);
                *place = Some(parts.admission.enter(env.id, need).await.map_err(Failure::Dead)?);
            }
            built
        }
    };
    Ok(Whole { release, content, _hold: hold })
}

/// Thaws what sleeps, if it is then as it was. If not, it has to be started.
async fn resumed(parts: &Parts, env: &EnvRow, live: &LiveRow, watch: &mut Watch) -> Option<Thawed> {
    // What was killed while it was frozen accepts connections for as long as it is.
    let doomed = parts.engine.is_doomed(&live.container).await.unwrap_or_else(|error| {
        tracing::debug!(env = %env.name, %error, "failed to see whether it was killed in its sleep");
        false
    });
    if !doomed {
        // Who listens does so frozen, too: neither waits for the other.
        let (thawed, accepts) = tokio::join!(thawed(parts, env, live, watch), accepts(live.upstream));
        if thawed.is_none() || accepts {
            return thawed;
        }
    }
    tracing::info!(env = %env.name, "what served has ended in its sleep; starting it anew");
    // Its first process would start it again as well, but only after a pause.
    if let Err(error) = parts.engine.stop(&live.container, GRACE).await {
        tracing::warn!(env = %env.name, %error, "failed to end what is left of it");
    }
    None
}

/// Whether somebody accepts connections where the app answered.
async fn accepts(upstream: Option<SocketAddr>) -> bool {
    let Some(upstream) = upstream else { return true };
    let connected = tokio::time::timeout(KNOCK, TcpStream::connect(upstream)).await;
    !matches!(connected, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Thaws it. Not so where it is not frozen any more, but gone: then it has to be started.
async fn thawed(parts: &Parts, env: &EnvRow, live: &LiveRow, watch: &mut Watch) -> Option<Thawed> {
    parts.edge.explain(&env.host, THAW);
    let thawed = parts.engine.thaw(&live.container).await;
    watch.started();
    match thawed {
        Ok(thawed) => Some(thawed),
        Err(EngineError::NoContainer(_) | EngineError::NotRunning(_)) => None,
        Err(error) => {
            tracing::warn!(env = %env.name, %error, "failed to thaw; starting it anew");
            None
        }
    }
}

/// Starts it, made anew if it is gone, and waits until it answers.
async fn start(parts: &Parts, env: &EnvRow, live: LiveRow, whole: Whole, watch: &mut Watch) -> Result<LiveRow> {
    let failed = || format!("failed to wake `{}`", env.name);
    let doing = |step| parts.edge.explain(&env.host, step);
    let Whole { release, content, .. } = &whole;
    doing(START);
    let version = spec::Version { release: live.release, commit: release.commit.as_ref() };
    let asks = provision::asks(parts, env, &content.settings);
    let given = provision::given(parts, env, live.release, &asks).await?;
    let container = spec::container(parts, env, version, (content, &given), &live.container);
    let found = parts.engine.find(&live.container).await.or_failed(failed)?;
    // It came out otherwise than it was, and what was written over that would not fit.
    if found.is_some_and(|found| found.image != content.image) {
        parts.engine.remove(&live.container).await.or_failed(failed)?;
    }
    match parts.engine.create(&container).await {
        Ok(_) => {}
        // The server's configuration has changed since, and what was deployed then goes on as it is. Only what it has on
        // servers of others it finds where that is now.
        Err(EngineError::Exists(_)) => parts.engine.allow(&live.container, &given.reach).await.or_failed(failed)?,
        Err(error) => return Err(Error::because(failed(), error)),
    }
    watch.started();
    doing(TURN);
    let turn = STARTS.acquire().await.or_failed(failed)?;
    watch.queued();
    doing(START);
    let at = OffsetDateTime::now_utc();
    // After a reboot it is stopped, asleep it is frozen; each verb leaves alone what the other is for.
    parts.engine.start(&live.container).await.or_failed(failed)?;
    parts.engine.thaw(&live.container).await.or_failed(failed)?;
    watch.started();
    doing(PROBE);
    let started = probe::Started { env, content, container: &live.container, at };
    let upstream = probed(parts, started, turn).await?;
    Ok(LiveRow { upstream, ..live })
}

/// Waits until it answers, and lets the next one have its turn before that if need be.
async fn probed(parts: &Parts, started: probe::Started<'_>, turn: SemaphorePermit<'_>) -> Result<Option<SocketAddr>> {
    let transcript = Transcript::discard();
    let mut probing = pin!(probe::probe(parts, started, &transcript));
    let in_time = tokio::time::timeout(SHARE, &mut probing).await;
    drop(turn);
    match in_time {
        Ok(upstream) => upstream,
        Err(_) => probing.await,
    }
}
