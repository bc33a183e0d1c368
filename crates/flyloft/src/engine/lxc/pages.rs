//! The memory of a process, mapping by mapping: what of it is nobody else's.
//!
//! Files are on disk already and are shared with whoever else reads them, so they are left alone. Everything else would
//! be lost without swap: private memory, pages of files that the process has changed for itself, and shared memory
//! without a name.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// A mapping with memory that is not a file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub addresses: Range<u64>,
    pub kind: Kind,
    /// Bytes in memory, and bytes in swap, that are not a file's.
    pub present: u64,
    pub swapped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Anonymous,
    /// A file's, of which the process has changed pages for itself.
    PrivateFile,
    /// Shared by processes that were given it by one another.
    SharedMemory,
}

/// Reads `/proc/PID/smaps` (proc_pid_smaps(5)). A process that has ended has none.
pub fn mappings(pid: i32) -> io::Result<Vec<Mapping>> {
    parse(BufReader::with_capacity(1 << 16, File::open(format!("/proc/{pid}/smaps"))?))
}

fn parse(smaps: impl BufRead) -> io::Result<Vec<Mapping>> {
    let mut found: Vec<Mapping> = Vec::new();
    // Whether the lines below a mapping's first one are of interest.
    let mut open = false;
    for line in smaps.split(b'\n') {
        // A file's name need not be UTF-8.
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let Some((name, rest)) = line.split_once(char::is_whitespace) else { continue };
        if let Some(field) = name.strip_suffix(':') {
            let Some(mapping) = found.last_mut().filter(|_| open) else { continue };
            let size = || rest.trim().trim_end_matches(" kB").parse::<u64>().map_or(0, |kib| kib << 10);
            match (field, mapping.kind) {
                ("Anonymous", Kind::Anonymous | Kind::PrivateFile) | ("Rss", Kind::SharedMemory) => {
                    mapping.present = size();
                }
                ("Swap", _) => mapping.swapped = size(),
                _ => {}
            }
        } else {
            found.pop_if(|mapping| mapping.present + mapping.swapped == 0);
            let head = head(name, rest);
            open = head.is_some();
            found.extend(head);
        }
    }
    found.pop_if(|mapping| mapping.present + mapping.swapped == 0);
    Ok(found)
}

/// `7f00-7f10 rw-p 00000000 08:01 42   /a/name`, of which the first word is cut off already.
fn head(addresses: &str, rest: &str) -> Option<Mapping> {
    let (from, to) = addresses.split_once('-')?;
    let addresses = u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?;
    let mut fields = rest.split_whitespace();
    let (permissions, inode, name) = (fields.next()?, fields.nth(2)?, fields.next().unwrap_or_default());
    let kind = match (permissions.ends_with('s'), inode == "0") {
        // The kernel's own pages, which it maps into every process.
        (false, true) if name.starts_with("[v") => return None,
        (false, true) => Kind::Anonymous,
        (false, false) => Kind::PrivateFile,
        // What mmap(2), memfd_create(2) and shmget(2) make; a file that is called so is none the worse for it.
        (true, _) if ["/dev/zero", "/memfd:", "/SYSV"].iter().any(|start| name.starts_with(start)) => {
            Kind::SharedMemory
        }
        (true, _) => return None,
    };
    Some(Mapping { addresses, kind, present: 0, swapped: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55d4 r-xp 00000000 fe:00 1234                       /usr/bin/python3 (deleted)
Size:                 16 kB
Rss:                  16 kB
Anonymous:             0 kB
Swap:                  0 kB
55d4-55d8 rw-p 00004000 fe:00 1234                       /usr/bin/a name: with it
Rss:                  16 kB
Anonymous:             8 kB
Swap:                  4 kB
VmFlags: rd wr mr mw me ac
55d8-55f0 rw-p 00000000 00:00 0                          [heap]
Rss:                  60 kB
Anonymous:            60 kB
Swap:                  0 kB
7f00-7f10 rw-s 00000000 00:01 77                         /dev/zero (deleted)
Rss:                  40 kB
Anonymous:             0 kB
Swap:                  8 kB
7f10-7f20 rw-s 00000000 fe:00 99                         /app/database
Rss:                  64 kB
Swap:                  0 kB
7f20-7f24 r--p 00000000 00:00 0                          [vvar]
Anonymous:             4 kB
7f24-7f28 rw-p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
";

    #[test]
    fn what_is_not_a_files_is_found_and_nothing_else() {
        let found = parse(SMAPS.as_bytes()).unwrap();
        let mapping = |from, to, kind, present: u64, swapped: u64| Mapping {
            addresses: from..to,
            kind,
            present: present << 10,
            swapped: swapped << 10,
        };
        let expected = [
            mapping(0x55d4, 0x55d8, Kind::PrivateFile, 8, 4),
            mapping(0x55d8, 0x55f0, Kind::Anonymous, 60, 0),
            mapping(0x7f00, 0x7f10, Kind::SharedMemory, 40, 8),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_memory_of_a_process_is_found_where_it_is() {
        let memory = vec![7_u8; 8 << 20];
        let at = memory.as_ptr() as u64;
        let mappings = mappings(std::process::id() as i32).unwrap();
        let mapping = mappings.iter().find(|mapping| mapping.addresses.contains(&(at + (1 << 20)))).unwrap();
        assert_eq!(mapping.kind, Kind::Anonymous);
        assert!(mapping.present + mapping.swapped >= 8 << 20, "{mapping:?}");
    }
}
