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
