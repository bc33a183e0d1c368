//! What a database has in it at first, if that is not nothing: `shop_seed`, or `shop/main`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{AskError, Kind};
use crate::name::{AppName, EnvRef, excerpt, shorten};

/// Data that somebody has put on a server for others to begin with: of lower-case letters, digits, `_` and `-`, 30 at
/// most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);

/// Whose data it begins with. Prints as it is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    Template(TemplateName),
    /// What that environment has at that moment.
    Environment(EnvRef),
}

const TEMPLATE_MAX: usize = 30;

impl TemplateName {
    pub fn parse(name: &str) -> Result<Self, AskError> {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        match begins && name.len() <= TEMPLATE_MAX && name.chars().all(inside) {
            true => Ok(Self(name.to_owned())),
            false => Err(AskError::Template(excerpt(name))),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whose it is by its name: that of the app's own, or one that begins with it and a `_`. Where several do, it is the
    /// longest one's.
    pub fn app<'a>(&self, apps: impl IntoIterator<Item = &'a AppName>) -> Option<&'a AppName> {
        let alike = |text: &str| text.replace('-', "_");
        let name = alike(&self.0);
        let begins = |app: &&AppName| match name.strip_prefix(&alike(app.as_str())) {
            Some(rest) => rest.is_empty() || rest.starts_with('_'),
            None => false,
        };
        apps.into_iter().filter(begins).max_by_key(|app| app.as_str().len())
    }

    /// What its database is called on a server of that kind, of the daemon `instance`; `id` is given once.
    pub fn name_for(&self, kind: Kind, instance: &str, id: &str) -> String {
        let said = format!("flyloft-template-{}", self.0).replace('_', "-");
        shorten(&said, &format!("{instance}/template/{id}"), kind.longest_name()).replace('-', "_")
    }
}

impl Data {
    pub fn parse(text: &str) -> Result<Self, AskError> {
        match text.contains('/') {
            true => EnvRef::parse(text).map(Data::Environment).map_err(|_| AskError::Data(excerpt(text))),
            false => TemplateName::parse(text).map(Data::Template),
        }
    }

    pub fn is_of(&self, env: &EnvRef) -> bool {
        matches!(self, Data::Environment(other) if other == env)
    }
}

impl FromStr for TemplateName {
    type Err = AskError;
    fn from_str(name: &str) -> Result<Self, AskError> {
        Self::parse(name)
    }
}

impl TryFrom<String> for TemplateName {
    type Error = AskError;
    fn try_from(name: String) -> Result<Self, AskError> {
        Self::parse(&name)
    }
}

impl From<TemplateName> for String {
    fn from(name: TemplateName) -> Self {
        name.0
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Template(name) => name.fmt(f),
            Data::Environment(env) => env.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_that_apps_whose_name_begins_its_own_and_the_longest_ones_of_several() {
        let apps = ["shop", "shop-admin", "cart"].map(|name| AppName::parse(name).unwrap());
        let of = |name: &str| {
            let template = TemplateName::parse(name).unwrap();
            template.app(&apps).map(ToString::to_string).unwrap_or_default()
        };
        let names =
            ["shop", "shop_seed", "shop-seed", "shop_admin", "shop-admin_seed", "shopping_seed", "seed", "cart1"];
        assert_eq!(names.map(of), ["shop", "shop", "shop", "shop-admin", "shop-admin", "", "", ""]);
    }
}
