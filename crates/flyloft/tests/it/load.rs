//! Clients that ask without a pause, and notice whatever goes wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What came of all requests.
#[derive(Default)]
pub struct Outcome {
    pub well: u64,
    /// What went wrong with the others.
    pub failures: Vec<String>,
    pub longest: Duration,
}

pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Outcome>>,
}

impl Load {
    /// One client keeps its connection for as long as the edge does, the other opens one for each request.
    pub fn start(port: u16, host: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |keep| {
            let (stop, host) = (stop.clone(), host.to_owned());
            std::thread::spawn(move || ask_again_and_again(port, &host, keep, &stop))
        };
        let clients = vec![client(true), client(false)];
        Self { stop, clients }
    }

    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let outcomes = self.clients.into_iter().map(|client| client.join().unwrap());
        outcomes.fold(Outcome::default(), |sum, one| Outcome {
            well: sum.well + one.well,
            failures: [sum.failures, one.failures].concat(),
            longest: sum.longest.max(one.longest),
        })
    }
}

/// Whether a request on a connection of its own is answered with 200.
pub fn ask(port: u16, host: &str) -> io::Result<bool> {
    let (well, _) = ask_over(&mut connect(port)?, host, false)?;
    Ok(well)
}

fn ask_again_and_again(port: u16, host: &str, keep: bool, stop: &AtomicBool) -> Outcome {
    let (mut outcome, mut kept) = (Outcome::default(), None);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = kept.take().map_or_else(|| connect(port), Ok).and_then(|mut connection| {
            let (well, stays) = ask_over(&mut connection, host, keep)?;
            kept = Some(connection).filter(|_| stays);
            Ok(well)
        });
        match answer {
            Ok(true) => outcome.well += 1,
            other => outcome.failures.push(format!("request {} of a client: {other:?}", outcome.well)),
        }
        outcome.longest = outcome.longest.max(begun.elapsed());
    }
    outcome
}

fn connect(port: u16) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Whether the answer is 200, and whether the connection stays open.
fn ask_over(stream: &mut BufReader<TcpStream>, host: &str, keep: bool) -> io::Result<(bool, bool)> {
    let closes = if keep { "" } else { "Connection: close\r\n" };
    stream.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{closes}\r\n").as_bytes())?;
    let (mut head, mut length, mut stays) = (String::new(), 0, keep);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        length = lower.strip_prefix("content-length: ").map_or(length, |text| text.trim().parse().unwrap_or(0));
        stays &= lower.trim() != "connection: close";
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head.starts_with("HTTP/1.1 200 "), stays))
}
