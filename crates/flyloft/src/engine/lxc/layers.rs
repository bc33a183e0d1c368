//! The store of layers.
//!
//! `layers/<id>/` has `meta.json` and `tree/`. A layer is made aside, in `tmp/`, and renamed into place when it is
//! whole, so that nobody ever sees half of one. Its data reaches the disk a little later: until that is certain a
//! file `unsynced` names the boot of the machine, and a layer of another boot that still has one is dropped.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::mounts::Lower;
use super::places::Places;
use super::tree::{self, Usage};
use crate::engine::{Image, LayerId};

/// What is known about a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub title: String,
    pub on: Image,
    /// The host's id of the root that its files were made for; 0 for those of the host itself.
    pub uid_base: u32,
    pub bytes: u64,
    pub inodes: u64,
    /// Seconds since 1970.
    pub made_at: u64,
}

#[derive(Clone, Debug)]
pub struct Layers {
    dir: PathBuf,
    tmp: PathBuf,
    boot: String,
    /// How often each layer is held.
    held: Arc<Mutex<HashMap<LayerId, usize>>>,
}

/// Layers that are not removed for as long as this lives: between the moment when somebody looks whether they are
/// there and the moment when a record says that a container uses them.
pub struct Hold {
    image: Image,
    held: Arc<Mutex<HashMap<LayerId, usize>>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.held.lock().expect("not poisoned");
        for id in &self.image {
            if let Some(count) = held.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    held.remove(id);
                }
            }
        }
    }
}

impl Layers {
    /// Opens the store, and drops what was being made when the daemon or the machine went down. Gives the layers too
    /// that still have to be flushed to disk.
    pub fn open(places: &Places) -> io::Result<(Self, Vec<LayerId>)> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let layers = Self { dir: places.layers.clone(), tmp: places.tmp.clone(), boot, held: Arc::default() };
        for entry in fs::read_dir(&layers.tmp)? {
            tree::purge(&entry?.path())?;
        }
        let mut unsynced = Vec::new();
        for id in layers.list()? {
            match fs::read_to_string(layers.home(&id).join("unsynced")) {
                Ok(boot) if boot == layers.boot => unsynced.push(id),
                Ok(_) => layers.remove(&id)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok((layers, unsynced))
    }

    /// What has a name that no layer has, as `lost+found`, is none.
    pub fn list(&self) -> io::Result<Vec<LayerId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            ids.extend(entry?.file_name().into_string().ok().map(LayerId).filter(|id| id.check().is_ok()));
        }
        ids.sort();
        Ok(ids)
    }

    pub fn has(&self, id: &LayerId) -> bool {
        self.home(id).exists()
    }

    pub fn meta(&self, id: &LayerId) -> io::Result<Meta> {
        Ok(serde_json::from_slice(&fs::read(self.home(id).join("meta.json"))?)?)
    }

    /// Keeps the image's layers from being removed.
    pub fn hold(&self, image: &[LayerId]) -> Hold {
        let mut held = self.held.lock().expect("not poisoned");
        for id in image {
            *held.entry(id.clone()).or_default() += 1;
        }
        Hold { image: image.to_vec(), held: self.held.clone() }
    }

    /// Removes the layer unless it is held or `used` says that it is in use. Says whether it is gone.
    pub fn remove_unused(&self, id: &LayerId, used: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        let held = self.held.lock().expect("not poisoned");
        if held.contains_key(id) || used()? {
            return Ok(false);
        }
        let aside = self.put_away(id)?;
        drop(held);
        tree::purge(&aside).map(|()| true)
    }

    /// What a container needs of an image to mount it, or the layer that is missing.
    pub fn lower(&self, image: &Image) -> Result<Vec<Lower>, (LayerId, io::Error)> {
        let lower = |id: &LayerId| match self.meta(id) {
            Ok(meta) => Ok(Lower { tree: self.home(id).join("tree"), uid_base: meta.uid_base }),
            Err(error) => Err((id.clone(), error)),
        };
        image.iter().map(lower).collect()
    }

    /// A new directory to make a layer in. It is empty, and goes with the value unless it was published.
    pub fn aside(&self, id: &LayerId) -> io::Result<Aside> {
        let dir = self.tmp.join(&id.0);
        tree::purge(&dir)?;
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Aside { dir })
    }

    /// Makes the layer visible whose files are in `tree/` of `aside`.
    pub fn publish(&self, id: &LayerId, aside: Aside, meta: &Meta) -> io::Result<()> {
        fs::write(aside.dir.join("meta.json"), serde_json::to_vec_pretty(meta)?)?;
        fs::write(aside.dir.join("unsynced"), &self.boot)?;
        fs::rename(&aside.dir, self.home(id))
    }

    /// Flushes the layer to disk, while the caller goes on.
    pub fn sync_soon(&self, id: LayerId) {
        let layers = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = layers.sync(&id) {
                tracing::error!(layer = %id, %error, "failed to flush a layer to disk");
            }
        });
    }

    /// Waits until the layer is on disk for good.
    fn sync(&self, id: &LayerId) -> io::Result<()> {
        let dir = File::open(self.home(id))?;
        // SAFETY: syncfs(2) takes a descriptor, which is open.
        if unsafe { libc::syncfs(dir.as_raw_fd()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        match fs::remove_file(self.home(id).join("unsynced")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn remove(&self, id: &LayerId) -> io::Result<()> {
        tree::purge(&self.put_away(id)?)
    }

    /// From here on nobody sees it.
    fn put_away(&self, id: &LayerId) -> io::Result<PathBuf> {
        let aside = self.tmp.join(format!("{id}.old"));
        tree::purge(&aside)?;
        match fs::rename(self.home(id), &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(aside),
        }
    }

    fn home(&self, id: &LayerId) -> PathBuf {
        self.dir.join(&id.0)
    }
}

/// See [`Layers::aside`].
#[derive(Debug)]
pub struct Aside {
    pub dir: PathBuf,
}

impl Aside {
    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Published, it is elsewhere. What cannot be removed now goes when the store is opened next.
        let _ = tree::purge(&self.dir);
    }
}

impl Meta {
    pub fn new(title: &str, on: &Image, uid_base: u32, usage: Usage) -> Self {
        let made_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let title = title.to_owned();
        Self { title, on: on.clone(), uid_base, bytes: usage.bytes, inodes: usage.inodes, made_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Layers) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["layers", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let layers = Layers {
            dir: dir.path().join("layers"),
            tmp: dir.path().join("tmp"),
            boot: "this boot".to_owned(),
            held: Arc::default(),
        };
        (dir, layers)
    }

    fn make(layers: &Layers, name: &str) -> LayerId {
        let id = LayerId(name.to_owned());
        let aside = layers.aside(&id).unwrap();
        fs::create_dir(aside.tree()).unwrap();
        layers.publish(&id, aside, &Meta::new("a layer", &vec![], 0, Usage::default())).unwrap();
        id
    }

    #[test]
    fn a_layer_is_there_when_it_is_published_and_not_before() {
        let (_dir, layers) = store();
        let id = LayerId("aa".to_owned());
        let aside = layers.aside(&id).unwrap();
        assert!(layers.list().unwrap().is_empty());
        drop(aside);
        assert!(fs::read_dir(&layers.tmp).unwrap().next().is_none(), "what was not published is gone");
        let id = make(&layers, "bb");
        assert_eq!(layers.list().unwrap(), std::slice::from_ref(&id));
        let hold = layers.hold(std::slice::from_ref(&id));
        assert!(!layers.remove_unused(&id, || Ok(false)).unwrap());
        drop(hold);
        assert!(!layers.remove_unused(&id, || Ok(true)).unwrap());
        assert!(layers.has(&id));
        assert!(layers.remove_unused(&id, || Ok(false)).unwrap());
        assert!(!layers.has(&id));
    }

    #[test]
    fn a_layer_that_may_have_been_lost_with_the_machine_is_dropped_and_one_on_disk_is_kept() {
        let (dir, layers) = store();
        let (lost, kept) = (make(&layers, "aa"), make(&layers, "bb"));
        layers.sync(&kept).unwrap();
        fs::write(layers.home(&lost).join("unsynced"), "the boot before").unwrap();
        let mut places = Places::open(dir.path()).unwrap();
        (places.layers, places.tmp) = (layers.dir.clone(), layers.tmp.clone());
        let (layers, unsynced) = Layers::open(&places).unwrap();
        assert_eq!(layers.list().unwrap(), [kept]);
        assert_eq!(unsynced, []);
    }
}
