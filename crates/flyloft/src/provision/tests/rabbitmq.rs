//! The same with a real RabbitMQ. It takes some seconds to start, so a test asks much of one.

use flyloft_core::service::Kind;

use super::redis::{add, deploy};
use super::way::Way;
use super::*;
use crate::service::rabbitmq_bench::Rabbitmq;

/// What the server says to whom an environment's variables name: which rights it lacks, if it is let in.
pub(super) fn who_is(rabbitmq: &Rabbitmq, variables: &BTreeMap<String, String>) -> String {
    let (user, password) = (&variables["RABBITMQ_USER"], &variables["RABBITMQ_PASSWORD"]);
    let (_, said) = rabbitmq.api_as(user, password, "GET", "whoami", "");
    serde_json::from_str::<serde_json::Value>(&said).unwrap()["reason"].as_str().unwrap().to_owned()
}

/// What people read of a deploy that fails, whatever the port.
async fn refusal(bench: &Bench, rabbitmq: &Rabbitmq, branch: &str) -> String {
    let error = deploy(bench, branch, "rabbitmq").await.unwrap_err().text();
    error.replace(&rabbitmq.management.to_string(), "MANAGEMENT").replace(&rabbitmq.port.to_string(), "PORT")
}

#[tokio::test]
async fn a_rabbitmq_that_is_down_or_refuses_its_administrator_is_told_of_and_has_nothing_half_made() {
    let bench = Bench::new().await;
    let mut rabbitmq = Rabbitmq::start();
    let administrator = |rabbitmq: &Rabbitmq, password: &str, tags: &str| {
        let body = serde_json::json!({ "password": password, "tags": tags }).to_string();
        let (status, said) = rabbitmq.api("PUT", "users/apt", &body);
        assert!([201, 204].contains(&status), "{said}");
    };
    administrator(&rabbitmq, "x", "administrator");
    let (port, management) = (rabbitmq.port, rabbitmq.management);
    add(&bench, "mq", Kind::Rabbitmq, &format!("amqp://apt:x@127.0.0.1:{port}/?management={management}")).await;
    deploy(&bench, "main", "rabbitmq").await.unwrap();
    assert_eq!(who_is(&rabbitmq, &bench.variables("main").await), "Not management user");
    let mut told = String::new();
    for (password, tags) in [("x", "management"), ("y", "administrator")] {
        administrator(&rabbitmq, password, tags);
        told += &refusal(&bench, &rabbitmq, "other").await;
        assert_eq!(rabbitmq.left(), 2);
    }
    administrator(&rabbitmq, "x", "administrator");
    deploy(&bench, "other", "rabbitmq").await.unwrap();

    rabbitmq.stop();
    told += &refusal(&bench, &rabbitmq, "third").await;
    bench.destroy("main").await;
    sweep(bench.parts()).await;
    assert_eq!(bench.strays().await, 1);
    rabbitmq.run();
    assert_eq!(rabbitmq.left(), 4);
    // It may not be at its best yet, and is asked again.
    let gone = async || {
        sweep(bench.parts()).await;
        bench.strays().await == 0
    };
    bench.stage.wait_until("nothing is left of it", gone).await;
    assert_eq!(rabbitmq.left(), 2);
    deploy(&bench, "third", "rabbitmq").await.unwrap();
    assert_eq!(rabbitmq.left(), 4);
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn what_a_rabbitmq_keeps_that_goes_down_in_the_middle_is_brought_to_its_end_or_goes_with_its_environment() {
    let bench = Bench::new().await;
    let mut rabbitmq = Rabbitmq::start();
    let mut way = Way::to(rabbitmq.management).await;
    let [there, on_the_way] = [rabbitmq.management, way.port].map(|port| format!("management={port}"));
    add(&bench, "mq", Kind::Rabbitmq, &rabbitmq.url().replace(&there, &on_the_way)).await;
    for (branch, made) in [("main", 2), ("other", 4)] {
        let (_, conductor) = bench.env(branch).await;
        let mut work = std::pin::pin!(bench.stage.launch_in(&conductor, Again::Rollback, asking("rabbitmq")));
        tokio::select! {
            ended = &mut work => panic!("it has ended: {ended:?}"),
            () = way.held_up_by("PUT /api/permissions/") => {}
        }
        assert_eq!(rabbitmq.left(), made);
        way.shut().await;
        rabbitmq.stop();
        let error = work.await.unwrap_err().text();
        assert!(error.contains("server `mq` at 127.0.0.1:") && error.contains("cannot be reached"), "{error}");
        rabbitmq.run();
        way.open().await;
        assert_eq!(rabbitmq.left(), made, "nobody could tell it to forget that");
    }
    deploy(&bench, "main", "rabbitmq").await.unwrap();
    assert_eq!(who_is(&rabbitmq, &bench.variables("main").await), "Not management user");
    bench.destroy("other").await;
    bench.stage.wait_until("nothing is left of it", async || bench.strays().await == 0).await;
    assert_eq!(rabbitmq.left(), 2);
}
