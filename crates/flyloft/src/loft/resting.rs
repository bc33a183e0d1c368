//! What many that rest cost, and what becomes of them.

use flyloft_core::lifecycle::Depth;

use super::stage::Stage;
use super::*;
use crate::engine::Engine;
use crate::retention;

/// So many that are asleep, which a daemon has just taken up.
async fn sleepers(count: usize) -> (Stage, Loft) {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (_, conductor) = stage.env().await;
    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.at_rest().await.unwrap();
    stage.multiply(count).await;
    let loft = Loft::new(stage.loft.parts.clone());
    loft.start(false).await.unwrap();
    (stage, loft)
}

/// What happens once a minute. Gives how often a container was looked at, and how many verbs were called.
async fn minute(stage: &Stage, loft: &Loft) -> (usize, usize) {
    let asked = || (stage.engine.looks(), stage.engine.calls().len());
    let before = asked();
    loft.reconcile().await.unwrap();
    retention::keep(&loft.parts).await;
    for conductor in loft.conductors.lock().await.values() {
        // What follows in the mailbox what it was handed.
        conductor.transcript().await.unwrap();
    }
    let after = asked();
    (after.0 - before.0, after.1 - before.1)
}

#[tokio::test]
async fn a_minute_costs_hardly_more_with_a_thousand_that_rest_than_with_a_hundred() {
    for (count, looks) in [(10, 10), (SHARE, SHARE), (1000, SHARE)] {
        let (stage, loft) = sleepers(count).await;
        stage.loft.parts.clock.advance(SETTLING);
        // In the first one all is looked through that is kept on the disk.
        minute(&stage, &loft).await;
        for _ in 0..3 {
            assert_eq!(minute(&stage, &loft).await, (looks, 0), "of {count}");
        }
    }
}

#[tokio::test]
async fn what_has_become_of_one_that_rests_is_found_in_its_turn_and_while_it_settles_at_once() {
    let (stage, loft) = sleepers(SHARE + 2).await;
    retention::keep(&loft.parts).await;
    assert_eq!(minute(&stage, &loft).await, (SHARE + 2, 0), "they have just fallen asleep");
    stage.loft.parts.clock.advance(SETTLING);
    let last = *stage.store().environment_ids().await.unwrap().last().unwrap();
    let (conductor, container) = {
        let env = stage.store().environment_of(last).await.unwrap().unwrap();
        (loft.conductor(last).await.unwrap().unwrap(), env.live.unwrap().container)
    };
    stage.engine.stop(&container, Duration::ZERO).await.unwrap();
    assert_eq!(minute(&stage, &loft).await, (SHARE, 0));
    assert_eq!(conductor.state().to_string(), "deep asleep v1", "it was the others' turn");
    // Who is not as it should be is looked at again.
    assert_eq!(minute(&stage, &loft).await, (SHARE + 1, 0));
    assert_eq!(conductor.state().to_string(), "off v1 (crashed)");
}

#[tokio::test]
async fn what_the_engine_stopped_and_what_a_change_of_swap_left_is_found_whosever_turn_it_is() {
    let (stage, loft) = sleepers(2 * SHARE).await;
    stage.loft.parts.clock.advance(SETTLING);
    let last = *stage.store().environment_ids().await.unwrap().last().unwrap();
    let container = stage.store().environment_of(last).await.unwrap().unwrap().live.unwrap().container;
    let conductor = loft.conductor(last).await.unwrap().unwrap();
    tokio::select! {
        () = loft.reconcile_for_ever() => unreachable!(),
        () = async {
            stage.engine.stop_for(&container, flyloft_core::policy::Excess::Disk);
            let told = async || conductor.state().to_string() == "off v1 (over its disk limit)";
            stage.wait_until("it is known to be off", told).await;
        } => {}
    }
    let moves = stage.calls("offload");
    loft.reconcile_on(vec![PathBuf::from("/another")], SHARE).await.unwrap();
    let others = 2 * SHARE - 1;
    stage.wait_until("all others are moved anew", async || stage.calls("offload") - moves == others).await;
}

#[test]
fn those_that_rest_take_turns_and_nobody_is_left_out() {
    let turn = |last, share| {
        let turn = turn([5, 1, 9, 3].map(EnvId).to_vec(), EnvId(last), share);
        turn.into_iter().map(|env| env.0).collect::<Vec<_>>()
    };
    assert_eq!(turn(0, 2), [1, 3]);
    assert_eq!(turn(3, 2), [5, 9]);
    assert_eq!(turn(4, 3), [5, 9, 1], "that one has gone since");
    assert_eq!(turn(9, 100), [1, 3, 5, 9]);
}
