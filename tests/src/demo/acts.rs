//! The acts of the demo, each one a piece of the walk: what is refused, what goes live, what takes over, what is thrown
//! out, and the proof that is left. An act that cannot be played is an error; what it shows is a line of the verdict.

use super::stage::{Stage, say};
use crate::daemon::Answered;
use crate::models::{self, FIRST, MODELS, Source};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use turnout_protocol::report::Report;

/// From the first violated window to the last new connection on the bad version: the floor.
pub(super) const REACTION_MS: u64 = 1000;

/// A good version's plan: long enough at each step that the split can be measured.
const CAREFUL: &str = "\
strategy: {kind: weight}
steps: [{percent: 5}, {percent: 25}, {percent: 50}, {percent: 100}]
window: 500ms
windows: {look_back: 5, consecutive: 4}
objectives: {p95_ms: 10, error_rate: 0.01, assertion_failures: 0.001}
minimum_requests: 10
patience: 20s
on_breach: rollback
";

/// A plan that reacts fast.
const FAST: &str = "\
strategy: {kind: weight}
steps: [{percent: 10}, {percent: 50}, {percent: 100}]
window: 300ms
windows: {look_back: 3, consecutive: 2}
objectives: {p95_ms: 10, error_rate: 0.01, assertion_failures: 0.001}
minimum_requests: 5
patience: 20s
on_breach: rollback
";

/// A tampered file, a missing signature and an unknown key: refused, and nothing changes.
pub(super) fn refusals(stage: &mut Stage) -> Result<()> {
    say("offer three versions that must be refused");
    let before = stage.ctl.ok(&["model", "list"])?.value;
    let stranger = stage.bundles.join("stranger.pem");
    stage.ctl.ok(&["key", "generate", models::text(&stranger)?])?;

    let tampered = relabelled(stage, "tampered")?;
    models::sign(&stage.ctl, &tampered, &stage.key)?;
    File::options().append(true).open(tampered.join("model.onnx"))?.write_all(b"\0")?;
    let unsigned = relabelled(stage, "unsigned")?;
    let unknown = relabelled(stage, "unknown-key")?;
    models::sign(&stage.ctl, &unknown, &stranger)?;
    for (what, bundle) in
        [("a tampered file", tampered), ("a missing signature", unsigned), ("an unknown key", unknown)]
    {
        let answer = models::import(&stage.ctl, &bundle)?;
        stage.line(format!("{what} is refused"), said(&answer), answer.code == Some(3));
    }
    let after = stage.ctl.ok(&["model", "list"])?.value;
    stage.line(
        "the store after that",
        if before == after { "unchanged" } else { "changed" },
        before == after,
    );
    Ok(())
}

/// Both models go live with their first version.
pub(super) fn first_versions(stage: &mut Stage) -> Result<()> {
    for model in MODELS {
        say(&format!("release the first version of {model}: straight to 100 %"));
        let answer = stage.ctl.run(&[
            "release",
            "start",
            &format!("{model}@{FIRST}"),
            "--wait",
            "--timeout",
            "60s",
        ])?;
        judge_end(stage, &format!("{model}@{FIRST}"), &answer, "promoted");
        answer.expect(0)?;
    }
    Ok(())
}

/// A better version takes over step by step.
pub(super) fn take_over(stage: &mut Stage) -> Result<()> {
    say("release digits@better in steps of 5, 25, 50 and 100 %, each judged by windows");
    let answer = release(stage, "better", CAREFUL)?;
    judge_end(stage, "digits@better", &answer, "promoted");
    keep_report(stage, &answer)
}

/// A bad version is thrown out on its own.
pub(super) fn throw_out(stage: &mut Stage, version: &str) -> Result<()> {
    say(&format!("release digits@{version}, which is bad: it must be thrown out on its own"));
    let answer = release(stage, version, FAST)?;
    judge_end(stage, &format!("digits@{version}"), &answer, "rolled_back");
    keep_report(stage, &answer)?;
    // New connections end with the route; the last one closes once its answer is out, which no client may lose.
    let shown =
        |pointer: &str| answer.number(pointer).map_or("not measured".to_owned(), |ms| format!("{ms} ms"));
    let home = shown("/timings/breach_to_home_ms");
    let closed = shown("/timings/breach_to_last_connection_ms");
    let quick = answer.number("/timings/breach_to_home_ms").is_some_and(|ms| ms <= REACTION_MS);
    let found = format!("{home}; the last one, answered, closed after {closed}");
    stage.line(
        format!("{version}: first violated window to last new connection, by the kernel"),
        found,
        quick,
    );
    Ok(())
}

/// The journal is verified, the snapshots are listed.
pub(super) fn proof(stage: &mut Stage) -> Result<()> {
    say("verify the journal and list the snapshots");
    let verified = stage.ctl.run(&["audit", "verify"])?;
    stage.line("the journal verifies", said(&verified), verified.code == Some(0));
    let snapshots = stage.ctl.ok(&["audit", "snapshots"])?;
    let count = snapshots.stdout.matches("\"path\"").count();
    stage.line("audit snapshots", count, count >= 2 * stage.reports.len());
    Ok(())
}

fn release(stage: &Stage, version: &str, plan: &str) -> Result<Answered> {
    let file = stage.instance.folder().join(format!("plan-{version}.yaml"));
    fs::write(&file, plan)?;
    let (reference, plan) = (format!("digits@{version}"), models::text(&file)?);
    stage.ctl.run(&["release", "start", &reference, "--plan", plan, "--wait", "--timeout", "90s"])
}

fn judge_end(stage: &mut Stage, reference: &str, answer: &Answered, wanted: &str) {
    let state = answer.text("/state").unwrap_or("no state");
    let cause = answer.text("/cause").map(|cause| format!(": {cause}")).unwrap_or_default();
    let found = if state == "no state" { said(answer) } else { format!("{state}{cause}") };
    stage.line(format!("{reference} ends {}", wanted.replace('_', " ")), found, state == wanted);
}

/// Leaves the report as a page, and keeps its figures for the table.
fn keep_report(stage: &mut Stage, answer: &Answered) -> Result<()> {
    let no_release = || format!("the release did not begin: {}", said(answer));
    let id = answer.text("/release_id").with_context(no_release)?.to_owned();
    let version = answer.text("/to")?;
    let page = stage.settings.reports.join(format!("digits-{version}.html"));
    stage.ctl.ok(&["report", &id, "--format", "html", "-o", models::text(&page)?])?;
    let report = stage.ctl.ok(&["report", &id, "--format", "json"])?;
    let report: Report =
        serde_json::from_value(report.value).context("the report is not as the protocol says")?;
    stage.reports.push(report);
    stage.files.push(page);
    Ok(())
}

/// A folder with the files of the first version under another label, not signed.
fn relabelled(stage: &Stage, label: &str) -> Result<PathBuf> {
    models::unsigned(&stage.ctl, &stage.bundles, Source { model: "digits", version: FIRST, label })
}

/// What a command said in a line: its complaint, or its answer.
fn said(answer: &Answered) -> String {
    let text = if answer.stderr.trim().is_empty() { &answer.stdout } else { &answer.stderr };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(110).collect()
}
