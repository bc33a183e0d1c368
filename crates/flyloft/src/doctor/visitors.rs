//! How visitors come, where something stands before this server.

use super::Check;
use crate::config::{Config, EdgeKind};
use crate::machine::nginx::Nginx;

/// Visitors are to come over TLS, and nobody is there who could say of one that he did.
pub fn judge(config: &Config, nginx: Option<&Nginx>) -> Option<Check> {
    config.http.external.filter(|external| external.scheme == "https")?;
    let is_said = !config.https.listen.is_empty() || !config.http.trusted_proxies.is_empty();
    if is_said || nginx.is_some_and(|nginx| nginx.site_speaks_tls) {
        return None;
    }
    let what = "`external` says that visitors come over TLS, and nobody is believed in that: cookies at gates are those of \
                plain HTTP, nobody can log in, and whoever takes TLS counts as every visitor";
    let mut remedy =
        "name the addresses of what takes TLS with `trusted_proxies` in `[http]` of the configuration".to_owned();
    if config.edge.kind == EdgeKind::Nginx {
        remedy += ", or have a server of nginx's take it that includes `server.conf` of the state directory's `nginx`";
    }
    Some(Check::warning("http", what, remedy))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::doctor::Verdict;

    fn judged(text: &str) -> Option<Check> {
        judge(&Config::parse(text, Path::new("flyloft.toml")).unwrap(), None)
    }

    #[test]
    fn somebody_has_to_say_that_visitors_come_over_tls() {
        let check = judged("[http]\nexternal = \"https\"\n").unwrap();
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.what.contains("nobody is believed") && check.remedy.unwrap().contains("`trusted_proxies`"));
        let behind_nginx = judged("[http]\nexternal = \"https:8443\"\n[edge]\nkind = \"nginx\"\n").unwrap();
        assert!(behind_nginx.remedy.unwrap().contains("includes `server.conf`"));
        for well in [
            "",
            "[http]\nexternal = \"http:8080\"\n",
            "[http]\nexternal = \"https\"\ntrusted_proxies = [\"192.0.2.5\"]\n",
            "[http]\nexternal = \"https\"\n[https]\nlisten = [\"[::]:8443\"]\n",
        ] {
            assert_eq!(judged(well), None, "{well}");
        }
    }
}
