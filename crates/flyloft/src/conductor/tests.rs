//! Environments on the ladder, with an engine in memory.

use std::time::Duration;

use flyloft_core::admission::Pool;
use flyloft_core::lifecycle::{Depth, Event, State, Timestamp};
use flyloft_core::policy::Policy;

use super::uses::InUse;
use super::{Conductor, Message, Restless, Task, Told};
use crate::deploy::Again;
use crate::edge::Target;
use crate::engine::ContainerState;
use crate::loft::Loft;
use crate::loft::stage::{Stage, content};
use crate::parts::Settings;
use crate::store::{EnvRow, EventKind, SeenRow, WakeRow};

mod again;
mod memory;
mod ports;
mod restless;
mod waking;

const HELD: Target = Target::Held { failure: None };

/// Milliseconds.
fn policy(idle: Option<u64>, ttl: Option<u64>, expire: Option<u64>) -> Policy {
    let [idle, ttl, expire] = [idle, ttl, expire].map(|span| span.map(Duration::from_millis));
    Policy { idle, ttl, expire }
}

async fn deployed(policy: Policy) -> (Stage, EnvRow, Conductor) {
    let stage = Stage::under(policy).await;
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    (stage, env, conductor)
}

fn last_used(conductor: &Conductor) -> Timestamp {
    match conductor.state() {
        State::Live(live) => live.last_used,
        State::Destroyed { .. } => panic!("destroyed"),
    }
}

impl Stage {
    /// A state is on record before the edge hears of it.
    fn serves(&self, env: &EnvRow) -> bool {
        matches!(self.door.target(&env.host), Some(Target::Upstream(_)))
    }

    /// The last wake that is on record, when there is one.
    async fn woken(&self, env: &EnvRow) -> WakeRow {
        self.wait_until("a record", async || !self.store().wakes(env.id).await.unwrap().is_empty()).await;
        self.store().wakes(env.id).await.unwrap().remove(0)
    }

    async fn is(&self, container: ContainerState) -> bool {
        self.containers().await.iter().all(|(_, state)| *state == container)
    }
}

#[tokio::test]
async fn what_nobody_uses_goes_down_the_ladder_by_itself() {
    let (stage, env, conductor) = deployed(policy(Some(50), Some(1_500), Some(3_000))).await;
    stage.wait_for_state("asleep v1").await;
    stage.wait_until("held", async || stage.door.target(&env.host) == Some(HELD)).await;
    stage.wait_until("frozen", async || stage.is(ContainerState::Frozen).await).await;
    stage.wait_until("offloaded", async || stage.calls("offload") == 1).await;
    stage.wait_for_state("off v1").await;
    stage.wait_until("stopped", async || stage.is(ContainerState::Stopped).await).await;
    conductor.gone().await;
    assert_eq!(stage.containers().await, []);
    assert_eq!(stage.door.target(&env.host), None);
}

#[tokio::test]
async fn a_visit_wakes_it_once_and_the_wake_is_on_record() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    assert!(stage.is(ContainerState::Frozen).await);
    let starts = stage.calls("start");
    for _ in 0..3 {
        conductor.visit("GET /cart".to_owned()).await;
    }
    stage.wait_for_state("awake v1").await;
    assert!(stage.is(ContainerState::Running).await);
    assert_eq!((stage.calls("thaw"), stage.calls("start")), (1, starts), "it was thawed once, and not started again");
    let routed = async || matches!(stage.door.target(&env.host), Some(Target::Upstream(_)));
    stage.wait_until("a route", routed).await;
    stage.wait_until("a record", async || !stage.store().wakes(env.id).await.unwrap().is_empty()).await;
    let wakes = stage.store().wakes(env.id).await.unwrap();
    assert_eq!(wakes.len(), 1);
    assert_eq!((wakes[0].by.as_str(), wakes[0].was.as_str(), &wakes[0].failure), ("GET /cart", "asleep", &None));
    assert!(wakes[0].started > Duration::ZERO && wakes[0].total >= wakes[0].queued + wakes[0].started);
}

#[tokio::test]
async fn from_off_it_is_started_and_asked_whether_it_answers() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    conductor.tell(Event::Off).await.unwrap();
    conductor.at_rest().await.unwrap();
    assert!(stage.is(ContainerState::Stopped).await);
    assert_eq!(conductor.wake("alice").await.unwrap(), Told::Done);
    assert_eq!(conductor.settled().await.to_string(), "awake v1");
    let wake = stage.woken(&env).await;
    assert_eq!((wake.by.as_str(), wake.was.as_str()), ("alice", "off"));
    assert!(wake.ready > Duration::ZERO && wake.seen == SeenRow::default(), "nobody has waited for it: {wake:?}");
}

#[tokio::test]
async fn who_uses_it_keeps_it_awake() {
    let (stage, _, conductor) = deployed(policy(Some(50), None, None)).await;
    *stage.door.unused_for.lock().unwrap() = Some(Duration::ZERO);
    let mut before = last_used(&conductor);
    for _ in 0..2 {
        stage.wait_until("its use is noticed", async || last_used(&conductor) > before).await;
        assert_eq!(conductor.state().to_string(), "awake v1");
        before = last_used(&conductor);
    }
    *stage.door.unused_for.lock().unwrap() = None;
    let in_use = conductor.begin_use("`flyloft run` by ada");
    let before = last_used(&conductor);
    stage.wait_until("a command is noticed", async || last_used(&conductor) > before).await;
    assert_eq!(conductor.state().to_string(), "awake v1");
    drop(in_use);
    stage.wait_for_state("asleep v1").await;
}

#[tokio::test]
async fn whoever_comes_while_requests_end_keeps_it_from_being_frozen() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    stage.door.busy.send_replace(true);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    assert_eq!(stage.door.target(&env.host), Some(HELD));
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    conductor.at_rest().await.unwrap();
    assert_eq!((stage.calls("freeze"), stage.calls("offload")), (0, 0));
    stage.wait_until("routed", async || stage.serves(&env)).await;
}

#[tokio::test]
async fn whoever_comes_waits_for_nothing_that_was_decided_before_whatever_came_between() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    stage.door.busy.send_replace(true);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.tell(Event::Off).await.unwrap();
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    stage.wait_until("routed", async || stage.serves(&env)).await;
    assert_eq!((stage.calls("freeze"), stage.calls("offload"), stage.calls("stop shop-main-1-1")), (0, 0, 0));
}

#[tokio::test]
async fn what_is_turned_off_before_it_has_fallen_asleep_is_known_to_have_parted_then() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    stage.door.busy.send_replace(true);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.tell(Event::Off).await.unwrap();
    stage.door.busy.send_replace(false);
    conductor.at_rest().await.unwrap();
    let row = stage.store().environment(&env.name).await.unwrap().unwrap();
    assert!(row.memory.down_since.is_some() && row.memory.awake.is_some(), "{:?}", row.memory);
}

#[tokio::test]
async fn what_is_destroyed_while_its_requests_end_is_not_put_to_rest_after_that() {
    let (stage, _, conductor) = deployed(Policy::default()).await;
    stage.door.busy.send_replace(true);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.tell(Event::Destroy).await.unwrap();
    conductor.gone().await;
    stage.door.busy.send_replace(false);
    stage.wait_until("nobody is at it", async || stage.door.busy.receiver_count() == 0).await;
    assert_eq!((stage.calls("freeze"), stage.calls("offload")), (0, 0));
}

#[tokio::test]
async fn what_still_answers_a_request_when_patience_ends_is_not_frozen_and_whoever_wanted_that_learns_why() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    stage.door.busy.send_replace(true);
    *stage.door.patience.lock().unwrap() = Duration::from_millis(20);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    assert_eq!(conductor.at_rest().await.unwrap(), Some(Restless::Request));
    assert_eq!(conductor.state().to_string(), "awake v1");
    assert!(stage.serves(&env));
    assert_eq!(stage.calls("freeze"), 0);
    let events = stage.store().events(Some(&env.name.app), Some(&env.name.env), 0, 10).await.unwrap();
    let told = events.iter().find(|event| event.kind == "sleep-failed").unwrap();
    assert_eq!(told.text, "v1 stays awake: a request is under way, and has not come to its end within 30 s");

    stage.door.busy.send_replace(false);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    assert_eq!(conductor.at_rest().await.unwrap(), None, "what was is over");
    assert_eq!(conductor.state().to_string(), "asleep v1");
}

#[tokio::test]
async fn what_is_turned_off_goes_off_whoever_does_not_end() {
    let (stage, _, conductor) = deployed(Policy::default()).await;
    stage.door.busy.send_replace(true);
    *stage.door.patience.lock().unwrap() = Duration::from_millis(20);
    let _in_use = conductor.begin_use("`flyloft run` by ada");
    conductor.tell(Event::Off).await.unwrap();
    conductor.at_rest().await.unwrap();
    assert!(stage.is(ContainerState::Stopped).await);
}

#[tokio::test]
async fn where_a_command_runs_nothing_is_frozen_under_it() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    stage.door.busy.send_replace(true);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    // It begins while requests end.
    let in_use = conductor.begin_use("`flyloft run` by ada");
    stage.door.busy.send_replace(false);
    assert_eq!(conductor.at_rest().await.unwrap(), Some(Restless::Command));
    assert_eq!((conductor.state().to_string().as_str(), stage.calls("freeze")), ("awake v1", 0));
    stage.wait_until("routed", async || stage.serves(&env)).await;
    drop(in_use);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    assert_eq!(conductor.at_rest().await.unwrap(), None);
    assert!(stage.is(ContainerState::Frozen).await);
}

#[tokio::test]
async fn whoever_comes_in_the_moment_before_it_is_held_keeps_what_idles_awake() {
    let (stage, env, conductor) = deployed(policy(Some(100), None, None)).await;
    // As a message of an open connection does, which nobody holds.
    *stage.door.last_moment.lock().unwrap() = Some(Duration::ZERO);
    stage.wait_until("it was about to sleep", async || stage.door.last_moment.lock().unwrap().is_none()).await;
    stage.wait_until("it serves on", async || stage.serves(&env)).await;
    conductor.at_rest().await.unwrap();
    assert_eq!((conductor.state().to_string().as_str(), stage.calls("freeze")), ("awake v1", 0));
    let events = stage.store().events(Some(&env.name.app), Some(&env.name.env), 0, 10).await.unwrap();
    assert!(events.iter().all(|event| event.kind != "sleep-failed"), "that is no news: {events:?}");
    *stage.door.unused_for.lock().unwrap() = None;
    stage.wait_for_state("asleep v1").await;
}

#[tokio::test]
async fn whoever_is_in_use_makes_no_room_for_others() {
    let (stage, _, conductor) = deployed(Policy::default()).await;
    *stage.door.unused_for.lock().unwrap() = Some(Duration::ZERO);
    assert!(!conductor.make_room().await);
    *stage.door.unused_for.lock().unwrap() = Some(Duration::from_secs(9));
    let in_use = conductor.begin_use("`flyloft run` by ada");
    assert!(!conductor.make_room().await);
    assert_eq!(conductor.state().to_string(), "awake v1");
    drop(in_use);
    assert!(conductor.make_room().await);
    assert_eq!(conductor.state().to_string(), "asleep v1");
}

#[tokio::test]
async fn what_was_used_is_on_record_before_the_daemon_ends_though_no_step_is_due() {
    let (stage, _, conductor) = deployed(policy(None, None, None)).await;
    let before = last_used(&conductor);
    stage.loft.parts.clock.advance(Duration::from_secs(3600));
    *stage.door.unused_for.lock().unwrap() = Some(Duration::from_secs(1));
    stage.loft.note_uses().await;
    let row = stage.env().await.0;
    let State::Live(live) = serde_json::from_str(&row.state).unwrap() else { panic!("destroyed") };
    assert!(live.last_used.since(before) > Duration::from_secs(3500), "{:?}", live.last_used.since(before));
}

#[tokio::test]
async fn a_few_move_their_memory_at_once_and_whoever_waits_for_that_wakes_all_the_same() {
    let stage = Stage::under(Policy::default()).await;
    let mut conductors = Vec::new();
    for number in 0..6 {
        let (_, conductor) = stage.branch(&format!("mover-{number}")).await;
        stage.launch_in(&conductor, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
        conductors.push(conductor);
    }
    stage.engine.stall_moves(true);
    for conductor in &conductors {
        conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    }
    stage.wait_until("all are frozen", async || stage.is(ContainerState::Frozen).await).await;
    stage.wait_until("some move", async || stage.calls("offload") == 4).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stage.calls("offload"), 4);
    for conductor in &conductors {
        conductor.wake("alice").await.unwrap();
        assert_eq!(conductor.settled().await.to_string(), "awake v1");
    }
    assert_eq!(stage.calls("thaw"), 6);
}

#[tokio::test]
async fn what_cannot_be_frozen_stays_awake_and_its_people_are_told() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    stage.engine.set_unfreezable(true);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    assert_eq!(conductor.state().to_string(), "awake v1");
    assert!(matches!(stage.door.target(&env.host), Some(Target::Upstream(_))));
    let events = stage.store().events(Some(&env.name.app), Some(&env.name.env), 0, 10).await.unwrap();
    let told = events.iter().find(|event| event.kind == "sleep-failed").unwrap();
    assert!(told.text.starts_with("v1 stays awake: container `shop-main-1-1` cannot be frozen now"), "{}", told.text);
}

#[tokio::test]
async fn what_ends_while_its_last_requests_do_falls_asleep_all_the_same_and_its_next_visitor_has_it_started() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    stage.door.busy.send_replace(true);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    let container = env.live.unwrap().container;
    stage.engine.kill(&container);
    conductor.ended(container).await;
    stage.door.busy.send_replace(false);
    conductor.at_rest().await.unwrap();
    assert_eq!(conductor.state().to_string(), "asleep v1");
    assert_eq!(stage.door.target(&env.host), Some(HELD));
    let events = stage.store().events(Some(&env.name.app), Some(&env.name.env), 0, 10).await.unwrap();
    assert!(events.iter().all(|event| event.kind != "sleep-failed"), "{events:?}");
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    assert!(stage.is(ContainerState::Running).await);
}

#[tokio::test]
async fn a_wake_that_fails_is_told_to_who_waits_and_the_next_visit_tries_again() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    conductor.tell(Event::Off).await.unwrap();
    conductor.at_rest().await.unwrap();
    stage.engine.fail("start", 1);
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("off v1 (crashed)").await;
    let failed = || matches!(stage.door.target(&env.host), Some(Target::Held { failure: Some(_) }));
    stage.wait_until("who waits is told", async || failed()).await;
    let wake = stage.woken(&env).await;
    assert!(wake.failure.unwrap().contains("failed to wake `shop/main`"));

    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
}

#[tokio::test]
async fn a_container_that_is_gone_while_it_sleeps_is_made_anew_for_the_next_visitor() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.at_rest().await.unwrap();
    let container = env.live.unwrap().container;
    crate::engine::Engine::remove(&*stage.engine, &container).await.unwrap();
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    assert!(stage.is(ContainerState::Running).await);
}

#[tokio::test]
async fn what_time_destroys_leaves_an_event_that_says_so() {
    let (stage, env, conductor) = deployed(policy(None, None, Some(2_000))).await;
    conductor.gone().await;
    let (store, name) = (&stage.loft.parts.store, &env.name);
    let newest = store.newest_event(&name.app, Some(&name.env), [EventKind::Destroyed; 3]).await.unwrap();
    assert_eq!(newest, Some(("destroyed".to_owned(), "nobody used it for its `expire`, 2s".to_owned())));
}

/// Another environment of the app, which sleeps, while the machine is full.
async fn another_asleep(stage: &Stage) -> (EnvRow, Conductor) {
    let (_, next) = stage.branch("next").await;
    stage.launch_in(&next, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
    next.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    next.at_rest().await.unwrap();
    stage.machine.lock().unwrap().available = 0;
    stage.branch("next").await
}

/// One sleeps, and another one that is to wake; the only one that is awake is in use.
async fn no_room_but_for_who_is_written_out() -> (Stage, Conductor, Conductor, InUse) {
    let (stage, _, busy) = deployed(Policy::default()).await;
    let (_, sleeper) = stage.branch("sleeper").await;
    stage.launch_in(&sleeper, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
    sleeper.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    let (_, waking) = another_asleep(&stage).await;
    stage.machine.lock().unwrap().pool = Some(Pool { taken: 64 << 20, most: 1 << 40 });
    let in_use = busy.begin_use("`flyloft run` by ada");
    (stage, sleeper, waking, in_use)
}

/// When it was last used, as the next daemon finds it.
async fn on_record(stage: &Stage) -> Timestamp {
    match serde_json::from_str(&stage.env().await.0.state).unwrap() {
        State::Live(live) => live.last_used,
        State::Destroyed { .. } => panic!("destroyed"),
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_forgets_little_of_when_it_was_used() {
    // Nothing else would have it on record: time does nothing to it.
    let forgotten = |settings: &mut Settings| settings.use_forgotten = Duration::from_millis(50);
    let stage = Stage::with(policy(None, None, None), forgotten).await;
    stage.deploy().await.unwrap();
    let clock = &stage.loft.parts.clock;
    clock.advance(Duration::from_secs(3600));
    let used = clock.now();
    assert!(on_record(&stage).await < used);
    *stage.door.unused_for.lock().unwrap() = Some(Duration::ZERO);
    stage.wait_until("it is on record", async || on_record(&stage).await >= used).await;
    *stage.door.unused_for.lock().unwrap() = None;
    // Nobody has told the first daemon to end.
    let next = Loft::new(stage.loft.parts.clone());
    next.start(false).await.unwrap();
    let (_, conductor) = next.find(&stage.env().await.0.name).await.unwrap();
    assert!(last_used(&conductor) >= used);
}

#[tokio::test]
async fn where_memory_is_short_the_longest_idle_falls_asleep_before_another_wakes() {
    let (stage, _, idle) = deployed(Policy::default()).await;
    let (next, waking) = another_asleep(&stage).await;
    stage.loft.parts.clock.advance(Duration::from_secs(10));
    let came = std::time::Instant::now();
    waking.visit("GET /".to_owned()).await;
    stage.wait_until("room is made", async || idle.state().to_string() == "asleep v1").await;
    assert_eq!(waking.state().to_string(), "asleep v1", "it has to wait until the kernel says that there is room");
    let waited = came.elapsed();
    stage.machine.lock().unwrap().available = 1 << 40;
    stage.wait_until("it wakes", async || waking.state().to_string() == "awake v1").await;
    stage.wait_until("routed", async || stage.serves(&next)).await;
    let wake = stage.woken(&next).await;
    assert!(wake.admitted >= waited && wake.total >= wake.admitted, "it has waited for {waited:?}: {wake:?}");
}

#[tokio::test]
async fn when_compressed_memory_is_full_the_longest_asleep_is_written_out() {
    let (stage, _, longest) = deployed(Policy::default()).await;
    longest.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    longest.at_rest().await.unwrap();
    stage.loft.parts.clock.advance(Duration::from_secs(10));
    stage.machine.lock().unwrap().pool = Some(Pool { taken: 80, most: 100 });
    let (_, newest) = another_asleep(&stage).await;
    assert_eq!(longest.state().to_string(), "asleep v1", "there is room still");
    stage.machine.lock().unwrap().pool = Some(Pool { taken: 90, most: 100 });
    stage.machine.lock().unwrap().available = 1 << 40;
    newest.wake("alice").await.unwrap();
    newest.settled().await;
    newest.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    stage.wait_until("it is written out", async || longest.state().to_string() == "deep asleep v1").await;
    assert_eq!(newest.state().to_string(), "asleep v1");
}

#[tokio::test]
async fn where_memory_is_short_and_nobody_is_idle_who_sleeps_is_written_out_before_another_wakes() {
    let (stage, sleeper, waking, _in_use) = no_room_but_for_who_is_written_out().await;
    waking.visit("GET /".to_owned()).await;
    stage.wait_until("room is made", async || sleeper.state().to_string() == "deep asleep v1").await;
    assert_eq!(waking.state().to_string(), "asleep v1", "who is to wake is not written out");
    stage.machine.lock().unwrap().available = 1 << 40;
    stage.wait_until("it wakes", async || waking.state().to_string() == "awake v1").await;
}

#[tokio::test]
async fn where_nobody_can_make_room_visitors_are_told_so_and_it_sleeps_on() {
    let (stage, _, busy) = deployed(Policy::default()).await;
    let (next, waking) = another_asleep(&stage).await;
    stage.loft.parts.clock.advance(Duration::from_secs(10));
    let _in_use = busy.begin_use("`flyloft run` by ada");
    let error = waking.wake("alice").await.unwrap_err();
    assert!(error.what.starts_with("the machine has no 32 MiB of memory free"), "{}", error.what);
    assert_eq!((busy.state().to_string(), waking.state().to_string()), ("awake v1".into(), "asleep v1".into()));
    let Some(Target::Held { failure: Some(why) }) = stage.door.target(&next.host) else { panic!("nobody is told") };
    assert!(why.contains("has no 32 MiB"), "{why}");
    // What was promised to nobody is there for the next.
    stage.machine.lock().unwrap().available = 32 << 20;
    assert_eq!(waking.wake("alice").await.unwrap(), Told::Done);
    assert_eq!(waking.settled().await.to_string(), "awake v1");
}

#[test]
fn one_that_waits_takes_little_memory() {
    fn bytes_of<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }
    // A thousand of them wait at any time. The channel of each has room for 32 messages.
    let waiting = size_of::<Task>() + bytes_of(Task::run) + 32 * size_of::<Box<Message>>();
    assert!(waiting < 3000, "{waiting} bytes");
}
