//! What the kernel tells of a process or a thread in one line (proc_pid_stat(5)).

use std::fs;
use std::path::Path;

pub struct Stat {
    /// What its program is called, which may contain anything.
    pub name: String,
    /// `D` if it waits for the kernel, `T` if it is stopped, `R` if it runs.
    pub state: char,
    pub parent: i32,
    /// Ticks, in its own code and in the kernel's.
    pub ran: u64,
    /// Ticks from the boot to its start.
    pub started: u64,
}

impl Stat {
    /// `None` if it has ended.
    pub fn of(pid: i32) -> Option<Self> {
        Self::read(format!("/proc/{pid}/stat"))
    }

    pub fn of_thread(dir: &Path) -> Option<Self> {
        Self::read(dir.join("stat"))
    }

    fn read(file: impl AsRef<Path>) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&fs::read(file).ok()?))
    }

    fn parse(text: &str) -> Option<Self> {
        let (start, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            name: start.split_once('(')?.1.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            ran: number(11)? + number(12)?,
            started: number(19)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_in_it_hides_nothing() {
        let stat = Stat::parse("7 (a) R 1 (b) S 3 7 7 0 -1 4194304 1 0 0 0 12 30 0 0 20 0 1 0 555 0 0\n").unwrap();
        assert_eq!((&*stat.name, stat.state, stat.parent, stat.ran, stat.started), ("a) R 1 (b", 'S', 3, 42, 555));
        assert!(Stat::parse("7 (a) S 3 7").is_none());
    }
}
