//! The system calls that no container may make. A list of denials in LXC's profile format: what an app needs is not
//! known, what it never needs is.

/// Everything here is refused with EPERM.
const DENIED: &[&str] = &[
    // Mounts, by the old door and the new one.
    "mount",
    "umount",
    "umount2",
    "pivot_root",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "mount_setattr",
    "swapon",
    "swapoff",
    // Other namespaces.
    "setns",
    // The kernel itself.
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "reboot",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "acct",
    "quotactl",
    "quotactl_fd",
    "nfsservctl",
    "lookup_dcookie",
    "syslog",
    "iopl",
    "ioperm",
    "settimeofday",
    "clock_settime",
    "clock_settime64",
    "clock_adjtime",
    "clock_adjtime64",
    "adjtimex",
    "vhangup",
    "_sysctl",
    "uselib",
    "vm86",
    "vm86old",
    // Keys are not per namespace.
    "add_key",
    "request_key",
    "keyctl",
    // File handles lead around mounts.
    "open_by_handle_at",
];

/// Refused with ENOSYS, at which programs turn to an older call whose arguments the filter can see.
const ABSENT: &[&str] = &["clone3", "socketcall", "io_uring_setup", "io_uring_enter", "io_uring_register"];

/// Kinds of namespaces that clone and unshare must not make: a user namespace is the way to all others.
const NEW_USER: u64 = libc::CLONE_NEWUSER as u64;

/// Address families that reach past the network namespace (vsock the hypervisor) or are known for their bugs.
const FAMILIES: &[i32] = &[
    libc::AF_VSOCK,
    libc::AF_ALG,
    libc::AF_KEY,
    libc::AF_RDS,
    libc::AF_TIPC,
    libc::AF_CAN,
    libc::AF_XDP,
    libc::AF_BLUETOOTH,
    libc::AF_NFC,
];

/// The profile as lxc.container.conf(5) describes it, version 2.
pub fn profile() -> String {
    let mut text = String::from("2\ndenylist\n[all]\n");
    for call in DENIED {
        text.push_str(&format!("{call} errno {}\n", libc::EPERM));
    }
    for call in ABSENT {
        text.push_str(&format!("{call} errno {}\n", libc::ENOSYS));
    }
    for call in ["clone", "unshare"] {
        text.push_str(&format!("{call} errno {} [0,{NEW_USER},SCMP_CMP_MASKED_EQ,{NEW_USER}]\n", libc::EPERM));
    }
    for family in FAMILIES {
        text.push_str(&format!("socket errno {} [0,{family},SCMP_CMP_EQ]\n", libc::EAFNOSUPPORT));
    }
    text
}
