//! Who logs in: the whole way, with a provider that says what is right, and with one that does not.

mod provider;
mod strangers;

use std::collections::HashMap;

use base64ct::{Base64UrlUnpadded, Encoding};
use flyloft_core::gate::{Gate, Guard, Key, NEVER, Prefix, Purpose};
use flyloft_core::sso::Rules;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::Receiver;

use self::provider::Provider;
use super::gates::header;
use super::secure::Lock;
use super::*;
use crate::edge::embedded::Proxies;
use crate::edge::embedded::gate::now;
use crate::sso::{Arrived, Identity, Patience, Sso};
use crate::vault::Vault;

fn key(host: &str, generation: u32) -> Key {
    Key::new(&[7; 32], 1, host, generation)
}

fn guard(host: &str, generation: u32) -> Option<Arc<Guard>> {
    let guard = Guard::new(Gate::Sso, key(host, generation), None).unwrap();
    Some(Arc::new(guard.with_logins(b"rules", 3600)))
}

const PATIENCE: Patience = Patience {
    answer: Duration::from_secs(20),
    pause: Duration::from_secs(60),
    keys: Duration::ZERO,
    fresh: Duration::from_secs(600),
    good: Duration::from_secs(600),
};

/// An edge at whose gates people log in, behind a proxy that is believed.
struct House {
    stage: Stage,
    provider: Provider,
    arrived: Receiver<Arrived>,
}

impl House {
    /// With an app at `shop.test`.
    async fn new() -> Self {
        Self::with(&[], &[], PATIENCE).await
    }

    async fn with(domains: &[&str], groups: &[&str], patience: Patience) -> Self {
        let provider = Provider::start().await;
        let (sso, arrived) = sso(provider.issuer(), domains, groups, patience);
        let proxies = Proxies { trusted: vec![Prefix::parse("127.0.0.1").unwrap()], ..Proxies::default() };
        let stage = Stage::with(|config| (config.sso, config.proxies) = (Some(sso), proxies)).app(echo_head).await;
        stage.edge.guard("shop.test", guard("shop.test", 0)).await.unwrap();
        Self { stage, provider, arrived }
    }

    fn browser(&self) -> Browser<'_> {
        self.browser_at("192.0.2.1")
    }

    fn browser_at(&self, from: &'static str) -> Browser<'_> {
        Browser { house: self, from, jar: HashMap::new() }
    }
}

fn sso(issuer: String, domains: &[&str], groups: &[&str], patience: Patience) -> (Arc<Sso>, Receiver<Arrived>) {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::open(dir.path()).unwrap();
    let scopes = ["openid", "email"].map(str::to_owned).into();
    let identity = Identity { issuer, client: "flyloft".to_owned(), secret: "s3:cret".to_owned(), scopes };
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let rules = Rules::new(&owned(domains), &owned(groups), domains.is_empty() && groups.is_empty()).unwrap();
    let (sso, arrived) = Sso::new(identity, rules, "test", &vault, patience);
    (Arc::new(sso), arrived)
}

/// Goes where it is led only when a test has it go, and keeps the cookies of each host name.
#[derive(Clone)]
struct Browser<'a> {
    house: &'a House,
    from: &'static str,
    jar: HashMap<String, HashMap<String, String>>,
}

impl Browser<'_> {
    fn request(&self, url: &str) -> String {
        let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let cookies = self.jar.get(host).into_iter().flatten().map(|(name, value)| format!("{name}={value}"));
        let cookies = match cookies.collect::<Vec<_>>().join("; ") {
            none if none.is_empty() => none,
            cookies => format!("Cookie: {cookies}\n"),
        };
        let from = self.from;
        format!("GET /{path} HTTP/1.1\nHost: {host}\nX-Forwarded-For: {from}\nAccept: text/html\n{cookies}\n")
    }

    async fn visit(&mut self, url: &str) -> String {
        let (host, _) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let answer = self.house.stage.ask(&self.request(url)).await;
        let jar = self.jar.entry(host.to_owned()).or_default();
        for set in answer.lines().filter_map(|line| line.strip_prefix("set-cookie: ")) {
            assert!(set.contains("; Path=/; Max-Age=") && set.ends_with("; HttpOnly; SameSite=Lax"), "{set}");
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            match value {
                "" => jar.remove(name),
                value => jar.insert(name.to_owned(), value.to_owned()),
            };
        }
        answer
    }

    /// Is sent off from an environment, and gives what the provider is asked with.
    async fn leaves(&mut self, url: &str) -> HashMap<String, String> {
        let sent = self.visit(url).await;
        assert!(sent.starts_with("HTTP/1.1 303 "), "{sent}");
        let away = self.visit(header(&sent, "location")).await;
        assert!(away.starts_with("HTTP/1.1 303 "), "{away}");
        let (to, query) = header(&away, "location").split_once('?').unwrap();
        assert_eq!(to, format!("{}/auth", self.house.provider.issuer()));
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// Comes back from the provider, which knows who it is.
    async fn returns(&mut self, asked: &HashMap<String, String>) -> String {
        self.house.provider.script().nonce = asked["nonce"].clone();
        self.visit(&format!("http://login.test/callback?code=c&state={}", asked["state"])).await
    }

    /// Up to where it has a ticket for the environment, and gives where it goes with that.
    async fn logs_in(&mut self, url: &str) -> String {
        let asked = self.leaves(url).await;
        let answer = self.returns(&asked).await;
        assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
        header(&answer, "location").to_owned()
    }

    fn may_look(&self) -> bool {
        self.jar.get("shop.test").is_some_and(|jar| jar.contains_key("flyloft-gate"))
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

#[tokio::test]
async fn whoever_logs_in_comes_back_to_where_they_wanted_to_go_and_the_app_sees_nothing_of_it() {
    let mut house = House::new().await;
    let mut browser = house.browser();
    let asked = browser.leaves("http://shop.test/a?b=%20c").await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "flyloft"),
        ("scope", "openid email"),
        ("redirect_uri", "http://login.test/callback"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(asked[name], value);
    }
    let back = browser.returns(&asked).await;
    assert!(header(&back, "location").starts_with("http://shop.test/.flyloft/login?ticket="), "{back}");
    let entered = browser.visit(header(&back, "location")).await;
    assert_eq!((status(&entered), header(&entered, "location")), ("303", "/a?b=%20c"));
    let answer = browser.visit("http://shop.test/a?b=%20c").await;
    assert!(status(&answer) == "200" && answer.contains("\n\nGET /a?b=%20c HTTP/1.1\n"), "{answer}");
    assert!(!answer.contains("flyloft") && !answer.contains("cookie"), "{answer}");
    assert!(browser.jar["login.test"].is_empty(), "nothing of a login stays");

    let token = house.provider.script().asked.iter().find(|asked| asked.starts_with("POST /token ")).cloned().unwrap();
    let (head, body) = token.split_once("\r\n\r\n").unwrap();
    // `flyloft:s3%3Acret`
    assert!(head.contains("\r\nauthorization: Basic Zmx5bG9mdDpzMyUzQWNyZXQ=\r\n"), "{head}");
    let form: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    assert_eq!((form["grant_type"].as_str(), form["code"].as_str()), ("authorization_code", "c"));
    assert_eq!(form["redirect_uri"], asked["redirect_uri"]);
    let challenge = Base64UrlUnpadded::encode_string(&Sha256::digest(&form["code_verifier"]));
    assert_eq!(challenge, asked["code_challenge"]);

    drop(browser);
    let Arrived { env, who } = in_time(house.arrived.recv()).await.unwrap();
    assert_eq!((env.to_string().as_str(), who.as_str()), ("shop/main", "ann@example.org"));
}

#[tokio::test]
async fn a_token_that_is_not_to_be_believed_lets_nobody_in() {
    let house = House::new().await;
    let past = now() - 3600;
    for (claims, head) in [
        (json!({ "nonce": "another" }), json!({})),
        (json!({ "aud": "another" }), json!({})),
        (json!({ "iss": "https://id.example.org" }), json!({})),
        (json!({ "exp": past }), json!({})),
        (json!({ "exp": null }), json!({})),
        (json!({}), json!({ "alg": "none" })),
        (json!({}), json!({ "alg": "HS256" })),
        (json!({}), json!({ "alg": "RS256" })),
        (json!({}), json!({ "kid": "another" })),
    ] {
        (house.provider.script().claims, house.provider.script().header) = (claims.clone(), head.clone());
        let mut browser = house.browser();
        let asked = browser.leaves("http://shop.test/").await;
        let answer = browser.returns(&asked).await;
        assert!(status(&answer) == "502" && answer.contains("is not to be believed"), "{claims} {head}: {answer}");
        assert!(answer.contains("<a href=\"http://shop.test/\">Try again</a>") && !browser.may_look(), "{answer}");
    }
    (house.provider.script().claims, house.provider.script().header) = (json!({}), json!({ "kid": "key-0" }));
    house.provider.script().signs = 1;
    let mut browser = house.browser();
    let asked = browser.leaves("http://shop.test/").await;
    assert_eq!(status(&browser.returns(&asked).await), "502", "it is signed by another key");
    house.provider.script().signs = 0;
    for at in [
        ("/token", 200, "<html>"),
        ("/token", 200, "{}"),
        ("/token", 200, r#"{"id_token":"a.b"}"#),
        ("/token", 500, ""),
    ] {
        house.provider.script().answers = Some(at);
        let asked = browser.leaves("http://shop.test/").await;
        assert_eq!(status(&browser.returns(&asked).await), "502", "{at:?}");
    }
    house.provider.script().answers = Some(("/token", 400, r#"{"error":"invalid_grant"}"#));
    let asked = browser.leaves("http://shop.test/").await;
    assert_eq!(status(&browser.returns(&asked).await), "400", "its code is old");
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_and_one_that_is_not_there_is_not_looked_for_all_the_time() {
    let house = House::new().await;
    let mut browser = house.browser();
    browser.logs_in("http://shop.test/").await;
    (house.provider.script().signs, house.provider.script().shows) = (1, vec![1]);
    browser.logs_in("http://shop.test/").await;
    assert_eq!(house.provider.times("/keys"), 2);
    browser.logs_in("http://shop.test/").await;
    assert_eq!(house.provider.times("/keys"), 2);

    let rare = House::with(&[], &[], Patience { keys: Duration::from_secs(600), ..PATIENCE }).await;
    rare.provider.script().signs = 1;
    for _ in 0..3 {
        let mut browser = rare.browser();
        let asked = browser.leaves("http://shop.test/").await;
        assert_eq!(status(&browser.returns(&asked).await), "502");
    }
    assert_eq!(rare.provider.times("/keys"), 1);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_told_and_left_alone_and_whoever_is_in_stays_in() {
    let patience = Patience { answer: Duration::from_secs(1), ..PATIENCE };
    for (page, silent, answers) in [
        ("504", Some("/.well-known/openid-configuration"), None),
        ("504", Some("/keys"), None),
        ("502", None, Some(("/.well-known/openid-configuration", 200, "<html>"))),
        ("502", None, Some(("/.well-known/openid-configuration", 200, r#"{"issuer":"https://id.example.org"}"#))),
        ("502", None, Some(("/keys", 503, ""))),
    ] {
        let house = House::with(&[], &[], patience).await;
        (house.provider.script().silent, house.provider.script().answers) = (silent, answers);
        let mut browser = house.browser();
        for _ in 0..3 {
            let sent = browser.visit("http://shop.test/").await;
            let answer = browser.visit(header(&sent, "location")).await;
            assert!(status(&answer) == page && answer.contains("<h1>Nobody can log in just now</h1>"), "{answer}");
        }
        assert_eq!(house.provider.times("/.well-known/openid-configuration"), 1);
    }
    // In the middle of a login, when all is known that there is to know.
    let house = House::with(&[], &[], patience).await;
    let mut inside = house.browser();
    let back = inside.logs_in("http://shop.test/").await;
    inside.visit(&back).await;
    let mut browser = house.browser();
    let asked = browser.leaves("http://shop.test/").await;
    house.provider.script().silent = Some("/token");
    assert_eq!(status(&browser.returns(&asked).await), "504");
    assert_eq!(status(&inside.visit("http://shop.test/").await), "200");

    // Nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (sso, _arrived) = sso(format!("http://{gone}"), &[], &[], PATIENCE);
    let stage = Stage::with(|config| config.sso = Some(sso)).app(echo_head).await;
    stage.edge.guard("shop.test", guard("shop.test", 0)).await.unwrap();
    let house = House { stage, ..house };
    let mut browser = house.browser();
    let sent = browser.visit("http://shop.test/").await;
    let answer = browser.visit(header(&sent, "location")).await;
    assert!(status(&answer) == "502" && answer.contains("cannot be reached"), "{answer}");
}

#[tokio::test]
async fn what_comes_back_is_what_this_browser_has_begun() {
    let house = House::new().await;
    let (mut ann, mut eve) = (house.browser(), house.browser());
    let (of_ann, of_eve) = (ann.leaves("http://shop.test/").await, eve.leaves("http://shop.test/").await);
    assert_ne!(of_ann["state"], of_eve["state"]);
    let callback = "http://login.test/callback";
    for query in [
        format!("?code=c&state={}", of_eve["state"]),
        format!("?code=c&state={}", of_ann["state"].to_lowercase()),
        "?code=c&state=".to_owned(),
        "?code=c".to_owned(),
        String::new(),
    ] {
        let answer = ann.clone().visit(&format!("{callback}{query}")).await;
        assert!(status(&answer) == "400" && answer.contains("Not this login"), "{query}: {answer}");
    }
    for query in ["error=access_denied&error_description=no", "", "error=server_error&code=c"] {
        let answer = ann.clone().visit(&format!("{callback}?{query}&state={}", of_ann["state"])).await;
        assert!(status(&answer) == "403" && answer.contains("did not say who you are"), "{query}: {answer}");
    }
    let other = format!("{callback}?code=c&state={}&iss=https://id.example.org", of_ann["state"]);
    assert_eq!(status(&ann.clone().visit(&other).await), "502", "another provider has answered");
    assert_eq!(house.provider.times("/token"), 0);
    assert_eq!(status(&ann.returns(&of_ann).await), "303");
    assert_eq!(status(&ann.returns(&of_ann).await), "400", "it has come to its end");
}

#[tokio::test]
async fn a_ticket_opens_one_environment_to_one_browser() {
    let house = House::new().await;
    house.stage.route("blog.test", house.stage.address()).await;
    house.stage.edge.guard("blog.test", guard("blog.test", 0)).await.unwrap();
    let mut ann = house.browser();
    let ticket = ann.logs_in("http://shop.test/").await;
    let mut eve = house.browser();
    assert_eq!(status(&eve.visit(&ticket).await), "403", "it was given to somebody who was not sent off");
    eve.leaves("http://shop.test/").await;
    let answer = eve.visit(&ticket).await;
    assert!(status(&answer) == "403" && answer.contains("begun by another browser"), "{answer}");
    ann.leaves("http://blog.test/").await;
    assert_eq!(status(&ann.visit(&ticket.replace("shop.test", "blog.test")).await), "403");
    assert_eq!(status(&ann.clone().visit(&ticket).await), "303");
    ann.visit(&ticket).await;
    let again = ann.visit(&ticket).await;
    assert!(status(&again) == "303" && header(&again, "set-cookie").is_empty(), "{again}");
    assert_eq!(status(&ann.visit("http://blog.test/").await), "303", "there it has not come in");

    // `share --revoke`, and as it was.
    house.stage.edge.guard("shop.test", guard("shop.test", 1)).await.unwrap();
    assert_eq!(status(&ann.visit("http://shop.test/").await), "303");
    house.stage.edge.guard("shop.test", guard("shop.test", 0)).await.unwrap();
    assert_eq!(status(&ann.visit("http://shop.test/").await), "200");
}

#[tokio::test]
async fn several_tabs_log_in_at_a_time() {
    let house = House::new().await;
    let mut browser = house.browser();
    let mut tabs = Vec::new();
    for path in ["a", "b", "c"] {
        tabs.push((path, browser.leaves(&format!("http://shop.test/{path}")).await));
    }
    for (path, asked) in tabs {
        let back = browser.returns(&asked).await;
        let entered = browser.visit(header(&back, "location")).await;
        assert_eq!((status(&entered), header(&entered, "location")), ("303", format!("/{path}").as_str()));
    }
    for _ in 0..20 {
        let sent = house.browser().visit("http://shop.test/").await;
        browser.visit(header(&sent, "location")).await;
    }
    assert_eq!(browser.jar["login.test"].len(), 4, "no more than that are kept");
}

#[tokio::test]
async fn nobody_is_led_to_where_no_login_is_asked_for() {
    let house = House::new().await;
    house.stage.route("open.test", house.stage.address()).await;
    let mut browser = house.browser();
    let sent = browser.visit("http://shop.test/").await;
    let start = header(&sent, "location").to_owned();
    for to in
        ["evil.example", "open.test", "login.test", "", "shop.test.evil.example", "shop.test:8080", "evil@shop.test"]
    {
        let answer = browser.visit(&start.replace("to=shop.test", &format!("to={to}"))).await;
        assert!(status(&answer) == "404" && header(&answer, "location").is_empty(), "{to}: {answer}");
    }
    for url in ["http://login.test/start?to=shop.test", "http://login.test/start?to=shop.test&bound=AAAA"] {
        assert_eq!(status(&browser.visit(url).await), "400", "{url}");
    }
    for url in ["http://login.test/", "http://login.test/.flyloft/login", "http://login.test/starts"] {
        assert_eq!(status(&browser.visit(url).await), "404", "{url}");
    }
    assert_eq!(house.provider.script().asked.len(), 0);
    for (path, to) in [
        ("//evil.example", "/.//evil.example"),
        ("%2F%09%2Fevil.example", "/"),
        ("https:%2F%2Fevil.example", "/https://evil.example"),
    ] {
        let away = browser.visit(&start.replace("path=%2F", &format!("path={path}"))).await;
        let asked = form_urlencoded::parse(header(&away, "location").as_bytes()).into_owned().collect();
        let back = browser.returns(&asked).await;
        let entered = browser.visit(header(&back, "location")).await;
        assert_eq!((status(&entered), header(&entered, "location")), ("303", to), "{path}");
        let ticket = header(&back, "location").split('&').next().unwrap();
        let entered = browser.visit(&format!("{ticket}&to={path}")).await;
        assert_eq!((status(&entered), header(&entered, "location")), ("303", to), "{path}");
    }
    let long = format!("http://shop.test/{}", "a".repeat(600));
    assert!(house.browser().logs_in(&long).await.ends_with("&to=%2F"));
}

#[tokio::test]
async fn whoever_is_not_named_may_not_look() {
    let house = House::with(&["example.org"], &["web", "ops"], PATIENCE).await;
    for (claims, said) in [
        (json!({ "email_verified": false }), "an address of mail that it knows to be yours"),
        (json!({ "email": "ann@example.net" }), "in none of the domains that may"),
        (json!({ "email": "ann@a.example.org" }), "in none of the domains that may"),
        (json!({ "groups": ["sales"] }), "in none of the groups that may"),
        (json!({ "groups": Value::Null }), "in none of the groups that may"),
    ] {
        house.provider.script().claims = claims.clone();
        let mut browser = house.browser();
        let asked = browser.leaves("http://shop.test/").await;
        let answer = browser.returns(&asked).await;
        assert!(status(&answer) == "403" && answer.contains(said) && !browser.may_look(), "{claims}: {answer}");
    }
    house.provider.script().claims = json!({ "email": "Bo@EXAMPLE.org", "groups": "ops" });
    house.browser().logs_in("http://shop.test/").await;
}

#[tokio::test]
async fn what_the_token_does_not_say_is_asked_for() {
    let house = House::with(&["example.org"], &[], PATIENCE).await;
    house.provider.script().claims = json!({ "email": null });
    house.provider.script().userinfo =
        Some(json!({ "sub": "u-17", "email": "bo@example.org", "email_verified": true }));
    house.browser().logs_in("http://shop.test/").await;
    let asked = house.provider.script().asked.last().unwrap().clone();
    assert!(asked.starts_with("GET /me ") && asked.contains("\r\nauthorization: Bearer at\r\n"), "{asked}");
    house.provider.script().userinfo =
        Some(json!({ "sub": "u-18", "email": "bo@example.org", "email_verified": true }));
    let mut browser = house.browser();
    let asked = browser.leaves("http://shop.test/").await;
    assert_eq!(status(&browser.returns(&asked).await), "502", "it tells of somebody else");
    house.provider.script().claims = json!({});
    house.browser().logs_in("http://shop.test/").await;
    assert_eq!(house.provider.times("/me"), 2, "it is not asked for what it has said");
}

#[tokio::test]
async fn what_no_rule_goes_by_is_not_asked_for() {
    let mut house = House::new().await;
    house.provider.script().claims = json!({ "email": null, "groups": null });
    house.provider.script().userinfo =
        Some(json!({ "sub": "u-17", "email": "bo@example.org", "email_verified": true }));
    let mut browser = house.browser();
    let back = browser.logs_in("http://shop.test/").await;
    browser.visit(&back).await;
    drop(browser);
    assert_eq!(house.provider.times("/me"), 0);
    assert_eq!(in_time(house.arrived.recv()).await.unwrap().who, "u-17");
}

#[tokio::test]
async fn a_program_is_told_what_to_say_and_nothing_is_woken() {
    let (visits, mut visited) = mpsc::unbounded_channel();
    let provider = Provider::start().await;
    let (sso, _arrived) = sso(provider.issuer(), &[], &[], PATIENCE);
    let stage = Stage::with(|config| (config.sso, config.visits) = (Some(sso), Some(visits)));
    stage.hold("shop.test", None).await;
    stage.edge.guard("shop.test", guard("shop.test", 0)).await.unwrap();
    let answer = stage.ask("GET /a HTTP/1.1\nHost: shop.test\n\n").await;
    insta::assert_snapshot!(undated(&answer), @r#"
    HTTP/1.1 401 Unauthorized
    content-type: text/plain; charset=utf-8
    cache-control: no-store
    content-security-policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'
    www-authenticate: Flyloft-Bypass realm="staging"
    x-robots-tag: noindex
    content-length: 161

    shop/main is not public
    Whoever logs in may look: open it in a browser. A program says a token in the header x-flyloft-bypass.

        flyloft gate token shop/main
    "#);
    for headers in [
        "Accept: text/html\nSec-Fetch-Mode: cors\n",
        "Accept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe\n",
        "Accept: text/html\nConnection: upgrade\nUpgrade: websocket\n",
    ] {
        let answer = stage.ask(&format!("GET /a HTTP/1.1\nHost: shop.test\n{headers}\n")).await;
        assert!(status(&answer) == "401" && header(&answer, "set-cookie").is_empty(), "{answer}");
    }
    let form = "POST /a HTTP/1.1\nHost: shop.test\nAccept: text/html\nContent-Length: 1\n\nx";
    let answer = stage.ask(form).await;
    assert!(status(&answer) == "401" && answer.contains("<a href=\"/a\">Try again</a>"), "{answer}");
    let browser =
        "GET /a HTTP/1.1\nHost: shop.test\nAccept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\n\n";
    assert_eq!(status(&stage.ask(browser).await), "303");
    assert!(visited.try_recv().is_err(), "somebody has woken it who may not look");
    assert_eq!(stage.edge.unused_for("shop.test"), None);
    assert_eq!(provider.script().asked.len(), 0);

    let token = key("shop.test", 0).sign(Purpose::Bypass, NEVER);
    let mut client = stage.connect().await;
    client.say(&format!("GET /a HTTP/1.1\r\nHost: shop.test\r\nX-Flyloft-Bypass: {token}\r\n\r\n")).await;
    assert_eq!(in_time(visited.recv()).await.unwrap().by, "GET /a from 127.0.0.1");
}

#[tokio::test]
async fn over_tls_a_cookie_is_of_its_host_name_alone_and_plain_http_leads_to_where_people_log_in() {
    let provider = Provider::start().await;
    let (sso, _arrived) = sso(provider.issuer(), &[], &[], PATIENCE);
    let lock = Lock::with(&["shop.test", "login.test"], |config| config.sso = Some(sso)).app(echo_head).await;
    lock.stage.edge.guard("shop.test", guard("shop.test", 0)).await.unwrap();
    let sent = lock.curl("/a", &["--http1.1", "--header", "Accept: text/html"]).await;
    let (cookie, location) = (header(&sent, "set-cookie"), header(&sent, "location"));
    assert!(cookie.starts_with("__Host-flyloft-login="), "{sent}");
    assert!(cookie.ends_with("; Path=/; Max-Age=900; HttpOnly; Secure; SameSite=Lax"), "{sent}");
    let at = format!("https://login.test:{}/", lock.port());
    assert!(location.starts_with(&format!("{at}start?to=shop.test&")), "{sent}");
    let plain = lock.stage.ask("GET /callback?a HTTP/1.1\nHost: login.test\n\n").await;
    assert_eq!((status(&plain), header(&plain, "location")), ("308", format!("{at}callback?a").as_str()));
}
