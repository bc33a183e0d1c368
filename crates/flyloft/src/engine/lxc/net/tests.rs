//! What containers reach and what they do not, tried with real packets in namespaces of their own. Needs root.

mod lab;
mod published;
mod renewal;

use std::io::{Read, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::*;
use crate::exec::Cmd;
use lab::{HOST, PRIVATE, PUBLIC, RESOLVER, ROUTER, at, config, connect, ip, lab, serve, slot};

fn network() -> Network {
    Network::new("1f3a9c", config())
}

async fn installed() -> Network {
    let network = network();
    network.install().await.unwrap();
    network
}

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn a_container_reaches_the_internet_as_the_host_over_both_families() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        for (public, host) in PUBLIC.iter().zip(HOST) {
            assert_eq!(container.space.connect(at(public, 80)), address(host), "{public}");
        }
    });
}

#[test]
fn the_host_reaches_a_container_and_nobody_else_does() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        container.space.serve(at("::", 5000));
        lab.internet
            .ip(&["route add 10.213.0.0/16 via 198.51.100.2", "-6 route add fd66:6c79:6c66::/64 via 2001:db8:f::2"]);
        for to in container.addresses.both().map(|address| SocketAddr::new(address, 5000)) {
            assert!(connect(to).is_some(), "the host to {to}");
            assert_eq!(lab.internet.connect(to), None, "the internet to {to}");
        }
    });
}

#[test]
fn what_is_for_a_container_that_is_gone_goes_to_nobody() {
    lab(async |lab| {
        let network = installed().await;
        lab.admitted(&network, 0, &[]).await;
        let stranger = slot(7).addresses(&config());
        for address in stranger.both() {
            lab.internet.ip(&[&format!("address add {address} dev lo")]);
        }
        lab.internet.serve(at("::", 5000));
        for public in PUBLIC {
            assert!(connect(at(public, 5000)).is_some(), "the stranger serves at {public}");
        }
        for address in stranger.both() {
            let error = TcpStream::connect_timeout(&SocketAddr::new(address, 5000), Duration::from_secs(5));
            let refused = std::io::ErrorKind::ConnectionRefused;
            assert_eq!(error.map_err(|error| error.kind()).map(drop), Err(refused), "{address}");
        }
    });
}

#[test]
fn containers_do_not_reach_each_other_whichever_daemon_they_belong_to() {
    lab(async |lab| {
        let network = installed().await;
        let other = Network::new("0000ff", config());
        other.install().await.unwrap();
        let from = lab.admitted(&network, 0, &[]).await;
        for to in [lab.admitted(&network, 1, &[]).await, lab.admitted(&other, 2, &[]).await] {
            to.space.serve(at("::", 5000));
            for to in to.addresses.both().map(|address| SocketAddr::new(address, 5000)) {
                assert!(connect(to).is_some(), "there is a server at {to}");
                assert_eq!(from.space.connect(to), None, "{to}");
            }
        }
    });
}

#[test]
fn of_the_host_a_container_reaches_the_edge_alone() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        for port in [22, 53, 8080] {
            serve(TcpListener::bind(at("::", port)).unwrap());
        }
        for host in HOST {
            assert_eq!(container.space.connect(at(host, 22)), None, "{host}");
            assert_eq!(container.space.connect(at(host, 53)), None, "{host}");
            assert!(container.space.connect(at(host, 8080)).is_some(), "{host}");
        }
        let gateway = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 22, 0, 2);
        assert_eq!(container.space.connect(gateway.into()), None);
        assert_eq!(container.space.connect(at("169.254.1.1", 22)), None);
    });
}

#[test]
fn private_places_metadata_and_mail_are_closed() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        for private in PRIVATE.iter().chain(&ROUTER).chain([&RESOLVER]) {
            assert_eq!(container.space.connect(at(private, 80)), None, "{private}");
        }
        for public in PUBLIC {
            assert_eq!(container.space.connect(at(public, 25)), None, "{public}");
        }
        // The same from the host, so that it is not for want of a server.
        assert!(connect(at(PRIVATE[0], 80)).is_some() && connect(at(PUBLIC[0], 25)).is_some());
    });
}

#[test]
fn reach_opens_one_port_of_one_address_for_one_container() {
    lab(async |lab| {
        let network = installed().await;
        let allow = [at("192.168.7.7", 5432), at("fd12:3456:789a::1", 5432), at(HOST[0], 5432)];
        let with = lab.admitted(&network, 0, &allow).await;
        let without = lab.admitted(&network, 1, &[]).await;
        serve(TcpListener::bind(at("::", 5432)).unwrap());
        for to in allow {
            assert!(with.space.connect(to).is_some(), "{to}");
            assert_eq!(without.space.connect(to), None, "{to}");
            assert_eq!(with.space.connect(SocketAddr::new(to.ip(), 80)), None, "{to}");
        }
        with.admit(&network, &allow[1..]).await;
        assert_eq!(with.space.connect(allow[0]), None, "taken back");
        assert!(with.space.connect(allow[1]).is_some(), "kept");
    });
}

#[test]
fn a_forged_source_address_goes_nowhere() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        let neighbour = lab.admitted(&network, 1, &[]).await;
        let Addresses { ipv4, ipv6 } = neighbour.addresses;
        for (public, forged) in
            PUBLIC.iter().zip([[ipv4.to_string(), "192.0.2.99".into()], [ipv6.to_string(), "2001:db8::99".into()]])
        {
            assert!(container.space.connect(at(public, 80)).is_some(), "the way is open");
            let receiver = lab.internet.udp(at(public, 9999));
            let mut buffer = [0; 16];
            for source in forged {
                let suffix = if source.contains(':') { "/128 nodad" } else { "/32" };
                container.space.ip(&[&format!("addr add {source}{suffix} dev eth0")]);
                container.space.udp(at(&source, 0)).send_to(b"forged", at(public, 9999)).unwrap();
            }
            // On the same way and after them: when this arrives, they would have.
            let own = container.addresses.both().into_iter().find(|own| own.is_ipv4() != public.contains(':')).unwrap();
            container.space.udp(SocketAddr::new(own, 0)).send_to(b"honest", at(public, 9999)).unwrap();
            let count = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"honest", "{public}");
        }
    });
}

#[test]
fn names_are_resolved_by_the_hosts_resolver_over_udp_and_tcp() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        let resolver = lab.internet.udp(at(RESOLVER, 53));
        for asked in ["169.254.1.1", "169.254.1.2"] {
            let client = container.space.udp(SocketAddr::new(container.addresses.ipv4.into(), 0));
            client.send_to(b"question", at(asked, 53)).unwrap();
            let mut buffer = [0; 16];
            let (_, from) = resolver.recv_from(&mut buffer).unwrap();
            assert_eq!(from.ip().to_string(), HOST[0]);
            resolver.send_to(b"answer", from).unwrap();
            let (count, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..count], from), (&b"answer"[..], at(asked, 53)));
            assert!(container.space.connect(at(asked, 53)).is_some(), "{asked} over TCP");
            assert_eq!(container.space.connect(at(asked, 80)), None, "{asked} is a resolver and nothing else");
        }
        assert_eq!(container.space.connect(at(RESOLVER, 53)), None, "by its own address it is a private place");
    });
}

#[test]
fn a_link_that_nobody_admitted_carries_nothing() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.container(&network, 0).await;
        for public in PUBLIC {
            assert_eq!(container.space.connect(at(public, 80)), None, "before");
        }
        container.admit(&network, &[at("192.168.7.7", 80)]).await;
        assert!(container.space.connect(at(PUBLIC[0], 80)).is_some());
        network.dismiss(container.slot).await.unwrap();
        network.dismiss(container.slot).await.unwrap();
        for to in [PUBLIC[0], PUBLIC[1], "192.168.7.7"] {
            assert_eq!(container.space.connect(at(to, 80)), None, "after");
        }
    });
}

/// Entries of the kernel's table of connections in this namespace.
async fn tracked() -> u32 {
    let count = Cmd::new("cat").arg("/proc/sys/net/netfilter/nf_conntrack_count").run().await.unwrap();
    String::from_utf8_lossy(&count.stdout).trim().parse().unwrap()
}

#[test]
fn one_container_cannot_use_up_the_connections_of_all() {
    lab(async |lab| {
        let network = installed().await;
        let hog = lab.admitted(&network, 0, &[]).await;
        let modest = lab.admitted(&network, 1, &[]).await;
        let share = tracking::Share::observe();
        let socket = hog.space.udp(SocketAddr::new(hog.addresses.ipv4.into(), 0));
        // Each port is a connection of its own to the host. Errors of earlier packets are reported by later ones.
        for port in 1000..60_000 {
            let _ = socket.send_to(b"x", at(PUBLIC[0], port));
        }
        let used = tracked().await;
        assert!((share.open..share.open * 3 / 2).contains(&used), "{used} of {share:?}");
        assert_eq!(hog.space.connect(at(PUBLIC[0], 80)), None);
        assert!(modest.space.connect(at(PUBLIC[0], 80)).is_some());
    });
}

#[test]
fn connections_that_are_closed_at_once_do_not_pile_up_whoever_they_were_to() {
    // The edge's, and somebody's on the internet.
    for to in [at(HOST[0], 8080), at(HOST[1], 8080), at(PUBLIC[0], 80)] {
        lab(async |lab| {
            let network = installed().await;
            let hog = lab.admitted(&network, 0, &[]).await;
            let modest = lab.admitted(&network, 1, &[]).await;
            serve(TcpListener::bind(at("::", 8080)).unwrap());
            let share = tracking::Share::observe();
            let (mut opened, mut waited) = (0, 0);
            // Until three have been kept waiting: on a busy machine the listener itself does that now and then.
            let hasty = || {
                while waited < 3 && opened < 20_000 {
                    match TcpStream::connect_timeout(&to, Duration::from_millis(300)) {
                        Ok(_) => opened += 1,
                        Err(_) => waited += 1,
                    }
                }
            };
            hog.space.enter(hasty);
            let used = tracked().await;
            assert!((share.burst / 4..share.burst * 3).contains(&opened), "{opened} of {share:?} to {to}");
            assert!(used < share.open * 3, "{used} of {share:?} to {to}");
            assert!(modest.space.connect(to).is_some(), "{to}");
        });
    }
}

#[test]
fn an_ordinary_app_has_all_the_connections_that_it_wants() {
    lab(async |lab| {
        let network = installed().await;
        let app = lab.admitted(&network, 0, &[]).await;
        serve(TcpListener::bind(at("::", 8080)).unwrap());
        for to in [at(HOST[0], 8080), at(PUBLIC[1], 80)] {
            let open = || (0..200).map(|_| TcpStream::connect(to)).collect::<io::Result<Vec<_>>>();
            assert_eq!(app.space.enter(open).unwrap().len(), 200, "{to}");
        }
    });
}

#[test]
fn a_restarted_daemon_finds_what_was_admitted_and_leaves_it() {
    lab(async |lab| {
        let allow = [at("192.168.7.7", 5432), at("fd12:3456:789a::1", 5432)];
        let container = lab.admitted(&installed().await, 0, &allow).await;
        let connection = container.space.enter(|| TcpStream::connect(at(PUBLIC[0], 80)).unwrap());
        let network = installed().await;
        assert_eq!(network.observe().await.unwrap(), [(network.link(slot(0)), allow.into())].into());
        assert!(container.space.connect(allow[0]).is_some() && connection.peer_addr().is_ok());
        container.admit(&network, &[]).await;
        assert_eq!(container.space.connect(allow[0]), None);
        network.dismiss_all_but(&BTreeSet::new()).await.unwrap();
        assert_eq!(container.space.connect(at(PUBLIC[0], 80)), None);
        assert_eq!(network.observe().await.unwrap(), BTreeMap::new());
    });
}

#[test]
fn a_table_that_somebody_emptied_is_no_obstacle() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[at("192.168.7.7", 80)]).await;
        nft::apply("delete table inet flyloft_1f3a9c").await.unwrap();
        network.install().await.unwrap();
        nft::apply("flush set inet flyloft_1f3a9c reach4").await.unwrap();
        container.admit(&network, &[]).await;
        assert!(container.space.connect(at(PUBLIC[0], 80)).is_some());
    });
}

#[test]
fn what_was_opened_while_there_was_no_table_ends_with_its_return() {
    lab(async |lab| {
        let network = installed().await;
        let container = lab.admitted(&network, 0, &[]).await;
        for host in HOST {
            let listener = TcpListener::bind(at(host, 22)).unwrap();
            assert_eq!(container.space.connect(at(host, 22)), None, "it is closed");
            nft::apply("delete table inet flyloft_1f3a9c").await.unwrap();
            let mut opened = container.space.enter(|| TcpStream::connect(at(host, 22)).unwrap());
            let (mut taken, _) = listener.accept().unwrap();
            taken.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            let mut buffer = [0; 8];
            opened.write_all(b"before").unwrap();
            assert_eq!(taken.read(&mut buffer).unwrap(), 6, "nothing is in the way");
            network.install().await.unwrap();
            container.admit(&network, &[]).await;
            opened.write_all(b"after").unwrap();
            assert!(taken.read(&mut buffer).is_err(), "{host} is closed again");
        }
    });
}

#[test]
fn the_removal_of_the_table_is_heard_of_and_its_change_is_not() {
    lab(async |_lab| {
        let network = installed().await;
        let removals = Removals::listen().unwrap();
        let soon = |limit| tokio::time::timeout(Duration::from_millis(limit), network.removed(&removals));
        network.install().await.unwrap();
        nft::apply("add table inet flyloft_1f3a9\ndelete table inet flyloft_1f3a9\n").await.unwrap();
        assert!(soon(200).await.is_err(), "it is there");
        nft::apply("flush ruleset").await.unwrap();
        soon(20_000).await.unwrap().unwrap();
        network.install().await.unwrap();
        network.uninstall().await.unwrap();
        assert!(soon(200).await.is_err(), "it is not wanted");
    });
}

/// A router advertisement (RFC 4861, 4.2 and 4.6.2) of the prefix 2001:db8:bad::/64, from the link's other end. It does
/// not offer to be the default router, which would be the end of this host's way out.
fn advertise(space: &lab::Space) {
    const PREFIX: [u8; 8] = [0x20, 0x01, 0x0d, 0xb8, 0x0b, 0xad, 0, 0];
    let router = [134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let lifetimes = [3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0];
    let packet = [&router[..], &lifetimes, &PREFIX, &[0; 8]].concat();
    space.enter(|| {
        use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};
        let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6).unwrap();
        // Routers send to the link alone, which a hop limit of 255 proves.
        let hops: libc::c_int = 255;
        let (pointer, length) = ((&raw const hops).cast(), size_of_val(&hops) as u32);
        // SAFETY: setsockopt(2) reads a number, which lives across the call.
        let set = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, pointer, length)
        };
        assert_eq!(set, 0);
        let everybody = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, 2);
        let to = nix::sys::socket::SockaddrIn6::from(everybody);
        sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    });
}

#[test]
fn the_host_takes_no_address_from_a_container() {
    lab(async |lab| {
        let network = network();
        let container = lab.container(&network, 0).await;
        // So that the host would listen, for all that it is a router.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_ra", network.link(slot(0))), "2").unwrap();
        // Nor is the container to believe itself.
        container.space.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0").unwrap());
        let taken = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap().contains("20010db80bad");
        advertise(&container.space);
        crate::engine::conformance::eventually("it is taken where there is no table", async || taken()).await;
        ip(&["-6 addr flush dev fl1f3a9c0 scope global"]).await;
        assert!(!taken());
        network.install().await.unwrap();
        container.admit(&network, &[]).await;
        ip(&[&format!("-6 route replace {}/128 dev fl1f3a9c0", container.addresses.ipv6)]).await;
        advertise(&container.space);
        // On the same way and after it: what comes through now, it would have come before.
        assert!(container.space.connect(at(PUBLIC[1], 80)).is_some());
        assert!(!taken());
    });
}

#[test]
fn one_daemons_table_goes_without_touching_anothers() {
    lab(async |lab| {
        let (network, other) = (installed().await, Network::new("0000ff", config()));
        other.install().await.unwrap();
        let container = lab.admitted(&other, 0, &[]).await;
        network.uninstall().await.unwrap();
        network.uninstall().await.unwrap();
        let left = Cmd::new("nft").args(["list", "tables"]).run().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "table inet flyloft_0000ff\n");
        assert!(container.space.connect(at(PUBLIC[1], 80)).is_some());
    });
}

#[test]
fn a_network_that_has_our_addresses_already_is_named() {
    lab(async |_lab| {
        ip(&["link add vpn0 type veth peer name vpn1", "addr add 10.213.7.1/24 dev vpn0", "link set vpn0 up"]).await;
        let error = network().install().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "containers are to have addresses from `10.213.0.0` on, but this machine has a route to `10.213.7.0/24` over `vpn0`"
        );
    });
}

#[test]
fn becoming_a_router_keeps_the_route_that_an_advertisement_gave() {
    lab(async |_lab| {
        let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap().trim().to_owned();
        assert_eq!(setting("ipv6/conf/up0/accept_ra"), "1");
        installed().await;
        assert_eq!(setting("ipv6/conf/up0/accept_ra"), "2");
        assert_eq!((setting("ipv6/conf/all/forwarding"), setting("ipv4/ip_forward")), ("1".into(), "1".into()));
    });
}

#[test]
fn a_resolver_on_the_hosts_loopback_answers_containers_over_udp_and_tcp() {
    for resolver in ["127.0.0.1", "::1"] {
        lab(async |lab| {
            let server = lab::udp(at(resolver, 53));
            serve(TcpListener::bind(at(resolver, 53)).unwrap());
            let config = NetConfig { dns: vec![resolver.parse().unwrap()], ..config() };
            let network = Network::new("1f3a9c", config);
            network.install().await.unwrap();
            network.install().await.unwrap();
            let container = lab.admitted(&network, 0, &[]).await;
            let client = container.space.udp(SocketAddr::new(container.addresses.ipv4.into(), 0));
            client.send_to(b"question", at("169.254.1.1", 53)).unwrap();
            let mut buffer = [0; 16];
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"question");
            server.send_to(b"answer", from).unwrap();
            let (count, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..count], from), (&b"answer"[..], at("169.254.1.1", 53)));
            assert_eq!(container.space.connect(at("169.254.1.2", 53)), Some(resolver.parse().unwrap()));
            assert_eq!(container.space.connect(at("169.254.1.1", 22)), None);
        });
    }
}

#[test]
fn a_host_without_a_resolver_is_told_what_to_do() {
    let network = Network::new("1f3a9c", config());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(network.forward(&[])).unwrap_err();
    assert!(matches!(error, NetError::NoResolver));
    assert!(error.hint().contains("`dns`"));
}

#[test]
fn a_containers_lines_of_configuration_read_like_this() {
    lab(async |_lab| {
        let lines = network().lxc_lines(slot(4095), &slot(4095).addresses(&config()));
        insta::assert_snapshot!(lines, @r"
        lxc.net.0.type = veth
        lxc.net.0.veth.mode = router
        lxc.net.0.veth.pair = fl1f3a9c4095
        lxc.net.0.name = eth0
        lxc.net.0.hwaddr = 02:1f:3a:9c:0f:ff
        lxc.net.0.ipv4.address = 10.213.16.0/32
        lxc.net.0.ipv4.gateway = 169.254.1.1
        lxc.net.0.ipv6.address = fd66:6c79:6c66::1000/128
        lxc.net.0.ipv6.gateway = fe80::1
        lxc.net.0.flags = up
        lxc.hook.pre-mount = /bin/sh -c 'for link in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $link; done; true'
        ");
    });
}
