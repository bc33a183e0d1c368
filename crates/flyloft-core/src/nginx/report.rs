//! What nginx tells: a line for each request that went straight, and what its processes are called.

/// A request that went straight to an app and has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    pub status: u16,
    /// Lower case, without port.
    pub host: &'a str,
    pub path: &'a str,
    pub agent: &'a str,
}

impl<'a> Seen<'a> {
    /// Reads a message such as `<190>Nov 24 10:00:00 flyloft: 200⇥shop-main.localhost⇥/⇥curl/8`. nginx writes control
    /// characters of a client as `\xXX`, so there is no other tab in it.
    pub fn parse(message: &'a str) -> Option<Self> {
        let (_, line) = message.split_once(" flyloft: ")?;
        let mut fields = line.splitn(4, '\t');
        let status = fields.next()?.parse().ok()?;
        Some(Self { status, host: fields.next()?, path: fields.next()?, agent: fields.next()? })
    }
}

/// Whether a process of this title takes requests, or has taken some.
pub fn is_worker(title: &str) -> bool {
    title.starts_with("nginx: worker process")
}

/// Whether it takes no new connections any more.
pub fn is_leaving(title: &str) -> bool {
    title.starts_with("nginx: worker process is shutting down")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_asked_for_what_and_how_that_ended() {
        let seen = Seen::parse("<190>Nov 24 10:00:00 flyloft: 200\tshop-main.localhost\t/cart\tcurl/8.5.0");
        assert_eq!(seen, Some(Seen { status: 200, host: "shop-main.localhost", path: "/cart", agent: "curl/8.5.0" }));
        let odd = Seen::parse("<190>Nov  4 10:00:00 flyloft: 499\tshop-main.localhost\t/a b: c\ta: flyloft: b");
        assert_eq!(odd.map(|seen| (seen.status, seen.path, seen.agent)), Some((499, "/a b: c", "a: flyloft: b")));
        for other in
            ["", "<190>Nov 24 10:00:00 nginx: 200\ta\t/\tb", "<190>Nov 24 10:00:00 flyloft: x\ta\t/\tb", "200\ta\t/"]
        {
            assert_eq!(Seen::parse(other), None, "{other}");
        }
    }

    #[test]
    fn workers_are_known_by_their_titles() {
        assert!(is_worker("nginx: worker process") && !is_leaving("nginx: worker process"));
        assert!(is_worker("nginx: worker process is shutting down"));
        assert!(is_leaving("nginx: worker process is shutting down"));
        for other in ["nginx: master process nginx -c /etc/nginx/nginx.conf", "nginx: cache manager process", "vim"] {
            assert!(!is_worker(other), "{other}");
        }
    }
}
