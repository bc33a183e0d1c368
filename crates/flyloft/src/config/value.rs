//! How single values are written in the file: paths, names, addresses, sizes. Each is checked while it is parsed, so that the
//! error carries its position.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flyloft_core::gate::Prefix;
use flyloft_core::policy::{Size, Span};
use serde::de::{Deserialize, Deserializer, Error};

use super::Visitors;

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
pub fn parse_domain(text: &str) -> Result<String, String> {
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

/// A domain name, or the empty text for none.
pub(super) fn domain_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    judged(from, |text| if text.is_empty() { Ok(String::new()) } else { parse_domain(text) })
}

/// An address such as `https://acme.example.org/directory`.
pub(super) fn https<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    judged(from, |text| {
        let parsed = text.parse::<hyper::Uri>().ok().filter(|uri| uri.scheme_str() == Some("https"));
        match parsed.is_some_and(|uri| uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))) {
            true => Ok(text.to_owned()),
            false => Err(format!("`{}` is not an address that begins with https://", text.escape_debug())),
        }
    })
}

pub(super) fn mail_addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let addresses = Vec::<String>::deserialize(from)?;
    let is_one = |text: &String| {
        let parts = text.split_once('@');
        parts.is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b'?')
    };
    match addresses.iter().find(|text| !is_one(text)) {
        None => Ok(addresses),
        Some(text) => Err(D::Error::custom(format!("`{}` is not a mail address", text.escape_debug()))),
    }
}

pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let span = Span::deserialize(from)?;
    span.0.filter(|span| !span.is_zero()).ok_or_else(|| D::Error::custom(format!("`{span}` is not a limit")))
}

pub(super) fn duration_or_never<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    match Span::deserialize(from)? {
        span if span.0.is_some_and(|span| span.is_zero()) => Err(D::Error::custom(format!("`{span}` is not a period"))),
        span => Ok(span.0),
    }
}

pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Size::deserialize(from).map(|size| size.0)
}

/// `None` for `auto`.
pub(super) fn size_or_auto<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    judged(from, |text| match text {
        "auto" => Ok(None),
        text => Size::parse(text).map(|size| Some(size.0)).map_err(|error| format!("{error}; or say `auto`")),
    })
}

/// `None` for `none`.
pub(super) fn size_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    judged(from, |text| match text {
        "none" => Ok(None),
        text => match Size::parse(text) {
            Ok(size) if size.0 > 0 => Ok(Some(size.0)),
            Ok(_) => Err(format!("`{text}` is not a limit; or say `none`")),
            Err(error) => Err(format!("{error}; or say `none`")),
        },
    })
}

/// Parts of user agents. An empty one would be a part of every one.
pub(super) fn agents<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let agents = Vec::<String>::deserialize(from)?;
    match agents.iter().any(|agent| agent.trim().is_empty()) {
        true => Err(D::Error::custom("a part of a user agent is needed, such as \"UptimeRobot\"")),
        false => Ok(agents),
    }
}

/// Ranges of addresses.
pub(super) fn ranges<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Prefix>, D::Error> {
    let ranges = Vec::<String>::deserialize(from)?;
    ranges.iter().map(|range| Prefix::parse(range).map_err(D::Error::custom)).collect()
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

/// The same, where not to say any means something.
pub(super) fn addresses_if_any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<SocketAddr>>, D::Error> {
    some_addresses(from).map(Some)
}

pub(super) fn visitors_or_auto<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Visitors>, D::Error> {
    judged(from, |text| match text {
        "auto" => Ok(None),
        text => Visitors::parse(text).map(Some).ok_or_else(|| {
            format!("`{text}` is not `auto`, `http`, `https`, or one of these with a port such as `https:8443`")
        }),
    })
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
