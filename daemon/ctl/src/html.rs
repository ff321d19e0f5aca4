//! A report as one self-contained HTML page: no script, nothing fetched, every text escaped, and a small drawing of
//! the share asked for and of p95 over the windows.

use crate::release;
use crate::render::{duration_ms, latency, share, time};
use crate::report::facts;
use std::fmt::Write as _;
use turnout_protocol::control::{ReleaseState, Seen, WindowStatus};
use turnout_protocol::report::Report;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1c1e21;\
background:#fff}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #e3e5e8;vertical-align:top}\
th{font-weight:600;color:#596067}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}code{font-size:.85em;\
word-break:break-all}.good{color:#12703c}.bad{color:#b3261e}.warn{color:#8a5a00}svg{width:100%;height:auto}";

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 24.0;

/// The page.
pub fn page(report: &Report) -> String {
    let release = &report.release;
    let title = format!("{}: {} {}", release.release_id, release.model, release.to);
    let (class, state) = (state_class(release.state), release::state(release.state));
    let from = release.from.as_ref().map_or("nothing", |from| from.as_str());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>{}: {} from {from} to {} <span class=\"{class}\">{state}</span></h1>\n",
        release.release_id,
        release.model,
        release.to,
        title = escape(&title),
    );
    let causes = if release.causes.is_empty() {
        release.cause.iter().collect()
    } else {
        release.causes.iter().collect::<Vec<_>>()
    };
    for cause in causes {
        let _ = writeln!(page, "<p class=\"{class}\">{}</p>", escape(cause));
    }
    let _ = writeln!(
        page,
        "<p>Asked for by {} at {}.</p>",
        escape(&release.asked_by),
        time(release.timings.asked_at_ms)
    );
    page += &chart(&report.windows);
    page += &fact_tables(report);
    page += &steps(report);
    page += &windows(&report.windows);
    page + "</body></html>\n"
}

fn fact_tables(report: &Report) -> String {
    let mut text = "<h2>Release</h2>\n<table>\n".to_owned();
    for (name, value) in facts(report) {
        let _ = writeln!(text, "<tr><th>{name}</th><td><code>{}</code></td></tr>", escape(&value));
    }
    for (what, ms) in release::timings(&report.release.timings) {
        let _ = writeln!(text, "<tr><th>{what}</th><td class=\"n\">{}</td></tr>", duration_ms(ms));
    }
    text + "</table>\n"
}

fn steps(report: &Report) -> String {
    let mut text = "<h2>Steps</h2>\n<table>\n".to_owned();
    text += "<tr><th>at</th><th>step</th><th>outcome</th><th>took</th><th>detail</th></tr>\n";
    for step in &report.steps {
        let outcome = step.outcome.as_deref().unwrap_or("not recorded");
        let _ = writeln!(
            text,
            "<tr><td class=\"n\">{}</td><td>{}{}</td><td class=\"{}\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            time(step.started_ms),
            if step.undo { "undo: " } else { "" },
            escape(&step.step),
            word_class(outcome),
            escape(outcome),
            step.took_ms.map_or_else(|| "-".to_owned(), duration_ms),
            escape(step.detail.as_deref().unwrap_or_default()),
        );
    }
    text + "</table>\n"
}

fn windows(windows: &[WindowStatus]) -> String {
    let mut text = "<h2>Windows</h2>\n<table>\n".to_owned();
    text += "<tr><th>ended</th><th>asked</th><th>verdict</th><th>version</th><th>seen</th><th>requests</th><th>errors</th>\
             <th>p50</th><th>p95</th><th>p99</th></tr>\n";
    for window in windows {
        let why = window.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"{}\">{}{}</td><td>new</td>{}</tr>",
            time(window.at_ms),
            window.asked,
            word_class(&window.verdict),
            escape(&window.verdict),
            escape(&why),
            figures(&window.candidate),
        );
        if let Some(stable) = &window.stable {
            let _ = writeln!(text, "<tr><td></td><td></td><td></td><td>before</td>{}</tr>", figures(stable));
        }
    }
    text + "</table>\n"
}

fn figures(seen: &Seen) -> String {
    [
        share(seen.share_thousandths),
        seen.requests.to_string(),
        seen.errors.to_string(),
        latency(seen.p50_us),
        latency(seen.p95_us),
        latency(seen.p99_us),
    ]
    .iter()
    .map(|figure| format!("<td class=\"n\">{figure}</td>"))
    .collect()
}

/// Share asked for as an area, p95 of both versions as lines, against the time of the windows.
fn chart(windows: &[WindowStatus]) -> String {
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return String::new() };
    if windows.len() < 2 {
        return String::new();
    }
    let span = last.at_ms.saturating_sub(first.at_ms).max(1) as f64;
    let x = |at_ms: u64| LEFT + (at_ms.saturating_sub(first.at_ms)) as f64 / span * (WIDTH - 2.0 * LEFT);
    let floor = HEIGHT - TOP;
    let y = |part: f64| floor - part.clamp(0.0, 1.0) * (floor - TOP);
    let p95 = |seen: &Seen| seen.p95_us.unwrap_or_default();
    let slowest = windows
        .iter()
        .map(|w| p95(&w.candidate).max(w.stable.as_ref().map_or(0, p95)))
        .max()
        .unwrap_or(0)
        .max(1);
    let line = |value: &dyn Fn(&WindowStatus) -> Option<u64>| -> String {
        let points = windows.iter().filter_map(|w| Some((x(w.at_ms), y(value(w)? as f64 / slowest as f64))));
        points.map(|(x, y)| format!("{x:.1},{y:.1} ")).collect()
    };
    let mut area = format!("{LEFT:.1},{floor:.1} ");
    for window in windows {
        let _ = write!(
            area,
            "{:.1},{:.1} ",
            x(window.at_ms),
            y(f64::from(window.asked.thousandths()) / 100_000.0)
        );
    }
    let _ = write!(area, "{:.1},{floor:.1}", x(last.at_ms));
    let right = WIDTH - LEFT;
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"share asked for and p95 over the windows\" \
         font-size=\"12\">\n<polygon points=\"{area}\" fill=\"#dbe7f5\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#596067\" stroke-width=\"2\" stroke-dasharray=\"5 4\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#b3261e\" stroke-width=\"2\"/>\n\
         <line x1=\"{LEFT}\" y1=\"{floor}\" x2=\"{right}\" y2=\"{floor}\" stroke=\"#9aa0a6\"/>\n\
         <text x=\"{}\" y=\"{TOP}\" text-anchor=\"end\">{}</text><text x=\"{}\" y=\"{TOP}\">100 %</text>\n\
         <text x=\"{LEFT}\" y=\"14\">p95 of the new version (solid) and of the one before (dashed); share asked for (area)</text>\n\
         <text x=\"{LEFT}\" y=\"{}\">{}</text><text x=\"{right}\" y=\"{}\" text-anchor=\"end\">{}</text>\n</svg>\n",
        line(&|w| w.stable.as_ref().and_then(|stable| stable.p95_us)),
        line(&|w| w.candidate.p95_us),
        LEFT - 6.0,
        latency(Some(slowest)),
        right + 6.0,
        HEIGHT - 6.0,
        time(first.at_ms),
        HEIGHT - 6.0,
        time(last.at_ms),
    )
}

fn state_class(state: ReleaseState) -> &'static str {
    match state {
        ReleaseState::Promoted => "good",
        ReleaseState::RolledBack | ReleaseState::Stuck => "bad",
        _ => "warn",
    }
}

fn word_class(word: &str) -> &'static str {
    match word {
        "done" | "met" => "good",
        "failed" | "missed" => "bad",
        _ => "warn",
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        serde_json::from_str(include_str!("../../protocol/tests/golden/Report.json")).unwrap()
    }

    #[test]
    fn nothing_of_others_becomes_markup_and_nothing_is_fetched() {
        let mut report = sample();
        let hostile = "<script>alert('x')</script>\"&";
        report.release.causes = vec![hostile.into()];
        report.release.asked_by = hostile.into();
        report.signed_by = vec![hostile.into()];
        report.snapshots = vec![hostile.into()];
        report.steps[0].step = hostile.into();
        report.steps[0].detail = Some(hostile.into());
        report.steps[0].outcome = Some(hostile.into());
        report.windows[0].why = Some(hostile.into());
        report.windows[0].verdict = hostile.into();
        let page = page(&report);
        assert!(
            !page.contains("<script")
                && !page.contains("alert('x')")
                && !page.contains("src=")
                && !page.contains("href=")
        );
        assert_eq!(page.matches("&lt;script&gt;").count(), 9);
    }

    #[test]
    fn the_drawing_stays_inside_its_border() {
        let page = page(&sample());
        let points = page.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut count = 0;
        for point in points.flat_map(str::split_whitespace) {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{point}");
            count += 1;
        }
        assert_eq!(count, 3 + 2 + 3 + 3);
    }
}
