//! The door as people meet it: the real `ssh` and `git` on one side, a backend that remembers on the other.

mod branches;
mod clients;
mod commands;
mod fetches;
mod pushes;
mod team;

use std::process::Stdio;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::Error;
use crate::principal::Role;
use crate::source::SourceLimits;
use team::{Answer, Team, ended, until, within};

const FILES: &[(&str, &str)] = &[("app.py", "print('hello')\n"), ("Procfile", "web: python app.py\n")];

fn piped() -> Stdio {
    Stdio::piped()
}
