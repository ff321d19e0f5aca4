//! How values become text: aligned tables, colours that are never the only signal, durations and times for people;
//! and JSON from the same values. Which columns a command shows is the command's own.

use crate::args::Output;
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use turnout_manifest::{Percent, deceptive};

/// Something good, beside a word that says so.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Something bad, beside a word that says so.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Something to look at, beside a word that says so.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// Less important than the rest.
pub const DIM: Style = Style::new().dimmed();
/// What a block is about.
pub const STRONG: Style = Style::new().bold();
/// As it is.
pub const PLAIN: Style = Style::new();

/// Where commands print to.
pub struct Screen {
    /// The form asked for.
    pub output: Output,
    out: anstream::AutoStream<io::Stdout>,
    reader_gone: bool,
}

impl Screen {
    /// Standard output; colours only on a terminal, and as `NO_COLOR` and its like say.
    pub fn new(output: Output) -> Self {
        Self { output, out: anstream::AutoStream::auto(io::stdout()), reader_gone: false }
    }

    /// True if somebody looks at it live.
    pub fn is_live(&self) -> bool {
        self.output == Output::Text && io::stdout().is_terminal()
    }

    /// True once whoever read the output went away. What has a verdict comes to it all the same; what only prints ends.
    pub fn reader_is_gone(&self) -> bool {
        self.reader_gone
    }

    /// Prints the text, or the value where JSON was asked for.
    pub fn show(&mut self, value: &impl Serialize, text: &str) -> io::Result<()> {
        match self.output {
            Output::Text => self.text(text),
            Output::Json => self.text(&(pretty(value) + "\n")),
            Output::Ndjson => self.line_of(value),
        }
    }

    /// Prints a value on one line.
    pub fn line_of(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.text(&line(value))
    }

    /// Prints text as it is, at once; nothing, and without an error, when nobody reads any more.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        if self.reader_gone {
            return Ok(());
        }
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_gone = true;
                Ok(())
            }
            written => written,
        }
    }
}

/// JSON on one line, with its end.
pub fn line(value: &impl Serialize) -> String {
    let line =
        serde_json::to_string(value).expect("the API's types have string keys and no failing serializer");
    line + "\n"
}

/// Indented JSON.
pub fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("the API's types have string keys and no failing serializer")
}

/// One cell of a [`Table`].
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
    right: bool,
}

/// A cell of words.
pub fn words(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), style: PLAIN, right: false }
}

/// A cell of words that stand out.
pub fn styled(style: Style, text: impl Into<String>) -> Cell {
    Cell { text: text.into(), style, right: false }
}

/// A cell with a figure.
pub fn figure(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), style: PLAIN, right: true }
}

/// Rows under a heading, each column as wide as its widest cell.
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
}

impl Table {
    /// A table without rows.
    pub fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new(), indent: 0 }
    }

    /// The same table, this many columns to the right.
    #[must_use]
    pub fn indent(mut self, columns: usize) -> Self {
        self.indent = columns;
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as text, a line end after each row; no blanks at the end of a line.
    pub fn text(&self) -> String {
        let width = |cell: &Cell| cell.text.chars().count();
        let widths: Vec<usize> = (0..self.heading.len())
            .map(|at| self.rows.iter().filter_map(|row| row.get(at)).map(width).max().unwrap_or(0))
            .zip(&self.heading)
            .map(|(rows, heading)| rows.max(heading.chars().count()))
            .collect();
        let right = |at: usize| self.rows.first().and_then(|row| row.get(at)).is_some_and(|cell| cell.right);
        let heading: Vec<Cell> = self
            .heading
            .iter()
            .enumerate()
            .map(|(at, text)| Cell { text: (*text).to_owned(), style: DIM, right: right(at) })
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = " ".repeat(self.indent);
            let mut owed = 0;
            for (cell, column) in row.iter().zip(&widths) {
                let padding = column - width(cell);
                let before = if cell.right { owed + padding } else { owed };
                if !cell.text.is_empty() {
                    let style = cell.style;
                    let _ = write!(line, "{:before$}{style}{}{style:#}", "", cell.text);
                    owed = 0;
                } else {
                    owed = before;
                }
                owed += if cell.right { 2 } else { padding + 2 };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// A duration in the unit that suits it: `850 us`, `31.2 ms`, `4.25 s`, `2 min 5 s`, `3 h 10 min`, `2 d 4 h`.
pub fn duration_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{} ms", three_digits(us, 1_000)),
        1_000_000..60_000_000 => format!("{} s", three_digits(us, 1_000_000)),
        60_000_000..3_600_000_000 => two_units(us / 1_000_000, (60, "min"), (1, "s")),
        3_600_000_000..86_400_000_000 => two_units(us / 1_000_000, (3600, "h"), (60, "min")),
        _ => two_units(us / 1_000_000, (86400, "d"), (3600, "h")),
    }
}

/// The same from milliseconds.
pub fn duration_ms(ms: u64) -> String {
    if ms == 0 { "0 ms".to_owned() } else { duration_us(ms.saturating_mul(1000)) }
}

/// A latency; `-` without requests.
pub fn latency(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), duration_us)
}

fn three_digits(value: u64, unit: u64) -> String {
    let whole = value / unit;
    let decimals = if whole >= 100 { 0 } else { usize::from(whole < 10) + 1 };
    let text = format!("{:.decimals$}", value as f64 / unit as f64);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn two_units(seconds: u64, major: (u64, &str), minor: (u64, &str)) -> String {
    let rest = seconds % major.0 / minor.0;
    let major = format!("{} {}", seconds / major.0, major.1);
    if rest == 0 { major } else { format!("{major} {rest} {}", minor.1) }
}

/// A number of bytes in binary units: `8.8 MiB`.
pub fn bytes(count: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{} {name}", three_digits(count, *unit)),
        None => format!("{count} B"),
    }
}

/// A share in thousandths of a percent as a figure: `25 %`, `24.6 %`.
pub fn share(thousandths: u32) -> String {
    Percent::from_thousandths(thousandths.min(100_000)).map(|share| share.to_string()).unwrap_or_default()
}

/// A time of the journal: `2026-11-22 14:15:01 UTC`.
pub fn time(ms: u64) -> String {
    utc(ms, "%Y-%m-%d %H:%M:%S UTC")
}

/// The time of day alone, in UTC, beside a date that is known: `14:15:01`.
pub fn clock(ms: u64) -> String {
    utc(ms, "%H:%M:%S")
}

fn utc(ms: u64, form: &str) -> String {
    let timestamp = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    timestamp.map_or_else(|| format!("{ms} ms"), |time| time.strftime(form).to_string())
}

/// `1 record`, `2 records`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Text of others on one line, without the characters that a terminal obeys or hides.
pub fn safe(text: &str) -> String {
    text.chars().map(|c| if deceptive(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_the_unit_that_suits_them() {
        for (us, text) in [
            (0, "0 us"),
            (850, "850 us"),
            (2_400, "2.4 ms"),
            (31_200, "31.2 ms"),
            (212_000, "212 ms"),
            (4_250_000, "4.25 s"),
            (30_000_000, "30 s"),
            (125_000_000, "2 min 5 s"),
            (11_400_000_000, "3 h 10 min"),
            (187_200_000_000, "2 d 4 h"),
        ] {
            assert_eq!(duration_us(us), text);
        }
        assert_eq!((bytes(512), bytes(9_223_456)), ("512 B".into(), "8.8 MiB".into()));
    }

    #[test]
    fn columns_line_up_and_lines_end_with_text() {
        let mut table = Table::new(&["NAME", "SIZE", "NOTE"]);
        table.row(vec![words("a"), figure("1"), words("")]);
        table.row(vec![words("longer"), figure("1000"), styled(GOOD, "fine")]);
        let plain = anstream::adapter::strip_str(&table.text()).to_string();
        assert_eq!(plain, "NAME    SIZE  NOTE\na          1\nlonger  1000  fine\n");
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(safe("a\u{1b}[2Jb\nc"), "a [2Jb c");
        assert_eq!(safe("model\u{202e}xnno.\u{200b}"), "model xnno. ");
    }
}
