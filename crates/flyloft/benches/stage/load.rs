//! Constant load on one environment, to see whether any request fails.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Load {
    /// A request every few milliseconds, each on a connection of its own.
    pub fn start(port: u16, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, host) = (stop.clone(), format!("{name}.localhost:{port}"));
        let thread = std::thread::spawn(move || {
            let (mut well, mut failed) = (0, 0);
            while !flag.load(Ordering::Relaxed) {
                match ask(port, &host) {
                    Ok(true) => well += 1,
                    _ => failed += 1,
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            (well, failed)
        });
        Self { stop, thread }
    }

    /// How many requests were answered with 200, and how many were not.
    pub fn stop(self) -> (u64, u64) {
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
