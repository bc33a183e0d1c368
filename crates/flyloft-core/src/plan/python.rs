//! Python: which of the four package managers, which version, how it is started.
//!
//! The environment is a `venv` outside the app's directory. It holds everything that the app imports; the toolchain's
//! pip, headers and compilers are needed to make it, not to use it.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::python_project::{self as project, Requirements, at};
use super::version::{Dialect, Precision, Range};
use super::{Dependencies, Manifest, Part, Pin, PlanError, Processes, Tool, ToolKind, Toolchain, Tree, VENV};
use super::{part, python_web};

const PROGRAMS: &[&str] = &[
    "python",
    "python3",
    "pip",
    "flask",
    "django-admin",
    "gunicorn",
    "uvicorn",
    "hypercorn",
    "daphne",
    "waitress-serve",
    "celery",
    "rq",
    "streamlit",
    "uv",
    "poetry",
    "pipenv",
];
const EXAMPLE: &str = "web: python app.py";

pub(super) fn detect(tree: &dyn Tree, processes: &Processes) -> Result<Option<Part>, PlanError> {
    let pyproject = project::read_toml(tree, "pyproject.toml")?;
    // Tools for formatting and linting are configured in pyproject.toml too: that alone makes no Python app.
    let is_project = pyproject
        .as_ref()
        .is_some_and(|table| at(table, &["project"]).is_some() || at(table, &["tool", "poetry"]).is_some());
    let files = ["requirements.txt", "Pipfile", "setup.py", "manage.py", "uv.lock", "poetry.lock"];
    if !is_project && !files.iter().any(|file| tree.exists(file)) && !processes.mention(PROGRAMS) {
        return Ok(None);
    }
    let pyproject = pyproject.unwrap_or_default();
    let pipfile = project::read_toml(tree, "Pipfile")?.unwrap_or_default();
    let mut part = Part::new("Python", EXAMPLE);
    part.run.push(Toolchain::Python);
    part.pins = pins(tree, &pyproject, &pipfile, &mut part.notes)?;
    part.set("VIRTUAL_ENV", VENV);
    part.set("PYTHONUNBUFFERED", "1");
    part.path.push(format!("{VENV}/bin"));
    let mut packages = project::declared_packages(&pyproject);
    packages.extend(project::declared_packages(&pipfile));
    packages.extend(install(tree, &pyproject, &pipfile, &mut part)?);
    let installed = at(&pyproject, &["build-system"]).is_some();
    part.web = python_web::start(tree, &python_web::Project { packages: &packages, installed })?;
    python_web::collect_static(tree, &mut part)?;
    Ok(Some(part))
}

/// Adds the steps that install what the app depends on. Gives the packages that only a requirements file knows.
fn install(
    tree: &dyn Tree,
    pyproject: &Table,
    pipfile: &Table,
    part: &mut Part,
) -> Result<BTreeSet<String>, PlanError> {
    if tree.exists("uv.lock") {
        with_uv(tree, pyproject, part)?;
    } else if tree.exists("poetry.lock") || at(pyproject, &["tool", "poetry", "dependencies"]).is_some() {
        with_poetry(tree, pyproject, part);
    } else if tree.exists("Pipfile.lock") || (tree.exists("Pipfile") && !tree.exists("requirements.txt")) {
        with_pipenv(tree, pipfile, part);
    } else if tree.exists("requirements.txt") {
        return with_requirements(tree, part);
    } else if at(pyproject, &["project"]).is_some() {
        with_project(pyproject, part);
    } else if tree.exists("setup.py") {
        with_project_file("only setup.py says what it depends on", part);
    } else {
        part.path.retain(|path| !path.starts_with(VENV));
        part.env.remove("VIRTUAL_ENV");
        part.build_env.remove("VIRTUAL_ENV");
    }
    Ok(BTreeSet::new())
}

fn new_venv(title: &str) -> Dependencies {
    Dependencies::new(title, Toolchain::Python)
        .runs(&["python3", "-m", "venv", VENV])
        .with("VIRTUAL_ENV", VENV)
        .with("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .with("PIP_NO_INPUT", "1")
        .with("PIP_PROGRESS_BAR", "off")
}

fn pip() -> String {
    format!("{VENV}/bin/pip")
}

fn with_requirements(tree: &dyn Tree, part: &mut Part) -> Result<BTreeSet<String>, PlanError> {
    let requirements = Requirements::read(tree, "requirements.txt")?;
    let install = new_venv("Python packages with pip").runs(&[&pip(), "install", "-r", "requirements.txt"]);
    part.dependencies.push(install.sees(requirements.manifests));
    part.build.push(Toolchain::Python);
    if requirements.local {
        part.step("Installing what lies in the repository", &[&pip(), "install", "-r", "requirements.txt"]);
    }
    Ok(requirements.packages)
}

fn with_uv(tree: &dyn Tree, pyproject: &Table, part: &mut Part) -> Result<(), PlanError> {
    let sync = ["uv", "sync", "--frozen", "--no-default-groups"];
    let members = workspace_members(tree, pyproject)?;
    let install = Dependencies::new("Python packages with uv", Toolchain::Python)
        .sees_whole(tree, &["pyproject.toml", "uv.lock", "uv.toml"])
        .sees(members.into_iter().map(Manifest::Whole))
        .runs(&[&sync[..], &["--no-install-workspace"]].concat());
    let settings = [
        ("UV_PROJECT_ENVIRONMENT", VENV),
        ("UV_PYTHON", "/usr/bin/python3"),
        ("UV_PYTHON_DOWNLOADS", "never"),
        ("UV_LINK_MODE", "copy"),
        ("UV_COMPILE_BYTECODE", "1"),
        ("UV_NO_PROGRESS", "1"),
    ];
    part.dependencies.push(settings.iter().fold(install, |install, (name, value)| install.with(name, *value)));
    part.build.push(Toolchain::Python);
    part.tool(Tool::pinned(ToolKind::Uv));
    for (name, value) in settings {
        part.set(name, value);
    }
    // `uv run` in a Procfile must start the app, not look for updates first.
    part.set("UV_NO_SYNC", "1");
    let packaged = at(pyproject, &["build-system"]).is_some() || at(pyproject, &["tool", "uv", "workspace"]).is_some();
    if project::has_path_dependency(pyproject) && at(pyproject, &["tool", "uv", "workspace"]).is_none() {
        part.install_with_app("pyproject.toml has dependencies that are paths");
    }
    if packaged {
        part.step("Installing the project", &sync);
    }
    Ok(())
}

/// `pyproject.toml` of each package in a uv workspace, where its members are directories or `dir/*`.
fn workspace_members(tree: &dyn Tree, pyproject: &Table) -> Result<BTreeSet<String>, PlanError> {
    let globs = at(pyproject, &["tool", "uv", "workspace", "members"]).and_then(Value::as_array);
    let globs = globs.into_iter().flatten().filter_map(Value::as_str);
    part::members(tree, &part::Workspace { file: "pyproject.toml", manifest: "pyproject.toml" }, globs)
}

fn with_poetry(tree: &dyn Tree, pyproject: &Table, part: &mut Part) {
    let install = new_venv("Python packages with Poetry")
        .sees_whole(tree, &["pyproject.toml", "poetry.lock", "poetry.toml"])
        .runs(&["poetry", "install", "--only", "main", "--no-root", "--no-interaction", "--no-ansi"]);
    part.dependencies.push(install);
    part.build.push(Toolchain::Python);
    part.tool(Tool::pinned(ToolKind::Poetry));
    if project::has_path_dependency(pyproject) {
        part.install_with_app("pyproject.toml has dependencies that are paths");
    }
    if poetry_package_is_there(tree, pyproject) {
        part.step("Installing the project", &["poetry", "install", "--only-root", "--no-interaction", "--no-ansi"]);
    }
}

/// Whether Poetry would find the package that the project is named after; without one it refuses to install it.
fn poetry_package_is_there(tree: &dyn Tree, pyproject: &Table) -> bool {
    if at(pyproject, &["tool", "poetry", "package-mode"]).and_then(Value::as_bool) == Some(false) {
        return false;
    }
    let named = [&["project", "name"][..], &["tool", "poetry", "name"]];
    let Some(name) = named.iter().find_map(|keys| at(pyproject, keys)?.as_str()) else { return false };
    let package = name.to_ascii_lowercase().replace(['-', '.'], "_");
    at(pyproject, &["tool", "poetry", "packages"]).is_some()
        || [format!("{package}/__init__.py"), format!("src/{package}/__init__.py"), format!("{package}.py")]
            .iter()
            .any(|path| tree.exists(path))
}

fn with_pipenv(tree: &dyn Tree, pipfile: &Table, part: &mut Part) {
    let command: &[&str] =
        if tree.exists("Pipfile.lock") { &["pipenv", "sync"] } else { &["pipenv", "install", "--skip-lock"] };
    let install = new_venv("Python packages with Pipenv")
        .sees_whole(tree, &["Pipfile", "Pipfile.lock"])
        .runs(command)
        .with("PIPENV_VERBOSITY", "-1")
        .with("PIPENV_NOSPIN", "1")
        .with("PIPENV_YES", "1");
    part.dependencies.push(install);
    part.build.push(Toolchain::Python);
    part.tool(Tool::pinned(ToolKind::Pipenv));
    part.set("PIPENV_VERBOSITY", "-1");
    if project::has_path_dependency(pipfile) {
        part.install_with_app("Pipfile has dependencies that are paths");
    }
    if !tree.exists("Pipfile.lock") {
        part.notes.push("there is no Pipfile.lock: versions are chosen when the layer is built".to_owned());
    }
}

/// A project that lists what it depends on (PEP 621) and locks nothing.
fn with_project(pyproject: &Table, part: &mut Part) {
    const LIST: &str = "requirements-of-project.txt";
    let lines = project::project_dependencies(pyproject);
    if project::has_path_dependency(pyproject) {
        return with_project_file("pyproject.toml has dependencies that are paths", part);
    }
    if !lines.is_empty() {
        let content = lines.iter().map(|line| format!("{}\n", line.replace('\n', " "))).collect();
        let install = new_venv("Python packages with pip")
            .sees([Manifest::Reduced { path: LIST.to_owned(), content }])
            .runs(&[&pip(), "install", "-r", LIST]);
        part.dependencies.push(install);
        part.notes.push("there is no lock file: versions are chosen when the layer is built".to_owned());
    } else {
        part.step("Making the Python environment", &["python3", "-m", "venv", VENV]);
    }
    part.build.push(Toolchain::Python);
    if at(pyproject, &["build-system"]).is_some() {
        part.step("Installing the project", &[&pip(), "install", "--no-deps", "-e", "."]);
    }
}

/// What the project depends on is known only when its source is there.
fn with_project_file(why: &str, part: &mut Part) {
    part.build.push(Toolchain::Python);
    part.step("Making the Python environment", &["python3", "-m", "venv", VENV]);
    part.step("Installing the project", &[&pip(), "install", "-e", "."]);
    part.notes
        .push(format!("{why}, so dependencies are installed with each commit; a lock file would let them be shared"));
}

fn pins(tree: &dyn Tree, pyproject: &Table, pipfile: &Table, notes: &mut Vec<String>) -> Result<Vec<Pin>, PlanError> {
    let mut asked = Vec::new();
    for file in ["runtime.txt", ".python-version"] {
        if let Some(text) = tree.read(file)? {
            let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
            asked.extend(line.map(|line| (file, line.to_owned())));
        }
    }
    let text = |table, keys: &[&str]| at(table, keys).and_then(Value::as_str).map(str::to_owned);
    asked.extend(text(pyproject, &["project", "requires-python"]).map(|t| ("pyproject.toml", t)));
    asked.extend(text(pyproject, &["tool", "poetry", "dependencies", "python"]).map(|t| ("pyproject.toml", t)));
    for key in ["python_full_version", "python_version"] {
        asked.extend(text(pipfile, &["requires", key]).map(|t| ("Pipfile", t)));
    }
    let mut pins = Vec::new();
    for (file, text) in asked {
        match Range::parse(&text, Dialect::Python, Precision::Minor) {
            Some(range) => {
                let text = text.trim_start_matches("python-").to_owned();
                pins.push(Pin { toolchain: Toolchain::Python, file, text, range });
            }
            None => notes.push(format!("`{file}` asks for `{text}`, which is not a version of Python: left alone")),
        }
    }
    Ok(pins)
}
