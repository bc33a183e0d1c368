//! The ranges of user and group ids that containers get (subuid(5), subgid(5)), and the group of the socket.

use std::path::Path;

use super::read;

/// What containers take their ids from: 4,096 ranges of 65,536, below 2³¹.
pub const RANGE: Range = Range { from: 0x7000_0000, count: 4096 * 65_536 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub from: u64,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    pub users: Grant,
    pub groups: Grant,
}

/// Who has [`RANGE`] by one of the two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    Root,
    Nobody,
    /// Somebody else has a part of it.
    Other(String),
}

impl Ids {
    pub fn look() -> Self {
        Self::look_at(Path::new("/etc"))
    }

    pub fn look_at(etc: &Path) -> Self {
        Self { users: grant(&read(etc.join("subuid"))), groups: grant(&read(etc.join("subgid"))) }
    }
}

impl Range {
    fn end(self) -> u64 {
        self.from.saturating_add(self.count)
    }
}

/// Judges the lines `NAME:FROM:COUNT` of one file.
fn grant(text: &str) -> Grant {
    let lines = || text.lines().filter_map(parse_line);
    let overlaps = |range: Range| range.from < RANGE.end() && RANGE.from < range.end();
    if let Some((who, _)) = lines().find(|(who, range)| !is_root(who) && overlaps(*range)) {
        return Grant::Other(who.to_owned());
    }
    let covers = |range: Range| range.from <= RANGE.from && RANGE.end() <= range.end();
    if lines().any(|(who, range)| is_root(who) && covers(range)) { Grant::Root } else { Grant::Nobody }
}

fn is_root(who: &str) -> bool {
    matches!(who, "root" | "0")
}

fn parse_line(line: &str) -> Option<(&str, Range)> {
    let mut fields = line.trim().split(':');
    let who = fields.next()?;
    let range = Range { from: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
    Some((who, range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_roots_nobodys_or_anothers() {
        assert_eq!(grant("someone:100000:65536\nroot:1879048192:268435456\n"), Grant::Root);
        assert_eq!(grant("0:1000000000:2000000000\n"), Grant::Root);
        assert_eq!(grant("root:1879048192:65536\n"), Grant::Nobody, "too few");
        assert_eq!(grant("someone:100000:65536\nnonsense\n"), Grant::Nobody);
        assert_eq!(grant(""), Grant::Nobody);
        let both = "root:1879048192:268435456\nsomeone:2000000000:65536\n";
        assert_eq!(grant(both), Grant::Other("someone".to_owned()));
    }
}
