//! `flyloft sleep`, `wake`, `off`, `pin`, `unpin` and `extend`: steps on the ladder that people take by hand.

use std::time::Duration;

use flyloft_core::lifecycle::{Depth, Event, Runs, State};
use flyloft_core::name::EnvRef;
use flyloft_core::policy::Span;

use super::reply::done;
use super::{Api, Call, Ending};
use crate::command::{Extend, Sleep};
use crate::conductor::{Conductor, Restless, Told};
use crate::error::{Error, Result};

/// How much longer an environment is kept that is extended without saying for how long.
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Api {
    pub(super) async fn sleep(&self, call: &mut Call<'_>, sleep: Sleep) -> Result<Ending> {
        let name = sleep.env;
        let conductor = self.theirs(call, &name).await?;
        let depth = if sleep.deep { Depth::Deep } else { Depth::Shallow };
        let told = conductor.tell(Event::Sleep { depth }).await?;
        let restless = conductor.at_rest().await?;
        match runs(&conductor)? {
            Runs::Asleep { depth: Depth::Shallow, .. } => Ok(said(told, &name, "is asleep").into()),
            Runs::Asleep { depth: Depth::Deep, .. } => Ok(said(told, &name, "is deep asleep").into()),
            runs => Err(not_at_rest(&name, runs, restless)),
        }
    }

    pub(super) async fn wake(&self, call: &mut Call<'_>, name: EnvRef) -> Result<Ending> {
        let conductor = self.theirs(call, &name).await?;
        if matches!(conductor.state(), State::Live(live) if live.runs.is_cleared()) {
            call.say("-----> Building it anew\n").await?;
        }
        let text = match conductor.wake(call.by()).await? {
            Told::Done => format!("`{name}` is awake"),
            Told::AlreadySo => format!("`{name}` is awake already"),
        };
        awake(&name, &conductor).await?;
        Ok(done(text).into())
    }

    pub(super) async fn off(&self, call: &mut Call<'_>, name: EnvRef) -> Result<Ending> {
        let conductor = self.theirs(call, &name).await?;
        let told = conductor.tell(Event::Off).await?;
        conductor.at_rest().await?;
        match runs(&conductor)? {
            Runs::Off { .. } => {}
            runs => return Err(not_at_rest(&name, runs, None)),
        }
        let is_pinned = matches!(conductor.state(), State::Live(live) if live.pinned);
        let mut text = match told {
            Told::Done => format!("`{name}` is off"),
            Told::AlreadySo => format!("`{name}` is off already"),
        };
        if is_pinned {
            text.push_str(", and still pinned: time does not destroy it");
        }
        Ok(done(text).into())
    }

    pub(super) async fn pin(&self, call: &mut Call<'_>, name: EnvRef) -> Result<Ending> {
        let conductor = self.theirs(call, &name).await?;
        Ok(said(conductor.tell(Event::Pin).await?, &name, "is pinned").into())
    }

    pub(super) async fn unpin(&self, call: &mut Call<'_>, name: EnvRef) -> Result<Ending> {
        let conductor = self.theirs(call, &name).await?;
        let told = conductor.tell(Event::Unpin).await?;
        let now = self.loft.parts.clock.now();
        let kept = match conductor.state() {
            State::Live(live) => live.kept_until.filter(|until| *until > now),
            State::Destroyed { .. } => None,
        };
        Ok(done(match (told, kept) {
            (Told::AlreadySo, _) => format!("`{name}` was not pinned"),
            (Told::Done, None) => format!("`{name}` is not pinned any more"),
            (Told::Done, Some(until)) => {
                let kept = Span(Some(Duration::from_secs(until.since(now).as_secs().next_multiple_of(60))));
                format!("`{name}` is not pinned any more, and kept for {kept} yet")
            }
        })
        .into())
    }

    pub(super) async fn extend(&self, call: &mut Call<'_>, extend: Extend) -> Result<Ending> {
        let name = extend.env;
        let conductor = self.theirs(call, &name).await?;
        let more = match extend.by {
            None => DAY,
            Some(span) => span.0.filter(|span| !span.is_zero()).ok_or_else(|| {
                Error::usage("an environment is extended by a span of time such as `2d`")
                    .hint(format!("`flyloft pin {name}` keeps it for good"))
            })?,
        };
        let until = self.loft.parts.clock.now().plus(more);
        let text = format!("is kept for {} more", Span(Some(more)));
        match conductor.tell(Event::Extend { until }).await? {
            Told::Done => Ok(done(format!("`{name}` {text}")).into()),
            Told::AlreadySo => Ok(done(format!("`{name}` is kept for longer than that already")).into()),
        }
    }

    /// The conductor of an environment that the caller may command.
    async fn theirs(&self, call: &mut Call<'_>, name: &EnvRef) -> Result<Conductor> {
        call.must_use(&name.app)?;
        Ok(self.loft.find(name).await?.1)
    }
}

/// Waits until it answers, or has failed to.
pub(super) async fn awake(name: &EnvRef, conductor: &Conductor) -> Result<()> {
    match conductor.settled().await {
        State::Live(live) if matches!(live.runs, Runs::Awake { .. }) => Ok(()),
        state @ State::Live(_) if state.unbuilt_until().is_some() => {
            Err(Error::failed(format!("`{name}` was not kept, and could not be built anew"))
                .hint(format!("`flyloft events {name}` says why"))
                .hint(format!("`flyloft logs {name} --build` shows what the build said")))
        }
        State::Live(_) => Err(Error::failed(format!("`{name}` did not wake up"))
            .hint(format!("`flyloft logs {name}` shows what its processes printed"))),
        State::Destroyed { .. } => Err(Error::not_found(format!("`{name}` has just been destroyed"))),
    }
}

fn runs(conductor: &Conductor) -> Result<Runs> {
    match conductor.state() {
        State::Live(live) => Ok(live.runs),
        State::Destroyed { .. } => Err(Error::not_found(format!("`{}` has just been destroyed", conductor.env()))),
    }
}

/// Why it is not as somebody wants it who has waited for that.
fn not_at_rest(name: &EnvRef, runs: Runs, restless: Option<Restless>) -> Error {
    let Some(why) = restless else {
        let is = match runs {
            Runs::None | Runs::Awake { .. } => "awake",
            Runs::Waking { .. } => "waking up",
            Runs::Asleep { .. } => "asleep",
            Runs::Off { .. } => "off",
        };
        return Error::conflict(format!("`{name}` is {is}: somebody came meanwhile, or wanted it so"))
            .hint(format!("`flyloft why {name}` says who"));
    };
    let error = Error::conflict(format!("`{name}` is awake: {why}"));
    match why {
        Restless::Request => error
            .hint("try again when it has ended")
            .hint(format!("`flyloft off {name}` ends it, half a minute after it was asked for")),
        Restless::Command => error.hint("try again when it has ended"),
        Restless::Used => error.hint(format!("`flyloft why {name}` says who")),
        Restless::Unable(_) => error.hint(format!("`flyloft events {name}` says more")),
    }
}

fn said(told: Told, name: &EnvRef, what: &str) -> super::reply::Done {
    match told {
        Told::Done => done(format!("`{name}` {what}")),
        Told::AlreadySo => done(format!("`{name}` {what} already")),
    }
}
