//! What holds for every file here, as pure functions over their text.

use super::{Problem, Severity, Source};

/// Lines of a Rust file from which it should, and must, be split.
const LONG: usize = 600;
const TOO_LONG: usize = 650;

/// Where a process may be started beside `exec.rs`: PID 1 of containers, chores and tests.
const MAY_SPAWN: [&str; 5] = [
    "crates/flyloft/src/exec.rs",
    "crates/flyloft-init/",
    "xtask/",
    "crates/flyloft/tests/",
    "crates/flyloft/benches/",
];

/// Names of files that say nothing about what is in them.
const SHAPELESS: [&str; 4] = ["util", "utils", "helpers", "common"];

/// Cryptography is ring everywhere: two providers in one tree panic at run time, and these need more than a C compiler.
const BANNED_CRATES: [&str; 7] =
    ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "cmake", "bindgen"];

pub fn check(files: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files {
        let own_rules = file.path.starts_with("xtask/src/tidy/");
        if file.path.ends_with(".rs") {
            problems.extend(length(file));
            problems.extend(opening(file));
            problems.extend(name(file));
            problems.extend(spawning(file));
            problems.extend(core_is_pure(file));
            problems.extend(drivers_are_leaves(file));
            if !own_rules {
                problems.extend(placeholders(file));
            }
        }
        if file.path == "Cargo.lock" {
            problems.extend(banned_crates(file));
        } else if !own_rules {
            problems.extend(places(file));
        }
        if file.path.starts_with("script/") || file.path.starts_with(".ci/") {
            problems.extend(script(file));
        }
        if file.path.ends_with(".md") {
            problems.extend(dead_links(file, files));
        }
    }
    problems.extend(changelog(files));
    problems
}

fn length(file: &Source) -> Option<Problem> {
    let lines = file.text.lines().count();
    let severity = if lines > TOO_LONG { Severity::Error } else { Severity::Warning };
    (lines > LONG)
        .then(|| whole(file, severity, format!("{lines} lines are too many: make it two files, one noun each")))
}

fn opening(file: &Source) -> Option<Problem> {
    // Tests beside a module are about that module.
    if file.path.ends_with("/tests.rs") {
        return None;
    }
    let says = file.text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!"));
    (!says).then(|| whole(file, Severity::Error, "it must open with `//!` and what it is for".to_owned()))
}

fn name(file: &Source) -> Option<Problem> {
    let named = |part: &str| SHAPELESS.contains(&part.trim_end_matches(".rs"));
    file.path
        .split('/')
        .any(named)
        .then(|| whole(file, Severity::Error, "name it after what is in it, a noun of the domain".to_owned()))
}

fn placeholders(file: &Source) -> Vec<Problem> {
    lines_with(file, &["todo!(", "unimplemented!(", "FIXME", "XXX"], |found| {
        format!("`{found}`: finish it, or open an issue")
    })
}

/// Clippy bans starting processes; this bans switching that off.
fn spawning(file: &Source) -> Vec<Problem> {
    if MAY_SPAWN.iter().any(|place| file.path.starts_with(place)) {
        return Vec::new();
    }
    lines_with(file, &["clippy::disallowed_methods"], |_| "exec.rs is the one door for processes".to_owned())
}

fn core_is_pure(file: &Source) -> Vec<Problem> {
    if !file.path.starts_with("crates/flyloft-core/src/") {
        return Vec::new();
    }
    let worldly =
        ["tokio", "std::fs", "std::process", "std::env", "std::thread", "SystemTime::now", "Instant::now", "async fn"];
    code_lines_with(file, &worldly, |found| format!("flyloft-core is pure and knows no `{found}`"))
}

/// Drivers see neither the store nor each other; what connects them is above them.
fn drivers_are_leaves(file: &Source) -> Vec<Problem> {
    const DRIVERS: [&str; 5] = ["engine", "edge", "service", "forge", "cloud"];
    let Some(inside) = file.path.strip_prefix("crates/flyloft/src/") else { return Vec::new() };
    let Some(own) = DRIVERS.iter().find(|driver| inside.starts_with(&format!("{driver}/"))) else { return Vec::new() };
    let others: Vec<String> = DRIVERS
        .iter()
        .filter(|driver| driver != &own)
        .chain(&["store", "conductor", "deploy", "daemon", "api"])
        .map(|module| format!("crate::{module}::"))
        .collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    code_lines_with(file, &others, |found| format!("a driver must not know `{}`", found.trim_end_matches("::")))
}

/// No place of one developer's machine may be written down: it would be wrong on every other. Where this checkout lies is
/// not written down here either.
fn places(file: &Source) -> Vec<Problem> {
    let here = std::env::current_dir().map(|dir| format!("{}/", dir.display())).ok();
    let places: Vec<&str> = ["/root/"].into_iter().chain(here.as_deref().filter(|here| here.len() > 2)).collect();
    lines_with(file, &places, |found| format!("`{found}` is a place that others do not have; take it from the machine"))
}

fn script(file: &Source) -> Option<Problem> {
    let strict = file.text.lines().any(|line| line.starts_with("set -") && line.ends_with("uo pipefail"));
    let what = if !file.executable {
        "a script must be executable"
    } else if !file.text.starts_with("#!/usr/bin/env bash\n") {
        "a script starts with `#!/usr/bin/env bash`"
    } else if !strict {
        "a script starts with `set -euo pipefail`"
    } else {
        return None;
    };
    Some(whole(file, Severity::Error, what.to_owned()))
}

fn banned_crates(lock: &Source) -> Vec<Problem> {
    let names: Vec<String> = BANNED_CRATES.iter().map(|name| format!("name = \"{name}\"")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    lines_with(lock, &names, |found| format!("{found} is banned: find out who asks for it with `cargo tree -i`"))
}

/// Links between the documents lead somewhere.
fn dead_links(file: &Source, files: &[Source]) -> Vec<Problem> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut problems = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let target = link.split('#').next().unwrap_or_default().trim_end_matches('/');
            if target.is_empty() || target.contains(':') {
                continue;
            }
            let path = if folder.is_empty() { target.to_owned() } else { format!("{folder}/{target}") };
            let inside = format!("{path}/");
            if !files.iter().any(|file| file.path == path || file.path.starts_with(&inside)) {
                problems.push(at(file, number, format!("the link leads nowhere: `{link}`")));
            }
        }
    }
    problems
}

/// The changelog has a section for what is not released yet, or for the version that the manifest names.
fn changelog(files: &[Source]) -> Option<Problem> {
    let text = |path: &str| files.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let version = text("Cargo.toml")?.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))?;
    let noted = text("CHANGELOG.md")
        .is_some_and(|log| log.contains(&format!("\n## {version}")) || log.contains("\n## Unreleased"));
    (!noted).then(|| Problem {
        path: "CHANGELOG.md".to_owned(),
        line: None,
        what: format!("there is neither `## Unreleased` nor `## {version}`"),
        severity: Severity::Error,
    })
}

fn whole(file: &Source, severity: Severity, what: String) -> Problem {
    Problem { path: file.path.clone(), line: None, what, severity }
}

fn at(file: &Source, number: usize, what: String) -> Problem {
    Problem { path: file.path.clone(), line: Some(number + 1), what, severity: Severity::Error }
}

/// A problem for each line that contains one of `needles`.
fn lines_with(file: &Source, needles: &[&str], what: impl Fn(&str) -> String) -> Vec<Problem> {
    let found = |line: &str| needles.iter().find(|needle| line.contains(**needle)).copied();
    let lines = file.text.lines().enumerate();
    lines.filter_map(|(number, line)| Some(at(file, number, what(found(line)?)))).collect()
}

/// As [`lines_with`], comments and the tests at the end of the file aside.
fn code_lines_with(file: &Source, needles: &[&str], what: impl Fn(&str) -> String) -> Vec<Problem> {
    let code: Vec<&str> = file
        .text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let file = Source { path: file.path.clone(), text: code.join("\n"), executable: file.executable };
    lines_with(&file, needles, what)
}

#[cfg(test)]
mod tests;
