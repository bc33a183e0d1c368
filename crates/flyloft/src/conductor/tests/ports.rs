//! Published ports of environments on the ladder.

use std::net::{Ipv6Addr, SocketAddr};

use flyloft_core::port::{Port, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::store::now;

/// An environment with one port that is published. Whoever comes by it wakes it.
async fn published(idle: Option<u64>) -> (Stage, EnvRow, Conductor, Port) {
    let (stage, env, conductor) = deployed(policy(idle, None, None)).await;
    let parts = &stage.loft.parts;
    tokio::spawn(parts.ports.clone().keep_for_ever());
    let visitors = stage.visitors.lock().unwrap().take().unwrap();
    tokio::spawn(stage.loft.clone().answer(visitors));
    let free = async || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap().local_addr().unwrap().port();
    let port = Port { protocol: Protocol::Tcp, host: free().await, port: free().await };
    let claim = parts.ports.claim(port.protocol, port.host).unwrap();
    assert!(parts.store.add_port(env.id, port, now()).await.unwrap());
    parts.ports.open(env.id, &env.name, port, claim).unwrap();
    conductor.reload().await.unwrap();
    (stage, env, conductor, port)
}

impl Stage {
    /// Which ports lead to containers, and whether straight.
    async fn doors(&self, env: &EnvRow) -> Vec<(u16, bool)> {
        self.loft.parts.ports.settled(env.id).await;
        self.engine.published().iter().map(|port| (port.host, port.straight)).collect()
    }
}

#[tokio::test]
async fn a_visitor_by_a_port_wakes_what_sleeps_or_is_off_and_gets_through() {
    let (stage, env, conductor, port) = published(None).await;
    let container = env.live.clone().unwrap().container;
    let address = stage.loft.parts.engine.find(&container).await.unwrap().unwrap().addresses.ipv4;
    let app = TcpListener::bind((address, port.port)).await.unwrap();
    assert_eq!(stage.doors(&env).await, [(port.host, true)]);
    for down in [Event::Sleep { depth: Depth::Shallow }, Event::Off] {
        conductor.tell(down).await.unwrap();
        conductor.at_rest().await.unwrap();
        assert_eq!(stage.doors(&env).await, [(port.host, false)]);
        let mut client = TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port.host))).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let (mut taken, _) = app.accept().await.unwrap();
        let mut said = [0; 5];
        taken.read_exact(&mut said).await.unwrap();
        assert_eq!((&said, conductor.state().to_string().as_str()), (b"hello", "awake v1"));
        assert_eq!(stage.doors(&env).await, [(port.host, true)]);
    }
    let by = format!("a connection to port {} from ::1", port.port);
    stage.wait_until("both wakes are on record", async || stage.store().wakes(env.id).await.unwrap().len() == 2).await;
    assert!(stage.store().wakes(env.id).await.unwrap().iter().all(|wake| wake.by == by));
}

#[tokio::test]
async fn what_is_said_to_a_port_until_its_door_is_closed_keeps_it_awake() {
    let (stage, env, conductor, _) = published(Some(200)).await;
    let container = env.live.clone().unwrap().container;
    stage.engine.say(&container, 7);
    stage.doors(&env).await;
    stage.door.busy.send_replace(true);
    stage.wait_for_state("asleep v1").await;
    stage.engine.say(&container, 8);
    stage.door.busy.send_replace(false);
    // Whoever said it may have been told of as a visit by then, which calls it off.
    let kept = conductor.at_rest().await.unwrap();
    assert!(kept.is_none() || kept == Some(Restless::Used), "{kept:?}");
    assert_eq!(stage.calls("freeze"), 0);
    stage.wait_until("nobody says anything any more", async || stage.is(ContainerState::Frozen).await).await;
}

#[tokio::test]
async fn who_wants_it_asleep_does_not_wait_for_what_was_said_before() {
    let (stage, env, conductor, _) = published(None).await;
    let container = env.live.clone().unwrap().container;
    stage.engine.say(&container, 7);
    stage.doors(&env).await;
    stage.engine.say(&container, 8);
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    assert_eq!(conductor.at_rest().await.unwrap(), None);
    assert!(stage.is(ContainerState::Frozen).await);
    assert_eq!(conductor.state().to_string(), "asleep v1");
}

#[tokio::test]
async fn a_port_goes_with_its_environment() {
    let (stage, env, conductor, port) = published(None).await;
    stage.loft.keep_ports(Vec::new()).await.unwrap();
    assert!(stage.loft.parts.ports.serves(env.id, port), "it is on record");
    conductor.tell(Event::Destroy).await.unwrap();
    conductor.gone().await;
    assert_eq!(stage.store().ports().await.unwrap(), []);
    stage.wait_until("nothing is published", async || stage.engine.published().is_empty()).await;
    stage.wait_until("it is free", async || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port.host)).await.is_ok()).await;
}
