//! What nginx's log tells of how host names are used: a line for each request that went straight, when it has ended.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use flyloft_core::nginx::Seen;
use tokio::net::UnixDatagram;

use crate::edge::embedded::quiet::Quiet;

/// No line is longer: nginx itself cuts what it sends to syslog before that.
const LINE_MAX: usize = 64 << 10;

/// Of one host name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Use {
    /// When a request of a visitor ended.
    pub visited: Option<Instant>,
    /// When any request ended.
    pub asked: Option<Instant>,
    /// Answers by the hundreds of their status.
    pub answers: [u64; 5],
}

/// Of all host names that were asked for.
#[derive(Default)]
pub struct Uses {
    known: RwLock<HashMap<String, Use>>,
    quiet: Quiet,
}

impl Uses {
    pub fn new(quiet_agents: &[String]) -> Self {
        Self { known: RwLock::default(), quiet: Quiet::new(quiet_agents) }
    }

    pub fn of(&self, host: &str) -> Use {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(host).copied().unwrap_or_default()
    }

    /// It is not routed any more.
    pub fn forget(&self, host: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// Only host names that are routed are taken note of: a log may tell of any.
    fn note(&self, seen: Seen, is_known: impl Fn(&str) -> bool, now: Instant) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(seen.host) {
            if !is_known(seen.host) {
                return;
            }
            known.insert(seen.host.to_owned(), Use::default());
        }
        let Some(its) = known.get_mut(seen.host) else { return };
        its.asked = Some(now);
        if !self.quiet.covers(seen.path, seen.agent) {
            its.visited = Some(now);
        }
        if let Some(answers) = its.answers.get_mut(usize::from(seen.status / 100).wrapping_sub(1)) {
            *answers += 1;
        }
    }

    /// Takes note of what comes, for ever.
    pub async fn listen(self: Arc<Self>, socket: UnixDatagram, is_known: impl Fn(&str) -> bool) {
        let mut line = vec![0; LINE_MAX];
        loop {
            if let Err(error) = socket.readable().await {
                tracing::error!(%error, "failed to hear what nginx logs");
                return tokio::time::sleep(Duration::MAX).await;
            }
            let now = Instant::now();
            loop {
                match socket.try_recv(&mut line) {
                    Ok(length) => {
                        if let Some(seen) = std::str::from_utf8(&line[..length]).ok().and_then(Seen::parse) {
                            self.note(seen, &is_known, now);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        tracing::warn!(%error, "failed to read what nginx logs");
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: u16, agent: &'static str) -> Seen<'static> {
        Seen { status, host: "shop.test", path: "/", agent }
    }

    #[test]
    fn a_crawler_is_an_answer_and_no_visit() {
        let (uses, now) = (Uses::default(), Instant::now());
        uses.note(seen(200, "Googlebot/2.1"), |_| true, now);
        let its = uses.of("shop.test");
        assert_eq!((its.visited, its.asked, its.answers), (None, Some(now), [0, 1, 0, 0, 0]));
        uses.note(seen(503, "curl/8"), |_| true, now);
        let its = uses.of("shop.test");
        assert_eq!((its.visited, its.answers), (Some(now), [0, 1, 0, 0, 1]));
        uses.forget("shop.test");
        assert_eq!(uses.of("shop.test").answers, [0; 5]);
    }

    #[test]
    fn names_that_nobody_has_take_no_memory() {
        let uses = Uses::default();
        uses.note(seen(200, "curl/8"), |_| false, Instant::now());
        assert!(uses.known.read().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_nginx_sends_is_taken_note_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.sock");
        let uses = Arc::new(Uses::default());
        let listening = tokio::spawn(uses.clone().listen(UnixDatagram::bind(&path).unwrap(), |_| true));
        let nginx = UnixDatagram::unbound().unwrap();
        for message in [&b"\xff"[..], b"<190>Nov 24 10:00:00 flyloft: 200\tshop.test\t/\tcurl/8"] {
            nginx.send_to(message, &path).await.unwrap();
        }
        while uses.of("shop.test").answers[1] == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        listening.abort();
    }
}
