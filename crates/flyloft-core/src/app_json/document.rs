//! JSON that knows where it is: serde_json's raw values are slices of the text, so that a value's place is known.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{AppJsonError, Problem};
use crate::name::excerpt;
use crate::place::Place;

/// A value, and the path of keys that leads to it.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    text: &'a str,
    raw: &'a str,
    path: String,
}

/// A key of an object and its value.
pub struct Member<'a> {
    pub key: String,
    pub value: Node<'a>,
    /// Where the key is, in bytes.
    at: usize,
}

pub type Result<T> = std::result::Result<T, AppJsonError>;

impl<'a> Node<'a> {
    /// Reads the text as a whole. From here on it is known to be JSON.
    pub fn root(bytes: &'a [u8]) -> Result<Self> {
        let whole = |place, problem| AppJsonError { place, path: String::new(), problem };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| whole(Place::of(bytes, error.valid_up_to()), Problem::NotUtf8))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) => Ok(Self { text, raw: raw.get(), path: String::new() }),
            Err(error) => {
                // Raw values are skipped over with few words; reading them gives better ones (`trailing comma`).
                let error = serde_json::from_str::<serde_json::Value>(text).err().unwrap_or(error);
                Err(whole(place_of(text, 0, &error), Problem::Syntax(wording(&error))))
            }
        }
    }

    pub fn place(&self) -> Place {
        Place::of(self.text.as_bytes(), self.offset())
    }

    pub fn fail<T>(&self, problem: impl Into<Problem>) -> Result<T> {
        Err(AppJsonError { place: self.place(), path: self.path.clone(), problem: problem.into() })
    }

    pub fn object(&self) -> Result<Vec<Member<'a>>> {
        let Members(members) = self.read('{', "an object")?;
        let mut keys = HashSet::with_capacity(members.len());
        let mut found = Vec::with_capacity(members.len());
        let mut before = self.offset();
        for (key, raw) in members {
            // Between the value before and this key there is nothing but `{` or `,` and white space.
            let at = before + self.text[before..].find('"').unwrap_or(0);
            let value = Node { text: self.text, raw: raw.get(), path: self.below(&key) };
            before = value.offset() + value.raw.len();
            let twice = !keys.insert(key.clone());
            let member = Member { key, value, at };
            if twice {
                return member.fail(Problem::Twice);
            }
            found.push(member);
        }
        Ok(found)
    }

    pub fn array(&self) -> Result<Vec<Node<'a>>> {
        let items: Vec<&RawValue> = self.read('[', "a list")?;
        let node = |(index, raw): (usize, &'a RawValue)| {
            let path = format!("{}[{index}]", self.path);
            Node { text: self.text, raw: raw.get(), path }
        };
        Ok(items.into_iter().enumerate().map(node).collect())
    }

    pub fn string(&self) -> Result<String> {
        self.read('"', "a string")
    }

    /// A string that goes into a line, such as a header of HTTP.
    pub fn line(&self) -> Result<String> {
        let text = self.string()?;
        if text.contains(char::is_control) { self.fail(Problem::Control) } else { Ok(text) }
    }

    pub fn boolean(&self) -> Result<bool> {
        match self.raw {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => self.wrong("true or false"),
        }
    }

    pub fn number(&self, min: u32, max: u32) -> Result<u32> {
        if self.kind() != "a number" {
            return self.wrong("a whole number");
        }
        match serde_json::from_str(self.raw) {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => self.fail(Problem::OutOfRange { min, max }),
        }
    }

    /// A string, or a number as it is written.
    pub fn string_or_number(&self) -> Result<String> {
        match self.kind() {
            "a number" => Ok(self.raw.to_owned()),
            "a string" => self.string(),
            _ => self.wrong("a string or a number"),
        }
    }

    pub fn is_string(&self) -> bool {
        self.kind() == "a string"
    }

    pub fn wrong<T>(&self, expected: &'static str) -> Result<T> {
        self.fail(Problem::WrongType { expected, found: self.kind() })
    }

    fn read<T: Deserialize<'a>>(&self, opening: char, expected: &'static str) -> Result<T> {
        if !self.raw.starts_with(opening) {
            return self.wrong(expected);
        }
        // Half of a surrogate pair is well-formed JSON and yet no text.
        serde_json::from_str(self.raw).map_err(|error| AppJsonError {
            place: place_of(self.text, self.offset(), &error),
            path: self.path.clone(),
            problem: Problem::Syntax(wording(&error)),
        })
    }

    fn kind(&self) -> &'static str {
        match self.raw.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "true or false",
            Some(b'n') => "null",
            _ => "a number",
        }
    }

    fn below(&self, key: &str) -> String {
        let key = excerpt(key);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    fn offset(&self) -> usize {
        self.raw.as_ptr() as usize - self.text.as_ptr() as usize
    }
}

impl Member<'_> {
    pub fn place(&self) -> Place {
        Place::of(self.value.text.as_bytes(), self.at)
    }

    /// The key itself is wrong.
    pub fn fail<T>(&self, problem: impl Into<Problem>) -> Result<T> {
        Err(AppJsonError { place: self.place(), path: self.value.path.clone(), problem: problem.into() })
    }
}

/// serde_json counts lines from the start of what it was given, and columns in bytes.
fn place_of(text: &str, start: usize, error: &serde_json::Error) -> Place {
    let given = &text[start..];
    let line_start: usize = given.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    Place::of(text.as_bytes(), start + line_start + error.column().saturating_sub(1))
}

fn wording(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(wording, _)| wording.to_owned())
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Map)
    }
}
