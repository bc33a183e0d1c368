//! The examples, built and started on real containers. Layers are kept in the target directory: what took a minute the
//! first time is there the next.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::*;
use crate::engine::lxc::net::NetConfig;
use crate::engine::lxc::{LxcConfig, LxcEngine};
use crate::engine::{ContainerId, ContainerSpec, Engine, EngineError, Process};
use crate::exec::Cmd;
use flyloft_core::policy::Limits;

/// A server with one app. The tests of this file share its layers and take turns.
struct Trial {
    engine: LxcEngine,
    builder: Builder,
    said: tempfile::NamedTempFile,
    _turn: Flock<File>,
}

impl Trial {
    async fn open() -> Self {
        Self::configured(|_| {}).await
    }

    async fn configured(configure: impl FnOnce(&mut config::Build)) -> Self {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").canonicalize().unwrap();
        let state = target.join("test-builds");
        fs::create_dir_all(&state).unwrap();
        let lock = File::create(state.join("lock")).unwrap();
        let turn = tokio::task::spawn_blocking(move || Flock::lock(lock, FlockArg::LockExclusive).unwrap());
        let turn = turn.await.unwrap();
        let init = target.join("release/flyloft-init");
        if !init.exists() {
            let cargo = Cmd::new("cargo").arg("build-init").dir(env!("CARGO_MANIFEST_DIR"));
            cargo.timeout(Duration::from_secs(300)).run().await.unwrap();
        }
        let network = NetConfig {
            ipv4: Ipv4Addr::new(10, 213, 0, 0),
            ipv6: "fd66:6c79:6c66::".parse().unwrap(),
            dns: Vec::new(),
            edge_ports: Vec::new(),
        };
        let instance = format!("{:06x}", std::process::id() & 0xff_ffff);
        let engine = LxcEngine::open(LxcConfig { state, instance, init, network }).await.unwrap();
        let mut build = config::Build::default();
        configure(&mut build);
        let builder = Builder::new(Arc::new(engine.clone()), build);
        Self { engine, builder, said: tempfile::NamedTempFile::new().unwrap(), _turn: turn }
    }

    /// What the build of this repository says and gives. `change` is made to the checkout first.
    async fn build(&self, repository: &Path, change: &[(&str, &str)]) -> Result<Built, BuildError> {
        let staging = self.engine.staging();
        let tree = staging.dir.join(format!("checkout-{}", std::process::id()));
        let _ = fs::remove_dir_all(&tree);
        Cmd::new("cp").arg("-a").arg(repository).arg(&tree).run().await.unwrap();
        for (path, text) in change {
            fs::write(tree.join(path), text).unwrap();
        }
        let owner = format!("{0}:{0}", staging.user);
        Cmd::new("chown").args(["-R", &owner]).arg(&tree).run().await.unwrap();
        let request = Request {
            app: AppName::parse("trial").unwrap(),
            tree,
            tree_id: format!("{} {change:?}", repository.display()),
            trust: Trust::Own,
            variables: BTreeMap::new(),
            given: Vec::new(),
            generation: 0,
        };
        self.builder.build(request, &Transcript::create(self.said.path()).unwrap()).await
    }

    fn said(&self) -> String {
        fs::read_to_string(self.said.path()).unwrap()
    }

    /// Builds an example, starts it, and gives what it answers to `GET path`.
    async fn answer(&self, example: &str, path: &str) -> String {
        self.answer_of(&examples().join(example), path).await
    }

    async fn answer_of(&self, repository: &Path, path: &str) -> String {
        let built = self.build(repository, &[]).await;
        let built = built.unwrap_or_else(|error| panic!("{}\n{error}", self.said()));
        let container = Container { engine: self.engine.clone(), id: ContainerId("trial".to_owned()) };
        self.engine.remove(&container.id).await.unwrap();
        let env = built.env.clone().into_iter().chain([("PORT".to_owned(), "5000".to_owned())]).collect();
        let command = built.procfile.web().expect("every example has a web process").to_owned();
        let spec = ContainerSpec {
            id: container.id.clone(),
            image: built.image.clone(),
            processes: vec![Process { name: "web.1".to_owned(), command, env: BTreeMap::new() }],
            env,
            limits: Limits::default(),
            reach: Reach::default(),
            volumes: Vec::new(),
            files: Default::default(),
        };
        let addresses = self.engine.create(&spec).await.unwrap();
        self.engine.start(&container.id).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: trial.example\r\n\r\n");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = get(addresses.ipv4, &request);
            match answer {
                Ok(answer) if !answer.is_empty() => return answer,
                Ok(_) | Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
                other => {
                    panic!("{} does not answer: {other:?}\n{}", repository.display(), self.logs(&container.id).await)
                }
            }
        }
    }

    async fn logs(&self, id: &ContainerId) -> String {
        use tokio::io::AsyncReadExt;
        let mut text = String::new();
        let mut logs = self.engine.logs(id, 50, false).await.unwrap();
        logs.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// Goes with the test that started it.
struct Container {
    engine: LxcEngine,
    id: ContainerId,
}

impl Drop for Container {
    fn drop(&mut self) {
        let (engine, id) = (self.engine.clone(), self.id.clone());
        // Dropping cannot wait for the test's own runtime.
        let removed = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(engine.remove(&id)).unwrap();
        });
        let _ = removed.join();
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let engine = self.engine.clone();
        let uninstalled = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(engine.uninstall()).unwrap();
        });
        let _ = uninstalled.join();
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn get(address: Ipv4Addr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&(address, 5000).into(), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flask_app_is_built_and_answers() {
    let trial = Trial::open().await;
    assert!(trial.answer("flask-hello", "/?name=Ada").await.contains("Hello, Ada!"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_express_app_is_built_and_answers() {
    let trial = Trial::open().await;
    assert!(trial.answer("express-hello", "/built.txt").await.contains("built with node v20."));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_app_gets_the_release_of_node_that_it_asks_for() {
    let trial = Trial::open().await;
    let app = tempfile::tempdir().unwrap();
    fs::write(app.path().join("package.json"), r#"{"engines":{"node":"22.x"},"scripts":{"start":"node ."}}"#).unwrap();
    let server = "require('http').createServer((_, to) => to.end(process.version)).listen(process.env.PORT)";
    fs::write(app.path().join("index.js"), server).unwrap();
    let answer = trial.answer_of(app.path(), "/").await;
    assert!(answer.contains("v22."), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_files_are_served() {
    let trial = Trial::open().await;
    let answer = trial.answer("static-hello", "/style.css").await;
    assert!(answer.contains("text/css") && answer.contains("font:"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_program_is_built_and_answers() {
    let trial = Trial::open().await;
    assert!(trial.answer("go-hello", "/").await.contains("Hello from Go"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_php_app_is_built_and_answers() {
    let trial = Trial::open().await;
    assert!(trial.answer("php-hello", "/").await.contains("Hello from PHP 8.4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ruby_app_is_built_and_answers() {
    let trial = Trial::open().await;
    assert!(trial.answer("ruby-hello", "/").await.contains("Hello from Ruby 3.3"));
}

/// Where there is a Node app whose `build` script is this.
async fn building(trial: &Trial, script: &str) -> Result<Built, BuildError> {
    let package = serde_json::json!({ "scripts": { "build": script, "start": "node server.js" } }).to_string();
    trial.build(&examples().join("static-hello"), &[("package.json", &package)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_does_not_exist_is_named_in_what_the_build_says() {
    let trial = Trial::open().await;
    let change = [("requirements.txt", "flask\nno-such-package-of-flyloft==1.0\n")];
    let error = trial.build(&examples().join("flask-hello"), &change).await.unwrap_err();
    assert!(matches!(error, BuildError::Dependencies { .. }), "{error:?}");
    let said = trial.said();
    assert!(said.contains("No matching distribution found for no-such-package-of-flyloft==1.0"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_takes_too_much_is_stopped_and_says_of_what() {
    let trial = Trial::configured(|config| {
        config.memory = 200 << 20;
        config.swap = 0;
        config.disk = 50 << 20;
        config.time = Duration::from_secs(20);
    })
    .await;
    let hog = "node -e \"const a = []; for (;;) a.push(Buffer.alloc(1e7, 1))\"";
    let source = |error| match error {
        BuildError::Steps { source, .. } => *source,
        other => panic!("{other:?}"),
    };
    let error = source(building(&trial, hog).await.unwrap_err());
    assert!(matches!(error, EngineError::OutOfMemory { .. }), "{error:?}\n{}", trial.said());
    let error = source(building(&trial, "dd if=/dev/zero of=big bs=1M count=2000").await.unwrap_err());
    assert!(matches!(error, EngineError::OutOfDisk { .. }), "{error:?}\n{}", trial.said());
    let error = source(building(&trial, "sleep 1000").await.unwrap_err());
    assert!(matches!(error, EngineError::TimedOut { .. }), "{error:?}\n{}", trial.said());
}
