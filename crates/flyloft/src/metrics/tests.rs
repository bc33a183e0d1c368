//! What Prometheus would read.

use std::collections::{HashMap, HashSet};

use flyloft_core::lifecycle::{Depth, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::loft::stage::Stage;

/// Samples by their name and labels. Reads strictly what the format allows, and no more of it than is used here.
fn samples(text: &str) -> HashMap<String, f64> {
    let (mut all, mut family, mut kind) = (HashMap::new(), String::new(), "");
    let mut families = HashSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty() && families.insert(name.to_owned()), "{line}");
            family = name.to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.strip_prefix(&format!("{family} ")).unwrap_or_else(|| panic!("{line}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let of_family = name == family
            || kind == "histogram" && ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}"));
        assert!(of_family && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
        for label in labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once('=').unwrap();
            assert!(label.bytes().all(|b| b.is_ascii_lowercase()), "{line}");
            assert!(value.starts_with('"') && value.ends_with('"') && value.len() > 2, "{line}");
        }
        assert!(all.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
    }
    all
}

#[tokio::test]
async fn what_happens_is_counted_and_what_is_held_is_measured() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    stage.engine.fail("start", 1);
    stage.deploy().await.unwrap_err();
    let (env, conductor) = stage.env().await;
    let page = async || samples(&page(&stage.loft).await.unwrap());
    let before = page().await;
    assert_eq!(before[r#"flyloft_environments{state="awake"}"#], 1.0);
    assert_eq!(before[r#"flyloft_memory_held_bytes{app="shop"}"#], f64::from(32 << 20));
    assert_eq!(before[r#"flyloft_deploys_total{app="shop",result="succeeded"}"#], 1.0);
    assert_eq!(before[r#"flyloft_deploys_total{app="shop",result="failed"}"#], 1.0);
    assert_eq!(before[r#"flyloft_requests_total{app="shop",env="main",class="2xx"}"#], 7.0);
    assert!(!before.contains_key(r#"flyloft_requests_total{app="shop",env="main",class="5xx"}"#));
    assert!(before["flyloft_disk_free_bytes"] > 0.0 && before["flyloft_disk_floor_bytes"] == f64::from(1 << 30) * 2.0);
    stage.loft.parts.tally.dropped("layer");
    assert_eq!(page().await[r#"flyloft_dropped_total{kind="layer"}"#], 1.0);
    assert!(before["process_resident_memory_bytes"] > 1e6 && before["flyloft_machine_memory_available_bytes"] > 1e6);

    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.at_rest().await.unwrap();
    let looks = stage.engine.looks();
    let asleep = page().await;
    assert_eq!(stage.engine.looks(), looks, "of what sleeps the engine is asked nothing");
    assert_eq!(asleep[r#"flyloft_environments{state="deep"}"#], 1.0);
    assert_eq!(asleep[r#"flyloft_environments{state="awake"}"#], 0.0);
    assert_eq!(asleep[r#"flyloft_memory_held_bytes{app="shop"}"#], f64::from(1 << 20));

    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    stage.wait_until("a record", async || !stage.store().wakes(env.id).await.unwrap().is_empty()).await;
    let woken = page().await;
    assert_eq!(woken[r#"flyloft_wakes_total{app="shop",result="succeeded"}"#], 1.0);
    let bucket = |le: &str| woken[&format!(r#"flyloft_wake_seconds_bucket{{app="shop",le="{le}"}}"#)];
    let buckets: Vec<f64> = BOUNDS.iter().map(|bound| bucket(&bound.to_string())).collect();
    assert!(buckets.is_sorted(), "{buckets:?}");
    assert_eq!((bucket("30"), bucket("+Inf")), (1.0, 1.0));
    assert_eq!(woken[r#"flyloft_wake_seconds_count{app="shop"}"#], 1.0);
    assert!(woken[r#"flyloft_wake_seconds_sum{app="shop"}"#] > 0.0);
}

#[tokio::test]
async fn days_left_of_certificates_are_told() {
    let stage = Stage::at_domain("staging.example.org").await;
    let keeper = &stage.loft.parts.keeper;
    keeper.local.make(tls::now()).unwrap();
    keeper.look(tls::now());
    let name = format!("flyloft_certificate_left_days{{file=\"{}\"}}", keeper.local.files().certificate.display());
    let left = samples(&page(&stage.loft).await.unwrap())[&name];
    assert!((394.0..=396.0).contains(&left), "{left}");

    // A proxy in the edge's place has not taken it yet.
    let nginx = tls::Certificates::new().unwrap();
    let before = tls::trial::Authority::root("Root").issue_for(&["*.staging.example.org"], -80, 10);
    nginx.set([&before.pair()]);
    keeper.certificates.are_shown_by(nginx);
    let left = samples(&page(&stage.loft).await.unwrap())[&name];
    assert!((9.0..=10.0).contains(&left), "{left}");
}

#[tokio::test]
async fn it_is_answered_over_http_and_nothing_else_is() {
    let stage = Stage::new().await;
    let listener = listen("127.0.0.1:0".parse().unwrap(), &mut Vec::new()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, stage.loft.clone()));
    let ask = async |line: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = ask("GET /metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(samples(body).contains_key(r#"flyloft_environments{state="none"}"#));
    assert!(ask("GET /").await.starts_with("HTTP/1.1 404 "));
    assert!(ask("POST /metrics").await.starts_with("HTTP/1.1 405 "));
    serving.abort();
}
