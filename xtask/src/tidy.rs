//! The repository's own rules, those that neither rustfmt nor clippy knows. Each is a function in [`rules`] over the
//! text of one file, or of the tree where it needs several.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

mod rules;

/// A tracked text file.
pub struct Source {
    /// Relative to the root of the repository.
    pub path: String,
    pub text: String,
    pub executable: bool,
}

/// A rule that is broken, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    /// Counted from 1; `None` when it is about the file as a whole.
    pub line: Option<usize>,
    pub what: String,
    pub severity: Severity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Warning,
    Error,
}

pub fn run() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository")?;
    let files = tracked(root)?;
    let problems = rules::check(&files);
    for Problem { path, line, what, severity } in &problems {
        let at = line.map(|line| format!(":{line}")).unwrap_or_default();
        let severity = if *severity == Severity::Error { "error" } else { "warning" };
        eprintln!("{severity}: {path}{at}: {what}");
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    println!("{} files, {} warnings, {errors} errors", files.len(), problems.len() - errors);
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The text files that git tracks or would track.
#[allow(clippy::disallowed_methods, reason = "a chore of developers, not the product")]
fn tracked(root: &Path) -> Result<Vec<Source>> {
    use std::os::unix::fs::PermissionsExt;

    let list = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("failed to start `git`")?;
    ensure!(list.status.success(), "`git ls-files` failed: {}", String::from_utf8_lossy(&list.stderr).trim());
    let mut files = Vec::new();
    for path in String::from_utf8(list.stdout)?.split_terminator('\0') {
        let Ok(meta) = root.join(path).symlink_metadata() else { continue };
        if !meta.is_file() {
            continue;
        }
        let bytes = std::fs::read(root.join(path)).with_context(|| format!("failed to read `{path}`"))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        files.push(Source { path: path.to_owned(), text, executable: meta.permissions().mode() & 0o111 != 0 });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
