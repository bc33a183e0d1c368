//! With a real server. It takes some seconds to start, so a test asks much of one.

use std::collections::BTreeSet;

use flyloft_core::service::{Isolation, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::error::Error;
use crate::service::Secret;
use crate::service::own_server::{certificate, free_port, host_address};
use crate::service::rabbitmq_bench::{self as bench, PASSWORD};

fn server(url: &str) -> Server {
    let (url, password) = ServerUrl::parse(Kind::Rabbitmq, url).unwrap();
    Server { name: "mq".to_owned(), url, password: Secret(password), ca: None, beside: None }
}

fn label(name: &str) -> Label {
    Label { name: format!("flyloft_{name}"), text: format!("flyloft 1f3a9c flyloft_{name}"), number: None }
}

fn wanted(name: &str) -> Wanted {
    let (password, isolation) = (Secret("s3cret".to_owned()), Isolation::Usual);
    Wanted { label: label(name), password, connections: 2, isolation, taken: BTreeSet::new(), seed: None }
}

/// What people read.
async fn refusal(server: &Server) -> String {
    let error = Rabbitmq.check(server).await.unwrap_err();
    let ports = [(server.url.management_port(), "MANAGEMENT"), (server.url.port, "PORT")];
    let text = Error::from(error).text();
    ports.iter().fold(text, |text, (port, name)| text.replace(&port.to_string(), name))
}

/// As far as AMQP 0-9-1 goes until a virtual host is open, or the server has said why not. The connection is open as
/// long as it is kept.
async fn enter(rabbitmq: &bench::Rabbitmq, user: &str, vhost: &str) -> Result<tokio::net::TcpStream, String> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", rabbitmq.port)).await.unwrap();
    stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
    read(&mut stream).await?;
    // Start-Ok: no properties, PLAIN, and who it is.
    let who = format!("\0{user}\0s3cret");
    let mut start = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN".to_vec();
    start.extend((who.len() as u32).to_be_bytes());
    start.extend(who.as_bytes());
    start.extend(b"\x05en_US");
    send(&mut stream, &start).await;
    // Tune, and Tune-Ok with what is proposed: 2047 channels, 128 KiB, no heartbeat.
    read(&mut stream).await?;
    send(&mut stream, b"\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\0").await;
    // Open.
    let mut open = vec![0, 10, 0, 40, vhost.len() as u8];
    open.extend(vhost.as_bytes());
    open.extend([0, 0]);
    send(&mut stream, &open).await;
    read(&mut stream).await?;
    Ok(stream)
}

/// A frame of a method on channel 0.
async fn send(stream: &mut tokio::net::TcpStream, method: &[u8]) {
    let mut frame = vec![1, 0, 0];
    frame.extend((method.len() as u32).to_be_bytes());
    frame.extend(method);
    frame.push(0xce);
    stream.write_all(&frame).await.unwrap();
}

/// A method, unless that is Close, which says why.
async fn read(stream: &mut tokio::net::TcpStream) -> Result<(), String> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.map_err(|error| error.to_string())?;
    let length = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
    let mut method = vec![0; length + 1];
    stream.read_exact(&mut method).await.map_err(|error| error.to_string())?;
    if method[..4] == [0, 10, 0, 50] { Err(String::from_utf8_lossy(&method[6..]).into_owned()) } else { Ok(()) }
}

#[tokio::test]
async fn a_server_says_what_it_is_and_what_is_wrong_is_told_with_what_to_do() {
    let mut rabbitmq = bench::Rabbitmq::start();
    let well = server(&rabbitmq.url());
    assert_eq!(well.password.0, PASSWORD);
    let health = Rabbitmq.check(&well).await.unwrap();
    let (_, overview) = rabbitmq.api("GET", "overview?columns=rabbitmq_version", "");
    assert!(overview.contains(&format!("\"{}\"", health.version)), "{health:?} {overview}");
    assert_eq!((health.connections, health.max_connections), (0, None));

    for (name, tags) in [("weak", ""), ("weaker", "monitoring"), ("guest", "administrator")] {
        let body = format!(r#"{{"password": "x", "tags": "{tags}"}}"#);
        assert_eq!(rabbitmq.api("PUT", &format!("users/{name}"), &body).0, 201);
    }
    // Whom it knows by itself it lets in from its own machine alone, and here that comes from elsewhere.
    let host = host_address();
    let (port, management) = (rabbitmq.port, rabbitmq.management);
    let at = |who: &str, port: u16, management: u16| {
        server(&format!("amqp://{who}@127.0.0.1:{port}?management={management}"))
    };
    let mut told = String::new();
    for (who, port, management) in [
        ("admin:wrong", port, management),
        ("nobody:x", port, management),
        ("weak:x", port, management),
        ("weaker:x", port, management),
        // The wrong way round.
        ("weak:x", management, port),
        ("admin:wrong", port, free_port()),
    ] {
        told += &refusal(&at(who, port, management)).await.replace("Connection refused (os error 111)", "REFUSED");
    }
    let afar = server(&format!("amqp://guest:x@{host}:{port}?management={management}"));
    told += &refusal(&afar).await.replace(&host, "HOST");
    let closed = Server { url: ServerUrl { port: free_port(), ..well.url.clone() }, ..well.clone() };
    told += &refusal(&closed).await.replace("Connection refused (os error 111)", "REFUSED");
    let encrypted = Server { url: ServerUrl { tls: true, ..well.url.clone() }, ..well.clone() };
    told += &refusal(&encrypted).await;
    rabbitmq.stop();
    told += &refusal(&well).await.replace("Connection refused (os error 111)", "REFUSED");
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn an_encrypted_server_is_believed_if_who_signed_its_certificate_was_named() {
    let [key, right] = certificate("right", "IP:127.0.0.1");
    let [_, elsewhere] = certificate("elsewhere", "DNS:db.example.org");
    let rabbitmq = bench::Rabbitmq::start_encrypted(&key, &right);
    let plain = server(&rabbitmq.url());
    let named = |ca: &str| Server { ca: Some(ca.to_owned()), ..plain.clone() };
    Rabbitmq.check(&named(&right)).await.unwrap();
    let mut told = refusal(&plain).await + &refusal(&named(&elsewhere)).await;
    told += &refusal(&server(&rabbitmq.url().replace("amqps://", "amqp://"))).await;
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn an_environment_gets_a_virtual_host_that_nobody_else_enters_and_that_goes_with_who_is_in_it() {
    let rabbitmq = bench::Rabbitmq::start();
    let server = server(&rabbitmq.url());
    for name in ["one", "other"] {
        Rabbitmq.provide(&server, &wanted(name)).await.unwrap();
    }
    Rabbitmq.provide(&server, &wanted("one")).await.unwrap();
    assert_eq!(rabbitmq.left(), 4);
    let names = ["one", "elsewhere", "other"].map(|name| label(name).name);
    assert_eq!(Rabbitmq.lost(&server, &names).await.unwrap(), ["flyloft_elsewhere"]);
    let mut held = enter(&rabbitmq, "flyloft_one", "flyloft_one").await.unwrap();
    let refused = enter(&rabbitmq, "flyloft_one", "flyloft_other").await.unwrap_err();
    assert!(refused.contains("access to vhost 'flyloft_other' refused"), "{refused}");
    let refused = enter(&rabbitmq, "flyloft_one", "/").await.unwrap_err();
    assert!(refused.contains("access to vhost '/' refused"), "{refused}");
    let _second = enter(&rabbitmq, "flyloft_one", "flyloft_one").await.unwrap();
    let refused = enter(&rabbitmq, "flyloft_one", "flyloft_one").await.unwrap_err();
    assert!(refused.contains("connection limit (2) is reached"), "{refused}");
    for path in ["users", "vhosts/flyloft_other", "queues/flyloft_one"] {
        let (status, said) = rabbitmq.api_as("flyloft_one", "s3cret", "GET", path, "");
        assert_eq!(status, 401, "{path}: {said}");
    }

    for name in ["one", "other"] {
        let queue = format!("queues/flyloft_{name}/jobs");
        assert_eq!(rabbitmq.api("PUT", &queue, r#"{"durable": true}"#).0, 201);
    }
    Rabbitmq.renew(&server, &wanted("one")).await.unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), read(&mut held)).await;
    ended.expect("it is told, or cut").unwrap_err();
    let queues = ["one", "other"].map(|name| rabbitmq.api("GET", &format!("queues/flyloft_{name}/jobs"), "").0);
    assert_eq!(queues, [404, 200]);
    let mut held = enter(&rabbitmq, "flyloft_one", "flyloft_one").await.unwrap();

    Rabbitmq.remove(&server, &label("one")).await.unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), read(&mut held)).await;
    ended.expect("it is told, or cut").unwrap_err();
    assert_eq!(rabbitmq.left(), 2);
    Rabbitmq.remove(&server, &label("one")).await.unwrap();
    enter(&rabbitmq, "flyloft_other", "flyloft_other").await.unwrap();

    // What is not ours.
    assert_eq!(rabbitmq.api("PUT", "vhosts/flyloft_theirs", "{}").0, 201);
    assert_eq!(rabbitmq.api("PUT", "users/flyloft_payroll", r#"{"password": "x", "tags": "management"}"#).0, 201);
    let mut told = String::new();
    for name in ["theirs", "payroll"] {
        let refused = Rabbitmq.provide(&server, &wanted(name)).await.unwrap_err();
        assert!(matches!(refused.fault, Fault::Taken { .. }), "{refused}");
        let refused = Rabbitmq.remove(&server, &label(name)).await.unwrap_err();
        told += &Error::from(refused).text().replace(&rabbitmq.port.to_string(), "PORT");
    }
    assert_eq!(rabbitmq.left(), 4);
    insta::assert_snapshot!(told);

    // What was cut off in the middle, and two at once.
    let half = r#"{"description": "flyloft 1f3a9c flyloft_half"}"#;
    assert_eq!(rabbitmq.api("PUT", "vhosts/flyloft_half", half).0, 201);
    let wanted = wanted("half");
    for made in futures_util::future::join_all((0..3).map(|_| Rabbitmq.provide(&server, &wanted))).await {
        made.unwrap();
    }
    enter(&rabbitmq, "flyloft_half", "flyloft_half").await.unwrap();
}
