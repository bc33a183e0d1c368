//! Following a branch or a pull request of a repository elsewhere, which is looked at now and then: what a look means
//! for an environment, and when the next one is.
//!
//! What must hold, and is tested over random sequences of looks:
//!
//! - A commit is staged once, however often it is seen, until the branch is at another one.
//! - Of a pull request, only a commit that a branch of the repository is at is staged by itself: whoever put it there
//!   may write to the repository. Any other may be a stranger's, and waits for somebody to stage it by hand.
//! - What was never seen in a repository cannot be gone from it, and nothing is gone after one look, whatever the clock
//!   says meanwhile.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::lifecycle::Timestamp;
use crate::name::CommitId;

/// What is on record of what an environment follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it was when it was last staged.
    pub head: CommitId,
    /// What is being staged just now.
    pub staging: Option<CommitId>,
    /// Whether all this is about the repository that was looked at, and not about one that the app had before.
    pub here: bool,
    pub missing: Option<Missing>,
}

/// It was looked for and not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// At the last look.
    pub at: Timestamp,
    /// As looks add up.
    pub lasted: Duration,
}

/// What a look at the repository shows of it. A look that failed shows nothing, and there is nothing to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// `vouched` if it is a branch, or if a branch of the repository is at the same commit.
    At {
        commit: CommitId,
        vouched: bool,
    },
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How often a repository is looked at.
    pub every: Duration,
    /// How long something has to be missing before it is gone.
    pub gone: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// It is where it was, in a repository in which it had not been seen.
    Adopt,
    Stage(CommitId),
    /// Somebody has to look at this commit before it may be staged.
    Ask(CommitId),
    /// The environment has nothing to follow any more.
    Destroy,
}

/// What is to be done, and what is to be on record about its being missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub missing: Option<Missing>,
    pub step: Step,
}

pub fn decide(record: &Record, sight: &Sight, now: Timestamp, pace: &Pace) -> Decision {
    match sight {
        Sight::At { commit, vouched } => Decision { missing: None, step: found(record, commit, *vouched) },
        Sight::Nowhere if !record.here => Decision { missing: None, step: Step::Nothing },
        Sight::Nowhere => {
            let missing = still_missing(record.missing, now, pace);
            let gone = record.missing.is_some() && missing.lasted >= pace.gone;
            Decision { missing: Some(missing), step: if gone { Step::Destroy } else { Step::Nothing } }
        }
    }
}

fn found(record: &Record, commit: &CommitId, vouched: bool) -> Step {
    let latest = record.staging.as_ref().unwrap_or(&record.head);
    match commit == latest {
        true if record.here || record.staging.is_some() => Step::Nothing,
        true => Step::Adopt,
        false if vouched || *commit == record.head => Step::Stage(commit.clone()),
        false => Step::Ask(commit.clone()),
    }
}

/// Two looks count for the time between them, but for two rounds at most: a clock that is set, a daemon that did not
/// run and a host that did not answer say nothing about the repository.
fn still_missing(before: Option<Missing>, now: Timestamp, pace: &Pace) -> Missing {
    let lasted = before.map_or(Duration::ZERO, |before| before.lasted + now.since(before.at).min(2 * pace.every));
    Missing { at: now, lasted }
}

/// The longest rest after failures.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long a repository is left alone after so many looks in a row that failed. `chance` is from 0 to 1, and keeps
/// those apart that failed together.
pub fn rest(every: Duration, failures: u32, chance: f64) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let doubled = every.saturating_mul(1 << failures.min(16));
    doubled.min(LONGEST.max(every)).mul_f64(0.75 + chance.clamp(0.0, 1.0) / 4.0)
}
