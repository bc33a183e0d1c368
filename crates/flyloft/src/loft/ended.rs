//! Containers that end by themselves, whenever that is.

use flyloft_core::lifecycle::Depth;
use flyloft_core::name::ReleaseNumber;

use super::stage::{Stage, content, in_time};
use super::*;
use crate::deploy::{Again, Source, Together, Work};
use crate::engine::{ContainerId, ContainerState, Engine};

impl Stage {
    /// A release that serves, and the container in which it does.
    async fn serving() -> (Self, Conductor, ContainerId) {
        let stage = Self::new().await;
        stage.deploy().await.unwrap();
        let (env, conductor) = stage.env().await;
        (stage, conductor, env.live.unwrap().container)
    }

    /// What its people were told of that, in order.
    async fn crashes(&self) -> Vec<String> {
        let events = self.store().events(None, None, 0, 100).await.unwrap();
        events.into_iter().filter(|event| event.kind == "crashed").map(|event| event.text).collect()
    }
}

#[tokio::test]
async fn what_serves_and_ends_by_itself_is_started_at_once_and_not_again_if_it_ends_soon() {
    let (stage, conductor, container) = Stage::serving().await;
    tokio::select! {
        () = stage.loft.reconcile_for_ever() => unreachable!(),
        () = async {
            let starts = stage.calls("start");
            stage.engine.kill(&container);
            stage.wait_until("it is started", async || stage.calls("start") > starts).await;
            stage.wait_for_state("awake v1").await;
            stage.loft.parts.clock.advance(Duration::from_secs(61));
            stage.engine.kill(&container);
            stage.wait_for_state("off v1 (crashed)").await;
            assert_eq!(stage.calls("start"), starts + 1);
            let told = ["v1 ended by itself and is started again", "v1 ended by itself and is started again by the next visit"];
            stage.wait_until("its people are told", async || stage.crashes().await == told).await;

            // Of what sleeps its next visitor finds that out, who must not be told that it has crashed.
            conductor.wake("alice").await.unwrap();
            stage.wait_for_state("awake v1").await;
            conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
            conductor.at_rest().await.unwrap();
            stage.engine.kill(&container);
            // One that comes after it, and is acted upon.
            let (_, other) = stage.branch("other").await;
            stage.launch_in(&other, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
            let (other, _) = stage.branch("other").await;
            stage.engine.kill(&other.live.unwrap().container);
            stage.wait_until("the other is known to have ended", async || stage.crashes().await.len() == 3).await;
            // What follows in the mailbox what it was told.
            conductor.transcript().await.unwrap();
            assert_eq!(stage.state().await, "deep asleep v1");
        } => {}
    }
}

#[tokio::test]
async fn what_is_pinned_and_ends_again_soon_is_started_when_its_pause_is_over() {
    let (stage, conductor, container) = Stage::serving().await;
    conductor.tell(Event::Pin).await.unwrap();
    for state in ["awake v1, pinned", "off v1 (crashed), pinned"] {
        stage.engine.kill(&container);
        // A look that comes first judges as the engine's word does.
        stage.loft.reconcile().await.unwrap();
        conductor.transcript().await.unwrap();
        conductor.settled().await;
        assert_eq!(conductor.state().to_string(), state);
    }
    assert_eq!(stage.crashes().await[1], "v1 ended by itself and is started again in 1m, or by a visit");
    stage.loft.parts.clock.advance(Duration::from_secs(60));
    // Upon any message it sees how late it is.
    conductor.transcript().await.unwrap();
    stage.wait_for_state("awake v1, pinned").await;
}

#[tokio::test]
async fn a_release_that_ends_while_it_waits_to_serve_fails_and_the_one_before_serves_on() {
    let (stage, conductor, old) = Stage::serving().await;
    let (env, _) = stage.env().await;
    let before = stage.door.target(&env.host);
    let together = Together::of(2);
    let content = Some(Box::new(content(&[("web", "serve")])));
    let work = Work {
        source: Source::Again { commit: None, content, again: Again::Rollback },
        reason: "a test".to_owned(),
        by: "tester".to_owned(),
        no_cache: false,
        attached: false,
        push: None,
        together: Some(together.clone()),
    };
    let ticket = conductor.deploy(work).await.unwrap();
    let probed = async || {
        let steps = stage.store().steps(env.id, ReleaseNumber(2)).await.unwrap();
        steps.iter().any(|step| step.step == "probe" && step.ended_at.is_some())
    };
    stage.wait_until("it has answered", probed).await;
    let new = stage.engine.containers().await.unwrap().into_iter().find(|id| *id != old).unwrap();
    stage.engine.kill(&new);
    conductor.ended(new).await;
    // The other branch of the push is ready only now, and hears of the failure, or does not yet.
    let _ = together.all_ready().await;
    let error = in_time("the end of a deploy", ticket.ended).await.unwrap().unwrap_err();
    assert_eq!(error.what, "v2 does not run any more, though it had come up");
    assert_eq!(stage.state().await, "awake v1");
    assert_eq!(stage.door.target(&env.host), before);
    assert_eq!(stage.containers().await, [(old.0, ContainerState::Running)]);
}

#[tokio::test]
async fn what_ends_before_it_is_known_to_have_woken_is_started_again() {
    let (stage, conductor, container) = Stage::serving().await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    // Until this is mended nobody hears that it has woken.
    stage.sql(
        "CREATE TRIGGER broken BEFORE UPDATE OF state ON environments WHEN new.state LIKE '%\"awake\"%'
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
    conductor.visit("GET /".to_owned()).await;
    let (env, _) = stage.env().await;
    let woken = async || !stage.store().wakes(env.id).await.unwrap().is_empty();
    stage.wait_until("it has woken", woken).await;
    stage.engine.kill(&container);
    conductor.ended(container).await;
    conductor.transcript().await.unwrap();
    assert_eq!(stage.state().await, "waking v1");
    let starts = stage.calls("start");
    stage.mend_store();
    conductor.transcript().await.unwrap();
    stage.wait_until("it is started", async || stage.calls("start") > starts).await;
    stage.wait_for_state("awake v1").await;
    assert!(stage.containers().await.iter().all(|(_, state)| *state == ContainerState::Running));
    assert_eq!(stage.crashes().await, ["v1 ended by itself and is started again"]);
}
