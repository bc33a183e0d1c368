//! What the gate costs: a visitor with a cookie at a host name that has one, against anybody at one that has none.

use std::sync::Arc;

use flyloft_core::gate::{COOKIE, Gate, Guard, Key, NEVER, Purpose};

use super::Measured;

/// A host name of the same app that is opened by links.
pub const HOST: &str = "gated.test";

/// At least this much of the requests per second without a gate.
pub const PROMISE: f64 = 0.95;

fn key() -> Key {
    Key::new(&[7; 32], 1, HOST, 0)
}

pub fn guard() -> Option<Arc<Guard>> {
    Guard::new(Gate::Link, key(), None).map(Arc::new)
}

/// What a visitor sends who has come by a link.
pub fn headers() -> Vec<String> {
    vec![format!("Host: {HOST}"), format!("Cookie: {COOKIE}={}", key().sign(Purpose::Visit, NEVER))]
}

/// The same without the gate, so that as much is sent and read.
pub fn headers_elsewhere(host: &str) -> Vec<String> {
    vec![format!("Host: {host}"), format!("Cookie: {}", "x".repeat(COOKIE.len() + 29))]
}

/// What is told of rounds with and without a gate.
pub fn report(rounds: &[(Measured, Measured)], median: impl Fn(Vec<f64>) -> f64) -> serde_json::Value {
    let of = |what: &dyn Fn(&(Measured, Measured)) -> f64| median(rounds.iter().map(what).collect());
    let (without, with) = (of(&|round| round.0.per_second), of(&|round| round.1.per_second));
    let (cpu_without, cpu_with) = (of(&|round| round.0.cpu), of(&|round| round.1.cpu));
    let ratio = of(&|round| round.1.per_second / round.0.per_second);
    println!(
        "{:<16} {without:>10.0}/s {with:>10.0}/s {ratio:>6.2}x {PROMISE:>8.2}x   {cpu_without:>7.1} µs {cpu_with:>7.1} µs   \
         (without and with)",
        "the gate"
    );
    serde_json::json!({
        "name": "edge, a visitor with a cookie at a gate",
        "unit": "requests per second, times those without a gate",
        "value": ratio,
        "promise": { "at_least": PROMISE },
        "kept": ratio >= PROMISE,
        "without": { "requests_per_second": without, "cpu_microseconds": cpu_without },
        "with": { "requests_per_second": with, "cpu_microseconds": cpu_with },
    })
}
