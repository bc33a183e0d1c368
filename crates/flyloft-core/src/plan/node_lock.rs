//! What locked packages ask of Node. npm only warns when it is too old, and the app then fails as it starts or, worse,
//! later. So a Node that suits them all is taken, where the repository asks for none and the stack's does not.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::version::{Dialect, Precision, Range, Version};
use super::{Pin, PlanError, Stack, Tool, Toolchain, Tree};

/// The versions of Node that packages say they run on, and the first package that says each.
///
/// A lock file can be large and anybody's, so this is all that is kept of it: of thousands of packages, which say the
/// same few things.
#[derive(Default)]
struct Asked(BTreeMap<String, Asks>);

struct Asks {
    package: String,
    range: Range,
}

/// More different ranges than this, or longer ones, are in no lock file that a package manager wrote.
const RANGES_MAX: usize = 1000;
const RANGE_MAX: usize = 200;

impl Asked {
    fn note(&mut self, text: &str, package: impl FnOnce() -> String) {
        if text.len() > RANGE_MAX || self.0.len() == RANGES_MAX || self.0.contains_key(text) {
            return;
        }
        let range = Range::parse(text, Dialect::Npm, Precision::Patch);
        self.0.extend(range.map(|range| (text.to_owned(), Asks { package: package(), range })));
    }
}

/// A pin on a release of Node that suits all packages of the lock file; none where Debian's does, or no release.
pub(super) fn pin(tree: &dyn Tree, notes: &mut Vec<String>) -> Result<Vec<Pin>, PlanError> {
    for file in ["package-lock.json", "pnpm-lock.yaml"] {
        let Some(text) = tree.lock(file)? else { continue };
        let Asked(asks) = if file.ends_with(".json") { of_npm(&text) } else { of_pnpm(&text) };
        let suits = |version: Version| asks.values().all(|asks| asks.range.holds(version));
        let stack = Stack::ALL[0].ships(Toolchain::Node);
        let unsuited = asks.iter().find(|(_, asks)| stack.is_some_and(|version| !asks.range.holds(version)));
        let Some((needs, Asks { package, .. })) = unsuited else { return Ok(Vec::new()) };
        let Some(version) = Tool::nodes().find(|version| suits(*version)) else { return Ok(Vec::new()) };
        notes.push(format!("`{file}` has {package}, which needs Node {needs}"));
        let text = format!("{}.x", version.0);
        let range = Range::parse(&text, Dialect::Npm, Precision::Major);
        return Ok(range.map(|range| Pin { toolchain: Toolchain::Node, file, text, range }).into_iter().collect());
    }
    Ok(Vec::new())
}

/// `packages` of a lock file of npm 7 and above. A lock file that is not JSON is npm's to complain about.
fn of_npm(text: &str) -> Asked {
    let lock: Lock = serde_json::from_str(text).unwrap_or_default();
    lock.packages
}

#[derive(Default, Deserialize)]
struct Lock {
    #[serde(default)]
    packages: Asked,
}

/// What is said of one package is shorter than this.
const PACKAGE_MAX: usize = 64 << 10;

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Packages;
        impl<'de> Visitor<'de> for Packages {
            type Value = Asked;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asked, A::Error> {
                let mut asked = Asked::default();
                while let Some((path, package)) = map.next_entry::<String, &RawValue>()? {
                    // The project itself is not below it.
                    let name = path.rsplit_once("node_modules/").map(|(_, name)| name);
                    if let Some(name) = name.filter(|_| package.get().len() <= PACKAGE_MAX) {
                        note(&mut asked, name, package);
                    }
                }
                Ok(asked)
            }
        }
        deserializer.deserialize_map(Packages)
    }
}

fn note(asked: &mut Asked, name: &str, package: &RawValue) {
    let package: Value = serde_json::from_str(package.get()).unwrap_or_default();
    // Optional ones are for other platforms, and left out where they do not suit.
    if package.get("optional").is_some() {
        return;
    }
    let node = package.get("engines").and_then(|engines| engines.get("node")?.as_str());
    let version = package.get("version").and_then(Value::as_str).unwrap_or_default();
    node.into_iter().for_each(|text| asked.note(text, || format!("{name}@{version}")));
}

/// Under `packages:`, a name with its version, then lines that are further in; pnpm writes it always the same.
fn of_pnpm(text: &str) -> Asked {
    let mut package = "";
    let mut asked = Asked::default();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            package = name.trim_end_matches(':').trim_matches(['\'', '"', '/']);
        }
        let node = line.strip_prefix("    engines: {node: ").and_then(|rest| rest.split(['}', ',']).next());
        node.into_iter().for_each(|node| asked.note(node.trim_matches(['\'', '"']), || package.to_owned()));
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_lock_file_that_no_package_manager_wrote_little_is_kept() {
        let packages = |node: &dyn Fn(usize) -> String| {
            let packages = (0..5000).map(|n| format!(r#""node_modules/a{n}":{{"engines":{{"node":"{}"}}}}"#, node(n)));
            format!(r#"{{"packages":{{{}}}}}"#, packages.collect::<Vec<_>>().join(","))
        };
        assert_eq!(of_npm(&packages(&|_| ">=18".to_owned())).0.len(), 1);
        assert_eq!(of_npm(&packages(&|n| format!(">={n}"))).0.len(), RANGES_MAX);
        assert_eq!(of_npm(&packages(&|n| format!(">={n}{}", " || 1".repeat(100)))).0.len(), 0);
        let large = format!(r#"{{"engines":{{"node":">=1"}},"a":[{}]}}"#, vec!["{}"; PACKAGE_MAX].join(","));
        assert_eq!(of_npm(&format!(r#"{{"packages":{{"node_modules/a":{large}}}}}"#)).0.len(), 0);
    }
}
