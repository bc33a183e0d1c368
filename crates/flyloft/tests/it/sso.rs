//! Who logs in with a provider of OpenID Connect: a real one, `oidc-provider` for Node, which runs in an environment
//! itself, and is asked at a port that is published.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Flyloft, text, wait_for};
use crate::nginx_site::NginxSite;
use crate::own_server::free_port;
use crate::push::{app, borrowed};
use crate::tls;

const HOST: &str = "it-sso-main.sso.test";

/// Whoever says a name is known by it, with any password. Its issuer is where it is asked.
const PROVIDER: &str = r#"
import http from "node:http";
import * as oidc from "oidc-provider";

const configuration = {
  clients: [{ client_id: "flyloft", client_secret: "s3:cret and more", redirect_uris: ["PLAIN", "SECURE"] }],
  claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"] },
  cookies: { keys: ["of a test"] },
  features: { devInteractions: { enabled: true } },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: `${id}@example.org`,
      email_verified: id !== "eve",
      groups: id === "bo" ? ["sales"] : ["web"],
    }),
  }),
};

const providers = new Map();
function answer(request, response) {
  const issuer = `http://${request.headers.host}`;
  if (!providers.has(issuer)) providers.set(issuer, new oidc.Provider(issuer, configuration).callback());
  providers.get(issuer)(request, response);
}

http.createServer(answer).listen(4000);
http.createServer((_, response) => response.end("a provider")).listen(process.env.PORT);
"#;

const PACKAGE: &str = r#"{"name": "it-idp", "private": true, "type": "module", "scripts": {"start": "node server.js"},
    "dependencies": {"oidc-provider": "9.13.3"}}"#;

/// A browser that follows wherever it is led, and keeps cookies.
struct Browser {
    base: String,
    args: Vec<String>,
    jar: PathBuf,
    _dir: tempfile::TempDir,
}

impl Browser {
    /// Over plain HTTP.
    fn new(flyloft: &Flyloft) -> Self {
        Self::at("http", flyloft.http, &[])
    }

    /// Over TLS, and it trusts the server's own authority.
    fn over_tls(flyloft: &Flyloft, https: u16) -> Self {
        let ca = flyloft.state.join("tls/local-ca.pem");
        Self::at("https", https, &["--cacert", ca.to_str().unwrap()])
    }

    fn at(scheme: &str, port: u16, args: &[&str]) -> Self {
        let (dir, resolve) = (tempfile::tempdir().unwrap(), format!("*:{port}:127.0.0.1"));
        let args = args.iter().chain(&["--resolve", &resolve]).map(|arg| (*arg).to_owned()).collect();
        Self { base: format!("{scheme}://{HOST}:{port}"), args, jar: dir.path().join("jar"), _dir: dir }
    }

    /// What it shows in the end, with the status of that in a last line.
    fn curl(&self, args: &[&str]) -> String {
        let jar = self.jar.to_str().unwrap();
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--location", "--max-redirs", "20", "--max-time", "60"])
            .args(["--header", "Accept: text/html", "--noproxy", "*"])
            .args(&self.args)
            .args(["--cookie", jar, "--cookie-jar", jar, "--write-out", "\n%{http_code}"])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn open(&self, path: &str) -> String {
        self.curl(&[&format!("{}{path}", self.base)])
    }

    /// Says to a page of the provider's what it asks for.
    fn says(&self, page: &str, form: &str) -> String {
        let action = page.split("action=\"").nth(1).and_then(|rest| rest.split('"').next());
        let action = action.unwrap_or_else(|| panic!("it has no form: {page}"));
        self.curl(&["--data", form, action])
    }

    /// Goes to the environment, and through what the provider asks of whoever calls themselves so.
    fn logs_in(&self, name: &str, path: &str) -> String {
        let asked = self.open(path);
        assert!(asked.contains("name=\"login\"") && asked.ends_with("\n200"), "{asked}");
        let consent = self.says(&asked, &format!("prompt=login&login={name}&password=any"));
        self.says(&consent, "prompt=consent")
    }
}

/// How often it is on record that somebody has logged in. Earlier tests have left some.
fn logins(flyloft: &Flyloft) -> usize {
    flyloft.ok(&["events", "it-sso/main"]).matches("logged-in by ann@example.org for the first time").count()
}

fn state(flyloft: &Flyloft) -> String {
    flyloft.why("it-sso/main")["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn whoever_may_look_logs_in_with_a_real_provider_and_comes_to_what_they_asked_for() {
    let mut flyloft = Flyloft::start();
    let (http, https) = (flyloft.http, free_port());
    let plain = PROVIDER.replace("PLAIN", &format!("http://login.sso.test:{http}/callback"));
    let server = plain.replace("SECURE", &format!("https://login.sso.test:{https}/callback"));
    flyloft.repository("it-idp", &[("package.json", PACKAGE), ("server.js", &server)]).pushed(&["main"]);
    let added = flyloft.ok(&["ports", "add", "it-idp/main", "4000", "--json"]);
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    let issuer = format!("http://127.0.0.1:{}", added["host_port"]);

    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "s3:cret and more\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    flyloft.stop();
    (flyloft.domain, flyloft.listen) = ("sso.test", format!("[::]:{http}"));
    flyloft.config = format!(
        "[sso]\nissuer = \"{issuer}\"\nclient_id = \"flyloft\"\nclient_secret_file = \"{}\"\n\
         allowed_domains = [\"example.org\"]\nallowed_groups = [\"web\"]\nscopes = [\"openid\", \"email\", \"groups\"]\n",
        secret.display()
    );
    flyloft.serve();
    let doctor = flyloft.doctor();
    assert!(doctor.contains(&format!("ok       sso: `{issuer}` answers; ")), "{doctor}");

    flyloft.repository("it-sso", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.ok(&["set", "it-sso/main", "gate=sso"]);
    flyloft.ok(&["sleep", "it-sso/main"]);
    for (name, why) in
        [("eve", "an address of mail that it knows to be yours"), ("bo", "in none of the groups that may")]
    {
        let refused = Browser::new(&flyloft).logs_in(name, "/");
        assert!(refused.contains(why) && refused.ends_with("\n403"), "{refused}");
    }
    assert_eq!(state(&flyloft), "asleep");

    let (before, ann) = (logins(&flyloft), Browser::new(&flyloft));
    let shown = ann.logs_in("ann", "/a?b");
    assert!(shown.ends_with("hello\n200"), "{shown}");
    assert_eq!(state(&flyloft), "awake");
    wait_for("it to be on record", || (logins(&flyloft) == before + 1).then_some(()));

    // By way of nginx it is the same.
    flyloft.stop();
    let mut site = NginxSite::new("www-data");
    let embedded = flyloft.config.clone();
    flyloft.config += &site.edge();
    flyloft.serve();
    site.configure(&format!("include {};", flyloft.state.join("nginx/flyloft.conf").display()));
    site.start();
    wait_for("nginx to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, http)).ok());
    assert!(ann.open("/a?b").ends_with("hello\n200"));
    let refused = Browser::new(&flyloft).logs_in("bo", "/");
    assert!(refused.contains("in none of the groups that may") && refused.ends_with("\n403"), "{refused}");
    let shown = Browser::new(&flyloft).logs_in("ann", "/a?b");
    assert!(shown.ends_with("hello\n200"), "{shown}");
    assert_eq!(logins(&flyloft), before + 1);

    // And over TLS, whichever edge speaks it.
    flyloft.stop();
    let secure = format!("[https]\nlisten = [\"[::]:{https}\"]\n");
    flyloft.config += &secure;
    flyloft.serve();
    flyloft.ok(&["tls", "local-ca"]);
    wait_for("nginx to speak TLS", || tls::speaks(HOST, https).then_some(()));
    let safe = Browser::over_tls(&flyloft, https);
    let shown = safe.logs_in("ann", "/a?b");
    assert!(shown.ends_with("hello\n200"), "{shown}");
    let cookies = fs::read_to_string(&safe.jar).unwrap();
    assert!(cookies.contains("\t__Host-flyloft\t") && !cookies.contains("\tflyloft-"), "{cookies}");
    let refused = Browser::over_tls(&flyloft, https).logs_in("bo", "/");
    assert!(refused.contains("in none of the groups that may") && refused.ends_with("\n403"), "{refused}");
    site.kill();
    flyloft.stop();
    flyloft.config = embedded.clone() + &secure;
    flyloft.serve();
    assert!(safe.open("/a?b").ends_with("hello\n200"), "what was opened stays open");
    let shown = Browser::over_tls(&flyloft, https).logs_in("ann", "/a?b");
    assert!(shown.ends_with("hello\n200"), "{shown}");
    assert_eq!(logins(&flyloft), before + 1);
    flyloft.stop();
    fs::remove_dir_all(flyloft.state.join("tls")).unwrap();
    flyloft.config = embedded;
    flyloft.serve();

    // The provider is gone, and the daemon is another one: who is in stays in, and who is not reads why.
    flyloft.ok(&["ports", "rm", "it-idp/main", "4000"]);
    flyloft.kill();
    flyloft.serve();
    assert!(ann.open("/a?b").ends_with("hello\n200"));
    let refused = Browser::new(&flyloft).open("/");
    assert!(refused.contains("cannot be reached") && refused.ends_with("\n502"), "{refused}");
    let doctor = flyloft.doctor();
    assert!(doctor.contains(&format!("warning  sso: nobody can log in with `{issuer}`: ")), "{doctor}");
    flyloft.ok(&["share", "it-sso/main", "--revoke"]);
    let refused = ann.open("/a?b");
    assert!(refused.ends_with("\n502"), "what was opened is shut: {refused}");
    for app in ["it-sso", "it-idp"] {
        flyloft.ok(&["destroy", app, "--yes"]);
    }
}
