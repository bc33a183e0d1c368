//! What the engine in memory does with each verb.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use flyloft_core::disk::{Space, Unit};
use flyloft_core::lifecycle::Depth;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{CACHE, Container, FILES, Fake, LAYER, MEMORY};
use crate::engine::{
    Abilities, Addresses, CacheFacts, CacheId, ContainerId, ContainerSpec, ContainerState, Derivation, Engine,
    EngineError, Exec, ExecControl, ExecSpec, Filling, Held, LayerFacts, LayerId, Observed, Published, Reach, Recipe,
    Staging, Stats, Thawed, Usage, VolumeId,
};
use crate::transcript::Transcript;

#[async_trait]
impl Engine for Fake {
    fn abilities(&self) -> Abilities {
        Abilities { name: "fake", freeze: true, compress: true, write_out: true, disk_quota: false }
    }

    fn staging(&self) -> Staging {
        let dir = self.staging.get_or_init(|| tempfile::tempdir().unwrap());
        Staging { dir: dir.path().to_owned(), user: nix::unistd::geteuid().as_raw() }
    }

    fn space(&self, unit: Unit) -> Result<Space, EngineError> {
        let memory = self.memory();
        Ok(match unit {
            Unit::Bytes => memory.disk.bytes,
            Unit::Inodes => memory.disk.inodes,
        })
    }

    async fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        let mut memory = self.memory();
        memory.looks += memory.containers.len();
        Ok(memory.containers.values().map(Container::observed).collect())
    }

    async fn containers(&self) -> Result<Vec<ContainerId>, EngineError> {
        Ok(self.memory().containers.keys().cloned().collect())
    }

    async fn find(&self, id: &ContainerId) -> Result<Option<Observed>, EngineError> {
        let mut memory = self.memory();
        memory.looks += 1;
        Ok(memory.containers.get(id).map(Container::observed))
    }

    async fn excess(&self) {
        self.excess.notified().await;
    }

    async fn ended(&self) -> ContainerId {
        loop {
            if let Some(id) = self.ended.1.lock().unwrap().pop_front() {
                return id;
            }
            self.ended.0.notified().await;
        }
    }

    async fn layers(&self) -> Result<Vec<LayerId>, EngineError> {
        Ok(self.memory().layers.keys().cloned().collect())
    }

    async fn layer(&self, id: &LayerId) -> Result<LayerFacts, EngineError> {
        id.check()?;
        self.memory().layers.get(id).cloned().ok_or_else(|| EngineError::NoLayer(id.clone()))
    }

    async fn derive(&self, derivation: Derivation, transcript: &Transcript) -> Result<(), EngineError> {
        derivation.id.check()?;
        // The sender is its own, and so never gone.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
        let mut memory = self.begin("derive", &derivation.id.0)?;
        if memory.layers.contains_key(&derivation.id) {
            return Ok(());
        }
        memory.check_image(&derivation.on)?;
        if let Recipe::Run(run) = &derivation.recipe {
            for (id, _) in &run.caches {
                id.check()?;
                memory.caches.insert(id.clone(), SystemTime::now());
            }
            for argv in &run.commands {
                let (out, code) = pretend(argv);
                transcript.detail(&out);
                if code != 0 {
                    return Err(EngineError::StepFailed { command: argv.join(" "), code });
                }
            }
        }
        let facts = LayerFacts { on: derivation.on, bytes: LAYER, inodes: FILES, made: SystemTime::now() };
        memory.layers.insert(derivation.id, facts);
        Ok(())
    }

    async fn forget(&self, layer: &LayerId) -> Result<(), EngineError> {
        layer.check()?;
        let mut memory = self.begin("forget", &layer.0)?;
        if memory.containers.values().any(|container| container.spec.image.contains(layer)) {
            return Err(EngineError::LayerInUse(layer.clone()));
        }
        if let Some(facts) = memory.layers.remove(layer) {
            memory.disk.give_back(facts.bytes, facts.inodes);
        }
        Ok(())
    }

    async fn caches(&self) -> Result<Vec<CacheFacts>, EngineError> {
        let memory = self.memory();
        let facts =
            |(id, used): (&CacheId, &SystemTime)| CacheFacts { id: id.clone(), bytes: CACHE, inodes: 1, used: *used };
        Ok(memory.caches.iter().map(facts).collect())
    }

    async fn forget_cache(&self, cache: &CacheId) -> Result<(), EngineError> {
        cache.check()?;
        let mut memory = self.begin("forget cache", &cache.0)?;
        if memory.caches.remove(cache).is_some() {
            memory.disk.give_back(CACHE, 1);
        }
        Ok(())
    }

    async fn volumes(&self) -> Result<Vec<VolumeId>, EngineError> {
        Ok(self.memory().volumes.keys().cloned().collect())
    }

    async fn volume(&self, id: &VolumeId) -> Result<Usage, EngineError> {
        id.check()?;
        Ok(self.memory().volumes.get(id).copied().unwrap_or_default())
    }

    async fn fill_volume(&self, id: &VolumeId, with: Filling) -> Result<(), EngineError> {
        self.forget_volume(id).await?;
        let mut memory = self.begin("fill volume", &id.0)?;
        let usage = match &with {
            Filling::Tree(tree) => {
                let usage = crate::engine::lxc::tree::measure(tree).map_err(EngineError::io("measure a tree"))?;
                std::fs::remove_dir_all(tree).map_err(EngineError::io("move a tree"))?;
                usage
            }
            Filling::CopyOf(other) => memory.volumes.get(other).copied().unwrap_or_default(),
        };
        memory.volumes.insert(id.clone(), usage);
        Ok(())
    }

    async fn forget_volume(&self, id: &VolumeId) -> Result<(), EngineError> {
        id.check()?;
        let mut memory = self.begin("forget volume", &id.0)?;
        if memory.containers.values().flat_map(|container| &container.spec.volumes).any(|volume| volume.id == *id) {
            return Err(EngineError::VolumeInUse(id.clone()));
        }
        memory.volumes.remove(id);
        Ok(())
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Addresses, EngineError> {
        spec.id.check()?;
        spec.volumes.iter().try_for_each(|volume| volume.id.check())?;
        let mut memory = self.begin("create", &spec.id.0)?;
        if let Some(known) = memory.containers.get(&spec.id) {
            return if known.spec == *spec { Ok(known.addresses) } else { Err(EngineError::Exists(spec.id.clone())) };
        }
        memory.check_image(&spec.image)?;
        memory.next_address += 1;
        // Addresses of the loopback interface, so that a test can answer there.
        let ipv4 = Ipv4Addr::from_bits(Ipv4Addr::new(127, 99, 0, 0).to_bits() + u32::from(memory.next_address));
        let addresses = Addresses { ipv4, ipv6: Ipv6Addr::LOCALHOST };
        let (spec, state, log, followers) = (spec.clone(), ContainerState::Stopped, String::new(), Vec::new());
        let container = Container { spec, state, excess: None, doomed: false, asleep: None, addresses, log, followers };
        memory.containers.insert(container.spec.id.clone(), container);
        Ok(addresses)
    }

    async fn remake(&self, spec: &ContainerSpec) -> Result<Addresses, EngineError> {
        let mut memory = self.begin("remake", &spec.id.0)?;
        memory.container(&spec.id)?;
        memory.check_image(&spec.image)?;
        let container = memory.container(&spec.id)?;
        (container.spec, container.state, container.excess) = (spec.clone(), ContainerState::Stopped, None);
        container.log.clear();
        Ok(container.addresses)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let mut memory = self.begin("start", &id.0)?;
        for volume in memory.container(id)?.spec.volumes.clone() {
            memory.volumes.entry(volume.id).or_default();
        }
        let container = memory.container(id)?;
        if container.state == ContainerState::Stopped {
            (container.state, container.excess) = (ContainerState::Running, None);
            for process in &container.spec.processes {
                if let Some(text) = process.command.strip_prefix("echo ") {
                    container.log.push_str(&format!("{} | {text}\n", process.name));
                }
            }
        }
        Ok(())
    }

    async fn stop(&self, id: &ContainerId, _grace: Duration) -> Result<(), EngineError> {
        let mut memory = self.begin("stop", &id.0)?;
        let container = memory.container(id)?;
        (container.state, container.asleep, container.doomed) = (ContainerState::Stopped, None, false);
        container.followers.clear();
        Ok(())
    }

    async fn freeze(&self, id: &ContainerId) -> Result<(), EngineError> {
        let mut memory = self.begin("freeze", &id.0)?;
        let unfreezable = memory.unfreezable;
        let container = memory.running(id)?;
        if unfreezable && container.state == ContainerState::Running {
            return Err(EngineError::Unfreezable { id: id.clone(), pid: 4711, name: "web".to_owned() });
        }
        container.state = ContainerState::Frozen;
        Ok(())
    }

    async fn offload(&self, id: &ContainerId, depth: Depth) -> Result<Held, EngineError> {
        let named = format!("{id}{}", if depth == Depth::Deep { " deep" } else { "" });
        drop(self.begin("offload", &named)?);
        // The sender is its own, and so never gone.
        let _ = self.unmoved.subscribe().wait_for(|unmoved| !unmoved).await;
        let mut memory = self.memory();
        let kept = memory.kept;
        let container = memory.running(id)?;
        if container.state != ContainerState::Frozen {
            return Err(EngineError::NotFrozen(id.clone()));
        }
        let moved = MEMORY - (1 << 20);
        let held = match (kept, depth) {
            (Some(_), _) => Held { resident: MEMORY, kept, ..Held::default() },
            (None, Depth::Shallow) => {
                Held { resident: MEMORY - moved, compressed: moved, pool: moved * 2 / 5, ..Held::default() }
            }
            (None, Depth::Deep) => Held { resident: MEMORY - moved, disk: moved, ..Held::default() },
        };
        container.asleep = Some(held);
        Ok(held)
    }

    async fn thaw(&self, id: &ContainerId) -> Result<Thawed, EngineError> {
        let thawed = Thawed::begin();
        let mut memory = self.begin("thaw", &id.0)?;
        let container = memory.running(id)?;
        (container.state, container.asleep) = (ContainerState::Running, None);
        thawed.has_prefetched();
        Ok(thawed)
    }

    async fn is_doomed(&self, id: &ContainerId) -> Result<bool, EngineError> {
        Ok(self.memory().running(id)?.doomed)
    }

    async fn allow(&self, id: &ContainerId, reach: &Reach) -> Result<(), EngineError> {
        self.begin("allow", &id.0)?.container(id)?.spec.reach = reach.clone();
        Ok(())
    }

    async fn publish(&self, ports: &[Published]) -> Result<BTreeMap<ContainerId, u64>, EngineError> {
        let mut memory = self.memory();
        memory.may_fail("publish", "ports")?;
        let there = |port: &&Published| memory.containers.contains_key(&port.container);
        memory.published = ports.iter().filter(there).cloned().collect();
        Ok(memory.said.clone())
    }

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<Exec, EngineError> {
        let mut memory = self.begin("exec", &id.0)?;
        memory.running(id)?;
        if spec.argv == ["yes"] {
            return Ok(endless());
        }
        if spec.argv == ["sh", "-c", "sleep infinity"] {
            return Ok(hanging());
        }
        let (out, code) = match memory.ill.get(spec.argv[0].as_str()) {
            Some(code) => (String::new(), *code),
            None => pretend(&spec.argv),
        };
        Ok(Exec {
            stdin: Box::new(tokio::io::sink()),
            stdout: Box::new(Cursor::new(out.into_bytes())),
            stderr: Box::new(tokio::io::empty()),
            control: Box::new(Ended(code)),
        })
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats, EngineError> {
        let mut memory = self.memory();
        memory.looks += 1;
        let container = memory.container(id)?;
        let (resident, pids) = if container.state == ContainerState::Stopped { (0, 0) } else { (MEMORY, 2) };
        let asleep = container.asleep;
        let (resident, swap) = asleep.map_or((resident, 0), |held| (held.resident, held.moved()));
        let Usage { bytes: disk, inodes } = memory.sizes.get(id).copied().unwrap_or_default();
        Ok(Stats { memory: resident, swap, pids, asleep, disk, inodes, ..Stats::default() })
    }

    async fn sizes(&self) -> Result<BTreeMap<ContainerId, Usage>, EngineError> {
        let memory = self.memory();
        let size = |id: &ContainerId| memory.sizes.get(id).copied().unwrap_or_default();
        Ok(memory.containers.keys().map(|id| (id.clone(), size(id))).collect())
    }

    async fn listening(&self, id: &ContainerId) -> Result<Vec<SocketAddr>, EngineError> {
        let mut memory = self.memory();
        memory.running(id)?;
        Ok(memory.listening.clone())
    }

    async fn logs(
        &self,
        id: &ContainerId,
        lines: usize,
        follow: bool,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, EngineError> {
        let mut memory = self.memory();
        let container = memory.container(id)?;
        let log = &container.log;
        let skipped = log.lines().count().saturating_sub(lines);
        let text: String = log.lines().skip(skipped).flat_map(|line| [line, "\n"]).collect();
        let text = Cursor::new(text.into_bytes());
        if !follow || container.state == ContainerState::Stopped {
            return Ok(Box::new(text));
        }
        let (writer, rest) = tokio::io::duplex(1);
        container.followers.push(writer);
        Ok(Box::new(text.chain(rest)))
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        id.check()?;
        self.begin("remove", &id.0)?.containers.remove(id);
        Ok(())
    }
}

/// What a command prints, and its status.
fn pretend(argv: &[String]) -> (String, i32) {
    let words: Vec<&str> = match argv {
        [shell, c, line] if shell == "sh" && c == "-c" => line.split_whitespace().collect(),
        _ => argv.iter().map(String::as_str).collect(),
    };
    match words[..] {
        ["false", ..] => (String::new(), 1),
        ["echo", ref words @ ..] => (format!("{}\n", words.join(" ")), 0),
        _ => (String::new(), 0),
    }
}

/// Prints until nobody reads it any more, as `yes` does, and is ended by that.
fn endless() -> Exec {
    let ((mut stdout, read), (stderr, said)) = (tokio::io::duplex(4096), tokio::io::duplex(1));
    tokio::spawn(async move {
        while stdout.write_all(b"y\n").await.is_ok() {}
        drop(stderr);
    });
    let (stdin, control) = (Box::new(tokio::io::sink()), Box::new(Ended(128 + libc::SIGPIPE)));
    Exec { stdin, stdout: Box::new(read), stderr: Box::new(said), control }
}

/// Goes on without a word until nobody waits for it any more.
fn hanging() -> Exec {
    let (stdout, held) = tokio::io::duplex(1);
    let control = Box::new(Hanging { _stdout: held });
    Exec { stdin: Box::new(tokio::io::sink()), stdout: Box::new(stdout), stderr: Box::new(tokio::io::empty()), control }
}

struct Hanging {
    _stdout: DuplexStream,
}

#[async_trait]
impl ExecControl for Hanging {
    fn resize(&mut self, _columns: u16, _rows: u16) {}

    async fn wait(&mut self) -> Result<i32, EngineError> {
        std::future::pending().await
    }
}

struct Ended(i32);

#[async_trait]
impl ExecControl for Ended {
    fn resize(&mut self, _columns: u16, _rows: u16) {}

    async fn wait(&mut self) -> Result<i32, EngineError> {
        Ok(self.0)
    }
}
