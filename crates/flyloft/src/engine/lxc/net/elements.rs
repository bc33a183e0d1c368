//! What is admitted, as elements of the table's sets. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use flyloft_core::port::Protocol;
use serde_json::Value;

/// What the kernel knows about one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Addresses that it may send from.
    pub sources: BTreeSet<IpAddr>,
    /// What it may open, although it is closed to all.
    pub allow: BTreeSet<SocketAddr>,
    pub ways: Ways,
}

/// How others get at what is behind a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Ports that others may be connected to.
    pub open: BTreeSet<(Protocol, u16)>,
    pub doors: BTreeSet<Door>,
}

/// A port of the host by which newcomers get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    pub protocol: Protocol,
    pub host: u16,
    pub to: SocketAddr,
}

/// A change of what the kernel knows about a link: its name, what is known and what is wanted.
pub type Change<'a> = (&'a str, Option<&'a Admitted>, Option<&'a Admitted>);

impl Admitted {
    /// Set and element for each entry.
    fn elements(&self, link: &str) -> BTreeSet<(&'static str, String)> {
        let sources = self.sources.iter().map(|address| {
            let set = if address.is_ipv4() { "sources4" } else { "sources6" };
            (set, format!("{link:?} . {address}"))
        });
        let allow = self.allow.iter().map(|to| {
            let set = if to.is_ipv4() { "reach4" } else { "reach6" };
            (set, format!("{link:?} . {} . {}", to.ip(), to.port()))
        });
        let Ways { open, doors } = &self.ways;
        let used = open.first().map(|_| ("used", format!("{link:?}")));
        let open = open.iter().map(|(protocol, port)| ("open", format!("{link:?} . {protocol} . {port}")));
        let doors = doors.iter().map(|Door { protocol, host, to }| {
            let map = if to.is_ipv4() { "doors4" } else { "doors6" };
            (map, format!("{protocol} . {host} : {} . {}", to.ip(), to.port()))
        });
        sources.chain(allow).chain(used).chain(open).chain(doors).collect()
    }
}

/// What makes the kernel's knowledge of links go from what is known to what is wanted, in one transaction. What goes
/// goes first: a door may lead from one to another.
pub fn transaction(table: &str, changes: &[Change<'_>]) -> String {
    let (mut gone, mut come) = (String::new(), String::new());
    for (link, known, wanted) in changes {
        let elements = |admitted: &Option<&Admitted>| admitted.map(|it| it.elements(link)).unwrap_or_default();
        let (known, wanted) = (elements(known), elements(wanted));
        let line = |verb: &str, (set, element): &(&str, String)| {
            format!("{verb} element inet {table} {set} {{ {element} }}\n")
        };
        gone.extend(known.difference(&wanted).map(|element| line("delete", element)));
        come.extend(wanted.iter().map(|element| line("add", element)));
    }
    gone + &come
}

/// What `nft -j` says of sets and of maps, by link. Elements that are not ours to make are not there.
pub fn parse(sets: &Value, maps: &Value, table: &str) -> BTreeMap<String, Admitted> {
    let mut admitted: BTreeMap<String, Admitted> = BTreeMap::new();
    for (set, element) in elements(sets, "set", table) {
        let Some(part) = element["concat"].as_array() else { continue };
        let Some(link) = part.first().and_then(Value::as_str) else { continue };
        let of_link = admitted.entry(link.to_owned()).or_default();
        match (set, address(part.get(1))) {
            ("sources4" | "sources6", Some(address)) => {
                of_link.sources.insert(address);
            }
            ("reach4" | "reach6", Some(address)) => {
                of_link.allow.extend(port(part.get(2)).map(|port| SocketAddr::new(address, port)));
            }
            ("open", None) => of_link.ways.open.extend(protocol(part.get(1)).zip(port(part.get(2)))),
            _ => {}
        }
    }
    for (_, pair) in elements(maps, "map", table) {
        let Some(door) = door(pair) else { continue };
        // One that leads to nobody is nobody's, and goes as such.
        let owner = admitted.iter().find(|(_, of_link)| of_link.sources.contains(&door.to.ip()));
        let link = owner.map_or_else(String::new, |(link, _)| link.clone());
        admitted.entry(link).or_default().ways.doors.insert(door);
    }
    admitted
}

/// How many packets have been counted for each link, as `nft -j list set` says of `used`.
pub fn parse_counts(answer: &Value, table: &str) -> BTreeMap<String, u64> {
    let count = |(_, element): (&str, &Value)| {
        let element = &element["elem"];
        Some((element["val"].as_str()?.to_owned(), element["counter"]["packets"].as_u64()?))
    };
    elements(answer, "set", table).filter_map(count).collect()
}

/// The elements of each set, or map, of a table.
fn elements<'a>(answer: &'a Value, kind: &'a str, table: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let objects = answer["nftables"].as_array().into_iter().flatten();
    let sets = objects.map(move |object| &object[kind]).filter(move |set| set["table"] == table);
    sets.flat_map(|set| {
        let name = set["name"].as_str().unwrap_or_default();
        set["elem"].as_array().into_iter().flatten().map(move |element| (name, element))
    })
}

/// `[{"concat": ["tcp", 20001]}, {"concat": ["10.213.0.7", 5432]}]`
fn door(pair: &Value) -> Option<Door> {
    let (from, to) = (&pair[0]["concat"], &pair[1]["concat"]);
    let to = SocketAddr::new(address(to.get(0))?, port(to.get(1))?);
    Some(Door { protocol: protocol(from.get(0))?, host: port(from.get(1))?, to })
}

fn address(value: Option<&Value>) -> Option<IpAddr> {
    value?.as_str()?.parse().ok()
}

fn port(value: Option<&Value>) -> Option<u16> {
    value?.as_u64()?.try_into().ok()
}

fn protocol(value: Option<&Value>) -> Option<Protocol> {
    value?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(sources: &[&str], allow: &[&str]) -> Admitted {
        Admitted {
            sources: sources.iter().map(|text| text.parse().unwrap()).collect(),
            allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
            ways: Ways::default(),
        }
    }

    /// With port 5432 published as these of the host.
    fn published(sources: &[&str], hosts: &[u16]) -> Admitted {
        let door = |host: &u16, address: &&str| Door {
            protocol: Protocol::Tcp,
            host: *host,
            to: SocketAddr::new(address.parse().unwrap(), 5432),
        };
        let doors = hosts.iter().flat_map(|host| sources.iter().map(move |address| door(host, address)));
        let ways = Ways { open: [(Protocol::Tcp, 5432)].into(), doors: doors.collect() };
        Admitted { ways, ..admitted(sources, &[]) }
    }

    #[test]
    fn a_change_takes_back_what_is_no_longer_wanted() {
        let known = admitted(&["10.0.0.1", "fd00::1"], &["192.168.0.1:80", "[fd01::1]:80"]);
        let wanted = admitted(&["10.0.0.1", "fd00::1"], &["192.168.0.1:443"]);
        insta::assert_snapshot!(transaction("t", &[("fl1", Some(&known), Some(&wanted))]), @r#"
        delete element inet t reach4 { "fl1" . 192.168.0.1 . 80 }
        delete element inet t reach6 { "fl1" . fd01::1 . 80 }
        add element inet t reach4 { "fl1" . 192.168.0.1 . 443 }
        add element inet t sources4 { "fl1" . 10.0.0.1 }
        add element inet t sources6 { "fl1" . fd00::1 }
        "#);
        insta::assert_snapshot!(transaction("t", &[("fl1", Some(&wanted), None)]), @r#"
        delete element inet t reach4 { "fl1" . 192.168.0.1 . 443 }
        delete element inet t sources4 { "fl1" . 10.0.0.1 }
        delete element inet t sources6 { "fl1" . fd00::1 }
        "#);
        assert_eq!(transaction("t", &[("fl1", None, None)]), "");
    }

    #[test]
    fn a_door_leaves_the_one_before_the_other_has_it() {
        let [one, two] = [["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"]];
        let (known, wanted) = (published(&two, &[]), published(&two, &[20_001]));
        let (leaves, left) = (published(&one, &[20_001]), published(&one, &[]));
        let changes = [("fl2", Some(&known), Some(&wanted)), ("fl1", Some(&leaves), Some(&left))];
        insta::assert_snapshot!(transaction("t", &changes), @r#"
        delete element inet t doors4 { tcp . 20001 : 10.0.0.1 . 5432 }
        delete element inet t doors6 { tcp . 20001 : fd00::1 . 5432 }
        add element inet t doors4 { tcp . 20001 : 10.0.0.2 . 5432 }
        add element inet t doors6 { tcp . 20001 : fd00::2 . 5432 }
        add element inet t open { "fl2" . tcp . 5432 }
        add element inet t sources4 { "fl2" . 10.0.0.2 }
        add element inet t sources6 { "fl2" . fd00::2 }
        add element inet t used { "fl2" }
        add element inet t open { "fl1" . tcp . 5432 }
        add element inet t sources4 { "fl1" . 10.0.0.1 }
        add element inet t sources6 { "fl1" . fd00::1 }
        add element inet t used { "fl1" }
        "#);
    }

    #[test]
    fn what_nft_lists_is_understood() {
        let sets = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"set": {"table": "t", "name": "sources4", "elem": [{"concat": ["fl1", "10.0.0.1"]}, {"concat": ["fl2", "10.0.0.2"]}]}},
            {"set": {"table": "t", "name": "sources6", "elem": [{"concat": ["fl1", "fd00::1"]}]}},
            {"set": {"table": "t", "name": "reach4", "elem": [{"concat": ["fl1", "192.168.0.1", 80]}]}},
            {"set": {"table": "t", "name": "closed4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}},
            {"set": {"table": "t", "name": "open", "elem": [{"concat": ["fl2", "tcp", 5432]}]}},
            {"set": {"table": "t", "name": "used", "elem": [{"elem": {"val": "fl2", "counter": {"packets": 7, "bytes": 9}}}]}},
        ]});
        let maps = serde_json::json!({"nftables": [
            {"map": {"table": "t", "name": "resolvers", "elem": [["169.254.1.1", "192.0.2.53"]]}},
            {"map": {"table": "t", "name": "doors4", "elem": [
                [{"concat": ["tcp", 20001]}, {"concat": ["10.0.0.2", 5432]}],
                [{"concat": ["udp", 20002]}, {"concat": ["10.0.0.9", 53]}],
            ]}},
        ]});
        let stray = Door { protocol: Protocol::Udp, host: 20_002, to: "10.0.0.9:53".parse().unwrap() };
        let expected = [
            (
                String::new(),
                Admitted { ways: Ways { doors: [stray].into(), ..Ways::default() }, ..Admitted::default() },
            ),
            ("fl1".to_owned(), admitted(&["10.0.0.1", "fd00::1"], &["192.168.0.1:80"])),
            ("fl2".to_owned(), published(&["10.0.0.2"], &[20_001])),
        ];
        assert_eq!(parse(&sets, &maps, "t"), expected.into());
        assert_eq!(parse_counts(&sets, "t"), [("fl2".to_owned(), 7)].into());
        assert_eq!(parse_counts(&sets, "other"), BTreeMap::new());
    }
}
