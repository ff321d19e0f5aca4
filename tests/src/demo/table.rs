//! The demo's last page: requests, the split of each step, latency from both sides, reaction times, and the verdict.

use super::acts::REACTION_MS;
use super::measure::{self, Latency, Share};
use super::stage::{ModelTally, Stage};
use super::{End, Verdict};
use crate::models::FIRST;
use crate::tally::{NINETY_NINE_PERCENT, wilson};
use std::time::Duration;
use turnout_manifest::Percent;

/// Versions that the demo releases knowing that they are bad.
const BAD: [&str; 2] = ["slow", "errors"];
/// The whole demo must not take longer, once built.
const LONGEST: Duration = Duration::from_secs(120);

/// Prints what was measured; each thing that must hold becomes a line of the verdict.
pub(super) fn print(stage: &mut Stage, tallies: &[ModelTally]) {
    requests(stage, tallies);
    let digits = tallies.iter().find(|seen| seen.model == "digits");
    if let Some(digits) = digits {
        splits(stage, digits);
        latencies(stage, digits);
        reactions(stage, digits);
    }
    println!("\nleft behind");
    for file in &stage.files {
        println!("  report    {}", file.display());
    }
    let end = match stage.settings.end {
        End::Keep => "",
        End::Clear => " (cleared with the demo's daemon; `--keep` leaves it)",
    };
    for snapshot in stage.reports.iter().flat_map(|report| &report.snapshots) {
        println!("  snapshot  {snapshot}{end}");
    }
}

/// Prints the verdict: every line again, then one sentence.
pub(super) fn verdict(stage: &Stage, took: Duration) -> Verdict {
    println!("\nverdict");
    for line in &stage.lines {
        println!("  {}  {}: {}", if line.good { "good" } else { "BAD " }, line.what, line.found);
    }
    let bad = stage.lines.iter().filter(|line| !line.good).count();
    let in_time = took <= LONGEST;
    println!("  {}  time: {:.0} s", if in_time { "good" } else { "BAD " }, took.as_secs_f64());
    if bad == 0 && in_time {
        println!("demo: all {} lines good", stage.lines.len() + 1);
        return Verdict::Good;
    }
    println!("demo: {} of {} lines are BAD", bad + usize::from(!in_time), stage.lines.len() + 1);
    Verdict::Bad
}

fn requests(stage: &mut Stage, tallies: &[ModelTally]) {
    println!("\nrequests            sent   answered   errors   no answer   retried   reconnected");
    for ModelTally { model, tally, .. } in tallies {
        let sum = |pick: fn(&crate::tally::VersionTally) -> u64| tally.versions.iter().map(pick).sum::<u64>();
        println!(
            "  {model:<12} {:>9}  {:>9}  {:>7}  {:>10}  {:>8}  {:>12}",
            tally.sent,
            sum(|v| v.all.answers),
            sum(|v| v.all.errors),
            tally.failed,
            tally.retried,
            tally.reconnected
        );
        for failed in tally.failures.iter().take(5) {
            let version = failed.version.as_deref().unwrap_or("an unknown version");
            println!("    no answer from {version} at {:.3} s: {}", failed.at.as_secs_f64(), failed.detail);
        }
    }
    for ModelTally { model, tally, .. } in tallies {
        let failed = measure::failed_outside(tally, &BAD);
        let found = format!("{failed} of {}", tally.sent);
        stage.line(format!("{model}: requests failed outside the bad versions' share"), found, failed == 0);
    }
}

fn splits(stage: &mut Stage, digits: &ModelTally) {
    println!(
        "\nsplit of new connections   asked   kernel saw (99 % interval)             clients saw (99 % interval)"
    );
    let mut wrong = Vec::new();
    let mut judged = 0;
    for report in &stage.reports {
        for step in measure::splits(report, &digits.tally, digits.began_ms) {
            let label = format!(
                "{} -> {}",
                report.release.from.as_ref().map_or("-", |v| v.as_str()),
                report.release.to
            );
            println!(
                "  {label:<22} {:>8}   {:<38} {}",
                step.asked.to_string(),
                share(step.kernel),
                share(step.clients)
            );
            // At 100 % a connection from before may make its first request: only what is split can be judged.
            if step.asked != Percent::ALL {
                judged += 1;
                if !step.kernel.fits(step.asked) || !step.clients.fits(step.asked) {
                    wrong.push(format!("{label} at {}", step.asked));
                }
            }
        }
    }
    let found = if wrong.is_empty() { format!("{judged} steps within chance") } else { wrong.join(", ") };
    stage.line("the split seen is the split asked for", found, wrong.is_empty() && judged > 0);
}

fn share(share: Share) -> String {
    let Some(value) = share.value() else { return "no connection".into() };
    let (low, high) = wilson(share.new, share.all, NINETY_NINE_PERCENT);
    format!("{:.1} % of {} ({:.1} to {:.1})", value * 100.0, share.all, low * 100.0, high * 100.0)
}

fn latencies(stage: &mut Stage, digits: &ModelTally) {
    println!(
        "\nlatency of digits      requests       p50       p95       p99   (upper bounds, buckets of 12.5 %)"
    );
    for version in [FIRST, "better"].into_iter().chain(BAD) {
        row(version, "kernel", measure::kernel_latency(&stage.reports, version));
        row("", "clients", measure::client_latency(&digits.tally, version));
    }
    println!(
        "  kernel: median of the windows of releases, at the worker's border; clients: the whole demo, queueing included"
    );
}

fn row(version: &str, who: &str, latency: Latency) {
    let Some(percentiles) = latency.percentiles else {
        println!("  {version:<10} {who:<8} {:>9}         -         -         -", latency.requests);
        return;
    };
    let [p50, p95, p99] = percentiles.map(|p| format!("{:.2} ms", p.as_secs_f64() * 1e3));
    println!("  {version:<10} {who:<8} {:>9} {p50:>9} {p95:>9} {p99:>9}", latency.requests);
}

fn reactions(stage: &mut Stage, digits: &ModelTally) {
    let mut found = Vec::new();
    for report in stage.reports.iter().filter(|report| BAD.contains(&report.release.to.as_str())) {
        let clients = measure::clients_last_connection(report, &digits.tally, digits.began_ms);
        found.push((report.release.to.to_string(), clients));
    }
    println!();
    for (version, clients) in found {
        let shown = clients.map_or("no window was missed".to_owned(), |ms| format!("{ms} ms"));
        let quick = clients.is_some_and(|ms| ms <= REACTION_MS);
        stage.line(
            format!("{version}: first violated window to last connection, by the clients"),
            shown,
            quick,
        );
    }
}
