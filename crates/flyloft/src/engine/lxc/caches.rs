//! Package caches: directories that outlive the build steps that fill them.
//!
//! A cache belongs to the app's user, so what it is known by lies beside it: `caches/<id>.used` was written when a
//! step last had it. None is removed while a step has it.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::container::APP;
use super::idmap::Access;
use super::mounts::Bind;
use super::places::Places;
use super::slots::Slot;
use super::tree::Usage;
use super::{step, tree};
use crate::engine::{CacheFacts, CacheId};

#[derive(Clone, Debug)]
pub struct Caches {
    dir: PathBuf,
    tmp: PathBuf,
    /// Whose ids own what is in them.
    keeper: Slot,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// How many steps have each.
    in_use: HashMap<CacheId, usize>,
    /// The size of each, and of when that is. To measure one is to walk it.
    measured: HashMap<CacheId, (SystemTime, Usage)>,
}

/// Caches that a step has, for as long as this lives.
pub struct Held {
    ids: Vec<CacheId>,
    caches: Caches,
}

impl Caches {
    pub fn new(places: &Places, keeper: Slot) -> Self {
        Self { dir: places.caches.clone(), tmp: places.tmp.clone(), keeper, state: Arc::default() }
    }

    /// Makes those that are missing, and says where they are mounted.
    pub fn take(&self, wanted: &[(CacheId, String)]) -> io::Result<(Held, Vec<Bind>)> {
        let mut state = self.state.lock().expect("not poisoned");
        let mut held = Held { ids: Vec::new(), caches: self.clone() };
        let taken = wanted.iter().map(|(id, target)| {
            *state.in_use.entry(id.clone()).or_default() += 1;
            held.ids.push(id.clone());
            self.make(id)?;
            let (source, target) = (self.dir.join(&id.0), step::inside(target)?);
            Ok(Bind { source, target, access: Access::ReadWrite, uid_base: Some(self.keeper.uid_base()) })
        });
        let binds = taken.collect::<io::Result<_>>();
        // What is held is given back under the same lock.
        drop(state);
        Ok((held, binds?))
    }

    fn make(&self, id: &CacheId) -> io::Result<()> {
        let dir = self.dir.join(&id.0);
        match DirBuilder::new().mode(0o755).create(&dir) {
            Ok(()) => {
                let app = self.keeper.uid_base() + APP;
                chown(&dir, Some(app), Some(app))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        self.mark(id)
    }

    fn mark(&self, id: &CacheId) -> io::Result<()> {
        File::create(self.marked(id))?.set_modified(SystemTime::now())
    }

    fn marked(&self, id: &CacheId) -> PathBuf {
        self.dir.join(format!("{id}.used"))
    }

    pub fn list(&self) -> io::Result<Vec<CacheFacts>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let Ok(id) = entry?.file_name().into_string().map(CacheId) else { continue };
            if id.check().is_ok() {
                found.extend(self.facts(id)?);
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// None if it has just been removed.
    fn facts(&self, id: CacheId) -> io::Result<Option<CacheFacts>> {
        let used = match fs::metadata(self.marked(&id)) {
            // It was made before there were marks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => SystemTime::UNIX_EPOCH,
            found => found?.modified()?,
        };
        let known = self.state.lock().expect("not poisoned").measured.get(&id).copied();
        let usage = match known {
            Some((then, usage)) if then == used => usage,
            _ => match tree::measure(&self.dir.join(&id.0)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                usage => usage?,
            },
        };
        self.state.lock().expect("not poisoned").measured.insert(id.clone(), (used, usage));
        Ok(Some(CacheFacts { id, bytes: usage.bytes, inodes: usage.inodes, used }))
    }

    /// Says whether it is gone: not if a step has it.
    pub fn remove(&self, id: &CacheId) -> io::Result<bool> {
        let mut state = self.state.lock().expect("not poisoned");
        if state.in_use.contains_key(id) {
            return Ok(false);
        }
        let aside = self.tmp.join(format!("cache-{id}"));
        tree::purge(&aside)?;
        match fs::rename(self.dir.join(&id.0), &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::remove_file(self.marked(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        state.measured.remove(id);
        // From here on a step that wants it has a new one.
        drop(state);
        tree::purge(&aside).map(|()| true)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.caches.state.lock().expect("not poisoned");
        for id in &self.ids {
            // It has another size now.
            if let Err(error) = self.caches.mark(id) {
                tracing::warn!(cache = %id, %error, "failed to note that a cache was used");
            }
            if let Some(count) = state.in_use.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    state.in_use.remove(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caches() -> (tempfile::TempDir, Caches) {
        let dir = tempfile::tempdir().unwrap();
        let (caches, tmp) = (dir.path().join("caches"), dir.path().join("tmp"));
        fs::create_dir(&caches).unwrap();
        fs::create_dir(&tmp).unwrap();
        let keeper = serde_json::from_str("0").unwrap();
        (dir, Caches { dir: caches, tmp, keeper, state: Arc::default() })
    }

    #[test]
    fn a_cache_is_removed_when_no_step_has_it_and_not_before() {
        let (dir, caches) = caches();
        let id = CacheId("shop-pip".to_owned());
        let wanted = [(id.clone(), "/cache".to_owned())];
        let (first, binds) = caches.take(&wanted).unwrap();
        let (second, _) = caches.take(&wanted).unwrap();
        fs::write(binds[0].source.join("wheel"), vec![0; 100_000]).unwrap();
        drop(first);
        assert!(!caches.remove(&id).unwrap());
        assert!(binds[0].source.join("wheel").exists());
        drop(second);
        assert!(caches.remove(&id).unwrap());
        assert_eq!(caches.list().unwrap(), []);
        for name in ["caches", "tmp"] {
            assert!(fs::read_dir(dir.path().join(name)).unwrap().next().is_none(), "{name} is empty");
        }
    }

    #[test]
    fn what_a_step_left_in_a_cache_is_counted() {
        let (_dir, caches) = caches();
        let (held, binds) = caches.take(&[(CacheId("shop-pip".to_owned()), "/cache".to_owned())]).unwrap();
        let before = caches.list().unwrap()[0].bytes;
        fs::write(binds[0].source.join("wheel"), vec![1; 100_000]).unwrap();
        drop(held);
        assert!(caches.list().unwrap()[0].bytes >= before + 100_000);
    }
}
