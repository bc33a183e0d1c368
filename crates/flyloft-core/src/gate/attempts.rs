//! How often somebody may try a password: ten times, and then once each six seconds. Or something else, as often as that
//! may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// So many at once, and one more after each of these spans.
const AT_ONCE: u64 = 10;
const EVERY: u64 = 6_000;

/// So many addresses are remembered. Of more than that, the one that has waited for longest is forgotten.
const ROOM: usize = 10_000;

/// Who has tried lately. Times are milliseconds of any clock that goes evenly.
#[derive(Debug)]
pub struct Attempts {
    at_once: u64,
    every: u64,
    /// When each has its attempts back.
    spent: HashMap<IpAddr, u64>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::of(AT_ONCE, EVERY)
    }
}

impl Attempts {
    /// So many at once, and one more after each `every` of milliseconds.
    pub fn of(at_once: u64, every: u64) -> Self {
        Self { at_once, every, spent: HashMap::new() }
    }

    /// Somebody tries, if it is not too soon. Else it says how long to wait.
    pub fn begin(&mut self, from: IpAddr, now: u64) -> Result<(), Duration> {
        let from = source(from);
        let back = self.spent.get(&from).copied().unwrap_or(0).max(now);
        let most = now + (self.at_once - 1) * self.every;
        if back > most {
            return Err(Duration::from_millis(back - most));
        }
        if self.spent.len() >= ROOM && !self.spent.contains_key(&from) {
            self.make_room(now);
        }
        self.spent.insert(from, back + self.every);
        Ok(())
    }

    /// It was right, and is no attempt.
    pub fn succeeded(&mut self, from: IpAddr) {
        if let Some(back) = self.spent.get_mut(&source(from)) {
            *back = back.saturating_sub(self.every);
        }
    }

    fn make_room(&mut self, now: u64) {
        self.spent.retain(|_, back| *back > now);
        if self.spent.len() >= ROOM
            && let Some(oldest) = self.spent.iter().min_by_key(|(_, back)| **back).map(|(from, _)| *from)
        {
            self.spent.remove(&oldest);
        }
    }
}

/// Whose attempts these are. Who has an address of IPv6 has a whole subnet of 64 bits as a rule (RFC 6177).
pub fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How often it may try at once.
    fn tries(attempts: &mut Attempts, from: &str, now: u64) -> usize {
        (0..100).take_while(|_| attempts.begin(ip(from), now).is_ok()).count()
    }

    #[test]
    fn each_address_has_ten_attempts_and_one_more_each_six_seconds() {
        let mut attempts = Attempts::default();
        assert_eq!(tries(&mut attempts, "203.0.113.7", NOW), 10);
        assert_eq!(attempts.begin(ip("::ffff:203.0.113.7"), NOW), Err(Duration::from_secs(6)));
        assert_eq!(tries(&mut attempts, "203.0.113.8", NOW), 10);
        assert_eq!(tries(&mut attempts, "203.0.113.7", NOW + 5_999), 0);
        assert_eq!(tries(&mut attempts, "203.0.113.7", NOW + 6_000), 1);
        assert_eq!(tries(&mut attempts, "203.0.113.7", NOW + 600_000), 10);
    }

    #[test]
    fn an_ipv6_client_is_its_subnet() {
        let mut attempts = Attempts::default();
        assert_eq!(tries(&mut attempts, "2001:db8::1", NOW), 10);
        assert_eq!(tries(&mut attempts, "2001:db8::ffff:0:2", NOW), 0);
        assert_eq!(tries(&mut attempts, "2001:db8:0:1::1", NOW), 10);
    }

    #[test]
    fn what_was_right_is_no_attempt() {
        let mut attempts = Attempts::default();
        for _ in 0..100 {
            attempts.begin(ip("203.0.113.7"), NOW).unwrap();
            attempts.succeeded(ip("203.0.113.7"));
        }
        assert_eq!(tries(&mut attempts, "203.0.113.7", NOW), 10);
    }

    #[test]
    fn a_crowd_takes_no_more_memory_than_there_is_for_it() {
        let mut attempts = Attempts::default();
        tries(&mut attempts, "203.0.113.7", NOW);
        for client in 0..ROOM as u32 + 500 {
            attempts.begin(IpAddr::V4((0x0a00_0000 + client).into()), NOW).unwrap();
        }
        assert_eq!(attempts.spent.len(), ROOM);
        assert_eq!(tries(&mut attempts, "203.0.113.7", NOW), 0, "who has tried most is remembered for longest");
    }
}
