//! How fast a bad version is thrown out: from the end of the first violated window to the route home, and to the last
//! connection on the bad version, by the daemon's timings and by the clients.

use super::Effort;
use super::figures::Line;
use super::machine::Values;
use super::stage::Stage;
use crate::demo::measure::clients_last_connection;
use crate::load::{Load, Pace};
use crate::models;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::time::Duration;
use turnout_protocol::report::Report;

const PART: &str = "rollback (digits@errors at 50 % of 200 short connections/s, windows of 200 ms)";
/// New connections per second: half of them reach the bad version.
const SHORT_PER_SECOND: u32 = 200;
const PLAN: &str = "\
strategy: {kind: weight}
steps: [{percent: 50}, {percent: 100}]
window: 200ms
windows: {look_back: 3, consecutive: 2}
objectives: {error_rate: 0.01}
minimum_requests: 10
patience: 20s
on_breach: rollback
";
const MOST_MS: f64 = 1000.0;
/// No load lasts longer, should a release hang.
const LONGEST: Duration = Duration::from_secs(60);

/// One release of the bad version.
struct Reaction {
    home_ms: f64,
    daemon_ms: f64,
    clients_ms: f64,
}

/// Releases the bad version several times. The stage's first version is live, and `errors` is imported.
///
/// # Errors
/// When it is not rolled back.
pub fn measure(stage: &Stage, effort: &Effort) -> Result<Vec<Line>> {
    let plan = stage.instance.folder().join("plan-bench.yaml");
    fs::write(&plan, PLAN)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut reactions = Vec::new();
    for _ in 0..effort.rollbacks {
        reactions.push(react(stage, models::text(&plan)?, &runtime)?);
    }
    let line = |what: &str, pick: fn(&Reaction) -> f64| {
        let values: Values = reactions.iter().map(pick).collect();
        let (median, (_, longest)) = (values.median(), values.range());
        let figures = json!({"median_ms": median, "longest_ms": longest, "runs": values.count()});
        let line = Line::judged(PART, what, format!("at most {MOST_MS:.0} ms"));
        line.found(format!("median {median:.0} ms, longest {longest:.0} ms"), figures).met(longest <= MOST_MS)
    };
    Ok(vec![
        line("first violated window to the route home", |reaction| reaction.home_ms),
        line("to the last connection on it, by the daemon", |reaction| reaction.daemon_ms),
        line("to the last new connection on it, by the clients", |reaction| reaction.clients_ms),
    ])
}

fn react(stage: &Stage, plan: &str, runtime: &tokio::runtime::Runtime) -> Result<Reaction> {
    let load = Load {
        address: stage.address,
        path: "/v2/models/digits/infer".into(),
        bodies: models::bodies("digits")?,
        connections: 0,
        pace: Pace::Closed,
        short_per_second: SHORT_PER_SECOND,
        deadline: Duration::from_secs(5),
        most_requests: u64::MAX,
        longest: LONGEST,
    };
    let running = {
        let _inside = runtime.enter();
        load.start()
    };
    let began_ms = running.began_ms();
    let answer = stage.ctl.run(&[
        "release",
        "start",
        "digits@errors",
        "--plan",
        plan,
        "--wait",
        "--timeout",
        "60s",
    ])?;
    let tally = runtime.block_on(running.finish());
    ensure!(
        answer.text("/state").unwrap_or_default() == "rolled_back",
        "the bad version was not rolled back: {} {}\n{}",
        answer.stdout,
        answer.stderr,
        stage.instance.log_end()
    );
    let timing =
        |pointer: &str| answer.number(pointer).with_context(|| format!("no `{pointer}`")).map(|ms| ms as f64);
    let report = stage.ctl.ok(&["report", answer.text("/release_id")?, "--format", "json"])?;
    let report: Report =
        serde_json::from_value(report.value).context("the report is not as the protocol says")?;
    let clients = clients_last_connection(&report, &tally, began_ms).context("no window was missed")?;
    Ok(Reaction {
        home_ms: timing("/timings/breach_to_home_ms")?,
        daemon_ms: timing("/timings/breach_to_last_connection_ms")?,
        clients_ms: clients as f64,
    })
}
