//! PHP: Composer, and PHP's own web server, which is enough for looking at an app.

use serde_json::{Map, Value};

use super::version::{Dialect, Precision, Range};
use super::{CACHE, Dependencies, Part, Pin, PlanError, Processes, Toolchain, Tree};

const PROGRAMS: &[&str] = &["php", "composer", "artisan"];
const INSTALL: [&str; 5] = ["composer", "install", "--no-dev", "--no-interaction", "--no-progress"];

pub(super) fn detect(tree: &dyn Tree, processes: &Processes) -> Result<Option<Part>, PlanError> {
    let composer = read(tree)?;
    let root =
        ["public", "web", ""].into_iter().find(|dir| tree.exists(format!("{dir}/index.php").trim_start_matches('/')));
    if composer.is_none() && root.is_none() && !processes.mention(PROGRAMS) {
        return Ok(None);
    }
    let mut part = Part::new("PHP", "web: php -S 0.0.0.0:$PORT -t public");
    part.run.push(Toolchain::Php);
    if let Some(composer) = &composer {
        part.pins.extend(pin(composer));
        install(tree, composer, &mut part);
    }
    // Without workers, one slow request holds up all the others.
    part.env.insert("PHP_CLI_SERVER_WORKERS".to_owned(), "4".to_owned());
    part.web = root.map(|root| match root {
        "" => "php -S 0.0.0.0:$PORT".to_owned(),
        root => format!("php -S 0.0.0.0:$PORT -t {root}"),
    });
    Ok(Some(part))
}

fn read(tree: &dyn Tree) -> Result<Option<Map<String, Value>>, PlanError> {
    let Some(text) = tree.read("composer.json")? else { return Ok(None) };
    let why = match serde_json::from_str(&text) {
        Ok(Value::Object(composer)) => return Ok(Some(composer)),
        Ok(_) => "it is not an object".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(PlanError::Malformed { file: "composer.json".to_owned(), format: "JSON", why })
}

/// Packages are unpacked from the manifests alone; the scripts and the class map need the source.
fn install(tree: &dyn Tree, composer: &Map<String, Value>, part: &mut Part) {
    part.build.push(Toolchain::Php);
    let settings = [("COMPOSER_NO_INTERACTION", "1"), ("COMPOSER_ALLOW_SUPERUSER", "0")];
    let cache = format!("{CACHE}/composer");
    let mut packages = Dependencies::new("PHP packages with Composer", Toolchain::Php)
        .sees_whole(tree, &["composer.json", "composer.lock"])
        .runs(&[&INSTALL[..], &["--prefer-dist", "--no-scripts", "--no-autoloader"]].concat())
        .with("COMPOSER_CACHE_DIR", &cache);
    part.build_env.insert("COMPOSER_CACHE_DIR".to_owned(), cache);
    for (name, value) in settings {
        part.build_env.insert(name.to_owned(), value.to_owned());
        packages = packages.with(name, value);
    }
    part.dependencies.push(packages);
    let repositories = composer.get("repositories").map(Value::to_string).unwrap_or_default();
    if repositories.contains("\"path\"") {
        part.install_with_app("composer.json takes packages from the repository");
    }
    part.step("Making the class loader", &[&INSTALL[..], &["--optimize-autoloader"]].concat());
    if !tree.exists("composer.lock") {
        part.notes.push("there is no composer.lock: versions are chosen when the layer is built".to_owned());
    }
}

fn pin(composer: &Map<String, Value>) -> Option<Pin> {
    let text = composer.get("require")?.get("php")?.as_str()?;
    let range = Range::parse(text, Dialect::Composer, Precision::Minor)?;
    Some(Pin { toolchain: Toolchain::Php, file: "composer.json", text: text.to_owned(), range })
}
