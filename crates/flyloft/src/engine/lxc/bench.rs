//! A place to try containers in: an engine with a state directory of its own over a Debian layer that all tests share.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::net::NetConfig;
use super::{LxcConfig, LxcEngine};
use crate::engine::{Derivation, Engine, LayerId, Recipe};
use crate::exec::Cmd;
use crate::transcript::Transcript;

/// An engine for one test. What it made goes with it.
pub struct Bench {
    pub engine: LxcEngine,
    pub dir: tempfile::TempDir,
    pub base: LayerId,
    instance: String,
    init: PathBuf,
}

impl Bench {
    /// Makes what is missing: the first test on a machine waits for mmdebstrap, the others for that one.
    pub async fn open() -> Self {
        let (layer, init) = shared().await;
        let dir = tempfile::tempdir().unwrap();
        let base = LayerId(layer.file_name().unwrap().to_str().unwrap().to_owned());
        fs::create_dir_all(dir.path().join("engine/layers")).unwrap();
        std::os::unix::fs::symlink(&layer, dir.path().join("engine/layers").join(&base.0)).unwrap();
        let instance = format!("{:06x}", std::process::id());
        let engine = LxcEngine::open(config(dir.path(), &instance, &init)).await.unwrap();
        Self { engine, dir, base, instance, init }
    }

    /// Another engine over the same state, as after a restart of the daemon.
    pub async fn reopen(&mut self) {
        self.engine = LxcEngine::open(config(self.dir.path(), &self.instance, &self.init)).await.unwrap();
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let engine = self.engine.clone();
        // A test that failed leaves containers, and dropping cannot wait for the test's own runtime.
        let cleared = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                for container in engine.observe().await.unwrap() {
                    engine.remove(&container.id).await.unwrap();
                }
                engine.network.uninstall().await.unwrap();
            });
        });
        let _ = cleared.join();
    }
}

fn config(state: &Path, instance: &str, init: &Path) -> LxcConfig {
    LxcConfig {
        state: state.to_owned(),
        instance: instance.to_owned(),
        init: init.to_owned(),
        network: NetConfig {
            ipv4: Ipv4Addr::new(10, 213, 0, 0),
            ipv6: "fd66:6c79:6c66::".parse::<Ipv6Addr>().unwrap(),
            dns: Vec::new(),
            edge_ports: Vec::new(),
        },
    }
}

/// The directory of the shared layer, and the program for PID 1.
async fn shared() -> (PathBuf, PathBuf) {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").canonicalize().unwrap();
    let place = target.join("test-engine");
    fs::create_dir_all(&place).unwrap();
    let lock = tokio::task::spawn_blocking({
        let file = File::create(place.join("lock")).unwrap();
        move || Flock::lock(file, FlockArg::LockExclusive).unwrap()
    });
    let _lock = lock.await.unwrap();
    let init = target.join("release/flyloft-init");
    if !is_current(&init) {
        let cargo = Cmd::new("cargo").arg("build-init").dir(env!("CARGO_MANIFEST_DIR"));
        cargo.timeout(Duration::from_secs(300)).run().await.unwrap();
    }
    let id = LayerId("test-trixie-1".to_owned());
    let layer = place.join("engine/layers").join(&id.0);
    if !layer.exists() {
        let engine = LxcEngine::open(config(&place, "0000fe", &init)).await.unwrap();
        let packages = vec!["ca-certificates".to_owned(), "python3-minimal".to_owned()];
        let recipe = Recipe::Debian { suite: "trixie".to_owned(), packages };
        let derivation = Derivation { id, title: "Debian for tests".to_owned(), on: vec![], recipe };
        engine.derive(derivation, &Transcript::discard()).await.unwrap();
        engine.network.uninstall().await.unwrap();
    }
    (layer, init)
}

/// Whether PID 1 was built from the sources that are there now.
fn is_current(init: &Path) -> bool {
    let made = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let sources = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../flyloft-init/src")).unwrap();
    let newest = sources.flatten().filter_map(|source| made(&source.path())).max();
    made(init) >= newest
}
