//! What was measured beside what is promised, as a table and as JSON.

use anyhow::{Context, Result};
use serde_json::json;

use crate::machine::Usage;

#[derive(Clone, Copy)]
pub enum Promise {
    None,
    AtMost(f64),
    AtLeast(f64),
}

struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    promise: Promise,
}

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

pub fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

impl Promise {
    fn kept(self, value: f64) -> Option<bool> {
        match self {
            Promise::None => None,
            Promise::AtMost(bound) => Some(value <= bound),
            Promise::AtLeast(bound) => Some(value >= bound),
        }
    }

    fn said(self, unit: &str) -> String {
        match self {
            Promise::None => String::new(),
            Promise::AtMost(bound) => format!("≤ {bound} {unit}").trim_end().to_owned(),
            Promise::AtLeast(bound) => format!("≥ {bound} {unit}").trim_end().to_owned(),
        }
    }
}

impl Report {
    /// Told at once, since the end may be half an hour away.
    pub fn row(&mut self, what: &str, value: f64, unit: &'static str, promise: Promise) {
        let row = Row { what: what.to_owned(), value, unit, promise };
        println!("  {}", row.line());
        self.rows.push(row);
    }

    pub fn memory(&mut self, app: &str, awake: Usage, asleep: Usage, deep: Usage) {
        let (three, forty, ten) = (Promise::AtMost(3.0), Promise::AtMost(40.0), Promise::AtLeast(10.0));
        let promised = |promise| if app == "flask" { promise } else { Promise::None };
        self.row(&format!("{app}, awake"), mib(awake.taken), "MiB", Promise::None);
        self.row(&format!("{app}, asleep, beside the pool"), mib(asleep.taken - asleep.pool), "MiB", promised(three));
        self.row(&format!("{app}, asleep, in the pool"), mib(asleep.pool), "MiB", Promise::None);
        self.row(
            &format!("{app}, asleep, pool of its pages"),
            100.0 * asleep.pool / asleep.stored,
            "%",
            promised(forty),
        );
        self.row(&format!("{app}, deep asleep, all in"), mib(deep.taken), "MiB", promised(three));
        self.row(&format!("{app}, awake : deep asleep"), awake.taken / deep.taken, ": 1", promised(ten));
        let kinds = [
            ("of processes", deep.anonymous),
            ("unreclaimable slab", deep.slab),
            ("page tables", deep.page_tables),
            ("kernel stacks", deep.stacks),
            ("per processor", deep.per_cpu),
            ("compressed pool", deep.pool),
            ("all else", deep.rest()),
        ];
        for (kind, bytes) in kinds {
            self.row(&format!("{app}, deep asleep: {kind}"), mib(bytes), "MiB", Promise::None);
        }
        self.row(&format!("{app}, deep asleep: swapped out"), mib(deep.swapped), "MiB", Promise::None);
    }

    /// The same as the control groups count it, which no neighbour blurs. Bytes.
    pub fn charged(&mut self, app: &str, awake: f64, deep: f64) {
        let promised = |promise| if app == "flask" { promise } else { Promise::None };
        self.row(&format!("{app}, awake, by its control groups"), mib(awake), "MiB", Promise::None);
        let three = promised(Promise::AtMost(3.0));
        self.row(&format!("{app}, deep asleep, by its control groups"), mib(deep), "MiB", three);
        let ten = promised(Promise::AtLeast(10.0));
        self.row(&format!("{app}, awake : deep asleep, by its control groups"), awake / deep, ": 1", ten);
    }

    /// Per cent of one processor.
    pub fn idle(&mut self, environments: usize, share: f64) {
        self.row(&format!("daemon, {environments} asleep"), share, "% of one core", Promise::AtMost(0.5));
    }

    /// Seconds that each took, in the order in which they were made.
    pub fn creation(&mut self, times: &[f64]) {
        let tenth = (times.len() / 10).max(1);
        for (which, some) in [("first", &times[..tenth]), ("last", &times[times.len() - tenth..])] {
            self.row(&format!("to create one, {which} tenth"), at(some, 0.5) * 1e3, "ms", Promise::None);
        }
    }

    /// Milliseconds.
    pub fn wakes(&mut self, app: &str, what: &str, times: &[f64]) {
        for (part, name) in [(0.5, "p50"), (0.99, "p99")] {
            self.row(&format!("{app}, {what}: {name}"), at(times, part), "ms", Promise::None);
        }
    }

    pub fn print(&self) {
        println!("\n{:<54} {:>18}   {:<22} kept", "what", "measured", "promised");
        for row in &self.rows {
            println!("{}", row.line());
        }
    }

    /// Whether all that is promised was so.
    pub fn kept(&self) -> bool {
        self.rows.iter().all(|row| row.promise.kept(row.value) != Some(false))
    }

    pub fn write(&self, file: &str) -> Result<()> {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        std::fs::write(file, serde_json::to_string_pretty(&rows)?).with_context(|| format!("failed to write `{file}`"))
    }
}

impl Row {
    fn line(&self) -> String {
        let kept = match self.promise.kept(self.value) {
            None => "",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        let (measured, promised) = (self.measured(), self.promise.said(self.unit));
        format!("{:<54} {measured:>18}   {promised:<22} {kept}", self.what).trim_end().to_owned()
    }

    fn measured(&self) -> String {
        format!("{:.2} {}", self.value, self.unit).trim_end().to_owned()
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "what": self.what, "value": self.value, "measured": self.measured(),
            "promised": self.promise.said(self.unit), "kept": self.promise.kept(self.value),
        })
    }
}

/// The nearest rank.
fn at(times: &[f64], part: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = ((sorted.len() as f64 * part).ceil() as usize).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
