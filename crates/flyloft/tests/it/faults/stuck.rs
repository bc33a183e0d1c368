//! A process that waits for the kernel and cannot be held: it reads memory of its own that nobody ever fills
//! (userfaultfd(2), process_vm_readv(2)). Only SIGKILL ends that.

use std::fs;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::harness::wait_for;

/// `linux/userfaultfd.h`
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

const UFFD_API: u64 = 0xaa;
const MISSING: u64 = 1;
nix::ioctl_readwrite!(uffdio_api, 0xaa, 0x3f, Api);
nix::ioctl_readwrite!(uffdio_register, 0xaa, 0x00, Register);

pub struct Stuck(Pid);

impl Stuck {
    /// In the control groups of this process.
    pub fn within(init: i32) -> Self {
        // SAFETY: between fork and its end the child makes system calls alone.
        let stuck = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Self(child),
            ForkResult::Child => {
                get_stuck();
                // SAFETY: the test's own memory is left as it is.
                unsafe { libc::_exit(1) }
            }
        };
        let state = || fs::read_to_string(format!("/proc/{}/stat", stuck.0)).unwrap();
        wait_for("the process to be stuck", || state().contains(") D ").then_some(()));
        for group in groups(init) {
            fs::write(group.join("cgroup.procs"), stuck.0.to_string()).unwrap();
        }
        stuck
    }

    pub fn pid(&self) -> Pid {
        self.0
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).unwrap();
        waitpid(self.0, None).unwrap();
    }
}

/// Comes back only if it could not get stuck.
fn get_stuck() {
    const PAGE: usize = 4096;
    // SAFETY: the mapping is used as it was made, and by the kernel alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) as i32;
        let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
        let _ = uffdio_api(fd, &mut api);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let page = libc::mmap(std::ptr::null_mut(), PAGE, access, kind, -1, 0);
        let mut register = Register { start: page as u64, length: PAGE as u64, mode: MISSING, ioctls: 0 };
        let _ = uffdio_register(fd, &mut register);
        let mut byte = 0_u8;
        let into = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let from = libc::iovec { iov_base: page, iov_len: 1 };
        libc::process_vm_readv(libc::getpid(), &into, 1, &from, 1, 0);
    }
}

/// The groups by which the engine freezes, and finds processes.
fn groups(pid: i32) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let unified = root.join("cgroup.controllers").exists();
    let wanted = |controllers: &str| match unified {
        true => controllers.is_empty(),
        false => matches!(controllers, "freezer" | "pids"),
    };
    let group = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        wanted(controllers).then(|| root.join(controllers).join(path.trim_start_matches('/')))
    };
    text.lines().filter_map(group).collect()
}
