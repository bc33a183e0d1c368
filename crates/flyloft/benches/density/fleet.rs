//! The environments: made by pushes, put to sleep, visited, and destroyed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::{Flyloft, text};
use crate::{interrupt, machine};

/// Branches of one push, which are staged together, and commands at a time.
const BATCH: usize = 8;
const HANDS: usize = 4;

/// One of the examples, and the branches that are staged of it beside `main`.
pub struct App {
    pub name: &'static str,
    pub branches: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sleep {
    Shallow,
    Deep,
}

impl App {
    /// With so many environments, of which one is `main`.
    pub fn new(name: &'static str, environments: usize) -> Self {
        Self { name, branches: (1..environments).map(|number| format!("b{number}")).collect() }
    }

    pub fn app(&self) -> String {
        format!("density-{}", self.name)
    }

    pub fn main(&self) -> String {
        format!("{}/main", self.app())
    }

    /// The branches as environments.
    pub fn named(&self, branches: &[String]) -> Vec<String> {
        branches.iter().map(|branch| format!("{}/{branch}", self.app())).collect()
    }
}

pub struct Fleet {
    pub flyloft: Flyloft,
}

impl Fleet {
    pub fn start(home: &str) -> Self {
        Self { flyloft: Flyloft::start_at(Path::new(home), "state") }
    }

    /// Stages these branches of an app's one commit.
    pub fn push(&self, app: &App, branches: &[String]) -> Result<Duration> {
        interrupt::check()?;
        let known = self.flyloft.repository(&app.app(), &[]);
        let repository = match known.git(&["rev-parse", "--verify", "HEAD"]).status.success() {
            true => known,
            false => self.flyloft.example(&app.app(), &format!("{}-hello", app.name)),
        };
        let refs: Vec<String> = branches.iter().map(|branch| format!("main:refs/heads/{branch}")).collect();
        let begun = Instant::now();
        let pushed = repository.push(&refs.iter().map(String::as_str).collect::<Vec<_>>());
        let took = begun.elapsed();
        interrupt::check()?;
        ensure!(pushed.status.success(), "a push failed:\n{}", text(&pushed));
        Ok(took)
    }

    /// Stages all of these, some at a time, and puts them to sleep. Gives seconds for each.
    pub fn push_all(&self, app: &App, branches: &[String], then: Option<Sleep>) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for (done, some) in branches.chunks(BATCH).enumerate() {
            let took = self.push(app, some)?;
            times.extend(some.iter().map(|_| took.as_secs_f64() / some.len() as f64));
            if let Some(depth) = then {
                self.sleep(&app.named(some), depth)?;
            }
            if (done + 1) % 5 == 0 || (done + 1) * BATCH >= branches.len() {
                println!("{}: {} of {} staged", app.name, done * BATCH + some.len(), branches.len());
            }
        }
        Ok(times)
    }

    pub fn sleep(&self, envs: &[String], depth: Sleep) -> Result<()> {
        let deep = (depth == Sleep::Deep).then_some("--deep");
        self.each(envs, |env| {
            let args: Vec<&str> = ["sleep", env].into_iter().chain(deep).collect();
            let slept = self.flyloft.cli(&args);
            interrupt::check()?;
            ensure!(slept.status.success(), "`{env}` did not fall asleep:\n{}", text(&slept));
            Ok(())
        })
    }

    /// Visits one after the other. Gives the milliseconds from each connection to the first byte of its answer.
    pub fn wake(&self, envs: &[String]) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for env in envs {
            times.push(self.visit(env).with_context(|| format!("`{env}` did not answer"))?.as_secs_f64() * 1e3);
            machine::pause(Duration::from_millis(50))?;
        }
        // What the daemon still does for the last of them.
        machine::pause(Duration::from_secs(2))?;
        Ok(times)
    }

    fn visit(&self, env: &str) -> Result<Duration> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", self.flyloft.http))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let host = env.replace('/', "-");
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}.localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer)?;
        let took = begun.elapsed();
        let answer = String::from_utf8_lossy(&answer[..length]);
        ensure!(answer.starts_with("HTTP/1.1 200"), "the answer was:\n{answer}");
        let _ = stream.read_to_end(&mut Vec::new());
        Ok(took)
    }

    /// How many environments are in this state.
    pub fn count(&self, state: &str) -> usize {
        self.list().iter().filter(|env| env["state"] == state).count()
    }

    /// A command that Ctrl-C does not reach, which ends what is measured and not the cleaning up.
    fn undisturbed(&self, args: &[&str]) -> Output {
        self.flyloft.command(args).process_group(0).output().expect("the program is there")
    }

    /// How long the command line takes to list all environments.
    pub fn ls(&self) -> Result<Duration> {
        let begun = Instant::now();
        let listed = self.undisturbed(&["ls"]);
        ensure!(listed.status.success(), "`flyloft ls` failed:\n{}", text(&listed));
        Ok(begun.elapsed())
    }

    fn list(&self) -> Vec<serde_json::Value> {
        let list = self.undisturbed(&["ls", "--json"]);
        let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap_or_default();
        list["environments"].as_array().cloned().unwrap_or_default()
    }

    /// Does it for some at a time, until one fails.
    fn each(&self, envs: &[String], act: impl Fn(&str) -> Result<()> + Sync) -> Result<()> {
        let (queue, failed) = (Mutex::new(envs.iter()), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..HANDS {
                scope.spawn(|| {
                    loop {
                        let Some(env) = queue.lock().unwrap().next() else { return };
                        if let Err(error) = act(env) {
                            failed.lock().unwrap().get_or_insert(error);
                        }
                        if failed.lock().unwrap().is_some() {
                            return;
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap().map_or(Ok(()), Err)
    }

    /// Removes all of them, whether the daemon runs or has died.
    pub fn destroy(&mut self) {
        let destroyed = catch_unwind(AssertUnwindSafe(|| {
            if !self.flyloft.runs() {
                self.flyloft.serve();
            }
            let envs: Vec<String> =
                self.list().iter().filter_map(|env| Some(env["name"].as_str()?.to_owned())).collect();
            println!("destroying {} environments", envs.len());
            let destroyed = self.each(&envs, |env| {
                let gone = self.undisturbed(&["destroy", env, "--yes"]);
                ensure!(gone.status.success(), "{}", text(&gone));
                Ok(())
            });
            if let Err(error) = destroyed {
                eprintln!("error: not all environments could be destroyed: {error:#}");
            }
            for app in ["density-flask", "density-express"] {
                self.undisturbed(&["destroy", app, "--yes"]);
            }
        }));
        if destroyed.is_err() {
            eprintln!("error: not all environments could be destroyed; another run does that first");
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Else it has been done.
        if std::thread::panicking() {
            self.destroy();
        }
    }
}
