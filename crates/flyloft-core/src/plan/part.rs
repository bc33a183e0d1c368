//! What one language has to say about an app, before it becomes part of a plan.

use std::collections::{BTreeMap, BTreeSet};

use crate::procfile::Procfile;

use super::{Dependencies, Manifest, Pin, PlanError, Stack, Step, TOOLS, Tool, Toolchain};

#[derive(Debug)]
pub(super) struct Part {
    pub(super) language: &'static str,
    /// A Procfile line to show where the app's own cannot be guessed.
    pub(super) example: &'static str,
    pub(super) pins: Vec<Pin>,
    pub(super) run: Vec<Toolchain>,
    pub(super) build: Vec<Toolchain>,
    pub(super) tools: Vec<Tool>,
    pub(super) dependencies: Vec<Dependencies>,
    pub(super) steps: Vec<Step>,
    pub(super) build_env: BTreeMap<String, String>,
    pub(super) conf: BTreeMap<String, String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) path: Vec<String>,
    pub(super) web: Option<String>,
    /// See [`super::Plan::secrets`].
    pub(super) secrets: Vec<String>,
    pub(super) notes: Vec<String>,
}

impl Part {
    pub(super) fn new(language: &'static str, example: &'static str) -> Self {
        Self {
            language,
            example,
            pins: Vec::new(),
            run: Vec::new(),
            build: Vec::new(),
            tools: Vec::new(),
            dependencies: Vec::new(),
            steps: Vec::new(),
            build_env: BTreeMap::new(),
            conf: BTreeMap::new(),
            env: BTreeMap::new(),
            path: Vec::new(),
            web: None,
            secrets: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// For building and running alike.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        self.env.insert(name.to_owned(), value.clone());
        self.build_env.insert(name.to_owned(), value);
    }

    pub(super) fn step(&mut self, title: &str, argv: &[&str]) {
        self.steps.push(Step::new(title, argv));
    }

    pub(super) fn first_step(&mut self, title: &str, argv: &[&str]) {
        self.steps.insert(0, Step::new(title, argv));
    }

    pub(super) fn tool(&mut self, tool: Tool) {
        self.path.push(format!("{TOOLS}/{}/bin", tool.name()));
        self.tools.push(tool);
    }

    /// With a release of Node of its own where the stack's is not the one that was asked for.
    pub(super) fn with_node_for(mut self, stack: Stack) -> Self {
        let node = self.pins.iter().filter(|pin| !stack.satisfies(pin)).find_map(Pin::node);
        let Some(node) = node else { return self };
        let headers = format!("{TOOLS}/{}", node.name());
        self.run.retain(|toolchain| *toolchain != Toolchain::Node);
        self.tool(node);
        let envs = self.dependencies.iter_mut().map(|dependencies| &mut dependencies.env).chain([&mut self.build_env]);
        for directory in envs.filter_map(|env| env.get_mut(super::node::HEADERS)) {
            directory.clone_from(&headers);
        }
        self
    }

    /// The language is there while the app is built, and not where it runs.
    pub(super) fn for_building_only(mut self) -> Self {
        self.run.clear();
        self.env.clear();
        self.conf.clear();
        self.web = None;
        self
    }

    /// Dependencies that need more of the repository than manifests (`why`) are installed with the app there. They
    /// are then made anew with each commit.
    pub(super) fn install_with_app(&mut self, why: &str) {
        for dependencies in std::mem::take(&mut self.dependencies) {
            self.build_env.extend(dependencies.env);
            let title = format!("Installing {}", dependencies.title);
            let steps = dependencies.commands.into_iter().map(|argv| Step { title: title.clone(), argv });
            self.steps.splice(0..0, steps);
        }
        self.notes.push(format!("{why}, so dependencies are installed with each commit instead of shared"));
    }
}

impl Dependencies {
    pub(super) fn new(title: &str, toolchain: Toolchain) -> Self {
        Self { title: title.to_owned(), toolchain, manifests: Vec::new(), commands: Vec::new(), env: BTreeMap::new() }
    }

    pub(super) fn sees(mut self, manifests: impl IntoIterator<Item = Manifest>) -> Self {
        self.manifests.extend(manifests);
        self
    }

    /// Those of the files that are there.
    pub(super) fn sees_whole(self, tree: &dyn super::Tree, paths: &[&str]) -> Self {
        let there = paths.iter().filter(|path| tree.exists(path));
        self.sees(there.map(|&path| Manifest::Whole(path.to_owned())))
    }

    pub(super) fn runs(mut self, argv: &[&str]) -> Self {
        self.commands.push(argv.iter().map(|&arg| arg.to_owned()).collect());
        self
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }
}

/// The commands of a Procfile, as words.
pub(super) struct Processes(Vec<String>);

impl Processes {
    pub(super) fn new(procfile: &Procfile) -> Self {
        Self(procfile.iter().map(|(_, command)| command.to_owned()).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a command has one of these programs in it, with or without a path.
    pub(super) fn mention(&self, programs: &[&str]) -> bool {
        let words =
            self.0.iter().flat_map(|command| command.split(|c: char| !c.is_alphanumeric() && !"._-+/".contains(c)));
        words.filter_map(|word| word.rsplit('/').next()).any(|word| programs.contains(&word))
    }
}

/// What lists the members of a workspace, and what each member has.
pub(super) struct Workspace {
    pub(super) file: &'static str,
    pub(super) manifest: &'static str,
}

/// Each pattern is looked for in the tree, and each member is read; the largest workspaces that are seen have hundreds.
const PATTERNS_MAX: usize = 200;
const MEMBERS_MAX: usize = 2000;

/// The manifests of a workspace's members.
pub(super) fn members<'a>(
    tree: &dyn super::Tree,
    workspace: &Workspace,
    globs: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeSet<String>, PlanError> {
    let Workspace { file, manifest } = *workspace;
    let within = |what, found, max| match found > max {
        true => Err(PlanError::TooMany { file, what, found, max }),
        false => Ok(()),
    };
    let globs: BTreeSet<&str> = globs.into_iter().collect();
    within("patterns of workspaces", globs.len(), PATTERNS_MAX)?;
    let mut members = BTreeSet::new();
    for glob in globs {
        members.extend(members_of(tree, glob, manifest));
        within("packages in its workspaces", members.len(), MEMBERS_MAX)?;
    }
    Ok(members)
}

/// `glob` is a directory or `dir/*`, as people write them.
fn members_of(tree: &dyn super::Tree, glob: &str, manifest: &str) -> Vec<String> {
    let glob = glob.trim_start_matches("./").trim_end_matches('/');
    let dirs = match glob.strip_suffix("/**").or_else(|| glob.strip_suffix("/*")) {
        Some(parent) => tree.list(parent).into_iter().map(|name| format!("{parent}/{name}")).collect(),
        None if glob == "*" => tree.list(""),
        None => vec![glob.to_owned()],
    };
    let inside = dirs.into_iter().filter(|dir| dir.split('/').all(|part| part != ".." && part != "node_modules"));
    inside.map(|dir| format!("{dir}/{manifest}")).filter(|path| tree.exists(path)).collect()
}
