//! What commands answer: plain data for JSON, and its text for people.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use flyloft_core::policy::Size;
use serde::Serialize;

/// A command's result. Serialises to what `--json` prints.
pub trait Reply: erased::Json + Send {
    /// For people, with a newline at the end of each line; nothing if there is nothing to say.
    fn text(&self) -> String;

    /// Whether a program that reads it is owed every character, also one that does something to a terminal.
    fn is_exact(&self) -> bool {
        false
    }
}

mod erased {
    /// Serialisation that can be boxed.
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).expect("replies have only string keys")
        }
    }
}

/// A sentence, for commands whose result is that they succeeded.
#[derive(Serialize)]
pub struct Done {
    pub done: String,
}

pub fn done(text: impl Into<String>) -> Done {
    Done { done: text.into() }
}

impl Reply for Done {
    fn text(&self) -> String {
        format!("{}\n", self.done)
    }
}

/// Columns with a heading each, aligned, without lines.
pub fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(heading);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// `3 d`, `2 h`, `5 min`, `12 s`: how long ago, in one unit.
pub fn age(millis: i64, now: i64) -> String {
    let seconds = Duration::from_millis((now - millis).max(0) as u64).as_secs();
    match seconds {
        0..=89 => format!("{seconds} s"),
        90..=5399 => format!("{} min", (seconds + 30) / 60),
        5400..=129_599 => format!("{} h", (seconds + 1800) / 3600),
        _ => format!("{} d", (seconds + 43_200) / 86_400),
    }
}

/// `33.1 MiB`
pub fn size(bytes: u64) -> String {
    Size(bytes).about()
}

/// A time as RFC 3339 in UTC, always with three digits of milliseconds.
pub fn time(millis: i64) -> String {
    let nanos = i128::from(millis) * 1_000_000;
    let Ok(time) = time::OffsetDateTime::from_unix_timestamp_nanos(nanos) else { return String::new() };
    let (date, hour, minute) = (time.date(), time.hour(), time.minute());
    format!("{date}T{hour:02}:{minute:02}:{:02}.{:03}Z", time.second(), time.millisecond())
}

/// For `#[serde(serialize_with)]`: [`time`] of milliseconds since the Unix epoch.
pub fn as_time<S: serde::Serializer>(millis: &i64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time(*millis))
}

/// The same where there may be none.
pub fn as_time_if_any<S: serde::Serializer>(millis: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
    millis.map(time).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_one_unit() {
        let minute = 60_000;
        let told = |millis| age(0, millis);
        assert_eq!(told(5_000), "5 s");
        assert_eq!(told(2 * minute), "2 min");
        assert_eq!(told(119 * minute), "2 h");
        assert_eq!(told(3 * 24 * 60 * minute), "3 d");
    }

    #[test]
    fn tables_have_no_trailing_space() {
        let text = table(["APP", "URL"], [["shop".to_owned(), "x".to_owned()]]);
        assert_eq!(text, "APP   URL\nshop  x\n");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(1_795_500_000_123), "2026-11-24T06:00:00.123Z");
        assert_eq!(time(1_795_500_005_950), "2026-11-24T06:00:05.950Z");
    }
}
