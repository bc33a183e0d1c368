//! What was measured beside what is promised: as a table, and as JSON.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

/// One promise, and what was measured.
pub struct Row {
    pub name: &'static str,
    pub measured: String,
    pub promised: &'static str,
    pub kept: bool,
    pub value: f64,
}

/// What the user wrote: whether it should be quick, and where the JSON goes.
pub fn arguments() -> (bool, Option<String>) {
    // Cargo adds `--bench` to that.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let file = args.iter().position(|arg| arg == "--json").and_then(|at| args.get(at + 1));
    (args.iter().any(|arg| arg == "--quick"), file.cloned())
}

/// Gives what the benchmark is to end with.
pub fn print(rows: &[Row], file: Option<String>) -> ExitCode {
    println!("{:<58} {:>16}   {:<18} kept", "what", "measured", "promised");
    for row in rows {
        let kept = if row.kept { "yes" } else { "NO" };
        println!("{:<58} {:>16}   {:<18} {kept}", row.name, row.measured, row.promised);
    }
    if let Some(file) = file {
        let rows = rows.iter().map(|row| {
            json!({"what": row.name, "value": row.value, "measured": row.measured, "promised": row.promised, "kept": row.kept})
        });
        let text = serde_json::to_string_pretty(&rows.collect::<Vec<_>>()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    status(rows.iter().all(|row| row.kept))
}

/// What a benchmark ends with that has told everything: 1 where a promise was not kept.
pub fn status(kept: bool) -> ExitCode {
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether what was measured, as JSON, kept what is promised of it.
pub fn all_kept(report: &[serde_json::Value]) -> bool {
    report.iter().all(|row| row["kept"] != false)
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn median(times: &[Duration]) -> Duration {
    part(times, 0.5)
}

/// The time within which this part of them was.
pub fn part(times: &[Duration], part: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[((sorted.len() as f64 * part) as usize).min(sorted.len() - 1)]
}
