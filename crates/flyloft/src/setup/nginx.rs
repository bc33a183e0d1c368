//! What the nginx that is the edge needs. Its own configuration is its administrator's.

use flyloft_core::nginx::Site;

use super::Step;
use crate::edge::nginx::files;
use crate::machine::nginx::Nginx;

/// Makes the files that the site is to include, and says how.
pub fn arrange(nginx: Option<&Nginx>) -> Option<Step> {
    let nginx = nginx?;
    let dir = nginx.file.parent().expect("a file is in a directory");
    if let Err(error) = files::prepare(dir, Site::nothing()) {
        return Some(Step::because("nginx", format!("failed to prepare `{}`", dir.display()), &error));
    }
    Some(match nginx.includes_ours {
        true => Step::already("nginx", format!("`{}` includes `{}`", nginx.conf.display(), nginx.file.display())),
        false => Step::left("nginx", format!("`{}` is yours, and needs one line", nginx.conf.display()))
            .hint(format!("in its `http` block: {}", nginx.line()))
            .hint("nginx -s reload")
            .hint("flyloft doctor"),
    })
}
