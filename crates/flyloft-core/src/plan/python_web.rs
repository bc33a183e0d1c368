//! How Python's web frameworks are started, where a convention says it.

use std::collections::BTreeSet;

use super::{Part, PlanError, Tree};

/// Where the app object of a project is kept, by its name in the top directory.
const MODULES: [&str; 8] = ["app", "main", "wsgi", "asgi", "application", "server", "run", "index"];
/// And within a package.
const SUBMODULES: [&str; 6] = ["__init__", "main", "app", "wsgi", "asgi", "server"];
/// Functions that make the app when they are called.
const FACTORIES: [&str; 4] = ["create_app", "make_app", "build_app", "get_app"];

/// What is known of the project beside its files.
pub(super) struct Project<'a> {
    /// What it depends on, normalised as PEP 503 says.
    pub(super) packages: &'a BTreeSet<String>,
    /// Its packages in `src` can be imported, since it is installed.
    pub(super) installed: bool,
}

impl Project<'_> {
    fn has(&self, name: &str) -> bool {
        self.packages.contains(name)
    }
}

/// The `web` process of an app whose framework has a convention, or that starts a server by itself.
pub(super) fn start(tree: &dyn Tree, project: &Project<'_>) -> Result<Option<String>, PlanError> {
    if let Some(settings) = settings_module(tree)? {
        return Ok(Some(django(tree, project, &settings)));
    }
    if project.has("streamlit") {
        let script = ["streamlit_app.py", "app.py", "main.py"].into_iter().find(|path| tree.exists(path));
        let options = "--server.port $PORT --server.address 0.0.0.0 --server.headless true";
        return Ok(script.map(|script| format!("streamlit run {script} {options}")));
    }
    if project.has("flask")
        && let Some(app) = flask_env(tree)?
    {
        return Ok(Some(format!("flask --app {app} run --host 0.0.0.0 --port $PORT")));
    }
    for Module { path, name } in modules(tree, project) {
        let Some(text) = tree.peek(&path)? else { continue };
        if let Some(web) = served(&name, &text, project) {
            return Ok(Some(web));
        }
    }
    script(tree, project)
}

struct Module {
    path: String,
    /// As it is imported: `shop.main`.
    name: String,
}

/// The modules that may hold the app, the likeliest first.
fn modules(tree: &dyn Tree, project: &Project<'_>) -> Vec<Module> {
    let top = MODULES.map(|name| Module { path: format!("{name}.py"), name: name.to_owned() });
    let packages = |dir: &str| {
        let names = tree.list(dir).into_iter().filter(|name| is_identifier(name) && !name.starts_with("test"));
        let dir = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let inside = names.flat_map(move |name| SUBMODULES.map(|module| (name.clone(), module)));
        inside.map(move |(package, module)| Module {
            path: format!("{dir}{package}/{module}.py"),
            name: format!("{package}.{module}").trim_end_matches(".__init__").to_owned(),
        })
    };
    let installed = project.installed.then(|| packages("src"));
    let found = top.into_iter().chain(packages("")).chain(installed.into_iter().flatten());
    found.filter(|module| tree.exists(&module.path)).collect()
}

/// How the app of a module is served, if it has one.
fn served(module: &str, text: &str, project: &Project<'_>) -> Option<String> {
    let (has, at) = (|name| project.has(name), "--host 0.0.0.0 --port $PORT");
    let gunicorn = |app: &str| format!("gunicorn --bind 0.0.0.0:$PORT {module}:{app}");
    if has("dash") && variable_of(text, &["Dash"]).is_some() {
        let server = text
            .lines()
            .find_map(|line| line.split_once('=').filter(|(_, value)| value.trim_end().ends_with(".server")));
        let server = server.map(|(name, _)| name.trim_end()).filter(|name| is_identifier(name) && has("gunicorn"));
        return server.map(gunicorn);
    }
    if has("flask") {
        // Quoted, since the line is read by a shell.
        let factory = || factory_of(text).map(|name| format!("'{name}()'"));
        let app = variable_of(text, &["Flask"]).or_else(|| made_or_imported(text)).or_else(factory);
        if let Some(app) = app {
            return Some(if has("gunicorn") { gunicorn(&app) } else { format!("flask --app {module}:{app} run {at}") });
        }
    }
    if let Some(app) = variable_of(text, &["Sanic"]).filter(|_| has("sanic")) {
        return Some(format!("sanic {module}:{app} {at}"));
    }
    if let Some(app) = variable_of(text, &["Quart"]).filter(|_| has("quart") && !has("uvicorn")) {
        return Some(format!("hypercorn --bind 0.0.0.0:$PORT {module}:{app}"));
    }
    if has("uvicorn") || has("fastapi") {
        let frameworks = ["FastAPI", "Starlette", "Litestar", "Quart", "FastHTML"];
        if let Some(app) = variable_of(text, &frameworks) {
            return Some(format!("uvicorn {module}:{app} {at}"));
        }
        let of_framework = frameworks.iter().any(|class| text.contains(&format!("{class}(")));
        if let Some(factory) = factory_of(text).filter(|_| of_framework) {
            return Some(format!("uvicorn --factory {module}:{factory} {at}"));
        }
        if let Some(app) = made_or_imported(text).filter(|_| !text.contains("uvicorn.run(")) {
            return Some(format!("uvicorn {module}:{app} {at}"));
        }
    }
    None
}

/// `app` of a line such as `app = Flask(…)` or `app: FastAPI = fastapi.FastAPI(…)` at the top level of a module.
fn variable_of(text: &str, classes: &[&str]) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let name = name.split(':').next()?.trim_end();
        let value = value.trim_start();
        let callee = value[..value.find('(')?].trim_end();
        let callee = callee.rsplit('.').next()?;
        (classes.contains(&callee) && is_identifier(name)).then(|| name.to_owned())
    })
}

fn factory_of(text: &str) -> Option<&'static str> {
    let starts = |line: &str, name: &str| {
        line.strip_prefix("def ").and_then(|l| l.strip_prefix(name)).is_some_and(|l| l.starts_with('('))
    };
    FACTORIES.into_iter().find(|name| text.lines().any(|line| starts(line, name)))
}

/// `app` of a module that calls a factory from elsewhere, or only passes an app on: `from shop import app`.
fn made_or_imported(text: &str) -> Option<String> {
    let imported = |line: &str| {
        let (_, names) = line.strip_prefix("from ")?.split_once(" import ")?;
        let names = names.split(',').filter_map(|name| name.split(" as ").last()).map(|name| name.trim().to_owned());
        names.into_iter().find(|name| name == "app" || name == "application")
    };
    variable_of(text, &FACTORIES).or_else(|| text.lines().find_map(imported))
}

/// What `.flaskenv` names, which Flask's command reads.
fn flask_env(tree: &dyn Tree) -> Result<Option<String>, PlanError> {
    let text = tree.read(".flaskenv")?.unwrap_or_default();
    let app = text.lines().find_map(|line| line.trim().trim_start_matches("export ").strip_prefix("FLASK_APP="));
    let app = app.map(|app| app.trim().trim_matches(['"', '\'']).to_owned());
    Ok(app.filter(|app| !app.is_empty() && app.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/:".contains(&b))))
}

/// A script in the top directory that starts a server itself.
fn script(tree: &dyn Tree, project: &Project<'_>) -> Result<Option<String>, PlanError> {
    const CALLS: [&str; 7] = [".run(", "run_app(", ".listen(", ".launch(", "serve(", "serve_forever(", "run_server("];
    for module in MODULES {
        let path = format!("{module}.py");
        let Some(text) = tree.peek(&path)? else { continue };
        if CALLS.iter().any(|call| text.contains(call)) {
            // Gradio reads neither HOST nor PORT.
            let gradio = "GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=$PORT ";
            return Ok(Some(format!("{}python {path}", if project.has("gradio") { gradio } else { "" })));
        }
    }
    Ok(None)
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The database is brought up to date first: nobody says when else, without a Procfile and its `release` process.
fn django(tree: &dyn Tree, project: &Project<'_>, settings: &str) -> String {
    let package = settings.split('.').next().unwrap_or_default();
    let there = |module: &str| tree.exists(&format!("{package}/{module}.py"));
    let server = if there("wsgi") && project.has("gunicorn") {
        format!("gunicorn --bind 0.0.0.0:$PORT {package}.wsgi")
    } else if there("asgi") && project.has("daphne") {
        format!("daphne -b 0.0.0.0 -p $PORT {package}.asgi:application")
    } else if there("asgi") && project.has("uvicorn") {
        format!("uvicorn {package}.asgi:application --host 0.0.0.0 --port $PORT")
    } else {
        "python manage.py runserver --noreload 0.0.0.0:$PORT".to_owned()
    };
    format!("python manage.py migrate --noinput && exec {server}")
}

/// The module that manage.py names: `shop.settings`.
fn settings_module(tree: &dyn Tree) -> Result<Option<String>, PlanError> {
    let Some(text) = tree.peek("manage.py")? else { return Ok(None) };
    let after = text.split_once("DJANGO_SETTINGS_MODULE").map(|(_, after)| after).unwrap_or_default();
    // The quote that ends the variable's own name comes first.
    let module = after.get(1..).and_then(|after| after.split(['"', '\'']).nth(1));
    Ok(module.filter(|module| module.split('.').all(is_identifier)).map(str::to_owned))
}

/// Static files are collected where the settings say where to. A failure does not fail the build: settings often need
/// variables that are there only when the app runs.
pub(super) fn collect_static(tree: &dyn Tree, part: &mut Part) -> Result<(), PlanError> {
    let Some(module) = settings_module(tree)? else { return Ok(()) };
    let path = module.replace('.', "/");
    // Settings for each surrounding share what is in a module beside them.
    let beside = path.rsplit_once('/').map(|(dir, _)| dir).unwrap_or(&path);
    let mut candidates = vec![format!("{path}.py"), format!("{path}/__init__.py"), format!("{path}/base.py")];
    candidates.extend(["base", "common", "__init__"].map(|name| format!("{beside}/{name}.py")));
    for candidate in candidates {
        if tree.peek(&candidate)?.is_some_and(|text| text.contains("STATIC_ROOT")) {
            part.step("Collecting static files", &["sh", "-c", COLLECT]);
            break;
        }
    }
    Ok(())
}

/// The same variable turns it off as on Heroku.
const COLLECT: &str = "\
if [ \"${DISABLE_COLLECTSTATIC:-0}\" != 0 ]; then echo 'skipped: DISABLE_COLLECTSTATIC is set'; \
else python manage.py collectstatic --noinput \
|| echo 'collectstatic failed: static files may be missing (DISABLE_COLLECTSTATIC=1 skips it)'; fi";
