//! Which layers an app's image is made of, and how each is made. Pure: the same inputs give the same ids.
//!
//! ```text
//!   base ─ python-run ─ python-build ─ tools ─ home ─ uv ─ dependencies ─ app ─ built      where it is built
//!   base ─ python-run ──────────────── tools ─ home ─ uv ─ dependencies ─ app ─ built      where it runs
//! ```
//!
//! Layers that only building needs are left out of the image. That works because a step runs as the app's user and
//! so writes nothing where packages are installed.
//!
//! An id covers everything that a layer is made from: what lies below it, the commands, every variable, every file
//! that the step sees. Layers that are made from a repository also have their *domain* in it: the app and, for pull
//! requests of forks, the request, so that a stranger writes nothing that anybody else reads.

use std::collections::{BTreeMap, BTreeSet};

use flyloft_core::name::AppName;
use flyloft_core::plan::{CONF, HOME, Plan, Stack, Step, TOOLS, Tool, ToolKind, Toolchain};
use sha2::{Digest, Sha256};

use super::packages;
use super::tools::Tools;
use crate::engine::{CacheId, Image, LayerId};

/// Part of every id. Raised when a layer that is made the same way would come out different.
const RECIPE_VERSION: u32 = 1;

/// Who a layer is for, and so who may have had a hand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Somebody who may push to the app.
    Own,
    /// Whoever opened this pull request from a fork.
    Fork(u64),
}

/// What goes into the layers beside the plan.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub app: AppName,
    pub trust: Trust,
    /// How often this app was built anew on request; each time begins with no layers of its own.
    pub generation: u64,
    /// What identifies the checked-out files: git's id of the tree.
    pub tree: String,
    /// What each dependency step sees of the repository, in the order of the plan: path in the container, content.
    pub manifests: Vec<Vec<(String, Vec<u8>)>>,
    /// What every build step sees beside its own variables.
    pub surroundings: BTreeMap<String, String>,
    /// The app's variables for building.
    pub variables: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub id: LayerId,
    /// One line for people.
    pub title: String,
    pub on: Image,
    pub content: Content,
    /// Whether the running app sees it.
    pub runs: bool,
}

/// What is in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Debian {
        stack: Stack,
        packages: Vec<String>,
    },
    Packages(Vec<String>),
    /// A directory that holds these files: name, content.
    Directory {
        path: &'static str,
        files: BTreeMap<String, String>,
    },
    Tool(Commands),
    Dependencies(Commands),
    /// The repository.
    App,
    /// What the build leaves behind.
    Built(Commands),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    pub argv: Vec<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub files: Vec<(String, Vec<u8>)>,
    /// Mounted at [`flyloft_core::plan::CACHE`].
    pub cache: Option<CacheId>,
}

/// All layers of the plan, each after those that it is made on.
///
/// `there` are the layers that exist: a fork takes dependencies that somebody of the app's own installed from the same
/// manifests, since it reads them and cannot write them.
pub fn layers(plan: &Plan, inputs: &Inputs, there: &BTreeSet<LayerId>) -> Vec<Layer> {
    let mut stacking = Stacking { layers: Vec::new(), below: Vec::new(), inputs, there };
    // The server for files is not what anything is built with. So what builds is the same with it and without.
    let (languages, beside) = plan.run.iter().partition(|&&toolchain| toolchain != Toolchain::Files);
    stacking.stack(plan.stack, &languages, true);
    let below = stacking.below.clone();
    stacking.stack(plan.stack, &beside, true);
    stacking.below = below;
    stacking.stack(plan.stack, &plan.build, false);
    stacking.home(!plan.tools.is_empty());
    for tool in &plan.tools {
        stacking.tool(tool, plan);
    }
    if !plan.conf.is_empty() {
        stacking.directory("configuration", CONF, plan.conf.clone());
    }
    for (dependencies, manifests) in plan.dependencies.iter().zip(&inputs.manifests) {
        let commands = Commands {
            argv: dependencies.commands.clone(),
            env: stacking.env(&dependencies.env, &mentioned(&inputs.variables, manifests)),
            files: manifests.clone(),
            cache: Some(cache(inputs, packages::name(dependencies.toolchain))),
        };
        stacking.dependencies(&dependencies.title, commands);
    }
    stacking.files("app", Content::App);
    if !plan.steps.is_empty() {
        let commands = Commands {
            argv: plan.steps.iter().map(|step| step.argv.clone()).collect(),
            env: stacking.env(&plan.build_env, &inputs.variables),
            files: Vec::new(),
            cache: Some(cache(inputs, BUILD)),
        };
        stacking.push(&titles(&plan.steps), Content::Built(commands), true);
    }
    stacking.layers
}

/// Debian with packages, for no app.
pub fn tools(tools: &Tools<'_>) -> Vec<Layer> {
    let Tools { stack, edition, packages } = *tools;
    let inputs = Inputs {
        // Layers of packages have no domain, and so nothing of it.
        app: AppName::parse("tools").expect("it is a name"),
        trust: Trust::Own,
        generation: 0,
        tree: String::new(),
        manifests: Vec::new(),
        surroundings: BTreeMap::new(),
        variables: BTreeMap::new(),
    };
    let there = BTreeSet::new();
    let mut stacking = Stacking { layers: Vec::new(), below: Vec::new(), inputs: &inputs, there: &there };
    let edition = if edition == 0 { String::new() } else { format!(", edition {edition}") };
    stacking.base(stack, &edition);
    let title = format!("{} on {stack}{edition}", packages.join(" "));
    stacking.packages(title, packages.iter().map(|&name| name.to_owned()).collect(), true);
    stacking.layers
}

/// The image of the running app.
pub fn image(layers: &[Layer]) -> Image {
    layers.iter().filter(|layer| layer.runs).map(|layer| layer.id.clone()).collect()
}

/// Those that have to be made, in order: what is missing of the image, and what is missing to make that.
pub fn missing<'a>(layers: &'a [Layer], there: &BTreeSet<LayerId>) -> Vec<&'a Layer> {
    let mut needed: BTreeSet<&LayerId> = layers.iter().filter(|layer| layer.runs).map(|layer| &layer.id).collect();
    let mut missing = Vec::new();
    for layer in layers.iter().rev() {
        if needed.contains(&layer.id) && !there.contains(&layer.id) {
            needed.extend(&layer.on);
            missing.push(layer);
        }
    }
    missing.reverse();
    missing
}

struct Stacking<'a> {
    layers: Vec<Layer>,
    /// What the next layer is made on.
    below: Image,
    inputs: &'a Inputs,
    there: &'a BTreeSet<LayerId>,
}

impl Stacking<'_> {
    fn push(&mut self, title: &str, content: Content, runs: bool) {
        let id = self.id(title, &content, &self.inputs.trust);
        self.push_as(id, title, content, runs);
    }

    fn dependencies(&mut self, title: &str, commands: Commands) {
        let content = Content::Dependencies(commands);
        let own = self.id(title, &content, &Trust::Own);
        if self.there.contains(&own) {
            self.push_as(own, title, content, true);
        } else {
            self.push(title, content, true);
        }
    }

    fn push_as(&mut self, id: LayerId, title: &str, content: Content, runs: bool) {
        self.layers.push(Layer { id: id.clone(), title: title.to_owned(), on: self.below.clone(), content, runs });
        self.below.push(id);
    }

    /// Files are the same on whatever they lie, so they need nothing but a base to be made on.
    fn files(&mut self, title: &str, content: Content) {
        self.push(title, content, true);
        self.layers.last_mut().expect("it was pushed").on.truncate(1);
    }

    fn directory(&mut self, title: &str, path: &'static str, files: BTreeMap<String, String>) {
        self.files(title, Content::Directory { path, files });
    }

    /// The directory of the app's user, and the one that tools are put in. A directory that a step makes hides what
    /// lies below it under the same name, since overlayfs marks it as opaque. So each tool finds that one made, or of
    /// two tools only the upper would be seen. It lies below the home directory, whose owner then is the one seen.
    fn home(&mut self, with_tools: bool) {
        if with_tools {
            self.directory("tools", TOOLS, BTreeMap::new());
        }
        self.directory("home", HOME, BTreeMap::new());
    }

    fn base(&mut self, stack: Stack, edition: &str) {
        let packages = packages::base();
        self.push(&format!("base of {stack}{edition}"), Content::Debian { stack, packages }, true);
    }

    /// Debian and the packages of these toolchains. What is there already stays.
    fn stack(&mut self, stack: Stack, toolchains: &BTreeSet<Toolchain>, runs: bool) {
        if self.layers.is_empty() {
            self.base(stack, "");
        }
        for &toolchain in toolchains {
            let (run, build) = (packages::run(toolchain, stack), packages::build(toolchain));
            let name = packages::name(toolchain);
            self.packages(format!("{name}-run on {stack}"), run, runs);
            if !runs {
                self.packages(format!("{name}-build on {stack}"), build, false);
            }
        }
    }

    fn packages(&mut self, title: String, packages: Vec<String>, runs: bool) {
        let there = self.layers.iter().any(|layer| layer.title == title);
        if !there && !packages.is_empty() {
            self.push(&title, Content::Packages(packages), runs);
        }
    }

    /// A tool is made on its own language alone, so that every app that uses it has the same.
    fn tool(&mut self, tool: &Tool, plan: &Plan) {
        let toolchain = BTreeSet::from([tool.toolchain()]);
        let mut alone = Stacking { layers: Vec::new(), below: Vec::new(), ..*self };
        alone.stack(plan.stack, &toolchain, true);
        // Python's package manager is part of what builds, Node's of what runs.
        if tool.toolchain() == Toolchain::Python {
            alone.stack(plan.stack, &toolchain, false);
        }
        alone.home(true);
        let from = alone.layers.len();
        let commands = Commands {
            argv: tool_commands(tool),
            env: alone.env(&BTreeMap::new(), &BTreeMap::new()),
            files: Vec::new(),
            cache: None,
        };
        alone.push(&format!("{} {}", tool.name(), tool.version()), Content::Tool(commands), true);
        // Its stack may be one that this app does not have: with Node for assets only, it lies on other packages.
        for mut layer in alone.layers.drain(..from) {
            if !self.layers.iter().any(|there| there.id == layer.id) {
                layer.runs = false;
                self.layers.push(layer);
            }
        }
        let layer = alone.layers.pop().expect("the tool was pushed");
        self.below.push(layer.id.clone());
        self.layers.push(layer);
    }

    fn env(&self, own: &BTreeMap<String, String>, variables: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        // `PATH` and `HOME` are how the build works, whatever the app's own are set to.
        let variables = variables.iter().filter(|(name, _)| !matches!(name.as_str(), "PATH" | "HOME"));
        let variables = variables.map(|(name, value)| (name.clone(), value.clone()));
        self.inputs.surroundings.clone().into_iter().chain(own.clone()).chain(variables).collect()
    }

    fn id(&self, title: &str, content: &Content, trust: &Trust) -> LayerId {
        let mut hash = Hash::new();
        hash.text(&format!("flyloft layer {RECIPE_VERSION}"));
        hash.text(title);
        // See `Stacking::files`.
        if !matches!(content, Content::App | Content::Directory { .. }) {
            self.below.iter().for_each(|below| hash.text(&below.0));
        }
        match content {
            Content::Debian { stack, packages } => {
                hash.text(stack.suite());
                hash.texts(packages);
            }
            Content::Packages(packages) => hash.texts(packages),
            Content::Directory { path, files } => {
                hash.text(path);
                files.iter().for_each(|(name, text)| hash.texts([name, text]));
            }
            Content::Tool(commands) => commands.hash(&mut hash),
            Content::Dependencies(commands) | Content::Built(commands) => {
                self.domain(trust, &mut hash);
                commands.hash(&mut hash);
            }
            Content::App => {
                self.domain(trust, &mut hash);
                hash.text(&self.inputs.tree);
            }
        }
        hash.id()
    }

    fn domain(&self, trust: &Trust, hash: &mut Hash) {
        hash.text(self.inputs.app.as_str());
        match trust {
            Trust::Own => hash.text("own"),
            Trust::Fork(number) => hash.text(&format!("fork {number}")),
        }
        hash.text(&self.inputs.generation.to_string());
    }
}

impl Commands {
    fn hash(&self, hash: &mut Hash) {
        self.argv.iter().for_each(|argv| hash.texts(argv));
        self.env.iter().for_each(|(name, value)| hash.texts([name, value]));
        for (path, content) in &self.files {
            hash.text(path);
            hash.bytes(content);
        }
    }
}

/// SHA-256 over pieces, each with its length before it, so that no two lists of pieces look the same.
struct Hash(Sha256);

impl Hash {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn texts<T: AsRef<str>>(&mut self, texts: impl IntoIterator<Item = T>) {
        let texts: Vec<T> = texts.into_iter().collect();
        self.0.update((texts.len() as u64).to_le_bytes());
        texts.iter().for_each(|text| self.text(text.as_ref()));
    }

    fn id(self) -> LayerId {
        LayerId(hex::encode(&self.0.finalize()[..16]))
    }
}

/// How a tool gets into a directory of its own, with the package manager of its language.
fn tool_commands(tool: &Tool) -> Vec<Vec<String>> {
    let dir = format!("{TOOLS}/{}", tool.name());
    let packages = tool.packages(std::env::consts::ARCH);
    let npm = ["npm", "install", "--global", "--no-audit", "--no-fund", "--prefix", &dir];
    let pip = ["python3", "-m", "pip", "--python", &dir, "install", "--disable-pip-version-check"];
    let install = |manager: &[&str]| manager.iter().map(|&arg| arg.to_owned()).chain(packages.clone()).collect();
    match tool.toolchain() {
        Toolchain::Python => vec![["python3", "-m", "venv", &dir].map(str::to_owned).to_vec(), install(&pip)],
        _ if tool.kind == ToolKind::Node => {
            // Modules in C++ are compiled against the headers of the Node that loads them.
            let package = packages[0].split('@').next().unwrap_or_default();
            let headers = format!("{dir}/lib/node_modules/{package}/include");
            // Debian's npm hands its own settings down to the one that it installs, which does not know them.
            let settings = format!("{dir}/lib/node_modules/npm/npmrc");
            let commands = [["ln", "-s", &headers, &dir].to_vec(), ["rm", "-f", &settings].to_vec()];
            let commands = commands.map(|argv| argv.into_iter().map(str::to_owned).collect());
            [install(&npm)].into_iter().chain(commands).collect()
        }
        _ => vec![install(&npm)],
    }
}

/// Variables of the app that a dependency step gets: those that package managers read, and those that a manifest
/// names. All of them would give every environment with a variable of its own a layer of its own.
fn mentioned(variables: &BTreeMap<String, String>, manifests: &[(String, Vec<u8>)]) -> BTreeMap<String, String> {
    const READ: [&str; 10] =
        ["PIP_", "UV_", "POETRY_", "PIPENV_", "NPM_CONFIG_", "npm_config_", "YARN_", "PNPM_", "BUNDLE_", "COMPOSER_"];
    let named = |name: &str| manifests.iter().any(|(_, content)| contains(content, name.as_bytes()));
    let given = variables.iter().filter(|(name, _)| READ.iter().any(|prefix| name.starts_with(prefix)) || named(name));
    given.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    // Lock files have no variables in them, and are long.
    content.len() < 256 << 10 && content.windows(needle.len()).any(|window| window == needle)
}

/// Steps with the whole app have a cache of their own: what they leave there must not get into layers that are shared.
const BUILD: &str = "build";

/// Never the same for two apps; see [`owner`].
fn cache(inputs: &Inputs, kind: &str) -> CacheId {
    let generation = match inputs.generation {
        0 => String::new(),
        generation => generation.to_string(),
    };
    CacheId(match inputs.trust {
        Trust::Own => format!("{}-{kind}{generation}", inputs.app),
        Trust::Fork(number) => format!("{}-{kind}{generation}-fork-{number}", inputs.app),
    })
}

/// The app whose builds use this cache; none if it is not one that [`cache`] names.
pub fn owner(cache: &CacheId) -> Option<AppName> {
    let name = match cache.0.rsplit_once("-fork-") {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => &cache.0,
    };
    let (app, kind) = name.trim_end_matches(|c: char| c.is_ascii_digit()).rsplit_once('-')?;
    let languages =
        [Toolchain::Python, Toolchain::Node, Toolchain::Ruby, Toolchain::Go, Toolchain::Php, Toolchain::Files];
    let known = kind == BUILD || languages.into_iter().any(|language| packages::name(language) == kind);
    AppName::parse(app).ok().filter(|_| known)
}

fn titles(steps: &[Step]) -> String {
    let mut titles: Vec<&str> = steps.iter().map(|step| step.title.as_str()).collect();
    titles.dedup();
    titles.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_cache_is_read_from_its_name_whatever_the_app_is_called() {
        for app in ["shop", "shop-python", "shop-python-fork-3", "shop-build", "a-fork-1", "v2"] {
            for (trust, generation) in [(Trust::Own, 0), (Trust::Own, 12), (Trust::Fork(7), 0), (Trust::Fork(7), 3)] {
                let inputs = Inputs {
                    app: AppName::parse(app).unwrap(),
                    trust,
                    generation,
                    tree: String::new(),
                    manifests: Vec::new(),
                    surroundings: BTreeMap::new(),
                    variables: BTreeMap::new(),
                };
                for kind in ["python", "node", BUILD] {
                    let cache = cache(&inputs, kind);
                    assert_eq!(owner(&cache), Some(inputs.app.clone()), "{cache}");
                }
            }
        }
        assert_eq!(owner(&CacheId("shop-pip".to_owned())), None);
    }
}
