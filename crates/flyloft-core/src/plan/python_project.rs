//! What a Python project's files say: requirement lines, `pyproject.toml`, `Pipfile`.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::{Manifest, PlanError, Tree};

/// `requirements.txt` and what it includes.
#[derive(Debug, Default)]
pub(super) struct Requirements {
    pub(super) manifests: Vec<Manifest>,
    /// Normalised as PEP 503 says.
    pub(super) packages: BTreeSet<String>,
    /// It installs something out of the repository itself, such as `-e .`.
    pub(super) local: bool,
}

impl Requirements {
    pub(super) fn read(tree: &dyn Tree, path: &str) -> Result<Self, PlanError> {
        let mut requirements = Self::default();
        let mut queue = vec![path.to_owned()];
        let mut seen = BTreeSet::new();
        while let Some(path) = queue.pop() {
            // pip stops at 1,000 levels; a repository with more than 100 such files is nothing that people write.
            if !seen.insert(path.clone()) || seen.len() > 100 {
                continue;
            }
            let Some(text) = tree.read(&path)? else { continue };
            let mut kept = String::new();
            for line in text.lines() {
                if is_local(line) {
                    requirements.local = true;
                    continue;
                }
                queue.extend(included(line).and_then(|file| beside(&path, file)));
                requirements.packages.extend(package_name(line));
                kept.push_str(line);
                kept.push('\n');
            }
            requirements.manifests.push(if requirements.local {
                Manifest::Reduced { path, content: kept }
            } else {
                Manifest::Whole(path)
            });
        }
        Ok(requirements)
    }
}

/// A requirement that is a path in the repository: `.`, `./lib`, `-e .`, `name @ file:///…`.
fn is_local(line: &str) -> bool {
    let line = line.trim();
    let target = ["-e", "--editable"].iter().find_map(|option| line.strip_prefix(option));
    let target = target.map(|rest| rest.trim_start_matches(['=', ' '])).unwrap_or(line);
    target == "."
        || ["./", "../", ".[", "file:"].iter().any(|start| target.starts_with(start))
        || line.contains("@ file:")
}

/// The file that a line such as `-r base.txt` or `--constraint=limits.txt` names.
fn included(line: &str) -> Option<&str> {
    let line = line.trim();
    let options = ["--requirement", "--constraint", "-r", "-c"];
    let rest = options.iter().find_map(|option| line.strip_prefix(option))?;
    let file = rest.trim_start_matches(['=', ' ', '\t']).split([' ', '\t', '#']).next()?;
    (!file.is_empty() && !file.contains("://")).then_some(file)
}

/// `file` as seen from the directory of `path`; `None` where it leaves the repository.
fn beside(path: &str, file: &str) -> Option<String> {
    if file.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The normalised name at the start of a requirement.
pub(super) fn package_name(line: &str) -> Option<String> {
    let line = line.trim();
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(line.len());
    let name = &line[..end];
    name.starts_with(|c: char| c.is_ascii_alphanumeric()).then(|| normalise(name))
}

fn normalise(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// `pyproject.toml` or `Pipfile`.
pub(super) fn read_toml(tree: &dyn Tree, path: &str) -> Result<Option<Table>, PlanError> {
    let Some(text) = tree.read(path)? else { return Ok(None) };
    let malformed = |error: toml::de::Error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        PlanError::Malformed { file: path.to_owned(), format: "TOML", why: format!("{place}{}", error.message()) }
    };
    text.parse().map(Some).map_err(malformed)
}

/// The value at a path of keys.
pub(super) fn at<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.as_table()?.get(*key))
}

/// Lines of `project.dependencies` (PEP 621).
pub(super) fn project_dependencies(project: &Table) -> Vec<String> {
    let lines = at(project, &["project", "dependencies"]).and_then(Value::as_array);
    lines.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What the project depends on, wherever it says so.
pub(super) fn declared_packages(table: &Table) -> BTreeSet<String> {
    let lines = project_dependencies(table);
    let named = [&["tool", "poetry", "dependencies"][..], &["packages"]];
    let keys = named.iter().filter_map(|keys| at(table, keys)?.as_table()).flat_map(Table::keys);
    lines.iter().filter_map(|line| package_name(line)).chain(keys.map(|key| normalise(key))).collect()
}

/// Whether a dependency is a path in the repository.
pub(super) fn has_path_dependency(table: &Table) -> bool {
    let places = [&["tool", "poetry", "dependencies"][..], &["tool", "uv", "sources"], &["packages"]];
    let mut entries = places.iter().filter_map(|keys| at(table, keys)?.as_table()).flat_map(Table::values);
    entries.any(|entry| entry.as_table().is_some_and(|entry| entry.contains_key("path")))
        || project_dependencies(table).iter().any(|line| is_local(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_included_file_stays_in_the_repository() {
        assert_eq!(beside("requirements/dev.txt", "base.txt").as_deref(), Some("requirements/base.txt"));
        assert_eq!(beside("requirements/dev.txt", "../base.txt").as_deref(), Some("base.txt"));
        assert_eq!(beside("dev.txt", "../base.txt"), None);
        assert_eq!(beside("dev.txt", "/etc/passwd"), None);
    }

    #[test]
    fn lines_are_read_as_pip_reads_them() {
        assert_eq!(
            package_name("Flask_SQLAlchemy[async]>=3 ; python_version > '3'").as_deref(),
            Some("flask-sqlalchemy")
        );
        assert_eq!(package_name("# flask"), None);
        assert_eq!(package_name("--hash=sha256:00"), None);
        assert_eq!(included("-r base.txt # all"), Some("base.txt"));
        assert_eq!(included("--constraint=limits.txt"), Some("limits.txt"));
        assert_eq!(included("-r https://example.com/r.txt"), None);
        assert!(is_local("-e ."));
        assert!(is_local("./vendored/thing"));
        assert!(is_local("thing @ file:///app/thing"));
        assert!(!is_local("-e git+https://example.com/thing.git"));
        assert!(!is_local("thing==1.0"));
    }
}
