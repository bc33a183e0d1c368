//! The network as real containers see it. Rules are tried one by one in [`super::tests`]; this is about LXC's part in it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use crate::engine::lxc::bench::Bench;
use crate::engine::*;

/// Answers every connection with a word, on all addresses of both families.
const SERVER: &str = "exec python3 -c '\
import socket
server = socket.create_server((\"\", 5000), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    client, _ = server.accept()
    client.sendall(b\"hello\")
    client.close()'";

async fn started(bench: &Bench, id: &str) -> (ContainerId, Addresses) {
    let id = ContainerId(id.to_owned());
    let web = Process { name: "web.1".to_owned(), command: SERVER.to_owned(), env: Default::default() };
    let spec = ContainerSpec {
        id: id.clone(),
        image: vec![bench.base.clone()],
        processes: vec![web],
        env: Default::default(),
        limits: Limits::default(),
        reach: Reach::default(),
    };
    let addresses = bench.engine.create(&spec).await.unwrap();
    bench.engine.start(&id).await.unwrap();
    (id, addresses)
}

/// Whether the container's server answers the host, tried until `deadline` for as long as it takes.
fn answers(address: IpAddr, deadline: Instant) -> bool {
    loop {
        if TcpStream::connect_timeout(&SocketAddr::new(address, 5000), Duration::from_millis(200)).is_ok() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// What becomes of a connection that the container opens: `open`, or the error's name.
async fn connect(bench: &Bench, id: &ContainerId, to: &str, port: u16) -> String {
    let script = format!(
        "import socket\ntry:\n socket.create_connection((\"{to}\", {port}), 3)\n print(\"open\", end=\"\")\nexcept OSError as e:\n \
         print(type(e).__name__, end=\"\")"
    );
    let argv = vec!["python3".to_owned(), "-c".to_owned(), script];
    let mut exec = bench.engine.exec(id, ExecSpec { argv, env: Default::default(), terminal: None }).await.unwrap();
    let mut out = String::new();
    exec.stdout.read_to_string(&mut out).await.unwrap();
    out
}

/// The host's own address on its way to the internet, found without sending anything.
fn host_address() -> Ipv4Addr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("203.0.113.1:9").unwrap();
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("it was bound to IPv4"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_answer_the_host_and_reach_neither_it_nor_each_other() {
    let bench = Bench::open().await;
    let (_, one) = started(&bench, "one").await;
    let (two, _) = started(&bench, "two").await;
    for address in one.both() {
        assert!(answers(address, soon()), "the host reaches {address}");
        assert_ne!(connect(&bench, &two, &address.to_string(), 5000).await, "open", "{address}");
    }
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = host_address();
    assert!(TcpStream::connect((host, port)).is_ok(), "the host reaches itself");
    for address in [&host.to_string(), "169.254.1.1", "fe80::1%eth0", "169.254.169.254", "10.0.0.1", "fd00::1"] {
        assert_ne!(connect(&bench, &two, address, port).await, "open", "{address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_starts_again_is_reachable_at_once() {
    let bench = Bench::open().await;
    let (id, addresses) = started(&bench, "web").await;
    assert!(answers(addresses.ipv4.into(), soon()));
    for _ in 0..2 {
        bench.engine.stop(&id, Duration::from_secs(1)).await.unwrap();
        bench.engine.start(&id).await.unwrap();
        // A neighbour table that still has another hardware address costs 20 s here; Python takes well below one.
        assert!(answers(addresses.ipv4.into(), Instant::now() + Duration::from_secs(5)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_finds_names_and_the_mirror_that_debian_came_from() {
    let bench = Bench::open().await;
    let (id, _) = started(&bench, "web").await;
    let script =
        "cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -oE 'https?://[^/ ]+' | head -n 1";
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let mut exec = bench.engine.exec(&id, ExecSpec { argv, env: Default::default(), terminal: None }).await.unwrap();
    let mut mirror = String::new();
    exec.stdout.read_to_string(&mut mirror).await.unwrap();
    let (scheme, host) = mirror.trim().split_once("://").expect("the image names its mirror");
    let port = if scheme == "https" { 443 } else { 80 };
    assert_eq!(connect(&bench, &id, host, port).await, "open", "{host}");
}
