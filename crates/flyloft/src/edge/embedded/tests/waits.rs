//! Requests of every kind that wait for an environment, and how much room they take.

use bytes::Bytes;
use http_body_util::{Empty, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::super::Room;
use super::*;

const ASK: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";

fn with_spots(held: usize, held_for_one: usize) -> impl FnOnce(&mut EdgeConfig) {
    move |config| {
        let room = Room { connections: 20_000, of_one: 20_000, memory: 1 << 30, ..Room::here() };
        config.room = Room { lines: 1_000, lines_of_one: 1_000, held, held_for_one, ..room };
    }
}

async fn http2<B>(stage: &Stage) -> http2::SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
{
    let stream = TokioIo::new(stage.connect().await.stream);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(host: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://{host}/")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_body_is_not_asked_for_before_the_environment_is_awake() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(async |mut peer: Peer| {
        peer.read_head().await;
        let body = peer.read_exact(5).await;
        peer.reply(&body).await;
    })
    .await;
    let mut client = stage.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    visitors.recv().await.unwrap();
    stage.waiting(1).await;
    let open = client.stream.try_read(&mut [0]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock, "it was told to send");
    stage.route("shop.test", app.address).await;
    assert_eq!(client.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("hello").await;
    assert!(client.read_answer().await.ends_with("hello"));
}

#[tokio::test]
async fn an_upload_that_has_begun_arrives_whole() {
    const SIZE: usize = 4 << 20;
    let (stage, _visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(async |mut peer: Peer| {
        peer.read_head().await;
        let body = peer.read_exact(SIZE).await;
        assert!(body.bytes().all(|byte| byte == b'x'));
        peer.reply("all of it").await;
    })
    .await;
    let mut client = stage.connect().await;
    client.say(&format!("PUT / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    let body = vec![b'x'; SIZE];
    client.stream.write_all(&body[..1000]).await.unwrap();
    stage.waiting(1).await;
    // It takes in no more than the buffers of the sockets hold.
    let mut sent = 1000;
    while sent < SIZE
        && let Ok(count) = client.stream.try_write(&body[sent..])
    {
        sent += count;
    }
    stage.route("shop.test", app.address).await;
    client.stream.write_all(&body[sent..]).await.unwrap();
    assert!(client.read_answer().await.ends_with("all of it"));
}

#[tokio::test]
async fn a_head_request_waits_and_its_answer_has_no_body() {
    let (stage, _visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(async |mut peer: Peer| {
        assert!(peer.read_head().await.starts_with("HEAD "));
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        peer.read_head().await;
    })
    .await;
    let mut client = stage.connect().await;
    client.say("HEAD / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").await;
    stage.waiting(1).await;
    stage.route("shop.test", app.address).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_websocket_is_opened_once_the_environment_is_awake() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(async |mut peer: Peer| {
        assert!(peer.read_head().await.contains("\r\nupgrade: websocket\r\n"));
        peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let word = peer.read_until("\n").await;
        peer.say(&word).await;
    })
    .await;
    let mut client = stage.connect().await;
    client
        .say("GET /live HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n")
        .await;
    assert_eq!(visitors.recv().await.unwrap().by, "GET /live from 127.0.0.1");
    stage.waiting(1).await;
    stage.route("shop.test", app.address).await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(client.read_until("\n").await, "hello\n");
}

#[tokio::test]
async fn requests_of_http_2_wait_beside_each_other() {
    let (stage, _visitors) = Stage::asleep(|_| {}).await;
    let other = App::start(echo_head).await;
    stage.route("other.test", other.address).await;
    let mut sender = http2(&stage).await;
    let waiting: Vec<_> = (0..5).map(|_| tokio::spawn(sender.send_request(get("shop.test")))).collect();
    stage.waiting(5).await;
    let answer = sender.send_request(get("other.test")).await.unwrap();
    assert_eq!(answer.status(), 200, "it waits for others on its connection");
    let app = App::start(echo_head).await;
    stage.route("shop.test", app.address).await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_client_that_only_shuts_its_sending_side_waits_on() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let mut client = stage.connect().await;
    client.say(ASK).await;
    client.stream.shutdown().await.unwrap();
    visitors.recv().await.unwrap();
    stage.waiting(1).await;
    let app = App::start(echo_head).await;
    stage.route("shop.test", app.address).await;
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let (stage, _visitors) = Stage::asleep(|config| config.limits.half_closed = Duration::from_millis(50)).await;
    let pipelined = format!("{ASK}{ASK}");
    for request in [
        ASK,
        &pipelined,
        "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
    ] {
        let mut client = stage.connect().await;
        client.say(request).await;
        stage.waiting(1).await;
        drop(client);
        stage.waiting(0).await;
    }
    let mut sender = http2(&stage).await;
    let asked = tokio::spawn(sender.send_request(get("shop.test")));
    stage.waiting(1).await;
    asked.abort();
    stage.waiting(0).await;
}

#[tokio::test]
async fn more_than_there_is_room_for_are_told_at_once() {
    let (stage, _visitors) = Stage::asleep(with_spots(3, 2)).await;
    stage.hold("other.test", None).await;
    let mut clients = Vec::new();
    for (host, fits) in [("shop", true), ("shop", true), ("shop", false), ("other", true), ("other", false)] {
        let mut client = stage.connect().await;
        let before = stage.edge.usage(&format!("{host}.test")).unwrap().waiting;
        client.say(&format!("GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n")).await;
        if fits {
            let waiting = || stage.edge.usage(&format!("{host}.test")).unwrap().waiting;
            eventually("it waits", || waiting() == before + 1).await;
        } else {
            let answer = client.read_answer().await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\nretry-after: 5\n"), "{answer}");
            assert!(answer.contains("many wait"), "{answer}");
        }
        clients.push(client);
    }
    let browser = "GET / HTTP/1.1\nHost: shop.test\nAccept: text/html\n\n";
    assert!(stage.ask(browser).await.contains("<meta http-equiv=\"refresh\" content=\"5\">"));
    // Whoever goes makes room.
    clients.remove(0);
    stage.waiting(1).await;
    let mut client = stage.connect().await;
    client.say(ASK).await;
    stage.waiting(2).await;
}

#[tokio::test]
async fn an_upload_of_http_2_takes_the_room_that_its_bytes_may_take() {
    // One spot for the head and four for a window of 64 KiB.
    let (stage, _visitors) = Stage::asleep(with_spots(1000, 9)).await;
    let mut sender = http2(&stage).await;
    let upload = || {
        let never = futures_util::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>();
        let body = StreamBody::new(never);
        Request::post("http://shop.test/").body(body).unwrap()
    };
    let first = tokio::spawn(sender.send_request(upload()));
    stage.waiting(1).await;
    assert_eq!(sender.send_request(upload()).await.unwrap().status(), 503);
    first.abort();
    stage.waiting(0).await;
}

#[tokio::test]
async fn a_crowd_that_waits_for_one_host_does_not_shut_the_door_for_others() {
    let room = Room { connections: 64, of_one: 64, lines: 16, lines_of_one: 16, ..Room::here() };
    let room = Room { held: 32, held_for_one: 8, ..room };
    let (stage, _visitors) = Stage::asleep(|config| config.room = room).await;
    let app = App::start(echo_head).await;
    stage.route("other.test", app.address).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut client = stage.connect().await;
        // Who is refused, or had to go at once, cannot ask anything.
        let _ = client.stream.write_all(ASK.as_bytes()).await;
        crowd.push(client);
    }
    stage.waiting(8).await;
    let begin = std::time::Instant::now();
    loop {
        let mut client = stage.connect().await;
        let _ = client.stream.write_all(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n").await;
        if client.read_head().await.starts_with("HTTP/1.1 200 OK\r\n") {
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "nobody else is let in");
    }
    stage.route("shop.test", app.address).await;
    let mut answered = 0;
    for client in &mut crowd {
        answered += usize::from(client.read_head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    // Others, whose requests were still to be read when it woke, may be answered too.
    assert!(answered >= 8, "those who waited are answered: {answered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_that_wait_for_one_host_leave_another_served() {
    let (stage, _visitors) = Stage::asleep(with_spots(10_000, 10_000)).await;
    let app = App::start(echo_head).await;
    stage.route("other.test", app.address).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut sender = http2(&stage).await;
        for _ in 0..100 {
            waiting.spawn(sender.send_request(get("shop.test")));
        }
    }
    stage.waiting(10_000).await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: other.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\n"), "{answer}");
    assert!(stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.contains("many wait"));
    stage.hold("shop.test", Some("It did not answer.")).await;
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), 503);
    }
}
