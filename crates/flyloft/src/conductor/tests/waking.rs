//! Wakes as visitors see them, and of what does not answer, or not any more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;
use crate::loft::stage::{in_time, serve, web_server};

/// How long the app of a test takes over an answer.
const PAUSE: Duration = Duration::from_millis(80);

/// An environment with visitors from outside, which sleeps. Its app answers after [`PAUSE`], but for `/never`, of which it
/// tells instead.
async fn visited() -> (Stage, EnvRow, SocketAddr, Arc<Notify>) {
    let stage = Stage::under(Policy::default()).await;
    let outside = stage.open();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    stage.engine.listen(vec![listener.local_addr().unwrap()]);
    let asked = Arc::new(Notify::new());
    let told = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut head = [0; 1024];
                let count = stream.read(&mut head).await.unwrap_or(0);
                if head[..count].starts_with(b"GET /never ") {
                    told.notify_one();
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(PAUSE).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            });
        }
    });
    stage.deploy().await.unwrap();
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    (stage, env, outside, asked)
}

async fn ask(outside: SocketAddr, env: &EnvRow, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(outside).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", env.host);
    client.write_all(head.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn a_wake_lasts_until_its_visitor_has_an_answer_and_each_part_of_that_is_on_record() {
    let (stage, env, outside, _) = visited().await;
    let asked = Instant::now();
    let mut answer = String::new();
    ask(outside, &env, "/cart").await.read_to_string(&mut answer).await.unwrap();
    let took = asked.elapsed();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let is_seen = async || stage.woken(&env).await.seen.answered.is_some();
    stage.wait_until("the answer is on record", is_seen).await;
    let wake = stage.woken(&env).await;
    let SeenRow { passed, connected, answered, prefetched, released } = wake.seen;
    assert_eq!(wake.by, "GET /cart from 127.0.0.1");
    assert!(answered.unwrap() >= PAUSE && passed.unwrap() + connected.unwrap() < wake.total - PAUSE, "{wake:?}");
    assert!(prefetched.is_some() && released.is_none(), "the engine in memory holds nobody back: {wake:?}");
    let parts = [wake.admitted, wake.queued, wake.started, wake.ready, passed.unwrap(), connected.unwrap()];
    let sum = parts.iter().sum::<Duration>() + answered.unwrap();
    // Each is cut to whole microseconds.
    assert!(wake.total - sum < Duration::from_micros(10) && wake.total <= took, "{sum:?}, {took:?}: {wake:?}");
    let counts = stage.loft.parts.tally.counts().remove(&env.name.app).unwrap();
    assert!(counts.woken == 1 && (counts.waking - wake.total.as_secs_f64()).abs() < 1e-5, "{counts:?}");
}

#[tokio::test]
async fn a_wake_whose_visitor_goes_without_an_answer_ends_with_what_is_known() {
    let (stage, env, outside, asked) = visited().await;
    let client = ask(outside, &env, "/never").await;
    in_time("the app to be asked", asked.notified()).await;
    let ready = stage.woken(&env).await;
    assert_eq!((ready.seen, &ready.failure), (SeenRow::default(), &None), "it is on record before there is an answer");
    let count = || stage.loft.parts.tally.counts()[&env.name.app].woken;
    assert_eq!(count(), 0, "it has not come to its end");
    drop(client);
    stage.wait_until("the end of the wake", async || stage.woken(&env).await.seen.connected.is_some()).await;
    let over = stage.woken(&env).await;
    assert_eq!((over.seen.answered, over.total, count()), (None, ready.total, 1));
}

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

#[tokio::test]
async fn who_waits_is_told_what_for_step_by_step() {
    let (stage, _, busy) = deployed(Policy::default()).await;
    let (_, waking) = another_asleep(&stage).await;
    let _in_use = busy.begin_use("`flyloft run` by ada");
    let told = async || std::mem::take(&mut *stage.door.explained.lock().unwrap());
    waking.visit("GET /").await;
    stage.wait_until("it waits for memory", async || !stage.door.explained.lock().unwrap().is_empty()).await;
    assert_eq!(told().await, ["It waits until this machine has memory for it."]);
    stage.machine.lock().unwrap().available = 1 << 40;
    waking.wake("alice").await.unwrap();
    assert_eq!(waking.settled().await.to_string(), "awake v1");
    assert_eq!(told().await, ["It was asleep, and its memory is being brought back."]);

    waking.tell(Event::Off).await.unwrap();
    waking.at_rest().await.unwrap();
    stage.engine.listen(vec![]);
    waking.visit("GET /").await;
    let is_started = async || stage.door.explained.lock().unwrap().len() == 4;
    stage.wait_until("it has been started", is_started).await;
    let (start, turn) = ("It is being started.", "It waits until others have started.");
    assert_eq!(told().await, [start, turn, start, "It has been started, and does not answer yet."]);
    stage.engine.listen(vec![web_server().await]);
    assert_eq!(waking.settled().await.to_string(), "awake v1");
}
