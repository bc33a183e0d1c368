//! The life of an environment: one pure function, [`step`].
//!
//! ```text
//!   what runs
//!
//!           deploy succeeded           idle, sleep             ttl, off
//!     none ─────────────────► awake ────────────────► asleep ────────────► off
//!                             ▲   │ died                │ wake, visit       │ wake, visit,
//!                             │   │                     │                   │ pause over
//!                        woke │   ▼                     ▼                   ▼
//!                             └─ waking ◄───────────────┴───────────────────┘
//!                                  └───── failed ──────────────────────► off
//!
//!   what is being deployed
//!
//!         deploy v2                    deploy v3: v2 is cancelled
//!     no ───────────► deploying v2 ─────────────────────────────► deploying v2, then v3
//!      ▲                    │                                           │ v2 ended
//!      ├─ succeeded, failed ┘                                           │
//!      └─ succeeded, failed ─ deploying v3 ◄────────────────────────────┘
//!
//!   from everywhere: destroy, source gone, expire ─► destroyed
//! ```
//!
//! The two axes are apart: an old release serves, sleeps or is off while a new one is made. What must hold, and is
//! tested over random sequences of events:
//!
//! - A deploy that fails changes nothing but the second axis.
//! - The old release serves until the new one is routed, which is the first effect of a deploy that succeeded.
//! - There is never more than one deploy at once, and of those that were pushed meanwhile the newest wins.
//! - What ends by itself is started again at once, and what does so again and again is not (`death.rs`).
//! - What the engine stopped because it had outgrown its disk runs again only when somebody asks for it.
//! - Nothing is taken off the disk that is not off, that is pinned, or that is being deployed.
//! - Destroyed is final, and time alone never destroys what is pinned.
//! - The same events at the same times give the same state: nothing else goes in.
//!
//! The caller (an environment's conductor) hands in one event after the other, stores the new state, and then carries
//! out the effects in their order. It may die in between: every effect can be repeated, and what was under way is
//! mended by [`Event::DaemonStarted`] followed by [`Event::Found`].

mod death;
mod effect;
mod event;
mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use death::Deaths;
pub use effect::{Answer, Cause, Effect, Refusal};
pub use event::{Event, Found};
pub use state::{Deploying, Depth, Live, Runs, State, Timestamp, WhyOff};

use crate::name::ReleaseNumber;
use crate::policy::Policy;

/// How long an environment stays shallowly asleep before its memory goes to disk.
const DEEP_AFTER: Duration = Duration::from_secs(3600);

/// How long at least an environment lives that is not pinned any more.
const AFTER_PIN: Duration = Duration::from_secs(24 * 3600);

/// How long visits to what could not be built are refused at least and at most.
const REBUILD_PAUSE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(2 * 3600));

/// What `event` does to an environment in `state`, at the time `now` and under `policy`.
pub fn step(state: &State, event: &Event, now: Timestamp, policy: &Policy) -> Result<Answer, Refusal> {
    let live = match state {
        State::Live(live) => live.clone(),
        State::Destroyed { ending } => return after_the_end(*ending, event),
    };
    match *event {
        Event::Deploy { release } => deploy(live, release, now),
        Event::DeploySucceeded { release } => deploy_succeeded(live, release, now),
        Event::DeployFailed { release } => deploy_failed(live, release),

        Event::Visit => visit(live, now),
        Event::Wake => wake(live, now),
        Event::Woke { release } => woke(live, release, now),
        Event::WakeFailed { release } => wake_failed(live, release, now),
        Event::BuildFailed { release } => build_failed(live, release, now),
        Event::NoRoom { release } => death::no_room(live, release, now),
        Event::Sleep { depth } => sleep(live, depth, now),
        Event::Deepen => deepen(live, now),
        Event::SleepFailed { release } => sleep_failed(live, release, now),
        Event::Off => off(live, WhyOff::Asked, now),
        Event::Clear => clear(live, now),

        Event::Used { at } if at > live.last_used => done(Live { last_used: at, ..live }, []),
        Event::Used { .. } => Ok(Answer::AlreadySo),
        Event::Pin if live.pinned => Ok(Answer::AlreadySo),
        Event::Pin => done(Live { pinned: true, ..live }, []),
        Event::Unpin => unpin(live, now, policy),
        Event::Extend { until } if live.kept_until.is_none_or(|kept| kept < until) => {
            done(Live { kept_until: Some(until), ..live }, [])
        }
        Event::Extend { .. } => Ok(Answer::AlreadySo),

        Event::Clock => clock(live, now, policy),
        Event::SourceGone if live.pinned => Err(Refusal::Pinned),
        Event::SourceGone | Event::Destroy => destroy(live),
        Event::DaemonStarted { rebooted } => daemon_started(live, rebooted, now),
        Event::Found(found) => reconcile(live, found, now),
    }
}

fn done(live: Live, effects: impl Into<Vec<Effect>>) -> Result<Answer, Refusal> {
    Ok(Answer::Done(State::Live(live), effects.into()))
}

fn deploy(mut live: Live, release: ReleaseNumber, now: Timestamp) -> Result<Answer, Refusal> {
    if let Some(than) = live.newest().filter(|newest| *newest >= release) {
        return Err(Refusal::NotNewer { release, than });
    }
    live.last_used = live.last_used.max(now);
    let cause = Cause::Superseded { by: release };
    let (deploying, effect) = match live.deploying {
        Deploying::No => (Deploying::Yes { release, newest: None }, Effect::StartDeploy { release }),
        Deploying::Yes { release: current, newest: None } => (
            Deploying::Yes { release: current, newest: Some(release) },
            Effect::CancelDeploy { release: current, cause },
        ),
        Deploying::Yes { release: current, newest: Some(waiting) } => {
            (Deploying::Yes { release: current, newest: Some(release) }, Effect::SkipDeploy { release: waiting, cause })
        }
    };
    live.deploying = deploying;
    done(live, [effect])
}

/// The new release is built, launched and healthy; from here on it is the one that serves. That goes for one that was
/// being cancelled too: it was quicker than its cancelling.
fn deploy_succeeded(mut live: Live, release: ReleaseNumber, now: Timestamp) -> Result<Answer, Refusal> {
    let Some(next) = live.deploying.ended(release) else { return Ok(Answer::AlreadySo) };
    let mut effects = vec![Effect::Route { release }];
    effects.extend(live.runs.release().map(|release| Effect::Retire { release }));
    effects.extend(next.release().map(|release| Effect::StartDeploy { release }));
    live.runs = Runs::Awake { release, since: now };
    live.deaths = None;
    live.deploying = next;
    live.last_used = live.last_used.max(now);
    done(live, effects)
}

/// The deploy has undone what it made. Nothing else changes.
fn deploy_failed(mut live: Live, release: ReleaseNumber) -> Result<Answer, Refusal> {
    let Some(next) = live.deploying.ended(release) else { return Ok(Answer::AlreadySo) };
    live.deploying = next;
    done(live, Vec::from_iter(next.release().map(|release| Effect::StartDeploy { release })))
}

fn wake(mut live: Live, now: Timestamp) -> Result<Answer, Refusal> {
    let (release, effect) = match live.runs {
        Runs::None => return Err(Refusal::NothingDeployed),
        Runs::Awake { .. } | Runs::Waking { .. } => return Ok(Answer::AlreadySo),
        Runs::Asleep { release, .. } => (release, Effect::Thaw { release }),
        Runs::Off { why: WhyOff::Over(excess), .. } => return Err(Refusal::Over(excess)),
        Runs::Off { release, .. } => (release, Effect::Start { release }),
    };
    live.runs = Runs::Waking { release, since: now };
    live.last_used = live.last_used.max(now);
    done(live, [effect])
}

fn woke(mut live: Live, release: ReleaseNumber, now: Timestamp) -> Result<Answer, Refusal> {
    if !live.runs.is_waking(release) {
        return Ok(Answer::AlreadySo);
    }
    live.runs = Runs::Awake { release, since: now };
    done(live, [Effect::Route { release }])
}

fn wake_failed(mut live: Live, release: ReleaseNumber, now: Timestamp) -> Result<Answer, Refusal> {
    if !live.runs.is_waking(release) {
        return Ok(Answer::AlreadySo);
    }
    live.runs = off_for(release, WhyOff::Crashed, now);
    live.count_death(now);
    done(live, [Effect::Hold, Effect::Stop { release }])
}

fn off_for(release: ReleaseNumber, why: WhyOff, since: Timestamp) -> Runs {
    Runs::Off { release, since, why, cleared: false }
}

/// What could not be built is not built again for each who comes.
fn visit(live: Live, now: Timestamp) -> Result<Answer, Refusal> {
    match live.runs {
        Runs::Off { why: WhyOff::Unbuilt { until }, .. } if now < until => {
            Err(Refusal::Unbuilt { wait: until.since(now) })
        }
        _ => wake(live, now),
    }
}

/// However often somebody comes, building in vain takes no more than a tenth of the time.
fn build_failed(mut live: Live, release: ReleaseNumber, now: Timestamp) -> Result<Answer, Refusal> {
    let Runs::Waking { release: ours, since } = live.runs else { return Ok(Answer::AlreadySo) };
    if ours != release {
        return Ok(Answer::AlreadySo);
    }
    let pause = now.since(since).saturating_mul(9).clamp(REBUILD_PAUSE.0, REBUILD_PAUSE.1);
    live.runs = off_for(release, WhyOff::Unbuilt { until: now.plus(pause) }, now);
    done(live, [Effect::Hold])
}

/// Only what nobody needs at the moment goes, and never what somebody wants kept.
fn clear(mut live: Live, now: Timestamp) -> Result<Answer, Refusal> {
    let Runs::Off { release, since, why, cleared } = live.runs else { return Err(Refusal::NotOff) };
    if live.deploying != Deploying::No {
        return Err(Refusal::Deploying);
    }
    if live.pinned || live.kept_until.is_some_and(|until| now < until) {
        return Err(Refusal::Pinned);
    }
    if cleared {
        return Ok(Answer::AlreadySo);
    }
    live.runs = Runs::Off { release, since, why, cleared: true };
    done(live, [Effect::Clear { release }])
}

fn sleep(mut live: Live, depth: Depth, now: Timestamp) -> Result<Answer, Refusal> {
    match live.runs {
        Runs::None => Err(Refusal::NothingDeployed),
        Runs::Waking { .. } => Err(Refusal::Waking),
        Runs::Off { .. } => Err(Refusal::Off),
        Runs::Asleep { depth: already, .. } if already >= depth => Ok(Answer::AlreadySo),
        Runs::Asleep { release, since, .. } => {
            live.runs = Runs::Asleep { release, since, depth };
            done(live, [Effect::Offload { release, depth }])
        }
        Runs::Awake { release, .. } => {
            live.runs = Runs::Asleep { release, since: now, depth };
            live.stayed_awake = None;
            done(live, put_to_sleep(release, depth))
        }
    }
}

/// Whoever is awake by now is let alone.
fn deepen(live: Live, now: Timestamp) -> Result<Answer, Refusal> {
    match live.runs {
        Runs::Asleep { .. } => sleep(live, Depth::Deep, now),
        _ => Ok(Answer::AlreadySo),
    }
}

/// It runs on, and is let alone for as long as if somebody had used it. Nobody has: what never sleeps is turned off and
/// destroyed in its time.
fn sleep_failed(mut live: Live, release: ReleaseNumber, now: Timestamp) -> Result<Answer, Refusal> {
    match live.runs {
        Runs::Asleep { release: ours, .. } if ours == release => {
            live.runs = Runs::Awake { release, since: now };
            live.stayed_awake = Some(now);
            done(live, [Effect::Route { release }])
        }
        _ => Ok(Answer::AlreadySo),
    }
}

/// The edge stops handing over requests before the freeze, so that none is caught in a frozen process.
fn put_to_sleep(release: ReleaseNumber, depth: Depth) -> [Effect; 3] {
    [Effect::Hold, Effect::Freeze { release }, Effect::Offload { release, depth }]
}

fn off(mut live: Live, why: WhyOff, now: Timestamp) -> Result<Answer, Refusal> {
    let (Runs::Awake { release, .. } | Runs::Asleep { release, .. }) = live.runs else {
        return match live.runs {
            Runs::None => Err(Refusal::NothingDeployed),
            Runs::Waking { .. } => Err(Refusal::Waking),
            // Time would start it again.
            Runs::Off { release, cleared, .. } if live.tried_again_at().is_some() => {
                live.runs = Runs::Off { release, since: now, why, cleared };
                done(live, [Effect::Hold])
            }
            _ => Ok(Answer::AlreadySo),
        };
    };
    live.runs = off_for(release, why, now);
    done(live, [Effect::Hold, Effect::Stop { release }])
}

/// Whoever leaves it to time again has not asked for its end: what is due for that is kept for a while yet.
fn unpin(mut live: Live, now: Timestamp, policy: &Policy) -> Result<Answer, Refusal> {
    if !std::mem::replace(&mut live.pinned, false) {
        return Ok(Answer::AlreadySo);
    }
    // Whatever is under way with it comes to its end before that.
    let until = now.plus(AFTER_PIN);
    if expires(&live, policy).is_some_and(|due| due < until) {
        live.kept_until = Some(until);
    }
    done(live, [])
}

fn destroy(live: Live) -> Result<Answer, Refusal> {
    let mut effects = Vec::new();
    let mut ending = None;
    if let Deploying::Yes { release, newest } = live.deploying {
        ending = Some(release);
        effects.push(Effect::CancelDeploy { release, cause: Cause::Destroyed });
        effects.extend(newest.map(|release| Effect::SkipDeploy { release, cause: Cause::Destroyed }));
    }
    effects.extend(live.runs.release().map(|release| Effect::Farewell { release }));
    effects.push(Effect::Unroute);
    // A deploy that is being cancelled still makes things. They go, with the rest, when it has ended.
    if ending.is_none() {
        effects.push(Effect::Remove);
    }
    Ok(Answer::Done(State::Destroyed { ending }, effects))
}

fn after_the_end(ending: Option<ReleaseNumber>, event: &Event) -> Result<Answer, Refusal> {
    let over = |effects: &[Effect]| Ok(Answer::Done(State::Destroyed { ending: None }, effects.to_vec()));
    match *event {
        Event::DeploySucceeded { release } | Event::DeployFailed { release } if ending == Some(release) => {
            over(&[Effect::Remove])
        }
        // The store forgets what has been removed. What it still knows has not been removed whole.
        Event::DaemonStarted { .. } => over(&[Effect::Unroute, Effect::Remove]),
        Event::Deploy { .. }
        | Event::Visit
        | Event::Wake
        | Event::Sleep { .. }
        | Event::Off
        | Event::Clear
        | Event::Pin
        | Event::Unpin
        | Event::Extend { .. } => Err(Refusal::Destroyed),
        Event::DeploySucceeded { .. }
        | Event::DeployFailed { .. }
        | Event::Woke { .. }
        | Event::WakeFailed { .. }
        | Event::BuildFailed { .. }
        | Event::NoRoom { .. }
        | Event::SleepFailed { .. }
        | Event::Deepen
        | Event::Used { .. }
        | Event::Clock
        | Event::SourceGone
        | Event::Destroy
        | Event::Found(_) => Ok(Answer::AlreadySo),
    }
}

/// A step that time brings about: up again, of what ended by itself, or down the ladder, the lowest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    Again,
    Asleep,
    DeepAsleep,
    Off,
    Destroyed,
}

/// The steps that lie ahead of an environment if nobody uses it, and when. None while a deploy is under way.
/// A clock that was set back only delays them.
fn rungs(live: &Live, policy: &Policy) -> impl Iterator<Item = (Timestamp, Rung)> {
    let quiet = live.deploying == Deploying::No;
    let unused = |limit: Option<Duration>| limit.map(|limit| live.last_used.plus(limit));

    let idle = policy.idle.map(|limit| live.idle_since().plus(limit));
    let asleep = idle.filter(|_| matches!(live.runs, Runs::Awake { .. }));
    let deep = match live.runs {
        Runs::Asleep { since, depth: Depth::Shallow, .. } => Some(since.plus(DEEP_AFTER)),
        _ => None,
    };
    let off = kept(live, unused(policy.ttl)).filter(|_| matches!(live.runs, Runs::Awake { .. } | Runs::Asleep { .. }));
    let destroyed = expires(live, policy).filter(|_| !matches!(live.runs, Runs::Waking { .. }));

    let again = (live.tried_again_at(), Rung::Again);
    [again, (asleep, Rung::Asleep), (deep, Rung::DeepAsleep), (off, Rung::Off), (destroyed, Rung::Destroyed)]
        .into_iter()
        .filter_map(move |(due, rung)| due.filter(|_| quiet).map(|due| (due, rung)))
}

/// The next step if nobody uses the environment, and when [`Event::Clock`] will bring it about.
pub fn next_rung(state: &State, policy: &Policy) -> Option<(Timestamp, Rung)> {
    match state {
        State::Live(live) => rungs(live, policy).min(),
        State::Destroyed { .. } => None,
    }
}

/// When time destroys it, if nobody uses it, and no deploy or wake that is under way changes that.
pub fn end(state: &State, policy: &Policy) -> Option<Timestamp> {
    match state {
        State::Live(live) => expires(live, policy),
        State::Destroyed { .. } => None,
    }
}

fn expires(live: &Live, policy: &Policy) -> Option<Timestamp> {
    kept(live, policy.expire.map(|limit| live.last_used.plus(limit)))
}

/// `extend` and `pin` let it sleep, which costs next to nothing, but keep it from going further.
fn kept(live: &Live, due: Option<Timestamp>) -> Option<Timestamp> {
    due.filter(|_| !live.pinned).map(|due| due.max(live.kept_until.unwrap_or(due)))
}

/// Goes straight to the lowest rung that is due: what has been unused for weeks is not frozen first.
fn clock(mut live: Live, now: Timestamp, policy: &Policy) -> Result<Answer, Refusal> {
    match rungs(&live, policy).filter(|(due, _)| *due <= now).map(|(_, rung)| rung).max() {
        None => Ok(Answer::AlreadySo),
        Some(Rung::Again) => {
            let Some(release) = live.runs.release() else { return Ok(Answer::AlreadySo) };
            live.runs = Runs::Waking { release, since: now };
            done(live, [Effect::Start { release }])
        }
        Some(Rung::Asleep) => sleep(live, Depth::Shallow, now),
        Some(Rung::DeepAsleep) => sleep(live, Depth::Deep, now),
        Some(Rung::Off) => off(live, WhyOff::Unused, now),
        Some(Rung::Destroyed) => destroy(live),
    }
}

/// Nothing is under way any more: deploys that the daemon died in are abandoned (whoever pushed has lost the
/// connection and knows), a wake is tried again. The edge has forgotten its routes. Containers that the last daemon left
/// half made go when what is gets compared with what should be, which follows.
fn daemon_started(mut live: Live, rebooted: bool, now: Timestamp) -> Result<Answer, Refusal> {
    let mut effects = Vec::new();
    match live.runs {
        Runs::None => {}
        Runs::Awake { release, .. } | Runs::Asleep { release, .. } | Runs::Waking { release, .. } if rebooted => {
            effects.push(Effect::Hold);
            if live.pinned {
                effects.push(Effect::Start { release });
                live.runs = Runs::Waking { release, since: now };
            } else {
                live.runs = off_for(release, WhyOff::Rebooted, now);
            }
        }
        Runs::Awake { release, .. } => effects.push(Effect::Route { release }),
        Runs::Asleep { .. } | Runs::Off { .. } => effects.push(Effect::Hold),
        Runs::Waking { release, .. } => {
            effects.extend([Effect::Hold, Effect::Start { release }]);
            live.runs = Runs::Waking { release, since: now };
        }
    }
    if let Deploying::Yes { release, newest } = live.deploying {
        effects.push(Effect::AbandonDeploy { release });
        effects.extend(newest.map(|release| Effect::AbandonDeploy { release }));
        live.deploying = Deploying::No;
    }
    done(live, effects)
}

/// Compares what should be with what the engine has, and repairs the difference.
fn reconcile(mut live: Live, found: Found, now: Timestamp) -> Result<Answer, Refusal> {
    match (live.runs, found) {
        // A wake that the engine has cut short ended as one that crashed.
        (
            Runs::Awake { release, .. } | Runs::Asleep { release, .. } | Runs::Off { release, why: WhyOff::Crashed, .. },
            Found::Over(excess),
        ) => {
            live.runs = off_for(release, WhyOff::Over(excess), now);
            done(live, [Effect::Hold, Effect::Report { release, excess }])
        }
        (Runs::Awake { release, .. } | Runs::Asleep { release, .. }, Found::Stopped | Found::Gone) => {
            death::ended(live, release, now)
        }
        (Runs::Awake { release, .. }, Found::Frozen | Found::Resident) => {
            live.runs = Runs::Waking { release, since: now };
            done(live, [Effect::Hold, Effect::Thaw { release }])
        }
        (Runs::Asleep { release, depth, .. }, Found::Running) => done(live, put_to_sleep(release, depth)),
        // A daemon died before it had moved all of it, or swap was turned off or on meanwhile.
        (Runs::Asleep { release, depth, .. }, Found::Resident) => done(live, [Effect::Offload { release, depth }]),
        (Runs::Off { release, .. }, Found::Running | Found::Frozen | Found::Resident) => {
            done(live, [Effect::Stop { release }])
        }
        (Runs::Off { release, cleared: true, .. }, Found::Stopped | Found::Over(_)) => {
            done(live, [Effect::Clear { release }])
        }
        (Runs::Awake { .. }, Found::Running)
        | (Runs::Asleep { .. }, Found::Frozen)
        | (Runs::Off { .. }, Found::Stopped | Found::Gone | Found::Over(_))
        // A wake under way ends with an event of its own.
        | (Runs::None | Runs::Waking { .. }, _) => Ok(Answer::AlreadySo),
    }
}
