//! One container's life on the host: its files, its processes, and what is left when it goes.
//!
//! Everything here blocks, for milliseconds as a rule; the engine calls it off its runtime's threads. The truth is on
//! disk and in `/proc`, so that a daemon that starts again finds every container as it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use flyloft_core::policy::Excess;
use flyloft_core::port::Protocol;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::advice::Process;
use super::cgroup::{self, Groups, Layout};
use super::mounts;
use super::notes;
use super::places::{self, Home, RUN};
use super::slots::{Slot, Slots};
use super::{step, tree};
use crate::engine::{Addresses, ContainerSpec, ContainerState, Observed};

/// `spec.json` of a home: what was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub spec: ContainerSpec,
    pub slot: Slot,
    pub addresses: Addresses,
}

/// `spec.json` of `/flyloft` in the container: what PID 1 is to do. The other side is in `flyloft-init`.
#[derive(Debug, Serialize)]
pub struct InitSpec<'a> {
    pub hostname: &'a str,
    pub uid: u32,
    pub gid: u32,
    pub dir: &'a str,
    pub grace_seconds: u64,
    pub env: &'a BTreeMap<String, String>,
    pub processes: &'a [crate::engine::Process],
    pub addresses: [std::net::IpAddr; 2],
}

/// The app's user and group inside a container.
pub const APP: u32 = 1000;

/// How long PID 1 waits for its processes before it kills them: longer than anybody asks for, since the engine's own
/// `stop` knows how long.
pub const GRACE: Duration = Duration::from_secs(600);

impl Record {
    /// `None` where nothing, or only a part, was made.
    pub fn read(home: &Home) -> io::Result<Option<Self>> {
        match fs::read(home.record()) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Written whole or not at all.
    pub fn write(&self, home: &Home) -> io::Result<()> {
        let aside = home.dir.join("spec.json.new");
        fs::write(&aside, serde_json::to_vec_pretty(self)?)?;
        fs::rename(aside, home.record())
    }
}

/// Makes the home's directory and gives it a slot.
pub fn settle(home: &Home, slots: &Slots) -> io::Result<Slot> {
    // What is left of an attempt that was cut short is in the way. The directory goes last.
    if home.dir.try_exists()? {
        erase(home)?;
    }
    fs::DirBuilder::new().mode(0o700).create(&home.dir)?;
    slots.take(&home.dir)
}

/// Fills `/flyloft`: PID 1, and what it is to do, which only the container's root may read.
pub fn furnish(home: &Home, init: &Path, slot: Slot, spec: &InitSpec<'_>) -> io::Result<()> {
    let dir = home.init();
    match fs::DirBuilder::new().mode(0o755).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let program = dir.join("init");
    if !program.exists() {
        place(init, &program)?;
    }
    let file = dir.join("spec.json");
    let _ = fs::remove_file(&file);
    let mut out = fs::OpenOptions::new().create_new(true).write(true).mode(0o400).open(&file)?;
    out.write_all(&serde_json::to_vec(spec)?)?;
    chown(&file, Some(slot.uid_base()), Some(slot.uid_base()))
}

/// Lays out what the container is to read below `/flyloft`. PID 1 lies there itself, and keeps its place.
pub fn lay_out(home: &Home, files: &BTreeMap<String, String>) -> io::Result<()> {
    for (path, content) in files {
        let inside = step::inside(path)?;
        let below = inside.strip_prefix("flyloft").ok().filter(|below| below.components().count() > 1);
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{path}` is no file for `/flyloft`"));
        let file = home.init().join(below.ok_or_else(outside)?);
        file.parent().map_or(Ok(()), |dir| places::make_dir(dir, 0o755))?;
        fs::write(&file, content)?;
        fs::set_permissions(file, PermissionsExt::from_mode(0o444))?;
    }
    Ok(())
}

/// Puts this daemon's program where an earlier one's was. PID 1 goes on as what it was started from; commands that are
/// run from now on speak this daemon's language.
pub fn renew_init(home: &Home, init: &Path) -> io::Result<()> {
    let program = home.init().join("init");
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    if identity(&program).is_ok_and(|there| identity(init).is_ok_and(|ours| ours == there)) {
        return Ok(());
    }
    let aside = home.init().join("init.new");
    let _ = fs::remove_file(&aside);
    place(init, &aside)?;
    fs::rename(aside, program)
}

fn place(init: &Path, program: &Path) -> io::Result<()> {
    // They may lie in different file systems.
    fs::hard_link(init, program).or_else(|_| fs::copy(init, program).map(drop))
}

/// The two processes that a running container has on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The container's, to LXC.
    name: String,
    /// LXC's own, the parent of `init`.
    pub monitor: i32,
    /// PID 1 of the container.
    pub init: i32,
}

impl Running {
    /// Finds them without asking LXC, which would take a process each time.
    pub fn find(home: &Home) -> Option<Self> {
        let monitor: i32 = fs::read_to_string(home.pid_file()).ok()?.trim().parse().ok()?;
        let title = fs::read(format!("/proc/{monitor}/cmdline")).ok()?;
        let title = String::from_utf8_lossy(&title);
        // A number that was given to another process since then has another title.
        if title.trim_end_matches(['\0', ' ']) != format!("[lxc monitor] {RUN} {}", home.name) {
            return None;
        }
        // Who is in a container can have any title, and is never root to the host (proc_pid(5)).
        if fs::metadata(format!("/proc/{monitor}")).ok()?.uid() != 0 {
            return None;
        }
        let children = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).ok()?;
        let init = children.split_whitespace().next()?.parse().ok()?;
        Some(Self { name: home.name.clone(), monitor, init })
    }

    pub fn groups(&self, layout: Layout) -> io::Result<Groups> {
        Groups::of(layout, &self.name, self.init)
    }
}

/// What there is of the container, if it was made to the end.
pub fn observe(home: &Home, layout: Layout) -> io::Result<Option<Observed>> {
    let Some(Record { spec, addresses, .. }) = Record::read(home)? else { return Ok(None) };
    let state = state(home, layout);
    let excess = if state == ContainerState::Stopped { excess(home)? } else { None };
    Ok(Some(Observed { id: spec.id, state, addresses, image: spec.image, excess }))
}

/// What the container is doing.
pub fn state(home: &Home, layout: Layout) -> ContainerState {
    match Running::find(home) {
        None => ContainerState::Stopped,
        // A container that ends just now has no groups any more.
        Some(running) => match running.groups(layout).and_then(|groups| groups.frozen()) {
            Ok(true) => ContainerState::Frozen,
            _ => ContainerState::Running,
        },
    }
}

/// What the engine stopped the container for, if it was that which stopped it.
pub fn excess(home: &Home) -> io::Result<Option<Excess>> {
    notes::read(&home.excess())
}

pub fn note_excess(home: &Home, excess: Excess) -> io::Result<()> {
    notes::write(&home.excess(), &excess)
}

pub fn forget_excess(home: &Home) -> io::Result<()> {
    notes::remove(&home.excess())
}

/// SIGTERM to PID 1, which passes it on; SIGKILL to all of them after `grace`. Returns when LXC has cleaned up too.
pub fn halt(home: &Home, layout: Layout, grace: Duration) -> io::Result<()> {
    if let Some(running) = Running::find(home) {
        if let Ok(groups) = running.groups(layout) {
            // Signals reach no frozen process.
            let _ = groups.thaw();
        }
        let monitor = Process::open(running.monitor)?;
        if let Some(init) = Process::open(running.init)? {
            if !grace.is_zero() {
                init.signal(Signal::SIGTERM)?;
            }
            if !ended_within(&init, grace)? {
                // The kernel ends every process of a PID namespace with its first one.
                init.signal(Signal::SIGKILL)?;
                ended_within(&init, Duration::from_secs(10))?;
            }
        }
        if let Some(monitor) = monitor
            && !ended_within(&monitor, Duration::from_secs(5))?
        {
            monitor.signal(Signal::SIGKILL)?;
            ended_within(&monitor, Duration::from_secs(5))?;
        }
    }
    cgroup::clean(&home.name)?;
    match fs::remove_file(home.pid_file()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Stops what runs and removes every trace but the claim on the slot, which ends with the directory.
pub fn erase(home: &Home) -> io::Result<()> {
    let layout = Layout::detect().map_err(io::Error::other)?;
    halt(home, layout, Duration::ZERO)?;
    mounts::dissolve(home)?;
    for point in mounts::mounted_below(&home.dir)? {
        mounts::unmount(&point)?;
    }
    // LXC leaves the file that it locks.
    let lock = Path::new("/run/lxc/lock").join(RUN.trim_start_matches('/')).join(format!(".{}", home.name));
    match fs::remove_file(lock) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    tree::purge(&home.dir)
}

/// Whether the process ended in time.
fn ended_within(process: &Process, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000) as i32).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sockets that listen for TCP, or take UDP from anybody, from the tables that the kernel shows of a process's network
/// namespace.
pub fn listening(init: i32, protocol: Protocol) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for family in ["", "6"] {
        match fs::read_to_string(format!("/proc/{init}/net/{protocol}{family}")) {
            Ok(table) => found.extend(table.lines().skip(1).filter_map(|line| listener(line, protocol))),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The local address of a line of `/proc/net/tcp`, `udp` and their like whose state is LISTEN (`0A`) or, for UDP, that of
/// a socket that is not connected (`07`). Addresses are there as 32-bit words in the machine's byte order
/// (proc_pid_net(5)).
fn listener(line: &str, protocol: Protocol) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let listens = match protocol {
        Protocol::Tcp => "0A",
        Protocol::Udp => "07",
    };
    if state != listens {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |n: usize| u32::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: std::net::IpAddr = match address.len() {
        8 => word(0)?.into(),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n)?);
            }
            bytes.into()
        }
        _ => return None,
    };
    Some((ip, port).into())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::exec::Cmd;

    #[tokio::test]
    async fn whoever_calls_itself_what_the_monitor_is_called_is_not_taken_for_it_unless_it_is_root() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home { dir: dir.path().to_owned(), name: "fl-1f3a9c-web.c".to_owned() };
        for (user, is_taken) in [(65_534, false), (0, true)] {
            let shell = Cmd::new("sh").named(format!("[lxc monitor] {RUN} {}", home.name)).user(user);
            let mut shell = shell.spawn(Stdio::piped(), Stdio::null(), Stdio::null()).unwrap();
            shell.stdin.as_mut().unwrap().write_all(b"sleep 5 & wait\n").await.unwrap();
            let pid = shell.id().unwrap();
            fs::write(home.pid_file(), pid.to_string()).unwrap();
            while fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(Running::find(&home).is_some(), is_taken);
        }
    }

    #[test]
    fn files_of_a_container_lie_beside_what_pid_1_needs_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home { dir: dir.path().to_owned(), name: "fl-1f3a9c-web.c".to_owned() };
        let lay_out = |path: &str| lay_out(&home, &BTreeMap::from([(path.to_owned(), "PEM".to_owned())]));
        for _ in 0..2 {
            lay_out("/flyloft/ca/pg.pem").unwrap();
        }
        let file = home.init().join("ca/pg.pem");
        assert_eq!(
            (fs::read_to_string(&file).unwrap().as_str(), file.metadata().unwrap().mode() & 0o777),
            ("PEM", 0o444)
        );
        assert_eq!(home.init().join("ca").metadata().unwrap().mode() & 0o777, 0o755);
        for path in ["/flyloft/init", "/flyloft", "/etc/passwd", "/flyloft/../x/y", "flyloft/ca/pg.pem"] {
            assert_eq!(lay_out(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn sockets_that_listen_are_read_from_the_kernels_table_and_others_are_not() {
        let lines = [
            "   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0",
            "   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0",
            "   2: 0100007F:1388 0100007F:E1F2 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0",
            "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000",
            "  17: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 1 2 0 0",
        ];
        let found = |protocol| {
            let found = lines.iter().filter_map(move |line| listener(line, protocol));
            found.map(|at| at.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(Protocol::Tcp), ["127.0.0.1:5000", "0.0.0.0:80", "[::1]:8080"]);
        assert_eq!(found(Protocol::Udp), ["0.0.0.0:53"]);
    }
}
