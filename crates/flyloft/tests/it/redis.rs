//! A Redis of a test's own.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that people use")]

use std::net::TcpStream;
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

pub use super::own_server::{ESCAPED, PASSWORD};
use super::own_server::{OwnServer, free_port};

pub const ADMIN: &str = "admin";

pub struct Redis {
    own: OwnServer,
    pub port: u16,
    options: Vec<String>,
    users: String,
}

impl Redis {
    /// With a file for users, as an administrator would set it up.
    pub fn start() -> Self {
        Self::start_with(&["aclfile users.acl"])
    }

    /// With these lines of its configuration: `maxclients 10`. Where no file is named for users, those of this one are
    /// in the configuration, and what is made later is forgotten by a restart.
    pub fn start_with(options: &[&str]) -> Self {
        let mut redis = Self::prepared(options);
        redis.run();
        redis
    }

    /// The same, and not started yet.
    pub fn prepared(options: &[&str]) -> Self {
        let own = OwnServer::new("redis");
        let hash = hex::encode(Sha256::digest(PASSWORD.as_bytes()));
        let users = format!("user default off\nuser {ADMIN} on #{hash} ~* &* +@all\n");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { own, port: 0, options, users }
    }

    /// Who is let in from the next start on: lines of `user NAME RULES`.
    pub fn admit(&mut self, users: &str) {
        self.users = users.to_owned();
    }

    /// A file that it can read.
    pub fn write(&self, name: &str, text: &str) {
        self.own.write(name, text);
    }

    /// Starts it, at the port that it had.
    pub fn run(&mut self) {
        let is_new = self.port == 0;
        loop {
            if self.port == 0 {
                self.port = free_port();
            }
            let mut lines = vec!["bind * -::*".to_owned(), "save 3600 1".to_owned()];
            lines.extend(self.options.iter().map(|line| line.replace("PORT", &self.port.to_string())));
            if !self.options.iter().any(|line| line.starts_with("port ")) {
                lines.push(format!("port {}", self.port));
            }
            let mut text = lines.join("\n") + "\n";
            match self.options.iter().any(|line| line.starts_with("aclfile")) {
                true if is_new => self.own.write("users.acl", &self.users),
                true => {}
                false => text += &self.users,
            }
            self.own.write("redis.conf", &text);
            let mut server = self.own.command("/usr/bin/redis-server");
            server.arg("redis.conf");
            let port = self.port;
            if self.own.run(server, || TcpStream::connect(("127.0.0.1", port)).is_ok()) {
                return;
            }
            assert!(is_new, "Redis does not start:\n{}", self.own.log());
            self.port = 0;
        }
    }

    /// From now on it cannot write new files, or it can again.
    pub fn refuse_files(&self, refuse: bool) {
        use std::os::unix::fs::PermissionsExt;
        let mode = if refuse { 0o500 } else { 0o700 };
        std::fs::set_permissions(self.own.path(""), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Ends it; what it holds is there again when it runs.
    pub fn stop(&mut self) {
        self.own.stop();
    }

    /// For its administrator, who gives environments database numbers as well.
    pub fn url(&self) -> String {
        format!("redis://{ADMIN}:{ESCAPED}@127.0.0.1:{}/1", self.port)
    }

    /// What the administrator's words bring, in database 0 unless `-n` is among them.
    #[track_caller]
    pub fn ask(&self, words: &str) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-e", "-p", &self.port.to_string(), "--user", ADMIN]).env("REDISCLI_AUTH", PASSWORD);
        told(cli.args(words.split(' ')).output().unwrap()).unwrap()
    }
}

/// What words bring to whom a URL lets in.
pub fn ask(url: &str, words: &str) -> Result<String, String> {
    let mut cli = Command::new("redis-cli");
    told(cli.args(["-e", "--no-auth-warning", "-u", url]).args(words.split(' ')).output().unwrap())
}

fn told(output: Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&[output.stdout, output.stderr].concat())),
    }
}
