//! A RabbitMQ of a test's own.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that people use")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::Duration;

use base64ct::{Base64, Encoding};

pub use super::own_server::{ESCAPED, PASSWORD};
use super::own_server::{OwnServer, free_port};

pub const ADMIN: &str = "admin";

/// What it lets its administrator in with until it has been told of another one: by its configuration it does not take
/// all.
const FIRST: &str = "first";

pub struct Rabbitmq {
    own: OwnServer,
    /// Which knows of its node, and would be left behind if that started it.
    names: Option<Child>,
    pub port: u16,
    pub management: u16,
    distribution: u16,
    naming: u16,
    encrypts: bool,
}

impl Rabbitmq {
    pub fn start() -> Self {
        let mut rabbitmq = Self::prepared(false);
        rabbitmq.run();
        rabbitmq
    }

    /// Encrypts on both ports.
    pub fn start_encrypted(key: &str, certificate: &str) -> Self {
        let mut rabbitmq = Self::prepared(true);
        rabbitmq.own.write("server.key", key);
        rabbitmq.own.write("server.crt", certificate);
        rabbitmq.run();
        rabbitmq
    }

    fn prepared(encrypts: bool) -> Self {
        let own = OwnServer::new("rabbitmq");
        own.write("enabled_plugins", "[rabbitmq_management].\n");
        let [port, management, distribution, naming] = [(); 4].map(|()| free_port());
        Self { own, names: None, port, management, distribution, naming, encrypts }
    }

    /// Starts it, at the ports that it had.
    pub fn run(&mut self) {
        self.own.write("advanced.config", &self.configuration());
        let mut names = self.own.command("/usr/bin/epmd");
        self.names = Some(names.args(["-port", &self.naming.to_string(), "-address", "127.0.0.1"]).spawn().unwrap());
        let mut server = self.own.command("/usr/lib/rabbitmq/bin/rabbitmq-server");
        let path = |name: &str| self.own.path(name);
        for (name, file) in [
            ("RABBITMQ_MNESIA_BASE", "mnesia"),
            ("RABBITMQ_LOG_BASE", "logs"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
            ("RABBITMQ_CONF_ENV_FILE", "environment"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
            ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
            ("RABBITMQ_PID_FILE", "pid"),
        ] {
            server.env(name, path(file));
        }
        server.env("RABBITMQ_NODENAME", format!("flyloft-{}@localhost", self.port)).env("RABBITMQ_LOGS", "-");
        server.env("RABBITMQ_DIST_PORT", self.distribution.to_string());
        // So that the script becomes the server, and does not wait for it.
        server.env("detached", "true");
        server.env("ERL_EPMD_PORT", self.naming.to_string()).env("LANG", "C.UTF-8");
        // Its threads would wait busily otherwise.
        server.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none");
        let ports = [self.port, self.management];
        let is_up = || ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok());
        let is_new = !self.own.path("mnesia").exists();
        assert!(self.own.run(server, is_up), "RabbitMQ does not start:\n{}", self.own.log());
        if is_new && !self.encrypts {
            let told = serde_json::json!({ "password": PASSWORD, "tags": "administrator" }).to_string();
            assert_eq!(self.api_as(ADMIN, FIRST, "PUT", "users/admin", &told).0, 204);
        }
    }

    /// Terms of Erlang.
    fn configuration(&self) -> String {
        let path = |name: &str| format!("{:?}", self.own.path(name));
        let tls = format!("[{{certfile,{}}},{{keyfile,{}}}]", path("server.crt"), path("server.key"));
        let Self { port, management, .. } = self;
        let (amqp, http) = match self.encrypts {
            true => (
                format!("{{tcp_listeners,[]}},{{ssl_listeners,[{port}]}},{{ssl_options,{tls}}}"),
                format!("{{ssl_config,[{{port,{management}}},{}", tls.trim_start_matches('[')),
            ),
            false => (format!("{{tcp_listeners,[{port}]}}"), format!("{{tcp_config,[{{port,{management}}}]")),
        };
        format!(
            "[{{rabbit,[{amqp},{{default_user,<<\"{ADMIN}\">>}},{{default_pass,<<\"{FIRST}\">>}}]}},\n\
             {{rabbitmq_management,[{http}}}]}}].\n"
        )
    }

    /// Ends it, whoever is connected.
    pub fn stop(&mut self) {
        self.own.stop();
        if let Some(mut names) = self.names.take() {
            names.kill().unwrap();
            names.wait().unwrap();
        }
    }

    /// For its administrator, who has the first password where it encrypts.
    pub fn url(&self) -> String {
        let (scheme, password) = if self.encrypts { ("amqps", FIRST) } else { ("amqp", ESCAPED) };
        format!("{scheme}://{ADMIN}:{password}@127.0.0.1:{}/?management={}", self.port, self.management)
    }

    /// What the management API says to its administrator: the status and the body.
    pub fn api(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.api_as(ADMIN, PASSWORD, method, path, body)
    }

    pub fn api_as(&self, user: &str, password: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let who = Base64::encode_string(format!("{user}:{password}").as_bytes());
        let request = format!(
            "{method} /api/{path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Basic {who}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.management)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Users and virtual hosts of ours that the server has.
    pub fn left(&self) -> usize {
        let count = |what: &str| self.api("GET", what, "").1.matches("\"name\":\"flyloft_").count();
        count("users?columns=name") + count("vhosts?columns=name")
    }
}

impl Drop for Rabbitmq {
    fn drop(&mut self) {
        self.own.kill();
        if let Some(mut names) = self.names.take() {
            let _ = names.kill();
            let _ = names.wait();
        }
    }
}
