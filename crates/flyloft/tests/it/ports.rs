//! Ports other than that of HTTP, from outside of the machine and from the machine itself.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::harness::{Flyloft, Repository, run, text, wait_for};
use crate::kinds::SERVE;

/// Says who comes and then what they say, on 5432 in both families and on 5433 in one; and the same for datagrams.
const APP: &str = r#"
import socket, socketserver, threading

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write((self.client_address[0].removeprefix("::ffff:") + "\n").encode())
        for line in self.rfile: self.wfile.write(line)

class Echoes(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

class Both(Echoes):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

def datagrams():
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", 5353))
    while True:
        datagram, client = server.recvfrom(65536)
        server.sendto(client[0].removeprefix("::ffff:").encode() + b" " + datagram, client)

def answer(words): return "it answers"

for server in [Both(("::", 5432), Echo), Echoes(("0.0.0.0", 5433), Echo)]:
    threading.Thread(target=server.serve_forever).start()
threading.Thread(target=datagrams).start()
"#;

/// The host's addresses on a link to the outside, and those at its other end.
const HOST: [&str; 2] = ["198.18.7.1", "fd42:f10f::1"];
const CLIENT: [&str; 2] = ["198.18.7.2", "fd42:f10f::2"];

/// A network namespace that is not the host's, and a link to it.
struct Outside(File);

impl Outside {
    fn new() -> Self {
        let _ = Command::new("ip").args(["netns", "delete", "it-outside"]).output();
        let ip = |command: &str| run(Command::new("ip").args(command.split(' ')));
        ip("netns add it-outside");
        // No name of Flyloft's own links.
        ip("link add it-out0 type veth peer name out0 netns it-outside");
        ip("address add 198.18.7.1/24 dev it-out0");
        ip("address add fd42:f10f::1/64 dev it-out0 nodad");
        ip("link set it-out0 up");
        ip("-n it-outside address add 198.18.7.2/24 dev out0");
        ip("-n it-outside address add fd42:f10f::2/64 dev out0 nodad");
        ip("-n it-outside link set out0 up");
        Self(File::open("/run/netns/it-outside").unwrap())
    }

    /// Does something there. Sockets stay where they were opened.
    fn enter<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let there = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            what()
        };
        std::thread::scope(|scope| scope.spawn(there).join().unwrap())
    }

    fn connect(&self, host: &str, port: u16) -> std::io::Result<Caller> {
        self.enter(|| Caller::connect(host, port))
    }

    /// A connection that goes straight, as soon as the firewall has been told.
    #[track_caller]
    fn straight(&self, (host, client): (&str, &str), port: u16) -> Caller {
        wait_for("the client's own address", || self.connect(host, port).ok().filter(|caller| caller.from == client))
    }

    fn udp(&self, host: &str, port: u16) -> UdpSocket {
        self.enter(|| connected(host, port))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", "it-outside"]).output();
        let _ = Command::new("ip").args(["link", "delete", "it-out0"]).output();
    }
}

/// A connection to the app, and who the app says it comes from.
struct Caller {
    stream: BufReader<TcpStream>,
    from: String,
}

impl Caller {
    fn connect(host: &str, port: u16) -> std::io::Result<Self> {
        let to = SocketAddr::new(host.parse().unwrap(), port);
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(20))?;
        stream.set_read_timeout(Some(Duration::from_secs(40)))?;
        let mut caller = Self { stream: BufReader::new(stream), from: String::new() };
        caller.from = caller.line()?;
        Ok(caller)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn says(&mut self, what: &str) -> std::io::Result<String> {
        self.stream.get_mut().write_all(format!("{what}\n").as_bytes())?;
        self.line()
    }
}

fn connected(host: &str, port: u16) -> UdpSocket {
    let ip: IpAddr = host.parse().unwrap();
    let socket = UdpSocket::bind((if ip.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap();
    socket.connect((ip, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    socket
}

fn asked(socket: &UdpSocket, what: &str) -> String {
    socket.send(what.as_bytes()).unwrap();
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn staged<'a>(flyloft: &'a Flyloft, app: &str) -> Repository<'a> {
    let files = [("app.py", &*format!("{APP}{SERVE}")), ("Procfile", "web: python app.py\n"), ("requirements.txt", "")];
    let repository = flyloft.repository(app, &files);
    repository.pushed(&["main"]);
    repository
}

/// Publishes a port, and gives where.
fn published(flyloft: &Flyloft, args: &[&str]) -> u16 {
    let added = flyloft.ok(&[&["ports", "add", "--json"], args].concat());
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    added["host_port"].as_u64().unwrap().try_into().unwrap()
}

fn state(flyloft: &Flyloft, env: &str) -> String {
    flyloft.why(env)["state"].as_str().unwrap_or_default().to_owned()
}

fn goes(flyloft: &Flyloft, rung: &str, env: &str) {
    flyloft.ok(&[rung, env]);
    let wanted = if rung == "sleep" { "asleep" } else { rung };
    assert_eq!(state(flyloft, env), wanted);
}

/// Waits until it is on record that this woke it.
#[track_caller]
fn was_woken_by(flyloft: &Flyloft, env: &str, by: &str) {
    wait_for(by, || {
        let why = flyloft.why(env);
        (why["state"] == "awake" && why["woken"]["by"] == by).then_some(())
    });
}

#[test]
fn a_published_port_answers_from_outside_and_from_the_host_in_both_families_awake_asleep_and_off() {
    let (flyloft, outside, env) = (Flyloft::start(), Outside::new(), "it-ports/main");
    let repository = staged(&flyloft, "it-ports");
    let port = published(&flyloft, &[env, "5432"]);
    let one_family = published(&flyloft, &[env, "5433"]);
    assert!((20_000..30_000).contains(&port) && port != one_family);
    let listed = flyloft.ok(&["ports", "ls", "it-ports"]);
    assert!(listed.contains("5432/tcp") && listed.contains(&port.to_string()), "{listed}");
    assert!(flyloft.ok(&["show", env]).contains(&format!("5432/tcp at port {port}")));

    for (host, client) in HOST.iter().zip(CLIENT) {
        assert_eq!(outside.straight((host, client), port).says("hello").unwrap(), "hello");
    }
    outside.straight((HOST[0], CLIENT[0]), one_family);
    assert_ne!(outside.connect(HOST[1], one_family).unwrap().from, CLIENT[1], "relayed to the family that there is");
    for host in HOST.iter().chain(&["127.0.0.1", "::1"]) {
        assert_eq!(Caller::connect(host, port).unwrap().says("hello").unwrap(), "hello", "{host}");
    }

    for (host, client) in HOST.iter().zip(CLIENT) {
        let mut straight = outside.straight((host, client), port);
        let mut relayed = Caller::connect("127.0.0.1", port).unwrap();
        for rung in ["sleep", "off"] {
            goes(&flyloft, rung, env);
            let mut caller = outside.connect(host, port).unwrap();
            assert_eq!(caller.says("good morning").unwrap(), "good morning", "{rung} {host}");
            was_woken_by(&flyloft, env, &format!("a connection to port 5432 from {client}"));
            if rung == "sleep" {
                // Those who were connected are so still, and what they say wakes it.
                assert_eq!(straight.says("still here").unwrap(), "still here");
                goes(&flyloft, rung, env);
                assert_eq!(straight.says("and now").unwrap(), "and now");
                was_woken_by(&flyloft, env, "a message over a connection to a published port");
                goes(&flyloft, rung, env);
                assert_eq!(relayed.says("me too").unwrap(), "me too");
                was_woken_by(&flyloft, env, "a connection to port 5432 from 127.0.0.1");
            } else {
                assert!(straight.says("gone").is_err(), "what is off has no connections");
            }
        }
        goes(&flyloft, "sleep", env);
        assert_eq!(Caller::connect("::1", port).unwrap().says("hello").unwrap(), "hello");
    }
    repository.commit(&[("app.py", &format!("{APP}{SERVE}\n# Another version\n"))]);
    repository.pushed(&["main"]);
    for (host, client) in HOST.iter().zip(CLIENT) {
        assert_eq!(outside.straight((host, client), port).says("next").unwrap(), "next");
    }

    flyloft.ok(&["ports", "rm", env, "5433"]);
    for host in HOST {
        assert!(outside.connect(host, one_family).is_err(), "taken back");
    }
    let mut straight = outside.straight((HOST[0], CLIENT[0]), port);
    flyloft.ok(&["destroy", "it-ports", "--yes"]);
    assert!(straight.says("gone").is_err());
    for host in HOST {
        assert!(outside.connect(host, port).is_err(), "gone with its environment");
    }
    TcpListener::bind(("::", port)).unwrap();
}

#[test]
fn datagrams_wake_an_environment_and_are_answered() {
    let (flyloft, outside, env) = (Flyloft::start(), Outside::new(), "it-ports-udp/main");
    staged(&flyloft, "it-ports-udp");
    let port = published(&flyloft, &[env, "5353", "--protocol", "udp"]);
    for (host, client) in HOST.iter().zip(CLIENT) {
        wait_for("the client's own address", || {
            (asked(&outside.udp(host, port), "hello") == format!("{client} hello")).then_some(())
        });
    }
    for rung in ["sleep", "off"] {
        for (host, client) in HOST.iter().zip(CLIENT) {
            goes(&flyloft, rung, env);
            let answer = asked(&outside.udp(host, port), "good morning");
            assert!(answer.ends_with(" good morning"), "{rung} {host}: {answer}");
            was_woken_by(&flyloft, env, &format!("a datagram to port 5353 from {client}"));
        }
        for host in ["127.0.0.1", "::1"] {
            goes(&flyloft, rung, env);
            assert!(asked(&connected(host, port), "hello").ends_with(" hello"), "{rung} {host}");
        }
    }
    flyloft.ok(&["destroy", "it-ports-udp", "--yes"]);
}

#[test]
fn published_ports_outlive_the_daemon_and_connections_that_go_straight_do_not_notice() {
    let (mut flyloft, outside, env) = (Flyloft::start(), Outside::new(), "it-ports-kept/main");
    staged(&flyloft, "it-ports-kept");
    let port = published(&flyloft, &[env, "5432"]);
    let mut caller = outside.straight((HOST[0], CLIENT[0]), port);
    flyloft.kill();
    assert_eq!(caller.says("without a daemon").unwrap(), "without a daemon");
    assert_eq!(outside.connect(HOST[0], port).unwrap().from, CLIENT[0]);
    flyloft.serve();
    assert_eq!(caller.says("with another one").unwrap(), "with another one");
    assert_eq!(Caller::connect("127.0.0.1", port).unwrap().says("hello").unwrap(), "hello");

    goes(&flyloft, "sleep", env);
    flyloft.kill();
    flyloft.serve();
    assert_eq!(state(&flyloft, env), "asleep");
    assert_eq!(caller.says("it was asleep").unwrap(), "it was asleep");
    was_woken_by(&flyloft, env, "a message over a connection to a published port");

    // The doors that a newer version takes over stay open; what the daemon itself relayed ends.
    goes(&flyloft, "sleep", env);
    flyloft.ok(&["upgrade"]);
    assert_eq!(state(&flyloft, env), "asleep");
    assert_eq!(Caller::connect("127.0.0.1", port).unwrap().says("to a newer one").unwrap(), "to a newer one");
    assert_eq!(caller.says("with a newer one").unwrap(), "with a newer one");

    // A firewall whose table somebody has removed. Until it is back nobody translates, unless another table of the machine
    // does: the kernel resets who says something in these milliseconds.
    let instance = std::fs::read_to_string(flyloft.state.join("instance")).unwrap();
    run(Command::new("nft").args(["delete", "table", "inet", &format!("flyloft_{}", instance.trim())]));
    outside.straight((HOST[1], CLIENT[1]), port);
    assert_eq!(caller.says("rules again").unwrap(), "rules again");

    // What somebody else has taken while there was no daemon is theirs, and is named.
    flyloft.kill();
    let thief = TcpListener::bind(("::", port)).unwrap();
    flyloft.serve();
    let listed = flyloft.ok(&["ports", "ls", env]);
    assert!(listed.contains("no, somebody else has it"), "{listed}");
    assert!(flyloft.log().contains(&format!("(process {})", std::process::id())), "{}", flyloft.log());
    drop(thief);
    flyloft.kill();
    flyloft.serve();
    assert!(flyloft.ok(&["ports", "ls", env]).contains("yes"));
    flyloft.ok(&["destroy", "it-ports-kept", "--yes"]);
}

#[test]
fn a_port_is_refused_to_who_may_not_have_it_and_where_it_is_taken_by_name() {
    let (flyloft, outside, env) = (Flyloft::start(), Outside::new(), "it-ports-taken/main");
    let repository = staged(&flyloft, "it-ports-taken");
    let refused = |args: &[&str]| {
        let output = flyloft.cli(&[&["ports", "add"], args].concat());
        assert!(!output.status.success(), "{args:?}");
        text(&output)
    };
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().port().to_string();
    let told = refused(&[env, "5432", "--host-port", &taken]);
    assert!(told.contains(&format!("port {taken} (tcp) of this machine is in use by `")), "{told}");
    assert!(told.contains(&format!("(process {})", std::process::id())), "{told}");
    for own in [flyloft.http, flyloft.ssh] {
        let told = refused(&[env, "5432", "--host-port", &own.to_string()]);
        assert!(told.contains("in use by Flyloft itself"), "{told}");
    }
    drop(other);
    let outgoing: u16 = taken.parse().unwrap();
    if (32_768..=60_999).contains(&outgoing) {
        let told = refused(&[env, "5432", "--host-port", &taken]);
        assert!(told.contains("ports 32768-60999 are those by which connections"), "{told}");
    }
    let told = refused(&[env, "5432", "--host-port", "99"]);
    assert!(told.contains("ports below 1024 are the system's") && told.contains("--force"), "{told}");

    let port = published(&flyloft, &[env, "5432"]);
    let told = refused(&[env, "5432"]);
    assert!(told.contains(&format!("is published already, at port {port}")), "{told}");
    repository.pushed(&["main:other"]);
    let told = refused(&["it-ports-taken/other", "5432", "--host-port", &port.to_string()]);
    assert!(told.contains("is port 5432/tcp of `it-ports-taken/main` already"), "{told}");
    let second = published(&flyloft, &["it-ports-taken/other", "5432"]);
    assert_ne!(port, second, "several environments publish the same port");

    // A sibling has no way to it, and the door is no way to anything else.
    assert_eq!(Caller::connect(HOST[0], port).unwrap().says("hello").unwrap(), "hello");
    for host in HOST {
        let reached = flyloft.get("it-ports-taken/other", &format!("/reach/{host}/{port}")).body;
        assert!(reached.contains("Error"), "{host}: {reached}");
    }
    assert!(outside.connect(HOST[0], 5432).is_err());

    flyloft.demote("it-ports-taken");
    let told = text(&flyloft.ssh(&format!("ports add {env} 5433 --host-port 8099")));
    assert!(told.contains("is not in 20000-29999"), "{told}");
    let told = text(&flyloft.ssh(&format!("ports add {env} 5433")));
    assert!(told.contains("port 5433/tcp of it-ports-taken/main is published at port 2"), "{told}");
    let told = text(&flyloft.ssh(&format!("ports rm {env} 5433")));
    assert!(told.contains("is published no more"), "{told}");
    flyloft.ok(&["destroy", "it-ports-taken", "--yes"]);
}
