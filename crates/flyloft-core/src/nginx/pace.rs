//! When nginx is told of a change. Each time costs it new processes, and those who are connected to the old ones keep
//! those alive; so changes wait for each other as long as nobody waits for them.

use std::time::Duration;

/// How soon nginx has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    /// Something may go straight that goes by way of flyloft. Nobody notices.
    Later,
    /// Something is to fall asleep, or will be deployed anew.
    Soon,
    /// Somebody waits for it.
    Now,
}

/// How often nginx was told lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// How many times in a row, each not long after the one before.
    row: u32,
}

/// After this much quiet nobody is in a row any more.
const QUIET: Duration = Duration::from_secs(20);

impl Pace {
    /// How long a change still waits that has `waited` for so long, where nginx was last told so long ago.
    pub fn wait(self, haste: Haste, waited: Duration, since: Option<Duration>) -> Duration {
        let (gather, apart) = match haste {
            Haste::Now => (Duration::ZERO, Duration::from_millis(100)),
            Haste::Soon => (Duration::from_millis(100), Duration::from_millis(500)),
            Haste::Later => (Duration::from_secs(1), Duration::from_secs(2)),
        };
        let most = match haste {
            Haste::Now => Duration::from_secs(2),
            Haste::Soon => Duration::from_secs(5),
            Haste::Later => Duration::from_secs(15),
        };
        let apart = match (since, self.row) {
            (Some(since), row) if since < QUIET && row > 1 => {
                (apart * (1 << (row - 2).min(10))).min(most).saturating_sub(since)
            }
            _ => Duration::ZERO,
        };
        gather.saturating_sub(waited).max(apart)
    }

    /// It is told now, so long after the last time.
    pub fn told(self, since: Option<Duration>) -> Self {
        match since {
            Some(since) if since < QUIET => Self { row: self.row.saturating_add(1) },
            _ => Self { row: 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// How often nginx is told in so much time, where something changes all the while.
    fn times(haste: Haste, all: Duration) -> usize {
        let (mut pace, mut now, mut since, mut times) = (Pace::default(), NO_TIME, None, 0);
        loop {
            now += pace.wait(haste, NO_TIME, since).max(ms(1));
            if now > all {
                return times;
            }
            let gap = since.map(|_| pace.wait(haste, NO_TIME, since));
            pace = pace.told(gap);
            (since, times) = (Some(NO_TIME), times + 1);
        }
    }

    #[test]
    fn whoever_waits_waits_for_nothing_at_first() {
        assert_eq!(Pace::default().wait(Haste::Now, NO_TIME, None), NO_TIME);
        let once = Pace::default().told(None);
        assert_eq!(once.wait(Haste::Now, NO_TIME, Some(NO_TIME)), NO_TIME);
        let twice = once.told(Some(ms(1)));
        assert_eq!(twice.wait(Haste::Now, NO_TIME, Some(ms(30))), ms(70));
    }

    #[test]
    fn what_nobody_waits_for_is_gathered() {
        assert_eq!(Pace::default().wait(Haste::Later, ms(300), None), ms(700));
        assert_eq!(Pace::default().wait(Haste::Soon, ms(300), None), NO_TIME);
    }

    #[test]
    fn the_more_often_nginx_is_told_the_longer_it_is_left_alone() {
        let minute = Duration::from_secs(60);
        assert!(times(Haste::Now, minute) <= 40, "{}", times(Haste::Now, minute));
        assert!(times(Haste::Later, minute) <= 9, "{}", times(Haste::Later, minute));
        let mut pace = Pace::default();
        for _ in 0..40 {
            pace = pace.told(Some(ms(1)));
        }
        assert_eq!(pace.wait(Haste::Now, NO_TIME, Some(NO_TIME)), Duration::from_secs(2));
        assert_eq!(pace.wait(Haste::Now, NO_TIME, Some(QUIET)), NO_TIME, "it was quiet meanwhile");
        assert_eq!(pace.told(Some(QUIET)), Pace { row: 1 });
    }
}
