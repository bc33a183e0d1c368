//! How to build an app and what to run: decided by looking at the files that its repository has.
//!
//! ```text
//!   tree ─► python, ruby, go, php, node, static_site ─► parts ─► one Plan
//!           (each looks at its own files)
//! ```
//!
//! Nothing here builds anything, and nothing from the repository ends up in a command line except names that were
//! checked. What a dependency step may see is listed here, so that everything it sees is part of its layer's id.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::procfile::Procfile;

use self::part::{Part, Processes};
pub use self::stack::{Pin, Stack, Tool, ToolKind, Toolchain};

mod go;
mod node;
mod node_lock;
mod node_package;
mod node_start;
mod part;
mod php;
mod python;
mod python_project;
mod python_web;
mod ruby;
mod stack;
mod static_site;
#[cfg(test)]
mod tests;
pub mod version;

/// Where the app lies in its container.
pub const APP: &str = "/app";
/// The app's user's own directory: what belongs to the app and is not in its repository.
pub const HOME: &str = "/home/app";
/// The Python environment.
pub const VENV: &str = "/home/app/venv";
/// Ruby gems.
pub const GEMS: &str = "/home/app/gems";
/// Each tool in a directory of its own name.
pub const TOOLS: &str = "/home/app/tools";
/// Configuration that a plan brings.
pub const CONF: &str = "/home/app/conf";
/// What package managers keep for the next time: the usual place where `HOME` is [`HOME`].
pub const CACHE: &str = "/home/app/.cache";

/// The files of a repository, as far as a plan needs them. Paths are relative, with `/`.
pub trait Tree {
    /// A manifest's text, or `None` where there is no such regular file. One that is larger than people write them is an
    /// error: what is made of it can take a hundred times its size.
    fn read(&self, path: &str) -> Result<Option<String>, Unreadable>;

    /// A lock file's text. It may be large, so whoever reads it keeps little of it.
    fn lock(&self, path: &str) -> Result<Option<String>, Unreadable> {
        self.read(path)
    }

    /// The text of a source file that may say how the app is started; `None` also where it is too large to be searched, or
    /// a link that leads out of the repository.
    fn peek(&self, path: &str) -> Result<Option<String>, Unreadable> {
        self.read(path)
    }

    /// Whether there is such a file or directory.
    fn exists(&self, path: &str) -> bool;

    /// The names in a directory, sorted; empty where there is no such directory.
    fn list(&self, dir: &str) -> Vec<String>;
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("failed to read `{path}`: {why}")]
pub struct Unreadable {
    pub path: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What was detected, for people: `Python`, `static files`.
    pub language: String,
    pub stack: Stack,
    /// What the stack's choice came from, where it is not the default.
    pub because: Option<String>,
    /// What the running app needs.
    pub run: BTreeSet<Toolchain>,
    /// What building needs on top of that.
    pub build: BTreeSet<Toolchain>,
    pub tools: BTreeSet<Tool>,
    /// Layers of dependencies, the lowest first.
    pub dependencies: Vec<Dependencies>,
    /// What is done with the whole app there, one after the other, in [`APP`].
    pub steps: Vec<Step>,
    pub build_env: BTreeMap<String, String>,
    /// Files in [`CONF`] that the app needs beside its repository's own: name, content.
    pub conf: BTreeMap<String, String>,
    /// What the running app sees. Always has `PATH`.
    pub env: BTreeMap<String, String>,
    /// The `web` process to run where the repository has no Procfile.
    pub web: Option<String>,
    /// Variables that the app does not start without and whose value is nobody's business: made once.
    pub secrets: Vec<String>,
    /// What the user should know, a sentence each.
    pub notes: Vec<String>,
}

/// A layer of dependencies. Its step sees the manifests in [`APP`] and nothing else of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependencies {
    /// `Python packages with pip`.
    pub title: String,
    pub toolchain: Toolchain,
    pub manifests: Vec<Manifest>,
    pub commands: Vec<Vec<String>>,
    pub env: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// The file as it is in the repository.
    Whole(String),
    /// Only what the dependencies follow from, so that a change elsewhere in the file makes no new layer.
    Reduced { path: String, content: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub title: String,
    pub argv: Vec<String>,
}

impl Step {
    fn new(title: &str, argv: &[&str]) -> Self {
        Self { title: title.to_owned(), argv: argv.iter().map(|&arg| arg.to_owned()).collect() }
    }
}

impl Plan {
    /// Which version of a language the app has.
    pub fn version(&self, toolchain: Toolchain) -> Option<version::Version> {
        let node = self.tools.iter().find(|tool| toolchain == Toolchain::Node && tool.kind == ToolKind::Node);
        node.map_or(self.stack.ships(toolchain), |node| version::Version::parse(node.version()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error("nothing in this repository says how to run it")]
    NothingDetected {
        saw: Vec<String>,
        /// Directories that look like apps of their own.
        apps: Vec<String>,
    },
    #[error("there is no Procfile, and no convention says how this {language} app is started")]
    NoWebProcess { language: String, example: &'static str },
    #[error("`{file}` asks for {toolchain} {text}, which no stack has")]
    NoSuchVersion { toolchain: Toolchain, file: &'static str, text: String },
    #[error("`{file}` asks for {toolchain} {text}, which {chosen} does not have")]
    OtherStack { toolchain: Toolchain, file: &'static str, text: String, chosen: Stack, has: Vec<Stack> },
    #[error("no stack has both {0} and {1}")]
    Contradiction(String, String),
    #[error("`{file}` is not valid {format}: {why}")]
    Malformed { file: String, format: &'static str, why: String },
    #[error("`{file}` has {found} {what}, and {max} are allowed")]
    TooMany { file: &'static str, what: &'static str, found: usize, max: usize },
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl PlanError {
    /// What to do, a sentence each.
    pub fn hints(&self) -> Vec<String> {
        match self {
            PlanError::NothingDetected { saw, apps } => {
                let mut hints = Vec::new();
                if saw.is_empty() {
                    hints.push("the repository has no files at its top level: is everything committed?".to_owned());
                } else {
                    hints.push(format!("its top level has {}", saw.join(", ")));
                }
                if let Some(dir) = apps.first() {
                    hints.push(format!(
                        "an app in a directory, such as `{}`, is pushed alone: \
                         git subtree push --prefix={dir} REMOTE main",
                        apps.join("`, `")
                    ));
                }
                if saw.iter().any(|name| name.ends_with("Dockerfile")) {
                    hints.push(
                        "a Dockerfile is not built: environments are made from the languages' own files".to_owned(),
                    );
                }
                hints.push(format!("one of these is looked for: {}", TELLING.join(", ")));
                hints.push("or add a Procfile with a line such as `web: ./server --port $PORT`".to_owned());
                hints
            }
            PlanError::NoWebProcess { example, .. } => vec![format!("add a Procfile with a line such as `{example}`")],
            PlanError::NoSuchVersion { toolchain, file, .. } => {
                let have = Stack::ALL.into_iter().filter_map(|s| Some(format!("{s} has {}", s.ships(*toolchain)?)));
                let have: Vec<_> = have.collect();
                let mut hints = vec![have.join(", ")];
                if let Some((stack, version)) = self.nearest() {
                    hints.push(format!("{stack} comes nearest: let `{file}` allow {toolchain} {version:#}"));
                }
                hints
            }
            PlanError::OtherStack { has, .. } => {
                let has: Vec<_> = has.iter().map(ToString::to_string).collect();
                vec![format!("{} has it: choose that as `stack` in app.json", has.join(" and "))]
            }
            PlanError::Contradiction(..) => vec!["loosen one of the two".to_owned()],
            PlanError::Malformed { .. } | PlanError::TooMany { .. } => Vec::new(),
            PlanError::Unreadable(_) => vec!["make it a regular file of a usual size".to_owned()],
        }
    }

    /// The stack whose version is nearest to one that none has.
    fn nearest(&self) -> Option<(Stack, version::Version)> {
        let PlanError::NoSuchVersion { toolchain, text, .. } = self else { return None };
        let digits = text.find(|c: char| c.is_ascii_digit())?;
        let wanted = version::Version::parse(text[digits..].split([' ', ',', '|', '<']).next()?)?;
        let distance = |v: version::Version| (v.0.abs_diff(wanted.0), v.1.abs_diff(wanted.1), v.2.abs_diff(wanted.2));
        Stack::ALL.into_iter().filter_map(|s| Some((s, s.ships(*toolchain)?))).min_by_key(|(_, v)| distance(*v))
    }
}

/// Which stacks may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stacks {
    /// What the app itself chose, in `app.json`.
    pub chosen: Option<Stack>,
    /// What the server prefers, where nothing in the repository asks for another.
    pub default: Stack,
}

/// Decides how to build and run what is in `tree`. The Procfile is empty where there is none.
pub fn plan(tree: &dyn Tree, procfile: &Procfile, stacks: Stacks) -> Result<Plan, PlanError> {
    let processes = Processes::new(procfile);
    let parts = parts(tree, &processes)?;
    if parts.is_empty() {
        return Err(nothing_detected(tree));
    }
    let starts = parts.iter().find(|part| part.web.is_some());
    let language = starts.unwrap_or(&parts[0]).language.to_owned();
    let web = starts.and_then(|part| part.web.clone());
    if processes.is_empty() && web.is_none() {
        return Err(PlanError::NoWebProcess { language, example: parts[0].example });
    }
    let pins: Vec<Pin> = parts.iter().flat_map(|part| part.pins.iter().cloned()).collect();
    let (stack, because) = choose(stacks, &pins)?;
    let parts = parts.into_iter().map(|part| part.with_node_for(stack)).collect();
    Ok(merge(parts, language, stack, because, web.filter(|_| processes.is_empty())))
}

/// What most languages are told by.
const TELLING: [&str; 9] = [
    "requirements.txt",
    "pyproject.toml",
    "Pipfile",
    "package.json",
    "Gemfile",
    "go.mod",
    "composer.json",
    "index.php",
    "index.html",
];

fn nothing_detected(tree: &dyn Tree) -> PlanError {
    let mut saw = tree.list("");
    let telling = |dir: &&String| TELLING.iter().any(|file| tree.exists(&format!("{dir}/{file}")));
    // Their names go into a command that somebody may copy.
    let plain = |dir: &&String| dir.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let apps = saw.iter().filter(plain).filter(telling).take(4).cloned().collect();
    saw.truncate(12);
    PlanError::NothingDetected { saw, apps }
}

/// What each language has to say, the app's own language first.
fn parts(tree: &dyn Tree, processes: &Processes) -> Result<Vec<Part>, PlanError> {
    let mut parts = Vec::new();
    parts.extend(ruby::detect(tree, processes)?);
    parts.extend(python::detect(tree, processes)?);
    parts.extend(go::detect(tree)?);
    parts.extend(php::detect(tree, processes)?);
    if let Some(node) = node::detect(tree)? {
        let starts_here = parts.iter().all(|part| part.web.is_none()) && processes.is_empty() && node.web.is_some();
        if parts.is_empty() || starts_here || processes.mention(node::PROGRAMS) {
            parts.push(node);
        } else if !node.steps.is_empty() {
            parts.push(node.for_building_only());
        } else {
            let note = "package.json is left alone: it has no `build` script, and no process runs Node";
            parts[0].notes.push(note.to_owned());
        }
    }
    // A front page beside a package.json that starts nothing is a site with tools for making it.
    let starts_nothing = parts.iter().all(|part| part.language == "Node" && part.web.is_none());
    if processes.is_empty()
        && starts_nothing
        && let Some(site) = static_site::detect(tree)
    {
        let tools = parts.into_iter().filter(|part| !part.steps.is_empty()).map(Part::for_building_only);
        parts = [site].into_iter().chain(tools).collect();
    }
    if parts.is_empty() && !processes.is_empty() {
        parts.push(Part::new("Procfile", "web: ./server --port $PORT"));
    }
    Ok(parts)
}

/// The first stack that has what every pin asks for. A release of Node that none has can be had beside Debian's.
fn choose(stacks: Stacks, pins: &[Pin]) -> Result<(Stack, Option<String>), PlanError> {
    let has = |pin: &Pin| Stack::ALL.into_iter().filter(|stack| stack.satisfies(pin)).collect::<Vec<_>>();
    let (bound, free): (Vec<&Pin>, Vec<&Pin>) = pins.iter().partition(|pin| pin.node().is_none());
    for &pin in &bound {
        let Pin { toolchain, file, text, .. } = pin.clone();
        let has = has(pin);
        if has.is_empty() {
            return Err(PlanError::NoSuchVersion { toolchain, file, text });
        }
        if let Some(chosen) = stacks.chosen.filter(|chosen| !has.contains(chosen)) {
            return Err(PlanError::OtherStack { toolchain, file, text, chosen, has });
        }
    }
    if let Some(stack) = stacks.chosen {
        return Ok((stack, Some("`app.json` chooses it".to_owned())));
    }
    let suitable =
        || [stacks.default].into_iter().chain(Stack::ALL).filter(|stack| bound.iter().all(|pin| stack.satisfies(pin)));
    let without_more = suitable().find(|stack| free.iter().all(|pin| stack.satisfies(pin)));
    let Some(stack) = without_more.or_else(|| suitable().next()) else {
        let only = |stack| bound.iter().find(|pin| has(pin) == [stack]).map(|pin| pin.asks()).unwrap_or_default();
        return Err(PlanError::Contradiction(only(Stack::Debian13), only(Stack::Debian12)));
    };
    let because = pins.iter().find(|pin| has(pin) == [stack]).filter(|_| stack != stacks.default);
    Ok((stack, because.map(|pin| format!("`{}` asks for {}", pin.file, pin.asks()))))
}

impl Pin {
    /// The release of Node that it can have on any stack.
    fn node(&self) -> Option<Tool> {
        Some(&self.range).filter(|_| self.toolchain == Toolchain::Node).and_then(Tool::node)
    }

    fn asks(&self) -> String {
        format!("{} {}", self.toolchain, self.text)
    }
}

/// The directories that every `PATH` ends with.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

fn merge(parts: Vec<Part>, language: String, stack: Stack, because: Option<String>, web: Option<String>) -> Plan {
    let mut path = Vec::new();
    let mut plan = Plan {
        language,
        stack,
        because,
        run: BTreeSet::new(),
        build: BTreeSet::new(),
        tools: BTreeSet::new(),
        dependencies: Vec::new(),
        steps: Vec::new(),
        build_env: BTreeMap::new(),
        conf: BTreeMap::new(),
        env: BTreeMap::new(),
        web,
        secrets: Vec::new(),
        notes: Vec::new(),
    };
    // Assets that Node makes are there before another language collects them.
    let (node, others): (Vec<_>, Vec<_>) = parts.iter().partition(|part| part.build.contains(&Toolchain::Node));
    plan.steps.extend(node.into_iter().chain(others).flat_map(|part| part.steps.clone()));
    for part in parts {
        plan.run.extend(part.run);
        plan.build.extend(part.build);
        plan.tools.extend(part.tools);
        plan.dependencies.extend(part.dependencies);
        plan.build_env.extend(part.build_env);
        plan.conf.extend(part.conf);
        plan.env.extend(part.env);
        plan.secrets.extend(part.secrets);
        plan.notes.extend(part.notes);
        path.extend(part.path);
    }
    path.push(SYSTEM_PATH.to_owned());
    let path = path.join(":");
    plan.env.insert("PATH".to_owned(), path.clone());
    for dependencies in &mut plan.dependencies {
        dependencies.env.insert("PATH".to_owned(), path.clone());
    }
    plan.build_env.insert("PATH".to_owned(), path);
    plan
}
