//! A MariaDB of a test's own.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that people use")]

use std::process::Command;

use super::own_server::{Disk, OwnServer, free_port};
pub use super::own_server::{ESCAPED, PASSWORD};

pub const ADMIN: &str = "admin";

pub struct Mariadb {
    /// Goes before the directory that it is mounted in.
    disk: Option<Disk>,
    own: OwnServer,
    pub port: u16,
    options: Vec<String>,
}

impl Mariadb {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these options of `mariadbd`: `--max-connections=10`.
    pub fn start_with(options: &[&str]) -> Self {
        let mut mariadb = Self::prepared(options);
        mariadb.run();
        mariadb
    }

    /// With its data on a disk of their own of so many MiB.
    pub fn start_on_disk_of(mib: u64) -> Self {
        let mut mariadb = Self::prepared_on(Some(mib), &[]);
        mariadb.run();
        mariadb
    }

    /// With these options, and not started yet.
    pub fn prepared(options: &[&str]) -> Self {
        Self::prepared_on(None, options)
    }

    fn prepared_on(mib: Option<u64>, options: &[&str]) -> Self {
        let own = OwnServer::new("mysql");
        let disk = mib.map(|mib| own.disk("data", mib));
        let mut install = own.command("/usr/bin/mariadb-install-db");
        install.arg("--no-defaults").arg(format!("--datadir={}", own.path("data").display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        // Each that starts removes what it takes for its own in there, of others that run beside it.
        install.arg(format!("--tmpdir={}", own.path("").display()));
        let made = install.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&[made.stdout, made.stderr].concat()));
        let quoted = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        own.write(
            "init.sql",
            &format!(
                "SET NAMES utf8mb4;\nCREATE USER IF NOT EXISTS '{ADMIN}'@'%' IDENTIFIED BY '{quoted}';\n\
                 GRANT ALL PRIVILEGES ON *.* TO '{ADMIN}'@'%' WITH GRANT OPTION;\n"
            ),
        );
        Self { disk, own, port: 0, options: options.iter().map(|option| (*option).to_owned()).collect() }
    }

    /// Leaves so many MiB of its disk, and takes the rest, or gives it back.
    pub fn leave_of_disk(&self, mib: Option<u64>) {
        self.disk.as_ref().expect("it has one of its own").leave(mib);
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
            let mut server = self.own.command("/usr/sbin/mariadbd");
            server.arg("--no-defaults").args(["--bind-address=*", &format!("--port={}", self.port)]);
            for (option, file) in [("datadir", "data"), ("socket", "socket"), ("init-file", "init.sql"), ("tmpdir", "")]
            {
                server.arg(format!("--{option}={}", self.own.path(file).display()));
            }
            server.args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--skip-name-resolve"]);
            server.arg("--character-set-server=latin1");
            server.args(
                self.options.iter().map(|option| option.replace("DIR", &self.own.path("").display().to_string())),
            );
            let before = self.own.log().len();
            let own = &self.own;
            let log = own.path("log");
            let is_up = || {
                let said = std::fs::read(&log).unwrap_or_default();
                String::from_utf8_lossy(&said[before.min(said.len())..]).contains("ready for connections")
            };
            if self.own.run(server, is_up) {
                return;
            }
            assert!(is_new, "MariaDB does not start:\n{}", self.own.log());
            self.port = 0;
        }
    }

    /// Ends it, whoever is connected.
    pub fn stop(&mut self) {
        self.own.stop();
    }

    /// What it and who works with it have said.
    pub fn log(&self) -> String {
        self.own.log()
    }

    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.own.path(name)).unwrap()).into_owned()
    }

    /// For its administrator.
    pub fn url(&self) -> String {
        format!("mysql://{ADMIN}:{ESCAPED}@127.0.0.1:{}/", self.port)
    }

    /// What the administrator's words bring, a row a line.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        self.sql_as(ADMIN, PASSWORD, "", text).unwrap()
    }

    /// The same of somebody else, in a database.
    pub fn sql_as(&self, user: &str, password: &str, database: &str, text: &str) -> Result<String, String> {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--batch", "--skip-column-names", "--protocol=tcp", "--host=127.0.0.1"]);
        client.args(["--default-character-set=utf8mb4", "--user", user, "--port", &self.port.to_string()]);
        client.args(["--execute", text]).env("MYSQL_PWD", password);
        if !database.is_empty() {
            client.args(["--database", database]);
        }
        let output = client.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        // What it still wants to write is about to lose its disk.
        if self.disk.is_some() {
            self.own.kill();
        }
    }
}
