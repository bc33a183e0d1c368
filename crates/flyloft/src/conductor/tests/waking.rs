//! Wakes of what does not answer, or not any more.

use super::*;
use crate::loft::stage::{serve, web_server};

#[tokio::test]
async fn what_never_answers_keeps_nobody_else_from_starting() {
    let stage = Stage::under(Policy::default()).await;
    let mut conductors = Vec::new();
    for number in 0..5 {
        let (_, conductor) = stage.branch(&format!("mute-{number}")).await;
        stage.launch_in(&conductor, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
        conductor.tell(Event::Off).await.unwrap();
        conductor.at_rest().await.unwrap();
        conductors.push(conductor);
    }
    stage.engine.listen(vec![]);
    let starts = stage.calls("start");
    for conductor in &conductors {
        conductor.wake("alice").await.unwrap();
    }
    stage.wait_until("some are started", async || stage.calls("start") - starts == 4).await;
    // Long before the first of them are given up, which is after a minute.
    stage.wait_until("the last one is started", async || stage.calls("start") - starts == 5).await;
    stage.engine.listen(vec![web_server().await]);
    for conductor in conductors {
        assert_eq!(conductor.settled().await.to_string(), "awake v1");
    }
}

/// A server that can end.
async fn mortal_server(stage: &Stage) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    stage.engine.listen(vec![listener.local_addr().unwrap()]);
    tokio::spawn(serve(listener))
}

#[tokio::test]
async fn an_app_that_is_gone_when_it_is_thawed_is_started_before_anybody_gets_through() {
    let stage = Stage::under(Policy::default()).await;
    let server = mortal_server(&stage).await;
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    server.abort();
    let _ = server.await;
    let next = web_server().await;
    stage.engine.listen(vec![next]);
    let starts = stage.calls("start");
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    stage.wait_until("routed", async || stage.serves(&env)).await;
    let Some(Target::Upstream(upstream)) = stage.door.target(&env.host) else { panic!("not routed") };
    assert_eq!((upstream.port(), stage.calls("start") - starts), (next.port(), 1));
}

#[tokio::test]
async fn an_app_that_was_killed_while_it_was_frozen_is_started_anew_though_it_still_listens() {
    let (stage, env, conductor) = deployed(Policy::default()).await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    stage.engine.doom(&env.live.unwrap().container);
    let [starts, stops] = [stage.calls("start"), stage.calls("stop")];
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    assert_eq!([stage.calls("start") - starts, stage.calls("stop") - stops], [1, 1]);
    assert!(stage.is(ContainerState::Running).await);
}
