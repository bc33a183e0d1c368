//! PID 1's one loop: signals, output, restarts.
//!
//! ```text
//!            started              ended                  SIGTERM to init
//!   Waiting ─────────► Up(pid) ─────────► Waiting    Up ─────────────────► SIGTERM to its group, grace, SIGKILL
//!      ▲  back-off over   │ could not start   │
//!      └──────────────────┴───────────────────┘
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::backoff::Backoff;
use crate::child::{self, Bond, Identity};
use crate::console::Console;
use crate::lines::Lines;
use crate::reap::{self, Ending};
use crate::spec::{Process, Spec};

/// Signals that ask PID 1 to end: from `lxc-stop`, by hand, and from older LXC.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR];

/// Bytes of output that are read at once. A line is longer in the log than in the pipe, so small.
const PIECE: usize = 4096;

pub struct Supervisor {
    spec: Spec,
    console: Console,
    signals: SignalFd,
    charges: Vec<Charge>,
    /// When what still runs is killed; set once the container is to end.
    deadline: Option<Instant>,
    /// Whose output is read first, so that nobody starves behind a flood.
    turn: usize,
}

/// A process that is kept running.
struct Charge {
    process: Process,
    state: State,
    backoff: Backoff,
    outputs: Vec<Output>,
}

enum State {
    Waiting { until: Instant },
    Up { pid: Pid, since: Instant },
    Ended { pid: Pid },
}

/// One of a process's two pipes.
struct Output {
    from: OwnedFd,
    lines: Lines,
    /// Nobody holds the other end any more.
    closed: bool,
}

/// What the pipes and the clock have brought.
struct Woken {
    signals: bool,
    outputs: Vec<(usize, usize)>,
}

impl Supervisor {
    pub fn new(mut spec: Spec, console: Console) -> Result<Self, (Console, Errno)> {
        let signals = match listen() {
            Ok(signals) => signals,
            Err(error) => return Err((console, error)),
        };
        let now = Instant::now();
        let charge = |process| Charge {
            process,
            state: State::Waiting { until: now },
            backoff: Backoff::default(),
            outputs: Vec::new(),
        };
        let charges = std::mem::take(&mut spec.processes).into_iter().map(charge).collect();
        Ok(Self { spec, console, signals, charges, deadline: None, turn: 0 })
    }

    /// Runs until it is told to end. The kernel then kills whatever is left in the container.
    pub fn run(mut self, complaints: Vec<String>) -> ExitCode {
        for complaint in complaints {
            self.console.say(&complaint);
        }
        loop {
            self.start_due();
            self.console.flush();
            if self.is_over() {
                break;
            }
            let woken = self.wait();
            for (charge, output) in woken.outputs {
                self.read(charge, output);
            }
            self.charges.iter_mut().for_each(|charge| charge.outputs.retain(|output| !output.closed));
            if woken.signals {
                self.heed_signals();
            }
        }
        self.last_output();
        ExitCode::SUCCESS
    }

    fn start_due(&mut self) {
        if self.deadline.is_some() {
            return;
        }
        let now = Instant::now();
        for charge in &mut self.charges {
            if matches!(charge.state, State::Waiting { until } if until <= now) {
                charge.start(&self.spec, &mut self.console);
            }
        }
    }

    /// Whether the container has been told to end, and nothing of it runs any more or its time is up.
    fn is_over(&self) -> bool {
        let Some(deadline) = self.deadline else { return false };
        if self.charges.iter().all(|charge| !charge.runs()) {
            return true;
        }
        if Instant::now() < deadline {
            return false;
        }
        self.charges.iter().for_each(|charge| charge.signal(Signal::SIGKILL));
        true
    }

    fn wait(&mut self) -> Woken {
        self.turn = self.turn.wrapping_add(1);
        let pause = self.console.pause();
        let mut readers: Vec<(usize, usize)> = Vec::new();
        if pause.is_none() && !self.console.is_full() {
            let outputs = |(at, charge): (usize, &Charge)| (0..charge.outputs.len()).map(move |output| (at, output));
            readers.extend(self.charges.iter().enumerate().flat_map(outputs));
            let turn = self.turn % readers.len().max(1);
            readers.rotate_left(turn);
        }
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let readable = |&(at, output): &(usize, usize)| {
            PollFd::new(self.charges[at].outputs[output].from.as_fd(), PollFlags::POLLIN)
        };
        polled.extend(readers.iter().map(readable));
        polled.extend(self.console.wants().map(|console| PollFd::new(console, PollFlags::POLLOUT)));
        if poll(&mut polled, self.patience(pause)).is_err() {
            return Woken { signals: true, outputs: Vec::new() };
        }
        let ready = |fd: &PollFd| fd.any().unwrap_or(true);
        let outputs = readers.iter().zip(&polled[1..]).filter(|(_, fd)| ready(fd)).map(|(reader, _)| *reader).collect();
        Woken { signals: ready(&polled[0]), outputs }
    }

    /// Until the next thing that is to be done without anybody calling.
    fn patience(&self, pause: Option<Duration>) -> PollTimeout {
        let now = Instant::now();
        let restarts = self.charges.iter().filter_map(|charge| match charge.state {
            State::Waiting { until } if self.deadline.is_none() => Some(until),
            _ => None,
        });
        let Some(next) = restarts.chain(self.deadline).chain(pause.map(|pause| now + pause)).min() else {
            return PollTimeout::NONE;
        };
        // Rounded up, or the last millisecond would be spent polling.
        let left = next.saturating_duration_since(now) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    /// Reads a piece of what a process has printed.
    fn read(&mut self, at: usize, output: usize) {
        if self.console.is_full() {
            return;
        }
        let Charge { process, outputs, .. } = &mut self.charges[at];
        outputs[output].read(|line| self.console.line(&process.name, line));
        self.console.flush();
    }

    fn heed_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = Signal::try_from(info.ssi_signo as i32);
            if self.deadline.is_none() && signal.is_ok_and(|signal| ENDING.contains(&signal)) {
                self.deadline = Some(Instant::now() + Duration::from_secs(self.spec.grace_seconds));
                self.charges.iter().for_each(|charge| charge.signal(Signal::SIGTERM));
            }
        }
        self.bury();
    }

    /// Everybody who has ended, orphans included.
    fn bury(&mut self) {
        while let Some((pid, ending)) = reap::ended() {
            let charge = self.charges.iter_mut().find(|charge| charge.is(pid));
            if let (Some(charge), None) = (&charge, self.deadline) {
                // Before the process id is given back: then the group is surely its own. A restart beside workers that
                // hold the port would fail again and again.
                charge.signal(Signal::SIGKILL);
            }
            reap::reap(pid);
            if let Some(charge) = charge {
                charge.has_ended(ending, self.deadline.is_some(), &mut self.console);
            }
        }
    }

    /// What was printed before the end, as far as the console takes it.
    fn last_output(&mut self) {
        for charge in &mut self.charges {
            charge.drain(&mut self.console);
        }
        self.console.flush();
    }
}

impl Charge {
    fn start(&mut self, spec: &Spec, console: &mut Console) {
        // What a crashed run left in its pipes comes first; whoever still holds them has lost its reader.
        self.drain(console);
        self.outputs.clear();
        let who = Identity { uid: spec.uid, gid: spec.gid };
        let env = spec.process_env(&self.process);
        let mut command = child::command("sh".as_ref(), env, &spec.dir, who, Bond::default());
        command.arg("-c").arg(&self.process.command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(mut child) => {
                let outputs = child.stdout.take().map(OwnedFd::from).into_iter();
                let outputs = outputs.chain(child.stderr.take().map(OwnedFd::from));
                self.outputs = outputs.filter_map(Output::new).collect();
                self.state = State::Up { pid: Pid::from_raw(child.id() as i32), since: Instant::now() };
            }
            Err(error) => self.put_off(Duration::ZERO, &format!("could not start ({error})"), console),
        }
    }

    fn has_ended(&mut self, ending: Ending, stopping: bool, console: &mut Console) {
        let State::Up { pid, since } = self.state else { return };
        self.drain(console);
        if stopping {
            self.state = State::Ended { pid };
        } else {
            self.put_off(since.elapsed(), &ending.to_string(), console);
        }
    }

    fn put_off(&mut self, up: Duration, what: &str, console: &mut Console) {
        let wait = self.backoff.next(up);
        console.say(&format!("{} {what}; starting it again in {} s", self.process.name, wait.as_secs()));
        self.state = State::Waiting { until: Instant::now() + wait };
    }

    /// Everything that is in the pipes now. They hold 64 KiB each, so this is bounded even while somebody writes on.
    fn drain(&mut self, console: &mut Console) {
        for output in &mut self.outputs {
            for _ in 0..16 {
                if !output.read(|line| console.line(&self.process.name, line)) {
                    break;
                }
            }
            output.lines.finish(|line| console.line(&self.process.name, line));
        }
    }

    fn is(&self, id: i32) -> bool {
        matches!(self.state, State::Up { pid, .. } if pid.as_raw() == id)
    }

    /// Whether any process of its group is there.
    fn runs(&self) -> bool {
        match self.state {
            State::Waiting { .. } => false,
            State::Up { .. } => true,
            State::Ended { pid } => kill(Pid::from_raw(-pid.as_raw()), None).is_ok(),
        }
    }

    fn signal(&self, signal: Signal) {
        if let State::Up { pid, .. } | State::Ended { pid } = self.state {
            let _ = killpg(pid, signal);
        }
    }
}

impl Output {
    fn new(from: OwnedFd) -> Option<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
        Some(Self { from, lines: Lines::default(), closed: false })
    }

    /// Reads once. Says whether there was something; if not, there is nothing now or never again.
    fn read(&mut self, mut each: impl FnMut(&[u8])) -> bool {
        let mut buffer = [0; PIECE];
        match nix::unistd::read(&self.from, &mut buffer) {
            Ok(0) => self.closed = true,
            Ok(count) => {
                self.lines.feed(&buffer[..count], each);
                return true;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(_) => self.closed = true,
        }
        self.lines.finish(&mut each);
        false
    }
}

/// Signals are read like everything else, and never interrupt.
fn listen() -> Result<SignalFd, Errno> {
    let mut mask = SigSet::from_iter(ENDING);
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}
