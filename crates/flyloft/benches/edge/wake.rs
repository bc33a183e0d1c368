//! How long the edge itself takes of a wake: from the moment that it is told where an environment answers to the first
//! byte of the request that waited, at the app. The floor is a thread that is told, connects and writes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flyloft::edge::embedded::{EdgeConfig, Embedded};
use flyloft::edge::{Edge, Route, Target};
use flyloft_core::name::EnvRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Environments beside the one that wakes.
pub const OTHERS: usize = 1_000;

/// Of all rounds, in microseconds.
pub struct Took {
    pub p50: f64,
    pub p99: f64,
}

pub async fn edge(host: &str, threads: usize, rounds: usize) -> Result<Took> {
    let mut config = EdgeConfig::new(["127.0.0.1:0".parse::<SocketAddr>()?]);
    config.threads = threads;
    let edge = Embedded::open(config)?;
    let (app, first_bytes) = app()?;
    let route = |target| -> Result<Route> { Ok(Route::public(EnvRef::parse("shop/main")?, target)) };
    for other in 0..OTHERS {
        edge.set(&format!("other-{other}.test"), route(Target::Held { failure: None })?).await?;
    }
    let mut took = Vec::new();
    for _ in 0..rounds {
        edge.set(host, route(Target::Held { failure: None })?).await?;
        let mut client = TcpStream::connect(edge.addresses()[0]).await?;
        client.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        while edge.usage(host).is_none_or(|usage| usage.waiting == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begin = Instant::now();
        edge.set(host, route(Target::Upstream(app))?).await?;
        client.read_to_end(&mut Vec::new()).await?;
        took.push((first_bytes.recv()? - begin).as_secs_f64() * 1e6);
    }
    Took::of(took)
}

pub fn floor(rounds: usize) -> Result<Took> {
    let (app, first_bytes) = app()?;
    let (go, told) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        while told.recv().is_ok() {
            let Ok(mut stream) = std::net::TcpStream::connect(app) else { continue };
            let _ = stream.set_nodelay(true);
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let mut took = Vec::new();
    for _ in 0..rounds {
        // As in a round of the edge, it has been waiting for a while.
        std::thread::sleep(Duration::from_millis(2));
        let begin = Instant::now();
        go.send(())?;
        took.push((first_bytes.recv()? - begin).as_secs_f64() * 1e6);
    }
    Took::of(took)
}

impl Took {
    fn of(mut took: Vec<f64>) -> Result<Self> {
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().context("no rounds");
        Ok(Self { p50: at(0.5)?, p99: at(0.99)? })
    }
}

/// An app on a thread of its own, and when it read the first byte of each request.
fn app() -> Result<(SocketAddr, mpsc::Receiver<Instant>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (tell, first_bytes) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
                let _ = tell.send(Instant::now());
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            }
        }
    });
    Ok((address, first_bytes))
}
