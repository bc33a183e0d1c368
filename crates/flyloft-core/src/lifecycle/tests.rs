mod deaths;
mod kept;
mod restless;

use proptest::prelude::*;

use super::*;
use crate::policy::Excess;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

fn v(number: u32) -> ReleaseNumber {
    ReleaseNumber(number)
}

fn live(runs: Runs, deploying: Deploying) -> Live {
    let (last_used, stayed_awake, kept_until, deaths) = (Timestamp(0), None, None, None);
    Live { runs, deploying, pinned: false, last_used, stayed_awake, kept_until, deaths }
}

fn awake(release: u32) -> State {
    State::Live(live(Runs::Awake { release: v(release), since: Timestamp(0) }, Deploying::No))
}

/// The state and effects after an event that must be done.
fn done(state: &State, event: Event, at: u64) -> (State, Vec<Effect>) {
    match step(state, &event, Timestamp(at), &Policy::default()) {
        Ok(Answer::Done(state, effects)) => (state, effects),
        other => panic!("{event} in {state}: {other:?}"),
    }
}

fn follow(mut state: State, events: impl IntoIterator<Item = (u64, Event)>) -> State {
    for (at, event) in events {
        if let Ok(Answer::Done(next, _)) = step(&state, &event, Timestamp(at), &Policy::default()) {
            state = next;
        }
    }
    state
}

fn all_runs() -> Vec<Runs> {
    let (release, since) = (v(1), Timestamp(0));
    vec![
        Runs::None,
        Runs::Awake { release, since },
        Runs::Asleep { release, since, depth: Depth::Shallow },
        Runs::Asleep { release, since, depth: Depth::Deep },
        Runs::Off { release, since, why: WhyOff::Asked, cleared: false },
        Runs::Off { release, since, why: WhyOff::Asked, cleared: true },
        Runs::Off { release, since, why: WhyOff::Crashed, cleared: false },
        Runs::Off { release, since, why: WhyOff::Unbuilt { until: Timestamp(2 * MINUTE) }, cleared: false },
        Runs::Off { release, since, why: WhyOff::NoRoom { until: Timestamp(2 * MINUTE) }, cleared: false },
        Runs::Off { release, since, why: WhyOff::Over(Excess::Disk), cleared: false },
        Runs::Waking { release, since },
    ]
}

fn all_states() -> Vec<State> {
    let deploying = [
        Deploying::No,
        Deploying::Yes { release: v(2), newest: None },
        Deploying::Yes { release: v(2), newest: Some(v(3)) },
    ];
    let mut states: Vec<State> =
        all_runs().into_iter().flat_map(|runs| deploying.map(|deploying| State::Live(live(runs, deploying)))).collect();
    let runs = Runs::Awake { release: v(1), since: Timestamp(0) };
    states.push(State::Live(Live { pinned: true, ..live(runs, Deploying::No) }));
    let runs = Runs::Off { release: v(1), since: Timestamp(0), why: WhyOff::Crashed, cleared: false };
    let deaths = Some(Deaths { count: 2, last: Timestamp(0) });
    states.push(State::Live(Live { pinned: true, deaths, ..live(runs, Deploying::No) }));
    states.push(State::Destroyed { ending: None });
    states.push(State::Destroyed { ending: Some(v(2)) });
    states
}

/// Every event once, with the time at which it comes and what the table calls it.
fn all_events() -> Vec<(String, u64, Event)> {
    let at_a_minute = [
        Event::Deploy { release: v(4) },
        Event::DeploySucceeded { release: v(2) },
        Event::DeployFailed { release: v(2) },
        Event::Visit,
        Event::Wake,
        Event::Woke { release: v(1) },
        Event::WakeFailed { release: v(1) },
        Event::BuildFailed { release: v(1) },
        Event::NoRoom { release: v(1) },
        Event::Sleep { depth: Depth::Shallow },
        Event::Sleep { depth: Depth::Deep },
        Event::Deepen,
        Event::SleepFailed { release: v(1) },
        Event::Off,
        Event::Clear,
        Event::Used { at: Timestamp(MINUTE) },
        Event::Pin,
        Event::Unpin,
        Event::Extend { until: Timestamp(DAY) },
        Event::SourceGone,
        Event::Destroy,
        Event::DaemonStarted { rebooted: false },
        Event::DaemonStarted { rebooted: true },
        Event::Found(Found::Gone),
        Event::Found(Found::Stopped),
        Event::Found(Found::Running),
        Event::Found(Found::Frozen),
        Event::Found(Found::Resident),
        Event::Found(Found::Over(Excess::Disk)),
        Event::Found(Found::Over(Excess::Inodes)),
        Event::Found(Found::Over(Excess::Floor)),
    ];
    let mut events: Vec<_> = at_a_minute.into_iter().map(|event| (event.to_string(), MINUTE, event)).collect();
    let clocks = [("1 min", MINUTE), ("15 min", 15 * MINUTE), ("1 h", HOUR), ("4 h", 4 * HOUR), ("14 days", 14 * DAY)];
    events.extend(clocks.map(|(after, at)| (format!("clock, {after} unused"), at, Event::Clock)));
    events
}

#[test]
fn every_state_answers_every_event_as_the_table_says() {
    let mut table = String::new();
    for state in all_states() {
        table += &format!("{state}\n");
        for (name, at, event) in all_events() {
            let answer = match step(&state, &event, Timestamp(at), &Policy::default()) {
                Err(refusal) => format!("refused: {refusal}"),
                Ok(Answer::AlreadySo) => "already so".to_owned(),
                Ok(Answer::Done(next, effects)) => {
                    let effects: Vec<String> = effects.iter().map(Effect::to_string).collect();
                    format!("{next} [{}]", effects.join("; "))
                }
            };
            table += &format!("    {name:<30}→ {answer}\n");
        }
        table.push('\n');
    }
    insta::assert_snapshot!("table", table);
}

#[test]
fn the_stored_form_is_fixed() {
    let runs = Runs::Awake { release: v(1), since: Timestamp(0) };
    let restless = Live { stayed_awake: Some(Timestamp(0)), ..live(runs, Deploying::No) };
    let states = all_states().into_iter().chain([State::Live(restless)]);
    let states: Vec<String> = states.map(|state| serde_json::to_string(&state).unwrap()).collect();
    insta::assert_snapshot!("stored_form", states.join("\n"));
}

#[test]
fn the_first_deploy_that_fails_leaves_nothing_running() {
    let state = State::new(Timestamp(0));
    let (state, _) = done(&state, Event::Deploy { release: v(1) }, 1);
    let (state, effects) = done(&state, Event::DeployFailed { release: v(1) }, 2);
    assert_eq!(state.to_string(), "none");
    assert_eq!(effects, []);
}

#[test]
fn of_three_pushes_during_a_deploy_only_the_newest_starts_and_only_when_the_first_has_ended() {
    let (state, effects) = done(&awake(1), Event::Deploy { release: v(2) }, 1);
    assert_eq!(effects, [Effect::StartDeploy { release: v(2) }]);
    let (state, effects) = done(&state, Event::Deploy { release: v(3) }, 2);
    assert_eq!(effects, [Effect::CancelDeploy { release: v(2), cause: Cause::Superseded { by: v(3) } }]);
    let (state, effects) = done(&state, Event::Deploy { release: v(4) }, 3);
    assert_eq!(effects, [Effect::SkipDeploy { release: v(3), cause: Cause::Superseded { by: v(4) } }]);
    let (state, effects) = done(&state, Event::DeployFailed { release: v(2) }, 4);
    assert_eq!(effects, [Effect::StartDeploy { release: v(4) }]);
    assert_eq!(state.to_string(), "awake v1, deploying v4");
}

#[test]
fn a_destroy_during_a_deploy_removes_nothing_before_the_deploy_has_ended() {
    let (state, _) = done(&awake(1), Event::Deploy { release: v(2) }, 1);
    let (state, effects) = done(&state, Event::Destroy, 2);
    assert!(!effects.contains(&Effect::Remove));
    let (state, effects) = done(&state, Event::DeployFailed { release: v(2) }, 3);
    assert_eq!((state, effects), (State::Destroyed { ending: None }, vec![Effect::Remove]));
}

#[test]
fn a_wake_that_fails_leaves_it_stopped_until_somebody_asks_again() {
    let (state, _) = done(&awake(1), Event::Off, 1);
    let (state, effects) = done(&state, Event::Wake, 2);
    assert_eq!(effects, [Effect::Start { release: v(1) }]);
    let (state, effects) = done(&state, Event::WakeFailed { release: v(1) }, 3);
    let expected = vec![Effect::Hold, Effect::Stop { release: v(1) }];
    assert_eq!((state.to_string().as_str(), effects), ("off v1 (crashed)", expected), "who waits is told");
    let (_, effects) = done(&state, Event::Wake, 4);
    assert_eq!(effects, [Effect::Start { release: v(1) }]);
}

#[test]
fn what_outgrew_its_disk_is_told_of_once_and_a_restart_starts_it() {
    let over = Event::Found(Found::Over(Excess::Disk));
    let (state, effects) = done(&awake(1), over.clone(), MINUTE);
    assert_eq!(state.to_string(), "off v1 (over its disk limit)");
    assert_eq!(effects, [Effect::Hold, Effect::Report { release: v(1), excess: Excess::Disk }]);
    let again = |event| step(&state, event, Timestamp(2 * MINUTE), &Policy::default());
    assert_eq!(again(&over), Ok(Answer::AlreadySo));
    assert_eq!(again(&Event::Wake), Err(Refusal::Over(Excess::Disk)));
    let (state, _) = done(&state, Event::Deploy { release: v(2) }, 3 * MINUTE);
    let (state, _) = done(&state, Event::DeploySucceeded { release: v(2) }, 4 * MINUTE);
    assert_eq!(state.to_string(), "awake v2");
}

#[test]
fn what_could_not_be_built_anew_is_not_built_for_each_who_comes_and_somebody_who_asks_need_not_wait() {
    let (state, _) = done(&awake(1), Event::Off, 1);
    let (state, effects) = done(&state, Event::Clear, 2);
    assert_eq!(
        (state.to_string().as_str(), effects),
        ("off v1 (to be built anew)", vec![Effect::Clear { release: v(1) }])
    );
    let (state, effects) = done(&state, Event::Visit, 1000);
    assert_eq!(effects, [Effect::Start { release: v(1) }]);
    // It took a minute and is left alone for nine.
    let (state, effects) = done(&state, Event::BuildFailed { release: v(1) }, MINUTE + 1000);
    assert_eq!((state.to_string().as_str(), effects), ("off v1 (could not be built anew)", vec![Effect::Hold]));
    let at = |event, at| step(&state, &event, Timestamp(at), &Policy::default());
    let wait = Duration::from_millis(1);
    assert_eq!(at(Event::Visit, 10 * MINUTE + 999), Err(Refusal::Unbuilt { wait }));
    for (event, at) in [(Event::Visit, 10 * MINUTE + 1000), (Event::Wake, MINUTE + 1001)] {
        assert_eq!(done(&state, event, at).1, [Effect::Start { release: v(1) }]);
    }
}

#[test]
fn only_what_is_off_and_that_nobody_wants_kept_is_taken_off_the_disk() {
    let (off, _) = done(&awake(1), Event::Off, 1);
    let clear = |state: &State, at| step(state, &Event::Clear, Timestamp(at), &Policy::default());
    let asleep = done(&awake(1), Event::Sleep { depth: Depth::Deep }, 1).0;
    assert_eq!((clear(&awake(1), 2), clear(&asleep, 2)), (Err(Refusal::NotOff), Err(Refusal::NotOff)));
    assert_eq!(clear(&done(&off, Event::Pin, 2).0, 3), Err(Refusal::Pinned));
    assert_eq!(clear(&done(&off, Event::Deploy { release: v(2) }, 2).0, 3), Err(Refusal::Deploying));
    let (extended, _) = done(&off, Event::Extend { until: Timestamp(DAY) }, 2);
    assert_eq!(clear(&extended, DAY - 1), Err(Refusal::Pinned));
    let (cleared, _) = done(&extended, Event::Clear, DAY);
    // Its removal did not come to its end.
    assert_eq!(done(&cleared, Event::Found(Found::Stopped), DAY).1, [Effect::Clear { release: v(1) }]);
}

#[test]
fn nothing_steps_down_while_a_deploy_is_under_way() {
    let (state, _) = done(&awake(1), Event::Deploy { release: v(2) }, 1);
    assert_eq!(next_rung(&state, &Policy::default()), None);
    assert_eq!(step(&state, &Event::Clock, Timestamp(30 * DAY), &Policy::default()), Ok(Answer::AlreadySo));
}

#[test]
fn a_clock_that_is_set_back_a_day_takes_nothing_down() {
    let (state, _) = done(&awake(1), Event::Used { at: Timestamp(2 * DAY) }, 2 * DAY);
    let answer = step(&state, &Event::Clock, Timestamp(DAY), &Policy::default());
    assert_eq!(answer, Ok(Answer::AlreadySo));
}

#[test]
fn of_the_time_that_nobody_saw_a_day_counts_at_most_and_none_that_went_backwards() {
    let seen = Timestamp(10 * DAY);
    let resumed = |unseen| seen.resumed(unseen).0;
    assert_eq!([0, HOUR as i64].map(resumed), [10 * DAY, 10 * DAY + HOUR]);
    assert_eq!([DAY as i64, 15 * DAY as i64, i64::MAX].map(resumed), [11 * DAY; 3]);
    assert_eq!([-1, -40 * DAY as i64, i64::MIN].map(resumed), [10 * DAY; 3]);
    // What was used a day before that and expires in 14 is there, however far ahead the wall clock was.
    let (state, _) = done(&awake(1), Event::Used { at: Timestamp(9 * DAY) }, 9 * DAY);
    let (state, _) = done(&state, Event::Clock, resumed(400 * DAY as i64));
    assert_eq!(state.to_string(), "off v1");
}

#[test]
fn the_next_rung_is_when_the_clock_brings_it_about() {
    let mut state = awake(1);
    let mut ladder = Vec::new();
    while let Some((due, rung)) = next_rung(&state, &Policy::default()) {
        let early = step(&state, &Event::Clock, Timestamp(due.0 - 1), &Policy::default());
        assert_eq!(early, Ok(Answer::AlreadySo), "before {rung:?}");
        (state, _) = done(&state, Event::Clock, due.0);
        ladder.push(format!("{} min: {state}", due.0 / MINUTE));
    }
    assert_eq!(ladder, ["15 min: asleep v1", "75 min: deep asleep v1", "240 min: off v1", "20160 min: destroyed"]);
}

#[test]
fn without_limits_nothing_ever_steps_down() {
    let never = Policy { idle: None, ttl: None, expire: None };
    assert_eq!(next_rung(&awake(1), &never), None);
    assert_eq!(step(&awake(1), &Event::Clock, Timestamp(u64::MAX), &never), Ok(Answer::AlreadySo));
}

fn any_event() -> impl Strategy<Value = Event> {
    let release = (1..8u32).prop_map(v);
    let over = [Excess::Disk, Excess::Inodes, Excess::Floor].map(Found::Over);
    let found = [Found::Gone, Found::Stopped, Found::Running, Found::Frozen, Found::Resident].into_iter().chain(over);
    let found = prop::sample::select(found.collect::<Vec<_>>());
    prop_oneof![
        4 => release.clone().prop_map(|release| Event::Deploy { release }),
        3 => release.clone().prop_map(|release| Event::DeploySucceeded { release }),
        3 => release.clone().prop_map(|release| Event::DeployFailed { release }),
        2 => release.clone().prop_map(|release| Event::Woke { release }),
        1 => release.clone().prop_map(|release| Event::WakeFailed { release }),
        1 => release.clone().prop_map(|release| Event::BuildFailed { release }),
        1 => release.clone().prop_map(|release| Event::NoRoom { release }),
        1 => release.prop_map(|release| Event::SleepFailed { release }),
        2 => prop::sample::select(vec![Event::Visit, Event::Wake]),
        1 => prop::sample::select(vec![Event::Clear, Event::Deepen]),
        1 => prop::sample::select(vec![Depth::Shallow, Depth::Deep]).prop_map(|depth| Event::Sleep { depth }),
        1 => prop::sample::select(vec![Event::Off, Event::Pin, Event::Unpin]),
        1 => (0..20 * DAY).prop_map(|at| Event::Used { at: Timestamp(at) }),
        1 => (0..20 * DAY).prop_map(|until| Event::Extend { until: Timestamp(until) }),
        3 => Just(Event::Clock),
        1 => any::<bool>().prop_map(|rebooted| Event::DaemonStarted { rebooted }),
        2 => found.prop_map(Event::Found),
    ]
}

/// Sequences in which most environments live long; the machine's clock moves both ways.
fn any_history() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        60 => any_event(),
        1 => prop::sample::select(vec![Event::Destroy, Event::SourceGone]),
    ];
    prop::collection::vec((0..6 * HOUR, event), 0..40).prop_map(|events| {
        let mut now = 10 * DAY;
        let hop = |(after, event): (u64, Event)| {
            now = (now + after).saturating_sub(HOUR);
            (now, event)
        };
        events.into_iter().map(hop).collect()
    })
}

/// The world as the effects leave it: which deploy runs, where the edge sends requests, which containers there are.
#[derive(Default)]
struct World {
    deploy: Option<ReleaseNumber>,
    route: Option<ReleaseNumber>,
    containers: Vec<ReleaseNumber>,
    removed: bool,
}

impl World {
    /// A deploy that ended, or a container that the daemon's death left behind.
    fn sees(&mut self, event: &Event) {
        match *event {
            Event::DeploySucceeded { release } if self.deploy == Some(release) => {
                self.deploy = None;
                self.containers.push(release);
            }
            Event::DeployFailed { release } if self.deploy == Some(release) => self.deploy = None,
            Event::DaemonStarted { .. } => (self.deploy, self.route) = (None, None),
            _ => {}
        }
    }

    fn does(&mut self, effect: &Effect) {
        assert!(!self.removed || matches!(effect, Effect::Unroute | Effect::Remove), "{effect} after the end");
        match *effect {
            Effect::StartDeploy { release } => {
                assert_eq!(self.deploy, None, "two deploys at once");
                self.deploy = Some(release);
            }
            Effect::CancelDeploy { release, .. } => assert_eq!(self.deploy, Some(release)),
            Effect::Route { release } => {
                assert!(self.containers.contains(&release), "a route to {release}, which is not there");
                self.route = Some(release);
            }
            Effect::Hold | Effect::Unroute => self.route = None,
            Effect::Freeze { release } | Effect::Stop { release } => {
                assert_ne!(self.route, Some(release), "requests go to what is frozen or stopped");
            }
            Effect::Start { release } if !self.containers.contains(&release) => self.containers.push(release),
            Effect::Retire { release } | Effect::Clear { release } => {
                assert_ne!(self.route, Some(release), "requests go to what is retired");
                self.containers.retain(|container| *container != release);
            }
            Effect::Remove => {
                assert_eq!(self.deploy, None, "removed while a deploy still makes things");
                self.containers.clear();
                self.removed = true;
            }
            Effect::SkipDeploy { .. }
            | Effect::AbandonDeploy { .. }
            | Effect::Offload { .. }
            | Effect::Thaw { .. }
            | Effect::Start { .. }
            | Effect::Report { .. }
            | Effect::ReportEnd { .. }
            | Effect::Farewell { .. } => {}
        }
    }
}

proptest! {
    #[test]
    fn the_world_that_the_effects_make_is_always_sound(history in any_history()) {
        let mut state = State::new(Timestamp(0));
        let mut world = World::default();
        for (at, event) in history {
            world.sees(&event);
            if let Ok(Answer::Done(next, effects)) = step(&state, &event, Timestamp(at), &Policy::default()) {
                effects.iter().for_each(|effect| world.does(effect));
                state = next;
            }
            match &state {
                State::Live(live) => {
                    prop_assert_eq!(world.deploy, live.deploying.release());
                    let there = live.runs.release().filter(|_| !live.runs.is_cleared());
                    prop_assert_eq!(Vec::from_iter(there), world.containers.clone());
                    let routed = match live.runs { Runs::Awake { release, .. } => Some(release), _ => None };
                    prop_assert_eq!(world.route, routed, "what is awake has the route, and nothing else");
                }
                State::Destroyed { ending } => {
                    prop_assert_eq!(world.deploy, *ending);
                    prop_assert_eq!(world.removed, ending.is_none());
                }
            }
        }
    }

    #[test]
    fn a_failed_deploy_changes_nothing_but_the_second_axis(history in any_history(), release in 1..8u32) {
        let state = follow(State::new(Timestamp(0)), history);
        let failed = Event::DeployFailed { release: v(release) };
        if let (State::Live(before), Ok(Answer::Done(State::Live(after), _))) =
            (&state, step(&state, &failed, Timestamp(20 * DAY), &Policy::default()))
        {
            prop_assert_eq!(Live { deploying: before.deploying, ..after }, before.clone());
        }
    }

    #[test]
    fn the_newest_push_wins(history in any_history(), pushes in 1..5u32) {
        let state = follow(State::new(Timestamp(0)), history);
        prop_assume!(matches!(state, State::Live(_)));
        let now = 20 * DAY;
        let newest = 10 + pushes;
        let state = follow(state, (10..=newest).map(|number| (now, Event::Deploy { release: v(number) })));
        let ends = (1..=newest).map(|number| (now, Event::DeployFailed { release: v(number) }));
        let ended_but_last = follow(state, ends.filter(|(_, event)| *event != Event::DeployFailed { release: v(newest) }));
        let State::Live(live) = ended_but_last else { panic!("destroyed by a push") };
        prop_assert_eq!(live.deploying, Deploying::Yes { release: v(newest), newest: None });
    }

    #[test]
    fn destroyed_is_final(before in any_history(), after in any_history()) {
        let state = follow(follow(State::new(Timestamp(0)), before), [(20 * DAY, Event::Destroy)]);
        let is_destroyed = matches!(follow(state, after), State::Destroyed { .. });
        prop_assert!(is_destroyed);
    }

    #[test]
    fn time_never_destroys_what_is_pinned(history in any_history()) {
        let mild = |event: &Event| !matches!(event, Event::Destroy | Event::Unpin);
        let pinned = follow(State::new(Timestamp(0)), [(1, Event::Pin)]);
        let state = follow(pinned, history.into_iter().filter(|(_, event)| mild(event)));
        let much_later = follow(state, [(u64::MAX, Event::SourceGone), (u64::MAX, Event::Clock)]);
        let lives_on = matches!(much_later, State::Live(Live { pinned: true, .. }));
        prop_assert!(lives_on);
    }

    #[test]
    fn what_outgrew_its_disk_runs_again_only_when_somebody_asks(pinned in any::<bool>(), history in any_history()) {
        let begun = [(0, Event::Deploy { release: v(1) }), (1, Event::DeploySucceeded { release: v(1) })];
        let ended = [(2, if pinned { Event::Pin } else { Event::Unpin }), (3, Event::Found(Found::Over(Excess::Disk)))];
        let mut state = follow(State::new(Timestamp(0)), begun.into_iter().chain(ended));
        let asks = |event: &Event| matches!(event, Event::Deploy { .. });
        for (at, event) in history.into_iter().filter(|(_, event)| !asks(event)) {
            if let Ok(Answer::Done(next, effects)) = step(&state, &event, Timestamp(at), &Policy::default()) {
                let starts = |effect: &Effect| matches!(effect, Effect::Start { .. } | Effect::Thaw { .. });
                prop_assert!(!effects.iter().any(starts), "{event} in {state}");
                state = next;
            }
        }
    }

    #[test]
    fn a_replay_gives_the_same_state_even_when_every_state_goes_through_the_store(history in any_history()) {
        let state = follow(State::new(Timestamp(0)), history.clone());
        let mut stored = serde_json::to_string(&State::new(Timestamp(0))).unwrap();
        for event in history {
            let state: State = serde_json::from_str(&stored).unwrap();
            stored = serde_json::to_string(&follow(state, [event])).unwrap();
        }
        prop_assert_eq!(serde_json::from_str::<State>(&stored).unwrap(), state);
    }

    #[test]
    fn a_daemon_that_dies_and_starts_is_deploying_nothing(history in any_history()) {
        let state = follow(State::new(Timestamp(0)), history);
        let state = follow(state, [(20 * DAY, Event::DaemonStarted { rebooted: false })]);
        match state {
            State::Live(live) => prop_assert_eq!(live.deploying, Deploying::No),
            State::Destroyed { ending } => prop_assert_eq!(ending, None),
        }
    }
}
