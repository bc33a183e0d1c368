//! The ends of what a conductor has begun, and what is made of them.

use flyloft_core::lifecycle::{self, Deploying, Event, Rung, Runs, State};
use flyloft_core::name::ReleaseNumber;

use super::{Restless, Task, Told, effect};
use crate::error::Result;
use crate::store::{EventKind, LiveRow};

/// How something has ended. It is told once, and must not be lost, or the environment would be at it for ever.
pub enum End {
    /// A deploy, which has undone what it made. `unwanted` if whoever asked for it has gone away.
    Failed { release: ReleaseNumber, why: String, unwanted: bool },
    /// A wake: what was thawed or started answers now, or was given up.
    Woke { release: ReleaseNumber, outcome: Outcome },
    /// A sleep that could not be.
    Restless { release: ReleaseNumber, why: Restless },
}

/// What a wake came to.
pub enum Outcome {
    Awake(LiveRow),
    Dead,
    /// It had to be built anew before, and could not be.
    Unbuilt,
    /// There was no memory for it to start, in the words of who is asked for that.
    NoRoom(String),
}

impl Task {
    /// With every message, and every minute without one.
    pub(super) async fn record_again(&mut self) {
        for end in std::mem::take(&mut self.unrecorded) {
            self.record(end).await;
        }
    }

    pub(super) async fn record(&mut self, end: End) {
        let recorded = match &end {
            End::Failed { release, why, unwanted } => self.failed(*release, why, *unwanted).await,
            End::Woke { release, outcome } => self.woke(*release, outcome).await,
            End::Restless { release, why } => self.restless(*release, why).await,
        };
        if let Err(error) = recorded {
            tracing::error!(env = %self.env.name, %error, "failed to record how something ended; trying again soon");
            self.unrecorded.push(end);
        }
    }

    async fn woke(&mut self, release: ReleaseNumber, outcome: &Outcome) -> Result<()> {
        let (event, live) = match outcome {
            Outcome::Awake(live) => (Event::Woke { release }, Some(live)),
            Outcome::Dead => (Event::WakeFailed { release }, None),
            Outcome::Unbuilt => (Event::BuildFailed { release }, None),
            Outcome::NoRoom(_) => (Event::NoRoom { release }, None),
        };
        let told = self.step(&event, live).await?;
        match outcome {
            Outcome::NoRoom(why) if told == Ok(Told::Done) => self.has_no_room(release, why).await,
            _ => self.lacks_room = false,
        }
        Ok(())
    }

    /// Its people are told once, however often it is tried again.
    async fn has_no_room(&mut self, release: ReleaseNumber, why: &str) {
        if std::mem::replace(&mut self.lacks_room, true) {
            return;
        }
        let next = match lifecycle::next_rung(&self.state, &self.policy()) {
            Some((_, Rung::Again)) => "it is tried again by itself until there is some, and by a visit",
            _ => "a visit tries again",
        };
        effect::tell(&self.parts, &self.env.name, EventKind::WakeFailed, &format!("{release}: {why}; {next}")).await;
    }

    async fn restless(&mut self, release: ReleaseNumber, why: &Restless) -> Result<()> {
        // Somebody may have come meanwhile, and then it is about something that is over.
        if let Ok(Told::Done) = self.step(&Event::SleepFailed { release }, None).await? {
            self.restless = Some(why.clone());
            // That somebody comes at that moment is no news.
            if *why != Restless::Used {
                let text = format!("{release} stays awake: {why}");
                effect::tell(&self.parts, &self.env.name, EventKind::SleepFailed, &text).await;
            }
        }
        Ok(())
    }

    async fn failed(&mut self, release: ReleaseNumber, why: &str, unwanted: bool) -> Result<()> {
        self.fail_release(release, why).await?;
        self.step(&Event::DeployFailed { release }, None).await?.ok();
        // A push that was broken off is as if it had never been made, its environment included.
        let untouched = matches!(&self.state, State::Live(live)
            if live.runs == Runs::None && live.deploying == Deploying::No);
        if unwanted && untouched && release == ReleaseNumber(1) {
            self.step(&Event::Destroy, None).await?.ok();
        }
        Ok(())
    }
}
