//! What locked packages ask of Node. npm only warns when it is too old, and the app then fails as it starts or, worse,
//! later. So a Node that suits them all is taken, where the repository asks for none and the stack's does not.

use serde_json::Value;

use super::version::{Dialect, Precision, Range, Version};
use super::{Pin, PlanError, Stack, Tool, Toolchain, Tree};

/// A package, and the versions of Node that it says it runs on.
struct Asks {
    package: String,
    text: String,
    range: Range,
}

impl Asks {
    fn new(package: &str, text: &str) -> Option<Self> {
        let range = Range::parse(text, Dialect::Npm, Precision::Patch)?;
        Some(Self { package: package.to_owned(), text: text.to_owned(), range })
    }
}

/// A pin on a release of Node that suits all packages of the lock file; none where Debian's does, or no release.
pub(super) fn pin(tree: &dyn Tree, notes: &mut Vec<String>) -> Result<Vec<Pin>, PlanError> {
    for file in ["package-lock.json", "pnpm-lock.yaml"] {
        let Some(text) = tree.read(file)? else { continue };
        let asks = if file.ends_with(".json") { of_npm(&text) } else { of_pnpm(&text) };
        let suits = |version: Version| asks.iter().all(|asks| asks.range.holds(version));
        let stack = Stack::ALL[0].ships(Toolchain::Node);
        let Some(unsuited) = asks.iter().find(|asks| stack.is_some_and(|version| !asks.range.holds(version))) else {
            return Ok(Vec::new());
        };
        let Some(version) = Tool::nodes().find(|version| suits(*version)) else { return Ok(Vec::new()) };
        notes.push(format!("`{file}` has {}, which needs Node {}", unsuited.package, unsuited.text));
        let text = format!("{}.x", version.0);
        let range = Range::parse(&text, Dialect::Npm, Precision::Major);
        return Ok(range.map(|range| Pin { toolchain: Toolchain::Node, file, text, range }).into_iter().collect());
    }
    Ok(Vec::new())
}

/// `packages` of a lock file of npm 7 and above. A lock file that is not JSON is npm's to complain about.
fn of_npm(text: &str) -> Vec<Asks> {
    let lock: Value = serde_json::from_str(text).unwrap_or_default();
    let packages = lock.get("packages").and_then(Value::as_object);
    let asks = packages.into_iter().flatten().filter_map(|(path, package)| {
        // Optional ones are for other platforms, and left out where they do not suit.
        let installed = path.contains("node_modules/") && package.get("optional").is_none();
        let name = path.rsplit("node_modules/").next().filter(|_| installed)?;
        let version = package.get("version").and_then(Value::as_str).unwrap_or_default();
        Asks::new(&format!("{name}@{version}"), package.get("engines")?.get("node")?.as_str()?)
    });
    asks.collect()
}

/// Under `packages:`, a name with its version, then lines that are further in; pnpm writes it always the same.
fn of_pnpm(text: &str) -> Vec<Asks> {
    let mut package = "";
    let mut asks = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            package = name.trim_end_matches(':').trim_matches(['\'', '"', '/']);
        }
        let node = line.strip_prefix("    engines: {node: ").and_then(|rest| rest.split(['}', ',']).next());
        asks.extend(node.and_then(|node| Asks::new(package, node.trim_matches(['\'', '"']))));
    }
    asks
}
