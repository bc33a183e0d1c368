//! An nginx of a test's own, as an administrator has one: with a site of theirs beside ours.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that people use")]

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::own_server::{OwnServer, free_port};

/// What the site of the administrator's answers.
pub const OTHER: &str = "another site";

pub struct NginxSite {
    own: OwnServer,
    /// Where clients of ours come in, and where those of the other site do.
    pub port: u16,
    pub other: u16,
    /// Whom its workers run as.
    pub user: &'static str,
}

impl NginxSite {
    /// Whose workers run as this user. It is not started yet.
    pub fn new(user: &'static str) -> Self {
        let own = OwnServer::new("root");
        // They pass through it.
        fs::set_permissions(own.path(""), fs::Permissions::from_mode(0o711)).unwrap();
        Self { own, port: free_port(), other: free_port(), user }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.own.path(name)
    }

    pub fn conf(&self) -> PathBuf {
        self.path("nginx.conf")
    }

    pub fn pid(&self) -> PathBuf {
        self.path("nginx.pid")
    }

    /// What flyloft's configuration says of it.
    pub fn edge(&self) -> String {
        let (conf, pid, user) = (self.conf(), self.pid(), self.user);
        let nginx = format!("conf = \"{}\"\npid = \"{}\"\nuser = \"{user}\"\n", conf.display(), pid.display());
        format!("[edge]\nkind = \"nginx\"\n[nginx]\n{nginx}")
    }

    /// Writes its configuration, with these lines in the `http` block.
    pub fn configure(&self, lines: &str) {
        let dir = self.path("").display().to_string();
        let temp = |what: &str| format!("{what}_temp_path {dir}{what}; ");
        let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(temp).concat();
        let (user, other) = (self.user, self.other);
        let text = format!(
            "daemon off;\nuser {user};\nworker_processes 2;\npid {dir}nginx.pid;\nerror_log {dir}error.log notice;\n\
             events {{ worker_connections 2048; }}\n\
             http {{\n    access_log off;\n    {temps}\n    \
             map $http_upgrade $connection_upgrade {{ default upgrade; \"\" close; }}\n    {lines}\n    \
             server {{ listen 127.0.0.1:{other}; location / {{ return 200 \"{OTHER}\"; }} }}\n}}\n"
        );
        // Whoever asks nginx about it meanwhile sees the old or the new.
        self.own.write("nginx.conf.new", &text);
        fs::rename(self.path("nginx.conf.new"), self.conf()).unwrap();
    }

    pub fn start(&mut self) {
        self.start_as("nginx");
    }

    /// Starts this program, which is an nginx.
    pub fn start_as(&mut self, program: impl AsRef<Path>) {
        let other = self.other;
        let mut command = self.own.command(program);
        // It is the one that flyloft finds.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg("-e").arg(self.path("error.log")).arg("-c").arg(self.conf());
        let is_up = || TcpStream::connect((Ipv4Addr::LOCALHOST, other)).is_ok();
        assert!(self.own.run(command, is_up), "nginx does not start:\n{}", self.own.log());
    }

    /// `kill -9`, of all of its processes.
    pub fn kill(&mut self) {
        self.own.kill();
    }

    /// How often it has read its configuration since it was started.
    pub fn reloads(&self) -> usize {
        self.log().matches(" reconfiguring").count()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("error.log")).unwrap_or_default()
    }
}
