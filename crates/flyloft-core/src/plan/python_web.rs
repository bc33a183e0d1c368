//! How Python's web frameworks are started, where a convention says it.

use std::collections::BTreeSet;

use super::{Part, PlanError, Tree};

/// The `web` process of a Django, Flask, ASGI or Streamlit app.
pub(super) fn start(tree: &dyn Tree, packages: &BTreeSet<String>) -> Result<Option<String>, PlanError> {
    let has = |name: &str| packages.contains(name);
    if has("django") && tree.exists("manage.py") {
        return Ok(Some(django(tree, packages)?));
    }
    if has("streamlit") {
        let script = ["streamlit_app.py", "app.py", "main.py"].into_iter().find(|path| tree.exists(path));
        let options = "--server.port $PORT --server.address 0.0.0.0 --server.headless true";
        return Ok(script.map(|script| format!("streamlit run {script} {options}")));
    }
    for module in ["app", "main", "wsgi", "asgi", "application", "server", "app/main", "app/__init__"] {
        let Some(text) = tree.read(&format!("{module}.py"))? else { continue };
        let module = module.trim_end_matches("/__init__").replace('/', ".");
        if has("flask")
            && let Some(app) = flask_app(&text)
        {
            return Ok(Some(if has("gunicorn") {
                format!("gunicorn --bind 0.0.0.0:$PORT {module}:{app}")
            } else {
                format!("flask --app {module}:{app} run --host 0.0.0.0 --port $PORT")
            }));
        }
        let frameworks = ["FastAPI", "Starlette", "Litestar", "Quart", "Sanic"];
        let app = frameworks.iter().find_map(|class| variable_of(&text, class));
        if let Some(app) = app.filter(|_| has("uvicorn") || has("fastapi")) {
            return Ok(Some(format!("uvicorn {module}:{app} --host 0.0.0.0 --port $PORT")));
        }
    }
    Ok(None)
}

fn flask_app(text: &str) -> Option<String> {
    let factory = ["create_app", "make_app"].into_iter().find(|name| text.contains(&format!("\ndef {name}(")));
    // Quoted, since the line is read by a shell.
    variable_of(text, "Flask").or_else(|| factory.map(|name| format!("'{name}()'")))
}

/// `app` of a line `app = Flask(…)` at the top level of a module.
fn variable_of(text: &str, class: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let name = name.split(':').next()?.trim_end();
        let value = value.trim_start();
        let class = value.strip_prefix(class).or_else(|| value.split_once('.')?.1.strip_prefix(class))?;
        (class.starts_with('(') && is_identifier(name)).then(|| name.to_owned())
    })
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn django(tree: &dyn Tree, packages: &BTreeSet<String>) -> Result<String, PlanError> {
    let settings = settings_module(tree)?;
    let package = settings.as_deref().and_then(|module| module.split('.').next());
    let package = package.filter(|package| tree.exists(&format!("{package}/wsgi.py")));
    Ok(match package {
        Some(package) if packages.contains("gunicorn") => format!("gunicorn --bind 0.0.0.0:$PORT {package}.wsgi"),
        _ => "python manage.py runserver --noreload 0.0.0.0:$PORT".to_owned(),
    })
}

/// The module that manage.py names: `shop.settings`.
fn settings_module(tree: &dyn Tree) -> Result<Option<String>, PlanError> {
    let Some(text) = tree.read("manage.py")? else { return Ok(None) };
    let after = text.split_once("DJANGO_SETTINGS_MODULE").map(|(_, after)| after).unwrap_or_default();
    // The quote that ends the variable's own name comes first.
    let module = after.get(1..).and_then(|after| after.split(['"', '\'']).nth(1));
    Ok(module.filter(|module| module.split('.').all(is_identifier)).map(str::to_owned))
}

/// Static files are collected where the settings say where to. A failure does not fail the build: settings often need
/// variables that are there only when the app runs.
pub(super) fn collect_static(tree: &dyn Tree, packages: &BTreeSet<String>, part: &mut Part) -> Result<(), PlanError> {
    if !packages.contains("django") {
        return Ok(());
    }
    let Some(module) = settings_module(tree)? else { return Ok(()) };
    let path = module.replace('.', "/");
    let candidates = [format!("{path}.py"), format!("{path}/__init__.py"), format!("{path}/base.py")];
    for candidate in candidates {
        if tree.read(&candidate)?.is_some_and(|text| text.contains("STATIC_ROOT")) {
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
