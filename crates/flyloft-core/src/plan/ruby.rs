//! Ruby: Bundler, and how Rails and Rack apps are started.

use super::version::{Dialect, Precision, Range};
use super::{CACHE, Dependencies, GEMS, Part, Pin, PlanError, Processes, Toolchain, Tree};

const PROGRAMS: &[&str] = &["ruby", "bundle", "bundler", "rake", "rails", "rackup", "puma", "unicorn", "sidekiq"];

pub(super) fn detect(tree: &dyn Tree, processes: &Processes) -> Result<Option<Part>, PlanError> {
    let gemfile = tree.read("Gemfile")?;
    if gemfile.is_none() && !tree.exists("config.ru") && !processes.mention(PROGRAMS) {
        return Ok(None);
    }
    let mut part = Part::new("Ruby", "web: bundle exec puma --port $PORT");
    part.run.push(Toolchain::Ruby);
    part.pins = pins(tree, gemfile.as_deref(), &mut part.notes)?;
    let gemfile = gemfile.unwrap_or_default();
    // A plugin or a Gemfile without gems needs nothing from the network, but `bundle exec` wants to have been set up.
    if tree.exists("Gemfile") {
        bundle(tree, &gemfile, &mut part);
    }
    web(tree, &gemfile, &mut part);
    Ok(Some(part))
}

fn bundle(tree: &dyn Tree, gemfile: &str, part: &mut Part) {
    part.build.push(Toolchain::Ruby);
    let settings = [
        ("BUNDLE_PATH", GEMS),
        ("BUNDLE_WITHOUT", "development:test"),
        ("BUNDLE_VERSION", "system"),
        ("BUNDLE_APP_CONFIG", "/home/app/bundle"),
    ];
    let mut install = Dependencies::new("Ruby gems with Bundler", Toolchain::Ruby)
        .sees_whole(tree, &["Gemfile", "Gemfile.lock", ".ruby-version"])
        .runs(&["bundle", "install", "--jobs", "4", "--retry", "2"])
        .with("BUNDLE_USER_CACHE", format!("{CACHE}/bundle"))
        .with("BUNDLE_GLOBAL_GEM_CACHE", "true");
    for (name, value) in settings {
        part.set(name, value);
        install = install.with(name, value);
    }
    if tree.exists("Gemfile.lock") {
        part.set("BUNDLE_FROZEN", "true");
        install = install.with("BUNDLE_FROZEN", "true");
    } else {
        part.notes.push("there is no Gemfile.lock: versions are chosen when the layer is built".to_owned());
    }
    part.dependencies.push(install);
    let lines = || gemfile.lines().map(str::trim_start);
    if lines().any(|line| line.starts_with("gemspec") || line.contains("path:") || line.starts_with("eval_gemfile")) {
        part.install_with_app("the Gemfile takes gems from the repository");
    }
}

/// Whether the Gemfile names this gem.
fn has_gem(gemfile: &str, name: &str) -> bool {
    gemfile.lines().filter_map(quoted_after_gem).any(|gem| gem == name)
}

/// `rack` of `gem "rack", "~> 3"`.
fn quoted_after_gem(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("gem")?.trim_start_matches([' ', '(']);
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    rest[1..].split(quote).next()
}

fn web(tree: &dyn Tree, gemfile: &str, part: &mut Part) {
    let has = |name| has_gem(gemfile, name);
    if has("rails") && tree.exists("config/application.rb") {
        for (name, value) in [
            ("RAILS_ENV", "production"),
            ("RACK_ENV", "production"),
            ("RAILS_LOG_TO_STDOUT", "enabled"),
            ("RAILS_SERVE_STATIC_FILES", "enabled"),
        ] {
            part.set(name, value);
        }
        if has("sprockets-rails") || has("propshaft") || has("vite_rails") || tree.exists("app/assets") {
            part.build_env.insert("SECRET_KEY_BASE_DUMMY".to_owned(), "1".to_owned());
            part.step("Precompiling assets", &["bundle", "exec", "rake", "assets:precompile"]);
        }
        part.web = Some("bundle exec rails server --binding 0.0.0.0 --port $PORT".to_owned());
        part.secrets.push("SECRET_KEY_BASE".to_owned());
        if tree.exists("config/credentials.yml.enc") || tree.exists("config/credentials/production.yml.enc") {
            let note =
                "Rails reads its encrypted credentials only where `flyloft config set` gives it `RAILS_MASTER_KEY`";
            part.notes.push(note.to_owned());
        }
    } else if tree.exists("config.ru") {
        part.set("RACK_ENV", "production");
        part.web = Some(match () {
            () if has("puma") => "bundle exec puma --bind tcp://0.0.0.0:$PORT".to_owned(),
            () if tree.exists("Gemfile") => "bundle exec rackup --host 0.0.0.0 --port $PORT".to_owned(),
            () => "rackup --host 0.0.0.0 --port $PORT".to_owned(),
        });
    }
}

fn pins(tree: &dyn Tree, gemfile: Option<&str>, notes: &mut Vec<String>) -> Result<Vec<Pin>, PlanError> {
    let version_file = tree.read(".ruby-version")?.map(|text| text.trim().to_owned());
    // Bundler holds to the Gemfile's word exactly; the version file alone only says what its author uses.
    let (file, text, precision) = match (gemfile.and_then(ruby_line), version_file) {
        (Some(RubyLine::Version(text)), _) => ("Gemfile", text, Precision::Patch),
        (Some(RubyLine::VersionFile), Some(text)) => (".ruby-version", text, Precision::Patch),
        (_, Some(text)) => (".ruby-version", text, Precision::Minor),
        (_, None) => return Ok(Vec::new()),
    };
    match Range::parse(&text, Dialect::Ruby, precision) {
        Some(range) => Ok(vec![Pin { toolchain: Toolchain::Ruby, file, text, range }]),
        None => {
            notes.push(format!("`{file}` asks for Ruby `{text}`, which is not a version: left alone"));
            Ok(Vec::new())
        }
    }
}

enum RubyLine {
    /// `ruby "3.3.8"` or `ruby ">= 3.1", "< 3.4"`.
    Version(String),
    /// `ruby file: ".ruby-version"`.
    VersionFile,
}

fn ruby_line(gemfile: &str) -> Option<RubyLine> {
    let line = gemfile
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("ruby").filter(|rest| rest.starts_with([' ', '('])))?;
    if line.contains("file:") {
        return Some(RubyLine::VersionFile);
    }
    let line = line.split('#').next().unwrap_or_default();
    // Every second piece is inside quotes; options such as `engine:` come after the versions.
    let versions = line.split("engine").next().unwrap_or_default();
    let versions: Vec<_> = versions.split(['"', '\'']).skip(1).step_by(2).collect();
    (!versions.is_empty()).then(|| RubyLine::Version(versions.join(", ")))
}
