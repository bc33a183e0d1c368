//! How single values are written in the file: sizes, durations, names. Each is checked while it is parsed, so that the
//! error carries its position.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flyloft_core::policy::{Limits, Policy};
use serde::de::{Deserialize, Deserializer, Error};

pub(super) fn parse_absolute_path(text: &str) -> Result<PathBuf, String> {
    // It reaches LXC configurations and mount tables, where these would need quoting that neither has.
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(format!("`{}` contains white space", text.escape_debug()));
    }
    if !text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(format!("`{text}` is not an absolute path"));
    }
    Ok(PathBuf::from(text))
}

/// A domain name as in RFC 1123: labels of letters, digits and `-`, in lower case, short enough that a label of 63
/// characters fits before it.
pub(super) fn parse_domain(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 189 || !text.split('.').all(label) {
        return Err(format!("`{text}` is not a domain name such as staging.example.org"));
    }
    Ok(text.to_owned())
}

/// `90s`, `15m`, `4h`, `14d`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a duration such as 90s, 15m, 4h or 14d");
    let (number, unit) = split_unit(text).ok_or_else(refuse)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(refuse()),
    };
    match number.checked_mul(seconds) {
        Some(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err(refuse()),
    }
}

/// `512MiB`, `5GiB`, `1TiB`; `MB` and the like are powers of ten.
fn parse_size(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is not a size such as 512MiB or 5GiB");
    let (number, unit) = split_unit(text).ok_or_else(refuse)?;
    let bytes = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(refuse()),
    };
    number.checked_mul(bytes).ok_or_else(refuse)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

/// Reads a string and has `parse` judge it.
fn judged<'de, D: Deserializer<'de>, T>(from: D, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, D::Error> {
    parse(&String::deserialize(from)?).map_err(D::Error::custom)
}

pub(super) fn absolute_path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    judged(from, parse_absolute_path)
}

pub(super) fn domain<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    judged(from, parse_domain)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    judged(from, parse_duration)
}

pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    judged(from, parse_size)
}

/// A name as in `/etc/group` (groupadd(8)).
pub(super) fn group<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    judged(from, |text| {
        let inner = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if inner && first && text.len() <= 32 {
            Ok(text.to_owned())
        } else {
            Err(format!("`{text}` is not a group name"))
        }
    })
}

/// The name of a stack.
pub(super) fn label<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    judged(from, |text| {
        let known = !text.is_empty() && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
        if known { Ok(text.to_owned()) } else { Err(format!("`{text}` is not the name of a stack such as debian-13")) }
    })
}

pub(super) fn some_addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    let addresses = Vec::deserialize(from)?;
    if addresses.is_empty() {
        return Err(D::Error::custom("at least one address is needed, such as \"[::]:80\""));
    }
    Ok(addresses)
}

/// Names as a shell allows them, values of one line.
pub(super) fn variables<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let variables = BTreeMap::<String, String>::deserialize(from)?;
    for (name, value) in &variables {
        let inner = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !inner || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(D::Error::custom(format!("`{name}` is not the name of an environment variable")));
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(D::Error::custom(format!("the value of `{name}` has more than one line")));
        }
    }
    Ok(variables)
}

/// As [`Limits`] is written: sizes with a unit.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsTable {
    #[serde(deserialize_with = "size")]
    memory: u64,
    #[serde(deserialize_with = "size")]
    swap: u64,
    pids: u32,
    #[serde(deserialize_with = "cpu_weight")]
    cpu_weight: u32,
    #[serde(deserialize_with = "size")]
    disk: u64,
    inodes: u64,
}

impl Default for LimitsTable {
    fn default() -> Self {
        let Limits { memory, swap, pids, cpu_weight, disk, inodes } = Limits::default();
        Self { memory, swap, pids, cpu_weight, disk, inodes }
    }
}

pub(super) fn limits<'de, D: Deserializer<'de>>(from: D) -> Result<Limits, D::Error> {
    let LimitsTable { memory, swap, pids, cpu_weight, disk, inodes } = LimitsTable::deserialize(from)?;
    Ok(Limits { memory, swap, pids, cpu_weight, disk, inodes })
}

fn cpu_weight<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        weight @ 1..=10_000 => Ok(weight),
        weight => Err(D::Error::custom(format!("{weight} is not between 1 and 10000"))),
    }
}

/// As [`Policy`] is written: durations with a unit, or `never`.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicyTable {
    #[serde(deserialize_with = "duration_or_never")]
    idle: Option<Duration>,
    #[serde(deserialize_with = "duration_or_never")]
    ttl: Option<Duration>,
    #[serde(deserialize_with = "duration_or_never")]
    expire: Option<Duration>,
}

impl Default for PolicyTable {
    fn default() -> Self {
        let Policy { idle, ttl, expire } = Policy::default();
        Self { idle, ttl, expire }
    }
}

pub(super) fn policy<'de, D: Deserializer<'de>>(from: D) -> Result<Policy, D::Error> {
    let PolicyTable { idle, ttl, expire } = PolicyTable::deserialize(from)?;
    Ok(Policy { idle, ttl, expire })
}

fn duration_or_never<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    judged(from, |text| if text == "never" { Ok(None) } else { parse_duration(text).map(Some) })
}
