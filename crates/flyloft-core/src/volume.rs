//! Volumes: directories of an environment that outlive its deploys. Where they are mounted, and what apps ask for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::excerpt;
use crate::policy::Size;

/// Where a volume is mounted: an absolute path of plain parts, 200 bytes at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountPath(String);

/// What a volume can start with: lower-case letters, digits and `-`, 30 at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);

/// A volume that an app asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub path: MountPath,
    /// As much as the environment's own disk may take if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Empty at first if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VolumeError {
    #[error(
        "`{0}` is no place for a volume: an absolute path without `.`, `..`, `//` and control characters, 200 bytes at most, as `/app/uploads`"
    )]
    Path(String),
    #[error("a volume at `{0}` would hide what {1}")]
    Hides(String, &'static str),
    #[error("volumes do not lie within each other, as `{0}` and `{1}` would")]
    Within(MountPath, MountPath),
    #[error("`{0}` is no name for a template: lower-case letters, digits and `-` are allowed, 30 at most")]
    Template(String),
    #[error("a volume of {0} is too small: {SMALLEST} at least")]
    Small(Size),
    #[error("there are {0} volumes, and {MOST} are allowed")]
    TooMany(usize),
    #[error(
        "`app.json` asks for volumes of at least {asked}{}, and may have {most} in all, as much as the environment's disk",
        beside(*.given)
    )]
    TooLarge { asked: Size, given: Size, most: Size },
}

/// Of an environment.
pub const MOST: usize = 10;

const LONGEST: usize = 200;

const SMALLEST: Size = Size(1 << 20);

/// What a file takes of a disk at least, if there is anything in it.
const BLOCK: u64 = 4096;

/// Where nothing may be mounted, nor below it, and why.
const KEPT: [(&str, &str); 12] = [
    ("/flyloft", "flyloft keeps there"),
    ("/proc", "the kernel tells there"),
    ("/sys", "the kernel tells there"),
    ("/dev", "the kernel keeps there"),
    ("/run", "goes with each start anyway"),
    ("/tmp", "goes with each deploy on purpose"),
    ("/usr", "the system needs"),
    ("/bin", "the system needs"),
    ("/sbin", "the system needs"),
    ("/lib", "the system needs"),
    ("/lib64", "the system needs"),
    ("/etc", "the system needs"),
];

impl MountPath {
    pub fn parse(text: &str) -> Result<Self, VolumeError> {
        let rest = text.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        let path = match rest {
            Some(rest) if text.len() <= LONGEST && !text.contains(char::is_control) && rest.split('/').all(plain) => {
                Self(format!("/{rest}"))
            }
            _ => return Err(VolumeError::Path(excerpt(text))),
        };
        if path.0 == "/app" {
            return Err(VolumeError::Hides(path.0, "the app is made of"));
        }
        match KEPT.iter().find(|(kept, _)| path.is_within(kept)) {
            Some((_, why)) => Err(VolumeError::Hides(excerpt(text), why)),
            None => Ok(path),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is this directory, or below it.
    fn is_within(&self, dir: &str) -> bool {
        self.0.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl TemplateName {
    pub fn parse(text: &str) -> Result<Self, VolumeError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        match (1..=30).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('-') {
            true => Ok(Self(text.to_owned())),
            false => Err(VolumeError::Template(excerpt(text))),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether an environment can have volumes at all of these.
pub fn check<'a>(paths: impl IntoIterator<Item = &'a MountPath>) -> Result<(), VolumeError> {
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort();
    if paths.len() > MOST {
        return Err(VolumeError::TooMany(paths.len()));
    }
    let clash = |(at, path): (usize, &&'a MountPath)| {
        let other = paths[at + 1..].iter().find(|other| other.is_within(path.as_str()))?;
        Some(VolumeError::Within((*path).clone(), (*other).clone()))
    };
    paths.iter().enumerate().find_map(clash).map_or(Ok(()), Err)
}

/// How large these are to be, which an `app.json` asks for: with those of `given` bytes that it has been given before no
/// more than `most` in all, and none by itself. Those that name no size share what is left.
pub fn grant(asks: &[&Ask], given: u64, most: Size) -> Result<Vec<Size>, VolumeError> {
    let open = asks.iter().filter(|ask| ask.size.is_none()).count() as u64;
    let named = asks.iter().filter_map(|ask| ask.size).map(|size| size.min(most).0);
    let asked = named.fold(open * SMALLEST.0, u64::saturating_add);
    let Some(spare) = most.0.saturating_sub(given).checked_sub(asked) else {
        return Err(VolumeError::TooLarge { asked: Size(asked), given: Size(given), most });
    };
    // Where it is shared, by what people read at a glance.
    let each = if open > 1 { spare / open / SMALLEST.0 * SMALLEST.0 } else { spare };
    let share = Size(SMALLEST.0 + each);
    Ok(asks.iter().map(|ask| ask.size.map_or(share, |size| size.min(most))).collect())
}

fn beside(given: Size) -> String {
    if given.0 == 0 { String::new() } else { format!(" beside those of {given} that it has been given") }
}

/// Files and directories that there may be in a volume of so many bytes, where it is bounded by itself: as many as it would
/// take to fill it if none were empty.
pub fn files(size: u64) -> u64 {
    size / BLOCK
}

/// Whether a volume can be of that size.
pub fn check_size(size: Size) -> Result<Size, VolumeError> {
    if size < SMALLEST { Err(VolumeError::Small(size)) } else { Ok(size) }
}

macro_rules! text {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = VolumeError;
            fn from_str(text: &str) -> Result<Self, VolumeError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = VolumeError;
            fn try_from(text: String) -> Result<Self, VolumeError> {
                Self::parse(&text)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }
    };
}

text!(MountPath);
text!(TemplateName);

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> MountPath {
        MountPath::parse(text).unwrap()
    }

    #[test]
    fn a_volume_is_mounted_where_nothing_else_has_to_be() {
        for text in ["/app/uploads", "/data", "/var/lib/app/x y", "/appdata", "/home/app/.cache"] {
            assert_eq!(path(text).to_string(), text);
        }
        assert_eq!(path("/app/uploads/"), path("/app/uploads"));
        for text in
            ["", "/", "uploads", "/app/../etc", "/app//x", "/app/./x", "/a\nb", &format!("/{}", "a".repeat(200))]
        {
            assert!(matches!(MountPath::parse(text), Err(VolumeError::Path(_))), "{text:?}");
        }
        for text in ["/app", "/app/", "/etc", "/etc/passwd", "/flyloft/init", "/proc/1", "/usr/local"] {
            assert!(matches!(MountPath::parse(text), Err(VolumeError::Hides(..))), "{text:?}");
        }
    }

    #[test]
    fn volumes_lie_beside_each_other() {
        assert_eq!(check([&path("/data"), &path("/database"), &path("/app/x")]), Ok(()));
        let (outer, inner) = (path("/data"), path("/data/x"));
        assert_eq!(check([&inner, &path("/data-2"), &outer]), Err(VolumeError::Within(outer, inner)));
        let many: Vec<_> = (0..=MOST).map(|n| path(&format!("/data-{n}"))).collect();
        assert_eq!(check(&many), Err(VolumeError::TooMany(MOST + 1)));
    }

    #[test]
    fn what_a_file_asks_for_is_no_more_than_a_disk_in_all() {
        const MIB: u64 = 1 << 20;
        let asks: Vec<_> =
            (0..MOST).map(|n| Ask { path: path(&format!("/{n}")), size: None, template: None }).collect();
        let granted = |sizes: &[Option<u64>], given: u64, most: u64| {
            let asks =
                asks.iter().zip(sizes).map(|(ask, size)| Ask { size: size.map(|n| Size(n * MIB)), ..ask.clone() });
            let asks: Vec<_> = asks.collect();
            let granted = grant(&asks.iter().collect::<Vec<_>>(), given * MIB, Size(most * MIB));
            granted.map(|sizes| sizes.into_iter().map(|size| size.0 / MIB).collect::<Vec<_>>())
        };
        let refused = |sizes: &[Option<u64>], given, most| granted(sizes, given, most).unwrap_err().to_string();
        assert_eq!(granted(&[None], 0, 100).unwrap(), [100]);
        assert_eq!(granted(&[None, Some(30), None], 8, 100).unwrap(), [31, 30, 31]);
        assert_eq!(granted(&[None; 3], 0, 100).unwrap(), [33; 3]);
        assert_eq!(granted(&[Some(60), Some(40)], 0, 100).unwrap(), [60, 40]);
        assert_eq!(granted(&[Some(1 << 40)], 0, 100).unwrap(), [100], "one by itself has all that there is");
        assert!(granted(&[], 200, 100).unwrap().is_empty(), "the disk may have become smaller");
        insta::assert_snapshot!(refused(&[Some(60), Some(41)], 0, 100), @"`app.json` asks for volumes of at least 101MiB, and may have 100MiB in all, as much as the environment's disk");
        insta::assert_snapshot!(refused(&[None, None], 99, 100), @"`app.json` asks for volumes of at least 2MiB beside those of 99MiB that it has been given, and may have 100MiB in all, as much as the environment's disk");
        assert!(granted(&[Some(1 << 43), Some(1)], 0, 1 << 43).is_err() && granted(&[None], 1 << 43, 100).is_err());
        assert_eq!(granted(&[None; MOST], 0, MOST as u64).unwrap(), [1; MOST]);
    }

    #[test]
    fn a_templates_name_is_plain() {
        assert_eq!(TemplateName::parse("seed-2").unwrap().to_string(), "seed-2");
        for text in ["", "-seed", "Seed", "a/b", &"a".repeat(31)] {
            assert!(TemplateName::parse(text).is_err(), "{text:?}");
        }
    }
}
