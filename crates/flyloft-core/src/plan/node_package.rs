//! `package.json`: what it says, and how much of it its dependencies follow from.

use serde_json::{Map, Value};

use super::{Manifest, PlanError, Tree};

#[derive(Debug)]
pub(super) struct Package {
    json: Map<String, Value>,
}

impl Package {
    pub(super) fn read(tree: &dyn Tree, path: &str) -> Result<Option<Self>, PlanError> {
        let Some(text) = tree.read(path)? else { return Ok(None) };
        let malformed = |why: String| PlanError::Malformed { file: path.to_owned(), format: "JSON", why };
        // Editors on other systems leave a byte order mark, which npm ignores.
        match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
            Ok(Value::Object(json)) => Ok(Some(Self { json })),
            Ok(_) => Err(malformed("it is not an object".to_owned())),
            Err(error) => Err(malformed(error.to_string())),
        }
    }

    pub(super) fn text(&self, keys: &[&str]) -> Option<&str> {
        let (first, rest) = keys.split_first()?;
        rest.iter().try_fold(self.json.get(*first)?, |value, key| value.get(*key))?.as_str()
    }

    pub(super) fn script(&self, name: &str) -> Option<&str> {
        self.text(&["scripts", name])
    }

    /// The first name in an object.
    pub(super) fn first_of(&self, key: &str) -> Option<&str> {
        self.json.get(key)?.as_object()?.keys().next().map(String::as_str)
    }

    fn dependencies(&self) -> impl Iterator<Item = (&String, &Value)> {
        let kinds = ["dependencies", "devDependencies", "optionalDependencies"];
        kinds.into_iter().filter_map(|kind| self.json.get(kind)?.as_object()).flatten()
    }

    pub(super) fn depends_on(&self, name: &str) -> bool {
        self.dependencies().any(|(dependency, _)| dependency == name)
    }

    /// Whether anything has to be installed.
    pub(super) fn has_dependencies(&self) -> bool {
        self.dependencies().next().is_some() || self.json.contains_key("workspaces")
    }

    /// Whether a dependency is a path in the repository. Workspaces are not meant: their manifests are known.
    pub(super) fn has_path_dependency(&self) -> bool {
        let paths = ["file:", "link:", "portal:", "./", "../"];
        self.dependencies().filter_map(|(_, version)| version.as_str()).any(|v| paths.iter().any(|p| v.starts_with(p)))
    }

    /// Globs of directories that are packages of their own.
    pub(super) fn workspaces(&self) -> Vec<&str> {
        let workspaces = self.json.get("workspaces");
        let list = workspaces.and_then(|w| w.as_array().or_else(|| w.get("packages")?.as_array()));
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Without `scripts`: those of the package itself need its source, so they run when that is there. And a change
    /// of a script, or of what else has nothing to do with dependencies, makes no new layer. In one line: indented, what is
    /// deeply nested would be much larger than the file.
    pub(super) fn reduced(&self, path: &str) -> Manifest {
        const KEPT: [&str; 21] = [
            "name",
            "version",
            "private",
            "type",
            "dependencies",
            "devDependencies",
            "optionalDependencies",
            "peerDependencies",
            "peerDependenciesMeta",
            "dependenciesMeta",
            "bundleDependencies",
            "bundledDependencies",
            "workspaces",
            "overrides",
            "resolutions",
            "pnpm",
            "packageManager",
            "engines",
            "os",
            "cpu",
            "bin",
        ];
        let kept = self.json.iter().filter(|(key, _)| KEPT.contains(&key.as_str()));
        let kept: Map<String, Value> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        Manifest::Reduced { path: path.to_owned(), content: format!("{}\n", Value::Object(kept)) }
    }
}
