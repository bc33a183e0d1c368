//! What starts without anybody who asks for it.

use flyloft_core::lifecycle::{Live, Runs, WhyOff};

use super::*;
use crate::admission::Place;
use crate::engine::Engine;
use crate::store::EnvId;

const AWAKE: &str = "awake v1, pinned";
const LACKS_ROOM: &str = "off v1 (no memory for it), pinned";

impl Stage {
    /// Environments that are pinned and were awake until the machine was started anew.
    async fn pinned(&self, count: usize) -> Vec<EnvRow> {
        let mut envs = Vec::new();
        for number in 0..count {
            let branch = format!("pinned-{number}");
            let (_, conductor) = self.branch(&branch).await;
            self.launch_in(&conductor, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
            conductor.tell(Event::Pin).await.unwrap();
            let (env, _) = self.branch(&branch).await;
            self.engine.stop(&env.live.as_ref().unwrap().container, Duration::ZERO).await.unwrap();
            envs.push(env);
        }
        envs
    }

    /// So many bytes are free, nobody makes room for others, and nobody is let in for being the only one.
    fn leave(&self, available: u64) -> Place {
        *self.door.unused_for.lock().unwrap() = Some(Duration::ZERO);
        let somebody = self.loft.parts.admission.enter_now(EnvId(1000), 1).unwrap();
        self.machine.lock().unwrap().available = available + 1;
        somebody
    }

    async fn wake_failures(&self, env: &EnvRow) -> Vec<String> {
        let events = self.store().events(Some(&env.name.app), Some(&env.name.env), 0, 10).await.unwrap();
        events.into_iter().filter(|event| event.kind == "wake-failed").map(|event| event.text).collect()
    }

    /// As if a daemon had died while it woke.
    fn leave_waking(&self) {
        self.sql(
            r#"UPDATE environments SET state = '{"live":{"runs":{"waking":{"release":1,"since":0}},"deploying":"no",
               "pinned":false,"last_used":0,"kept_until":null}}'"#,
        );
    }
}

/// When it is tried again.
fn until(conductor: &Conductor) -> Option<Timestamp> {
    match conductor.state() {
        State::Live(Live { runs: Runs::Off { why: WhyOff::NoRoom { until }, .. }, .. }) => Some(until),
        _ => None,
    }
}

#[tokio::test]
async fn after_a_reboot_those_that_are_pinned_start_as_far_as_there_is_memory_and_the_others_once_there_is() {
    let stage = Stage::under(policy(None, None, None)).await;
    let envs = stage.pinned(5).await;
    // Enough for two of which nothing is known.
    let _somebody = stage.leave(192 << 20);
    let starts = stage.calls("start");
    let next = Loft::new(stage.loft.parts.clone());
    next.start(true).await.unwrap();
    let (mut awake, mut waiting) = (0, Vec::new());
    for env in &envs {
        let (_, conductor) = next.find(&env.name).await.unwrap();
        match conductor.settled().await.to_string().as_str() {
            AWAKE => awake += 1,
            LACKS_ROOM => waiting.push((env, conductor)),
            other => panic!("{} is {other}", env.name),
        }
    }
    assert_eq!((awake, waiting.len(), stage.calls("start") - starts), (2, 3, 2));
    for (env, _) in &waiting {
        let told = "v1: the machine has no 96 MiB of memory free, and nobody who is awake can make room; it is tried again \
                    by itself until there is some, and by a visit";
        stage.wait_until("its people are told", async || stage.wake_failures(env).await == [told]).await;
        let Some(Target::Held { failure: Some(why) }) = stage.door.target(&env.host) else { panic!("nobody is told") };
        assert_eq!(why, "This machine had no memory for it to start. The next visit tries again.");
    }

    let minute = Duration::from_secs(60);
    let (env, conductor) = &waiting[0];
    let before = until(conductor);
    stage.loft.parts.clock.advance(minute);
    // Upon any message it sees how late it is.
    conductor.transcript().await.unwrap();
    stage.wait_until("it is tried in vain", async || until(conductor) > before).await;
    stage.machine.lock().unwrap().available = 1 << 40;
    stage.loft.parts.clock.advance(minute);
    for (_, conductor) in &waiting {
        conductor.transcript().await.unwrap();
        stage.wait_until("it is started", async || conductor.state().to_string() == AWAKE).await;
    }
    assert_eq!((stage.calls("start") - starts, stage.wake_failures(env).await.len()), (5, 1), "that is no news");
}

#[tokio::test]
async fn what_a_daemon_died_over_goes_on_waking_if_it_runs_and_asks_for_memory_if_it_does_not() {
    for (runs, state) in [(true, "awake v1"), (false, "off v1 (no memory for it)")] {
        let (stage, env, _) = deployed(policy(None, None, None)).await;
        if !runs {
            stage.engine.stop(&env.live.as_ref().unwrap().container, Duration::ZERO).await.unwrap();
        }
        stage.leave_waking();
        let _somebody = stage.leave(0);
        let next = Loft::new(stage.loft.parts.clone());
        next.start(false).await.unwrap();
        let (_, conductor) = next.find(&env.name).await.unwrap();
        assert_eq!(conductor.settled().await.to_string(), state);
        if !runs {
            let told = async || stage.wake_failures(&env).await.len() == 1;
            stage.wait_until("its people are told", told).await;
            assert!(stage.wake_failures(&env).await[0].ends_with("; a visit tries again"));
        }
    }
}

#[tokio::test]
async fn what_ends_by_itself_is_not_started_again_where_there_is_no_memory_any_more() {
    let (stage, env, conductor) = deployed(policy(None, None, None)).await;
    let _somebody = stage.leave(0);
    let starts = stage.calls("start");
    stage.engine.kill(&env.live.as_ref().unwrap().container);
    stage.loft.reconcile().await.unwrap();
    stage.wait_for_state("off v1 (no memory for it)").await;
    assert_eq!(stage.calls("start"), starts);
    stage.machine.lock().unwrap().available = 1 << 40;
    assert_eq!(conductor.wake("alice").await.unwrap(), Told::Done);
    assert_eq!(conductor.settled().await.to_string(), "awake v1");
}
