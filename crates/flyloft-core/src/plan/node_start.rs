//! How a Node app is started: its `start` script, what its framework's build leaves, or the file that is its entry.

use super::node_package::Package;
use super::static_site::{self, Missing};
use super::{Part, PlanError, Tree};

/// Servers that authors develop with. As a `start` script they are no way to run what was built.
const DEVELOPMENT: [&str; 17] = [
    "react-scripts start",
    "vite",
    "vue-cli-service serve",
    "ng serve",
    "parcel",
    "astro dev",
    "astro preview",
    "astro",
    "docusaurus start",
    "gatsby develop",
    "npm run develop",
    "npm run dev",
    "eleventy --serve",
    "vitepress dev",
    "nuxt dev",
    "next dev",
    "webpack serve",
];

/// Sets the part's `web` process, where a convention says it. `run` is the package manager's command.
pub(super) fn start(tree: &dyn Tree, package: &Package, run: &str, part: &mut Part) -> Result<(), PlanError> {
    let built = built(tree, package)?;
    if package.script("start").is_some() && !(built.is_some() && is_development_server(package)) {
        // Its command listens on loopback unless it finds itself in a container of another kind.
        if package.depends_on("fastify-cli") {
            part.set("FASTIFY_ADDRESS", "0.0.0.0");
        }
        part.web = Some(format!("{run} start"));
        return Ok(());
    }
    match built {
        _ if tree.exists("server.js") => part.web = Some("node server.js".to_owned()),
        Some(Built::Server(web)) => part.web = Some(web.to_owned()),
        Some(Built::Preview(web)) => {
            part.web = Some(web.to_owned());
            let note = "`@sveltejs/adapter-auto` makes nothing to run here, so Vite's preview serves what was built; \
                        `@sveltejs/adapter-node` makes a server";
            part.notes.push(note.to_owned());
        }
        Some(Built::Files(dir, missing)) => {
            let files = static_site::serving(&dir, missing);
            part.run.extend(files.run);
            part.conf.extend(files.conf);
            part.web = files.web;
            part.notes.push(format!("what the build leaves in `{dir}` is served as static files"));
        }
        None => part.web = entry(tree, package).map(|file| format!("node {file}")),
    }
    Ok(())
}

fn is_development_server(package: &Package) -> bool {
    let start = package.script("start").unwrap_or_default();
    DEVELOPMENT
        .iter()
        .any(|server| start.strip_prefix(server).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
}

/// What a build leaves.
enum Built {
    /// A server that reads `PORT`, started like this.
    Server(&'static str),
    /// Only something to look at with the tool itself.
    Preview(&'static str),
    /// A directory.
    Files(String, Missing),
}

/// What the `build` script makes, by its tool's own convention. A framework comes before the tool that it is made with.
fn built(tree: &dyn Tree, package: &Package) -> Result<Option<Built>, PlanError> {
    let Some(build) = package.script("build") else { return Ok(None) };
    let has = |name| package.depends_on(name);
    let site = |dir: &str| Some(Built::Files(dir.to_owned(), Missing::NotFound));
    let single_page = |dir: &str| Some(Built::Files(dir.to_owned(), Missing::FrontPage));
    Ok(match () {
        () if has("next") => match configured(tree, "next.config", "'export'")? {
            true => site("out"),
            false => Some(Built::Server("next start --hostname 0.0.0.0 --port $PORT")),
        },
        () if has("nuxt") && build.contains("generate") => site(".output/public"),
        () if has("nuxt") => Some(Built::Server("node .output/server/index.mjs")),
        () if has("@sveltejs/adapter-node") => Some(Built::Server("node build")),
        () if has("@sveltejs/adapter-static") => single_page("build"),
        // Vite answers only host names that it knows.
        () if has("@sveltejs/kit") => Some(Built::Preview(
            "host=${FLYLOFT_URL#*://} && export __VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS=${host%%[:/]*} && \
             exec vite preview --host 0.0.0.0 --port $PORT",
        )),
        () if has("@astrojs/node") => Some(Built::Server("node dist/server/entry.mjs")),
        () if has("astro") => site("dist"),
        () if has("@docusaurus/core") => site("build"),
        () if has("gatsby") => site("public"),
        () if has("@11ty/eleventy") => site("_site"),
        () if has("vitepress") => site(".vitepress/dist"),
        () if has("react-scripts") => single_page("build"),
        () if has("@angular/cli") => angular(tree)?.map(|dir| Built::Files(dir, Missing::FrontPage)),
        () if has("@vue/cli-service") || has("parcel") || has("vite") => single_page("dist"),
        () => None,
    })
}

/// Whether a configuration file in one of JavaScript's dialects has this in it.
fn configured(tree: &dyn Tree, name: &str, text: &str) -> Result<bool, PlanError> {
    for extension in ["js", "mjs", "cjs", "ts", "mts"] {
        if let Some(config) = tree.peek(&format!("{name}.{extension}"))? {
            return Ok(config.replace('"', "'").contains(text));
        }
    }
    Ok(false)
}

/// Where Angular's application builder leaves what browsers load: `dist/PROJECT/browser`.
fn angular(tree: &dyn Tree) -> Result<Option<String>, PlanError> {
    let Some(workspace) = Package::read(tree, "angular.json")? else { return Ok(None) };
    Ok(workspace.first_of("projects").filter(|name| is_plain(name)).map(|name| format!("dist/{name}/browser")))
}

fn is_plain(name: &str) -> bool {
    !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The file that `node` runs where nothing says more: what the package calls its `main`, then what people call theirs.
fn entry(tree: &dyn Tree, package: &Package) -> Option<String> {
    let main = package.text(&["main"]).map(|main| main.trim_start_matches("./").to_owned());
    let main =
        main.filter(|main| main.split('/').all(is_plain) && main.rsplit('.').next().is_some_and(|e| e.ends_with("js")));
    let usual = ["index.js", "app.js", "main.js", "index.mjs", "src/index.js"].map(str::to_owned);
    main.into_iter().chain(usual).find(|file| tree.exists(file))
}
