//! Go: the main packages become programs in `bin`, and nothing else of the toolchain is needed afterwards.
//!
//! There is no dependency layer: what the modules contribute ends up in the program, and the module and build caches
//! of the app make the next build quick.

use super::version::{Dialect, Precision, Range, Version};
use super::{APP, CACHE, Part, Pin, PlanError, Toolchain, Tree};

pub(super) fn detect(tree: &dyn Tree) -> Result<Option<Part>, PlanError> {
    let Some(module) = tree.read("go.mod")? else { return Ok(None) };
    let mut part = Part::new("Go", "web: bin/server");
    part.build.push(Toolchain::Go);
    part.path.push(format!("{APP}/bin"));
    part.pins.extend(pin(&module));
    for (name, value) in [
        ("GOPATH", format!("{CACHE}/go")),
        ("GOCACHE", format!("{CACHE}/go-build")),
        ("GOTOOLCHAIN", "local".to_owned()),
        ("GOFLAGS", "-buildvcs=false -modcacherw".to_owned()),
    ] {
        part.build_env.insert(name.to_owned(), value);
    }
    let root = main_package(tree, "")?.then(|| program_name(&module));
    let mut commands = Vec::new();
    for name in tree.list("cmd") {
        if main_package(tree, &format!("cmd/{name}"))? {
            commands.push(name);
        }
    }
    let output = format!("{APP}/bin/");
    let mut argv = vec!["go", "build", "-o", &output];
    match (root.is_some(), commands.is_empty()) {
        (true, true) => argv.push("."),
        (true, false) => argv.extend([".", "./cmd/..."]),
        (false, false) => argv.push("./cmd/..."),
        (false, true) => argv.push("./..."),
    }
    part.step("Building with Go", &argv);
    let only_command = <[String; 1]>::try_from(commands).ok().map(|[name]| name);
    part.web = root.or(only_command).filter(|name| is_plain(name)).map(|name| format!("bin/{name}"));
    Ok(Some(part))
}

/// Whether a directory's Go files are a program.
fn main_package(tree: &dyn Tree, dir: &str) -> Result<bool, PlanError> {
    for name in tree.list(dir).into_iter().filter(|name| name.ends_with(".go") && !name.ends_with("_test.go")) {
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        let text = tree.peek(&path)?.unwrap_or_default();
        if text.lines().any(|line| line.trim_end() == "package main" || line.starts_with("package main ")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What `go build` calls the program of a module's top directory: the last element of its path that is no major
/// version (`go help packages`).
fn program_name(module: &str) -> String {
    let path = module.lines().find_map(|line| line.trim().strip_prefix("module ")).unwrap_or_default();
    let path = path.split("//").next().unwrap_or_default().trim().trim_matches('"');
    let is_major =
        |part: &str| part.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    path.rsplit('/').find(|part| !is_major(part)).unwrap_or_default().to_owned()
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The `go` line is the oldest Go that compiles the module. The patch is Go's own business.
fn pin(module: &str) -> Option<Pin> {
    let text = module.lines().find_map(|line| line.trim().strip_prefix("go "))?.trim();
    let wanted = Version::parse(text)?;
    let range = Range::parse(&format!(">={}.{}", wanted.0, wanted.1), Dialect::Npm, Precision::Minor)?;
    Some(Pin { toolchain: Toolchain::Go, file: "go.mod", text: text.to_owned(), range })
}
