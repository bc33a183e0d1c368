//! When a certificate is asked for, and when again: in time, not by all servers at the same moment, less and less often
//! where it fails, and never more often than an issuer would put up with.

use crate::certificate::Validity;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const WEEK: i64 = 7 * 24 * HOUR;

/// The longest that one waits after failures of one's own accord. Whatever was wrong may be right the next day.
const LONGEST: i64 = 12 * HOUR;

/// In how many seconds there are how many orders at most: for one name, and for all together. Let's Encrypt has five
/// refusals of a name an hour, and fifty certificates of a domain a week.
const OF_NAME: [(i64, usize); 2] = [(HOUR, 4), (WEEK, 20)];
const OF_ALL: [(i64, usize); 2] = [(HOUR, 20), (WEEK, 45)];

/// How asking for a certificate has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may work in a moment: nobody answers, or something is not published yet.
    Passing,
    /// The server has said that too much was asked of it.
    RateLimited,
    /// The server has judged, and would do so again: that a name is ours was not to be seen.
    Refused,
}

/// When a certificate is to be renewed: in the window that its issuer has told (RFC 9773 section 4.2), else after two
/// thirds of its time. `chance` is between 0 and 1.
pub fn renew_at(validity: Validity, window: Option<(i64, i64)>, chance: f64) -> i64 {
    let (from, until) = window.filter(|(from, until)| from < until).unwrap_or_else(|| {
        let length = validity.until - validity.from;
        let due = validity.from + length / 3 * 2;
        (due, due + length / 30)
    });
    from + part(until - from, chance)
}

/// How many seconds to wait after so many failures in a row. The server may have `told` how many.
pub fn wait(failures: u32, failure: Failure, told: Option<i64>, chance: f64) -> i64 {
    let first = match failure {
        Failure::Passing => MINUTE,
        Failure::RateLimited => 3 * HOUR,
        Failure::Refused => 15 * MINUTE,
    };
    let doubled = (first << failures.saturating_sub(1).min(16)).min(LONGEST);
    let wait = match (told, failure) {
        (None, _) => doubled,
        (Some(told), Failure::RateLimited) => told.clamp(MINUTE, WEEK),
        (Some(told), _) => doubled.max(told.min(WEEK)),
    };
    wait + part(wait / 4, chance)
}

/// From when on there may be another order for a name, by the orders of the last week, the oldest first.
pub fn may_order_at(name: &str, ordered: &[(String, i64)], now: i64) -> i64 {
    let of_all: Vec<i64> = ordered.iter().map(|(_, at)| *at).filter(|at| *at <= now).collect();
    let of_name = ordered.iter().filter(|(one, at)| one == name && *at <= now).map(|(_, at)| *at);
    room_at(&of_name.collect::<Vec<_>>(), &OF_NAME, now).max(room_at(&of_all, &OF_ALL, now))
}

fn room_at(ordered: &[i64], bounds: &[(i64, usize)], now: i64) -> i64 {
    let each = bounds.iter().map(|(span, most)| {
        let lately: Vec<i64> = ordered.iter().copied().filter(|at| now - at < *span).collect();
        lately.len().checked_sub(*most).map_or(now, |first| lately[first] + span)
    });
    each.max().unwrap_or(now)
}

fn part(of: i64, chance: f64) -> i64 {
    (of as f64 * chance.clamp(0.0, 1.0)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * HOUR;

    #[test]
    fn it_is_renewed_after_two_thirds_of_its_time_and_not_by_all_at_once() {
        let validity = Validity { from: 0, until: 90 * DAY };
        assert_eq!(renew_at(validity, None, 0.0), 60 * DAY);
        assert_eq!(renew_at(validity, None, 1.0), 63 * DAY);
        let short = Validity { from: 0, until: 6 * DAY };
        assert!(renew_at(short, None, 1.0) < 5 * DAY);
    }

    #[test]
    fn its_issuer_may_say_when() {
        let validity = Validity { from: 0, until: 90 * DAY };
        assert_eq!(renew_at(validity, Some((10, 20)), 0.5), 15);
        assert_eq!(renew_at(validity, Some((20, 10)), 0.0), 60 * DAY, "no such time");
    }

    #[test]
    fn who_fails_waits_longer_and_longer_and_tries_twice_a_day_at_least() {
        let waits = [1, 2, 3, 10, 100].map(|failures| wait(failures, Failure::Passing, None, 0.0));
        assert_eq!(waits, [MINUTE, 2 * MINUTE, 4 * MINUTE, 512 * MINUTE, LONGEST]);
        assert_eq!(wait(1, Failure::Refused, None, 0.0), 15 * MINUTE);
        assert_eq!(wait(1, Failure::RateLimited, None, 1.0), 3 * HOUR + 45 * MINUTE);
        assert_eq!(wait(9, Failure::RateLimited, None, 1.0), 15 * HOUR);
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_says() {
        assert_eq!(wait(1, Failure::RateLimited, Some(34 * HOUR), 0.0), 34 * HOUR);
        assert_eq!(wait(9, Failure::RateLimited, Some(600), 0.0), 600, "it knows better than we do");
        assert_eq!(wait(1, Failure::RateLimited, Some(0), 0.0), MINUTE);
        assert_eq!(wait(1, Failure::RateLimited, Some(i64::MAX), 0.0), WEEK, "whoever says so is out of order");
        assert_eq!(wait(1, Failure::Passing, Some(600), 0.0), 600);
        assert_eq!(wait(9, Failure::Passing, Some(600), 0.0), 256 * MINUTE);
    }

    #[test]
    fn orders_for_a_name_and_for_all_are_bounded_in_an_hour_and_in_a_week() {
        let orders = |name: &str, times: &[i64]| times.iter().map(|at| (name.to_owned(), *at)).collect::<Vec<_>>();
        let now = 10 * DAY;
        assert_eq!(may_order_at("a", &[], now), now);
        let mut ordered = orders("a", &[now - 50, now - 40, now - 30]);
        assert_eq!(may_order_at("a", &ordered, now), now);
        ordered.extend(orders("a", &[now - 20]));
        assert_eq!(may_order_at("a", &ordered, now), now - 50 + HOUR);
        assert_eq!(may_order_at("b", &ordered, now), now, "it is another name");
        let week: Vec<i64> = (0..20).map(|at| now - 5 * DAY + at * 2 * HOUR).collect();
        assert_eq!(may_order_at("a", &orders("a", &week), now), now + 2 * DAY);
        let many: Vec<_> = (0..45).map(|at| (format!("n{at}"), now - 6 * DAY + at * HOUR)).collect();
        assert_eq!(may_order_at("other", &many, now), now + DAY);
    }

    #[test]
    fn orders_by_a_clock_that_was_ahead_hold_nothing_up() {
        let ordered: Vec<_> = (0..9).map(|at| ("a".to_owned(), 400 * DAY + at)).collect();
        assert_eq!(may_order_at("a", &ordered, 10 * DAY), 10 * DAY);
    }
}
