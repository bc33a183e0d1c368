//! Builds on an engine that records what it is asked for.

mod failures;
mod recorder;
mod sharing;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::engine::{CacheId, EngineError};
use crate::error::Error;
use recorder::Recorder;

/// A server with one app, which is built again and again.
struct Test {
    engine: Arc<Recorder>,
    builder: Builder,
    files: BTreeMap<String, String>,
    request: Request,
    /// What the last build said.
    said: String,
}

impl Test {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::configured(files, |_| {})
    }

    fn configured(files: &[(&str, &str)], configure: impl FnOnce(&mut config::Build)) -> Self {
        let staging = tempfile::tempdir().unwrap();
        let mut config = config::Build { ca_bundle: staging.path().join("none.pem"), ..config::Build::default() };
        configure(&mut config);
        let engine = Arc::new(Recorder {
            staging,
            made: Mutex::default(),
            caches: Mutex::default(),
            fails: Mutex::default(),
            blind: AtomicBool::new(false),
        });
        let files = files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect();
        let request = Request {
            app: AppName::parse("shop").unwrap(),
            tree: PathBuf::new(),
            tree_id: String::new(),
            trust: Trust::Own,
            variables: BTreeMap::new(),
            given: Vec::new(),
            generation: 0,
        };
        Self { builder: Builder::new(engine.clone(), config), engine, files, request, said: String::new() }
    }

    fn flask() -> Self {
        Self::new(FLASK)
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    async fn try_build(&mut self) -> Result<Built, BuildError> {
        let tree = self.engine.staging.path().join("checkout");
        for (path, text) in &self.files {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let said = self.engine.staging.path().join("said");
        let request = Request {
            tree: tree.clone(),
            tree_id: format!("{:?}", self.files),
            app: self.request.app.clone(),
            trust: self.request.trust.clone(),
            variables: self.request.variables.clone(),
            given: self.request.given.clone(),
            generation: self.request.generation,
        };
        let built = self.builder.build(request, &Transcript::create(&said).unwrap()).await;
        self.said = std::fs::read_to_string(said).unwrap();
        let left = std::fs::read_dir(self.engine.staging.path()).unwrap().flatten().map(|entry| entry.file_name());
        let left: Vec<_> = left.filter(|name| name != "said" && name != "none.pem").collect();
        assert!(left.is_empty(), "what was staged is consumed: {left:?}");
        built
    }

    async fn build(&mut self) -> Built {
        self.try_build().await.unwrap()
    }

    /// Titles of the layers that the build made.
    async fn makes(&mut self) -> Vec<String> {
        let before = self.engine.made.lock().unwrap().len();
        self.build().await;
        self.engine.made.lock().unwrap()[before..].iter().map(|derivation| derivation.title.clone()).collect()
    }

    /// What can be forgotten while these layers are on record.
    async fn forget_all(&self, releases: &[LayerId]) -> Vec<LayerId> {
        let mut forgotten = Vec::new();
        for layer in self.builder.layers(&BTreeSet::new()).await.unwrap() {
            let needed = async { Ok::<_, BuildError>(releases.contains(&layer.id)) };
            if self.builder.forget(&layer.id, needed).await.unwrap() {
                forgotten.push(layer.id);
            }
        }
        forgotten
    }

    /// The step that made the layer of this title.
    fn step(&self, title: &str) -> Run {
        let made = self.engine.made.lock().unwrap();
        let found = made.iter().rfind(|derivation| derivation.title.contains(title));
        match &found.unwrap_or_else(|| panic!("no layer `{title}` was made")).recipe {
            Recipe::Run(run) => (**run).clone(),
            other => panic!("`{title}` is no step but {other:?}"),
        }
    }
}

const FLASK: &[(&str, &str)] =
    &[("requirements.txt", "flask\ngunicorn\n"), ("app.py", "from flask import Flask\napp = Flask(__name__)\n")];

fn show(made: &[Derivation]) -> String {
    let titles: BTreeMap<&LayerId, &str> = made.iter().map(|d| (&d.id, d.title.as_str())).collect();
    let mut text = String::new();
    for derivation in made {
        let on: Vec<&str> = derivation.on.iter().map(|id| titles[id]).collect();
        writeln!(text, "{}\n  on: {}", derivation.title, on.join(", ")).unwrap();
        match &derivation.recipe {
            Recipe::Debian { suite, packages } => writeln!(text, "  debian {suite}: {}", packages.join(" ")).unwrap(),
            Recipe::Packages { packages } => writeln!(text, "  packages: {}", packages.join(" ")).unwrap(),
            Recipe::Tree { path, .. } => writeln!(text, "  tree at {path}").unwrap(),
            Recipe::Run(run) => {
                run.files.iter().for_each(|(path, content)| {
                    writeln!(text, "  sees {path}: {:?}", String::from_utf8_lossy(content)).unwrap();
                });
                run.commands.iter().for_each(|argv| writeln!(text, "  $ {}", argv.join(" ")).unwrap());
                run.caches.iter().for_each(|(id, path)| writeln!(text, "  cache {} at {path}", id.0).unwrap());
            }
        }
    }
    text
}

#[tokio::test]
async fn a_first_build_makes_every_layer_on_the_right_ones() {
    let mut test = Test::flask();
    let built = test.build().await;
    insta::assert_snapshot!(format!("{}\n{}", test.said, show(&test.engine.take())));
    assert_eq!(built.procfile.web(), Some("gunicorn --bind 0.0.0.0:$PORT app:app"));
}

#[tokio::test]
async fn a_second_build_of_the_same_files_makes_nothing() {
    let mut test = Test::flask();
    test.build().await;
    assert_eq!(test.makes().await, [""; 0]);
    let made = test.engine.take();
    let packages = made.iter().find(|derivation| derivation.title.starts_with("Python")).unwrap();
    insta::assert_snapshot!(test.said.replace(&packages.id.0[..8], "[id]"), @r"
    -----> Python app detected
           debian-13 with Python 3.13
           no Procfile: the web process is `gunicorn --bind 0.0.0.0:$PORT app:app`
    -----> Python packages with pip unchanged, using layer [id]
    ");
}

#[tokio::test]
async fn a_change_of_code_makes_the_apps_layer_and_nothing_else() {
    let mut test = Test::flask();
    test.build().await;
    test = test.file("templates/index.html", "<h1>");
    assert_eq!(test.makes().await, ["app"]);
}

#[tokio::test]
async fn a_change_of_dependencies_makes_their_layer_too() {
    let mut test = Test::flask();
    test.build().await;
    test = test.file("requirements.txt", "flask\ngunicorn\nredis\n");
    assert_eq!(test.makes().await, ["Python packages with pip", "app"]);
}

#[tokio::test]
async fn a_dependency_step_sees_its_manifests_and_nothing_else_of_the_repository() {
    let mut test = Test::flask().file("secret.py", "x = 1").file("pip.conf", "[global]");
    test.build().await;
    let step = test.step("Python packages");
    let seen: Vec<&str> = step.files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(seen, ["/app/requirements.txt"]);
}

#[tokio::test]
async fn the_image_leaves_out_what_only_building_needs() {
    let mut test = Test::new(&[
        ("package.json", r#"{"scripts":{"build":"x","start":"node x"},"dependencies":{"express":"5"}}"#),
        ("package-lock.json", "{}"),
    ]);
    let built = test.build().await;
    let made = test.engine.take();
    let titles: Vec<&str> = made.iter().filter(|d| built.image.contains(&d.id)).map(|d| d.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "base of debian-13",
            "node-run on debian-13",
            "home",
            "Node packages with npm",
            "app",
            "Running npm run build"
        ]
    );
    assert!(made.iter().any(|derivation| derivation.title == "node-build on debian-13"));
}

#[tokio::test]
async fn a_front_end_is_built_with_the_same_layers_as_a_server_and_served_by_one_more() {
    let mut test = Test::new(&[
        ("package.json", r#"{"scripts":{"build":"vite build"},"devDependencies":{"vite":"7"}}"#),
        ("package-lock.json", "{}"),
    ]);
    let built = test.build().await;
    let made = test.engine.take();
    let id = |title: &str| made.iter().find(|derivation| derivation.title == title).unwrap().id.clone();
    assert!(built.image.contains(&id("files-run on debian-13")));
    test = test.file("package.json", r#"{"scripts":{"start":"node x"},"dependencies":{"express":"5"}}"#);
    test.build().await;
    let builds = test.engine.take().into_iter().find(|derivation| derivation.title == "node-build on debian-13");
    assert_eq!(builds.unwrap().id, id("node-build on debian-13"));
}

#[tokio::test]
async fn tools_and_mixed_languages_make_a_stack_that_holds_together() {
    let mut test = Test::new(&[
        ("pyproject.toml", "[project]\nname='x'\nversion='1'\ndependencies=['flask']\n"),
        ("uv.lock", "version = 1\n"),
        ("app.py", "app = Flask('x')\n"),
        ("package.json", r#"{"scripts":{"build":"x"},"devDependencies":{"vite":"6"}}"#),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\n"),
    ]);
    test.build().await;
    insta::assert_snapshot!(show(&test.engine.take()));
}

#[tokio::test]
async fn a_tool_finds_the_directory_of_tools_made_so_that_it_hides_no_other() {
    let mut test = Test::new(&[
        ("package.json", r#"{"engines":{"node":">=22"},"dependencies":{"ws":"8"},"scripts":{"start":"x"}}"#),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\n"),
    ]);
    let built = test.build().await;
    let made = test.engine.take();
    let of = |title: &str| made.iter().find(|derivation| derivation.title.starts_with(title)).expect(title);
    let (tools, home) = (&of("tools").id, &of("home").id);
    for image in [&of("node 24").on, &of("pnpm 9").on, &built.image] {
        let place = |id| image.iter().position(|layer| layer == id).expect("it is below");
        assert!(place(tools) < place(home), "the home directory's own owner is seen");
    }
    assert!(matches!(&of("tools").recipe, Recipe::Tree { path, .. } if path == "/home/app/tools"));
}

#[tokio::test]
async fn building_without_cache_makes_the_apps_layers_anew_and_keeps_the_stack() {
    let mut test = Test::flask();
    test.build().await;
    test.request.generation = 1;
    assert_eq!(test.makes().await, ["Python packages with pip", "app"]);
    assert_eq!(test.step("Python packages").caches[0].0.0, "shop-python1");
}

#[tokio::test]
async fn the_servers_surroundings_reach_build_steps_and_not_the_app() {
    let bundle = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bundle.path(), "-----BEGIN CERTIFICATE-----").unwrap();
    let mut test = Test::configured(FLASK, |config| {
        config.ca_bundle = bundle.path().to_owned();
        config.variables = BTreeMap::from([("HTTPS_PROXY".to_owned(), "http://10.0.0.5:3128".to_owned())]);
        config.allow = vec!["10.0.0.5:3128".parse().unwrap()];
    });
    let built = test.build().await;
    let step = test.step("Python packages");
    assert_eq!(step.env["HTTPS_PROXY"], "http://10.0.0.5:3128");
    assert_eq!(step.env["PIP_CERT"], "/home/app/surroundings/ca.pem");
    assert_eq!(step.reach.allow, ["10.0.0.5:3128".parse().unwrap()]);
    let (path, content) = step.files.last().unwrap();
    assert_eq!((path.as_str(), &content[..]), ("/home/app/surroundings/ca.pem", &b"-----BEGIN CERTIFICATE-----"[..]));
    assert!(step.scratch.iter().any(|scratch| Path::new(path).starts_with(scratch)), "it stays out of the layer");
    assert!(!built.env.contains_key("HTTPS_PROXY") && !built.env.contains_key("PIP_CERT"), "{:?}", built.env);
}

#[tokio::test]
async fn a_dependency_step_gets_the_variables_that_it_reads_and_the_build_gets_all() {
    let mut test = Test::new(&[
        ("package.json", r#"{"scripts":{"build":"x","start":"x"},"dependencies":{"a":"1"}}"#),
        (".npmrc", "//npm.example.com/:_authToken=${NPM_TOKEN}\n"),
    ]);
    test.request.variables =
        [("NPM_TOKEN", "t"), ("API_URL", "u"), ("PATH", "/evil"), ("npm_config_registry", "https://npm.example.com")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    test.build().await;
    let install = test.step("Node packages").env;
    assert_eq!((install.get("NPM_TOKEN"), install.get("API_URL")), (Some(&"t".to_owned()), None));
    assert_eq!(install["npm_config_registry"], "https://npm.example.com");
    let build = test.step("Running npm run build").env;
    assert_eq!((&build["API_URL"], &build["NODE_ENV"]), (&"u".to_owned(), &"production".to_owned()));
    assert!(!build["PATH"].contains("evil"));
    // Another environment with another value of what is not read there shares the layer.
    test.request.variables.insert("API_URL".to_owned(), "v".to_owned());
    assert_eq!(test.makes().await, ["Running npm run build"]);
}

#[tokio::test]
async fn a_change_of_code_does_not_need_the_compilers_to_be_there_still() {
    let mut test = Test::flask();
    test.build().await;
    test.engine.made.lock().unwrap().retain(|derivation| !derivation.title.starts_with("python-build"));
    test = test.file("templates/index.html", "<h1>");
    assert_eq!(test.makes().await, ["app"]);
}

#[tokio::test]
async fn static_files_need_no_step_at_all() {
    let mut test = Test::new(&[("index.html", "<h1>")]);
    let built = test.build().await;
    let made = test.engine.take();
    assert!(made.iter().all(|derivation| !matches!(derivation.recipe, Recipe::Run(_))));
    assert_eq!(built.procfile.web(), Some("/usr/sbin/lighttpd -D -f /home/app/conf/site.conf"));
    assert!(built.image.iter().all(|id| made.iter().any(|derivation| derivation.id == *id)));
}

#[tokio::test]
async fn an_app_can_choose_its_stack_in_app_json() {
    let mut test = Test::flask().file("app.json", r#"{"stack": "debian-12"}"#);
    assert_eq!(test.build().await.stack, Stack::Debian12);
    test = test.file("app.json", r#"{"stack": "heroku-24"}"#);
    assert_eq!(test.build().await.stack, Stack::Debian13);
    let said = "       `app.json` asks for `heroku-24`, a stack of Heroku's: debian-13 is taken instead\n";
    assert!(test.said.contains(said), "{}", test.said);
    test = test.file("app.json", r#"{"stack": "debian-9"}"#);
    let error = test.try_build().await.unwrap_err();
    assert_eq!(error.to_string(), "app.json:1:11: `stack` must be `debian-13` or `debian-12`, not `debian-9`");
}

/// The memory that this process has (`VmRSS`) or has had at most (`VmHWM`), in MiB; see proc_pid_status(5).
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[tokio::test]
async fn what_it_takes_to_understand_a_large_manifest_is_bounded_and_given_back() {
    let mut test = Test::flask();
    test.build().await;
    let before = memory("VmRSS");
    let lines: String = (0..50_000).map(|n| format!("a{n}={{b={{c={{}}}}}}\n")).collect();
    let mut test = Test::flask().file("pyproject.toml", &format!("[tool.poetry]\n{lines}"));
    for _ in 0..3 {
        test.build().await;
    }
    let (most, after) = (memory("VmHWM"), memory("VmRSS"));
    assert!(most < before + 300, "{before} MiB before, {most} MiB at most");
    assert!(after < before + 64, "{before} MiB before, {after} MiB after");
}

#[tokio::test]
async fn two_builds_that_want_the_same_layers_leave_nothing_staged() {
    let mut test = Test::new(&[("index.html", "<h1>")]);
    test.build().await;
    test.engine.blind.store(true, Ordering::Relaxed);
    // The check for what is left is part of every build here.
    assert_eq!(test.makes().await, [""; 0]);
}

#[tokio::test]
async fn layers_of_a_build_are_held_until_its_result_is_dropped() {
    let mut test = Test::flask();
    let built = test.build().await;
    assert_eq!(test.forget_all(&[]).await, [], "all of it was just used");
    let image = built.image.clone();
    drop(built);
    // Until the release is gone too.
    let forgotten = test.forget_all(&image).await;
    assert!(!forgotten.is_empty() && forgotten.iter().all(|layer| !image.contains(layer)), "{forgotten:?}");
    test.forget_all(&[]).await;
    assert!(test.engine.take().is_empty());
}
