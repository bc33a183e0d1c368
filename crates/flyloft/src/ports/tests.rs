//! Published ports over real sockets, on an engine in memory whose containers answer on the loopback interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use flyloft_core::policy::Limits;
use flyloft_core::port::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::clock::Clock;
use crate::edge::Visit;
use crate::engine::conformance::eventually;
use crate::engine::fake::{self, Fake};
use crate::engine::{ContainerSpec, Reach};

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// An environment with one port that is published, at rest.
struct Bench {
    engine: Arc<Fake>,
    ports: Ports,
    visits: UnboundedReceiver<Visit>,
    env: EnvId,
    container: ContainerId,
    /// Where the container is.
    address: IpAddr,
    port: Port,
    uses: Uses,
}

impl Bench {
    async fn new(protocol: Protocol) -> Self {
        let (fake, engine) = fake::shared();
        let container = ContainerId("shop-main-1-1".to_owned());
        let spec = ContainerSpec {
            id: container.clone(),
            image: Vec::new(),
            processes: Vec::new(),
            env: Default::default(),
            limits: Limits::default(),
            reach: Reach::default(),
            volumes: Vec::new(),
            files: Default::default(),
        };
        let address = engine.create(&spec).await.unwrap().ipv4.into();
        fake.say(&container, 0);
        let (visits, visitors) = tokio::sync::mpsc::unbounded_channel();
        let ports = Ports::new(engine, visits, "/nonexistent".into());
        tokio::spawn(ports.clone().keep_for_ever());
        let port = Port { protocol, host: free(protocol).await, port: free(protocol).await };
        let claim = ports.claim(protocol, port.host).unwrap();
        let env = EnvId(1);
        ports.open(env, &"shop/main".parse().unwrap(), port, claim).unwrap();
        let uses = Uses::new(Clock::of_the_wall());
        let bench = Self { engine: fake, ports, visits: visitors, env, container, address, port, uses };
        bench.rests();
        bench
    }

    fn set(&self, way: Way) {
        self.ports.set(self.env, Some(&self.container), way, &self.uses);
    }

    fn rests(&self) {
        self.set(Way::Held { failed: false });
    }

    fn wakes(&self) {
        self.set(Way::Open(self.container.clone()));
    }

    async fn connect(&self, to: IpAddr) -> TcpStream {
        TcpStream::connect((to, self.port.host)).await.unwrap()
    }

    /// Sends back what comes over TCP.
    async fn echo(&self) {
        let listener = TcpListener::bind((self.address, self.port.port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
    }

    async fn visit(&mut self) -> String {
        let visit = tokio::time::timeout(Duration::from_secs(10), self.visits.recv()).await;
        visit.expect("somebody is told of").unwrap().by
    }

    fn is_told_of_nobody(&mut self) {
        assert!(self.visits.try_recv().is_err());
    }
}

/// A port that nobody has at the moment.
async fn free(protocol: Protocol) -> u16 {
    let any = (Ipv6Addr::UNSPECIFIED, 0);
    match protocol {
        Protocol::Tcp => TcpListener::bind(any).await.unwrap().local_addr().unwrap().port(),
        Protocol::Udp => UdpSocket::bind(any).await.unwrap().local_addr().unwrap().port(),
    }
}

async fn read(client: &mut TcpStream, length: usize) -> String {
    let mut answer = vec![0; length];
    let read = tokio::time::timeout(Duration::from_secs(10), client.read_exact(&mut answer)).await;
    read.expect("an answer comes").unwrap();
    String::from_utf8(answer).unwrap()
}

/// Whether the connection is closed, with or without a word.
async fn is_cut(client: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(10), client.read(&mut [0; 16])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn the_first_who_comes_wakes_it_and_nothing_is_lost_of_what_they_say() {
    let mut bench = Bench::new(Protocol::Tcp).await;
    let mut clients = Vec::new();
    for from in LOOPBACK {
        let mut client = bench.connect(from).await;
        client.write_all(b"hello").await.unwrap();
        clients.push(client);
    }
    assert_eq!(bench.visit().await, format!("a connection to port {} from 127.0.0.1", bench.port.port));
    bench.wakes();
    // It answers HTTP by now, and listens here a little later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.echo().await;
    for client in &mut clients {
        assert_eq!(read(client, 5).await, "hello");
    }
    bench.is_told_of_nobody();
    assert!(bench.uses.said().is_some());
}

#[tokio::test]
async fn who_waits_for_what_does_not_wake_is_refused_and_the_next_one_is_told_of_again() {
    let mut bench = Bench::new(Protocol::Tcp).await;
    for _ in 0..2 {
        let mut client = bench.connect(LOOPBACK[0]).await;
        bench.visit().await;
        bench.ports.turn_away(bench.env);
        assert!(is_cut(&mut client).await);
    }
    bench.set(Way::Shut);
    let mut client = bench.connect(LOOPBACK[1]).await;
    assert!(is_cut(&mut client).await);
    bench.is_told_of_nobody();
}

#[tokio::test]
async fn where_nothing_listens_who_comes_to_what_is_awake_is_refused_at_once() {
    let mut bench = Bench::new(Protocol::Tcp).await;
    bench.wakes();
    let came = std::time::Instant::now();
    let mut client = bench.connect(LOOPBACK[0]).await;
    assert!(is_cut(&mut client).await);
    assert!(came.elapsed() < Duration::from_secs(5));
    bench.is_told_of_nobody();
}

#[tokio::test]
async fn what_is_said_on_an_open_connection_to_a_sleeper_is_a_visit_and_gets_there() {
    let mut bench = Bench::new(Protocol::Tcp).await;
    bench.echo().await;
    bench.wakes();
    let mut client = bench.connect(LOOPBACK[0]).await;
    client.write_all(b"one").await.unwrap();
    assert_eq!(read(&mut client, 3).await, "one");
    bench.rests();
    bench.is_told_of_nobody();
    client.write_all(b"two").await.unwrap();
    assert_eq!(bench.visit().await, format!("a connection to port {} from 127.0.0.1", bench.port.port));
    assert_eq!(read(&mut client, 3).await, "two");
    client.write_all(b"three").await.unwrap();
    assert_eq!(read(&mut client, 5).await, "three");
    bench.is_told_of_nobody();
}

#[tokio::test]
async fn what_the_engine_counts_is_a_use_and_to_a_sleeper_a_visit() {
    let mut bench = Bench::new(Protocol::Tcp).await;
    bench.wakes();
    bench.ports.settled(bench.env).await;
    assert_eq!(bench.uses.said(), None);
    bench.engine.say(&bench.container, 1);
    bench.ports.settled(bench.env).await;
    let before = bench.uses.said().expect("it is noted");
    bench.rests();
    bench.ports.settled(bench.env).await;
    bench.is_told_of_nobody();
    bench.engine.say(&bench.container, 2);
    assert_eq!(bench.visit().await, "a message over a connection to a published port");
    assert!(bench.uses.said().unwrap() > before);
}

#[tokio::test]
async fn the_engine_leads_newcomers_past_the_daemon_only_while_it_is_awake() {
    let bench = Bench::new(Protocol::Tcp).await;
    let published = |straight| Published {
        container: bench.container.clone(),
        protocol: Protocol::Tcp,
        host: bench.port.host,
        port: bench.port.port,
        straight,
    };
    let settled = async || {
        bench.ports.settled(bench.env).await;
        bench.engine.published()
    };
    assert_eq!(settled().await, [published(false)]);
    bench.wakes();
    assert_eq!(settled().await, [published(true)]);
    bench.rests();
    assert_eq!(settled().await, [published(false)], "who is connected stays so");
    // Somebody else serves: those who are connected to the one before have a while.
    let other = ContainerId("shop-main-1-2".to_owned());
    bench.engine.copy(&bench.container, [other.clone()].into_iter());
    bench.ports.set(bench.env, Some(&other), Way::Open(other.clone()), &bench.uses);
    assert_eq!(settled().await, [Published { container: other, ..published(true) }, published(false)]);
    bench.ports.close(bench.env, bench.port);
    eventually("nothing is published", async || bench.engine.published().is_empty()).await;
}

#[tokio::test]
async fn nobody_is_told_that_the_firewall_is_changed_while_it_is_not() {
    let bench = Bench::new(Protocol::Tcp).await;
    bench.wakes();
    bench.ports.begun().await.unwrap();
    bench.engine.fail("publish", 1000);
    bench.ports.close(bench.env, bench.port);
    let refused = bench.ports.begun().await.unwrap_err();
    assert_eq!(refused.causes.last().map(String::as_str), Some("the test wants it to fail"));
    assert!(!bench.engine.published().is_empty());
    bench.engine.fail("publish", 0);
    bench.ports.begun().await.unwrap();
    assert!(bench.engine.published().is_empty());
}

#[tokio::test]
async fn a_port_that_is_taken_back_cuts_who_is_connected_and_is_free_again() {
    let bench = Bench::new(Protocol::Tcp).await;
    bench.echo().await;
    bench.wakes();
    for gone in [false, true] {
        let mut client = bench.connect(LOOPBACK[0]).await;
        client.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut client, 3).await, "one");
        match gone {
            true => bench.ports.remove(bench.env),
            false => bench.ports.close(bench.env, bench.port),
        }
        assert!(is_cut(&mut client).await);
        eventually("it can be had", async || bench.ports.claim(Protocol::Tcp, bench.port.host).is_ok()).await;
        let claim = bench.ports.claim(Protocol::Tcp, bench.port.host).unwrap();
        bench.ports.open(bench.env, &"shop/main".parse().unwrap(), bench.port, claim).unwrap();
        bench.wakes();
    }
}

#[tokio::test]
async fn a_port_that_somebody_has_is_refused_by_their_name_and_served_when_they_are_gone() {
    let bench = Bench::new(Protocol::Tcp).await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let host = free(protocol).await;
        // Also where it is on one address alone.
        let (tcp, udp) = match protocol {
            Protocol::Tcp => (Some(TcpListener::bind((LOOPBACK[0], host)).await.unwrap()), None),
            Protocol::Udp => (None, Some(UdpSocket::bind((LOOPBACK[1], host)).await.unwrap())),
        };
        let refused = bench.ports.claim(protocol, host).err().expect("it is taken");
        let whose = format!("(process {})", std::process::id());
        assert!(
            refused.what.starts_with(&format!("port {host} ({protocol}) of this machine is in use by `")),
            "{refused}"
        );
        assert!(refused.what.ends_with(&whose), "{refused}");
        let port = Port { protocol, host, port: 1 };
        let recorded = [(bench.env, "shop/main".parse().unwrap(), port)];
        bench.ports.keep(&recorded, Vec::new());
        assert!(!bench.ports.serves(bench.env, port), "nobody is led past what is not ours");
        assert!(!bench.ports.serves(bench.env, bench.port), "what is not on record is not served");
        drop((tcp, udp));
        bench.ports.keep(&recorded, Vec::new());
        assert!(bench.ports.serves(bench.env, port));
    }
}

#[tokio::test]
async fn who_comes_between_two_daemons_waits_for_the_next_one() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let before = Bench::new(protocol).await;
        let sockets = before.ports.hand_over();
        let client = match protocol {
            Protocol::Tcp => {
                let mut client = before.connect(LOOPBACK[0]).await;
                client.write_all(b"hello").await.unwrap();
                (Some(client), None)
            }
            Protocol::Udp => {
                let client = UdpSocket::bind((LOOPBACK[0], 0)).await.unwrap();
                client.send_to(b"hello", (LOOPBACK[0], before.port.host)).await.unwrap();
                (None, Some(client))
            }
        };
        let (visits, mut visitors) = tokio::sync::mpsc::unbounded_channel();
        let next = Ports::new(before.engine.clone(), visits, "/nonexistent".into());
        next.keep(&[(before.env, "shop/main".parse().unwrap(), before.port)], sockets);
        assert!(next.serves(before.env, before.port));
        next.set(before.env, Some(&before.container), Way::Held { failed: false }, &before.uses);
        let visit = tokio::time::timeout(Duration::from_secs(10), visitors.recv()).await;
        assert!(visit.expect("somebody is told of").unwrap().by.contains("from 127.0.0.1"), "{client:?}");
    }
}

#[tokio::test]
async fn one_environment_has_so_many_connections_and_one_client_a_part_of_them() {
    let bench = Bench::new(Protocol::Tcp).await;
    let connect = async |from: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
        socket.connect(SocketAddr::from(([127, 0, 0, 1], bench.port.host))).await.unwrap()
    };
    let mut clients = Vec::new();
    let parts = (MOST_OF_ONE / tcp::MOST_OF_CLIENT) as u8;
    for from in 1..=parts {
        for _ in 0..tcp::MOST_OF_CLIENT {
            clients.push(connect(from).await);
        }
        // They are taken in their order.
        assert!(is_cut(&mut connect(from).await).await, "the first of {parts} has its part");
    }
    assert!(is_cut(&mut connect(parts + 1).await).await, "there is no place for another one");
    drop(clients);
    bench.ports.turn_away(bench.env);
    bench.echo().await;
    bench.wakes();
    eventually("there is room again", async || {
        let mut client = bench.connect(LOOPBACK[0]).await;
        client.write_all(b"one").await.is_ok() && client.read_exact(&mut [0; 3]).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_first_datagram_wakes_it_and_is_answered_from_where_it_was_sent_to() {
    let mut bench = Bench::new(Protocol::Udp).await;
    let mut clients = Vec::new();
    for to in LOOPBACK {
        let client = UdpSocket::bind((to, 0)).await.unwrap();
        // One that is connected hears nobody else.
        client.connect((to, bench.port.host)).await.unwrap();
        client.send(b"one").await.unwrap();
        client.send(b"two").await.unwrap();
        clients.push(client);
    }
    assert_eq!(bench.visit().await, format!("a datagram to port {} from 127.0.0.1", bench.port.port));
    bench.wakes();
    // In one family alone, and a little later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let app = UdpSocket::bind(SocketAddr::from((bench.address, bench.port.port))).await.unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 64];
        while let Ok((length, from)) = app.recv_from(&mut datagram).await {
            app.send_to(&datagram[..length], from).await.unwrap();
        }
    });
    for client in &clients {
        for said in ["one", "two"] {
            let mut answer = [0; 64];
            let length = tokio::time::timeout(Duration::from_secs(10), client.recv(&mut answer)).await;
            assert_eq!(&answer[..length.expect("an answer comes").unwrap()], said.as_bytes());
        }
    }
    bench.is_told_of_nobody();
    clients[1].send(b"three").await.unwrap();
    let mut answer = [0; 64];
    let length = clients[1].recv(&mut answer).await.unwrap();
    assert_eq!(&answer[..length], b"three");
}
