//! The verbs of a container's life, each put together from files, mounts, rules and processes.
//!
//! Whoever calls one has the container's turn, or nobody else knows of it yet.

use std::fs;
use std::io;
use std::time::Duration;

use super::config::Config;
use super::container::{self, APP, GRACE, InitSpec, Record};
use super::idmap::Access;
use super::mounts::{self, Bind};
use super::places::Home;
use super::slots::Slot;
use super::{LxcEngine, attach, blocking, cgroup, journal, machine, sleep, tree};
use crate::engine::{Addresses, ContainerSpec, EngineError};
use crate::exec::ExecError;

impl LxcEngine {
    pub(super) async fn create_container(&self, spec: ContainerSpec) -> Result<Addresses, EngineError> {
        let home = self.home(&spec.id);
        let doing = format!("make container `{}`", spec.id);
        if let Some(record) = Record::read(&home).map_err(EngineError::io(&doing))? {
            return if record.spec == spec { Ok(record.addresses) } else { Err(EngineError::Exists(spec.id)) };
        }
        let _hold = self.layers.hold(&spec.image);
        self.lower(&spec.image)?;
        let made = self.make_home(&home, spec, doing).await;
        if made.is_err() {
            let _ = self.destroy(&home).await;
        }
        made.map(|record| record.addresses)
    }

    pub(super) async fn make_home(
        &self,
        home: &Home,
        spec: ContainerSpec,
        doing: String,
    ) -> Result<Record, EngineError> {
        let (engine, home) = (self.clone(), home.clone());
        blocking(doing, move || engine.make(&home, &spec)).await
    }

    /// In its home, with its slot. Until the record says otherwise, what it was made from before counts.
    pub(super) async fn remake_container(&self, spec: ContainerSpec) -> Result<Addresses, EngineError> {
        let (home, record) = self.known(&spec.id)?;
        let _hold = self.layers.hold(&spec.image);
        self.lower(&spec.image)?;
        self.halt(&home, &record, Duration::ZERO).await?;
        let engine = self.clone();
        let remade = blocking(format!("make container `{}` anew", spec.id), move || {
            container::forget_excess(&home)?;
            for dir in [home.upper(), home.work()] {
                tree::purge(&dir)?;
            }
            engine.fit_out(&home, &spec, record.slot)
        });
        let record = remade.await?;
        self.excess.forget(&record.spec.id);
        self.sizes.forget(&record.spec.id);
        Ok(record.addresses)
    }

    fn make(&self, home: &Home, spec: &ContainerSpec) -> io::Result<Record> {
        let slot = container::settle(home, &self.slots)?;
        self.fit_out(home, spec, slot)
    }

    /// Fills a home with everything but the mounts. Its record comes last: without it nothing was made.
    fn fit_out(&self, home: &Home, spec: &ContainerSpec, slot: Slot) -> io::Result<Record> {
        let addresses = slot.addresses(&self.addressing);
        let init = InitSpec {
            hostname: &spec.id.0,
            uid: APP,
            gid: APP,
            dir: "/app",
            grace_seconds: GRACE.as_secs(),
            env: &spec.env,
            processes: &spec.processes,
            addresses: addresses.both(),
        };
        container::furnish(home, &self.init, slot, &init)?;
        container::lay_out(home, &spec.files)?;
        let config = Config {
            home,
            hostname: &spec.id.0,
            slot,
            limits: &spec.limits,
            log_bytes: self.bounds.logs,
            cgroups: self.layout,
            seccomp: &self.places.seccomp,
            apparmor: machine::apparmor(),
            network: &self.network.lxc_lines(slot, &addresses),
        };
        fs::write(home.config(), config.render())?;
        let record = Record { spec: spec.clone(), slot, addresses };
        record.write(home)?;
        Ok(record)
    }

    /// Mounts, opens the network and starts LXC. Undoes all of it when one fails.
    pub(super) async fn launch(&self, home: &Home, record: &Record, caches: Vec<Bind>) -> Result<(), EngineError> {
        let launched = self.try_launch(home, record, caches).await;
        if launched.is_err() {
            let _ = self.halt(home, record, Duration::ZERO).await;
        }
        launched
    }

    async fn try_launch(&self, home: &Home, record: &Record, mut binds: Vec<Bind>) -> Result<(), EngineError> {
        let lower = self.lower(&record.spec.image)?;
        self.frozen().remove(&record.spec.id);
        self.excess.forget(&record.spec.id);
        binds.push(Bind { source: home.init(), target: "flyloft".into(), access: Access::ReadOnly, uid_base: None });
        let uid_base = record.slot.uid_base();
        let mounted = blocking(format!("mount the file system of container `{}`", home.name), {
            let (home, volumes, wanted) = (home.clone(), self.volumes.clone(), record.spec.volumes.clone());
            move || {
                binds.extend(volumes.take(&wanted)?);
                // A cgroup that was left behind would make LXC choose another name.
                cgroup::clean(&home.name)?;
                container::forget_excess(&home)?;
                journal::begin(&home)?;
                sleep::forget(&home)?;
                mounts::compose(&home, &lower, &binds, uid_base)
            }
        });
        let admitted = self.admit(record);
        let (mounted, admitted) = tokio::join!(mounted, admitted);
        mounted?;
        admitted?;
        crate::fault::point("start.half");
        let started = attach::tool("lxc-start", home)
            .arg("--daemon")
            .args(["--logpriority", "WARN", "--logfile"])
            .arg(home.lxc_log())
            .arg("--rcfile")
            .arg(home.config())
            .arg("--pidfile")
            .arg(home.pid_file())
            .timeout(Duration::from_secs(60))
            .run()
            .await;
        started.map_err(|source| self.not_started(home, record, source))?;
        Ok(self.network.introduce(record.slot, &record.addresses).await?)
    }

    /// Why LXC has failed, as far as that can be found out.
    fn not_started(&self, home: &Home, record: &Record, mut source: ExecError) -> EngineError {
        let id = &record.spec.id;
        if let Ok(Some((address, link))) = self.network.rival(record.slot, &record.addresses) {
            let what =
                format!("container `{id}` cannot start: another one has its address {address}, on the link `{link}`");
            let hint = "the state directories of two daemons are hidden from each other, so that both gave away the \
                        same slot; `flyloft restart` gives it another";
            return EngineError::Missing { what, hint: hint.to_owned() };
        }
        // What LXC prints says only that it failed; why is in its log.
        if let ExecError::Status { tail, .. } = &mut source
            && let Some(reasons) = journal::reasons(home)
        {
            *tail = reasons;
        }
        EngineError::Exec { doing: format!("start container `{id}`"), source }
    }

    /// Ends what runs, and takes mounts and rules away.
    pub(super) async fn halt(&self, home: &Home, record: &Record, grace: Duration) -> Result<(), EngineError> {
        let layout = self.layout;
        self.frozen().remove(&record.spec.id);
        self.read_no_more(&record.spec.id);
        let halted = blocking(format!("stop container `{}`", record.spec.id), {
            let home = home.clone();
            move || {
                container::halt(&home, layout, grace)?;
                crate::fault::point("off.half");
                mounts::dissolve(&home)
            }
        });
        halted.await?;
        self.dismiss(record.slot).await
    }

    /// Takes every trace away and frees the slot.
    pub(super) async fn destroy(&self, home: &Home) -> Result<(), EngineError> {
        // The slot may be another's as soon as the directory is gone: the rules go first.
        if let Some(record) = Record::read(home).ok().flatten() {
            self.halt(home, &record, Duration::ZERO).await?;
        }
        let (slots, home) = (self.slots.clone(), home.clone());
        blocking(format!("remove container `{}`", home.name), move || {
            container::erase(&home)?;
            slots.give_back(&home.dir)
        })
        .await
    }
}
