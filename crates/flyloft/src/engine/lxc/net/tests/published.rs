//! Ports of the host that lead to containers, tried with real packets.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use flyloft_core::port::Protocol;

use super::super::*;
use super::lab::{Container, HOST, Lab, ROUTER, at, config, connect, ip, lab, serve};
use super::{address, installed};
use crate::engine::conformance::eventually;

const PUBLISHED: u16 = 20_001;
const PORT: u16 = 5432;

/// What leads to the container: newcomers, where the door is open.
fn ways(network: &Network, container: &Container, protocol: Protocol, door: bool) -> BTreeMap<String, Ways> {
    let mut ways = Ways::default();
    ways.lead(protocol, PUBLISHED, PORT, container.addresses.both().into_iter().filter(|_| door));
    [(network.link(container.slot), ways)].into()
}

async fn publish(network: &Network, container: &Container, door: bool) {
    network.publish(ways(network, container, Protocol::Tcp, door)).await.unwrap();
}

/// Sends back what comes.
fn echo(container: &Container) {
    let listener = container.space.enter(|| TcpListener::bind(at("::", PORT)).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
}

fn says(stream: &mut TcpStream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer).unwrap())
}

fn opened(lab: &Lab, host: &str) -> TcpStream {
    let stream = lab.internet.enter(|| TcpStream::connect(at(host, PUBLISHED)).unwrap());
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    stream
}

#[test]
fn a_published_port_leads_to_its_container_over_both_families_and_shows_who_comes() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        container.space.serve(at("::", PORT));
        let outside = |host| lab.internet.connect(at(host, PUBLISHED));
        for host in HOST {
            assert_eq!(outside(host), None, "not yet");
        }
        publish(&network, &container, true).await;
        for (host, client) in HOST.iter().zip(ROUTER) {
            assert_eq!(outside(host), address(client), "{host}");
            assert_eq!(lab.internet.connect(at(host, PORT)), None, "only as published");
        }
        network.publish(BTreeMap::new()).await.unwrap();
        for host in HOST {
            assert_eq!(outside(host), None, "not any more");
        }
    });
}

#[test]
fn a_published_port_opens_nothing_to_siblings_and_nothing_beside_it() {
    lab(async |lab| {
        let network = installed().await;
        let other = Network::new("0000ff", config());
        other.install().await.unwrap();
        let container = lab.admitted(&network, 0, &[]).await;
        container.space.serve(at("::", PORT));
        container.space.serve(at("::", 5433));
        publish(&network, &container, true).await;
        // Also not by the host's own listener, with which the daemon relays.
        serve(TcpListener::bind(at("::", PUBLISHED)).unwrap());
        let strangers = [lab.admitted(&network, 1, &[]).await, lab.admitted(&other, 2, &[]).await];
        for host in HOST {
            for stranger in &strangers {
                assert_eq!(stranger.space.connect(at(host, PUBLISHED)), None, "{host}");
            }
            assert_eq!(container.space.connect(at(host, PUBLISHED)), None, "its own by {host}");
        }
        lab.internet
            .ip(&["route add 10.213.0.0/16 via 198.51.100.2", "-6 route add fd66:6c79:6c66::/64 via 2001:db8:f::2"]);
        for to in container.addresses.both() {
            for port in [PORT, 5433] {
                assert!(connect(SocketAddr::new(to, port)).is_some(), "there is a server");
                assert_eq!(lab.internet.connect(SocketAddr::new(to, port)), None, "{to}:{port} by its own address");
                assert_eq!(strangers[0].space.connect(SocketAddr::new(to, port)), None, "{to}:{port} from a sibling");
            }
        }
    });
}

#[test]
fn the_host_itself_and_newcomers_to_a_closed_door_come_to_what_listens_on_the_host() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        publish(&network, &container, true).await;
        serve(TcpListener::bind(at("::", PUBLISHED)).unwrap());
        for host in HOST.iter().chain(&["127.0.0.1", "::1"]) {
            assert!(connect(at(host, PUBLISHED)).is_some(), "{host}");
        }
        for host in HOST {
            assert_eq!(lab.internet.connect(at(host, PUBLISHED)), None, "nobody listens in the container");
        }
        publish(&network, &container, false).await;
        for (host, client) in HOST.iter().zip(ROUTER) {
            assert_eq!(lab.internet.connect(at(host, PUBLISHED)), address(client), "{host}");
        }
    });
}

#[test]
fn who_is_connected_stays_so_while_the_door_is_closed_and_what_they_say_is_counted() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        echo(&container);
        let link = network.link(container.slot);
        let count = async || network.counts().await.unwrap().get(&link).copied();
        assert_eq!(count().await, None, "nothing is published");
        publish(&network, &container, true).await;
        assert_eq!(count().await, Some(0));
        for host in HOST {
            let before = count().await;
            let mut client = opened(&lab, host);
            assert_eq!(says(&mut client, "one").unwrap(), "one");
            assert!(count().await > before, "it has opened a connection and said something");
            publish(&network, &container, false).await;
            assert_eq!(lab.internet.connect(at(host, PUBLISHED)), None, "the door is closed");
            assert_eq!(says(&mut client, "two").unwrap(), "two");
            // An answer is acknowledged, which says nothing.
            let quiet = count().await;
            thread::sleep(std::time::Duration::from_millis(100));
            assert_eq!(count().await, quiet);
            assert_eq!(says(&mut client, "three").unwrap(), "three");
            assert!(count().await > quiet);
            publish(&network, &container, true).await;
            assert_eq!(says(&mut client, "four").unwrap(), "four");
            client.shutdown(Shutdown::Both).unwrap();
        }
        let mut client = opened(&lab, HOST[0]);
        assert_eq!(says(&mut client, "five").unwrap(), "five");
        network.publish(BTreeMap::new()).await.unwrap();
        assert!(says(&mut client, "six").is_err(), "it is not published any more");
    });
}

#[test]
fn datagrams_find_their_way_there_and_back() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        network.publish(ways(&network, &container, Protocol::Udp, true)).await.unwrap();
        let server = container.space.udp(at("::", PORT));
        for (host, client) in HOST.iter().zip(ROUTER) {
            let outside = lab.internet.udp(at(client, 0));
            outside.send_to(b"question", at(host, PUBLISHED)).unwrap();
            let mut buffer = [0; 16];
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(from.ip().to_canonical(), address(client).unwrap());
            server.send_to(b"answer", from).unwrap();
            let (count, from) = outside.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..count], from), (&b"answer"[..], at(host, PUBLISHED)));
        }
    });
}

#[test]
fn what_was_published_is_so_after_a_restart_of_the_daemon_and_where_the_table_was_removed() {
    lab(async |lab| {
        let before = installed().await;
        let container = lab.admitted(&before, 0, &[]).await;
        echo(&container);
        publish(&before, &container, true).await;
        let mut client = opened(&lab, HOST[0]);
        drop(before);

        let network = installed().await;
        container.admit(&network, &[]).await;
        assert_eq!(says(&mut client, "after a restart").unwrap(), "after a restart");
        nft::apply(&format!("delete table inet {}\n", network.table())).await.unwrap();
        network.install().await.unwrap();
        // As long as nobody is admitted, nobody is told that the port is closed.
        client.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let waits = says(&mut client, "while it is put back").unwrap_err().kind();
        assert!(matches!(waits, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{waits}");
        container.admit(&network, &[]).await;
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut answer = [0; 20];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"while it is put back");
        assert!(opened(&lab, HOST[1]).peer_addr().is_ok(), "newcomers find the door");

        network.dismiss(container.slot).await.unwrap();
        container.admit(&network, &[]).await;
        assert_eq!(
            lab.internet.connect(at(HOST[0], PUBLISHED)),
            None,
            "who has the slot next is not published by that"
        );
    });
}

#[test]
fn who_is_connected_to_what_is_gone_is_told_so_and_not_led_astray() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        echo(&container);
        publish(&network, &container, true).await;
        let mut clients: Vec<TcpStream> = HOST.iter().map(|host| opened(&lab, host)).collect();
        for client in &mut clients {
            assert_eq!(says(client, "one").unwrap(), "one");
        }
        // Whoever has that address on the internet would be sent what is said.
        for stranger in container.addresses.both() {
            lab.internet.ip(&[&format!("address add {stranger} dev lo")]);
        }
        ip(&[&format!("link delete dev {}", network.link(container.slot))]).await;
        network.dismiss(container.slot).await.unwrap();
        for client in clients {
            eventually("it is told", async || {
                let said = says(&mut client.try_clone().unwrap(), "two").map_err(|error| error.kind());
                matches!(said, Err(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
            })
            .await;
        }
    });
}
