//! The benchmarks' page: each line what was measured, the floor, and whether it is met.

use serde::Serialize;
use serde_json::{Value, json};

/// Whether a floor is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Judged {
    /// It is.
    Ok,
    /// It is not.
    Misses,
    /// There is none: for information.
    None,
    /// It could not be measured.
    Failed,
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Which of the benchmarks.
    pub part: &'static str,
    /// What was measured.
    pub what: String,
    /// What came out, for people.
    pub measured: String,
    /// What must be reached; empty without a floor.
    pub floor: String,
    /// Whether it is reached.
    pub judged: Judged,
    /// The figures, for programs.
    pub figures: Value,
}

impl Line {
    /// A line that has a floor.
    pub fn judged(part: &'static str, what: impl Into<String>, floor: impl Into<String>) -> Self {
        let (measured, figures) = (String::new(), json!({}));
        Self { part, what: what.into(), measured, floor: floor.into(), judged: Judged::None, figures }
    }

    /// A line for information.
    pub fn told(part: &'static str, what: impl Into<String>) -> Self {
        Self::judged(part, what, "")
    }

    /// A line for what could not be measured, with the reason.
    pub fn failed(part: &'static str, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { judged: Judged::Failed, ..Self::told(part, what).found(why, json!({})) }
    }

    /// With what came out.
    pub fn found(mut self, measured: impl Into<String>, figures: Value) -> Self {
        self.measured = measured.into();
        self.figures = figures;
        self
    }

    /// With the judgement.
    pub fn met(mut self, condition: bool) -> Self {
        self.judged = if condition { Judged::Ok } else { Judged::Misses };
        self
    }
}

/// The page as text.
pub fn text(lines: &[Line]) -> String {
    let width = |pick: fn(&Line) -> &str, least: usize| {
        let shown = lines.iter().filter(|line| line.judged != Judged::Failed);
        shown.map(|line| pick(line).chars().count()).max().unwrap_or(0).max(least)
    };
    let (what, measured) = (width(|line| &line.what, 4), width(|line| &line.measured, 8));
    let floor = width(|line| &line.floor, 5);
    let mut page = String::new();
    let mut part = "";
    for line in lines {
        if line.part != part {
            part = line.part;
            page.push_str(&format!("\n{part}\n"));
        }
        let verdict = match line.judged {
            Judged::Ok => "ok",
            Judged::Misses => "MISSES",
            Judged::Failed => "FAILED",
            Judged::None => "",
        };
        let row = format!(
            "  {:<what$}  {:<measured$}  {:<floor$}  {verdict}",
            line.what, line.measured, line.floor
        );
        page.push_str(row.trim_end());
        page.push('\n');
    }
    let count = |judged: Judged| lines.iter().filter(|line| line.judged == judged).count();
    let (met, missed, failed) = (count(Judged::Ok), count(Judged::Misses), count(Judged::Failed));
    page.push_str(&format!("\nbench: {met} of {} floors met, {missed} missed", met + missed));
    if failed > 0 {
        page.push_str(&format!(", {failed} parts FAILED"));
    }
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_which_floors_are_met() {
        let lines = [
            Line::judged("one", "speed", "at least 2").found("3", json!({"n": 3})).met(true),
            Line::judged("one", "size", "at most 1").found("7", json!({})).met(false),
            Line::told("two", "colour").found("red", json!({})),
            Line::failed("three", "weight", "no scales"),
        ];
        let page = text(&lines);
        assert!(page.contains("\none\n  speed   3         at least 2  ok\n"), "{page}");
        assert!(page.contains("7         at most 1   MISSES\n"), "{page}");
        assert!(page.ends_with("FAILED\n\nbench: 1 of 2 floors met, 1 missed, 1 parts FAILED\n"), "{page}");
    }
}
