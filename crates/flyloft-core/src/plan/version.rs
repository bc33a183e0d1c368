//! Versions, and the ranges of them that repositories ask for, in the dialects of four package managers.
//!
//! The dialects agree on almost everything. Where they do not, a [`Dialect`] says which way it goes:
//! npm's ranges (the `semver` package's documentation), Composer's (getcomposer.org, "Versions and constraints"),
//! Python's (PEP 440, and Poetry's caret and tilde) and RubyGems' (`Gem::Requirement`).

use std::fmt;

/// Major, minor and patch. What a distribution appends is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64, pub u64, pub u64);

/// Any of several intervals, each of which may have holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range(Vec<Vec<Bound>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bound {
    /// From the first, and below the second where there is one.
    In(Version, Option<Version>),
    Not(Version, Version),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Npm,
    Composer,
    Python,
    Ruby,
}

/// How much of a version that is written out in full has to be the same. A stack has one patch release of a language,
/// and what was written for another one runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    Major,
    Minor,
    Patch,
}

impl Range {
    pub const ANY: &'static str = "*";

    /// `None` where the text is no range: `latest-and-greatest`, `pypy3`.
    pub fn parse(text: &str, dialect: Dialect, precision: Precision) -> Option<Self> {
        let text = text.replace("||", "|");
        text.split('|').map(|part| parse_all(part, dialect, precision)).collect::<Option<Vec<_>>>().map(Self)
    }

    /// This version and everything above it.
    pub fn at_least(version: Version) -> Self {
        Self(vec![vec![Bound::In(version, None)]])
    }

    pub fn holds(&self, version: Version) -> bool {
        self.0.iter().any(|all| all.iter().all(|bound| bound.holds(version)))
    }
}

impl Bound {
    fn holds(&self, version: Version) -> bool {
        match *self {
            Bound::In(from, below) => version >= from && below.is_none_or(|below| version < below),
            Bound::Not(from, below) => version < from || version >= below,
        }
    }
}

impl Version {
    /// Of `v20.11.1`, `python-3.11`, `3.4.2-p100`: what is left out is 0.
    pub fn parse(text: &str) -> Option<Self> {
        let (version, given) = partial(text)?;
        (given > 0).then_some(version)
    }

    /// The first version after all those that share the first `given` numbers with this one.
    fn after(self, given: usize) -> Self {
        match given {
            0 | 1 => Self(self.0 + 1, 0, 0),
            2 => Self(self.0, self.1 + 1, 0),
            _ => Self(self.0, self.1, self.2 + 1),
        }
    }
}

/// `>=3.10,<3.13`, `^18 || 20.x`, `16 - 20`: one alternative of a range.
fn parse_all(text: &str, dialect: Dialect, precision: Precision) -> Option<Vec<Bound>> {
    let text = text.trim();
    if let Some((from, to)) = text.split_once(" - ") {
        let ((from, _), (to, given)) = (partial(from)?, partial(to)?);
        return Some(vec![Bound::In(from, Some(to.after(given)))]);
    }
    let mut bounds = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        if rest.is_empty() {
            return Some(bounds);
        }
        let operator_end = rest.find(|c: char| !"<>=~^!".contains(c))?;
        let (operator, after) = rest.split_at(operator_end);
        let after = after.trim_start();
        let version_end = after.find([' ', ',', '\t']).unwrap_or(after.len());
        let (version, after) = after.split_at(version_end);
        bounds.extend(bound(operator, version, dialect, precision)?);
        rest = after;
    }
}

fn bound(operator: &str, text: &str, dialect: Dialect, precision: Precision) -> Option<Option<Bound>> {
    let (version, given) = partial(text)?;
    if given == 0 {
        return Some(None);
    }
    // npm reads `>18` as "19 and above", the others as "above 18.0.0".
    let whole = if dialect == Dialect::Npm { given } else { 3 };
    let up_to = |below| Bound::In(Version(0, 0, 0), Some(below));
    let drop_last = || Bound::In(version, Some(version.after(given.saturating_sub(1))));
    Some(Some(match operator {
        "" | "=" | "==" | "===" => {
            let kept = given.min(precision as usize + 1);
            let Version(major, minor, patch) = version;
            let from = Version(major, if kept > 1 { minor } else { 0 }, if kept > 2 { patch } else { 0 });
            Bound::In(from, Some(from.after(kept)))
        }
        ">=" => Bound::In(version, None),
        "<" => up_to(version),
        ">" => Bound::In(version.after(whole), None),
        "<=" => up_to(version.after(whole)),
        "!=" => Bound::Not(version, version.after(given)),
        "^" if version.0 == 0 => Bound::In(version, Some(version.after(2))),
        "^" => Bound::In(version, Some(version.after(1))),
        "~=" | "~>" => drop_last(),
        "~" if dialect == Dialect::Composer => drop_last(),
        "~" => Bound::In(version, Some(version.after(given.min(2)))),
        _ => return None,
    }))
}

/// The numbers of a version, and how many were given before the text ended or a wildcard came.
fn partial(text: &str) -> Option<(Version, usize)> {
    let text = text.trim();
    let text = match text {
        "node" | "stable" | "latest" | "current" | "lts/*" | "lts" => Range::ANY,
        "lts/hydrogen" => "18",
        "lts/iron" => "20",
        "lts/jod" => "22",
        "lts/krypton" => "24",
        other => other,
    };
    let text = ["python-", "ruby-", "node-", "go", "v"].iter().find_map(|p| text.strip_prefix(p)).unwrap_or(text);
    let text = text.split(['-', '+', '@']).next().unwrap_or_default();
    let mut numbers = [0; 3];
    let mut given = 0;
    for part in text.split('.').take(3) {
        match part {
            "*" | "x" | "X" => break,
            part => numbers[given] = leading_number(part)?,
        }
        given += 1;
    }
    Some((Version(numbers[0], numbers[1], numbers[2]), given))
}

/// 13 of `13rc1`, as Python and Go write release candidates.
fn leading_number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// As people say it: `3.13`, since the patch changes with the distribution's updates. `{:#}` has the patch.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)?;
        if f.alternate() { write!(f, ".{}", self.2) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: Dialect, text: &str, holds: &[Version], not: &[Version]) {
        let range = Range::parse(text, dialect, Precision::Minor).unwrap_or_else(|| panic!("`{text}` is a range"));
        for version in holds {
            assert!(range.holds(*version), "`{text}` should hold {version:?}");
        }
        for version in not {
            assert!(!range.holds(*version), "`{text}` should not hold {version:?}");
        }
    }

    const NODE18: Version = Version(18, 20, 4);
    const NODE20: Version = Version(20, 19, 2);

    #[test]
    fn npm_ranges_mean_what_npm_says() {
        use Dialect::Npm;
        check(Npm, ">=18", &[NODE18, NODE20], &[Version(16, 0, 0)]);
        check(Npm, "18.x", &[NODE18], &[NODE20]);
        check(Npm, "20", &[NODE20], &[NODE18]);
        check(Npm, "^18.0.0 || >=20", &[NODE18, NODE20], &[Version(19, 1, 0)]);
        check(Npm, ">=18.0.0 <20", &[NODE18], &[NODE20]);
        check(Npm, ">= 18 < 20", &[NODE18], &[NODE20]);
        check(Npm, "16 - 18", &[NODE18], &[NODE20]);
        check(Npm, "~18.20", &[NODE18], &[Version(18, 21, 0)]);
        check(Npm, ">18", &[NODE20], &[NODE18]);
        check(Npm, "<=18", &[NODE18], &[NODE20]);
        check(Npm, "*", &[NODE18, NODE20], &[]);
        check(Npm, "lts/iron", &[NODE20], &[NODE18]);
        check(Npm, "v20.11.1", &[Version(20, 11, 9)], &[NODE18]);
    }

    #[test]
    fn python_ranges_mean_what_pep_440_and_poetry_say() {
        use Dialect::Python;
        let (old, new) = (Version(3, 11, 2), Version(3, 13, 5));
        check(Python, ">=3.10,<3.13", &[old], &[new]);
        check(Python, "~=3.11", &[old, new], &[Version(4, 0, 0)]);
        check(Python, "~=3.11.1", &[old], &[new]);
        check(Python, "==3.11.*", &[old], &[new]);
        check(Python, ">=3.8, !=3.11.*", &[new], &[old]);
        check(Python, "^3.11", &[old, new], &[Version(4, 0, 0)]);
        check(Python, "~3.11", &[old], &[new]);
        check(Python, "python-3.11.9", &[old], &[new]);
        check(Python, ">3.9", &[old, new], &[Version(3, 9, 0)]);
    }

    #[test]
    fn composer_and_ruby_ranges_mean_what_they_say() {
        let (php82, php84) = (Version(8, 2, 29), Version(8, 4, 11));
        check(Dialect::Composer, "^8.1", &[php82, php84], &[Version(7, 4, 0)]);
        check(Dialect::Composer, "~8.1", &[php82, php84], &[Version(9, 0, 0)]);
        check(Dialect::Composer, "8.2.*", &[php82], &[php84]);
        check(Dialect::Composer, "^7.4|^8.3", &[php84], &[php82]);
        let ruby = Version(3, 3, 8);
        check(Dialect::Ruby, "~> 3.3.0", &[ruby], &[Version(3, 4, 0)]);
        check(Dialect::Ruby, "~> 3.1", &[ruby], &[Version(4, 0, 0)]);
        check(Dialect::Ruby, ">= 3.0, < 3.2", &[Version(3, 1, 2)], &[ruby]);
    }

    #[test]
    fn a_full_version_is_held_to_its_precision_only() {
        let holds = |precision| Range::parse("3.3.0", Dialect::Ruby, precision).unwrap().holds(Version(3, 3, 8));
        assert!(holds(Precision::Major));
        assert!(holds(Precision::Minor));
        assert!(!holds(Precision::Patch));
    }

    #[test]
    fn what_is_not_a_range_is_none() {
        for text in ["pypy3", "newest", ">=", "<>3", "~~3"] {
            assert_eq!(Range::parse(text, Dialect::Npm, Precision::Minor), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            for dialect in [Dialect::Npm, Dialect::Composer, Dialect::Python, Dialect::Ruby] {
                let _ = Range::parse(&text, dialect, Precision::Minor);
            }
        }
    }
}
