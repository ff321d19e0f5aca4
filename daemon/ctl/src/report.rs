//! `turnoutctl report`: everything about one release as text, JSON or one HTML page, all from the same value.

use crate::args::{Output, ReportArguments, ReportFormat};
use crate::error::{Exit, Failure};
use crate::files;
use crate::html;
use crate::journal;
use crate::release;
use crate::render::{
    BAD, DIM, GOOD, STRONG, Screen, Table, WARN, duration_ms, figure, line, pretty, safe, styled, time, words,
};
use crate::watch;
use turnout_manifest::{AuditContext, Plan};
use turnout_protocol::client::Client;
use turnout_protocol::report::{Report, StepReport};

/// Prints or writes the report.
pub async fn report(
    client: &Client,
    screen: &mut Screen,
    arguments: ReportArguments,
) -> Result<Exit, Failure> {
    let report = client.report(arguments.id).await?;
    let format = arguments.format.unwrap_or(match screen.output {
        Output::Text => ReportFormat::Text,
        Output::Json | Output::Ndjson => ReportFormat::Json,
    });
    let rendered = match format {
        ReportFormat::Text => text(&report),
        ReportFormat::Json if screen.output == Output::Ndjson => line(&report),
        ReportFormat::Json => pretty(&report) + "\n",
        ReportFormat::Html => html::page(&report),
    };
    match arguments.file {
        None => screen.text(&rendered)?,
        Some(file) => {
            let plain = match format {
                ReportFormat::Text => anstream::adapter::strip_str(&rendered).to_string(),
                _ => rendered,
            };
            files::replace(&file, plain.as_bytes(), 0o644)?;
            anstream::eprintln!("wrote `{}`", file.display());
        }
    }
    Ok(Exit::Done)
}

fn text(report: &Report) -> String {
    let mut text = release::text(&without_windows(report));
    text += &format!("\n{STRONG}what{STRONG:#}\n");
    for (name, value) in facts(report) {
        text += &format!("  {name:<14} {}\n", safe(&value));
    }
    text += &format!("\n{STRONG}steps{STRONG:#}\n{}", steps(&report.steps));
    text += &format!("\n{STRONG}windows{STRONG:#}\n");
    let windows = watch::windows(&report.windows);
    text += if windows.is_empty() { "  none was judged\n" } else { &windows };
    text + &format!("\n{DIM}hint:{DIM:#} check the records with `turnoutctl audit verify`\n")
}

/// The release without its last windows: the report shows all of them apart.
fn without_windows(report: &Report) -> turnout_protocol::control::ReleaseStatus {
    turnout_protocol::control::ReleaseStatus { windows: Vec::new(), ..report.release.clone() }
}

/// What was released, by which plan, and where the proof lies: names and values.
pub fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let release = &report.release;
    let mut facts = vec![("new version", format!("{}@{} {}", release.model, release.to, report.to_digest))];
    if let (Some(from), Some(digest)) = (&release.from, &report.from_digest) {
        facts.push(("version before", format!("{}@{from} {digest}", release.model)));
    }
    facts.extend(release.set.as_ref().map(|set| {
        let releases = set.releases.iter().map(|other| format!("{} ({})", other.model, other.release_id));
        ("set", format!("{}: {}", set.set, releases.collect::<Vec<_>>().join(", ")))
    }));
    facts.push(("signed by", report.signed_by.join(", ")));
    facts.extend(contexts(report));
    facts.extend(plan_facts(&report.plan));
    facts.push(("snapshots", report.snapshots.join(", ")));
    facts.push(("journal", format!("records {} to {}", report.journal_range.0, report.journal_range.1)));
    facts.extend(report.pruned.as_ref().map(|pruned| ("pruned", journal::pruning(pruned))));
    facts
}

/// Who asked for the release and who changed its course, each with the audit context that its records carry.
fn contexts(report: &Report) -> impl Iterator<Item = (&'static str, String)> {
    let names = std::iter::once("audit context").chain(std::iter::repeat("changed under"));
    let told = |context: &AuditContext| {
        format!("{} by {} at {}", context.id(), context.operator(), time(context.began_ms()))
    };
    names.zip(report.audit_contexts.iter().map(told))
}

fn plan_facts(plan: &Plan) -> Vec<(&'static str, String)> {
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    let objectives = &plan.objectives;
    let latency = |name: &str, us: Option<u64>| {
        us.map(|us| format!("{name} at most {}", crate::render::duration_us(us)))
    };
    let rate = |name: &str, ppm: Option<u32>| {
        ppm.map(|ppm| format!("{name} at most {} %", f64::from(ppm) / 10_000.0))
    };
    let judged: Vec<String> = [
        latency("p50", objectives.p50_us),
        latency("p95", objectives.p95_us),
        latency("p99", objectives.p99_us),
        rate("errors", objectives.error_rate_ppm),
        rate("assertion failures", objectives.assertion_failures_ppm),
    ]
    .into_iter()
    .flatten()
    .collect();
    let windows = format!(
        "{} each, {} of the last {} decide, {} requests at least",
        duration_ms(plan.window_ms),
        plan.windows.consecutive,
        plan.windows.look_back,
        plan.minimum_requests,
    );
    let objectives = if judged.is_empty() { "none".to_owned() } else { judged.join(", ") };
    vec![
        ("strategy", plan.strategy.to_string()),
        ("steps", steps.join(" -> ")),
        ("windows", windows),
        ("objectives", objectives),
    ]
}

fn steps(steps: &[StepReport]) -> String {
    let mut table = Table::new(&["AT", "STEP", "OUTCOME", "TOOK", "DETAIL"]).indent(2);
    for step in steps {
        let outcome = step.outcome.as_deref().unwrap_or("not recorded");
        let style = match outcome {
            "done" => GOOD,
            "failed" => BAD,
            _ => WARN,
        };
        let name = safe(&step.step);
        table.row(vec![
            words(time(step.started_ms)),
            words(if step.undo { format!("undo: {name}") } else { name }),
            styled(style, safe(outcome)),
            figure(step.took_ms.map_or_else(|| "-".to_owned(), duration_ms)),
            words(safe(step.detail.as_deref().unwrap_or_default())),
        ]);
    }
    table.text()
}
