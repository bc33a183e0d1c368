//! Node: npm, Yarn or pnpm by the lock file that is there, the `build` script, `npm start`.
//!
//! Node and its package manager stay where the app runs, since `npm start` is how most apps are started. The scripts
//! of the package itself run when its source is there, not when its dependencies are installed; see
//! [`Package::reduced`].

use std::collections::BTreeSet;

use super::node_package::Package;
use super::version::{Dialect, Precision, Range, Version};
use super::{APP, CACHE, Dependencies, Manifest, Part, Pin, PlanError, Tool, ToolKind, Toolchain, Tree, part};
use super::{node_lock, node_start};

/// What a process that needs Node is started with.
pub(super) const PROGRAMS: &[&str] = &["node", "npm", "npx", "yarn", "pnpm", "next", "nodemon", "tsx", "ts-node"];

/// The variable that says where Node's headers are.
pub(super) const HEADERS: &str = "npm_config_nodedir";

/// Heroku runs this script before it installs dependencies (devcenter.heroku.com, "Node.js Classic Buildpack Builds").
const PREBUILD: &str = "heroku-prebuild";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manager {
    Npm,
    /// Yarn 1.
    YarnClassic,
    /// Yarn 2 and above.
    YarnModern,
    Pnpm,
}

pub(super) fn detect(tree: &dyn Tree) -> Result<Option<Part>, PlanError> {
    let Some(package) = Package::read(tree, "package.json")? else { return Ok(None) };
    let mut part = Part::new("Node", "web: node server.js");
    part.run.push(Toolchain::Node);
    part.build.push(Toolchain::Node);
    part.pins = pins(tree, &package, &mut part.notes)?;
    part.set("NODE_ENV", "production");
    part.path.push(format!("{APP}/node_modules/.bin"));
    let manager = manager(tree, &package, &mut part)?;
    part.pins.extend(pin_of_tools(&part.tools, &part.pins, &mut part.notes));
    // pnpm keeps the list of a workspace's packages in a file of its own, and the root often has nothing but scripts.
    let workspace = manager == Manager::Pnpm && !pnpm_workspaces(tree)?.is_empty();
    if package.has_dependencies() || workspace {
        let install = install(tree, &package, manager)?;
        part.dependencies.push(install);
        if package.script(PREBUILD).is_some() {
            part.install_with_app("`heroku-prebuild` in package.json runs before dependencies are installed");
        } else if package.has_path_dependency() {
            part.install_with_app("package.json has dependencies that are paths");
        }
    }
    if package.script(PREBUILD).is_some() {
        // By npm, whatever installs: before that Yarn 2 runs no script, and pnpm 11 would install first.
        part.first_step(&format!("Running npm run {PREBUILD}"), &["npm", "run", PREBUILD]);
    }
    let run = match manager {
        Manager::Npm => "npm",
        Manager::YarnClassic | Manager::YarnModern => "yarn",
        Manager::Pnpm => "pnpm",
    };
    for script in scripts(&package) {
        part.step(&format!("Running {run} run {script}"), &[run, "run", script]);
    }
    node_start::start(tree, &package, run, &mut part)?;
    Ok(Some(part))
}

/// Which package manager the lock file belongs to; adds it to the part's tools.
fn manager(tree: &dyn Tree, package: &Package, part: &mut Part) -> Result<Manager, PlanError> {
    let asked = package.text(&["packageManager"]).and_then(|text| text.split_once('@'));
    // `yarn@4.1.0+sha256.…`: the hash is for Corepack.
    let asked = asked.map(|(name, version)| (name, version.split('+').next().unwrap_or_default()));
    let asked_version = |name, kind| asked.filter(|(n, _)| *n == name).and_then(|(_, version)| Tool::at(kind, version));
    if let Some(lock) = tree.lock("pnpm-lock.yaml")? {
        part.tool(asked_version("pnpm", ToolKind::Pnpm).unwrap_or_else(|| pnpm_for(&lock)));
        return Ok(Manager::Pnpm);
    }
    if let Some(lock) = tree.lock("yarn.lock")? {
        let modern = lock.contains("\n__metadata:") || tree.exists(".yarnrc.yml");
        let tool = asked_version("yarn", ToolKind::Yarn).filter(|tool| modern != tool.version().starts_with("1."));
        if modern {
            part.tool(tool.or_else(|| Tool::at(ToolKind::Yarn, "4.18.1")).expect("a version"));
            // Everything that looks for packages finds them in node_modules.
            part.set("YARN_NODE_LINKER", "node-modules");
            part.set("YARN_ENABLE_TELEMETRY", "0");
            part.set("YARN_ENABLE_GLOBAL_CACHE", "true");
            return Ok(Manager::YarnModern);
        }
        part.tool(tool.unwrap_or_else(|| Tool::pinned(ToolKind::Yarn)));
        return Ok(Manager::YarnClassic);
    }
    if tree.exists("bun.lockb") || tree.exists("bun.lock") {
        part.notes.push("Bun's lock file is left alone: npm chooses the versions".to_owned());
    }
    Ok(Manager::Npm)
}

/// A pin on a release of Node that the package manager runs on, and that suits what is asked for already. Where both
/// cannot be had, what the repository asks for stays, and the package manager says what it misses.
fn pin_of_tools(tools: &[Tool], asked: &[Pin], notes: &mut Vec<String>) -> Option<Pin> {
    let (tool, least) = tools.iter().find_map(|tool| Some((tool, tool.needs_node()?)))?;
    let least_range = Range::at_least(least);
    let suits = |version: &Version| least_range.holds(*version) && asked.iter().all(|pin| pin.range.holds(*version));
    let version = Tool::nodes().find(suits)?;
    notes.push(format!("{} {} needs Node {}.{} or newer", tool.name(), tool.version(), least.0, least.1));
    let text = format!("{}.x", version.0);
    let range = Range::parse(&text, Dialect::Npm, Precision::Major)?;
    Some(Pin { toolchain: Toolchain::Node, file: "package.json", text, range })
}

/// The pnpm that writes this lock file's format (pnpm's documentation, "Lockfile format versions").
fn pnpm_for(lock: &str) -> Tool {
    let line = lock.lines().find_map(|line| line.strip_prefix("lockfileVersion:")).unwrap_or_default();
    let version = match line.trim().trim_matches(['\'', '"']).split('.').next() {
        Some("5") => Tool::at(ToolKind::Pnpm, "7.33.7"),
        Some("6") => Tool::at(ToolKind::Pnpm, "8.15.9"),
        _ => None,
    };
    version.unwrap_or_else(|| Tool::pinned(ToolKind::Pnpm))
}

fn install(tree: &dyn Tree, package: &Package, manager: Manager) -> Result<Dependencies, PlanError> {
    let install = |title| {
        Dependencies::new(title, Toolchain::Node)
            .sees([package.reduced("package.json")])
            .sees_whole(tree, &[".npmrc"])
            .with("npm_config_cache", format!("{CACHE}/npm"))
            .with("npm_config_update_notifier", "false")
            .with("npm_config_fund", "false")
            .with("npm_config_audit", "false")
            .with("CI", "1")
            // Headers for modules in C++ come from the stack, not from the network.
            .with(HEADERS, "/usr")
    };
    let locked = tree.exists("package-lock.json") || tree.exists("npm-shrinkwrap.json");
    let install = match manager {
        Manager::Npm if locked => install("Node packages with npm")
            .sees_whole(tree, &["package-lock.json", "npm-shrinkwrap.json"])
            .runs(&["npm", "ci", "--include=dev"]),
        Manager::Npm => {
            install("Node packages with npm").runs(&["npm", "install", "--include=dev", "--no-package-lock"])
        }
        Manager::YarnClassic => install("Node packages with Yarn")
            .sees_whole(tree, &["yarn.lock", ".yarnrc"])
            .runs(&[
                "yarn",
                "install",
                "--frozen-lockfile",
                "--production=false",
                "--ignore-engines",
                "--non-interactive",
            ])
            .with("YARN_CACHE_FOLDER", format!("{CACHE}/yarn")),
        Manager::YarnModern => install("Node packages with Yarn")
            .sees_whole(tree, &["yarn.lock", ".yarnrc.yml"])
            .sees(files_in(tree, ".yarn/releases"))
            .sees(files_in(tree, ".yarn/plugins/@yarnpkg"))
            .sees(files_in(tree, ".yarn/patches"))
            .runs(&["yarn", "install", "--immutable"])
            .with("YARN_NODE_LINKER", "node-modules")
            .with("YARN_ENABLE_TELEMETRY", "0")
            .with("YARN_ENABLE_GLOBAL_CACHE", "true")
            .with("YARN_GLOBAL_FOLDER", format!("{CACHE}/yarn")),
        Manager::Pnpm => install("Node packages with pnpm")
            .sees_whole(tree, &["pnpm-lock.yaml", "pnpm-workspace.yaml", ".pnpmfile.cjs"])
            .runs(&["pnpm", "install", "--frozen-lockfile", "--prod=false"])
            .with("npm_config_store_dir", format!("{CACHE}/pnpm"))
            .with("npm_config_package_import_method", "copy")
            // The same for pnpm 11 and above, which read no other names than these (its change log, 11.0.0).
            .with("pnpm_config_store_dir", format!("{CACHE}/pnpm"))
            .with("pnpm_config_package_import_method", "copy"),
    };
    // Tools that patch what was installed keep their patches here.
    Ok(install.sees(files_in(tree, "patches")).sees(workspace_manifests(tree, package)?))
}

fn files_in<'a>(tree: &'a dyn Tree, dir: &'a str) -> impl Iterator<Item = Manifest> + 'a {
    tree.list(dir).into_iter().map(move |name| Manifest::Whole(format!("{dir}/{name}")))
}

fn workspace_manifests(tree: &dyn Tree, package: &Package) -> Result<Vec<Manifest>, PlanError> {
    let mut paths = members(tree, "package.json", package.workspaces())?;
    let globs = pnpm_workspaces(tree)?;
    paths.extend(members(tree, "pnpm-workspace.yaml", globs.iter().map(String::as_str))?);
    let mut manifests = Vec::new();
    for path in paths {
        manifests.extend(Package::read(tree, &path)?.map(|member| member.reduced(&path)));
    }
    Ok(manifests)
}

fn members<'a>(
    tree: &dyn Tree,
    file: &'static str,
    globs: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeSet<String>, PlanError> {
    part::members(tree, &part::Workspace { file, manifest: "package.json" }, globs)
}

/// The list under `packages:` in pnpm-workspace.yaml, in the one form that people write it.
fn pnpm_workspaces(tree: &dyn Tree) -> Result<Vec<String>, PlanError> {
    let text = tree.read("pnpm-workspace.yaml")?.unwrap_or_default();
    let after = text.lines().skip_while(|line| line.trim_end() != "packages:").skip(1);
    let items = after.take_while(|line| line.trim().is_empty() || line.trim_start().starts_with(['-', '#']));
    let globs = items.filter_map(|line| line.trim_start().strip_prefix('-'));
    Ok(globs.map(|glob| glob.trim().trim_matches(['\'', '"']).to_owned()).filter(|g| !g.starts_with('!')).collect())
}

/// The package's own scripts that make it ready, in order: what an install would run, then the build.
fn scripts(package: &Package) -> Vec<&'static str> {
    let mut scripts = vec!["preinstall", "install", "postinstall", "prepare"];
    // Git hooks make no sense where there is no git.
    let hooks = ["husky", "lefthook", "simple-git-hooks", "is-ci", "only-allow"];
    scripts.retain(|name| package.script(name).is_some_and(|text| !hooks.iter().any(|hook| text.contains(hook))));
    let build = ["heroku-postbuild", "build"].into_iter().find(|name| package.script(name).is_some());
    scripts.extend(build);
    scripts
}

/// The versions of Node that the repository asks for: by itself, or through what it has locked.
fn pins(tree: &dyn Tree, package: &Package, notes: &mut Vec<String>) -> Result<Vec<Pin>, PlanError> {
    let mut asked = Vec::new();
    asked.extend(package.text(&["engines", "node"]).map(|text| ("package.json", text.to_owned())));
    for file in [".nvmrc", ".node-version"] {
        // A range that the package promises weighs more than what its author happened to use.
        if asked.is_empty()
            && let Some(text) = tree.read(file)?
        {
            asked.push((file, text.trim().to_owned()));
        }
    }
    if asked.is_empty() {
        return node_lock::pin(tree, notes);
    }
    let mut pins = Vec::new();
    for (file, text) in asked {
        match Range::parse(&text, Dialect::Npm, Precision::Major) {
            Some(range) => pins.push(Pin { toolchain: Toolchain::Node, file, text, range }),
            None => notes.push(format!("`{file}` asks for Node `{text}`, which is not a version: left alone")),
        }
    }
    Ok(pins)
}
