use flyloft_core::lifecycle::Depth;
use flyloft_core::name::{CommitId, ReleaseNumber};
use flyloft_core::policy::Excess;

use super::stage::{self, Stage, content, in_time};
use super::*;
use crate::conductor::{Ticket, Told};
use crate::deploy::{Again, Source, Work};
use crate::edge::Edge;
use crate::engine::{ContainerState, Kept};
use crate::error::Kind;
use crate::store::{NewRelease, ReleaseStatus};

#[tokio::test]
async fn a_deploy_whose_end_cannot_be_stored_leaves_the_old_release_and_ends_when_the_store_works_again() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let before = stage.containers().await;
    stage.break_store();
    let error = stage.deploy().await.unwrap_err();
    assert!(error.brief().contains("failed to record the state of `shop/main`"), "{}", error.brief());
    assert_eq!(stage.containers().await, before, "the failed release's container is gone, the other one is not");
    let (env, _) = stage.env().await;
    assert_eq!(env.live.unwrap().release, ReleaseNumber(1));
    assert_eq!(stage.state().await, "awake v1, deploying v2");

    stage.mend_store();
    stage.loft.reconcile().await.unwrap();
    stage.wait_for_state("awake v1").await;
    assert_eq!(stage.containers().await, before);
    let failed = stage.store().release(env.id, ReleaseNumber(2)).await.unwrap().unwrap();
    assert_eq!(failed.status, ReleaseStatus::Failed);
    assert_eq!(stage.deploy().await.unwrap().release, ReleaseNumber(3));
}

#[tokio::test]
async fn a_wake_whose_end_cannot_be_stored_ends_when_the_store_works_again() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (_, conductor) = stage.env().await;
    assert_eq!(conductor.tell(Event::Off).await.unwrap(), Told::Done);
    stage.sql(
        "CREATE TRIGGER broken BEFORE UPDATE OF state ON environments WHEN new.state LIKE '%\"awake\"%'
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
    conductor.tell(Event::Wake).await.unwrap();
    // Long enough for it to have answered: a wake in memory takes a millisecond or two.
    for _ in 0..30 {
        stage.loft.reconcile().await.unwrap();
        assert_eq!(stage.state().await, "waking v1");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stage.mend_store();
    stage.loft.reconcile().await.unwrap();
    stage.wait_for_state("awake v1").await;
}

#[tokio::test]
async fn a_wake_that_cannot_be_stored_is_told_to_who_waits_and_the_next_visit_tries_again() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    stage.sql(
        "CREATE TRIGGER broken BEFORE UPDATE OF state ON environments WHEN new.state LIKE '%\"waking\"%'
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
    conductor.visit("GET /".to_owned()).await;
    let why = || match stage.door.target(&env.host) {
        Some(Target::Held { failure: Some(why) }) => why,
        _ => String::new(),
    };
    let told = async || why().starts_with("failed to record the state of `shop/main`");
    stage.wait_until("who waits is told", told).await;
    assert_eq!((stage.state().await.as_str(), stage.calls("thaw")), ("asleep v1", 0));
    stage.mend_store();
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
}

#[tokio::test]
async fn what_takes_long_to_be_destroyed_keeps_a_daemon_that_starts_from_no_other() {
    let stage = Stage::new().await;
    stage.branch("doomed").await;
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    stage.sql(r#"UPDATE environments SET state = '{"destroyed":{"ending":null}}' WHERE name = 'doomed'"#);
    stage.door.remove(&env.host).await.unwrap();
    stage.door.clings.send_replace(true);
    let next = Loft::new(stage.loft.parts.clone());
    let start = tokio::spawn(async move { next.start(false).await });
    stage.wait_until("the other is taken up", async || stage.door.target(&env.host).is_some()).await;
    stage.door.clings.send_replace(false);
    in_time("the start", start).await.unwrap().unwrap();
    assert_eq!(stage.store().environments(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_used_when_the_clock_was_ahead_grows_old_all_the_same() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    stage.branch("doomed").await;
    let ahead = stage.loft.parts.clock.now().0 + 3_600_000;
    stage.sql(&format!(
        "UPDATE environments SET state = json_set(state, '$.live.last_used', {ahead}) WHERE name = 'main';
         UPDATE environments SET state = '{{\"destroyed\":{{\"ending\":null}}}}' WHERE name = 'doomed'"
    ));
    Loft::new(stage.loft.parts.clone()).start(false).await.unwrap();
    assert!((ahead..ahead + 60_000).contains(&stage.loft.parts.clock.now().0));
}

#[tokio::test]
async fn visitors_of_what_is_busy_keep_those_of_others_from_nothing() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    let (busy, doomed) = stage.branch("doomed").await;
    stage.door.clings.send_replace(true);
    let destroyed = tokio::spawn(async move { doomed.tell(Event::Destroy).await });
    let (visits, visited) = mpsc::unbounded_channel();
    tokio::spawn(stage.loft.clone().answer(visited));
    // More than a conductor has room for that does not look.
    for env in std::iter::repeat_n(busy.name, 100).chain([env.name]) {
        visits.send(Visit { env, by: "GET /".to_owned(), at: std::time::Instant::now(), passage: None }).unwrap();
    }
    stage.wait_for_state("awake v1").await;
    stage.door.clings.send_replace(false);
    in_time("the end of the other", destroyed).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_daemon_had_not_moved_when_it_died_the_next_one_moves_and_nothing_else() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.at_rest().await.unwrap();
    Loft::new(stage.loft.parts.clone()).start(false).await.unwrap();
    assert_eq!(stage.calls("offload"), 1, "it was out of the way already");
    stage.store().note_held(env.id, None).await.unwrap();
    let next = Loft::new(stage.loft.parts.clone());
    next.start(false).await.unwrap();
    stage.wait_until("it is moved again", async || stage.calls("offload") == 2).await;
    let noted = async || stage.env().await.0.memory.asleep.is_some();
    stage.wait_until("that is noted", noted).await;
    next.reconcile().await.unwrap();
    next.find(&env.name).await.unwrap().1.at_rest().await.unwrap();
    assert_eq!(stage.calls("offload"), 2);
}

#[tokio::test]
async fn where_swap_is_turned_off_and_on_sleepers_follow_and_their_people_are_told_once() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    let told = async || {
        let events = stage.store().events(Some(&env.name.app), Some(&env.name.env), 0, 10).await.unwrap();
        events.into_iter().filter(|event| event.kind == "memory-kept").map(|event| event.text).collect::<Vec<_>>()
    };
    let on = || vec![PathBuf::from("/swap")];
    for (swaps, kept, moves) in [
        (on(), None, 1),
        (vec![], Some(Kept::NoSwap), 2),
        (vec![], Some(Kept::NoSwap), 2),
        (on(), None, 3),
        (vec![], Some(Kept::NoSwap), 4),
    ] {
        stage.engine.keep(kept);
        stage.loft.reconcile_on(swaps, 0).await.unwrap();
        stage.wait_until("it is moved", async || stage.calls("offload") == moves).await;
        conductor.at_rest().await.unwrap();
    }
    let text = "v1 sleeps and keeps 32 MiB of memory: this machine has no swap";
    stage.wait_until("its people are told", async || told().await.len() == 2).await;
    assert_eq!(told().await, [text, text]);
}

#[tokio::test]
async fn what_the_engine_stopped_is_off_at_once_says_why_and_runs_again_only_with_a_fresh_disk() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    let container = env.live.clone().unwrap().container;
    let off = "off v1 (over its disk limit)";
    let told = async || {
        let events = stage.store().events(Some(&env.name.app), Some(&env.name.env), 0, 10).await.unwrap();
        events.into_iter().filter(|event| event.kind == "stopped").map(|event| event.text).collect::<Vec<_>>()
    };
    tokio::select! {
        () = stage.loft.reconcile_for_ever() => unreachable!(),
        () = async {
            stage.engine.stop_for(&container, Excess::Disk);
            // The next round of its own comes long after this has given up.
            stage.wait_until("its people are told", async || !told().await.is_empty()).await;
        } => {}
    }
    let why = "This environment was stopped: it has outgrown its disk limit.".to_owned();
    assert_eq!(stage.state().await, off);
    assert_eq!(stage.door.target(&env.host), Some(Target::Unavailable { why: why.clone() }));
    assert_eq!(
        told().await,
        ["v1: it has outgrown its disk limit; its limit is 5GiB, `flyloft set shop/main disk=SIZE` \
        sets another; `flyloft restart shop/main` starts it with a fresh disk"]
    );

    let starts = stage.calls("start");
    stage.loft.reconcile().await.unwrap();
    assert!(conductor.tell(Event::Wake).await.unwrap_err().brief().contains("it has outgrown its disk limit"));
    let next = Loft::new(stage.loft.parts.clone());
    next.start(true).await.unwrap();
    assert_eq!((stage.state().await.as_str(), stage.calls("start")), (off, starts));
    let known = routes(stage.store(), &stage.loft.parts.gates, true).await.unwrap();
    assert_eq!(known[0].1.target, Target::Unavailable { why }, "the next daemon's edge says so from the start");

    stage.launch(Again::Restart).await.unwrap();
    assert_eq!(stage.state().await, "awake v2");
}

#[tokio::test]
async fn an_environment_that_was_destroyed_gets_no_conductor_from_a_row_that_was_read_before() {
    let stage = Stage::new().await;
    let (stale, conductor) = stage.env().await;
    conductor.tell(Event::Destroy).await.unwrap();
    in_time("the end", conductor.gone()).await;
    assert!(stage.loft.conductor(stale.id).await.unwrap().is_none());
    assert_eq!(stage.loft.find(&stale.name).await.err().unwrap().kind, Kind::NotFound);
    let (anew, _) = stage.env().await;
    assert_ne!(anew.id, stale.id);
}

#[tokio::test]
async fn a_release_that_the_daemon_died_before_it_began_has_failed_after_the_next_start() {
    let stage = Stage::new().await;
    let (env, _) = stage.env().await;
    let release = NewRelease { environment: env.id, commit: None, reason: "push".to_owned(), by: "x".to_owned() };
    let number = stage.store().add_release(release, 1).await.unwrap();
    let next = Loft::new(stage.loft.parts.clone());
    next.start(false).await.unwrap();
    let status = async || stage.store().release(env.id, number).await.unwrap().unwrap().status;
    stage.wait_until("the release has failed", async || status().await == ReleaseStatus::Failed).await;
}

#[tokio::test]
async fn what_cannot_begin_leaves_no_release_pending() {
    let stage = Stage::new().await;
    let (env, _) = stage.env().await;
    // Where the directory of transcripts should be.
    std::fs::write(&stage.loft.parts.settings.transcripts, "").unwrap();
    stage.deploy().await.unwrap_err();
    let releases = stage.store().releases(env.id).await.unwrap();
    assert_eq!(releases.iter().map(|release| release.status).collect::<Vec<_>>(), [ReleaseStatus::Failed]);
}

#[tokio::test]
async fn requests_that_do_not_end_keep_nobody_waiting_for_a_deploy_or_a_destroy() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (_, conductor) = stage.env().await;
    stage.door.busy.send_replace(true);
    in_time("off", conductor.tell(Event::Off)).await.unwrap();
    assert_eq!(stage.calls("stop"), 0, "requests are still under way");
    assert_eq!(stage.deploy().await.unwrap().release, ReleaseNumber(2));
    in_time("destroy", conductor.tell(Event::Destroy)).await.unwrap();
    in_time("the end", conductor.gone()).await;
    assert_eq!(stage.containers().await, []);
}

#[tokio::test]
async fn a_visit_wakes_what_has_the_name_of_something_that_is_gone() {
    let stage = Stage::new().await;
    let (visits, visited) = mpsc::unbounded_channel();
    tokio::spawn(stage.loft.clone().answer(visited));
    for _ in 0..6 {
        stage.deploy().await.unwrap();
        let (env, conductor) = stage.env().await;
        conductor.tell(Event::Off).await.unwrap();
        conductor.at_rest().await.unwrap();
        let (env, by) = (env.name, "GET /".to_owned());
        visits.send(Visit { env, by, at: std::time::Instant::now(), passage: None }).unwrap();
        stage.wait_for_state("awake v1").await;
        conductor.tell(Event::Destroy).await.unwrap();
        in_time("the end", conductor.gone()).await;
    }
}

#[tokio::test]
async fn what_is_woken_while_its_requests_end_runs_in_the_end() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    let (_, conductor) = stage.env().await;
    stage.door.busy.send_replace(true);
    conductor.tell(Event::Off).await.unwrap();
    conductor.tell(Event::Wake).await.unwrap();
    assert_eq!(stage.state().await, "waking v1");
    stage.door.busy.send_replace(false);
    stage.wait_for_state("awake v1").await;
    assert_eq!(stage.calls("stop"), 0, "nobody wants that any more");
    assert!(matches!(stage.containers().await[..], [(_, ContainerState::Running)]));
}

#[tokio::test]
async fn the_release_command_runs_for_a_rollback_and_new_variables_and_not_for_a_restart_or_another_scale() {
    let stage = Stage::new().await;
    for (again, times) in [(Again::Rollback, 1), (Again::Config, 1), (Again::Restart, 0), (Again::Scale, 0)] {
        let before = stage.calls("exec");
        stage.launch(again).await.unwrap();
        assert_eq!(stage.calls("exec") - before, times, "{again:?}");
    }
}

#[tokio::test]
async fn a_release_command_that_fails_without_a_word_is_said_to_have_printed_nothing() {
    let stage = Stage::new().await;
    let content = content(&[("release", "false"), ("web", "serve")]);
    let error = stage.launch_content(Again::Rollback, content).await.unwrap_err();
    assert_eq!(error.what, "the release command ended with status 1");
    assert_eq!(error.hints, ["it has printed nothing; the release that serves is left alone"]);
}

#[tokio::test]
async fn a_deploy_of_an_app_without_a_web_process_says_that_its_url_answers_nothing() {
    let stage = Stage::new().await;
    stage.launch_content(Again::Rollback, content(&[("worker", "work")])).await.unwrap();
    let (env, _) = stage.env().await;
    let why = "This app has no web process.".to_owned();
    assert_eq!(stage.door.target(&env.host), Some(Target::Unavailable { why }));
    insta::assert_snapshot!(stage.told(1).await, @r"
    -----> Launching
    -----> No web process runs: the URL answers nothing
    =====> Deployed
    http://shop-main.localhost
    ");
}

/// A deploy of a made-up commit, or of what serves when its turn has come.
async fn begin(stage: &Stage, again: Again, commit: Option<&str>) -> Ticket {
    let pushed = commit.is_some();
    let content = commit.map(|_| Box::new(content(&[("web", "serve")])));
    let commit = commit.map(|digit| CommitId::parse(&digit.repeat(40)).unwrap());
    let work = Work {
        source: Source::Again { commit, content, again },
        reason: "a test".to_owned(),
        by: "tester".to_owned(),
        no_cache: false,
        attached: pushed,
        push: None,
        together: None,
    };
    stage.env().await.1.deploy(work).await.unwrap()
}

async fn end(ticket: Ticket) -> Result<ReleaseNumber> {
    in_time("the end of a deploy", ticket.ended).await.unwrap().map(|deployed| deployed.release)
}

#[tokio::test]
async fn a_restart_waits_for_the_deploy_that_is_under_way_and_launches_what_that_made() {
    for first in [false, true] {
        let stage = Stage::new().await;
        if !first {
            end(begin(&stage, Again::Rollback, Some("a")).await).await.unwrap();
        }
        // Nothing answers, so that the deploy goes on.
        stage.engine.listen(vec![]);
        let pushed = begin(&stage, Again::Rollback, Some("b")).await;
        let overtaken = begin(&stage, Again::Config, None).await;
        let restart = begin(&stage, Again::Restart, None).await;
        let number = restart.release;
        stage.loft.reconcile().await.unwrap();
        let error = end(overtaken).await.unwrap_err();
        assert!(error.brief().contains(&format!("superseded by {number}")), "{}", error.brief());
        let runs = if first { "none" } else { "awake v1" };
        assert_eq!(stage.state().await, format!("{runs}, deploying {}", pushed.release));

        stage.engine.listen(vec![stage::web_server().await]);
        end(pushed).await.unwrap();
        assert_eq!(end(restart).await.unwrap(), number);
        assert_eq!(stage.state().await, format!("awake {number}"));
        let (env, _) = stage.env().await;
        let released = stage.store().release(env.id, number).await.unwrap().unwrap();
        assert_eq!(released.commit.unwrap().as_str(), "b".repeat(40));
        let said = stage.told(number.0).await;
        assert!(said.contains(&format!("Waiting until v{} is deployed", number.0 - 2)), "{said}");
    }
}

#[tokio::test]
async fn what_waits_goes_on_when_the_deploy_fails_and_ends_with_a_newer_one_or_the_environment() {
    let stage = Stage::new().await;
    end(begin(&stage, Again::Rollback, Some("a")).await).await.unwrap();
    let server = stage::web_server().await;
    stage.engine.listen(vec![]);
    let pushed = begin(&stage, Again::Rollback, Some("b")).await;
    let waits = begin(&stage, Again::Scale, None).await;
    let newer = begin(&stage, Again::Rollback, Some("c")).await;
    assert!(end(pushed).await.unwrap_err().brief().contains("superseded by v4"));
    stage.engine.listen(vec![server]);
    assert_eq!(end(newer).await.unwrap(), ReleaseNumber(4));
    assert!(end(waits).await.unwrap_err().brief().contains("superseded by v4"), "it is in there");

    stage.engine.listen(vec![]);
    let failing = begin(&stage, Again::Rollback, Some("d")).await;
    let waits = begin(&stage, Again::Restart, None).await;
    // Whoever pushed has gone away.
    drop(failing);
    stage.engine.listen(vec![server]);
    assert_eq!(end(waits).await.unwrap(), ReleaseNumber(6));

    stage.engine.listen(vec![]);
    let pushed = begin(&stage, Again::Rollback, Some("e")).await;
    let waits = begin(&stage, Again::Restart, None).await;
    stage.env().await.1.tell(Event::Destroy).await.unwrap();
    for ticket in [pushed, waits] {
        assert!(end(ticket).await.unwrap_err().brief().contains("was destroyed meanwhile"));
    }
}
