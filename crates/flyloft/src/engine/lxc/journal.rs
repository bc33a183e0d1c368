//! What LXC itself has to say about a container: `lxc.log` in its home, and `lxc.log.1` of the start before.
//!
//! LXC appends to it for as long as the container lives, and bounds nothing. So each start begins a new one, and what
//! grows too large while a container runs is cut off: LXC opens it for appending, and goes on at the new end.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use super::places::Home;

/// Bytes of one. What it is for are the few lines about a start that failed.
const MOST: u64 = 1 << 20;

fn before(home: &Home) -> PathBuf {
    home.dir.join("lxc.log.1")
}

/// Puts aside what the last start has said.
pub fn begin(home: &Home) -> io::Result<()> {
    match fs::rename(home.lxc_log(), before(home)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Cuts off what has grown too large.
pub fn bound(home: &Home) -> io::Result<()> {
    let size = match fs::metadata(home.lxc_log()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        log => log?.len(),
    };
    if size > MOST { File::options().write(true).open(home.lxc_log())?.set_len(0) } else { Ok(()) }
}

/// Why the start failed, in a few lines.
pub fn reasons(home: &Home) -> Option<String> {
    let log = fs::read_to_string(home.lxc_log()).unwrap_or_default();
    let reasons: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).take(3).collect();
    (!reasons.is_empty()).then(|| reasons.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_begins_a_new_one_and_what_failed_before_is_no_reason_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home { dir: dir.path().to_owned(), name: "fl-a1-web.c".to_owned() };
        begin(&home).unwrap();
        assert_eq!(reasons(&home), None);
        fs::write(home.lxc_log(), "web WARN a\nweb ERROR b\nweb ERROR c\nweb ERROR d\nweb ERROR e\n").unwrap();
        assert_eq!(reasons(&home).unwrap(), "web ERROR b\nweb ERROR c\nweb ERROR d");
        for _ in 0..3 {
            begin(&home).unwrap();
            assert_eq!(reasons(&home), None);
            fs::write(home.lxc_log(), "web WARN a\n").unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
