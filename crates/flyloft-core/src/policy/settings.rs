//! Settings: what somebody has written down about policy and limits, at one level.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use thiserror::Error;

use super::{Limits, Policy, Size, SizeError, Span, SpanError};
use crate::gate::{Gate, GateError};
use crate::host::Domain;
use crate::name::excerpt;
use crate::service::{AskError, Asks};

/// The name of a setting, the same in the configuration, in `app.json` and on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Idle,
    Ttl,
    Expire,
    Memory,
    Swap,
    Pids,
    CpuWeight,
    Disk,
    Inodes,
    Services,
    Gate,
}

/// What is set at one level. `None` leaves it to the level below.
///
/// As TOML or JSON it is a table of [`Key`]s whose values are strings, or integers where they are plain numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub idle: Option<Span>,
    pub ttl: Option<Span>,
    pub expire: Option<Span>,
    pub memory: Option<Size>,
    pub swap: Option<Size>,
    pub pids: Option<u32>,
    pub cpu_weight: Option<u32>,
    pub disk: Option<Size>,
    pub inodes: Option<u64>,
    pub services: Option<Asks>,
    pub gate: Option<Gate>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingError {
    #[error("there is no setting `{0}`; there are {all}", all = Key::list())]
    NoSuchKey(String),
    #[error("`{0}` is not of the form KEY=VALUE")]
    NotAnAssignment(String),
    #[error("`{key}`: {source}")]
    Span { key: Key, source: SpanError },
    #[error("`{key}`: {source}")]
    Services { key: Key, source: AskError },
    #[error("`{key}`: {source}")]
    Gate { key: Key, source: GateError },
    #[error("`{key}`: {source}")]
    Size { key: Key, source: SizeError },
    #[error("`{key}`: `{value}` is not a whole number from {min} to {max}")]
    Number { key: Key, value: String, min: u64, max: u64 },
    #[error("`{key}`: `{value}` is too little, {min} is the least")]
    TooLittle { key: Key, value: String, min: String },
}

impl Key {
    pub const ALL: [Key; 11] = [
        Key::Idle,
        Key::Ttl,
        Key::Expire,
        Key::Memory,
        Key::Swap,
        Key::Pids,
        Key::CpuWeight,
        Key::Disk,
        Key::Inodes,
        Key::Services,
        Key::Gate,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Key::Idle => "idle",
            Key::Ttl => "ttl",
            Key::Expire => "expire",
            Key::Memory => "memory",
            Key::Swap => "swap",
            Key::Pids => "pids",
            Key::CpuWeight => "cpu_weight",
            Key::Disk => "disk",
            Key::Inodes => "inodes",
            Key::Services => "services",
            Key::Gate => "gate",
        }
    }

    pub fn parse(name: &str) -> Result<Self, SettingError> {
        Self::ALL.into_iter().find(|key| key.as_str() == name).ok_or_else(|| SettingError::NoSuchKey(excerpt(name)))
    }

    fn list() -> String {
        Self::ALL.map(|key| format!("`{key}`")).join(", ")
    }
}

impl Settings {
    /// What holds where nobody has written anything down.
    pub fn built_in() -> Self {
        let Policy { idle, ttl, expire } = Policy::default();
        let Limits { memory, swap, pids, cpu_weight, disk, inodes } = Limits::default();
        Self {
            idle: Some(Span(idle)),
            ttl: Some(Span(ttl)),
            expire: Some(Span(expire)),
            memory: Some(Size(memory)),
            swap: Some(Size(swap)),
            pids: Some(pids),
            cpu_weight: Some(cpu_weight),
            disk: Some(Size(disk)),
            inodes: Some(inodes),
            services: Some(Asks::default()),
            gate: Some(Gate::default()),
        }
    }

    pub fn set(&mut self, key: Key, value: &str) -> Result<(), SettingError> {
        match key {
            Key::Idle => self.idle = Some(span(key, value)?),
            Key::Ttl => self.ttl = Some(span(key, value)?),
            Key::Expire => self.expire = Some(span(key, value)?),
            // The least with which an interpreter still starts, so that `memory=512` is not taken for 512 bytes.
            Key::Memory => self.memory = Some(size(key, value, Size(16 << 20))?),
            Key::Swap => self.swap = Some(size(key, value, Size(0))?),
            Key::Pids => self.pids = Some(number(key, value, 8, 1 << 22)? as u32),
            // The range of cgroup v2's `cpu.weight`, see the kernel's cgroup-v2.rst.
            Key::CpuWeight => self.cpu_weight = Some(number(key, value, 1, 10_000)? as u32),
            Key::Disk => self.disk = Some(size(key, value, Size(1 << 20))?),
            Key::Inodes => self.inodes = Some(number(key, value, 100, 1 << 32)?),
            Key::Services => {
                self.services = Some(Asks::parse(value).map_err(|source| SettingError::Services { key, source })?);
            }
            Key::Gate => self.gate = Some(Gate::parse(value).map_err(|source| SettingError::Gate { key, source })?),
        }
        Ok(())
    }

    pub fn unset(&mut self, key: Key) {
        match key {
            Key::Idle => self.idle = None,
            Key::Ttl => self.ttl = None,
            Key::Expire => self.expire = None,
            Key::Memory => self.memory = None,
            Key::Swap => self.swap = None,
            Key::Pids => self.pids = None,
            Key::CpuWeight => self.cpu_weight = None,
            Key::Disk => self.disk = None,
            Key::Inodes => self.inodes = None,
            Key::Services => self.services = None,
            Key::Gate => self.gate = None,
        }
    }

    /// The value as people write it.
    pub fn get(&self, key: Key) -> Option<String> {
        match key {
            Key::Idle => self.idle.map(|value| value.to_string()),
            Key::Ttl => self.ttl.map(|value| value.to_string()),
            Key::Expire => self.expire.map(|value| value.to_string()),
            Key::Memory => self.memory.map(|value| value.to_string()),
            Key::Swap => self.swap.map(|value| value.to_string()),
            Key::Pids => self.pids.map(|value| value.to_string()),
            Key::CpuWeight => self.cpu_weight.map(|value| value.to_string()),
            Key::Disk => self.disk.map(|value| value.to_string()),
            Key::Inodes => self.inodes.map(|value| value.to_string()),
            Key::Services => self.services.as_ref().map(|value| value.to_string()),
            Key::Gate => self.gate.as_ref().map(|value| value.to_string()),
        }
    }

    /// Takes `idle=5m`; `idle=` gives the setting back to the level below.
    pub fn assign(&mut self, assignment: &str) -> Result<(), SettingError> {
        let (key, value) =
            assignment.split_once('=').ok_or_else(|| SettingError::NotAnAssignment(excerpt(assignment)))?;
        match (Key::parse(key)?, value) {
            (key, "") => self.unset(key),
            (key, value) => self.set(key, value)?,
        }
        Ok(())
    }

    /// These settings, and where they say nothing, those of the level below.
    pub fn over(self, below: &Settings) -> Settings {
        Settings {
            idle: self.idle.or(below.idle),
            ttl: self.ttl.or(below.ttl),
            expire: self.expire.or(below.expire),
            memory: self.memory.or(below.memory),
            swap: self.swap.or(below.swap),
            pids: self.pids.or(below.pids),
            cpu_weight: self.cpu_weight.or(below.cpu_weight),
            disk: self.disk.or(below.disk),
            inodes: self.inodes.or(below.inodes),
            services: self.services.or_else(|| below.services.clone()),
            gate: self.gate.or_else(|| below.gate.clone()),
        }
    }

    /// These settings where they ask for no more than `policy` and `limits` give. Whoever may push may ask for less
    /// in `app.json`; more is given by who runs the server.
    pub fn within(self, policy: &Policy, limits: &Limits) -> Settings {
        let span = |asked: Option<Span>, most: Option<std::time::Duration>| {
            asked.map(|asked| match (asked.0, most) {
                (Some(asked), Some(most)) => Span(Some(asked.min(most))),
                (asked, most) => Span(asked.or(most)),
            })
        };
        Settings {
            idle: span(self.idle, policy.idle),
            ttl: span(self.ttl, policy.ttl),
            expire: span(self.expire, policy.expire),
            memory: self.memory.map(|asked| asked.min(Size(limits.memory))),
            swap: self.swap.map(|asked| asked.min(Size(limits.swap))),
            pids: self.pids.map(|asked| asked.min(limits.pids)),
            cpu_weight: self.cpu_weight.map(|asked| asked.min(limits.cpu_weight)),
            disk: self.disk.map(|asked| asked.min(Size(limits.disk))),
            inodes: self.inodes.map(|asked| asked.min(limits.inodes)),
            // Whoever may push may have what an administrator has told of.
            services: self.services,
            // Whoever has a key may show what is theirs to whom they like. A repository has no say: see `Levels`.
            gate: self.gate,
        }
    }

    /// What a server sets whose environments are below this domain: one that is `localhost` is somebody's own, to try
    /// things out on, unless it is said otherwise. A name does not keep others out; the daemon says so when it starts.
    pub fn of_server(self, domain: &Domain) -> Settings {
        let gate = self.gate.or_else(|| domain.is_localhost().then_some(Gate::Public));
        Settings { gate, ..self }
    }

    /// Who may look, if there is nothing below but what is built in.
    pub fn gate(&self) -> Gate {
        self.gate.clone().unwrap_or_default()
    }

    /// What holds if there is nothing below but what is built in.
    pub fn policy(&self) -> Policy {
        let built_in = Policy::default();
        Policy {
            idle: self.idle.map_or(built_in.idle, |span| span.0),
            ttl: self.ttl.map_or(built_in.ttl, |span| span.0),
            expire: self.expire.map_or(built_in.expire, |span| span.0),
        }
    }

    /// See [`Settings::policy`].
    pub fn limits(&self) -> Limits {
        let built_in = Limits::default();
        Limits {
            memory: self.memory.map_or(built_in.memory, |size| size.0),
            swap: self.swap.map_or(built_in.swap, |size| size.0),
            pids: self.pids.unwrap_or(built_in.pids),
            cpu_weight: self.cpu_weight.unwrap_or(built_in.cpu_weight),
            disk: self.disk.map_or(built_in.disk, |size| size.0),
            inodes: self.inodes.unwrap_or(built_in.inodes),
        }
    }
}

fn span(key: Key, value: &str) -> Result<Span, SettingError> {
    match Span::parse(value).map_err(|source| SettingError::Span { key, source })? {
        Span(Some(span)) if span.is_zero() => {
            Err(SettingError::TooLittle { key, value: excerpt(value), min: "1s".to_owned() })
        }
        span => Ok(span),
    }
}

fn size(key: Key, value: &str, min: Size) -> Result<Size, SettingError> {
    match Size::parse(value).map_err(|source| SettingError::Size { key, source })? {
        size if size < min => Err(SettingError::TooLittle { key, value: excerpt(value), min: min.to_string() }),
        size => Ok(size),
    }
}

fn number(key: Key, value: &str, min: u64, max: u64) -> Result<u64, SettingError> {
    match value.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(SettingError::Number { key, value: excerpt(value), min, max }),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Key {
    type Err = SettingError;
    fn from_str(name: &str) -> Result<Self, SettingError> {
        Self::parse(name)
    }
}

/// `idle=5m ttl=never`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Key::ALL.into_iter().filter_map(|key| Some((key, self.get(key)?)));
        for (index, (key, value)) in set.enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for key in Key::ALL {
            if let Some(value) = self.get(key) {
                map.serialize_entry(key.as_str(), &value)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Table)
    }
}

struct Table;

impl<'de> Visitor<'de> for Table {
    type Value = Settings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
        let mut settings = Settings::default();
        while let Some(key) = map.next_key::<Key>()? {
            if settings.get(key).is_some() {
                return Err(de::Error::custom(format_args!("`{key}` is set twice")));
            }
            map.next_value_seed(Entry { key, settings: &mut settings })?;
        }
        Ok(settings)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Key::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The value of `key`: a string, or an integer. It is set while it is read, so that an error points at it.
struct Entry<'a> {
    key: Key,
    settings: &'a mut Settings,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Entry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.settings.set(self.key, text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests;
