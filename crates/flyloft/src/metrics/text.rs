//! Prometheus' text format: families of samples, each with its kind and a line of help
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! What must hold: the samples of a family follow its head, and no label can break out of its quotes.

use std::fmt::{Display, Write};

#[derive(Clone, Copy)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Begins a family.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family of one sample.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help);
        self.sample(name, &[], value);
    }

    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_stay_within_their_line_and_their_quotes() {
        let mut text = Text::default();
        text.family("x_total", Kind::Counter, "a\nb\\");
        text.sample("x_total", &[("app", "a\"b\\c\nd"), ("env", "main")], 3_u64);
        text.gauge("y", "y", 0.5);
        insta::assert_snapshot!(text.finish(), @r#"
        # HELP x_total a\nb\\
        # TYPE x_total counter
        x_total{app="a\"b\\c\nd",env="main"} 3
        # HELP y y
        # TYPE y gauge
        y 0.5
        "#);
    }
}
