//! Finds out whether somebody at a gate says the password, which takes memory and time on purpose. So few do it at a
//! time, on threads of their own, and each address may try so often.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flyloft_core::gate::{Attempts, Guard, Refusal, Verdict};
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use super::clock;
use super::exchange::Client;
use super::gate::{self, Caller};
use super::page::Notice;

/// Each takes 19 MiB and a core.
const AT_A_TIME: usize = 2;

/// How long somebody waits for a turn, and how long a form may take to come. It is a line or two.
const PATIENCE: Duration = Duration::from_secs(10);
const FORM_MAX: usize = 8 << 10;

/// What is longer is nobody's password.
const PASSWORD_MAX: usize = 1 << 10;

/// Who tries passwords, for all threads of the edge together.
pub struct Proofs {
    attempts: Mutex<Attempts>,
    turns: Semaphore,
}

impl Default for Proofs {
    fn default() -> Self {
        Self { attempts: Mutex::default(), turns: Semaphore::new(AT_A_TIME) }
    }
}

impl Proofs {
    /// Somebody tries, if it is not too soon.
    pub fn begin(&self, from: IpAddr) -> Result<(), Notice> {
        let begun = self.attempts().begin(from, clock::now());
        begun.map_err(|wait| Notice::TooOften { seconds: wait.as_secs() as u32 + 1 })
    }

    pub fn succeeded(&self, from: IpAddr) {
        self.attempts().succeeded(from);
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who has to be asked further.
pub struct Doubt {
    pub guard: Arc<Guard>,
    pub host: String,
    pub asked: Asked,
}

pub enum Asked {
    /// In a header, by somebody who asks for `target`. The attempt has begun.
    Said { password: Vec<u8>, target: String },
    /// By the form that the request brings.
    Form,
}

/// Comes back where it says the password, which is known from then on.
pub async fn settle(client: &Client, request: &mut Request<Incoming>, doubt: Doubt) -> Result<(), Notice> {
    let Doubt { guard, host, asked } = doubt;
    match asked {
        Asked::Said { password, target } => {
            let caller = Caller::new(client, request.headers(), &host);
            match is_right(&caller, &guard, password).await? {
                true => Ok(()),
                false => Err(caller.turned(Verdict::Refused(Refusal::NoPassword), &target)),
            }
        }
        Asked::Form => {
            let form = tokio::time::timeout(PATIENCE, Limited::new(request.body_mut(), FORM_MAX).collect()).await;
            let form = form.map_err(|_| Notice::Slow)?.map_err(|_| Notice::BadBody)?.to_bytes();
            let (mut password, mut to) = (String::new(), "/".to_owned());
            for (name, value) in form_urlencoded::parse(&form) {
                match name.as_ref() {
                    "password" => password = value.into_owned(),
                    "to" if value.starts_with('/') => to = value.into_owned(),
                    _ => {}
                }
            }
            let caller = Caller { takes_challenges: false, ..Caller::new(client, request.headers(), &host) };
            client.worker.shared.proofs.begin(caller.from)?;
            let entered = match is_right(&caller, &guard, password.into_bytes()).await? {
                true => guard.enter_by_password(caller.secure, &to, gate::now()),
                false => None,
            };
            let notice = caller.turned(entered.unwrap_or(Verdict::Refused(Refusal::NoPassword)), &to);
            Err(match notice {
                Notice::Locked { env, to, challenge, .. } => Notice::Locked { env, to, again: true, challenge },
                notice => notice,
            })
        }
    }
}

async fn is_right(caller: &Caller<'_>, guard: &Arc<Guard>, password: Vec<u8>) -> Result<bool, Notice> {
    if password.len() > PASSWORD_MAX {
        return Ok(false);
    }
    let proofs = &caller.client.worker.shared.proofs;
    let _turn = match tokio::time::timeout(PATIENCE, proofs.turns.acquire()).await {
        Ok(Ok(turn)) => turn,
        _ => return Err(Notice::Busy),
    };
    let guard = guard.clone();
    let found = tokio::task::spawn_blocking(move || guard.finds(&password)).await;
    let is_right = found.unwrap_or(false);
    if is_right {
        proofs.succeeded(caller.from);
    }
    Ok(is_right)
}
