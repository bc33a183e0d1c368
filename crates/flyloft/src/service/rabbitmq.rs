//! RabbitMQ, from version 3.8 on: an environment gets a virtual host and a user, by way of the management plugin's HTTP
//! API.

mod made;

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use bytes::Bytes;
use flyloft_core::service::ServerUrl;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::{Driver, Fault, Health, Label, Server, ServiceError, Wanted, in_time, link};

/// The first in which virtual hosts have a description.
const LEAST: [u32; 2] = [3, 8];

/// No answer that is asked for here is as large.
const ANSWER: usize = 4 << 20;

pub struct Rabbitmq;

/// A connection to the management API, which ends when it is dropped.
struct Session<'a> {
    server: &'a Server,
    sender: SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

#[async_trait]
impl Driver for Rabbitmq {
    async fn check(&self, server: &Server) -> Result<Health, ServiceError> {
        in_time(server, async {
            let health = Session::open(server).await?.check().await?;
            // The other port, which apps connect to.
            link::open(server, server.url.port).await.map(drop)?;
            Ok(health)
        })
        .await
    }

    async fn provide(&self, server: &Server, wanted: &Wanted) -> Result<Option<u16>, ServiceError> {
        in_time(server, async { Session::open(server).await?.provide(wanted).await }).await?;
        Ok(None)
    }

    async fn remove(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        in_time(server, async { Session::open(server).await?.remove(label).await }).await
    }

    async fn lost(&self, server: &Server, names: &[String]) -> Result<Vec<String>, ServiceError> {
        in_time(server, async { Session::open(server).await?.lost(names).await }).await
    }

    async fn renew(&self, server: &Server, wanted: &Wanted) -> Result<(), ServiceError> {
        in_time(server, async {
            let mut session = Session::open(server).await?;
            session.remove(&wanted.label).await?;
            crate::fault::point("service.emptied");
            session.provide(wanted).await
        })
        .await
    }

    fn variables(&self, server: &Server, wanted: &Wanted, alias: Option<&str>) -> Vec<(String, String)> {
        let (name, password) = (&wanted.label.name, &wanted.password.0);
        let url = ServerUrl { user: name.clone(), database: name.clone(), management: None, ..server.url.clone() };
        let url = url.with_password(password);
        let Some(alias) = alias else {
            let parts = [
                ("RABBITMQ_URL", url.clone()),
                ("CLOUDAMQP_URL", url),
                ("RABBITMQ_HOST", server.url.host.clone()),
                ("RABBITMQ_PORT", server.url.port.to_string()),
                ("RABBITMQ_USER", name.clone()),
                ("RABBITMQ_PASSWORD", password.clone()),
                ("RABBITMQ_VHOST", name.clone()),
            ];
            let parts = parts.into_iter().map(|(name, value)| (name.to_owned(), value));
            return parts.chain(server.authority_variable("RABBITMQ")).collect();
        };
        [(format!("{alias}_URL"), url)].into_iter().chain(server.authority_variable(alias)).collect()
    }
}

impl<'a> Session<'a> {
    async fn open(server: &'a Server) -> Result<Self, ServiceError> {
        let stream =
            link::open(server, server.url.management_port()).await.map_err(|error| at_its_port(server, error))?;
        let shaken = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| of_http(server, &error, "connect"))?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a server of RabbitMQ has ended");
            }
        });
        Ok(Self { server, sender, _connection: AbortOnDropHandle::new(connection) })
    }

    async fn check(&mut self) -> Result<Health, ServiceError> {
        let who = self.get("look at its rights", "/api/whoami").await?;
        let Some(who) = who else {
            let fault = Fault::Unfit(
                "what answers there is not its management API",
                "rabbitmq-plugins enable rabbitmq_management, or name its port in the URL: ?management=PORT",
            );
            return Err(at_its_port(self.server, ServiceError::new(self.server, fault)));
        };
        if !made::tags(&who).iter().any(|tag| tag == "administrator") {
            let fault = Fault::Forbidden { user: self.server.url.user.clone(), what: "make users" };
            return Err(ServiceError::new(self.server, fault).said("it is not tagged `administrator`"));
        }
        let overview = self.get("look at its state", "/api/overview").await?.unwrap_or_default();
        let version = overview["rabbitmq_version"].as_str().unwrap_or_default().to_owned();
        let number: Vec<u32> = version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
        if number.as_slice() < LEAST.as_slice() {
            return Err(ServiceError::new(self.server, Fault::Old { found: version, least: "3.8" }));
        }
        let connections = overview["object_totals"]["connections"].as_u64().unwrap_or_default();
        Ok(Health { version, connections: connections.try_into().unwrap_or(u32::MAX), max_connections: None })
    }

    /// None if there is no such thing.
    async fn get(&mut self, doing: &'static str, path: &str) -> Result<Option<Value>, ServiceError> {
        match self.ask(doing, Method::GET, path, None).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => {
                let read = serde_json::from_slice(&body);
                let failed = |error| ServiceError::new(self.server, Fault::Other(doing)).said(error);
                Ok(Some(read.map_err(failed)?))
            }
        }
    }

    async fn put(&mut self, doing: &'static str, path: &str, body: Value) -> Result<(), ServiceError> {
        match self.ask(doing, Method::PUT, path, Some(body)).await? {
            (StatusCode::NOT_FOUND, body) => Err(self.failed(doing, &body)),
            _ => Ok(()),
        }
    }

    /// What is not there has been removed.
    async fn delete(&mut self, doing: &'static str, path: &str) -> Result<(), ServiceError> {
        self.ask(doing, Method::DELETE, path, None).await.map(drop)
    }

    /// Gives what was answered if that is success, or that there is no such thing.
    async fn ask(
        &mut self,
        doing: &'static str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Bytes), ServiceError> {
        let (server, url) = (self.server, &self.server.url);
        let who = Base64::encode_string(format!("{}:{}", url.user, server.password.0).as_bytes());
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, url.host_in_url())
            .header(header::AUTHORIZATION, format!("Basic {who}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "flyloft")
            .body(Full::new(Bytes::from(body)))
            .expect("a request is made of what is allowed in one");
        let lost = |error: hyper::Error| of_http(server, &error, doing);
        self.sender.ready().await.map_err(lost)?;
        let response = self.sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        let body = body.map_err(|error| ServiceError::new(server, Fault::Other(doing)).said(error))?.to_bytes();
        match status {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok((status, body)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.unauthorized(doing, &body)),
            _ => Err(self.failed(doing, &body)),
        }
    }

    fn unauthorized(&self, doing: &'static str, body: &[u8]) -> ServiceError {
        let (user, said) = (self.server.url.user.clone(), reason(body));
        let fault = match said.as_str() {
            // Who it is has been believed.
            said if said.starts_with("Not ") => Fault::Forbidden { user, what: doing },
            said if said.contains("can only log in via localhost") => Fault::Barred,
            _ => Fault::Password { user },
        };
        ServiceError::new(self.server, fault).said(said)
    }

    fn failed(&self, doing: &'static str, body: &[u8]) -> ServiceError {
        ServiceError::new(self.server, Fault::Other(doing)).said(reason(body))
    }
}

/// In the words of the server, which are JSON if they are of the API.
fn reason(body: &[u8]) -> String {
    let read: Value = serde_json::from_slice(body).unwrap_or_default();
    match &read["reason"] {
        Value::String(reason) => reason.clone(),
        Value::Null => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
        other => other.to_string(),
    }
}

/// Errors name the port for AMQP unless it is about the other one.
fn at_its_port(server: &Server, error: ServiceError) -> ServiceError {
    let url = ServerUrl { port: server.url.management_port(), ..server.url.clone() };
    ServiceError { address: url.address().into(), ..error }
}

fn of_http(server: &Server, error: &hyper::Error, doing: &'static str) -> ServiceError {
    let fault = match error.is_parse() || error.is_parse_status() {
        true => Fault::Unfit(
            "what answers there speaks no HTTP",
            "name the port of its management API in the URL, ?management=PORT, and say amqps:// where it encrypts",
        ),
        // A port that encrypts ends the connection at once.
        false if !server.url.tls && doing == "look at its rights" && error.is_incomplete_message() => Fault::TlsWanted,
        false => Fault::Down,
    };
    at_its_port(server, ServiceError::new(server, fault).said(error))
}

#[cfg(test)]
mod tests;
