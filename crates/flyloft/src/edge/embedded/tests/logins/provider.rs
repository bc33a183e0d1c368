//! A provider of OpenID Connect that says what a test wants it to say.

use std::sync::{Mutex, MutexGuard};

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::*;

pub struct Provider {
    app: App,
    script: Arc<Mutex<Script>>,
}

pub struct Script {
    /// What its id token says, beside what is right.
    pub claims: Value,
    /// The same of the token's header.
    pub header: Value,
    /// Which of its two keys signs, and which it shows.
    pub signs: usize,
    pub shows: Vec<usize>,
    pub nonce: String,
    /// What it tells of somebody elsewhere, if anything.
    pub userinfo: Option<Value>,
    /// What it answers at a path instead, as a status and a body.
    pub answers: Option<(&'static str, u16, &'static str)>,
    /// It says nothing at all to a request that has this in it.
    pub silent: Option<&'static str>,
    /// Each request, with its head.
    pub asked: Vec<String>,
    keys: [Ed25519KeyPair; 2],
}

impl Provider {
    pub async fn start() -> Self {
        let key = |_| {
            let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap()
        };
        let script = Arc::new(Mutex::new(Script {
            claims: json!({}),
            header: json!({}),
            signs: 0,
            shows: vec![0],
            nonce: String::new(),
            userinfo: None,
            answers: None,
            silent: None,
            asked: Vec::new(),
            keys: [0, 1].map(key),
        }));
        let shared = script.clone();
        let app = App::start(move |peer| answer(peer, shared.clone())).await;
        Self { app, script }
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.app.address)
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// How often it was asked for this.
    pub fn times(&self, path: &str) -> usize {
        self.script().asked.iter().filter(|asked| asked.split(' ').nth(1) == Some(path)).count()
    }
}

async fn answer(mut peer: Peer, script: Arc<Mutex<Script>>) {
    let head = peer.read_head().await;
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.clone().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length = field("content-length").map_or(0, |length| length.parse().unwrap());
    let (path, issuer) = (head.split(' ').nth(1).unwrap().to_owned(), format!("http://{}", field("host").unwrap()));
    let body = peer.read_exact(length).await;
    let said = {
        let mut script = script.lock().unwrap();
        let asked = format!("{head}{body}");
        let is_silent = script.silent.is_some_and(|silent| asked.contains(silent));
        script.asked.push(asked);
        match script.answers {
            _ if is_silent => None,
            Some((at, status, body)) if at == path => Some((status, body.to_owned())),
            _ => Some((200, script.right(&path, &issuer))),
        }
    };
    match said {
        Some((status, body)) => {
            peer.say(&format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        }
        None => std::future::pending().await,
    }
}

impl Script {
    /// What it answers that does everything as it should, but for what the test has changed.
    fn right(&self, path: &str, issuer: &str) -> String {
        let key = |at: &usize| {
            let public = Base64UrlUnpadded::encode_string(self.keys[*at].public_key().as_ref());
            json!({ "kty": "OKP", "crv": "Ed25519", "x": public, "kid": format!("key-{at}"), "use": "sig" })
        };
        match path {
            "/.well-known/openid-configuration" => json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/auth"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/keys"),
                "userinfo_endpoint": self.userinfo.as_ref().map(|_| format!("{issuer}/me")),
            }),
            "/keys" => json!({ "keys": self.shows.iter().map(key).collect::<Vec<_>>() }),
            "/token" => json!({ "access_token": "at", "token_type": "Bearer", "id_token": self.token(issuer) }),
            "/me" => self.userinfo.clone().unwrap_or_default(),
            _ => Value::Null,
        }
        .to_string()
    }

    fn token(&self, issuer: &str) -> String {
        let now = now();
        let mut claims = json!({
            "iss": issuer, "sub": "u-17", "aud": "flyloft", "exp": now + 300, "iat": now, "nonce": self.nonce,
            "email": "ann@example.org", "email_verified": true, "groups": ["web"],
        });
        let mut header = json!({ "alg": "EdDSA", "kid": format!("key-{}", self.signs) });
        for (said, changes) in [(&mut claims, &self.claims), (&mut header, &self.header)] {
            for (name, value) in changes.as_object().unwrap() {
                said[name] = value.clone();
            }
        }
        let encode = |said: &Value| Base64UrlUnpadded::encode_string(said.to_string().as_bytes());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = match header["alg"] == "none" {
            true => String::new(),
            false => Base64UrlUnpadded::encode_string(self.keys[self.signs].sign(message.as_bytes()).as_ref()),
        };
        format!("{message}.{signature}")
    }
}
