//! A PostgreSQL of a test's own: Debian's, as an unprivileged user, in a directory that goes with it, on a free port.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that people use")]

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use super::own_server::Disk;

pub const ADMIN: &str = "admin";
/// All that a password can have in it that means something in a URL, in SQL or to a shell.
pub const PASSWORD: &str = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ü";
/// The same in a URL.
pub const ESCAPED: &str =
    "%20%21%22%23%24%25%26%27%28%29%2A%2B%2C-.%2F%3A%3B%3C%3D%3E%3F%40%5B%5C%5D%5E_%60%7B%7C%7D~%C3%BC";

const DEADLINE: Duration = Duration::from_secs(60);

pub struct Postgres {
    /// Goes before the directory that it is mounted in.
    disk: Option<Disk>,
    dir: tempfile::TempDir,
    user: User,
    child: Option<Child>,
    pub port: u16,
    options: Vec<String>,
}

impl Postgres {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these settings beside those of the file: `max_connections=8`.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_on(None, options)
    }

    /// With its data on a disk of their own of so many MiB. What it writes ahead is elsewhere: where there is no room for
    /// that, it ends. From version 15 on it finds out about the rest of a copy long after it has made one.
    pub fn start_on_disk_of(mib: u64) -> Self {
        Self::start_on(Some(mib), &[])
    }

    fn start_on(mib: Option<u64>, options: &[&str]) -> Self {
        let user = User::from_name("postgres").unwrap().expect("the package `postgresql` has made its user");
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { disk: None, dir, user, child: None, port: 0, options };
        server.write("password", PASSWORD);
        let (data, password) = (server.path("data"), server.path("password"));
        server.disk = mib.map(|mib| Disk::mount(&data, mib, &server.user));
        let mut initdb = server.command("initdb");
        initdb.args(["--username", ADMIN, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync"]);
        initdb.arg("--pwfile").arg(password).arg("-D").arg(data).arg("--waldir").arg(server.path("wal"));
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.admit("host all all all scram-sha-256\n");
        server.run();
        server
    }

    /// Who is let in: lines of `pg_hba.conf`. Counts from the next start on.
    pub fn admit(&self, lines: &str) {
        self.write("data/pg_hba.conf", lines);
    }

    /// From its next start on it shows this certificate, and lets nobody in who does not encrypt.
    pub fn encrypt(&self, [key, certificate]: &[String; 2]) {
        self.write("data/server.key", key);
        self.write("data/server.crt", certificate);
        self.write("data/postgresql.auto.conf", "ssl = on\n");
        self.admit("hostssl all all all scram-sha-256\n");
    }

    /// Writes a file that the server can read.
    pub fn write(&self, name: &str, text: &str) {
        let mut file = File::create(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        self.own(name);
    }

    /// The server has it from now on, and nobody else.
    pub fn own(&self, name: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        chown(&path, Some(self.user.uid.as_raw()), Some(self.user.gid.as_raw())).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it, at the port that it had.
    pub fn run(&mut self) {
        let started = Instant::now();
        while !self.try_run() {
            assert!(started.elapsed() < DEADLINE, "PostgreSQL does not start:\n{}", self.log());
        }
    }

    /// Somebody may take the port before it does.
    fn try_run(&mut self) -> bool {
        if self.port == 0 {
            self.port = TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
        }
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.path("data")).args(["-p", &self.port.to_string()]);
        for option in ["listen_addresses=*", "unix_socket_directories=", "fsync=off", "log_statement=all"] {
            postgres.args(["-c", option]);
        }
        for option in &self.options {
            postgres.args(["-c", option]);
        }
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let before = self.log().len();
        let mut child = postgres.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        loop {
            if self.log()[before..].contains("ready to accept connections") {
                self.child = Some(child);
                return true;
            }
            if child.try_wait().unwrap().is_some() {
                self.port = 0;
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it, whoever is connected.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        child.wait().unwrap();
    }

    /// Leaves so many MiB of its disk, and takes the rest, or gives it back.
    pub fn leave_of_disk(&self, mib: Option<u64>) {
        self.disk.as_ref().expect("it has one of its own").leave(mib);
    }

    /// What it and who works with it have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// For its administrator.
    pub fn url(&self) -> String {
        format!("postgres://{ADMIN}:{ESCAPED}@127.0.0.1:{}/postgres", self.port)
    }

    /// What the administrator's words bring, a row a line.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", ADMIN, "-d", "postgres", "-c", text]);
        let output = psql.args(["-p", &self.port.to_string()]).env("PGPASSWORD", PASSWORD).output().unwrap();
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// One of its programs, as its user, who goes with the test.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        command.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw()).current_dir(self.dir.path());
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).process_group(0);
        // SAFETY: prctl(2) is a plain system call, which may be made between fork and exec.
        unsafe { command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
    }
}

/// Debian has those of each version in a directory of their own.
fn programs() -> PathBuf {
    let versions = fs::read_dir(Path::new("/usr/lib/postgresql")).expect("script/setup --test installs `postgresql`");
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.unwrap().path()).filter(|path| number(path).is_some()).max_by_key(number);
    newest.expect("a version is installed").join("bin")
}
