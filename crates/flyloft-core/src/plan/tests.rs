//! Small repositories, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::*;

/// A repository as a map.
struct Files(BTreeMap<String, String>);

impl Tree for Files {
    fn read(&self, path: &str) -> Result<Option<String>, Unreadable> {
        Ok(self.0.get(path).cloned())
    }

    fn exists(&self, path: &str) -> bool {
        let dir = format!("{path}/");
        self.0.keys().any(|file| file == path || file.starts_with(&dir))
    }

    fn list(&self, dir: &str) -> Vec<String> {
        let dir = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let names = self.0.keys().filter_map(|path| path.strip_prefix(&dir)?.split('/').next());
        names.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn files(files: &[(&str, &str)]) -> Files {
    Files(files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect())
}

const ANY: Stacks = Stacks { chosen: None, default: Stack::Debian13 };

/// Plans a repository.
fn plan_of(list: &[(&str, &str)]) -> Result<Plan, PlanError> {
    let tree = files(list);
    let procfile = tree.0.get("Procfile").cloned().unwrap_or_default();
    plan(&tree, &Procfile::parse(procfile.as_bytes()).unwrap(), ANY)
}

fn show(list: &[(&str, &str)]) -> String {
    match plan_of(list) {
        Ok(plan) => show_plan(&plan),
        Err(error) => {
            let hints: String = error.hints().iter().map(|hint| format!("\nhint: {hint}")).collect();
            format!("error: {error}{hints}")
        }
    }
}

fn show_plan(plan: &Plan) -> String {
    let mut text = format!("{} on {}", plan.language, plan.stack);
    if let Some(because) = &plan.because {
        write!(text, " because {because}").unwrap();
    }
    write!(text, "\nrun: {:?}, build: {:?}", plan.run, plan.build).unwrap();
    for tool in &plan.tools {
        write!(text, "\ntool: {}", tool.packages("x86_64").join(" ")).unwrap();
    }
    let variables = |text: &mut String, env: &BTreeMap<String, String>| {
        for (name, value) in env {
            write!(text, "\n    {name}={value}").unwrap();
        }
    };
    for dependencies in &plan.dependencies {
        write!(text, "\ndependencies: {}", dependencies.title).unwrap();
        for manifest in &dependencies.manifests {
            match manifest {
                Manifest::Whole(path) => write!(text, "\n  sees {path}").unwrap(),
                Manifest::Reduced { path, content } => write!(text, "\n  sees {path} as {content:?}").unwrap(),
            }
        }
        for command in &dependencies.commands {
            write!(text, "\n  $ {}", command.join(" ")).unwrap();
        }
        variables(&mut text, &dependencies.env);
    }
    for step in &plan.steps {
        write!(text, "\nstep: {}\n  $ {}", step.title, step.argv.join(" ")).unwrap();
    }
    if !plan.steps.is_empty() {
        variables(&mut text, &plan.build_env);
    }
    for (path, content) in &plan.conf {
        write!(text, "\nconf: {path}\n{content}").unwrap();
    }
    write!(text, "\nruns with").unwrap();
    variables(&mut text, &plan.env);
    write!(text, "\nweb: {}", plan.web.as_deref().unwrap_or("(from the Procfile)")).unwrap();
    for secret in &plan.secrets {
        write!(text, "\nsecret: {secret}").unwrap();
    }
    for note in &plan.notes {
        write!(text, "\nnote: {note}").unwrap();
    }
    text
}

macro_rules! repositories {
    ($($name:ident [$($path:literal: $text:expr),* $(,)?])*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(show(&[$(($path, $text)),*]));
        }
    )*};
}

repositories! {
    a_flask_app_without_a_procfile_is_started_with_gunicorn [
        "requirements.txt": "flask==3.1.3\ngunicorn==23.0.0\n",
        "app.py": "from flask import Flask\napp = Flask(__name__)\n",
    ]
    a_flask_factory_without_gunicorn_uses_flasks_own_server [
        "requirements.txt": "Flask\n",
        "app/__init__.py": "from flask import Flask\n\ndef create_app():\n    return Flask(__name__)\n",
    ]
    a_procfile_wins_over_conventions [
        "requirements.txt": "flask\ngunicorn\n",
        "app.py": "app = Flask(__name__)\n",
        "Procfile": "web: gunicorn app:app\nworker: python worker.py\n",
    ]
    included_requirements_are_seen_and_local_ones_are_installed_later [
        "requirements.txt": "-r requirements/base.txt\n-e .\n../outside\n",
        "requirements/base.txt": "flask\n-c limits.txt\n-r ../../../etc/passwd\n",
        "requirements/limits.txt": "flask<4\n",
        "setup.py": "",
        "Procfile": "web: flask run",
    ]
    a_django_project_collects_static_files [
        "requirements.txt": "Django>=5\ngunicorn\npsycopg[binary]\n",
        "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n",
        "shop/settings.py": "STATIC_ROOT = BASE_DIR / 'static'\n",
        "shop/wsgi.py": "",
    ]
    fastapi_is_started_with_uvicorn [
        "pyproject.toml": "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = ['fastapi[standard]>=0.115']\n",
        "main.py": "from fastapi import FastAPI\napp: FastAPI = FastAPI()\n",
    ]
    a_uv_workspace_shows_its_members_manifests [
        "pyproject.toml": "[project]\nname='x'\nversion='1'\ndependencies=['flask']\n[tool.uv.workspace]\nmembers=['packages/*']\n",
        "uv.lock": "version = 1\n",
        "packages/a/pyproject.toml": "[project]\nname='a'\n",
        "packages/a/src/a/__init__.py": "",
        "app.py": "app = Flask(__name__)\n",
    ]
    poetry_installs_the_project_itself_when_its_package_is_there [
        "pyproject.toml": "[tool.poetry]\nname = 'my-shop'\n[tool.poetry.dependencies]\npython = '~3.11'\nflask = '^3'\ngunicorn = '*'\n",
        "poetry.lock": "",
        "my_shop/__init__.py": "",
        "wsgi.py": "application = flask.Flask('x')\n",
    ]
    pipenv_reads_its_python_version [
        "Pipfile": "[packages]\nflask = '*'\n[requires]\npython_version = '3.11'\n",
        "Pipfile.lock": "{}",
        "app.py": "app = Flask('x')\n",
    ]
    a_procfile_alone_brings_the_language_it_names [
        "server.py": "import http.server\n",
        "Procfile": "web: python3 server.py\n",
    ]
    npm_ci_with_a_lock_and_a_build_script [
        "package.json": r#"{"name":"x","scripts":{"build":"vite build","start":"node server.js","prepare":"husky","postinstall":"node setup.js"},"dependencies":{"express":"^5"},"jest":{}}"#,
        "package-lock.json": "{}",
    ]
    an_npm_app_without_dependencies_installs_nothing [
        "package.json": r#"{"scripts":{"start":"node ."}}"#,
    ]
    yarn_classic_and_modern_are_told_apart_classic [
        "package.json": r#"{"dependencies":{"express":"4"},"scripts":{"start":"node x"}}"#,
        "yarn.lock": "# yarn lockfile v1\n",
    ]
    yarn_classic_and_modern_are_told_apart_modern [
        "package.json": r#"{"dependencies":{"express":"4"},"scripts":{"start":"node x"},"packageManager":"yarn@4.5.1+sha224.abc"}"#,
        "yarn.lock": "\n__metadata:\n  version: 8\n",
        ".yarnrc.yml": "yarnPath: .yarn/releases/yarn-4.5.1.cjs\n",
        ".yarn/releases/yarn-4.5.1.cjs": "",
    ]
    pnpm_is_the_one_that_wrote_the_lock_file [
        "package.json": r#"{"dependencies":{"express":"4"},"scripts":{"start":"node x"}}"#,
        "pnpm-lock.yaml": "lockfileVersion: '6.0'\n",
        "pnpm-workspace.yaml": "packages:\n  - 'packages/*'\n  - '!**/test/**'\n",
        "packages/a/package.json": r#"{"name":"a","scripts":{"x":"y"}}"#,
    ]
    a_workspace_of_pnpm_is_installed_though_its_root_depends_on_nothing [
        "package.json": r#"{"private":true,"scripts":{"start":"pnpm --filter a start"}}"#,
        "pnpm-lock.yaml": "lockfileVersion: '9.0'\n",
        "pnpm-workspace.yaml": "packages:\n  - apps/*\n",
        "apps/a/package.json": r#"{"name":"a","dependencies":{"express":"5"}}"#,
    ]
    a_pnpm_that_needs_a_newer_node_gets_it [
        "package.json": r#"{"engines":{"node":">=18 <23"},"dependencies":{"ws":"8"},"scripts":{"start":"node x"},"packageManager":"pnpm@11.28.11"}"#,
        "pnpm-lock.yaml": "lockfileVersion: '9.0'\n",
    ]
    herokus_scripts_run_before_dependencies_are_installed_and_instead_of_the_build [
        "package.json": r#"{"scripts":{"heroku-prebuild":"sh npmrc.sh","heroku-postbuild":"vite build","build":"x","start":"node x"},"dependencies":{"ws":"8"}}"#,
        "pnpm-lock.yaml": "lockfileVersion: '9.0'\n",
    ]
    npm_workspaces_show_their_manifests [
        "package.json": r#"{"workspaces":["packages/*", "../evil"],"scripts":{"start":"node x"}}"#,
        "packages/b/package.json": r#"{"name":"b"}"#,
        "packages/b/index.js": "",
    ]
    a_front_end_without_a_server_is_served_as_files [
        "package.json": r#"{"scripts":{"start":"vite","build":"vite build"},"devDependencies":{"vite":"^6"}}"#,
        "package-lock.json": "{}",
    ]
    node_builds_the_assets_of_a_django_project_and_does_not_run [
        "requirements.txt": "django\n",
        "manage.py": "os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"p.settings\")\n",
        "p/settings.py": "STATIC_ROOT = 'x'\n",
        "package.json": r#"{"scripts":{"build":"tailwindcss"},"devDependencies":{"tailwindcss":"^4"}}"#,
        "package-lock.json": "{}",
    ]
    a_package_json_for_linting_only_is_left_alone [
        "requirements.txt": "flask\n",
        "app.py": "app = Flask('x')\n",
        "package.json": r#"{"devDependencies":{"prettier":"3"}}"#,
    ]
    rails_precompiles_and_says_what_it_needs [
        "Gemfile": "source 'https://example.org'\nruby '~> 3.3.0'\ngem 'rails', '~> 8'\ngem 'propshaft'\n",
        "Gemfile.lock": "",
        "config/application.rb": "",
        "config.ru": "",
    ]
    rack_with_puma [
        "Gemfile": "gem \"rack\"\ngem \"puma\"\n",
        "config.ru": "run ->(env) { [200, {}, ['x']] }",
    ]
    a_gem_from_the_repository_makes_no_shared_layer [
        "Gemfile": "gemspec\ngem 'rack'\n",
        "config.ru": "",
    ]
    a_go_module_runs_its_only_program [
        "go.mod": "module example.com/hello/v2\n\ngo 1.22\n",
        "main.go": "package main\n\nfunc main() {}\n",
    ]
    a_go_module_with_two_commands_needs_a_procfile [
        "go.mod": "module example.com/hello\n\ngo 1.19\n",
        "cmd/a/main.go": "package main\n",
        "cmd/b/main.go": "package main\n",
    ]
    php_with_composer [
        "composer.json": r#"{"require":{"php":"^8.1","monolog/monolog":"^3"}}"#,
        "composer.lock": "{}",
        "public/index.php": "<?php",
    ]
    php_without_anything [
        "index.php": "<?php phpinfo();",
    ]
    static_files [
        "index.html": "<h1>x</h1>",
    ]
    a_procfile_with_a_script_of_its_own [
        "Procfile": "web: ./serve $PORT",
        "serve": "#!/bin/sh",
    ]
    a_site_with_a_package_json_for_linting_is_still_a_site [
        "package.json": r#"{"devDependencies":{"prettier":"3"}}"#,
        "public/index.html": "<h1>x</h1>",
    ]
    a_project_with_path_dependencies_is_installed_with_its_source [
        "pyproject.toml": "[project]\nname = 'x'\nversion = '1'\ndependencies = ['a @ file:///app/a']\n",
        "Procfile": "web: python -m x",
    ]
    a_release_of_node_that_no_stack_has_lies_beside_the_stack [
        "package.json": r#"{"engines":{"node":">=22"},"dependencies":{"bcrypt":"^6"},"scripts":{"start":"node x"}}"#,
        "package-lock.json": "{}",
    ]
    another_language_chooses_the_stack_and_node_comes_beside_it [
        "requirements.txt": "flask\n",
        ".python-version": "3.11",
        "package.json": r#"{"engines":{"node":"20.x"},"scripts":{"build":"x"}}"#,
        "Procfile": "web: flask run",
    ]
    locked_packages_that_need_a_newer_node_get_it [
        "package.json": r#"{"dependencies":{"cookie":"^2"},"scripts":{"start":"node x"}}"#,
        "package-lock.json": r#"{"packages":{"":{},"node_modules/cookie":{"version":"2.0.2","engines":{"node":">=22"}}}}"#,
    ]
    locked_packages_of_pnpm_that_need_a_newer_node_get_it [
        "package.json": r#"{"dependencies":{"cookie":"^2"},"scripts":{"start":"node x"}}"#,
        "pnpm-lock.yaml": "lockfileVersion: '9.0'\n\npackages:\n\n  cookie@2.0.2:\n    resolution: {integrity: x}\n    engines: {node: '>=22'}\n",
    ]
    a_flask_factory_in_a_package_of_any_name_is_found [
        "pyproject.toml": "[project]\nname = 'x'\nversion = '1'\ndependencies = ['flask']\n[build-system]\n",
        "tests/app.py": "app = Flask(__name__)\n",
        "shop/__init__.py": "def create_app(config=None):\n    return Flask(__name__)\n",
    ]
    a_flask_app_that_another_module_makes_is_found [
        "requirements.txt": "flask\ngunicorn\n",
        "wsgi.py": "from shop import create_app\n\napp = create_app()\n",
        "shop/views.py": "",
    ]
    a_flaskenv_says_what_the_app_is [
        "requirements.txt": "flask\npython-dotenv\n",
        ".flaskenv": "FLASK_APP=microblog.py\n",
        "microblog.py": "from app import app\n",
    ]
    a_fastapi_factory_in_an_installed_package_is_found [
        "pyproject.toml": "[project]\nname = 'x'\nversion = '1'\ndependencies = ['fastapi', 'uvicorn']\n[build-system]\n",
        "src/shop/main.py": "from fastapi import FastAPI\ndef create_app() -> FastAPI:\n    return FastAPI()\n",
    ]
    django_that_comes_with_another_package_is_found_by_its_manage_py [
        "requirements.txt": "wagtail\ndaphne\n",
        "manage.py": "os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"mysite.settings.dev\")\n",
        "mysite/settings/dev.py": "from .base import *\n",
        "mysite/settings/base.py": "STATIC_ROOT = 'static'\n",
        "mysite/asgi.py": "",
    ]
    a_dash_app_is_served_by_its_server [
        "requirements.txt": "dash\ngunicorn\n",
        "app.py": "from dash import Dash\napp = Dash(__name__)\nserver = app.server\n",
    ]
    sanic_has_a_server_of_its_own [
        "requirements.txt": "sanic\n",
        "server.py": "app = Sanic('shop')\n",
    ]
    a_script_that_starts_a_server_is_run [
        "requirements.txt": "tornado\n",
        "main.py": "app.listen(int(os.environ['PORT']))\n",
    ]
    gradio_is_told_where_to_listen [
        "requirements.txt": "gradio\n",
        "app.py": "demo.launch()\n",
    ]
    a_node_package_is_started_by_its_main_file [
        "package.json": r#"{"main":"./src/index.js"}"#,
        "src/index.js": "",
    ]
    a_main_file_that_is_no_plain_name_is_left_alone [
        "package.json": r#"{"main":"a;reboot.js"}"#,
        "a;reboot.js": "",
    ]
    sveltekit_without_an_adapter_is_shown_by_vite [
        "package.json": r#"{"scripts":{"build":"vite build"},"devDependencies":{"@sveltejs/kit":"2","@sveltejs/adapter-auto":"6","vite":"7"}}"#,
        "package-lock.json": "{}",
    ]
    next_starts_its_own_server_and_an_export_is_served_as_files [
        "package.json": r#"{"scripts":{"build":"next build"},"dependencies":{"next":"16"}}"#,
        "next.config.ts": "export default { output: \"export\" }",
    ]
    astro_is_a_site_even_where_its_start_script_is_the_development_server [
        "package.json": r#"{"scripts":{"build":"astro build","start":"astro dev"},"dependencies":{"astro":"6"}}"#,
    ]
    angular_is_served_from_where_its_builder_leaves_it [
        "package.json": r#"{"scripts":{"build":"ng build","start":"ng serve"},"devDependencies":{"@angular/cli":"20"}}"#,
        "angular.json": r#"{"projects":{"shop":{}}}"#,
    ]
    fastify_is_told_where_to_listen [
        "package.json": r#"{"scripts":{"start":"fastify start -l info app.js"},"dependencies":{"fastify-cli":"8"}}"#,
    ]
    a_dockerfile_and_apps_in_directories_are_named [
        "Dockerfile": "FROM scratch\n",
        "web/package.json": "{}",
        "docs/readme": "",
    ]
    nothing_detected [
        "README.md": "x",
        "src/main.rs": "fn main() {}",
    ]
    an_empty_repository []
    no_convention_for_starting [
        "requirements.txt": "requests\n",
    ]
    python_that_no_stack_has [
        "requirements.txt": "flask\n",
        "runtime.txt": "python-3.12.4\n",
        "Procfile": "web: x",
    ]
    node_that_no_stack_has [
        "package.json": r#"{"engines":{"node":"16.x"},"scripts":{"start":"node x"}}"#,
    ]
    the_older_stack_is_chosen_by_a_pin [
        "requirements.txt": "flask\n",
        ".python-version": "# used at work\n3.11.9\n",
        "Procfile": "web: flask run",
    ]
    pins_that_no_stack_has_together [
        "requirements.txt": "flask\n",
        ".python-version": "3.11",
        "go.mod": "module x\n\ngo 1.24\n",
        "Procfile": "web: flask run",
    ]
    a_gemfile_is_held_to_the_patch [
        "Gemfile": "ruby '3.3.0'\n",
        "config.ru": "",
    ]
    go_newer_than_any_stack [
        "go.mod": "module x\n\ngo 1.26.1\n",
        "main.go": "package main\n",
    ]
    a_version_that_is_none_is_noted [
        "requirements.txt": "flask\n",
        ".python-version": "pypy3.10\n",
        "Procfile": "web: flask run",
    ]
    malformed_json_says_where [
        "package.json": "{\"name\": \"x\",\n}",
    ]
    malformed_toml_says_where [
        "pyproject.toml": "[project]\nname = \n",
    ]
}

#[test]
fn the_node_that_is_asked_for_stays_though_the_package_manager_needs_a_newer_one() {
    let shown = show(&[
        (
            "package.json",
            r#"{"engines":{"node":"20.x"},"dependencies":{"ws":"8"},"main":"index.js","packageManager":"pnpm@11.0.0"}"#,
        ),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'"),
        ("index.js", ""),
    ]);
    assert!(shown.contains("tool: pnpm@11.0.0") && !shown.contains("tool: node"), "{shown}");
}

#[test]
fn a_chosen_stack_that_lacks_a_version_is_refused_and_the_other_one_named() {
    let tree = files(&[("requirements.txt", "flask\n"), (".python-version", "3.11\n")]);
    let procfile = Procfile::parse(b"web: flask run").unwrap();
    let choosing = |stack| plan(&tree, &procfile, Stacks { chosen: Some(stack), ..ANY });
    let error = choosing(Stack::Debian13).unwrap_err();
    assert_eq!(error.to_string(), "`.python-version` asks for Python 3.11, which debian-13 does not have");
    assert_eq!(error.hints(), ["debian-12 has it: choose that as `stack` in app.json"]);
    assert_eq!(choosing(Stack::Debian12).unwrap().stack, Stack::Debian12);
}

#[test]
fn the_servers_default_is_taken_where_nothing_asks_for_another() {
    let tree = files(&[("requirements.txt", "flask\n")]);
    let procfile = Procfile::parse(b"web: flask run").unwrap();
    let plan = plan(&tree, &procfile, Stacks { chosen: None, default: Stack::Debian12 }).unwrap();
    assert_eq!((plan.stack, plan.because), (Stack::Debian12, None));
}

#[test]
fn a_change_that_does_not_touch_dependencies_leaves_what_their_layer_is_made_from() {
    let with_script = |script: &str| {
        let json = format!(r#"{{"dependencies":{{"express":"^5"}},"scripts":{{"start":"{script}"}}}}"#);
        plan_of(&[("package.json", &json), ("package-lock.json", "{}")]).unwrap().dependencies
    };
    assert_eq!(with_script("node a"), with_script("node b"));
}

#[test]
fn a_tool_version_is_digits_and_dots() {
    for version in ["1.2.3; rm -rf /", "latest", "1.2", "1.2.3-rc1", "../x", ""] {
        assert_eq!(Tool::at(ToolKind::Yarn, version), None, "{version}");
    }
    assert_eq!(Tool::at(ToolKind::Yarn, "4.1.0").unwrap().packages("x86_64"), ["@yarnpkg/cli-dist@4.1.0"]);
}

#[test]
fn a_file_that_cannot_be_read_fails_the_plan() {
    struct Broken;
    impl Tree for Broken {
        fn read(&self, path: &str) -> Result<Option<String>, Unreadable> {
            Err(Unreadable { path: path.to_owned(), why: "it has 5 GB".to_owned() })
        }
        fn exists(&self, _: &str) -> bool {
            true
        }
        fn list(&self, _: &str) -> Vec<String> {
            Vec::new()
        }
    }
    let error = plan(&Broken, &Procfile::default(), ANY).unwrap_err();
    assert_eq!(error.to_string(), "failed to read `Gemfile`: it has 5 GB");
}

#[test]
fn what_a_step_sees_of_a_deep_package_json_is_no_larger_than_the_file() {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let package = format!(r#"{{"dependencies":{{"a":[{}]}}}}"#, vec![deep; 5000].join(","));
    let plan = plan_of(&[("package.json", &package), ("Procfile", "web: node x")]).unwrap();
    let Manifest::Reduced { content, .. } = &plan.dependencies[0].manifests[0] else { panic!("it is reduced") };
    assert!(content.len() <= package.len() + 1);
}

#[test]
fn workspaces_with_more_patterns_or_packages_than_anybody_has_are_refused() {
    let patterns = (0..201).map(|n| format!(r#""p{n}""#)).collect::<Vec<_>>().join(",");
    let package = format!(r#"{{"workspaces":[{patterns}]}}"#);
    let error = plan_of(&[("package.json", &package), ("server.js", "")]).unwrap_err();
    assert_eq!(error.to_string(), "`package.json` has 201 patterns of workspaces, and 200 are allowed");
    let mut list = files(&[("pyproject.toml", "[project]\n[tool.uv.workspace]\nmembers = ['p/*']\n"), ("uv.lock", "")]);
    for n in 0..2001 {
        list.0.insert(format!("p/{n}/pyproject.toml"), String::new());
    }
    let error = plan(&list, &Procfile::default(), ANY).unwrap_err();
    assert_eq!(error.to_string(), "`pyproject.toml` has 2001 packages in its workspaces, and 2000 are allowed");
}
