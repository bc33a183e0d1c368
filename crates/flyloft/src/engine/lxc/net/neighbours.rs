//! Whom the kernel knows on the links of containers without asking, and for whom it answers there.
//!
//! The kernel tells nobody when it is made to forget for whom it answers, and shows those of IPv6 in no file. So they are
//! listed.

use std::collections::{BTreeMap, BTreeSet};

use crate::exec::{Cmd, ExecError};

/// The links on which nothing is missing of what [`introduce`](super::Network::introduce) has said.
pub async fn complete(ipv6: bool) -> Result<BTreeSet<String>, ExecError> {
    let listed =
        Cmd::new("ip").args(["-batch", "-"]).stdin("neigh show proxy\nneigh show nud permanent\n").run().await?;
    Ok(complete_in(&String::from_utf8_lossy(&listed.stdout), ipv6))
}

/// ip-neighbour(8): `ADDRESS dev LINK proxy`, and `ADDRESS dev LINK lladdr ADDRESS PERMANENT`.
fn complete_in(text: &str, ipv6: bool) -> BTreeSet<String> {
    let mut links = BTreeMap::<&str, BTreeSet<_>>::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [address, "dev", link, .., kind @ ("proxy" | "PERMANENT")] = fields[..] {
            links.entry(link).or_default().insert((address.contains(':'), kind));
        }
    }
    let of_ipv4 = [(false, "proxy"), (false, "PERMANENT")];
    let of_ipv6 = [(true, "proxy"), (true, "PERMANENT")];
    links.retain(|_, seen| {
        of_ipv4.iter().all(|kind| seen.contains(kind)) && (!ipv6 || of_ipv6.iter().all(|kind| seen.contains(kind)))
    });
    links.into_keys().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
169.254.1.1 dev fl1f3a9c6 proxy\x20
169.254.1.1 dev fl1f3a9c7 proxy\x20
fe80::1 dev fl1f3a9c6 proxy\x20
10.213.0.7 dev fl1f3a9c6 lladdr 02:1f:3a:9c:00:06 PERMANENT\x20
10.213.0.8 dev fl1f3a9c7 lladdr 02:1f:3a:9c:00:07 PERMANENT\x20
10.213.0.9 dev fl1f3a9c8 lladdr 02:1f:3a:9c:00:08 PERMANENT\x20
192.0.2.1 dev eth0 lladdr 02:00:00:00:00:01 REACHABLE\x20
fd66::7 dev fl1f3a9c6 lladdr 02:1f:3a:9c:00:06 router PERMANENT\x20
";

    #[test]
    fn a_link_is_complete_with_both_kinds_of_each_family_that_there_is() {
        assert_eq!(complete_in(LISTED, true), BTreeSet::from(["fl1f3a9c6".to_owned()]));
        assert_eq!(complete_in(LISTED, false), BTreeSet::from(["fl1f3a9c6".to_owned(), "fl1f3a9c7".to_owned()]));
    }
}
