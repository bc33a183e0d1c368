//! `flyloft why`: what an environment is, why, what woke it last, what it holds, and what time will do to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::lifecycle::{self, Deploying, Live, Rung, Runs, State, Timestamp, WhyOff};
use flyloft_core::name::EnvRef;
use flyloft_core::policy::{Key, Levels, Span};
use serde::Serialize;

use super::environments::word;
use super::ports::PortItem;
use super::reply::{Reply, age, as_time, as_time_if_any, size};
use super::settings::{SettingItem, items};
use super::{Api, Call, Ending};
use crate::conductor::{self, Restless};
use crate::engine::Stats;
use crate::error::{OrFailed, Result};
use crate::store::{self, MemoryRow, SeenRow, WakeRow};

/// So many of the commands that run are named.
const COMMANDS: usize = 3;

/// A use and who it was are noted one after the other.
const ABOUT: Duration = Duration::from_secs(1);

/// All that is looked at, so that what is said of it can be told without a world.
pub(super) struct Seen {
    pub name: EnvRef,
    pub state: State,
    /// By the clock of the life cycle, and by the wall's in milliseconds since the Unix epoch.
    pub now: Timestamp,
    pub wall: i64,
    /// How long nobody has sent anything; no time at all while a request is under way.
    pub unused_for: Option<Duration>,
    /// Who that was.
    pub visitor: Option<Arc<str>>,
    /// Commands that run in it, each by whom, and when there was one last.
    pub commands: Vec<Arc<str>>,
    pub last_command: Option<Timestamp>,
    /// Who or what else used it last, and when.
    pub other: Option<(Timestamp, Arc<str>)>,
    /// What kept it from its last sleep.
    pub restless: Option<Restless>,
    pub levels: Levels,
    pub stats: Option<Stats>,
    pub memory: MemoryRow,
    pub wake: Option<WakeRow>,
    /// Those that are published.
    pub ports: Vec<PortItem>,
    /// What helps where it was stopped for what it did.
    pub remedy: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Why {
    name: EnvRef,
    state: &'static str,
    /// All of its state, for people.
    #[serde(skip)]
    said: String,
    #[serde(serialize_with = "as_time_if_any")]
    since: Option<i64>,
    #[serde(serialize_with = "as_time_if_any")]
    last_used: Option<i64>,
    /// Who or what did, as far as this daemon knows.
    last_user: Option<String>,
    /// What keeps it so, or what it waits for, a sentence each.
    because: Vec<String>,
    woken: Option<WakeItem>,
    memory: MemoryItem,
    next: Option<NextItem>,
    /// Why time brings nothing about, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    never: Option<&'static str>,
    /// Those that are published.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortItem>,
    settings: BTreeMap<&'static str, SettingItem>,
    #[serde(skip)]
    wall: i64,
}

/// The last wake. Times in milliseconds.
#[derive(Serialize)]
struct WakeItem {
    #[serde(serialize_with = "as_time")]
    at: i64,
    by: String,
    /// `asleep`, `deep`, `off`, `awake`
    from: String,
    /// From the visit to the answer, or as far as it came.
    total_ms: f64,
    #[serde(flatten)]
    parts: PartsItem,
    failure: Option<String>,
}

/// What the time went into, one after the other: see [`WakeRow`] and what was seen of it.
#[derive(Serialize)]
struct PartsItem {
    admitted_ms: f64,
    queued_ms: f64,
    started_ms: f64,
    ready_ms: f64,
    passed_ms: Option<f64>,
    connected_ms: Option<f64>,
    answered_ms: Option<f64>,
    /// Beside that, from the thaw.
    prefetched_ms: Option<f64>,
    released_ms: Option<f64>,
}

/// Bytes.
#[derive(Serialize)]
struct MemoryItem {
    /// Of the machine's memory, now.
    held: Option<u64>,
    /// Before it was last put to rest.
    awake: Option<u64>,
    /// Where it is while it sleeps: as it is, in compressed memory (and its size there), on a disk.
    resident: Option<u64>,
    compressed: Option<u64>,
    pool: Option<u64>,
    disk: Option<u64>,
    /// Why it is not less.
    kept: Option<String>,
}

#[derive(Serialize)]
struct NextItem {
    /// `started again`, `asleep`, `deep asleep`, `off`, `destroyed`
    step: &'static str,
    #[serde(serialize_with = "as_time")]
    at: i64,
}

impl Seen {
    pub(super) fn why(mut self) -> Why {
        let quiet = self.unused_for.map(|unused| self.now.minus(unused)).max(self.last_command);
        if let State::Live(live) = &mut self.state {
            live.last_used = live.last_used.max(quiet.unwrap_or(live.last_used));
        }
        let live = match &self.state {
            State::Live(live) => Some(live),
            State::Destroyed { .. } => None,
        };
        let next = lifecycle::next_rung(&self.state, &self.levels.policy());
        Why {
            name: self.name.clone(),
            state: live.map_or("destroyed", |live| word(&live.runs)),
            said: self.state.to_string(),
            since: live.and_then(|live| since(live.runs)).map(|at| self.on_the_wall(at)),
            last_used: live.map(|live| self.on_the_wall(live.last_used)),
            last_user: live.and_then(|live| self.last_user(live)).map(|by| by.to_string()),
            because: live.map_or_else(|| vec!["it is being destroyed".to_owned()], |live| self.because(live)),
            woken: self.wake.as_ref().map(WakeItem::from),
            memory: self.memory(live),
            never: live.filter(|_| next.is_none()).map(never),
            next: next.map(|(at, rung)| NextItem { step: step(rung), at: self.on_the_wall(at) }),
            ports: std::mem::take(&mut self.ports),
            settings: items(&self.levels),
            wall: self.wall,
        }
    }

    /// The life cycle has a clock of its own, which nobody sets.
    fn on_the_wall(&self, at: Timestamp) -> i64 {
        self.wall + (at.0 as i64 - self.now.0 as i64)
    }

    fn because(&self, live: &Live) -> Vec<String> {
        let mut because = Vec::new();
        if let Deploying::Yes { release, newest } = live.deploying {
            because.push(format!("{} is being deployed", newest.unwrap_or(release)));
        }
        match live.runs {
            Runs::None => because.push("nothing of it has been deployed yet".to_owned()),
            Runs::Waking { .. } => because.push("it is awake when its processes run and answer".to_owned()),
            Runs::Asleep { .. } => because.push("nobody uses it; a visit wakes it".to_owned()),
            Runs::Off { why, cleared, .. } => because.push(self.why_off(why, cleared)),
            Runs::Awake { .. } => because.extend(self.uses(live)),
        }
        if live.pinned {
            because.push("it is pinned: time neither turns it off nor destroys it".to_owned());
        } else if let Some(until) = live.kept_until.filter(|until| *until > self.now) {
            let left = age(self.now.0 as i64, until.0 as i64);
            because.push(format!("it is kept for {left} more, as if it were pinned"));
        }
        because
    }

    fn why_off(&self, why: WhyOff, cleared: bool) -> String {
        let name = &self.name;
        let what = match why {
            WhyOff::Asked => "somebody turned it off",
            WhyOff::Unused => "nobody used it for its `ttl`",
            WhyOff::Rebooted => "the machine has been started anew, or a backup restored",
            WhyOff::Crashed if cleared => "it had ended, or did not answer when it was woken",
            WhyOff::Crashed => {
                return format!(
                    "it ended, or did not answer when it was woken; a visit tries again, and `flyloft logs {name}` \
                     shows what it printed"
                );
            }
            WhyOff::Unbuilt { until } => {
                let left = age(self.now.0 as i64, until.0 as i64);
                return format!(
                    "it was not kept, and could not be built anew; a visit tries again in {left}, `flyloft wake {name}` at \
                     once, and `flyloft events {name}` says why"
                );
            }
            WhyOff::NoRoom { until } if self.is_pinned() => {
                let left = age(self.now.0 as i64, until.0 as i64);
                return format!("there was no memory for it to start; that is tried again in {left}, and by a visit");
            }
            WhyOff::NoRoom { .. } => return "there was no memory for it to start; a visit tries again".to_owned(),
            WhyOff::Over(excess) => {
                return match &self.remedy {
                    Some(remedy) => format!("{excess}; {remedy}"),
                    None => excess.to_string(),
                };
            }
        };
        match cleared {
            false => format!("{what}; a visit starts it"),
            true => format!("{what}; its disk was given up to make room, and a visit builds it anew"),
        }
    }

    fn is_pinned(&self) -> bool {
        matches!(&self.state, State::Live(live) if live.pinned)
    }

    fn uses(&self, live: &Live) -> Vec<String> {
        let mut uses = Vec::new();
        if self.unused_for.is_some_and(|unused| unused.is_zero()) {
            uses.push(match &self.visitor {
                Some(visitor) => format!("a request is under way; the last that came is {visitor}"),
                None => "a request is under way".to_owned(),
            });
        }
        let (named, others) = self.commands.split_at(self.commands.len().min(COMMANDS));
        uses.extend(named.iter().map(|command| format!("{command} runs in it")));
        if !others.is_empty() {
            uses.push(format!("and so do {} more", others.len()));
        }
        if uses.is_empty() {
            let used = age(live.last_used.0 as i64, self.now.0 as i64);
            let by = self.last_user(live).map_or_else(String::new, |by| format!(" by {by}"));
            uses.push(format!("it was used {used} ago{by}, and its `idle` is {}", Span(self.levels.policy().idle)));
        }
        if let Some(at) = live.stayed_awake {
            let (tried, name) = (age(at.0 as i64, self.now.0 as i64), &self.name);
            uses.push(match &self.restless {
                Some(why) => format!("it was to fall asleep {tried} ago and stayed awake: {why}"),
                None => format!("it was to fall asleep {tried} ago and could not; `flyloft events {name}` says why"),
            });
        }
        uses
    }

    /// Who or what used it last. The last daemon may have known who did before it ended.
    fn last_user(&self, live: &Live) -> Option<Arc<str>> {
        if let Some(command) = self.commands.last() {
            return Some(command.clone());
        }
        let visit = self.unused_for.zip(self.visitor.clone()).map(|(unused, by)| (self.now.minus(unused), by));
        let last = visit.into_iter().chain(self.other.clone()).max_by_key(|(at, _)| *at);
        last.filter(|(at, _)| at.plus(ABOUT) >= live.last_used).map(|(_, by)| by)
    }

    fn memory(&self, live: Option<&Live>) -> MemoryItem {
        let asleep = match live.map(|live| live.runs) {
            Some(Runs::Asleep { .. }) => self.stats.as_ref().and_then(|stats| stats.asleep).or(self.memory.asleep),
            _ => None,
        };
        MemoryItem {
            held: asleep.map(|held| held.memory()).or(self.stats.as_ref().map(|stats| stats.memory)),
            awake: self.memory.awake,
            resident: asleep.map(|held| held.resident),
            compressed: asleep.map(|held| held.compressed),
            pool: asleep.map(|held| held.pool),
            disk: asleep.map(|held| held.disk),
            kept: asleep.and_then(|held| held.kept).map(|kept| kept.to_string()),
        }
    }
}

fn since(runs: Runs) -> Option<Timestamp> {
    match runs {
        Runs::None => None,
        Runs::Awake { since, .. }
        | Runs::Asleep { since, .. }
        | Runs::Off { since, .. }
        | Runs::Waking { since, .. } => Some(since),
    }
}

fn step(rung: Rung) -> &'static str {
    match rung {
        Rung::Again => "started again",
        Rung::Asleep => "asleep",
        Rung::DeepAsleep => "deep asleep",
        Rung::Off => "off",
        Rung::Destroyed => "destroyed",
    }
}

fn never(live: &Live) -> &'static str {
    match live {
        Live { deploying: Deploying::Yes { .. }, .. } => "not while it is being deployed",
        Live { runs: Runs::Waking { .. }, .. } => "not before it is awake",
        Live { pinned: true, .. } => "never, since it is pinned",
        _ => "never, as its settings say",
    }
}

impl From<&WakeRow> for WakeItem {
    fn from(wake: &WakeRow) -> Self {
        let WakeRow { at, by, was, admitted, queued, started, ready, seen, total, failure, .. } = wake.clone();
        let SeenRow { passed, connected, answered, prefetched, released } = seen;
        let [admitted_ms, queued_ms, started_ms, ready_ms] = [admitted, queued, started, ready].map(millis);
        let seen = [passed, connected, answered, prefetched, released].map(|time| time.map(millis));
        let [passed_ms, connected_ms, answered_ms, prefetched_ms, released_ms] = seen;
        let parts = PartsItem {
            admitted_ms,
            queued_ms,
            started_ms,
            ready_ms,
            passed_ms,
            connected_ms,
            answered_ms,
            prefetched_ms,
            released_ms,
        };
        Self { at, by, from: was, total_ms: millis(total), parts, failure }
    }
}

/// With a tenth of one.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

impl Reply for Why {
    fn text(&self) -> String {
        let mut lines = vec![("state", self.state_text())];
        let mut name = "why";
        for sentence in &self.because {
            lines.push((std::mem::take(&mut name), sentence.clone()));
        }
        if let Some(wake) = &self.woken {
            lines.extend(wake.lines(self.wall));
        }
        lines.extend(self.memory.lines());
        lines.extend(self.next.iter().map(|next| {
            let left = age(self.wall, next.at);
            let before = if next.step == step(Rung::Again) { " before" } else { "" };
            ("next", format!("{} in {left}, if nobody uses it{before}", next.step))
        }));
        lines.extend(self.never.iter().map(|never| ("next", (*never).to_owned())));
        lines.extend(self.ports.iter().map(|port| ("published", port.said())));
        lines.push(("settings", self.settings_text()));
        let lines = lines.iter().map(|(name, value)| format!("  {name:<10} {value}\n"));
        format!("{}\n{}", self.name, lines.collect::<String>())
    }
}

impl Why {
    fn state_text(&self) -> String {
        match self.since {
            Some(since) => format!("{}, for {}", self.said, age(since, self.wall)),
            None => self.said.clone(),
        }
    }

    /// In their usual order, each with where it comes from unless it is built in.
    fn settings_text(&self) -> String {
        let said = |key: Key| {
            let SettingItem { value, from } = &self.settings[key.as_str()];
            match from.as_str() {
                "built in" => format!("{key}={value}"),
                from => format!("{key}={value} ({from})"),
            }
        };
        Key::ALL.map(said).join(" ")
    }
}

impl WakeItem {
    fn lines(&self, wall: i64) -> Vec<(&'static str, String)> {
        let Self { at, by, from, total_ms, parts, failure } = self;
        let from = match from.as_str() {
            "deep" => "deep sleep",
            "asleep" => "sleep",
            // It had crashed, or the machine has been started anew.
            "awake" => "a stop",
            from => from,
        };
        let how = match (failure, parts.answered_ms) {
            (Some(_), _) => "given up after",
            (None, Some(_)) => "answered in",
            (None, None) => "ready in",
        };
        let mut lines = vec![("woken", format!("{} ago from {from} by {by}, {how} {total_ms} ms", age(*at, wall)))];
        lines.extend(parts.lines().into_iter().map(|line| ("", line)));
        lines.extend(failure.iter().map(|failure| ("", format!("in vain: {failure}"))));
        lines
    }
}

impl PartsItem {
    fn lines(&self) -> Vec<String> {
        let Self { admitted_ms, queued_ms, started_ms, ready_ms, .. } = self;
        let mut lines = vec![format!(
            "{admitted_ms} ms until there was room, {queued_ms} until its turn, {started_ms} until it ran, {ready_ms} \
             until it was ready"
        )];
        let way = [
            (self.passed_ms, "until its visitor was let through"),
            (self.connected_ms, "until it was connected"),
            (self.answered_ms, "until its answer began"),
        ];
        let mut way: Vec<_> = way.iter().filter_map(|(ms, what)| Some(format!("{} {what}", (*ms)?))).collect();
        if !way.is_empty() {
            if self.answered_ms.is_none() {
                way.push("and no answer was seen".to_owned());
            }
            lines.push(format!("then {}", way.join(", ")));
        }
        let beside = [
            (self.prefetched_ms, "its memory was back after"),
            (self.released_ms, "its parent processes went on after"),
        ];
        let beside: Vec<_> = beside.iter().filter_map(|(ms, what)| Some(format!("{what} {} ms", (*ms)?))).collect();
        if !beside.is_empty() {
            lines.push(format!("beside that {}", beside.join(", ")));
        }
        lines
    }
}

impl MemoryItem {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let held = self.held.filter(|held| *held > 0);
        let held = held.map_or_else(|| "nothing is held".to_owned(), |held| format!("{} held", size(held)));
        let awake = self.awake.map_or_else(String::new, |awake| format!(", {} when it was last awake", size(awake)));
        let mut lines = vec![("memory", held + &awake)];
        if let (Some(resident), Some(compressed), Some(pool), Some(disk)) =
            (self.resident, self.compressed, self.pool, self.disk)
        {
            let mut parts = vec![format!("{} as it is", size(resident))];
            if compressed > 0 {
                parts.push(format!("{} compressed to {}", size(compressed), size(pool)));
            }
            if disk > 0 {
                parts.push(format!("{} on disk", size(disk)));
            }
            lines.push(("", parts.join(", ")));
        }
        lines.extend(self.kept.iter().map(|kept| ("", format!("not less, since {kept}"))));
        lines
    }
}

impl Api {
    pub(super) async fn why(&self, call: &mut Call<'_>, name: EnvRef) -> Result<Ending> {
        call.must_use(&name.app)?;
        let (row, conductor) = self.loft.find(&name).await?;
        let parts = &self.loft.parts;
        let wakes = parts.store.wakes(row.id).await.or_failed(|| format!("failed to look at `{name}`"))?;
        let (state, ports) = (conductor.state(), self.ports_of(&row).await?);
        let (excess, stayed_awake) = match &state {
            State::Live(live) => (live.runs.excess(), live.stayed_awake),
            State::Destroyed { .. } => (None, None),
        };
        let restless = match stayed_awake {
            Some(_) => conductor.restless().await?,
            None => None,
        };
        let seen = Seen {
            stats: parts.stats(&row).await,
            remedy: excess.map(|excess| conductor::remedy(&row, excess, &parts.settings)),
            levels: parts.settings.levels(&row, &row.asked),
            name,
            state,
            now: parts.clock.now(),
            wall: store::now(),
            unused_for: parts.edge.unused_for(&row.host),
            visitor: parts.edge.last_user(&row.host),
            commands: conductor.uses().commands(),
            last_command: conductor.last_command(),
            other: conductor.uses().last_user(),
            restless,
            memory: row.memory,
            ports,
            wake: wakes.into_iter().next(),
        };
        Ok(seen.why().into())
    }
}
