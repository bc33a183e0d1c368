//! Files as they are: a small server for sites that bring none.

use super::{APP, CONF, Part, Toolchain, Tree};

pub(super) fn detect(tree: &dyn Tree) -> Option<Part> {
    let dir = ["", "public", "dist", "_site"].into_iter().find(|dir| {
        let index = if dir.is_empty() { "index.html".to_owned() } else { format!("{dir}/index.html") };
        tree.exists(&index)
    })?;
    Some(serving(dir))
}

/// Serves a directory of the app, named by the caller, never by the repository.
pub(super) fn serving(dir: &'static str) -> Part {
    let mut part = Part::new("static files", "web: lighttpd -D -f site.conf");
    part.run.push(Toolchain::Files);
    part.conf.insert("site.conf".to_owned(), configuration(dir));
    part.web = Some(format!("lighttpd -D -f {CONF}/site.conf"));
    part
}

/// For lighttpd 1.4 (its documentation, "Configuration"). What is not there is answered by a page of the site's own:
/// `404.html`, or the front page, which is what single-page apps expect.
fn configuration(dir: &str) -> String {
    let root = format!("{APP}/{dir}");
    let root = root.trim_end_matches('/');
    format!(
        r#"server.document-root = "{root}"
server.bind = "0.0.0.0"
server.port = env.PORT
server.modules = ("mod_access")
server.tag = ""
index-file.names = ("index.html")
url.access-deny = ("/.", "/Procfile", "/app.json")
include "/usr/share/lighttpd/mime.conf"
"#
    )
}
