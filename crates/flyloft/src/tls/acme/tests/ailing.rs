//! A server that has trouble of its own, at each step of an order.

use std::collections::BTreeMap;

use base64ct::{Base64UrlUnpadded, Encoding};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use x509_cert::der::Decode;
use x509_cert::request::CertReq;

use super::model::{Model, Said, problem, said};
use super::*;
use crate::tls::trial::Authority;

const HOST: &str = "login.staging.example.org";

/// One that issues, and fails three times before each of its answers.
struct Ailing {
    authority: Authority,
    /// Of its only order.
    status: &'static str,
    chain: String,
    /// How often it was asked for what, by the path and the order's status.
    asked: BTreeMap<String, usize>,
}

/// Whose certificate is asked for.
struct Asking(Vec<u8>);

impl PublicKeyData for Asking {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Asking {
    fn of(payload: &str) -> Self {
        let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
        let request = Base64UrlUnpadded::decode_vec(payload["csr"].as_str().unwrap()).unwrap();
        let request = CertReq::from_der(&request).unwrap();
        Self(request.info.public_key.subject_public_key.raw_bytes().to_vec())
    }
}

impl Ailing {
    fn says(&mut self, base: &str, path: &str, payload: &str) -> Option<Said> {
        let asked = self.asked.entry(format!("{path} {}", self.status)).or_default();
        *asked += 1;
        match *asked {
            1 => {
                let body = problem(503, "ofItsOwnKind", "come back later");
                return Some((503, vec![("retry-after", "5000".to_owned())], body));
            }
            2 => return said(500, &problem(500, "serverInternal", "out of order")),
            // Of somebody before it.
            3 => return said(502, "<h1>Oh dear</h1>"),
            _ => {}
        }
        let [order, authorization, challenge, finalize, certificate] =
            ["order/1", "authorization", "challenge", "finalize", "certificate"].map(|name| format!("{base}/{name}"));
        match path {
            "/order" => self.status = "pending",
            "/challenge" => self.status = "ready",
            "/finalize" => {
                self.chain = self.authority.vouch(&[HOST], (-1, 90), &Asking::of(payload));
                self.status = "valid";
            }
            _ => {}
        }
        let status = self.status;
        match path {
            "/order" | "/order/1" | "/finalize" => {
                let body = format!(
                    r#"{{"status": "{status}", "authorizations": ["{authorization}"], "finalize": "{finalize}",
                        "certificate": "{certificate}"}}"#
                );
                Some((if path == "/order" { 201 } else { 200 }, vec![("location", order)], body))
            }
            "/authorization" => said(
                200,
                &format!(
                    r#"{{"status": "pending", "identifier": {{"type": "dns", "value": "{HOST}"}}, "challenges":
                        [{{"type": "http-01", "url": "{challenge}", "token": "token", "status": "pending"}}]}}"#
                ),
            ),
            "/challenge" => said(
                200,
                &format!(r#"{{"type": "http-01", "url": "{challenge}", "token": "token", "status": "processing"}}"#),
            ),
            "/certificate" => said(200, &self.chain),
            _ => said(0, ""),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_at_each_step_costs_no_other_order_and_is_waited_for() {
    let stage = Stage::at_domain(DOMAIN).await;
    let authority = Authority::root("Root").vouches_for("Between");
    let ailing = Ailing { authority, status: "none", chain: String::new(), asked: BTreeMap::new() };
    let ailing = Arc::new(Mutex::new(ailing));
    let server = ailing.clone();
    let model = Model::start(move |base, path, payload| server.lock().unwrap().says(base, path, payload)).await;
    let config = config::Acme { directory: model.directory(), roots: model.roots(), ..config::Acme::default() };
    let mut desk = desk(&stage, config, Way::Http(stage.loft.parts.keeper.answers.clone()));
    desk.hosts.push(HOST.to_owned());

    let status = || stage.loft.parts.keeper.status(now()).remove(0);
    let mut order = None;
    for go in 0.. {
        let course = go_on(&desk).await;
        let Some((told, hint)) = status().trouble else { break };
        assert!(go < 100, "it does not come to an end: {told}");
        let why = told.rsplit_once(": it fails for now: ").unwrap_or_else(|| panic!("{told}")).1;
        let waits = match why {
            "come back later" | "503 Service Unavailable" => 4990..=6250,
            "out of order" | "500 Internal Server Error" | "502 Bad Gateway" => 50..=80,
            why => panic!("{why}"),
        };
        assert!(waits.contains(&wait(&course)), "{why}: {}", wait(&course));
        assert!(hint.starts_with("it is for the server to mend; what was begun there is gone on with; "), "{hint}");
        let known = stage.store().acme_order(HOST).await.unwrap();
        assert!(order.is_none() || known == order, "it is another one after: {told}");
        order = known;
    }
    assert!(status().shown.is_some(), "{:?}", status());
    let ordered = stage.store().acme_ordered().await.unwrap();
    assert_eq!(ordered.len(), 1, "{ordered:?}");
    assert_eq!(stage.store().acme_order(HOST).await.unwrap(), None);
    let asked = ailing.lock().unwrap().asked.clone();
    let steps = [
        "/dir none",
        "/nonce none",
        "/account none",
        "/order none",
        "/authorization pending",
        "/challenge pending",
        "/order/1 pending",
        "/order/1 ready",
        "/finalize ready",
        "/order/1 valid",
        "/certificate valid",
    ];
    for step in steps {
        assert!(asked.get(step).is_some_and(|times| *times > 3), "{step}: {asked:?}");
    }
}
