//! What is admitted, as elements of the table's sets. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

/// What the kernel knows about one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Addresses that it may send from.
    pub sources: BTreeSet<IpAddr>,
    /// What it may open, although it is closed to all.
    pub allow: BTreeSet<SocketAddr>,
}

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
        sources.chain(allow).collect()
    }
}

/// What makes the kernel's knowledge of `link` go from `known` to `wanted`, in one transaction.
pub fn transaction(table: &str, link: &str, known: Option<&Admitted>, wanted: Option<&Admitted>) -> String {
    let elements = |admitted: Option<&Admitted>| admitted.map(|it| it.elements(link)).unwrap_or_default();
    let (known, wanted) = (elements(known), elements(wanted));
    let line =
        |verb: &str, (set, element): &(&str, String)| format!("{verb} element inet {table} {set} {{ {element} }}\n");
    let gone = known.difference(&wanted).map(|element| line("delete", element));
    gone.chain(wanted.iter().map(|element| line("add", element))).collect()
}

/// What `nft -j list sets` says, by link. Elements that are not ours to make are not there.
pub fn parse(answer: &Value, table: &str) -> BTreeMap<String, Admitted> {
    let mut admitted: BTreeMap<String, Admitted> = BTreeMap::new();
    let objects = answer["nftables"].as_array().into_iter().flatten();
    let sets = objects.map(|object| &object["set"]).filter(|set| set["table"] == table);
    for set in sets {
        let elements = set["elem"].as_array().into_iter().flatten();
        let parts = elements.filter_map(|element| element["concat"].as_array());
        for part in parts {
            let Some((link, address)) = part.first().and_then(Value::as_str).zip(address(part.get(1))) else {
                continue;
            };
            let of_link = admitted.entry(link.to_owned()).or_default();
            match set["name"].as_str() {
                Some("sources4" | "sources6") => {
                    of_link.sources.insert(address);
                }
                Some("reach4" | "reach6") => {
                    let port = part.get(2).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
                    of_link.allow.extend(port.map(|port| SocketAddr::new(address, port)));
                }
                _ => {}
            }
        }
    }
    admitted
}

fn address(value: Option<&Value>) -> Option<IpAddr> {
    value?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(sources: &[&str], allow: &[&str]) -> Admitted {
        Admitted {
            sources: sources.iter().map(|text| text.parse().unwrap()).collect(),
            allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_change_takes_back_what_is_no_longer_wanted() {
        let known = admitted(&["10.0.0.1", "fd00::1"], &["192.168.0.1:80", "[fd01::1]:80"]);
        let wanted = admitted(&["10.0.0.1", "fd00::1"], &["192.168.0.1:443"]);
        insta::assert_snapshot!(transaction("t", "fl1", Some(&known), Some(&wanted)), @r#"
        delete element inet t reach4 { "fl1" . 192.168.0.1 . 80 }
        delete element inet t reach6 { "fl1" . fd01::1 . 80 }
        add element inet t reach4 { "fl1" . 192.168.0.1 . 443 }
        add element inet t sources4 { "fl1" . 10.0.0.1 }
        add element inet t sources6 { "fl1" . fd00::1 }
        "#);
        insta::assert_snapshot!(transaction("t", "fl1", Some(&wanted), None), @r#"
        delete element inet t reach4 { "fl1" . 192.168.0.1 . 443 }
        delete element inet t sources4 { "fl1" . 10.0.0.1 }
        delete element inet t sources6 { "fl1" . fd00::1 }
        "#);
        assert_eq!(transaction("t", "fl1", None, None), "");
    }

    #[test]
    fn what_nft_lists_is_understood() {
        let answer = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"set": {"table": "t", "name": "sources4", "elem": [{"concat": ["fl1", "10.0.0.1"]}, {"concat": ["fl2", "10.0.0.2"]}]}},
            {"set": {"table": "t", "name": "sources6", "elem": [{"concat": ["fl1", "fd00::1"]}]}},
            {"set": {"table": "t", "name": "reach4", "elem": [{"concat": ["fl1", "192.168.0.1", 80]}]}},
            {"set": {"table": "t", "name": "closed4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}},
        ]});
        let expected = [
            ("fl1".to_owned(), admitted(&["10.0.0.1", "fd00::1"], &["192.168.0.1:80"])),
            ("fl2".to_owned(), admitted(&["10.0.0.2"], &[])),
        ];
        assert_eq!(parse(&answer, "t"), expected.into());
    }
}
