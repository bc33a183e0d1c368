//! What has a gate does not go straight.

use flyloft_core::gate::{Gate, Guard, Key, NEVER, Purpose};

use super::*;

fn key() -> Key {
    Key::new(&[7; 32], 1, "shop-main.test", 0)
}

fn guard() -> Option<Arc<Guard>> {
    Guard::new(Gate::Link, key(), None).map(Arc::new)
}

fn with_cookie(host: &str) -> String {
    let cookie = key().sign(Purpose::Visit, NEVER);
    get(host).replace("Connection", &format!("Cookie: a=b; flyloft-gate={cookie}\nConnection"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_is_shut_is_asked_from_the_next_request_on_and_one_that_is_opened_lets_nginx_go_straight() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
    for round in 0..2 {
        stage.edge.guard("shop-main.test", guard()).await.unwrap();
        for _ in 0..10 {
            let answer = stage.ask(&get("shop-main.test")).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{round}: {answer}");
        }
        let answer = stage.ask(&with_cookie("shop-main.test")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\ncookie: a=b\n"), "{answer}");
        assert!(!answer.contains("flyloft"), "{answer}");
        stage.edge.guard("shop-main.test", None).await.unwrap();
        // Nobody waits for this as a rule.
        stage.edge.desk.with(|plan| plan.hurry(Haste::Now));
        stage.straight("shop-main.test").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_with_a_gate_never_goes_straight() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    let gated = Route { guard: guard(), ..route(Target::Upstream(app.address)) };
    stage.edge.set("shop-main.test", gated.clone()).await.unwrap();
    stage.edge.expect("shop-main.test", true);
    stage.edge.expect("shop-main.test", false);
    stage.edge.desk.with(|plan| plan.hurry(Haste::Now));
    eventually("it is told", || stage.edge.desk.with(|plan| plan.haste().is_none())).await;
    let name = HostName::parse("shop-main.test").unwrap();
    assert!(!stage.edge.desk.with(|plan| plan.may_go_straight(&name)));
    assert!(stage.ask(&get("shop-main.test")).await.starts_with("HTTP/1.1 403 "));
    // Asleep and awake again it is as before.
    stage.edge.set("shop-main.test", Route { guard: guard(), ..held() }).await.unwrap();
    stage.edge.set("shop-main.test", gated).await.unwrap();
    assert!(stage.ask(&get("shop-main.test")).await.starts_with("HTTP/1.1 403 "));
    assert!(stage.ask(&with_cookie("shop-main.test")).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_is_shut_holds_while_nginx_refuses_its_configuration() {
    let instance = format!("t{}", std::process::id());
    let mut stage = Stage::at(NginxSite::new("www-data"), "test", "", |place| place.instance = instance.clone());
    stage.start().await;
    let (app, other) = (App::start(echo_head).await, named("other").await);
    stage.route("shop-main.test", &app).await;
    stage.route("shop-other.test", &other).await;
    stage.straight("shop-main.test").await;
    eventually("it is told", || stage.edge.desk.with(|plan| plan.is_so())).await;
    stage.site.configure("lisen 80;");
    stage.edge.guard("shop-main.test", guard()).await.unwrap();
    for _ in 0..10 {
        let answer = stage.ask(&get("shop-main.test")).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    let answer = stage.ask(&with_cookie("shop-main.test")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\ncookie: a=b\n"), "{answer}");
    assert!(stage.ask(&get("shop-other.test")).await.ends_with("other"), "what has no gate is left alone");
    // Once nginx knows of it, nothing is barred any more.
    let dir = stage.site.path("flyloft");
    stage.site.configure(&format!("include {}/flyloft.conf;", dir.display()));
    eventually("nothing is wrong", || stage.edge.troubles().borrow().is_none()).await;
    assert!(stage.ask(&get("shop-main.test")).await.starts_with("HTTP/1.1 403 "));
    let table = format!("flyloft_{instance}_nginx");
    let begun = Instant::now();
    while crate::exec::Cmd::new("nft").args(["list", "table", "inet", &table]).run().await.is_ok() {
        assert!(begun.elapsed() < DEADLINE, "it is barred without end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.edge.guard("shop-main.test", None).await.unwrap();
    stage.edge.desk.with(|plan| plan.hurry(Haste::Now));
    stage.straight("shop-main.test").await;
}
