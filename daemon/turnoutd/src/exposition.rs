//! The text format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>): families, labels, numbers. What is told is in
//! `metrics`. No number is ever a floating-point one.

use std::fmt::{self, Write};

/// What a reader may do with a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, and begins at 0 again when what it counts began anew.
    Counter,
    /// What is now.
    Gauge,
    /// Cumulative counts up to bounds, with count and sum.
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// A decimal number: so many units of a power of ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    units: u64,
    decimals: usize,
}

impl Number {
    /// A number in thousandths.
    pub fn thousandths(units: u64) -> Self {
        Self { units, decimals: 3 }
    }

    /// A number in hundred-thousandths: a share in thousandths of a percent.
    pub fn hundred_thousandths(units: u64) -> Self {
        Self { units, decimals: 5 }
    }

    /// A number in millionths.
    pub fn millionths(units: u64) -> Self {
        Self { units, decimals: 6 }
    }

    /// A number in billionths.
    pub fn billionths(units: u64) -> Self {
        Self { units, decimals: 9 }
    }
}

impl From<u64> for Number {
    fn from(units: u64) -> Self {
        Self { units, decimals: 0 }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:0width$}", self.units, width = self.decimals + 1);
        let (whole, rest) = digits.split_at(digits.len() - self.decimals);
        let rest = rest.trim_end_matches('0');
        match rest {
            "" => out.write_str(whole),
            rest => write!(out, "{whole}.{rest}"),
        }
    }
}

/// Names and values of one sample's labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text under way. Samples belong to the family begun last.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One sample of the family.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Into<Number>) {
        self.line("", labels, value.into());
    }

    /// One sample of a histogram's part: `_bucket`, `_sum`, `_count`.
    pub fn part(&mut self, suffix: &str, labels: Labels<'_>, value: impl Into<Number>) {
        self.line(suffix, labels, value.into());
    }

    /// Length of the text so far, bytes.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// True before anything was told.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, value: Number) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.value(value);
            self.text.push('"');
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{value}");
    }

    fn value(&mut self, value: &str) {
        for letter in value.chars() {
            match letter {
                '\\' => self.text.push_str(r"\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str(r"\n"),
                letter => self.text.push(letter),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_written_whole_and_without_needless_zeros() {
        for (number, text) in [
            (Number::from(0), "0"),
            (Number::from(u64::MAX), "18446744073709551615"),
            (Number::thousandths(1_795_356_901_250), "1795356901.25"),
            (Number::hundred_thousandths(100_000), "1"),
            (Number::hundred_thousandths(10_000), "0.1"),
            (Number::millionths(5), "0.000005"),
            (Number::billionths(65_535), "0.000065535"),
        ] {
            assert_eq!(number.to_string(), text);
        }
    }

    #[test]
    fn a_family_is_its_head_and_its_samples() {
        let mut out = Exposition::default();
        out.family("up", Kind::Gauge, "back\\slash\nand line");
        out.sample(&[], 1);
        out.sample(&[("model", "a"), ("why", "say \"no\"\\\n")], 2);
        assert_eq!(
            out.into_text(),
            "# HELP up back\\\\slash\\nand line\n# TYPE up gauge\nup 1\nup{model=\"a\",why=\"say \\\"no\\\"\\\\\\n\"} 2\n"
        );
    }

    proptest! {
        #[test]
        fn no_value_of_a_label_can_end_its_line(value in any::<String>()) {
            let mut out = Exposition::default();
            out.family("up", Kind::Gauge, "Help.");
            out.sample(&[("label", &value)], 7);
            let text = out.into_text();
            let lines: Vec<&str> = text.split('\n').collect();
            prop_assert_eq!(lines.len(), 4);
            let inside = lines[2].strip_prefix("up{label=\"").and_then(|rest| rest.strip_suffix("\"} 7")).unwrap();
            let mut back = String::new();
            let mut letters = inside.chars();
            while let Some(letter) = letters.next() {
                prop_assert_ne!(letter, '"');
                back.push(match letter {
                    '\\' => match letters.next().unwrap() { 'n' => '\n', other => other },
                    letter => letter,
                });
            }
            prop_assert_eq!(back, value);
        }
    }
}
