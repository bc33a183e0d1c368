//! An administrator's lines for single apps, and what becomes of those that nginx would not take.

use super::*;

impl Stage {
    pub(super) fn snippet(&self, app: &str, text: &str) {
        files::write(&self.site.path("apps"), &format!("{app}.conf"), text).unwrap();
    }

    /// Waits until this is what is refused, each for a reason with these words.
    async fn refuses(&self, expected: &[(&str, &str)]) {
        let begun = Instant::now();
        loop {
            let refused = self.edge.refusals().borrow().clone();
            let is_so = |((app, why), (name, words)): (_, &(&str, &str))| {
                let (app, why): (&flyloft_core::name::AppName, &String) = (app, why);
                app.as_str() == *name && why.contains(words)
            };
            if refused.len() == expected.len() && refused.iter().zip(expected).all(is_so) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{refused:?}\n{}", self.site.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until this is what nginx says of itself.
    pub(super) async fn until_told(&self, host: &str, of: &str) {
        let begun = Instant::now();
        loop {
            let answer = self.ask(&get(host)).await;
            // Two of nginx's generations answer for a moment.
            if answer.contains(of) && self.edge.desk.with(|plan| plan.is_so()) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{answer}\n{}", self.site.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snippet_holds_for_the_environments_of_its_app_and_for_nobody_else() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    let blog = Route { env: EnvRef::parse("blog/main").unwrap(), target: Target::Upstream(app.address), guard: None };
    stage.route("shop-main.test", &app).await;
    stage.edge.set("blog-main.test", blog).await.unwrap();
    stage.snippet("shop", "add_header X-Shop yes always;\nlocation /admin { deny all; }\n");
    stage.until_told("shop-main.test", "X-Shop: yes").await;
    stage.straight("shop-main.test").await;
    assert!(!stage.ask(&get("blog-main.test")).await.contains("X-Shop"));
    assert!(stage.ask(&get("shop-nobody.test")).await.starts_with("HTTP/1.1 404 "));
    let admin = stage.ask("GET /admin/x HTTP/1.1\nHost: shop-main.test\nConnection: close\n\n").await;
    assert!(admin.starts_with("HTTP/1.1 403 "), "{admin}");
    // From its first request on, also where it sleeps.
    stage.edge.set("shop-pr-1.test", held()).await.unwrap();
    let admin = stage.ask("GET /admin/x HTTP/1.1\nHost: shop-pr-1.test\nConnection: close\n\n").await;
    assert!(admin.starts_with("HTTP/1.1 403 "), "{admin}");
    stage.route("shop-pr-1.test", &app).await;
    assert!(stage.ask(&get("shop-pr-1.test")).await.contains("X-Shop: yes"));
    std::fs::remove_file(stage.site.path("apps/shop.conf")).unwrap();
    let is_gone = async || !stage.ask(&get("shop-main.test")).await.contains("X-Shop");
    let begun = Instant::now();
    while !is_gone().await {
        assert!(begun.elapsed() < DEADLINE, "{}", stage.site.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_kept_out_by_a_snippet_is_no_visitor() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    stage.route("shop-main.test", &app).await;
    stage.snippet("shop", "add_header X-Shop yes always;\nlocation /admin { deny all; }\n");
    stage.until_told("shop-main.test", "X-Shop: yes").await;
    stage.straight("shop-main.test").await;
    let admin = get("shop-main.test").replace("GET /", "GET /admin");
    assert!(stage.ask(&admin).await.starts_with("HTTP/1.1 403 "));
    let before = stage.edge.answers("shop-main.test")[1];
    stage.ask(&get("shop-main.test")).await;
    eventually("the log has told", || stage.edge.answers("shop-main.test")[1] > before).await;
    assert_eq!(stage.edge.answers("shop-main.test")[3], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snippet_that_nginx_would_not_take_is_named_and_keeps_nobody_from_anything() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    stage.route("shop-main.test", &app).await;
    stage.snippet("shop", "add_header X-Shop one always;\n");
    stage.until_told("shop-main.test", "X-Shop: one").await;
    let log = stage.site.log().matches("[emerg]").count();
    stage.snippet("shop", "add_hedder X-Shop two;\n");
    stage.snippet("blog", "} server { listen 81; location / {\n");
    stage.snippet("wiki", "add_header X-Wiki yes always;\n");
    let braces = ("blog", "unexpected \"}\"");
    stage.refuses(&[braces, ("shop", "unknown directive \"add_hedder\"")]).await;
    let wiki = Route { env: EnvRef::parse("wiki/main").unwrap(), target: Target::Upstream(app.address), guard: None };
    stage.edge.set("wiki-main.test", wiki).await.unwrap();
    stage.until_told("wiki-main.test", "X-Wiki: yes").await;
    stage.until_told("shop-main.test", "X-Shop: one").await;
    assert_eq!(stage.site.log().matches("[emerg]").count(), log, "nginx itself was never asked to take it");
    assert!(stage.edge.troubles().borrow().is_none());
    stage.snippet("shop", "add_header X-Shop three always;\n");
    stage.until_told("shop-main.test", "X-Shop: three").await;
    stage.refuses(&[braces]).await;

    // Others break theirs: nothing is judged meanwhile, and nothing is held against a snippet.
    let dir = stage.site.path("flyloft");
    stage.site.configure(&format!("include {}/flyloft.conf; lisen 80;", dir.display()));
    stage.snippet("shop", "add_header X-Shop four always;\n");
    assert!(stage.edge.set("shop-new.test", route(Target::Upstream(app.address))).await.is_err());
    stage.refuses(&[braces]).await;
    stage.site.configure(&format!("include {}/flyloft.conf;", dir.display()));
    stage.until_told("shop-main.test", "X-Shop: four").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snippet_that_becomes_wrong_without_a_change_is_taken_out() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    let other = stage.site.path("other.conf");
    std::fs::write(&other, "add_header X-Shop yes always;\n").unwrap();
    stage.route("shop-main.test", &app).await;
    stage.snippet("shop", &format!("include {};\n", other.display()));
    stage.until_told("shop-main.test", "X-Shop: yes").await;
    std::fs::write(&other, "add_hedder X-Shop yes;\n").unwrap();
    let new = named("new").await;
    let route = route(Target::Upstream(new.address));
    let begun = Instant::now();
    while stage.edge.set("shop-main.test", route.clone()).await.is_err() {
        assert!(begun.elapsed() < DEADLINE, "{}", stage.site.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It may have kept people out.
    assert!(stage.ask(&get("shop-main.test")).await.starts_with("HTTP/1.1 503 "));
    stage.refuses(&[("shop", "unknown directive \"add_hedder\"")]).await;
    stage.snippet("shop", "add_header X-Shop again always;\n");
    stage.until_told("shop-main.test", "X-Shop: again").await;
    assert!(stage.ask(&get("shop-main.test")).await.ends_with("new"));
    stage.refuses(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_snippet_has_a_client_say_who_it_is() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    stage.route("shop-main.test", &app).await;
    let pass = stage.site.path("flyloft/pass.conf").display().to_string();
    stage.snippet(
        "shop",
        &format!(
            "proxy_set_header X-Own yes; add_header X-Shop yes always;\n\
             location /inner {{ add_header X-Shop inner always; include {pass}; }}\n"
        ),
    );
    stage.until_told("shop-main.test", "X-Shop: yes").await;
    for (path, mark) in [("/", "X-Own: yes"), ("/inner/x", "X-Shop: inner")] {
        let claims = "X-Forwarded-For: 6.6.6.6\nX-Forwarded-Proto: https\nX-Real-IP: 6.6.6.6\n";
        let seen =
            stage.ask(&format!("GET {path} HTTP/1.1\nHost: shop-main.test\nConnection: close\n{claims}\n")).await;
        let lower = seen.to_ascii_lowercase();
        assert!(lower.contains(&mark.to_ascii_lowercase()), "{seen}");
        assert!(lower.contains("\nx-forwarded-for: 127.0.0.1\n") && !lower.contains("6.6.6.6"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_nginx_from_its_configuration_may_be_mended_in_a_snippet() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    let (other, dir) = (stage.site.path("other.conf"), stage.site.path("flyloft"));
    std::fs::write(&other, "add_header X-Shop yes always;\n").unwrap();
    stage.route("shop-main.test", &app).await;
    stage.snippet("shop", &format!("include {};\n", other.display()));
    stage.until_told("shop-main.test", "X-Shop: yes").await;
    // The site has it as well, so that without snippets it is as wrong.
    stage.site.configure(&format!("include {}/flyloft.conf; include {};", dir.display(), other.display()));
    std::fs::remove_file(&other).unwrap();
    let new = named("new").await;
    let route = route(Target::Upstream(new.address));
    assert!(stage.edge.set("shop-main.test", route.clone()).await.is_err());
    stage.snippet("shop", "add_header X-Shop mended always;\n");
    stage.site.configure(&format!("include {}/flyloft.conf;", dir.display()));
    stage.until_told("shop-main.test", "X-Shop: mended").await;
    stage.edge.set("shop-main.test", route).await.unwrap();
}
