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
}

/// Of an environment.
pub const MOST: usize = 10;

const LONGEST: usize = 200;

const SMALLEST: Size = Size(1 << 20);

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
    fn a_templates_name_is_plain() {
        assert_eq!(TemplateName::parse("seed-2").unwrap().to_string(), "seed-2");
        for text in ["", "-seed", "Seed", "a/b", &"a".repeat(31)] {
            assert!(TemplateName::parse(text).is_err(), "{text:?}");
        }
    }
}
