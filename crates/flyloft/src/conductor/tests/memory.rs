//! Memory that is moved out of the way, and who waits for that.

use super::*;
use crate::engine::Kept;
use crate::loft::stage::in_time;

#[tokio::test]
async fn however_many_are_due_to_be_written_out_whoever_falls_asleep_does_not_wait_for_them() {
    let stage = Stage::under(Policy::default()).await;
    stage.engine.stall_moves(true);
    for number in 0..6 {
        let (_, conductor) = stage.branch(&format!("mover-{number}")).await;
        stage.launch_in(&conductor, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
        conductor.tell(Event::Sleep { depth: if number < 5 { Depth::Deep } else { Depth::Shallow } }).await.unwrap();
    }
    stage.wait_until("all are frozen", async || stage.is(ContainerState::Frozen).await).await;
    stage.wait_until("the last one moves", async || stage.calls("offload shop-mover-5") == 1).await;
    stage.wait_until("one of the others does", async || stage.calls("offload") == 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stage.calls("offload"), 2);
}

#[tokio::test]
async fn whoever_waits_for_memory_is_told_in_time_though_what_is_written_out_for_it_takes_for_ever() {
    let (stage, sleeper, waking, _in_use) = no_room_but_for_who_is_written_out().await;
    stage.engine.stall_moves(true);
    let error = in_time("an answer", waking.wake("alice")).await.unwrap_err();
    assert!(error.what.starts_with("the machine has no 32 MiB of memory free"), "{}", error.what);
    assert_eq!(sleeper.state().to_string(), "deep asleep v1");
}

#[tokio::test]
async fn who_fills_compressed_memory_while_others_are_written_out_is_seen_to_as_well() {
    let (stage, _, longest) = deployed(Policy::default()).await;
    longest.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    longest.at_rest().await.unwrap();
    stage.loft.parts.clock.advance(Duration::from_secs(10));
    let (_, next) = another_asleep(&stage).await;
    stage.machine.lock().unwrap().pool = Some(Pool { taken: 90, most: 100 });
    stage.engine.stall_moves(true);
    let [first, second] = [(); 2].map(|()| {
        let parts = stage.loft.parts.clone();
        tokio::spawn(async move { parts.admission.relieve().await })
    });
    stage.wait_until("the longest asleep is written out", async || stage.calls("offload") == 3).await;
    assert_eq!([&longest, &next].map(|conductor| conductor.state().to_string()), ["deep asleep v1", "asleep v1"]);
    stage.engine.stall_moves(false);
    let both = in_time("the end of both", async { tokio::join!(first, second) }).await;
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(next.state().to_string(), "deep asleep v1");
}

#[tokio::test]
async fn whoever_is_waking_itself_is_not_counted_on_to_make_room() {
    let (stage, _, slow) = deployed(Policy::default()).await;
    slow.tell(Event::Off).await.unwrap();
    slow.at_rest().await.unwrap();
    let (_, sleeper) = stage.branch("sleeper").await;
    stage.launch_in(&sleeper, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
    sleeper.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    let (_, waking) = another_asleep(&stage).await;
    stage.machine.lock().unwrap().available = 1 << 40;
    stage.engine.listen(vec![]);
    slow.wake("alice").await.unwrap();
    stage.loft.parts.clock.advance(Duration::from_secs(10));
    {
        let mut machine = stage.machine.lock().unwrap();
        (machine.available, machine.pool) = (0, Some(Pool { taken: 64 << 20, most: 1 << 40 }));
    }
    waking.visit("GET /".to_owned()).await;
    stage.wait_until("room is made", async || sleeper.state().to_string() == "deep asleep v1").await;
    assert_eq!(slow.state().to_string(), "waking v1");
}

#[tokio::test]
async fn all_of_a_burst_are_told_in_time_that_there_is_no_room_however_many_they_are() {
    let (stage, _, busy) = deployed(Policy::default()).await;
    let mut waking = Vec::new();
    for number in 0..10 {
        let (_, conductor) = stage.branch(&format!("burst-{number}")).await;
        stage.launch_in(&conductor, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
        conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
        conductor.at_rest().await.unwrap();
        waking.push(conductor);
    }
    stage.machine.lock().unwrap().available = 0;
    let _in_use = busy.begin_use("`flyloft run` by ada");
    let begun = std::time::Instant::now();
    let told = futures_util::future::join_all(waking.iter().map(|conductor| conductor.wake("alice"))).await;
    assert!(told.iter().all(|told| told.as_ref().is_err_and(|error| error.what.contains("MiB of memory free"))));
    // Ten times the patience of one would be three seconds.
    assert!(begun.elapsed() < Duration::from_secs(2), "the last one waited for {:?}", begun.elapsed());
}

#[tokio::test]
async fn who_found_swap_full_says_so_once_and_moves_its_memory_in_its_turn_when_there_is_room() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    stage.engine.keep(Some(Kept::SwapFull));
    stage.machine.lock().unwrap().swap_free = 1 << 20;
    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.at_rest().await.unwrap();
    let told = async || {
        let events = stage.store().events(Some(&env.name.app), Some(&env.name.env), 0, 10).await.unwrap();
        events.into_iter().filter(|event| event.kind == "memory-kept").map(|event| event.text).collect::<Vec<_>>()
    };
    assert_eq!(told().await, ["v1 sleeps and keeps 32 MiB of memory: the machine's swap is full"]);
    let turn = async |loft: &Loft| {
        loft.reconcile().await.unwrap();
        let (_, conductor) = loft.find(&env.name).await.unwrap();
        // What follows in the mailbox what it was handed, and what came of that.
        conductor.at_rest().await.unwrap();
        stage.calls("offload")
    };
    assert_eq!(turn(&stage.loft).await, 1, "it is as full as it was");
    stage.machine.lock().unwrap().swap_free = 1 << 30;
    assert_eq!(turn(&stage.loft).await, 2);
    assert_eq!(told().await.len(), 1, "that is no news");

    // The next daemon knows as much.
    stage.engine.keep(None);
    let next = Loft::new(stage.loft.parts.clone());
    assert_eq!(turn(&next).await, 3);
    assert_eq!(turn(&next).await, 3, "all of it has gone");
}
