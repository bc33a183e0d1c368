//! Mounts that show a directory's files as owned by other ids, and the system calls they need.
//!
//! A mount with the map "from L to C" shows a file that belongs to `L + n` on disk as belonging to `C + n`. The kernel
//! takes the map from a user namespace (mount_setattr(2), user_namespaces(7)).

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::slots::IDS;

/// How a mount is restricted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// A user namespace whose first ids are those from `to` on; `from` is what they are called inside.
pub struct IdMap {
    namespace: OwnedFd,
}

/// A mount that has no place yet.
pub struct Detached {
    tree: OwnedFd,
}

impl IdMap {
    pub fn new(from: u32, to: u32) -> io::Result<Self> {
        let sleeper = Sleeper::start()?;
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", sleeper.pid), format!("{from} {to} {IDS}"))?;
        }
        let namespace = fs::File::open(format!("/proc/{}/ns/user", sleeper.pid))?;
        Ok(Self { namespace: namespace.into() })
    }
}

impl Detached {
    /// A clone of the mount at `source`, without setuid programs and devices, and what is mounted below it left out.
    pub fn clone_of(source: &Path, access: Access, map: Option<&IdMap>) -> io::Result<Self> {
        let source = CString::new(source.as_os_str().as_bytes())?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: `source` is a C string that outlives the call.
        let tree = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) })?;
        // SAFETY: the kernel has just given this descriptor to us.
        let tree = unsafe { OwnedFd::from_raw_fd(tree as RawFd) };
        let mut attr_set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        if access == Access::ReadOnly {
            attr_set |= libc::MOUNT_ATTR_RDONLY;
        }
        let mut userns_fd = 0;
        if let Some(map) = map {
            attr_set |= libc::MOUNT_ATTR_IDMAP;
            userns_fd = map.namespace.as_raw_fd() as u64;
        }
        let attr = libc::mount_attr { attr_set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd };
        // SAFETY: the path is an empty C string, and `attr` has the size that is given.
        check(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attr,
                size_of::<libc::mount_attr>(),
            )
        })?;
        Ok(Self { tree })
    }

    /// Puts the mount over an open directory.
    pub fn attach(self, at: BorrowedFd<'_>) -> io::Result<()> {
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
        let empty = c"".as_ptr();
        // SAFETY: both paths are empty C strings.
        check(unsafe {
            libc::syscall(libc::SYS_move_mount, self.tree.as_raw_fd(), empty, at.as_raw_fd(), empty, flags)
        })?;
        Ok(())
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A process that does nothing but hold a user namespace of its own. It shares our memory and descriptors, so that it
/// costs a few microseconds, and must therefore never run more than the two system calls below.
struct Sleeper {
    pid: i32,
    _stack: Vec<u128>,
}

impl Sleeper {
    fn start() -> io::Result<Self> {
        extern "C" fn sleep(_: *mut libc::c_void) -> libc::c_int {
            // SAFETY: neither call touches memory. The first ends this process with the daemon; ppoll on nothing,
            // without a time-out, returns only on a signal.
            unsafe {
                libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
            }
            0
        }
        let mut stack = vec![0_u128; 1024];
        let top = stack.as_mut_ptr_range().end;
        // No signal at its end: whoever waits for children in this process must not see it.
        let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::CLONE_FILES;
        // SAFETY: the child runs `sleep` alone, on a stack that lives until `drop` has seen it end.
        let pid = unsafe { libc::clone(sleep, top.cast(), flags, std::ptr::null_mut()) };
        check(pid.into())?;
        Ok(Self { pid, _stack: stack })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // SAFETY: `pid` is a child that nobody else waits for, so the number is still its own.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}
