//! Which host names a certificate is for, which of several is shown to whom, and how much of its time is left.

use std::fmt;

/// With less than this left of a certificate somebody is to be told.
const SOON: i64 = 14 * DAY;

const DAY: i64 = 24 * 60 * 60;

/// The host names that a certificate is for: whole ones, or with a `*` in place of the first label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether they have `host`, which is in lower case and without a final dot. A `*` stands for one whole label
    /// (RFC 9525 section 6.3).
    pub fn cover(&self, host: &str) -> bool {
        self.fit(host).is_some()
    }

    fn fit(&self, host: &str) -> Option<Fit> {
        let wild = || {
            let (first, rest) = host.split_once('.').filter(|(first, _)| !first.is_empty())?;
            let stands_for = |name: &String| name.strip_prefix("*.") == Some(rest);
            (first != "*" && self.0.iter().any(stands_for)).then_some(Fit::Wild)
        };
        let whole = || self.0.iter().any(|name| name == host && !name.starts_with('*')).then_some(Fit::Whole);
        whole().or_else(wild)
    }
}

/// How well a certificate is for a host name. The last is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Wild,
    Whole,
}

/// Which of these is shown to who asks for `host`: one that has the whole name before one with a `*`, and then the first
/// of them. None is for everybody else.
pub fn choose<'a>(all: impl IntoIterator<Item = &'a Names>, host: &str) -> Option<usize> {
    let fits = all.into_iter().enumerate().filter_map(|(at, names)| Some((names.fit(host)?, at)));
    fits.max_by_key(|(fit, at)| (*fit, std::cmp::Reverse(*at))).map(|(_, at)| at)
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        f.write_str(&self.0.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// From when until when a certificate holds, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub until: i64,
}

/// Where in its time a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The machine's clock may be wrong instead.
    NotYet,
    Good,
    /// Whole days are left.
    Soon {
        days: i64,
    },
    Expired,
}

impl Validity {
    pub fn standing(&self, now: i64) -> Standing {
        match self.until - now {
            _ if now < self.from => Standing::NotYet,
            left if left < 0 => Standing::Expired,
            left if left < SOON && left < self.length() / 3 => Standing::Soon { days: left / DAY },
            _ => Standing::Good,
        }
    }

    /// Whole days that are left, and none of one that has expired.
    pub fn days_left(&self, now: i64) -> i64 {
        ((self.until - now) / DAY).max(0)
    }

    fn length(&self) -> i64 {
        self.until - self.from
    }

    /// What holds of both.
    pub fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Names {
        Names::new(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn a_star_stands_for_one_label_and_for_nothing_else() {
        let certificate = names(&["*.Staging.example.org.", "staging.example.org"]);
        for (host, covered) in [
            ("shop-main.staging.example.org", true),
            ("staging.example.org", true),
            ("a.b.staging.example.org", false),
            (".staging.example.org", false),
            ("*.staging.example.org", false),
            ("shop-main.staging.example.org.evil.test", false),
            ("xstaging.example.org", false),
            ("example.org", false),
            ("", false),
        ] {
            assert_eq!(certificate.cover(host), covered, "{host}");
        }
        assert!(!names(&["*"]).cover("org") && !names(&["*.*.org"]).cover("a.b.org") && !names(&[]).cover("org"));
    }

    #[test]
    fn the_whole_name_goes_before_a_star_and_nobody_gets_what_is_for_others() {
        let all = [names(&["*.example.org"]), names(&["a.example.org"]), names(&["a.example.org", "*.test"])];
        for (host, chosen) in
            [("a.example.org", Some(1)), ("b.example.org", Some(0)), ("b.test", Some(2)), ("c.example.net", None)]
        {
            assert_eq!(choose(&all, host), chosen, "{host}");
        }
    }

    #[test]
    fn the_end_is_told_of_before_it_comes() {
        let validity = Validity { from: 0, until: 90 * DAY };
        for (now, standing) in [
            (-1, Standing::NotYet),
            (0, Standing::Good),
            (76 * DAY, Standing::Good),
            (76 * DAY + 1, Standing::Soon { days: 13 }),
            (90 * DAY, Standing::Soon { days: 0 }),
            (90 * DAY + 1, Standing::Expired),
        ] {
            assert_eq!(validity.standing(now), standing, "{now}");
        }
        // One that is made for six days is not near its end from the beginning.
        assert_eq!(Validity { from: 0, until: 6 * DAY }.standing(3 * DAY), Standing::Good);
        assert_eq!(Validity { from: 0, until: 6 * DAY }.standing(5 * DAY), Standing::Soon { days: 1 });
        assert_eq!((validity.days_left(DAY), validity.days_left(91 * DAY)), (89, 0));
    }

    #[test]
    fn many_names_are_told_in_a_few_words() {
        assert_eq!(names(&["a.test", "b.test"]).to_string(), "a.test, b.test");
        assert_eq!(
            names(&["a.test", "b.test", "c.test", "d.test", "e.test"]).to_string(),
            "a.test, b.test, c.test and 2 more"
        );
    }
}
