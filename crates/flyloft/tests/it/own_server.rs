//! A server of a test's own: a program of one of Debian's packages, as the user whom that made, in a directory that
//! goes with it, on a free port.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that people use")]

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, User};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// All that a password can have in it that means something in a URL, in SQL or to a shell.
pub const PASSWORD: &str = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ü";
/// The same in a URL.
pub const ESCAPED: &str =
    "%20%21%22%23%24%25%26%27%28%29%2A%2B%2C-.%2F%3A%3B%3C%3D%3E%3F%40%5B%5C%5D%5E_%60%7B%7C%7D~%C3%BC";

const DEADLINE: Duration = Duration::from_secs(120);

pub struct OwnServer {
    dir: tempfile::TempDir,
    user: User,
    child: Option<Child>,
}

/// The host's own address on its way to the internet, found without sending anything: containers reach that.
pub fn host_address() -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("203.0.113.1:9").unwrap();
    socket.local_addr().unwrap().ip().to_string()
}

/// A port that nobody has. It is none of those that the kernel gives to whoever asks for any, to a client for example,
/// which would be somebody else's by the time that the server takes it.
pub fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u32 = 8_000;
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| std::process::id().wrapping_mul(7_919).into());
    let mut ports = (0..COUNT).map(|_| FIRST + (NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) as u16);
    ports.find(|port| TcpListener::bind(("::", *port)).is_ok()).expect("a port is free")
}

impl OwnServer {
    pub fn new(user: &str) -> Self {
        let made = User::from_name(user).unwrap();
        let user = made.unwrap_or_else(|| panic!("script/setup --test installs what makes the user `{user}`"));
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        Self { dir, user, child: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A disk of so many MiB in its directory, which has to go before that.
    pub fn disk(&self, name: &str, mib: u64) -> Disk {
        Disk::mount(&self.path(name), mib, &self.user)
    }

    /// Writes a file that the server can read, and nobody else.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        chown(&path, Some(self.user.uid.as_raw()), Some(self.user.gid.as_raw())).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// One of its programs, as its user, who goes with the test.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw()).current_dir(self.dir.path());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.dir.path());
        command.stdin(Stdio::null()).process_group(0);
        // SAFETY: prctl(2) is a plain system call, which may be made between fork and exec.
        unsafe { command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        command
    }

    /// Runs it until `is_up`. What it says goes to a file. Says whether it runs: somebody may have taken its port.
    pub fn run(&mut self, mut command: Command, is_up: impl Fn() -> bool) -> bool {
        let log = || File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = command.stdout(log()).stderr(log()).spawn().unwrap();
        let started = Instant::now();
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if is_up() {
                self.child = Some(child);
                return true;
            }
            assert!(started.elapsed() < DEADLINE, "{command:?} does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, whoever is connected.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }

    /// The same, with all that it started, without giving it time.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        child.wait().unwrap();
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read(self.path("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
    }
}

/// A disk of a server's own, for it to be full: some memory that is mounted.
pub struct Disk(PathBuf);

impl Disk {
    pub fn mount(path: &Path, mib: u64, owner: &User) -> Self {
        fs::create_dir(path).unwrap();
        let options = format!("size={mib}m,mode=0700,uid={},gid={}", owner.uid, owner.gid);
        let none = None::<&str>;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(none, path, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(path.to_owned())
    }

    /// Leaves so many MiB of it, and takes the rest, or gives it back.
    pub fn leave(&self, mib: Option<u64>) {
        let ballast = self.0.join("ballast");
        let _ = fs::remove_file(&ballast);
        let Some(mib) = mib else { return };
        let found = nix::sys::statvfs::statvfs(&self.0).unwrap();
        let free = found.blocks_available() * found.fragment_size();
        fs::write(&ballast, vec![0; usize::try_from(free - (mib << 20)).unwrap()]).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever has been killed may still be about to let go of it.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// An authority as a team has one of its own: who was not told of it does not believe what it has signed.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Python's clients want this to be said, from version 3.13 on.
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// For a server at this address: the key, and the certificate.
    pub fn vouch(&self, host: &str) -> [String; 2] {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        [key.serialize_pem(), params.signed_by(&key, &self.issuer).unwrap().pem()]
    }
}

/// Certificates for a server at 127.0.0.1 that nobody but itself vouches for: the key, and the certificate.
pub fn certificate(name: &str, host: &str) -> [String; 2] {
    let dir = tempfile::tempdir().unwrap();
    let [key, certificate] = ["key", "pem"].map(|kind| dir.path().join(kind));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args(["-subj", &format!("/CN={name}"), "-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.args(["-addext", &format!("subjectAltName={host}"), "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    let made = openssl.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    [key, certificate].map(|path| fs::read_to_string(path).unwrap())
}
