//! What comes to nginx over TLS: requests that hide others, streams that are taken back, and bodies whose end nobody has
//! said.

use super::abuse::SMUGGLED;
use super::secure::{HOST, Lock};
use super::*;
use crate::edge::embedded::tests::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Said, Speaker, frame, literal,
};
use crate::tls::trial::{CIPHERS, must_speak_well};

/// An app that tells of the head of each request that it reads, as HTTP/1.1 has it, and answers with that and with how
/// much came.
async fn telling() -> (App, mpsc::UnboundedReceiver<String>) {
    let (asked, asks) = mpsc::unbounded_channel();
    let serve = move |mut peer: Peer| {
        let asked = asked.clone();
        async move {
            loop {
                let head = peer.read_head().await;
                if head.is_empty() {
                    return;
                }
                let _ = asked.send(head.clone());
                let lower = head.to_ascii_lowercase();
                let length =
                    lower.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
                let got = match length {
                    Some(length) => peer.read_exact(length).await.len(),
                    None if lower.contains("\r\ntransfer-encoding: chunked\r\n") => read_chunks(&mut peer).await,
                    None => 0,
                };
                peer.reply(&format!("{head}got {got}")).await;
            }
        }
    };
    (App::start(serve).await, asks)
}

/// The length of a body in chunks.
async fn read_chunks(peer: &mut Peer) -> usize {
    let mut got = 0;
    loop {
        let line = peer.read_until("\r\n").await;
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("{line:?} is no size"));
        peer.read_exact(size + 2).await;
        if size == 0 {
            return got;
        }
        got += size;
    }
}

/// A site that speaks TLS, and goes straight to the app.
async fn straight(app: &App) -> Lock {
    let lock = Lock::new().await;
    lock.stage.route(HOST, app).await;
    lock.show(&["*.staging.test"]).await;
    lock.straight().await;
    lock
}

/// `:scheme https`, with this method and path.
fn head(method: &str, path: &str) -> Vec<u8> {
    [literal(":method", method), b"\x87".to_vec(), literal(":path", path), literal(":authority", HOST)].concat()
}

async fn speaker(lock: &Lock) -> Speaker {
    Speaker::over(Box::new(lock.offer(HOST, &["h2"]).await.unwrap())).await
}

/// What the app has read by the time that it has read one more request, which is this one's last line.
async fn seen(lock: &Lock, asks: &mut mpsc::UnboundedReceiver<String>, last: &str) -> Vec<String> {
    lock.curl(last, &["--http1.1"]).await;
    let mut seen = Vec::new();
    loop {
        let head = tokio::time::timeout(DEADLINE, asks.recv()).await.expect("the last one came").unwrap();
        if head.starts_with(&format!("GET {last} ")) {
            return seen;
        }
        seen.push(head);
    }
}

/// Each head is of nginx's making, and none is of a request that was hidden.
fn must_be_whole(what: &str, seen: &[String]) {
    for head in seen {
        let told = head.to_ascii_lowercase();
        let one =
            told.matches("\r\nx-forwarded-for: 127.0.0.1\r\n").count() == 1 && told.matches(" http/1.").count() == 1;
        assert!(one && !told.contains("\r\nx-hidden:") && !told.starts_with("get /hidden "), "{what}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_hides_in_another_one_over_tls() {
    let (app, mut asks) = telling().await;
    let lock = straight(&app).await;
    // Those that look like streams of events go by way of flyloft.
    for accept in ["*/*", "text/event-stream"] {
        for (number, smuggled) in SMUGGLED.into_iter().enumerate() {
            let hidden = format!("GET /hidden HTTP/1.1\nHost: {HOST}\n\n");
            let request = format!("POST /shown HTTP/1.1\nHost: {HOST}\nAccept: {accept}\n{smuggled}{hidden}");
            let mut client = Peer::over(lock.connect(HOST).await.unwrap());
            client.say(&request.replace('\n', "\r\n")).await;
            let first = client.read_head().await;
            assert!(first.starts_with("HTTP/1.1 "), "{smuggled}: {first}");
            drop(client);
            for head in seen(&lock, &mut asks, &format!("/last-{number}")).await {
                // One that nginx reads as two is two for the app as well, each with a head of nginx's making.
                let told = head.to_ascii_lowercase();
                assert!(told.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{accept} {number} {smuggled}: {head}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_hides_in_one_of_http_2() {
    let (app, mut asks) = telling().await;
    let lock = straight(&app).await;
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let post = |more: &[u8]| [head("POST", "/shown"), more.to_vec()].concat();
    let get = |name: &str, value: &str| [head("GET", "/shown"), literal(name, value)].concat();
    let body = format!("0\r\n\r\n{hidden}");
    let (body, hidden) = (body.as_str(), hidden.as_str());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a coding of HTTP/1", post(&literal("transfer-encoding", "chunked")), body),
        ("a body that looks like chunks", post(b""), body),
        ("a length that is too short", post(&literal("content-length", "2")), hidden),
        ("a length that is none", post(&literal("content-length", "+2")), hidden),
        ("two lengths", post(&[literal("content-length", "2"), literal("content-length", "90")].concat()), hidden),
        ("a line in a value", get("x-shop", "1\r\nx-hidden: 2"), ""),
        ("a request in a value", get("x-shop", "1\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a"), ""),
        ("a line in a name", get("x-shop: 1\r\nx-hidden", "2"), ""),
        ("a line in a cookie", get("cookie", "a=b\r\nx-hidden: 2"), ""),
        ("a request in a path", head("GET", "/shown HTTP/1.1\r\nx-hidden: 2\r\n\r\nGET /hidden"), ""),
        ("a request in a method", head("GET /hidden HTTP/1.1\r\nx-hidden: 2\r\n\r\nGET", "/shown"), ""),
        ("another host", get("host", "a.test\r\nx-hidden: 2"), ""),
        ("an upgrade", get("upgrade", "websocket"), ""),
    ];
    for (accept, way) in [("*/*", "straight"), ("text/event-stream", "by way of flyloft")] {
        for (number, (what, head, body)) in cases.iter().enumerate() {
            let head = [&head[..], &literal("accept", accept)].concat();
            let end = if body.is_empty() { END_STREAM } else { 0 };
            let mut frames = frame(HEADERS, END_HEADERS | end, 1, &head);
            if !body.is_empty() {
                frames.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
            }
            let mut speaker = speaker(&lock).await;
            speaker.say(&frames).await;
            speaker.hear().await;
            must_be_whole(&format!("{what}, {way}"), &seen(&lock, &mut asks, &format!("/last-{number}")).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_streams_and_takes_them_back_wears_out_neither_nginx_nor_an_app() {
    let (app, mut asks) = telling().await;
    let lock = straight(&app).await;
    while asks.try_recv().is_ok() {}
    let (get, takes_back) = (head("GET", "/"), 8_u32.to_be_bytes());
    let opens = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &get);
    let streams = (0..20_000).map(|number| 2 * number + 1);
    let rapid: Vec<u8> =
        streams.flat_map(|stream| [opens(stream), frame(RST_STREAM, 0, stream, &takes_back)].concat()).collect();
    let mut speaker = speaker(&lock).await;
    speaker.say(&rapid).await;
    let said = loop {
        match speaker.hear().await {
            Said::Answer(..) | Said::Reset(..) => {}
            said => break said,
        }
    };
    assert!(matches!(said, Said::GoAway(_) | Said::Closed), "{said:?}");
    let count = seen(&lock, &mut asks, "/last").await.len();
    assert!(count < 2_000, "the app was asked {count} times");
    let other = lock.curl("/", &["--http2"]).await;
    assert!(other.starts_with("HTTP/2 200 "), "others are served: {other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_weak_cipher_is_spoken() {
    let lock = Lock::new().await;
    let names = ["*.staging.test"];
    for (issued, ciphers) in [lock.authority.issue(&names), lock.authority.issue_rsa(&names).await].iter().zip(CIPHERS)
    {
        lock.certificates.set([&issued.pair()]);
        lock.shows(issued).await;
        must_speak_well(lock.port, HOST, ciphers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_straight_whether_its_length_is_known_or_not() {
    const SIZE: usize = 8 << 20;
    let (app, _asks) = telling().await;
    let lock = straight(&app).await;
    let file = lock.stage.site.path("upload");
    std::fs::write(&file, vec![b'x'; SIZE]).unwrap();
    let file = file.display().to_string();
    let length = format!("\nContent-Length: {SIZE}\n");
    for (http, spoken) in [("--http1.1", "HTTP/1.1 200 "), ("--http2", "HTTP/2 200 ")] {
        // curl does not know how long a pipe is.
        for (what, said) in [("FILE", length.as_str()), ("-", "\nTransfer-Encoding: chunked\n")] {
            let what = what.replace("FILE", &file);
            let answer = lock.curl_with("/upload", &[http, "--upload-file", &what], vec![b'x'; SIZE]).await;
            assert!(answer.contains(spoken), "{http} {what}: {answer}");
            let is_straight = answer.contains("\nX-Forwarded-For: 127.0.0.1\n");
            assert!(is_straight && answer.contains(said), "{http} {what}: {answer}");
            assert!(answer.ends_with(&format!("got {SIZE}")), "{http} {what}: {answer}");
        }
    }
}
