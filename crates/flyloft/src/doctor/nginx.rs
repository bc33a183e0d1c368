//! The nginx that is the edge.

use super::Check;
use crate::machine::nginx::Nginx;

pub fn judge(nginx: Option<&Nginx>) -> Vec<Check> {
    let Some(nginx) = nginx else { return Vec::new() };
    let problem = |what: String, remedy: String| Check::problem("nginx", what, remedy);
    if !nginx.installed {
        return vec![problem(
            "it is not installed, and the configuration says that it is the edge".to_owned(),
            "apt-get install --no-install-recommends nginx-light, or set `kind` in `[edge]`".to_owned(),
        )];
    }
    let mut checks = Vec::new();
    if let Some(why) = &nginx.refuses {
        let goes_on = if nginx.runs { "; it goes on with what it read before" } else { "" };
        let what = format!("it refuses its configuration{goes_on}: {why}");
        checks.push(problem(what, format!("mend that; nginx -t -c {} says whether it is well", nginx.conf.display())));
    } else if !nginx.includes_ours {
        let what = format!("its configuration does not include `{}`", nginx.file.display());
        let remedy =
            format!("add `{}` to the `http` block of `{}`; nginx -s reload", nginx.line(), nginx.conf.display());
        checks.push(problem(what, remedy));
    }
    if !nginx.runs {
        let what = format!("it does not run: there is no process of it in `{}`", nginx.pid_file.display());
        let remedy = "systemctl start nginx, or say where its process id is with `pid` in `[nginx]`";
        checks.push(problem(what, remedy.to_owned()));
    }
    if let Some((user, false)) = &nginx.workers {
        let what = format!("its workers run as `{user}`, who may not connect to flyloft");
        checks.push(problem(what, format!("set `user = \"{user}\"` in `[nginx]` of the configuration")));
    }
    if let Some(after) = &nginx.cuts_after {
        let what =
            format!("worker_shutdown_timeout cuts what is open for more than {after}, with each change of a route");
        checks.push(Check::warning("nginx", what, "take that line out of its configuration"));
    }
    for (app, why) in &nginx.refused {
        let file = nginx.snippets.join(format!("{app}.conf"));
        let what = format!("it does not follow the snippet `{}`: {why}", file.display());
        checks.push(Check::warning("nginx", what, "mend that file; what it followed before holds until then"));
    }
    if let Some(refused) = &nginx.refused_tls {
        let what = refused.strip_prefix("nginx ").map_or_else(|| refused.clone(), |what| format!("it {what}"));
        checks.push(Check::warning("nginx", what, "mend that; it is tried again within two minutes"));
    }
    if checks.is_empty() {
        checks.push(Check::ok("nginx", format!("it runs, and reads `{}`", nginx.file.display())));
    }
    checks
}
