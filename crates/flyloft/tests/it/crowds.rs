//! More visitors than there is room for, on a real machine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::harness::{Flyloft, available, wait_for};
use crate::push::{app, borrowed};

/// A server that takes as many connections at a time as come.
const BROAD: &str = r#"
import asyncio, os, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
async def serve(reader, writer):
    try:
        while (await reader.readuntil(b"\r\n\r\n")):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(serve, None, int(os.environ["PORT"]), backlog=4096)
    await server.serve_forever()
asyncio.run(main())
"#;

/// Bytes that the daemon holds, and the most that it has ever held.
fn memory(flyloft: &Flyloft) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", flyloft.pid())).unwrap();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    };
    (bytes("VmRSS"), bytes("VmHWM"))
}

/// What is answered to a request over an open connection.
async fn ask(mut stream: TcpStream, env: &str) -> String {
    let host = env.replace('/', "-");
    let request = format!("GET / HTTP/1.1\r\nHost: {host}.localhost\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    };
    match tokio::time::timeout(Duration::from_secs(60), asked).await {
        Ok(Ok(_)) => answer,
        Ok(Err(error)) => format!("{answer} and then: {error}"),
        Err(_) => format!("{answer} and then nothing"),
    }
}

fn is_clear(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: ")
}

/// A client at one of several addresses, of which none may have all of the room.
async fn connect(number: usize, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 2 + (number % 8) as u8), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// How many clients can come at a time, at most so many: a quarter of the daemon's descriptors are for them, and it has as
/// many as this process. The service has a million.
fn clients(most: usize) -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.max(6 * most as u64);
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted) {
        Ok(()) => most,
        // Where root may not have more than somebody has given it (CAP_SYS_RESOURCE).
        Err(error) => {
            let fewer = most.min(hard as usize / 5);
            eprintln!("WITH {fewer} CLIENTS INSTEAD OF {most}: {hard} descriptors are all that there are ({error})");
            fewer
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_to_a_sleeper_are_answered_or_told_to_come_back_and_others_are_served() {
    const COUNT: usize = 10_000;
    const ENV: &str = "it-crowd/main";
    let count = clients(COUNT);
    let flyloft = Flyloft::start();
    let mut files = app("hello");
    files[2].1 = BROAD.to_owned();
    flyloft.repository("it-crowd", &borrowed(&files)).pushed(&["main", "main:other"]);
    flyloft.ok(&["sleep", ENV]);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, flyloft.http));
    let (before, _) = memory(&flyloft);

    // Who says nothing makes way for who does.
    let mut silent = Vec::new();
    for number in 0..COUNT {
        silent.push(connect(number, address).await);
    }
    // While the last of them are on their way out, somebody may have to try again.
    let begun = Instant::now();
    while !ask(TcpStream::connect(address).await.unwrap(), "it-crowd/other").await.starts_with("HTTP/1.1 200 ") {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody else is let in");
    }
    assert_eq!(flyloft.why(ENV)["state"], "asleep", "somebody who said nothing woke it");
    drop(silent);

    let mut clients = Vec::new();
    for number in 0..count {
        clients.push(connect(number, address).await);
    }
    let mut asking = JoinSet::new();
    for client in clients {
        asking.spawn(ask(client, ENV));
    }
    let mut answers = Vec::new();
    while let Some(answer) = asking.join_next().await {
        answers.push(answer.unwrap());
        if answers.len().is_multiple_of(count / 10) {
            let answer = ask(TcpStream::connect(address).await.unwrap(), "it-crowd/other").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
    let unclear: Vec<_> = answers.iter().filter(|answer| !is_clear(answer)).collect();
    let well = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200 ")).count();
    let (_, most) = memory(&flyloft);
    eprintln!("{well} of {count} answered; the daemon held {} MiB before and {} at most", before >> 20, most >> 20);
    assert!(unclear.is_empty(), "{} of {count}, such as {:?}", unclear.len(), unclear[0]);
    assert!(well >= count / 10, "{well} were answered");
    assert!(most - before < count as u64 * (64 << 10), "{} MiB for {count} requests", (most - before) >> 20);
    wait_for("it to be awake", || (flyloft.why(ENV)["state"] == "awake").then_some(()));
    flyloft.ok(&["destroy", "it-crowd", "--yes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_wakes_on_a_machine_that_cannot_hold_them_all_is_answered_and_kills_nobody() {
    const COUNT: usize = 12;
    const EACH: u64 = 128 << 20;
    let mut flyloft = Flyloft::start();
    let mut files = app("hello");
    files[2].1 = format!("hog = bytearray(b'x') * (100 << 20)\n{}", files[2].1);
    let branches: Vec<String> = (0..COUNT).map(|number| format!("main:burst-{number}")).collect();
    let envs: Vec<String> = (0..COUNT).map(|number| format!("it-burst/burst-{number}")).collect();
    let repository = flyloft.repository("it-burst", &borrowed(&files));
    for some in branches.chunks(4) {
        repository.pushed(&some.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for env in &envs {
        flyloft.ok(&["sleep", env]);
    }
    let processes: Vec<_> = envs.iter().map(|env| flyloft.processes(env)).collect();
    flyloft.kill();
    // So that there is room for four, as long as nothing else on this machine takes or frees much.
    let reserve = available().saturating_sub(4 * EACH);
    flyloft.config = format!("[memory]\nreserve = \"{reserve}B\"\n");
    flyloft.serve();

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, flyloft.http));
    let mut asking = JoinSet::new();
    for env in envs.clone() {
        asking.spawn(async move { ask(TcpStream::connect(address).await.unwrap(), &env).await });
    }
    let answers = asking.join_all().await;
    let unclear: Vec<_> = answers.iter().filter(|answer| !is_clear(answer)).collect();
    assert!(unclear.is_empty(), "{unclear:#?}");
    for answer in answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 503 ")) {
        assert!(answer.contains("MiB of memory free") || answer.contains("is waking up"), "{answer}");
    }
    // One after the other all of them can wake, and none was killed meanwhile.
    for (env, before) in envs.iter().zip(processes) {
        wait_for("an answer", || (flyloft.get(env, "/").body == "hello").then_some(()));
        assert_eq!(flyloft.processes(env), before, "{env} was started anew");
        assert!(!flyloft.ok(&["logs", env]).contains("was killed"), "{env}");
    }
    flyloft.ok(&["destroy", "it-burst", "--yes"]);
}
