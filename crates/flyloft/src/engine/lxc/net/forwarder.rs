//! Carries questions for names from containers to resolvers that address translation does not reach: those that listen
//! on the host's loopback interface alone, and those that have no IPv4 address.
//!
//! Questions and answers are bytes here; nothing is looked at. How many are under way is bounded, since containers are
//! not to be trusted; a question too many is dropped, and whoever asked asks again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Bound on this machine's loopback interface; see [`super::ruleset::RESOLVERS`].
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Questions under way at a time.
const QUESTIONS: usize = 256;

/// Bytes of an answer: what resolvers send over UDP at most, as far as they are set up as usual.
const LONGEST: usize = 4096;

/// How long a resolver may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a TCP connection may last.
const CONVERSATION: Duration = Duration::from_secs(30);

/// Runs until it is dropped.
pub struct Forwarder {
    resolvers: Vec<IpAddr>,
    port: u16,
    _tasks: JoinSet<()>,
}

impl Forwarder {
    /// Takes questions over UDP and TCP, at the same port.
    pub async fn start(resolvers: &[IpAddr]) -> io::Result<Self> {
        let (tcp, udp, port) = listen().await?;
        let targets: Arc<[SocketAddr]> = resolvers.iter().map(|address| SocketAddr::new(*address, 53)).collect();
        let limit = Arc::new(Semaphore::new(QUESTIONS));
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(Arc::new(udp), targets.clone(), limit.clone()));
        tasks.spawn(connections(tcp, targets, limit));
        Ok(Self { resolvers: resolvers.to_owned(), port, _tasks: tasks })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn resolvers(&self) -> &[IpAddr] {
        &self.resolvers
    }
}

/// A port that is free for both protocols. The kernel chooses for one; that it is taken for the other is bad luck.
async fn listen() -> io::Result<(TcpListener, UdpSocket, u16)> {
    let mut tries = 8;
    loop {
        let tcp = TcpListener::bind((ADDRESS, 0)).await?;
        let port = tcp.local_addr()?.port();
        match UdpSocket::bind((ADDRESS, port)).await {
            Ok(udp) => return Ok((tcp, udp, port)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => tries -= 1,
            Err(error) => return Err(error),
        }
    }
}

async fn datagrams(udp: Arc<UdpSocket>, resolvers: Arc<[SocketAddr]>, limit: Arc<Semaphore>) {
    let mut under_way = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        while under_way.try_join_next().is_some() {}
        // An error here is that of an earlier answer, which could not be delivered.
        let Ok((count, asker)) = udp.recv_from(&mut buffer).await else { continue };
        let Ok(permit) = limit.clone().try_acquire_owned() else { continue };
        let (udp, resolvers, question) = (udp.clone(), resolvers.clone(), buffer[..count].to_vec());
        under_way.spawn(async move {
            if let Some(answer) = ask(&question, &resolvers).await {
                let _ = udp.send_to(&answer, asker).await;
            }
            drop(permit);
        });
    }
}

/// The answer of the first resolver that gives one.
async fn ask(question: &[u8], resolvers: &[SocketAddr]) -> Option<Vec<u8>> {
    for resolver in resolvers {
        if let Ok(Ok(answer)) = timeout(PATIENCE, ask_one(question, *resolver)).await {
            return Some(answer);
        }
    }
    None
}

async fn ask_one(question: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(question).await?;
    let mut answer = vec![0; LONGEST];
    let count = socket.recv(&mut answer).await?;
    answer.truncate(count);
    Ok(answer)
}

async fn connections(tcp: TcpListener, resolvers: Arc<[SocketAddr]>, limit: Arc<Semaphore>) {
    let mut under_way = JoinSet::new();
    loop {
        while under_way.try_join_next().is_some() {}
        // Waiting for a permit here would let whoever connects first keep all others out for long.
        let Ok((mut asker, _)) = tcp.accept().await else {
            // Out of files, most likely: trying again at once would only burn time.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = limit.clone().try_acquire_owned() else { continue };
        let resolvers = resolvers.clone();
        under_way.spawn(async move {
            for resolver in resolvers.iter() {
                if let Ok(Ok(mut stream)) = timeout(PATIENCE, TcpStream::connect(*resolver)).await {
                    let _ = timeout(CONVERSATION, copy_bidirectional(&mut asker, &mut stream)).await;
                    break;
                }
            }
            drop(permit);
        });
    }
}
