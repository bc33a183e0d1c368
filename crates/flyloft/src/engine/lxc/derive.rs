//! Making layers: one way for each [`Recipe`], all ending in [`Layers::publish`](super::layers::Layers::publish).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::container::APP;
use super::debian::{self, Chroot};
use super::layers::{Aside, Meta};
use super::places::Home;
use super::{LxcEngine, blocking, step, tree};
use crate::engine::{ContainerId, ContainerSpec, Derivation, EngineError, LayerId, Recipe, Run};
use crate::transcript::Transcript;

impl LxcEngine {
    pub(super) async fn derive_layer(
        &self,
        derivation: Derivation,
        transcript: &Transcript,
    ) -> Result<(), EngineError> {
        let Derivation { id, title, on, recipe } = derivation;
        id.check()?;
        // Whoever comes second waits here, and finds the layer made.
        let turn = self.turns.take(&id.0).await;
        if self.layers.has(&id) {
            return Ok(());
        }
        self.check_space()?;
        let _hold = self.layers.hold(&on);
        let lower = self.lower(&on)?;
        let (aside, uid_base) = match recipe {
            Recipe::Debian { suite, packages } => {
                let aside = self.aside(&id)?;
                debian::bootstrap(&suite, &packages, &aside.tree(), transcript).await?;
                (aside, 0)
            }
            Recipe::Packages { packages } => {
                if lower.iter().any(|layer| layer.uid_base != 0) {
                    let error = io::Error::other("packages go on Debian layers alone");
                    return Err(EngineError::io(format!("make layer `{id}`"))(error));
                }
                let trees = lower.into_iter().map(|layer| layer.tree).collect();
                (self.with_packages(&id, &on, trees, packages).await?, 0)
            }
            Recipe::Tree { from, path } => (self.move_tree(&id, from, path).await?, self.keeper.uid_base()),
            Recipe::Run(run) => return self.run_step(&id, &title, &on, *run, turn, transcript).await,
        };
        self.publish(&id, &title, &on, aside, uid_base).await
    }

    fn aside(&self, id: &LayerId) -> Result<Aside, EngineError> {
        self.layers.aside(id).map_err(EngineError::io(format!("make layer `{id}`")))
    }

    async fn publish(
        &self,
        id: &LayerId,
        title: &str,
        on: &[LayerId],
        aside: Aside,
        uid_base: u32,
    ) -> Result<(), EngineError> {
        let (layers, id, title, on) = (self.layers.clone(), id.clone(), title.to_owned(), on.to_vec());
        blocking(format!("make layer `{id}`"), move || {
            let usage = tree::disarm_unless_trusted(&aside.tree(), uid_base == 0)?;
            layers.publish(&id, aside, &Meta::new(&title, &on, uid_base, usage))?;
            layers.sync_soon(id);
            Ok(())
        })
        .await
    }

    async fn with_packages(
        &self,
        id: &LayerId,
        on: &[LayerId],
        lower: Vec<PathBuf>,
        packages: Vec<String>,
    ) -> Result<Aside, EngineError> {
        let base = on.first().ok_or_else(|| EngineError::NoLayer(id.clone()))?;
        // apt locks its lists and downloads, which all layers of one base share, and would not wait.
        let _turn = self.turns.take(&format!("apt {base}")).await;
        let aside = self.aside(id)?;
        let apt = self.places.apt.join(&base.0);
        let chroot = Chroot::open(&aside.dir, &lower, &apt).map_err(EngineError::io("make a place for packages"))?;
        let upper = debian::install(&packages, chroot).await?;
        blocking(format!("make layer `{id}`"), move || {
            fs::rename(upper, aside.tree())?;
            tree::purge(&aside.dir.join("work"))?;
            tree::purge(&aside.dir.join("root"))?;
            Ok(aside)
        })
        .await
    }

    async fn move_tree(&self, id: &LayerId, from: PathBuf, path: String) -> Result<Aside, EngineError> {
        let aside = self.aside(id)?;
        let (staging, root) = (self.places.staging.clone(), self.keeper.uid_base());
        blocking(format!("make layer `{id}` from `{}`", from.display()), move || {
            let below = from.strip_prefix(&staging).map_err(io::Error::other)?;
            if below.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
                return Err(io::Error::other("it does not lie in the staging directory"));
            }
            adopt(&from, &aside.tree(), &step::inside(&path)?, root)?;
            Ok(aside)
        })
        .await
    }

    async fn run_step(
        &self,
        id: &LayerId,
        title: &str,
        on: &[LayerId],
        run: Run,
        turn: OwnedMutexGuard<()>,
        transcript: &Transcript,
    ) -> Result<(), EngineError> {
        for (cache, _) in &run.caches {
            cache.check()?;
        }
        let site = Site { engine: self.clone(), home: self.build_home(id), turn: Some(turn) };
        let built = self.build(id, title, on, run, &site.home, transcript).await;
        site.clear().await?;
        built
    }

    async fn build(
        &self,
        id: &LayerId,
        title: &str,
        on: &[LayerId],
        run: Run,
        home: &Home,
        transcript: &Transcript,
    ) -> Result<(), EngineError> {
        let doing = |what: &str| format!("{what} for layer `{id}`");
        let spec = ContainerSpec {
            id: ContainerId("build".to_owned()),
            image: on.to_vec(),
            processes: Vec::new(),
            env: Default::default(),
            limits: run.limits.clone(),
            reach: run.reach.clone(),
            volumes: Vec::new(),
            files: Default::default(),
        };
        let record = self.make_home(home, spec, doing("make a container")).await?;
        let taken = self.caches.take(&run.caches);
        let (_held, caches) = taken.map_err(EngineError::io(doing("open the caches")))?;
        self.launch(home, &record, caches).await?;
        let slot = record.slot;
        step::place_files(home, &run, slot).map_err(EngineError::io(doing("place the files")))?;
        step::run_commands(home, &run, self.layout, self.bounds.floor, transcript).await?;
        self.halt(home, &record, Duration::ZERO).await?;
        let aside = self.aside(id)?;
        let upper = home.upper();
        let aside = blocking(doing("gather the files"), move || {
            step::harvest(&upper, &run)?;
            fs::rename(upper, aside.tree())?;
            Ok(aside)
        });
        self.publish(id, title, on, aside.await?, slot.uid_base()).await
    }
}

/// Where a build step happens. Left, for whatever reason, nothing of it stays.
struct Site {
    engine: LxcEngine,
    home: Home,
    /// Nobody begins the same step before this one is cleared.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Site {
    async fn clear(mut self) -> Result<(), EngineError> {
        let turn = self.turn.take();
        let (engine, home) = (self.engine.clone(), self.home.clone());
        super::to_the_end(async move {
            let _turn = turn;
            engine.destroy(&home).await
        })
        .await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let (engine, home) = (self.engine.clone(), self.home.clone());
        tokio::spawn(async move {
            let _turn = turn;
            if let Err(error) = engine.destroy(&home).await {
                tracing::error!(build = home.name, %error, "failed to clear up after a build step");
            }
        });
    }
}

/// Moves `from` to `path` in a new tree, whose root is that of the ids from `root` on.
fn adopt(from: &Path, tree: &Path, path: &Path, root: u32) -> io::Result<()> {
    let mut dir = tree.to_owned();
    let mut owner = root;
    fs::DirBuilder::new().mode(0o755).create(&dir)?;
    chown(&dir, Some(owner), Some(owner))?;
    let parts: Vec<_> = path.iter().collect();
    let (last, parents) = parts.split_last().ok_or_else(|| io::Error::other("a tree cannot become the root"))?;
    for part in parents {
        // overlayfs shows the uppermost layer's owner of a directory: below the root these are the app's.
        owner = root + APP;
        dir.push(part);
        fs::DirBuilder::new().mode(0o755).create(&dir)?;
        chown(&dir, Some(owner), Some(owner))?;
    }
    fs::rename(from, dir.join(last))
}
