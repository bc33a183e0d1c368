//! Files as they are: a small server for sites that bring none.

use super::{APP, CONF, Part, Toolchain, Tree};

pub(super) fn detect(tree: &dyn Tree) -> Option<Part> {
    let dir = ["", "public", "dist", "_site"].into_iter().find(|dir| {
        let index = if dir.is_empty() { "index.html".to_owned() } else { format!("{dir}/index.html") };
        tree.exists(&index)
    })?;
    Some(serving(dir, Missing::NotFound))
}

/// What answers a path that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    NotFound,
    /// The front page, whose script knows what to show.
    FrontPage,
}

/// Serves a directory of the app. Its name becomes part of a configuration: the caller has checked it.
pub(super) fn serving(dir: &str, missing: Missing) -> Part {
    let mut part = Part::new("static files", "web: lighttpd -D -f site.conf");
    part.run.push(Toolchain::Files);
    part.conf.insert("site.conf".to_owned(), configuration(dir, missing));
    part.web = Some(format!("/usr/sbin/lighttpd -D -f {CONF}/site.conf"));
    part
}

/// What the web is made of (the media types that IANA has for these extensions).
const TYPES: &[(&str, &str)] = &[
    (".html", "text/html; charset=utf-8"),
    (".css", "text/css; charset=utf-8"),
    (".js", "text/javascript; charset=utf-8"),
    (".mjs", "text/javascript; charset=utf-8"),
    (".json", "application/json"),
    (".map", "application/json"),
    (".webmanifest", "application/manifest+json"),
    (".xml", "text/xml; charset=utf-8"),
    (".txt", "text/plain; charset=utf-8"),
    (".md", "text/markdown; charset=utf-8"),
    (".csv", "text/csv; charset=utf-8"),
    (".svg", "image/svg+xml"),
    (".png", "image/png"),
    (".jpg", "image/jpeg"),
    (".jpeg", "image/jpeg"),
    (".gif", "image/gif"),
    (".webp", "image/webp"),
    (".avif", "image/avif"),
    (".ico", "image/vnd.microsoft.icon"),
    (".woff", "font/woff"),
    (".woff2", "font/woff2"),
    (".ttf", "font/ttf"),
    (".otf", "font/otf"),
    (".mp3", "audio/mpeg"),
    (".mp4", "video/mp4"),
    (".webm", "video/webm"),
    (".wasm", "application/wasm"),
    (".pdf", "application/pdf"),
    (".zip", "application/zip"),
    ("", "application/octet-stream"),
];

/// For lighttpd 1.4 (its documentation, "Configuration").
fn configuration(dir: &str, missing: Missing) -> String {
    let root = format!("{APP}/{dir}");
    let root = root.trim_end_matches('/');
    let fallback = match missing {
        // A site may bring a page of its own for it.
        Missing::NotFound => format!("server.errorfile-prefix = \"{root}/\"\n"),
        Missing::FrontPage => "server.error-handler-404 = \"/index.html\"\n".to_owned(),
    };
    let types: Vec<_> = TYPES.iter().map(|(extension, kind)| format!("\"{extension}\" => \"{kind}\"")).collect();
    format!(
        r#"server.document-root = "{root}"
server.bind = "0.0.0.0"
server.port = env.PORT
server.modules = ("mod_access")
server.tag = ""
{fallback}index-file.names = ("index.html")
$HTTP["url"] =~ "/\.(?!well-known/)" {{ url.access-deny = ("") }}
url.access-deny = ("Procfile", "app.json")
mimetype.assign = ({})
"#,
        types.join(", ")
    )
}
