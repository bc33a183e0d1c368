//! What nginx is to do, and what it may be doing meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Haste, Tls};
use crate::host::HostName;
use crate::name::AppName;

/// Which host name goes straight to which app. All others are flyloft's.
pub type Straight = BTreeMap<HostName, SocketAddr>;

/// What nginx goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub straight: Straight,
    /// Of apps that have a snippet.
    pub apart: BTreeMap<AppName, Apart>,
    pub tls: Tls,
}

/// An app whose host names nginx treats as an administrator's snippet says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// Differs for each snippet that the app has had.
    pub snippet: u64,
    pub hosts: BTreeSet<HostName>,
}

/// What is wanted of nginx, and what of it is known to be so.
///
/// What must hold: an address that [`Plan::may_reach`] denies is one that nginx sends no newcomer to.
#[derive(Debug)]
pub struct Plan {
    wanted: Told,
    /// All host names, and whose they are.
    hosts: BTreeMap<HostName, AppName>,
    /// All that nginx may go by: what it was told last, and what was written after that and may have been read.
    may: Vec<Arc<Told>>,
    /// It may go by something else, too: what a daemon before this one has written.
    unknown: bool,
    haste: Option<Haste>,
}

impl Plan {
    /// Nothing is known of nginx yet.
    pub fn new(straight: Straight) -> Self {
        let wanted = Told { straight, ..Told::default() };
        Self { wanted, hosts: BTreeMap::new(), may: Vec::new(), unknown: true, haste: Some(Haste::Now) }
    }

    pub fn straight(&self, host: &HostName) -> Option<SocketAddr> {
        self.wanted.straight.get(host).copied()
    }

    /// From now on `host` is to go straight to an app.
    pub fn go_straight(&mut self, host: HostName, to: SocketAddr) {
        let haste = if self.may_mislead(&host, to) { Haste::Now } else { Haste::Later };
        if self.wanted.straight.insert(host, to) != Some(to) {
            self.hurry(haste);
        }
    }

    /// From now on `host` is flyloft's.
    pub fn come_here(&mut self, host: &HostName) {
        if self.wanted.straight.remove(host).is_some() {
            self.hurry(Haste::Soon);
        }
    }

    /// From now on `host` is one of the app's.
    pub fn belongs(&mut self, host: &HostName, app: &AppName) {
        self.hosts.insert(host.clone(), app.clone());
        if let Some(apart) = self.wanted.apart.get_mut(app)
            && apart.hosts.insert(host.clone())
        {
            self.hurry(Haste::Now);
        }
    }

    /// From now on `host` is nobody's.
    pub fn forget(&mut self, host: &HostName) {
        let Some(app) = self.hosts.remove(host) else { return };
        if let Some(apart) = self.wanted.apart.get_mut(&app)
            && apart.hosts.remove(host)
        {
            self.hurry(Haste::Later);
        }
    }

    /// From now on these apps, and no others, have a snippet.
    pub fn have_snippets(&mut self, snippets: &BTreeMap<AppName, u64>) {
        let apart = snippets.iter().map(|(app, snippet)| {
            let hosts = self.hosts.iter().filter(|(_, its)| *its == app).map(|(host, _)| host.clone()).collect();
            (app.clone(), Apart { snippet: *snippet, hosts })
        });
        let apart = apart.collect();
        if self.wanted.apart != apart {
            self.wanted.apart = apart;
            self.hurry(Haste::Soon);
        }
    }

    /// From now on this is what TLS is to be.
    pub fn speak(&mut self, tls: Tls) {
        if self.wanted.tls != tls {
            self.wanted.tls = tls;
            self.hurry(Haste::Soon);
        }
    }

    pub fn hurry(&mut self, haste: Haste) {
        self.haste = self.haste.max(Some(haste));
    }

    /// How soon nginx has to be told, if at all.
    pub fn haste(&self) -> Option<Haste> {
        self.haste.filter(|_| !self.is_so())
    }

    /// Whether nginx goes by what is wanted, and nothing else.
    pub fn is_so(&self) -> bool {
        !self.unknown && self.may.len() == 1 && *self.may[0] == self.wanted
    }

    /// What is wanted now, whether nginx is told or not.
    pub fn wanted(&self) -> &Told {
        &self.wanted
    }

    /// What is wanted now, which is about to be written: from here on nginx may read it at any time.
    pub fn begin(&mut self) -> Arc<Told> {
        let wanted = Arc::new(self.wanted.clone());
        self.may.push(wanted.clone());
        self.haste = None;
        wanted
    }

    /// nginx goes by this and nothing else.
    pub fn told(&mut self, told: Arc<Told>) {
        self.may = vec![told];
        self.unknown = false;
    }

    /// It does not run, so it sends nobody anywhere.
    pub fn down(&mut self) {
        self.may.clear();
        self.unknown = false;
    }

    /// It has been started by somebody else, and has read whatever was there.
    pub fn lost(&mut self) {
        self.unknown = true;
        self.hurry(Haste::Now);
    }

    /// Whether newcomers may be sent to an app at this address.
    pub fn may_reach(&self, address: SocketAddr) -> bool {
        self.unknown || self.may.iter().any(|told| told.straight.values().any(|to| *to == address))
    }

    /// Whether `host` may still go straight to somewhere else.
    pub fn may_mislead(&self, host: &HostName, to: SocketAddr) -> bool {
        self.unknown || self.may.iter().any(|told| told.straight.get(host).is_some_and(|other| *other != to))
    }

    /// Where `host` may still go straight to, as far as that is known.
    pub fn ways(&self, host: &HostName) -> impl Iterator<Item = SocketAddr> {
        self.may.iter().filter_map(|told| told.straight.get(host).copied())
    }

    /// Whether `host` may still go straight to anywhere.
    pub fn may_go_straight(&self, host: &HostName) -> bool {
        self.unknown || self.may.iter().any(|told| told.straight.contains_key(host))
    }

    /// Whether nginx may not know yet that a snippet is meant for `host`.
    pub fn may_miss_snippet(&self, host: &HostName) -> bool {
        let Some(app) = self.hosts.get(host).filter(|app| self.wanted.apart.contains_key(*app)) else { return false };
        let knows = |told: &Arc<Told>| told.apart.get(app).is_some_and(|apart| apart.hosts.contains(host));
        self.unknown || !self.may.iter().all(knows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    /// One that nginx goes by.
    fn told(lines: &[(&str, u16)]) -> Plan {
        let mut plan = Plan::new(lines.iter().map(|(name, port)| (host(name), at(*port))).collect());
        let straight = plan.begin();
        plan.told(straight);
        plan
    }

    #[test]
    fn until_nginx_was_told_once_it_may_go_anywhere() {
        let mut plan = Plan::new(Straight::new());
        assert!(plan.may_reach(at(1)) && plan.may_mislead(&host("a.test"), at(1)));
        assert_eq!(plan.haste(), Some(Haste::Now));
        let straight = plan.begin();
        assert!(plan.may_reach(at(1)), "it has not read that yet");
        plan.told(straight);
        assert!(!plan.may_reach(at(1)));
        assert_eq!(plan.haste(), None);
    }

    #[test]
    fn who_is_flyloft_s_may_wait_to_go_straight_and_who_goes_elsewhere_may_not() {
        let mut plan = told(&[("a.test", 1)]);
        plan.go_straight(host("b.test"), at(2));
        assert_eq!(plan.haste(), Some(Haste::Later));
        plan.go_straight(host("a.test"), at(3));
        assert_eq!(plan.haste(), Some(Haste::Now));
        let straight = plan.begin();
        assert!(plan.may_reach(at(1)) && plan.may_reach(at(3)));
        plan.told(straight);
        assert!(!plan.may_reach(at(1)) && plan.may_reach(at(3)) && plan.haste().is_none());
    }

    #[test]
    fn who_falls_asleep_and_wakes_at_once_is_nothing_to_tell() {
        let mut plan = told(&[("a.test", 1)]);
        plan.come_here(&host("a.test"));
        assert_eq!(plan.haste(), Some(Haste::Soon));
        plan.go_straight(host("a.test"), at(1));
        assert_eq!(plan.haste(), None);
    }

    #[test]
    fn an_app_with_a_snippet_is_never_without_it() {
        let (shop, blog) = (AppName::parse("shop").unwrap(), AppName::parse("blog").unwrap());
        let mut plan = told(&[("a.test", 1)]);
        plan.belongs(&host("a.test"), &shop);
        plan.belongs(&host("b.test"), &blog);
        assert_eq!(plan.haste(), None);
        plan.have_snippets(&BTreeMap::from([(shop.clone(), 1)]));
        assert_eq!(plan.haste(), Some(Haste::Soon));
        assert!(plan.may_miss_snippet(&host("a.test")) && !plan.may_miss_snippet(&host("b.test")));
        let told = plan.begin();
        plan.told(told);
        assert!(!plan.may_miss_snippet(&host("a.test")));
        plan.belongs(&host("c.test"), &shop);
        assert!(plan.may_miss_snippet(&host("c.test")) && plan.haste() == Some(Haste::Now));
        plan.forget(&host("c.test"));
        assert!(!plan.may_miss_snippet(&host("c.test")) && plan.haste().is_none());
        plan.have_snippets(&BTreeMap::from([(shop, 2)]));
        assert!(plan.haste().is_some(), "it says something else");
    }

    #[test]
    fn what_was_written_and_refused_may_be_read_later() {
        let mut plan = told(&[("a.test", 1)]);
        plan.go_straight(host("a.test"), at(2));
        plan.begin();
        plan.come_here(&host("a.test"));
        plan.begin();
        assert!(plan.may_reach(at(1)) && plan.may_reach(at(2)) && plan.may_go_straight(&host("a.test")));
        assert_eq!(plan.ways(&host("a.test")).collect::<Vec<_>>(), [at(1), at(2)]);
        plan.down();
        assert!(!plan.may_reach(at(1)) && !plan.may_reach(at(2)));
        plan.lost();
        assert!(plan.may_reach(at(9)) && plan.haste() == Some(Haste::Now));
    }

    proptest! {
        /// Whatever happens: nginx, which reads what was written last whenever it likes, goes nowhere that is denied.
        #[test]
        fn nginx_goes_nowhere_that_is_denied(steps in proptest::collection::vec((0..5_u8, 0..3_u16, 1..4_u16), 1..40)) {
            let mut plan = told(&[]);
            let (mut written, mut read) = (Arc::new(Told::default()), Arc::new(Told::default()));
            for (step, name, port) in steps {
                let name = host(&format!("h{name}.test"));
                match step {
                    0 => plan.go_straight(name, at(port)),
                    1 => plan.come_here(&name),
                    2 => written = plan.begin(),
                    3 => read = written.clone(),
                    _ => {
                        written = plan.begin();
                        read = written.clone();
                        plan.told(written.clone());
                        prop_assert_eq!(plan.haste(), None);
                    }
                }
                for (host, to) in &read.straight {
                    prop_assert!(plan.may_reach(*to) && plan.may_go_straight(host));
                }
            }
        }
    }
}
