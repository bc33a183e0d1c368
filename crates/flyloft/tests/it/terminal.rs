//! `ssh -t … shell`, by the OpenSSH client at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};

use crate::harness::{Flyloft, wait_for};
use crate::push::{app, borrowed};

/// A person at a terminal, who has started a program.
pub struct Seat {
    master: File,
    pub child: Child,
    screen: Arc<Mutex<String>>,
}

fn window(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Seat {
    pub fn take(mut command: Command, columns: u16, rows: u16) -> Self {
        let pty = openpty(Some(&window(columns, rows)), None).unwrap();
        let slave = |fd: &OwnedFd| fd.try_clone().unwrap();
        command.stdin(slave(&pty.slave)).stdout(slave(&pty.slave)).stderr(pty.slave);
        // The terminal must be that of the program's session, or the kernel tells it nothing about its size.
        let own = || {
            nix::unistd::setsid()?;
            // SAFETY: TIOCSCTTY takes a number.
            nix::errno::Errno::result(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) })?;
            Ok(())
        };
        // SAFETY: both are system calls, which may be made between fork and exec.
        unsafe { command.pre_exec(own) };
        let child = command.spawn().unwrap();
        // The slave's copies in this process would keep the terminal from coming to its end.
        drop(command);
        let (master, screen) = (File::from(pty.master), Arc::<Mutex<String>>::default());
        let (mut reads, to) = (master.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = reads.read(&mut piece) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        });
        Self { master, child, screen }
    }

    pub fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the text has come, which what was typed, and is echoed, does not contain.
    #[track_caller]
    pub fn sees(&self, text: &str) {
        wait_for(&format!("`{text}`"), || self.screen.lock().unwrap().contains(text).then_some(()));
    }

    /// All that the screen has shown.
    pub fn seen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = window(columns, rows);
        // SAFETY: TIOCSWINSZ reads a `winsize`, which lives across the call.
        assert_eq!(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the screen\n{}", self.screen.lock().unwrap());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_shell_over_ssh_has_a_terminal_with_size_interrupt_and_status() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-shell", &borrowed(&app("hello")));
    repository.pushed(&["main"]);
    let mut seat = Seat::take(flyloft.ssh_with(&["-t"], "shell it-shell/main"), 101, 31);
    seat.types("stty size; tty; echo user=$(id -u) in=$PWD\n");
    seat.sees("31 101\r\n");
    seat.sees("/dev/pts/");
    seat.sees("user=1000 in=/app\r\n");

    seat.resize(83, 27);
    seat.types("until [ \"$(stty size)\" = '27 83' ]; do sleep 0.1; done; echo is=$(stty size)\n");
    seat.sees("is=27 83\r\n");

    // Sleeps for longer than anybody here waits.
    seat.types("echo beg$((1))n; sleep 1000\n");
    seat.sees("beg1n\r\n");
    seat.types("\x03");
    seat.sees("^C");
    seat.types("echo code=$?\n");
    seat.sees("code=130\r\n");

    seat.types("exit 7\n");
    let status = wait_for("ssh to end", || seat.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(7));

    // One that hangs up takes what it started along.
    let mut seat = Seat::take(flyloft.ssh_with(&["-t"], "shell it-shell/main"), 80, 24);
    seat.types("sleep 4321 & echo st$((1))rted\n");
    seat.sees("st1rted\r\n");
    seat.child.kill().unwrap();
    wait_for("the shell's child to be gone", || {
        let all = ["run", "it-shell/main", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"];
        (!flyloft.ok(&all).contains("sleep 4321")).then_some(())
    });
    flyloft.ok(&["destroy", "it-shell", "--yes"]);
}
