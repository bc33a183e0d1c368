//! Providers, as models of them have it: what is asked, by whom, and with which words.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Api, Provider, Publish};

const RECORD: &str = "_acme-challenge.staging.example.org";

/// What a provider answers to a method and a path, with a body.
type Says = dyn Fn(&str, &Value) -> (u16, Value) + Send + Sync;

struct Model {
    base: String,
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Model {
    async fn start(says: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let model = Self { base, dir, asked: Arc::default() };
        model.write_token("a-token\n", 0o600);
        let (asked, says): (Arc<Mutex<Vec<String>>>, Arc<Says>) = (model.asked.clone(), Arc::new(says));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, says) = (asked.clone(), says.clone());
                let service = service_fn(move |request| answer(request, asked.clone(), says.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        model
    }

    fn token(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    fn write_token(&self, text: &str, mode: u32) {
        std::fs::write(self.token(), text).unwrap();
        std::fs::set_permissions(self.token(), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn api(&self, provider: Provider) -> Api {
        Api { provider, base: self.base.clone(), token: self.token(), zone: String::new() }
    }

    /// What it was asked since the last time.
    fn asked(&self) -> String {
        std::mem::take(&mut *self.asked.lock().unwrap()).join("\n")
    }
}

async fn answer(
    request: Request<Incoming>,
    asked: Arc<Mutex<Vec<String>>>,
    says: Arc<Says>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let who = head.headers.get("authorization").map_or("nobody", |value| value.to_str().unwrap());
    let what = format!("{} {}", head.method, head.uri);
    let line = format!("{what} as {who} {}", String::from_utf8_lossy(&body));
    asked.lock().unwrap().push(line.trim_end().to_owned());
    let (status, said) = says(&what, &serde_json::from_slice(&body).unwrap_or_default());
    let said = if status == 204 { String::new() } else { said.to_string() };
    Ok(Response::builder().status(status).body(Full::new(Bytes::from(said))).unwrap())
}

#[tokio::test]
async fn digitalocean_is_asked_for_a_record_in_the_zone_that_it_has_and_to_take_it_away() {
    let there = Arc::new(Mutex::new(false));
    let known = there.clone();
    let model = Model::start(move |what, body| {
        let record = json!({ "id": 42, "name": "_acme-challenge.staging", "data": "a-value" });
        match what {
            "GET /v/domains/example.org" => (200, json!({ "domain": { "name": "example.org" } })),
            what if what.starts_with("GET /v/domains/example.org/records?") => {
                let other = json!({ "id": 7, "data": "other" });
                let all = if *known.lock().unwrap() { json!([other, record]) } else { json!([other]) };
                (200, json!({ "domain_records": all }))
            }
            "POST /v/domains/example.org/records" => {
                *known.lock().unwrap() = body["data"] == "a-value";
                (201, json!({ "domain_record": record }))
            }
            "DELETE /v/domains/example.org/records/42" => {
                *known.lock().unwrap() = false;
                (204, Value::Null)
            }
            _ => (404, json!({ "id": "not_found", "message": "there is no such thing" })),
        }
    })
    .await;
    let client = model.api(Provider::DigitalOcean);
    client.publish(RECORD, "a-value").await.unwrap();
    insta::assert_snapshot!(model.asked(), @r#"
    GET /v/domains/staging.example.org as Bearer a-token
    GET /v/domains/example.org as Bearer a-token
    GET /v/domains/example.org/records?type=TXT&name=_acme-challenge.staging.example.org&per_page=200 as Bearer a-token
    POST /v/domains/example.org/records as Bearer a-token {"type":"TXT","name":"_acme-challenge.staging","data":"a-value","ttl":60}
    "#);
    client.publish(RECORD, "a-value").await.unwrap();
    assert!(!model.asked().contains("POST"), "the same is published twice");
    client.withdraw(RECORD, "a-value").await.unwrap();
    let asked = model.asked();
    assert!(asked.ends_with("\nDELETE /v/domains/example.org/records/42 as Bearer a-token"), "{asked}");
    assert!(!*there.lock().unwrap());
    client.withdraw(RECORD, "a-value").await.unwrap();
    assert!(!model.asked().contains("DELETE"), "what is another's is taken away");
}

#[tokio::test]
async fn cloudflare_is_asked_for_a_record_in_the_zone_that_it_has_and_to_take_it_away() {
    let there = Arc::new(Mutex::new(false));
    let known = there.clone();
    let model = Model::start(move |what, body| match what {
        "GET /v/zones?name=example.org" => (200, json!({ "success": true, "result": [{ "id": "z1" }] })),
        what if what.starts_with("GET /v/zones?") => (200, json!({ "success": true, "result": [] })),
        what if what.starts_with("GET /v/zones/z1/dns_records?") => {
            let all = match *known.lock().unwrap() {
                true => json!([{ "id": "r1", "content": "\"a-value\"" }, { "id": "r2", "content": "other" }]),
                false => json!([{ "id": "r2", "content": "other" }]),
            };
            (200, json!({ "success": true, "result": all }))
        }
        "POST /v/zones/z1/dns_records" => {
            *known.lock().unwrap() = body["content"] == "\"a-value\"";
            (200, json!({ "success": true, "result": { "id": "r1" } }))
        }
        "DELETE /v/zones/z1/dns_records/r1" => {
            *known.lock().unwrap() = false;
            (200, json!({ "result": { "id": "r1" } }))
        }
        _ => (400, json!({ "success": false, "errors": [{ "code": 7003, "message": "no such route" }] })),
    })
    .await;
    let client = model.api(Provider::Cloudflare);
    client.publish(RECORD, "a-value").await.unwrap();
    insta::assert_snapshot!(model.asked(), @r#"
    GET /v/zones?name=staging.example.org as Bearer a-token
    GET /v/zones?name=example.org as Bearer a-token
    GET /v/zones/z1/dns_records?type=TXT&name=_acme-challenge.staging.example.org&per_page=100 as Bearer a-token
    POST /v/zones/z1/dns_records as Bearer a-token {"type":"TXT","name":"_acme-challenge.staging.example.org","content":"\"a-value\"","ttl":60}
    "#);
    client.publish(RECORD, "a-value").await.unwrap();
    assert!(!model.asked().contains("POST"), "the same is published twice");
    client.withdraw(RECORD, "a-value").await.unwrap();
    let asked = model.asked();
    assert!(asked.ends_with("\nDELETE /v/zones/z1/dns_records/r1 as Bearer a-token"), "{asked}");
    assert!(!*there.lock().unwrap());
    client.withdraw(RECORD, "a-value").await.unwrap();
    assert!(!model.asked().contains("DELETE"), "what is another's is taken away");
}

#[tokio::test]
async fn hetzner_is_asked_for_a_record_in_a_set_that_is_made_or_is_there_and_to_take_it_away() {
    let set = Arc::new(Mutex::new(Vec::<Value>::new()));
    let known = set.clone();
    let model = Model::start(move |what, body| {
        let mut records = known.lock().unwrap();
        let given = || body["records"].as_array().cloned().unwrap_or_default();
        match what {
            "GET /v/zones/example.org" => (200, json!({ "zone": { "name": "example.org" } })),
            "GET /v/zones/example.org/rrsets/_acme-challenge.staging/TXT" if !records.is_empty() => {
                (200, json!({ "rrset": { "records": *records } }))
            }
            "POST /v/zones/example.org/rrsets" if records.is_empty() => {
                *records = given();
                (201, json!({ "rrset": {} }))
            }
            "POST /v/zones/example.org/rrsets/_acme-challenge.staging/TXT/actions/add_records" => {
                records.extend(given());
                (201, json!({ "action": {} }))
            }
            "POST /v/zones/example.org/rrsets/_acme-challenge.staging/TXT/actions/remove_records" => {
                records.retain(|record| !given().contains(record));
                (201, json!({ "action": {} }))
            }
            _ => (404, json!({ "error": { "code": "not_found", "message": "there is no such thing" } })),
        }
    })
    .await;
    let client = model.api(Provider::Hetzner);
    client.publish(RECORD, "a-value").await.unwrap();
    insta::assert_snapshot!(model.asked(), @r#"
    GET /v/zones/staging.example.org as Bearer a-token
    GET /v/zones/example.org as Bearer a-token
    GET /v/zones/example.org/rrsets/_acme-challenge.staging/TXT as Bearer a-token
    POST /v/zones/example.org/rrsets as Bearer a-token {"name":"_acme-challenge.staging","type":"TXT","ttl":60,"records":[{"value":"\"a-value\""}]}
    "#);
    client.publish(RECORD, "a-value").await.unwrap();
    assert!(!model.asked().contains("POST"), "the same is published twice");
    client.publish(RECORD, "other").await.unwrap();
    assert_eq!(*set.lock().unwrap(), [json!({ "value": "\"a-value\"" }), json!({ "value": "\"other\"" })]);
    model.asked();
    client.withdraw(RECORD, "a-value").await.unwrap();
    let asked = model.asked();
    assert!(asked.ends_with(r#"/TXT/actions/remove_records as Bearer a-token {"records":[{"value":"\"a-value\""}]}"#));
    assert_eq!(*set.lock().unwrap(), [json!({ "value": "\"other\"" })]);
    client.withdraw(RECORD, "a-value").await.unwrap();
    assert!(!model.asked().contains("POST"), "what is gone is taken away once more");
}

#[tokio::test]
async fn a_provider_that_refuses_is_quoted_and_its_token_is_not() {
    for said in [
        json!({ "id": "unauthorized", "message": "who are you" }),
        json!({ "error": { "code": "unauthorized", "message": "who are you" } }),
        json!({ "success": false, "errors": [{ "code": 10000, "message": "who are you" }] }),
    ] {
        let model = Model::start(move |_, _| (401, said.clone())).await;
        let refused = model.api(Provider::DigitalOcean).publish(RECORD, "a-value").await.unwrap_err();
        assert_eq!(refused, "DigitalOcean answered 401: who are you");
    }
    let model = Model::start(|_, _| (404, json!({}))).await;
    let nothing = model.api(Provider::Hetzner).publish(RECORD, "a-value").await.unwrap_err();
    assert_eq!(nothing, "Hetzner has no zone `staging.example.org` or `example.org`, or the token is not for it");
    let named = Api { zone: "example.net".to_owned(), ..model.api(Provider::Hetzner) };
    let nothing = named.publish(RECORD, "a-value").await.unwrap_err();
    assert_eq!(nothing, "Hetzner has no zone `example.net`, or the token is not for it");
    let model = Model::start(|_, _| (500, Value::Null)).await;
    let broken = model.api(Provider::Cloudflare).withdraw(RECORD, "a-value").await.unwrap_err();
    assert_eq!(broken, "Cloudflare answered 500: it does not say why");

    model.write_token("a-token", 0o644);
    let open = model.api(Provider::Cloudflare).publish(RECORD, "a-value").await.unwrap_err();
    assert_eq!(open, format!("others on this machine may read `{}`: chmod 600 it", model.token().display()));
    model.write_token(" \n", 0o600);
    let empty = model.api(Provider::Cloudflare).publish(RECORD, "a-value").await.unwrap_err();
    assert_eq!(empty, format!("there is nothing in `{}`", model.token().display()));
    model.write_token("a-token", 0o600);
    let nobody = Api { base: "http://127.0.0.1:1".to_owned(), ..model.api(Provider::DigitalOcean) };
    let nobody = nobody.publish(RECORD, "a-value").await.unwrap_err();
    assert!(nobody.starts_with("failed to reach DigitalOcean at `http://127.0.0.1:1`: "), "{nobody}");
    assert!(!nobody.contains("a-token"), "{nobody}");
}
