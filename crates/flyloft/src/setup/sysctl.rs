//! Kernel parameters: written down for every boot (sysctl.d(5)), and set now.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Step, file};
use crate::machine::Network;

const FILE: &str = "/etc/sysctl.d/60-flyloft.conf";

/// A parameter as sysctl(8) names it, its value, and why.
type Parameter = (String, &'static str, &'static str);

pub fn arrange(network: &Network) -> Vec<Step> {
    arrange_at(Path::new(FILE), Path::new("/proc/sys"), &parameters(network))
}

/// What should be set. Pure.
fn parameters(network: &Network) -> Vec<Parameter> {
    let fixed = [
        ("net.ipv4.ip_forward", "1", "Packets of environments go in and out."),
        ("net.ipv6.conf.all.forwarding", "1", ""),
        (
            "net.ipv4.neigh.default.gc_thresh1",
            "1024",
            "Each environment is a neighbour; the kernel starts to forget them beyond these.",
        ),
        ("net.ipv4.neigh.default.gc_thresh2", "4096", ""),
        ("net.ipv4.neigh.default.gc_thresh3", "8192", ""),
        ("net.ipv6.neigh.default.gc_thresh1", "1024", ""),
        ("net.ipv6.neigh.default.gc_thresh2", "4096", ""),
        ("net.ipv6.neigh.default.gc_thresh3", "8192", ""),
        (
            "fs.inotify.max_user_instances",
            "65536",
            "What all environments together may watch counts against root, who made their namespaces.",
        ),
        ("fs.inotify.max_user_watches", "1048576", ""),
        ("kernel.pty.max", "65536", "Each environment has a terminal, to which LXC attaches its output."),
        ("kernel.pid_max", "4194304", "Each has some processes, asleep too."),
        ("vm.page-cluster", "0", "Pages in compressed memory are read one by one: there is no seek to save."),
    ];
    let mut parameters: Vec<Parameter> = Vec::new();
    // Without this the kernel drops the uplink's own route once it forwards (ip-sysctl, accept_ra). Where a network
    // manager reads the advertisements itself, the kernel's is 0 and stays so.
    if let Some(uplink) = network.ipv6.as_ref().filter(|uplink| matches!(uplink.accept_ra, Some(1 | 2))) {
        let interface = uplink.interface.replace('.', "/");
        let why = "The uplink goes on reading router advertisements although the kernel forwards.";
        parameters.push((format!("net.ipv6.conf.{interface}.accept_ra"), "2", why));
    }
    parameters.extend(fixed.map(|(name, value, why)| (name.to_owned(), value, why)));
    parameters
}

fn render(parameters: &[Parameter]) -> String {
    let mut text = "# Written by `flyloft setup`; put your own into a file that sorts after this one.\n".to_owned();
    for (name, value, why) in parameters {
        if !why.is_empty() {
            text.push_str(&format!("\n# {why}\n"));
        }
        // A `-` in front: a kernel without the parameter is no failure.
        text.push_str(&format!("-{name} = {value}\n"));
    }
    text
}

fn arrange_at(file: &Path, proc: &Path, parameters: &[Parameter]) -> Vec<Step> {
    let shown = file.display();
    let written = match file::ensure(file, &render(parameters), 0o644) {
        Ok(written) => written,
        Err(error) => return vec![Step::because("kernel parameters", format!("failed to write {shown}"), &error)],
    };
    let mut changed = Vec::new();
    for (name, value, _) in parameters {
        match set(&in_proc(proc, name), value) {
            Ok(false) => {}
            Ok(true) => changed.push(name.as_str()),
            Err(error) => return vec![Step::because("kernel parameters", format!("failed to set {name}"), &error)],
        }
    }
    vec![if !changed.is_empty() {
        Step::done("kernel parameters", format!("set {}", changed.join(", ")))
    } else if written {
        Step::done("kernel parameters", format!("wrote {shown}"))
    } else {
        Step::already("kernel parameters", format!("as {shown} says"))
    }]
}

/// Sets a parameter that the kernel has. True if it said something else before.
fn set(path: &Path, value: &str) -> io::Result<bool> {
    let old = match fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if old.trim() == value {
        return Ok(false);
    }
    fs::write(path, value).map(|()| true)
}

/// In a name `/` and `.` change places (sysctl.d(5)), so that interfaces may have dots.
fn in_proc(proc: &Path, name: &str) -> PathBuf {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    proc.join(name.chars().map(swap).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::network::Uplink;
    use crate::setup::Outcome;

    fn uplink(accept_ra: u64) -> Network {
        let uplink = Uplink { interface: "eth0.7".to_owned(), forwards: false, accept_ra: Some(accept_ra) };
        Network { ipv6: Some(uplink), ..Network::default() }
    }

    #[test]
    fn the_file_says_why() {
        insta::assert_snapshot!(render(&parameters(&uplink(1))), @r#"
        # Written by `flyloft setup`; put your own into a file that sorts after this one.

        # The uplink goes on reading router advertisements although the kernel forwards.
        -net.ipv6.conf.eth0/7.accept_ra = 2

        # Packets of environments go in and out.
        -net.ipv4.ip_forward = 1
        -net.ipv6.conf.all.forwarding = 1

        # Each environment is a neighbour; the kernel starts to forget them beyond these.
        -net.ipv4.neigh.default.gc_thresh1 = 1024
        -net.ipv4.neigh.default.gc_thresh2 = 4096
        -net.ipv4.neigh.default.gc_thresh3 = 8192
        -net.ipv6.neigh.default.gc_thresh1 = 1024
        -net.ipv6.neigh.default.gc_thresh2 = 4096
        -net.ipv6.neigh.default.gc_thresh3 = 8192

        # What all environments together may watch counts against root, who made their namespaces.
        -fs.inotify.max_user_instances = 65536
        -fs.inotify.max_user_watches = 1048576

        # Each environment has a terminal, to which LXC attaches its output.
        -kernel.pty.max = 65536

        # Each has some processes, asleep too.
        -kernel.pid_max = 4194304

        # Pages in compressed memory are read one by one: there is no seek to save.
        -vm.page-cluster = 0
        "#);
    }

    #[test]
    fn the_uplink_keeps_its_route_before_forwarding_is_switched_on() {
        let names = |network| parameters(&network).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
        let with_kernel = names(uplink(1));
        assert_eq!(with_kernel[0], "net.ipv6.conf.eth0/7.accept_ra");
        let place = |name: &str| with_kernel.iter().position(|n| n == name);
        assert!(place("net.ipv6.conf.all.forwarding") > Some(0));
        assert_eq!(names(uplink(2)), with_kernel, "a second run keeps it");
        assert!(!names(uplink(0))[0].contains("accept_ra"), "somebody else reads them");
        assert!(!names(Network::default())[0].contains("accept_ra"));
    }

    #[test]
    fn parameters_are_set_once_and_a_missing_one_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (file, proc) = (dir.path().join("60.conf"), dir.path().join("proc"));
        fs::create_dir_all(proc.join("net/ipv6/conf/eth0.7")).unwrap();
        let accept = proc.join("net/ipv6/conf/eth0.7/accept_ra");
        fs::write(&accept, "1\n").unwrap();
        let wanted = parameters(&uplink(1));
        assert_eq!(arrange_at(&file, &proc, &wanted)[0].outcome, Outcome::Done);
        assert_eq!(fs::read_to_string(&accept).unwrap(), "2");
        assert_eq!(arrange_at(&file, &proc, &wanted)[0].outcome, Outcome::AlreadySo);
        assert_eq!(fs::read_to_string(&file).unwrap(), render(&wanted));
    }
}
