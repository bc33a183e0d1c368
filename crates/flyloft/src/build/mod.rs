//! From a checked-out repository to an image: plan it, find which layers are there, have the engine make the rest.
//!
//! ```text
//!   checkout ─► plan (flyloft-core) ─► layering ─► what is missing ─► Engine::derive, one after the other
//! ```
//!
//! What must hold: a layer's id covers everything that the layer is made from; what a dependency step sees of the
//! repository is what its id covers; nothing in a repository makes the daemon read a file outside of it; what was not
//! changed costs no more than finding that out.

mod checkout;
mod error;
mod hold;
mod kept;
mod layering;
mod packages;
mod surroundings;
#[cfg(test)]
mod tests;
mod tools;
#[cfg(test)]
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flyloft_core::app_json::AppJson;
use flyloft_core::name::AppName;
use flyloft_core::plan::{APP, CACHE, HOME, Manifest, Plan, Stack, Stacks, plan};
use flyloft_core::procfile::Procfile;
use tokio::sync::RwLock;

pub use self::error::{BuildError, Unset};
pub use self::hold::Hold;
pub use self::kept::{Stored, timestamp};
pub use self::layering::{Trust, owner as cache_owner};
pub use self::tools::Tools;

use self::checkout::Checkout;
use self::hold::Holds;
use self::layering::{Commands, Content, Inputs, Layer};
use self::surroundings::Surroundings;
use crate::config;
use crate::engine::{Derivation, Image, LayerId, Reach, Recipe, Run, SharedEngine};
use crate::transcript::Transcript;

/// Builds images, and knows what builds have left.
pub struct Builder {
    engine: SharedEngine,
    config: config::Build,
    holds: Holds,
    /// Read while a build finds out what is there, written while a layer is forgotten.
    looking: RwLock<()>,
    /// Repositories are read one at a time: what is made of a file while it is understood can take a hundred times its
    /// size.
    reading: Arc<tokio::sync::Mutex<()>>,
    used: kept::Seen,
}

/// What to build.
#[derive(Debug)]
pub struct Request {
    pub app: AppName,
    /// The repository's files, in [`crate::engine::Engine::staging`] and made as its user. They are gone afterwards.
    pub tree: PathBuf,
    /// What identifies these files: git's id of the tree, or for a directory a hash of what is in it.
    pub tree_id: String,
    pub trust: Trust,
    /// The app's variables for building. For a fork: none that is secret.
    pub variables: BTreeMap<String, String>,
    /// Other variables that the app will find.
    pub given: Vec<String>,
    /// How often the app was built with `--no-cache`. Layers of an earlier generation are not looked at.
    pub generation: u64,
}

/// What came out of it.
#[derive(Debug)]
pub struct Built {
    pub image: Image,
    /// What every process of the app sees: `PATH` and what its language needs. The app's own variables go over it.
    pub env: BTreeMap<String, String>,
    /// The repository's, or the default `web` process where there is none.
    pub procfile: Procfile,
    pub app_json: Option<AppJson>,
    /// Variables that have to be made where nobody set them.
    pub secrets: Vec<String>,
    pub stack: Stack,
    /// Keeps the layers from being collected until the release is on record.
    pub hold: Hold,
}

/// What is read from a repository before anything is built.
struct Reading {
    plan: Plan,
    procfile: Procfile,
    app_json: Option<AppJson>,
    manifests: Vec<Vec<(String, Vec<u8>)>>,
    surroundings: Surroundings,
}

impl Builder {
    pub fn new(engine: SharedEngine, config: config::Build) -> Self {
        Self {
            engine,
            config,
            holds: Holds::default(),
            looking: RwLock::default(),
            reading: Arc::default(),
            used: kept::Seen::default(),
        }
    }

    /// What `app.json` of a tree says, before that is built. None where there is none, or one that the build refuses.
    pub async fn app_json(&self, tree: &Path) -> Option<AppJson> {
        let (tree, _turn) = (tree.to_owned(), self.reading.lock().await);
        let read = move || AppJson::parse(&Checkout::open(&tree).ok()?.content("app.json").ok()??).ok();
        tokio::task::spawn_blocking(read).await.ok()?
    }

    /// Makes the image. What the steps print goes to the transcript.
    pub async fn build(&self, request: Request, transcript: &Transcript) -> Result<Built, BuildError> {
        let tree = Consumed(request.tree.clone());
        let built = self.build_from(&tree, request, transcript).await;
        // A large tree that was not moved away takes time to remove.
        let _ = tokio::task::spawn_blocking(move || drop(tree)).await;
        built
    }

    async fn build_from(
        &self,
        tree: &Consumed,
        request: Request,
        transcript: &Transcript,
    ) -> Result<Built, BuildError> {
        let reading = self.read(&tree.0).await?;
        announce(&reading.plan, transcript);
        check_required(reading.app_json.as_ref(), &request)?;
        for warning in reading.app_json.iter().flat_map(|app_json| &app_json.warnings) {
            transcript.detail(&warning.to_string());
        }
        let inputs = Inputs {
            app: request.app,
            trust: request.trust,
            generation: request.generation,
            tree: request.tree_id,
            manifests: reading.manifests,
            surroundings: reading.surroundings.env(),
            variables: request.variables,
        };
        let (layers, missing, hold) = {
            let _looking = self.looking.read().await;
            let there = self.engine.layers().await;
            let there = there.map_err(|source| BuildError::engine("list the layers", source))?.into_iter().collect();
            let layers = layering::layers(&reading.plan, &inputs, &there);
            let hold = self.holds.hold(layers.iter().map(|layer| layer.id.clone()).collect());
            let missing = layering::missing(&layers, &there).into_iter().map(|layer| layer.id.clone()).collect();
            (layers, missing, hold)
        };
        self.make(&layers, &missing, tree, &reading.surroundings, transcript).await?;
        Ok(Built {
            image: layering::image(&layers),
            env: reading.plan.env,
            procfile: with_default(reading.procfile, reading.plan.web),
            app_json: reading.app_json,
            secrets: reading.plan.secrets,
            stack: reading.plan.stack,
            hold,
        })
    }

    /// Keeps an image that was built before from being collected, if it is whole still.
    pub async fn keep(&self, image: &Image) -> Result<Option<Hold>, BuildError> {
        let _looking = self.looking.read().await;
        let there = self.engine.layers().await.map_err(|source| BuildError::engine("list the layers", source))?;
        let hold = self.holds.hold(image.clone());
        Ok(image.iter().all(|layer| there.contains(layer)).then_some(hold))
    }

    /// Reads what decides about the build, off the async threads.
    async fn read(&self, tree: &Path) -> Result<Reading, BuildError> {
        let (tree, config) = (tree.to_owned(), self.config.clone());
        // Whoever waits no longer leaves the work going on, so that is what has the turn.
        let turn = self.reading.clone().lock_owned().await;
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read(&tree, &config)
        });
        work.await.map_err(|error| BuildError::Io { doing: "read the repository".to_owned(), source: error.into() })?
    }

    async fn make(
        &self,
        layers: &[Layer],
        missing: &BTreeSet<LayerId>,
        tree: &Consumed,
        surroundings: &Surroundings,
        transcript: &Transcript,
    ) -> Result<(), BuildError> {
        for layer in layers {
            if !missing.contains(&layer.id) {
                if matches!(layer.content, Content::Dependencies(_)) {
                    transcript.step(&format!("{} unchanged, using layer {}", layer.title, short(&layer.id)));
                }
                continue;
            }
            if let Some(step) = step(layer) {
                transcript.step(&step);
            }
            // What the engine did not take, since another build made the same layer, goes with this.
            let directory = match &layer.content {
                Content::Directory { files, .. } => Some(self.directory(&layer.id, files)?),
                _ => None,
            };
            let recipe = self.recipe(layer, directory.as_ref().unwrap_or(tree), surroundings);
            let derivation =
                Derivation { id: layer.id.clone(), title: layer.title.clone(), on: layer.on.clone(), recipe };
            let begun = Instant::now();
            let made = self.engine.derive(derivation, transcript).await;
            made.map_err(|source| BuildError::of_layer(layer, source))?;
            if begun.elapsed() > Duration::from_secs(1) {
                transcript.detail(&format!("done in {:.1} s", begun.elapsed().as_secs_f32()));
            }
        }
        Ok(())
    }

    /// How the engine makes a layer; `from` are the files of one that has files.
    fn recipe(&self, layer: &Layer, from: &Consumed, surroundings: &Surroundings) -> Recipe {
        match &layer.content {
            Content::Debian { stack, packages } => {
                Recipe::Debian { suite: stack.suite().to_owned(), packages: packages.clone() }
            }
            Content::Packages(packages) => Recipe::Packages { packages: packages.clone() },
            Content::Directory { path, .. } => Recipe::Tree { from: from.0.clone(), path: (*path).to_owned() },
            Content::App => Recipe::Tree { from: from.0.clone(), path: APP.to_owned() },
            Content::Tool(commands) | Content::Dependencies(commands) | Content::Built(commands) => {
                Recipe::Run(Box::new(self.run(commands, surroundings)))
            }
        }
    }

    fn run(&self, commands: &Commands, surroundings: &Surroundings) -> Run {
        Run {
            commands: commands.argv.clone(),
            dir: APP.to_owned(),
            env: commands.env.clone(),
            files: commands.files.iter().cloned().chain(surroundings.files()).collect(),
            caches: commands.cache.iter().map(|id| (id.clone(), CACHE.to_owned())).collect(),
            // Package managers write logs and settings to their user's directory; none of it is the app's.
            scratch: [surroundings::SCRATCH, CACHE, &format!("{HOME}/.npm"), &format!("{HOME}/.config")]
                .map(str::to_owned)
                .to_vec(),
            limits: self.config.limits(),
            timeout: self.config.time,
            reach: Reach { allow: self.config.allow.clone() },
        }
    }

    /// A directory of ours in the engine's staging area.
    fn directory(&self, id: &LayerId, files: &BTreeMap<String, String>) -> Result<Consumed, BuildError> {
        let staging = self.engine.staging();
        // Two builds may want the same one at the same time.
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = Consumed(staging.dir.join(format!("directory-{id}-{}-{count}", std::process::id())));
        let make = || {
            fs::DirBuilder::new().mode(0o755).create(&dir.0)?;
            for (name, text) in files {
                fs::write(dir.0.join(name), text)?;
                chown(dir.0.join(name), Some(staging.user), Some(staging.user))?;
            }
            chown(&dir.0, Some(staging.user), Some(staging.user))
        };
        let doing = || format!("make the directory `{}`", dir.0.display());
        make().map_err(|source| BuildError::Io { doing: doing(), source })?;
        Ok(dir)
    }
}

fn read(tree: &Path, config: &config::Build) -> Result<Reading, BuildError> {
    let checkout = Checkout::open(tree)
        .map_err(|source| BuildError::Io { doing: format!("open the checkout `{}`", tree.display()), source })?;
    let procfile = match checkout.content("Procfile")? {
        Some(content) => Procfile::parse(&content)?,
        None => Procfile::default(),
    };
    let app_json = checkout.content("app.json")?.map(|content| AppJson::parse(&content)).transpose()?;
    let mut plan = plan(&checkout, &procfile, stacks(app_json.as_ref(), config)?)?;
    if let Some(name) = app_json.as_ref().and_then(|app_json| app_json.manifest.herokus_stack.as_ref()) {
        plan.notes.push(format!("`app.json` asks for `{name}`, a stack of Heroku's: {} is taken instead", plan.stack));
    }
    let mut manifests = Vec::new();
    for dependencies in &plan.dependencies {
        manifests.push(contents(&checkout, &dependencies.manifests)?);
    }
    let surroundings = Surroundings::read(&config.ca_bundle, &config.variables).map_err(|source| BuildError::Io {
        doing: format!("read the certificate authorities `{}`", config.ca_bundle.display()),
        source,
    })?;
    if checkout.kept_bytes() > LARGE {
        // Each build is read on another thread.
        crate::memory::give_back();
    }
    Ok(Reading { plan, procfile, app_json, manifests, surroundings })
}

/// Manifests that together have more than this leave much behind when they have been understood.
const LARGE: u64 = 256 << 10;

fn stacks(app_json: Option<&AppJson>, config: &config::Build) -> Result<Stacks, BuildError> {
    let default = Stack::parse(&config.stack).ok_or_else(|| BuildError::NoSuchStack(config.stack.clone()))?;
    Ok(Stacks { chosen: app_json.and_then(|app_json| app_json.manifest.stack), default })
}

/// What a dependency step sees: path in the container, content.
fn contents(checkout: &Checkout, manifests: &[Manifest]) -> Result<Vec<(String, Vec<u8>)>, BuildError> {
    let mut files = Vec::new();
    for manifest in manifests {
        let (path, content) = match manifest {
            Manifest::Whole(path) => (path, checkout.kept(path)?),
            Manifest::Reduced { path, content } => (path, Some(content.clone().into_bytes())),
        };
        files.extend(content.map(|content| (format!("{APP}/{path}"), content)));
    }
    Ok(files)
}

fn announce(plan: &Plan, transcript: &Transcript) {
    transcript.step(&format!("{} app detected", plan.language));
    let versions = plan.run.iter().chain(&plan.build).collect::<BTreeSet<_>>();
    let versions = versions.into_iter().filter_map(|&chain| Some(format!("{chain} {}", plan.version(chain)?)));
    let versions = versions.collect::<Vec<_>>().join(", ");
    let with = if versions.is_empty() { String::new() } else { format!(" with {versions}") };
    let because = plan.because.as_ref().map(|because| format!(", because {because}")).unwrap_or_default();
    transcript.detail(&format!("{}{with}{because}", plan.stack));
    plan.notes.iter().for_each(|note| transcript.detail(note));
    if let Some(web) = &plan.web {
        transcript.detail(&format!("no Procfile: the web process is `{web}`"));
    }
}

/// What is said before a layer is made.
fn step(layer: &Layer) -> Option<String> {
    match layer.content {
        Content::Debian { .. } | Content::Packages(_) => Some(format!("Preparing {} (once for all apps)", layer.title)),
        Content::Tool(_) => Some(format!("Fetching {} (once for all apps)", layer.title)),
        Content::Dependencies(_) => Some(format!("Installing {}", layer.title)),
        Content::Built(_) => Some(layer.title.clone()),
        Content::Directory { .. } | Content::App => None,
    }
}

/// Whether all is set that must be. To build for minutes first would only keep people waiting.
fn check_required(app_json: Option<&AppJson>, request: &Request) -> Result<(), BuildError> {
    let Some(app_json) = app_json else { return Ok(()) };
    let manifest = match request.trust {
        Trust::Own => app_json.manifest.clone(),
        Trust::Fork(_) => app_json.for_review(),
    };
    let is_set = |name: &str| request.variables.contains_key(name) || request.given.iter().any(|given| given == name);
    let required = manifest.required().map(|(name, text)| (name.to_string(), text.map(str::to_owned)));
    Unset::check(required, is_set).map_err(BuildError::Unset)
}

fn with_default(procfile: Procfile, web: Option<String>) -> Procfile {
    match web {
        Some(web) => Procfile::parse(format!("web: {web}\n").as_bytes()).expect("a plan's command is one line"),
        None => procfile,
    }
}

/// As much of an id as people compare.
fn short(id: &LayerId) -> &str {
    &id.0[..id.0.len().min(8)]
}

/// A tree that belongs to the build. What the engine did not move away goes with this.
struct Consumed(PathBuf);

impl Drop for Consumed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
