//! What the configuration promises to whoever writes the file.

use std::collections::BTreeSet;
use std::path::Path;

use flyloft_core::policy::Key;

use super::*;

const EXAMPLE: &str = include_str!("../../../../flyloft.example.toml");

/// The example with every key switched on: `#key = …` without its `#`. Prose starts with `# `.
fn uncommented() -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(on).collect::<Vec<_>>().join("\n")
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("flyloft.toml"))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn an_empty_file_and_the_example_as_it_is_are_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
}

#[test]
fn every_value_in_the_example_is_the_default() {
    let mut config = parse(&uncommented()).unwrap();
    let written = std::mem::take(&mut config.defaults);
    assert_eq!(config.http.listen.take(), Some(Config::default().http_addresses()));
    assert_eq!(config, Config::default());
    assert_eq!(written.policy(), Settings::default().policy());
    assert_eq!(written.limits(), Settings::default().limits());
}

/// What serde accepts is learnt from its own message about a key that it does not know.
#[test]
fn every_key_is_in_the_example() {
    let mut accepted: BTreeSet<String> = Key::ALL.iter().map(|key| format!("defaults.{key}")).collect();
    for table in [
        "", "http", "https", "tls", "sso", "acme", "rfc2136", "ssh", "edge", "nginx", "build", "network", "ports",
        "memory", "disk", "follow", "services", "metrics",
    ] {
        let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
        let message = refusal(&format!("{header}no-such-key = 1"));
        let known = message.split_once("expected ").expect(&message).1;
        let keys = known.split('`').skip(1).step_by(2).map(|key| format!("{table}.{key}"));
        accepted.extend(keys.filter(|key| !key.ends_with(".no-such-key")));
    }
    let documented: toml::Table = uncommented().parse().unwrap();
    let mut found = BTreeSet::new();
    for (key, value) in &documented {
        found.insert(format!(".{key}"));
        if let Some(table) = value.as_table() {
            found.extend(table.keys().map(|inner| format!("{key}.{inner}")));
        }
    }
    assert_eq!(accepted, found);
    assert!(accepted.len() > 30, "{accepted:?}");
}

#[test]
fn an_error_names_file_line_column_and_key() {
    let wrong = [
        "domain = \"localhost\"\n\n[defaults]\nmemory = \"lots\"\n",
        "[defaults]\nmemroy = \"1GiB\"\n",
        "[http]\nlisten = []\n",
        "[http]\nlisten = [\"80\"]\n",
        "[http]\nexternal = \"ftp\"\n",
        "[http]\nbody_max = \"0\"\n",
        "[http]\ntrusted_proxies = [\"10.0.0.1/8\"]\n",
        "[tls]\ncertificates = [{ certificate = \"cert.pem\", key = \"/etc/key.pem\" }]\n",
        "[tls]\ncertificates = [{ certificate = \"/etc/cert.pem\" }]\n",
        "[acme]\nproof = \"magic\"\n",
        "[acme]\ndirectory = \"http://acme.example.org/\"\n",
        "[acme]\ncontact = [\"ops\"]\n",
        "[acme]\npropagation = \"0s\"\n",
        "[rfc2136]\nserver = \"ns.example.org\"\n",
        "state_dir = \"var\"\n",
        "domain = \"a b\"\n",
        "[defaults]\ncpu_weight = 0\n",
        "[build]\ntime = \"15\"\n",
        "[defaults]\nidle = \"15\"\n",
        "[edge]\nkind = \"apache\"\n",
        "[edge]\nquiet_agents = [\"kube-probe\", \"\"]\n",
        "[build.variables]\n\"A B\" = \"x\"\n",
        "[network]\nipv4 = \"8.8.8.0/24\"\n",
        "[build\n",
    ];
    insta::assert_snapshot!(wrong.map(refusal).join("\n"), @r#"
    flyloft.toml:4:10: `defaults.memory`: `lots` is not a size such as `512M` or `1GiB`
    flyloft.toml:2:1: `defaults.memroy`: there is no setting `memroy`; there are `idle`, `ttl`, `expire`, `memory`, `swap`, `pids`, `cpu_weight`, `disk`, `inodes`, `services`, `gate`
    flyloft.toml:2:10: `http.listen`: at least one address is needed, such as "[::]:80"
    flyloft.toml:2:11: `http.listen`: invalid socket address syntax
    flyloft.toml:2:12: `http.external`: `ftp` is not `auto`, `http`, `https`, or one of these with a port such as `https:8443`
    flyloft.toml:2:12: `http.body_max`: `0` is not a limit; or say `none`
    flyloft.toml:2:19: `http.trusted_proxies`: `10.0.0.1/8` has bits set after its length; the range is `10.0.0.0/8`
    flyloft.toml:2:33: `tls.certificates`: `cert.pem` is not an absolute path
    flyloft.toml:2:17: `tls.certificates`: missing field `key`
    flyloft.toml:2:9: `acme.proof`: unknown variant `magic`, expected one of `none`, `hook`, `rfc2136`, `digitalocean`, `hetzner`, `cloudflare`, `http`
    flyloft.toml:2:13: `acme.directory`: `http://acme.example.org/` is not an address that begins with https://
    flyloft.toml:2:11: `acme.contact`: `ops` is not a mail address
    flyloft.toml:2:15: `acme.propagation`: `0s` is not a limit
    flyloft.toml:2:10: `rfc2136.server`: invalid socket address syntax
    flyloft.toml:1:13: `state_dir`: `var` is not an absolute path
    flyloft.toml:1:10: `domain`: `a b` is not a domain name such as staging.example.org
    flyloft.toml:2:14: `defaults.cpu_weight`: `0` is not a whole number from 1 to 10000
    flyloft.toml:2:8: `build.time`: `15` has no unit: write `15s`, `15m`, `15h` or `15d`
    flyloft.toml:2:8: `defaults.idle`: `15` has no unit: write `15s`, `15m`, `15h` or `15d`
    flyloft.toml:2:8: `edge.kind`: unknown variant `apache`, expected `embedded` or `nginx`
    flyloft.toml:2:16: `edge.quiet_agents`: a part of a user agent is needed, such as "UptimeRobot"
    flyloft.toml:1:1: `A B` is not the name of an environment variable
    flyloft.toml:2:8: `network.ipv4`: `8.8.8.0/24` is not a private range (RFC 1918)
    flyloft.toml:1:7: unclosed table, expected `]`
    "#);
}

#[test]
fn defaults_are_settings_and_the_rest_is_built_in() {
    let config = parse("[defaults]\nidle = \"90s\"\nttl = \"never\"\nmemory = \"256M\"\n").unwrap();
    assert_eq!(config.defaults.to_string(), "idle=1m30s ttl=never memory=256MiB");
    assert_eq!(config.defaults.limits().pids, Limits::default().pids);
}

#[test]
fn a_build_step_is_bounded_by_what_the_file_says() {
    let config = parse("[build]\ntime = \"20m\"\nmemory = \"768M\"\npids = 300\n").unwrap();
    assert_eq!(config.build.time, Duration::from_secs(1200));
    assert_eq!(config.build.limits().memory, 768 << 20);
    assert_eq!(config.build.limits().pids, 300);
    assert_eq!(config.build.limits().disk, 10 << 30);
    refusal("[build]\ntime = \"never\"\n");
}

#[test]
fn a_repository_is_looked_at_as_often_as_the_file_says_or_never() {
    assert_eq!(parse("[follow]\nevery = \"5m\"\n").unwrap().follow.every, Some(Duration::from_secs(300)));
    assert_eq!(parse("[follow]\nevery = \"never\"\n").unwrap().follow.every, None);
    refusal("[follow]\nevery = \"0s\"\n");
    refusal("[follow]\ngone = \"never\"\n");
}

#[test]
fn connections_of_what_rests_are_closed_after_the_time_that_the_file_says_or_never() {
    assert_eq!(parse("[services]\ngrace = \"5m\"\n").unwrap().services.grace, Some(Duration::from_secs(300)));
    assert_eq!(parse("[services]\ngrace = \"never\"\n").unwrap().services.grace, None);
    refusal("[services]\ngrace = \"0s\"\n");
}

const LOGINS: &str = "[sso]\nissuer = \"https://id.example.org\"\nclient_id = \"flyloft\"\n";

#[test]
fn people_log_in_with_whom_the_file_says_and_it_says_who_of_them_may_look() {
    let config =
        parse(&format!("{LOGINS}allowed_domains = [\"Example.org\"]\nsession = \"8h\"\n[defaults]\ngate = \"sso\"\n"));
    let config = config.unwrap();
    assert!(config.sso.is_set() && !Config::default().sso.is_set());
    assert_eq!(config.sso.session, Duration::from_secs(8 * 3600));
    for (text, why) in [
        ("[defaults]\ngate = \"sso\"\n".to_owned(), "`gate` in `[defaults]` is `sso`, and nobody can log in"),
        (LOGINS.to_owned(), "it does not say who may look"),
        (format!("{LOGINS}anyone = true\nallowed_groups = [\"web\"]\n"), "`anyone` may look, and yet"),
        (format!("{LOGINS}allowed_domains = [\"a@example.org\"]\n"), "`a@example.org` is no domain of mail"),
        (format!("{LOGINS}anyone = true\nscopes = [\"email\"]\n"), "of which `openid` is one"),
        (LOGINS.replace("https:", "http:"), "`http://id.example.org` is no URL such as"),
        (LOGINS.replace("\"flyloft\"", "\"\""), "`client_id` is missing"),
        ("[sso]\nanyone = true\n".to_owned(), "`issuer` is missing"),
    ] {
        let refused = refusal(&text);
        assert!(refused.starts_with("flyloft.toml:") && refused.contains(why), "{refused}");
    }
}

#[test]
fn a_value_cannot_carry_a_second_line() {
    refusal("state_dir = \"/var/lib/x\\nlxc.hook.start = /bin/sh\"\n");
    refusal("[build.variables]\nA = \"1\\nlxc.hook.start = /bin/sh\"\n");
    refusal("group = \"a\\nb\"\n");
}

#[test]
fn the_command_line_has_the_last_word() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flyloft.toml");
    std::fs::write(&file, "domain = \"a.example.org\"\n[ssh]\nlisten = [\"127.0.0.1:22\"]\n").unwrap();
    let overrides = Overrides {
        state_dir: Some("/srv/loft".into()),
        domain: Some("b.example.org".into()),
        http: vec!["[::]:8080".parse().unwrap()],
        ..Overrides::default()
    };
    let config = Config::load(Some(&file), overrides).unwrap();
    assert_eq!(config.state_dir, Path::new("/srv/loft"));
    assert_eq!(config.domain, "b.example.org");
    assert_eq!(config.http_addresses(), ["[::]:8080".parse().unwrap()]);
    assert_eq!(config.ssh.listen, ["127.0.0.1:22".parse().unwrap()], "the file's");
    assert_eq!(config.socket, Config::default().socket);
}

#[test]
fn below_localhost_http_is_taken_on_this_machine_alone_unless_somebody_says_where() {
    let http = |text: &str| parse(text).unwrap().http_addresses().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(http(""), ["127.0.0.1:80", "[::1]:80"]);
    assert_eq!(http("domain = \"staging.localhost\""), ["127.0.0.1:80", "[::1]:80"]);
    assert_eq!(http("domain = \"staging.example.org\""), ["[::]:80"]);
    assert_eq!(http("[edge]\nkind = \"nginx\""), ["[::]:80"], "where it shares it with the site's servers");
    assert_eq!(http("[http]\nlisten = [\"[::]:80\"]"), ["[::]:80"]);
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let error = Config::load(Some(Path::new("/nonexistent/flyloft.toml")), Overrides::default()).unwrap_err();
    assert_eq!(error.to_string(), "failed to read `/nonexistent/flyloft.toml`");
}
