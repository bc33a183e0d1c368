//! Slots: which range of user ids, and which addresses, a container has.
//!
//! Several daemons live side by side on one machine, so slots are given out under one machine-wide lock in one
//! machine-wide directory. A file there is named after its slot and contains the directory of its owner; when that
//! directory is gone, so is the claim, unless a container runs that has the slot: then the directory is only hidden from
//! here, as one below a `/tmp` of somebody's own. Nothing else of a daemon is shared.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::net::{LINKS, NetConfig, slot_of_link};
use crate::engine::Addresses;

/// The machine-wide registry.
pub const REGISTRY: &str = "/var/lib/flyloft-slots";

/// Ids of a container: 0 to 65,535 inside.
pub const IDS: u32 = 65_536;

/// For so long a slot that was given back is nobody's, while there are others: a proxy that knew its addresses may still
/// have connections on which somebody asks for what was there.
const COOLS: Duration = Duration::from_secs(90);

/// Slots that there are: as many ranges as fit between here and 2³¹, above which some programs take ids for negative.
const COUNT: u16 = 4096;
const FIRST_ID: u32 = 0x7000_0000;

/// A container's number on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(u16);

impl Slot {
    /// The first and the last that there are.
    pub fn ends() -> [Self; 2] {
        [Self(0), Self(COUNT - 1)]
    }

    pub fn index(self) -> u16 {
        self.0
    }

    /// The host's id of the container's root.
    pub fn uid_base(self) -> u32 {
        FIRST_ID + u32::from(self.0) * IDS
    }

    /// Slot n has the n-th pair of addresses of the network's prefixes; the first pair is nobody's.
    pub fn addresses(self, network: &NetConfig) -> Addresses {
        let n = u32::from(self.0) + 1;
        Addresses {
            ipv4: Ipv4Addr::from_bits(network.ipv4.to_bits() + n),
            ipv6: Ipv6Addr::from_bits(network.ipv6.to_bits() + u128::from(n)),
        }
    }
}

/// The registry as one daemon sees it.
#[derive(Clone, Debug)]
pub struct Slots {
    dir: PathBuf,
    /// Has an entry for each link of the machine.
    links: PathBuf,
}

impl Slots {
    /// Opens the registry, reserves the id ranges for root where that has not been done, and drops stale claims.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Self::open_beside(dir, LINKS.as_ref())
    }

    fn open_beside(dir: &Path, links: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let slots = Self { dir: dir.to_owned(), links: links.to_owned() };
        let lock = slots.lock()?;
        for file in ["/etc/subuid", "/etc/subgid"] {
            reserve(Path::new(file))?;
        }
        slots.drop_stale()?;
        drop(lock);
        Ok(slots)
    }

    /// Gives a slot to the owner of an existing directory.
    pub fn take(&self, owner: &Path) -> io::Result<Slot> {
        let _lock = self.lock()?;
        let slot = match self.lowest_free()? {
            Some(slot) => slot,
            None => {
                self.drop_stale()?;
                self.lowest_free()?.ok_or_else(|| io::Error::other("all 4096 slots of this machine are taken"))?
            }
        };
        self.claim(slot, owner)?;
        Ok(slot)
    }

    /// Claims again a slot that this owner has had, in case its claim was lost. False if another has it now.
    pub fn hold(&self, slot: Slot, owner: &Path) -> io::Result<bool> {
        let _lock = self.lock()?;
        match self.owner(slot)? {
            Some(known) if known == owner => Ok(true),
            Some(known) if known.exists() => Ok(false),
            _ => self.claim(slot, owner).map(|()| true),
        }
    }

    /// Takes back what this owner has.
    pub fn give_back(&self, owner: &Path) -> io::Result<()> {
        let _lock = self.lock()?;
        for slot in self.taken()?.into_iter().map(Slot) {
            if self.owner(slot)?.as_deref() == Some(owner) {
                fs::rename(self.file(slot), self.freed(slot))?;
                File::create(self.freed(slot))?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Flock<File>> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.dir.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    fn file(&self, slot: Slot) -> PathBuf {
        self.dir.join(slot.0.to_string())
    }

    fn taken(&self) -> io::Result<BTreeSet<u16>> {
        let entries = fs::read_dir(&self.dir)?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }

    /// An empty file, as old as the time since the slot was given back.
    fn freed(&self, slot: Slot) -> PathBuf {
        self.dir.join(format!("freed-{}", slot.0))
    }

    fn lowest_free(&self) -> io::Result<Option<Slot>> {
        let taken = self.taken()?;
        let mut free = (0..COUNT).filter(|n| !taken.contains(n)).map(Slot);
        Ok(free.clone().find(|slot| !self.is_warm(*slot)).or_else(|| free.next()))
    }

    fn is_warm(&self, slot: Slot) -> bool {
        let freed = fs::metadata(self.freed(slot)).and_then(|file| file.modified());
        freed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < COOLS))
    }

    fn owner(&self, slot: Slot) -> io::Result<Option<PathBuf>> {
        match fs::read_to_string(self.file(slot)) {
            Ok(path) => Ok(Some(PathBuf::from(path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn claim(&self, slot: Slot, owner: &Path) -> io::Result<()> {
        let owner = owner.to_str().ok_or_else(|| io::Error::other("the state directory's path is not UTF-8"))?;
        fs::write(self.file(slot), owner)?;
        match fs::remove_file(self.freed(slot)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn drop_stale(&self) -> io::Result<()> {
        let linked = self.linked()?;
        for number in self.taken()? {
            let slot = Slot(number);
            // One that cannot be looked at may be there still.
            let is_gone = |owner: PathBuf| matches!(owner.try_exists(), Ok(false));
            if self.owner(slot)?.is_some_and(is_gone) && !linked.contains(&number) {
                fs::remove_file(self.file(slot))?;
            }
        }
        Ok(())
    }

    /// Slots of the containers that run, whichever daemon's.
    fn linked(&self) -> io::Result<BTreeSet<u16>> {
        let links = fs::read_dir(&self.links)?;
        Ok(links.filter_map(|link| slot_of_link(link.ok()?.file_name().to_str()?)).collect())
    }
}

/// LXC asks `newuidmap` for its ranges even as root, and that grants only what this file gives to root.
fn reserve(file: &Path) -> io::Result<()> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if grants_all(&text) {
        return Ok(());
    }
    let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let line = format!("{separator}root:{FIRST_ID}:{}\n", u32::from(COUNT) * IDS);
    OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())
}

/// Whether a line of a subuid(5) file gives root all the ids of all slots.
fn grants_all(text: &str) -> bool {
    let end = u64::from(FIRST_ID) + u64::from(COUNT) * u64::from(IDS);
    text.lines().any(|line| {
        let mut fields = line.split(':');
        let (who, from, count) = (fields.next(), fields.next(), fields.next());
        let number = |field: Option<&str>| field.and_then(|field| field.trim().parse::<u64>().ok());
        matches!(who, Some("root" | "0"))
            && number(from)
                .zip(number(count))
                .is_some_and(|(from, count)| from <= FIRST_ID.into() && from + count >= end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn two_owners_never_share_a_slot_and_a_slot_is_free_again_when_its_owner_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, links) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("links"));
        [&one, &two, &links].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let slots = Slots { dir: dir.path().to_owned(), links: links.clone() };
        let first = slots.take(&one).unwrap();
        let second = slots.take(&two).unwrap();
        assert_ne!(first, second);
        assert!(!slots.hold(first, &two).unwrap(), "the owner is there");
        fs::remove_dir(&one).unwrap();
        let link = links.join(format!("fl1f3a9c{}", first.index()));
        fs::create_dir(&link).unwrap();
        slots.drop_stale().unwrap();
        assert_eq!(slots.owner(first).unwrap(), Some(one.clone()), "its container runs, so it is only hidden");
        fs::remove_dir(&link).unwrap();
        slots.drop_stale().unwrap();
        assert_eq!(slots.take(&two).unwrap(), first);
        slots.give_back(&one).unwrap();
        assert!(slots.owner(second).unwrap().is_some(), "only its owner gives it back");
        slots.give_back(&two).unwrap();
        assert_eq!(slots.owner(second).unwrap(), None);
    }

    #[test]
    fn what_was_just_given_back_is_taken_last() {
        let dir = tempfile::tempdir().unwrap();
        let (owner, links) = (dir.path().join("one"), dir.path().join("links"));
        [&owner, &links].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let slots = Slots { dir: dir.path().to_owned(), links };
        let first = slots.take(&owner).unwrap();
        slots.give_back(&owner).unwrap();
        assert!(fs::read(slots.freed(first)).unwrap().is_empty(), "nothing is left of its owner");
        let second = slots.take(&owner).unwrap();
        assert_ne!(first, second);
        let long_ago = SystemTime::now() - COOLS;
        File::open(slots.freed(first)).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(slots.take(&owner).unwrap(), first);
        assert!(!slots.freed(first).exists());
        // Where there is no other, it is as good as any.
        slots.give_back(&owner).unwrap();
        for number in 2..COUNT {
            slots.claim(Slot(number), &owner).unwrap();
        }
        assert_eq!(slots.take(&owner).unwrap(), first);
    }

    #[test]
    fn the_next_daemon_that_starts_takes_back_what_a_state_directory_had_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let [gone, kept] = ["gone", "kept"].map(|name| dir.path().join(name).join("engine/containers/web"));
        let registry = dir.path().join("registry");
        let open = || Slots::open_beside(&registry, dir.path()).unwrap();
        let slots = open();
        let [lost, held] = [&gone, &kept].map(|owner| {
            fs::create_dir_all(owner).unwrap();
            slots.take(owner).unwrap()
        });
        fs::remove_dir_all(dir.path().join("gone")).unwrap();
        let next = open();
        assert_eq!(next.owner(lost).unwrap(), None);
        assert_eq!(next.owner(held).unwrap(), Some(kept));
    }

    #[test]
    fn every_range_is_below_two_to_the_31() {
        assert_eq!(Slot(COUNT - 1).uid_base() + (IDS - 1), i32::MAX as u32);
    }

    #[test]
    fn a_grant_counts_only_if_it_is_roots_and_covers_every_slot() {
        assert!(grants_all("alice:100000:65536\nroot:1879048192:268435456\n"));
        assert!(grants_all("root:1000000000:2000000000"));
        assert!(!grants_all("alice:1879048192:268435456\n"));
        assert!(!grants_all("root:1879048192:65536\n"));
    }
}
