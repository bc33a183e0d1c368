//! Files without a name: deleted, and still open in a container or mapped there. They take space, and no walk over a
//! tree finds them.
//!
//! Nothing is opened, and no name that the container chose is followed: the links of `/proc` lead to the open file
//! itself, and the kernel answers with what it knows, without asking whoever serves the file system.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::cgroup::Groups;
use super::places::Home;
use super::tree::Usage;

/// Descriptors and mappings that are looked at in one container. Whoever has more hides something: it counts as using
/// everything, so that whoever watches a limit acts.
const MOST: usize = 1_000_000;

/// Sums up what the container's processes hold. Those that end meanwhile do not matter.
pub fn measure(home: &Home, groups: &Groups) -> io::Result<Usage> {
    // Its own files are seen through overlayfs, a cache as it is. Anything else is memory, which has its own limit.
    let devices = [fs::metadata(home.merged())?.dev(), fs::metadata(home.upper())?.dev()];
    let mut count = Count { devices, seen: HashSet::new(), usage: Usage::default(), left: MOST };
    for pid in groups.processes()? {
        let process = format!("/proc/{pid}");
        for task in entries(&format!("{process}/task")) {
            // Threads share their descriptors unless they have parted on purpose, or the first has ended.
            let tid = task.parse().unwrap_or(pid);
            if tid == pid || !shares_files(pid, tid) {
                let files = format!("{process}/task/{task}/fd");
                entries(&files).for_each(|fd| count.add(&format!("{files}/{fd}")));
            }
        }
        for mapping in deleted_mappings(&process) {
            count.add(&format!("{process}/map_files/{mapping}"));
        }
        if count.left == 0 {
            return Ok(Usage { bytes: u64::MAX, inodes: u64::MAX });
        }
    }
    Ok(count.usage)
}

struct Count {
    devices: [u64; 2],
    seen: HashSet<u64>,
    usage: Usage,
    left: usize,
}

impl Count {
    fn add(&mut self, link: &str) {
        self.left = self.left.saturating_sub(1);
        let Some(file) = (self.left > 0).then(|| stat(link)).flatten() else { return };
        let device = libc::makedev(file.stx_dev_major, file.stx_dev_minor);
        let regular = u32::from(file.stx_mode) & libc::S_IFMT == libc::S_IFREG;
        // overlayfs shows the number that the file has in the layer, so a file counts once on whatever way it is seen.
        if regular && file.stx_nlink == 0 && self.devices.contains(&device) && self.seen.insert(file.stx_ino) {
            self.usage.inodes += 1;
            self.usage.bytes += file.stx_blocks * 512;
        }
    }
}

/// What is known of the file that a link of `/proc` leads to, without a question to a file system that may hang.
fn stat(link: &str) -> Option<libc::statx> {
    let path = CString::new(link).ok()?;
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: `statx` is plain numbers, for which zero is a value.
    let mut file = unsafe { std::mem::zeroed::<libc::statx>() };
    // SAFETY: the path ends with a NUL and `file` is ours; both outlive the call.
    let answer = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_BASIC_STATS, &mut file) };
    (answer == 0).then_some(file)
}

/// kcmp(2). Where the kernel does not say, they do not: what is looked at twice counts once.
fn shares_files(one: i32, other: i32) -> bool {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: kcmp(2) takes numbers.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) == 0 }
}

fn entries(dir: &str) -> impl Iterator<Item = String> {
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

/// Names in `map_files` of the mappings that the kernel says are of deleted files (proc_pid_maps(5)). A hostile name may
/// end so too, and is looked at for nothing.
fn deleted_mappings(process: &str) -> Vec<String> {
    let Ok(maps) = File::open(Path::new(process).join("maps")) else { return Vec::new() };
    let lines = BufReader::new(maps).split(b'\n').map_while(Result::ok);
    lines.filter(|line| line.ends_with(b" (deleted)")).filter_map(|line| mapping(&line)).take(MOST).collect()
}

/// `00400000-00452000` at the start of a line is `400000-452000` in `map_files`.
fn mapping(line: &[u8]) -> Option<String> {
    let range = std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?;
    let (from, to) = range.split_once('-')?;
    let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16));
    Some(format!("{:x}-{:x}", from.ok()?, to.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_named_without_the_zeros_that_fill_its_line() {
        let line = b"00400000-00452000 r-xp 00000000 08:02 173521      /app/a b (deleted)";
        assert_eq!(mapping(line).unwrap(), "400000-452000");
        assert_eq!(mapping(b"garbage"), None);
    }
}
