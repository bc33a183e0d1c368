//! What works for itself, and whom nobody visits.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::harness::{Flyloft, run, wait_for};
use crate::push::SERVER;

/// A public address, as a container sees it: of documentation, so that it is nobody's.
const PEER: &str = "203.0.113.77";
const PORT: u16 = 7007;

/// Takes all the processor that it gets, and has a peer outside with which it talks without end: by datagrams, which say how
/// many milliseconds of a processor it has taken, and over a connection on which the peer is the one that begins.
const WORKER: &str = r#"
import socket, threading, time
PEER = ("203.0.113.77", 7007)

def again(what):
    while True:
        try: what()
        except OSError: time.sleep(0.1)

def datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(1)
        while True:
            peer.sendto(str(int(time.process_time() * 1000)).encode(), PEER)
            peer.recv(100)
            time.sleep(0.01)

def connection():
    with socket.create_connection(PEER, 5) as peer:
        for line in peer.makefile("rb"): peer.sendall(line)

for what in [datagrams, connection]: threading.Thread(target=again, args=(what,)).start()
while True: pass
"#;

/// A host in another network namespace, which the containers reach by way of this one, and what it was told.
struct Peer {
    told: Arc<Told>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Told {
    over: AtomicBool,
    datagrams: AtomicU64,
    /// What the last of them says.
    worked: AtomicU64,
    lines: AtomicU64,
}

impl Told {
    /// Datagrams, milliseconds and lines.
    fn look(&self) -> [u64; 3] {
        [&self.datagrams, &self.worked, &self.lines].map(|count| count.load(Ordering::Relaxed))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl Peer {
    fn new() -> Self {
        gone();
        let ip = |command: &str| run(Command::new("ip").args(command.split(' ')));
        ip("netns add it-peer");
        ip("link add it-peer0 type veth peer name peer0 netns it-peer");
        ip("address add 198.18.8.1/24 dev it-peer0");
        ip("link set it-peer0 up");
        ip("-n it-peer address add 198.18.8.2/24 dev peer0");
        ip("-n it-peer link set peer0 up");
        ip("-n it-peer link set lo up");
        ip(&format!("-n it-peer address add {PEER}/32 dev lo"));
        // By way of another host: what is on a link of this one is closed to containers.
        ip(&format!("route add {PEER} via 198.18.8.2"));
        let space = File::open("/run/netns/it-peer").unwrap();
        let opened = || {
            setns(&space, CloneFlags::CLONE_NEWNET).unwrap();
            (UdpSocket::bind((PEER, PORT)).unwrap(), TcpListener::bind((PEER, PORT)).unwrap())
        };
        let (socket, listener) = std::thread::scope(|scope| scope.spawn(opened).join().unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let told = Arc::new(Told::default());
        let (one, other) = (told.clone(), told.clone());
        let threads = vec![
            std::thread::spawn(move || answer_datagrams(&socket, &one)),
            std::thread::spawn(move || talk_to_whoever_comes(&listener, &other)),
        ];
        Self { told, threads }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.told.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
        gone();
    }
}

fn gone() {
    let _ = Command::new("ip").args(["netns", "delete", "it-peer"]).output();
    let _ = Command::new("ip").args(["link", "delete", "it-peer0"]).output();
}

fn answer_datagrams(socket: &UdpSocket, told: &Told) {
    let mut datagram = [0; 100];
    while !told.is_over() {
        let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
        let worked = std::str::from_utf8(&datagram[..length]).unwrap().parse().unwrap();
        told.worked.store(worked, Ordering::Relaxed);
        told.datagrams.fetch_add(1, Ordering::Relaxed);
        let _ = socket.send_to(b"so it is", from);
    }
}

fn talk_to_whoever_comes(listener: &TcpListener, told: &Told) {
    while !told.is_over() {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while !told.is_over() && stream.get_mut().write_all(b"and this?\n").is_ok() {
                    match stream.read_line(&mut line) {
                        Ok(0) => break,
                        Ok(_) => told.lines.fetch_add(1, Ordering::Relaxed),
                        // It sleeps, and its kernel takes what it is told until its buffer is full.
                        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                        Err(_) => break,
                    };
                    line.clear();
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[test]
fn what_works_and_talks_to_others_without_end_falls_asleep_all_the_same_once_nobody_visits_it() {
    const ENV: &str = "it-busy/main";
    let (flyloft, peer) = (Flyloft::start(), Peer::new());
    let server = format!("VERSION = 'hello'\n{SERVER}");
    let files = [
        ("Procfile", "web: python3 server.py\nworker: python3 worker.py\n"),
        ("app.json", r#"{"formation": {"worker": {"quantity": 1}}}"#),
        ("requirements.txt", ""),
        ("server.py", &server),
        ("worker.py", WORKER),
    ];
    flyloft.repository("it-busy", &files).pushed(&["main"]);
    // What guests say at a port is counted; what is said here is not theirs.
    flyloft.ok(&["ports", "add", ENV, "5432"]);
    flyloft.ok(&["set", ENV, "idle=4s"]);
    assert_eq!(flyloft.get(ENV, "/").body, "hello");
    let before = peer.told.look();
    let asleep = || {
        let why = flyloft.why(ENV);
        // From then on it is frozen, and not only on the way there.
        let moved = ["compressed", "disk"].iter().any(|place| why["memory"][place].as_u64() > Some(0));
        (why["state"] == "asleep" && moved).then(|| peer.told.look())
    };
    let told = wait_for("it to fall asleep by itself", asleep);
    let [datagrams, worked, lines] = [0, 1, 2].map(|what| told[what] - before[what]);
    // For four seconds and longer, and it had a half of a processor at least on a machine that has next to nothing else to do.
    assert!(datagrams > 40 && lines > 40, "{datagrams} datagrams and {lines} lines");
    assert!(worked > 400, "it worked for {worked} ms");

    // What it had said before that is still on its way.
    let told = wait_for("it to say nothing more", || {
        let told = peer.told.look();
        std::thread::sleep(Duration::from_millis(300));
        (peer.told.look() == told).then_some(told)
    });
    // Nor does what the peer goes on to say wake it.
    for _ in 0..50 {
        assert_eq!(flyloft.why(ENV)["state"], "asleep");
    }
    assert_eq!(peer.told.look(), told, "it is not asleep");
    assert_eq!(flyloft.get(ENV, "/").body, "hello");
    wait_for("it to go on", || (peer.told.look()[0] > told[0] + 10).then_some(()));
    drop(peer);
    flyloft.ok(&["destroy", "it-busy", "--yes"]);
}
