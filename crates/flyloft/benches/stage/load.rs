//! Load on one environment, to see whether any request fails.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

/// For how long it asks, and for how long it does not.
#[derive(Clone, Copy)]
pub struct Rhythm {
    pub burst: Duration,
    pub pause: Duration,
}

/// How many requests were answered with 200, and how many were not.
#[derive(Default)]
pub struct Outcome {
    pub well: u64,
    pub failed: u64,
    pub longest: Duration,
}

impl Load {
    /// A request every few milliseconds, each on a connection of its own.
    pub fn start(port: u16, name: &str) -> Self {
        Self::in_bursts(port, name, Rhythm { burst: Duration::MAX, pause: Duration::ZERO })
    }

    /// The same, with pauses.
    pub fn in_bursts(port: u16, name: &str, rhythm: Rhythm) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, host) = (stop.clone(), format!("{name}.localhost:{port}"));
        let thread = std::thread::spawn(move || {
            let (mut outcome, mut burst) = (Outcome::default(), Instant::now());
            while !flag.load(Ordering::Relaxed) {
                if burst.elapsed() >= rhythm.burst {
                    std::thread::sleep(rhythm.pause);
                    burst = Instant::now();
                }
                let begun = Instant::now();
                match ask(port, &host) {
                    Ok(true) => outcome.well += 1,
                    _ => outcome.failed += 1,
                }
                outcome.longest = outcome.longest.max(begun.elapsed());
                std::thread::sleep(Duration::from_millis(3));
            }
            outcome
        });
        Self { stop, thread }
    }

    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn ask(port: u16, host: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.starts_with("HTTP/1.1 200 "))
}
