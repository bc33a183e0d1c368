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
        volumes: Vec::new(),
        files: Default::default(),
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

/// An address that the host has beside its own, for as long as this is held.
struct Extra(String);

impl Extra {
    async fn add(address: String) -> Self {
        let arguments = ["-6", "address", "replace", &address, "dev", "lo", "nodad"];
        crate::exec::Cmd::new("ip").args(arguments).run().await.unwrap();
        Self(address)
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        let delete = crate::exec::Cmd::new("ip").args(["-6", "address", "delete", &self.0, "dev", "lo"]);
        // Dropping cannot wait for the test's own runtime.
        let deleted = std::thread::spawn(move || tokio::runtime::Runtime::new().unwrap().block_on(delete.run()));
        let _ = deleted.join();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_works_in_a_containers_first_moment_both_ways() {
    let bench = Bench::open().await;
    let address = format!("fd66:6c79:1e57::{:x}", std::process::id() & 0xffff);
    let _extra = Extra::add(address.clone()).await;
    let listener = TcpListener::bind((address.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!(
        r#"socket(my $s, AF_INET6, SOCK_STREAM, 0);
           print connect($s, pack_sockaddr_in6({port}, inet_pton(AF_INET6, "{address}"))) ? "open" : "failed: $!";"#
    );
    // Nothing before it, neither a shell's work nor an interpreter's that takes long.
    let command = format!("exec perl -MSocket=:DEFAULT,inet_pton,pack_sockaddr_in6 -e '{connect} sleep 1000'");
    let id = ContainerId("web".to_owned());
    let processes =
        vec![Process { name: "web.1".to_owned(), command: format!("exec 2>&1; {command}"), env: Default::default() }];
    let reach = Reach { allow: vec![SocketAddr::new(address.parse().unwrap(), port)] };
    let (image, limits) = (vec![bench.base.clone()], Limits::default());
    let (env, volumes, files) = Default::default();
    let spec = ContainerSpec { id: id.clone(), image, processes, env, limits, reach, volumes, files };
    let addresses = bench.engine.create(&spec).await.unwrap();
    bench.engine.start(&id).await.unwrap();
    let started = Instant::now();
    // Nobody listens there: that it says so is an answer.
    let refused = TcpStream::connect_timeout(&SocketAddr::new(addresses.ipv6.into(), 9), Duration::from_millis(900));
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "{:?}", started.elapsed());
    let accepted = tokio::task::spawn_blocking(move || listener.accept().unwrap().1.ip());
    let accepted = tokio::time::timeout(Duration::from_secs(20), accepted).await.expect("it came out").unwrap();
    assert_eq!(accepted, IpAddr::from(addresses.ipv6));
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
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

async fn ip(args: &[&str]) -> String {
    let output = crate::exec::Cmd::new("ip").args(args.iter().copied()).run().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_neighbours_that_somebody_flushed_come_back_and_who_has_lost_the_link_is_ended() {
    let bench = Bench::open().await;
    let (id, addresses) = started(&bench, "web").await;
    assert!(answers(addresses.ipv4.into(), soon()) && answers(addresses.ipv6.into(), soon()));
    ip(&["route", "delete", &addresses.ipv4.to_string()]).await;
    ip(&["-6", "route", "delete", &addresses.ipv6.to_string()]).await;
    let now = || Instant::now() + Duration::from_secs(1);
    assert!(!answers(addresses.ipv4.into(), now()));
    bench.engine.renew_network(None).await.unwrap();
    assert!(answers(addresses.ipv4.into(), soon()) && answers(addresses.ipv6.into(), soon()));

    let link = bench.engine.network.link(bench.engine.known(&id).unwrap().1.slot);
    let neighbours = async || {
        let listed = [ip(&["neigh", "show", "proxy", "dev", &link]).await, ip(&["neigh", "show", "dev", &link]).await];
        let mut lines: Vec<String> = listed.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        lines.retain(|line| line.contains("proxy") || line.contains("PERMANENT"));
        lines.sort();
        lines
    };
    let before = neighbours().await;
    assert_eq!(before.len(), 4, "{before:?}");
    for neighbour in [addresses.ipv4.to_string(), addresses.ipv6.to_string()] {
        ip(&["neigh", "delete", &neighbour, "dev", &link]).await;
        bench.engine.renew_network(None).await.unwrap();
        assert_eq!(neighbours().await, before);
    }
    for gateway in ["169.254.1.1", "fe80::1"] {
        ip(&["neigh", "delete", "proxy", gateway, "dev", &link]).await;
        bench.engine.renew_network(None).await.unwrap();
        assert_eq!(neighbours().await, before);
    }

    ip(&["link", "delete", "dev", &link]).await;
    bench.engine.renew_network(None).await.unwrap();
    assert_eq!(bench.engine.find(&id).await.unwrap().unwrap().state, ContainerState::Stopped);
    bench.engine.start(&id).await.unwrap();
    assert!(answers(addresses.ipv4.into(), soon()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_address_another_daemons_has_says_so_instead_of_starting() {
    let bench = Bench::open().await;
    let (id, addresses) = started(&bench, "web").await;
    bench.engine.stop(&id, Duration::ZERO).await.unwrap();
    // As that of a daemon whose state directory is hidden from here.
    let slot = bench.engine.known(&id).unwrap().1.slot;
    let rival = format!("fl0000ff{}", slot.index());
    ip(&["link", "add", &rival, "type", "veth", "peer", "name", &format!("x{rival}")]).await;
    ip(&["link", "set", &rival, "up"]).await;
    ip(&["route", "add", &addresses.ipv4.to_string(), "dev", &rival]).await;
    let error = bench.engine.start(&id).await.unwrap_err().to_string();
    ip(&["link", "delete", &rival]).await;
    let said =
        format!("container `web` cannot start: another one has its address {}, on the link `{rival}`", addresses.ipv4);
    assert_eq!(error, said);
    bench.engine.start(&id).await.unwrap();
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
